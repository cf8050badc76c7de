//! What may change when a run is resumed.

/// Whether a resumed run may have another value: rates, batches, schedules, weights of losses, logging, augmentation,
/// precision, metrics. What shapes the networks or the data, and the seed, stay.
pub fn may_change(key: &str) -> bool {
    let Some((section, last)) = key.rsplit_once('.') else { return false };
    match section {
        "loss" | "eval" => true,
        "run" => !["seed", "sample_rows"].contains(&last),
        "data" => ["augment", "workers", "max_pixels", "max_side"].contains(&last),
        "text_encoder" => last == "dropout",
        "damsm" => ["lr_decay", "lr_floor", "clip"].contains(&last),
        "gan" => ["average_decay", "lr_tail"].contains(&last),
        section => section.ends_with(".schedule") || section.ends_with("adam"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A new key must be decided: it belongs into one of both lists.
    #[test]
    fn every_key_is_decided() {
        let fixed = [
            "run.seed",
            "run.sample_rows",
            "data.words_train",
            "data.words_eval",
            "data.images",
            "data.exif_orientation",
            "data.tokenizer",
            "data.min_count",
            "data.test_ratio",
            "data.split_seed",
            "data.classes",
            "text_encoder.cell",
            "text_encoder.embedding",
            "text_encoder.features",
            "damsm.gamma1",
            "damsm.gamma2",
            "damsm.gamma3",
            "damsm.backbone.kind",
            "damsm.backbone.weights",
            "damsm.backbone.widths",
            "damsm.backbone.map_after",
            "captioner.resize",
            "captioner.imagenet_normalization",
            "captioner.embedding",
            "captioner.hidden",
            "captioner.learn_end",
            "captioner.backbone.kind",
            "captioner.backbone.weights",
            "captioner.backbone.widths",
            "captioner.backbone.map_after",
            "generator.width",
            "generator.noise",
            "generator.condition",
            "generator.stages",
            "generator.first_ups",
            "generator.residual_blocks",
            "generator.sentence_attention",
            "generator.single_head",
            "discriminator.width",
            "discriminator.unconditional",
            "discriminator.norm",
        ];
        let keys = Config::load("demo", &[]).unwrap().keys();
        let found: Vec<&str> = keys.iter().map(|k| k.key.as_str()).filter(|key| !may_change(key)).collect();
        assert_eq!(found, fixed.to_vec());
        let changing = keys.len() - fixed.len();
        assert_eq!(changing, 48, "a new key: decide whether it may change, and count it");
    }
}
