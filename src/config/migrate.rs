//! Configurations of version 0.1.0, whose sections had names of their own, in the present vocabulary.

use toml::{Table, Value};

use super::tree::{flatten, insert};
use crate::mirrorgan::optional::NONE;

/// Sections that only the old vocabulary has.
const OLD_SECTIONS: [&str; 3] = ["stem", "stream", "train"];

/// Old keys and what they are now.
const RENAMED: &[(&str, &[&str])] = &[
    ("train.seed", &["run.seed"]),
    ("train.precision", &["run.precision"]),
    ("train.log_every", &["run.log_every"]),
    ("train.checkpoint_every", &["run.checkpoint_every"]),
    ("train.sample_every", &["run.sample_every"]),
    ("train.eval_every", &["run.eval_every"]),
    ("train.sample_rows", &["run.sample_rows"]),
    ("data.pictures", &["data.images"]),
    ("stem.cell", &["text_encoder.cell"]),
    ("stem.embedding", &["text_encoder.embedding"]),
    ("stem.features", &["text_encoder.features"]),
    ("stem.dropout", &["text_encoder.dropout"]),
    ("damsm.encoder", &["damsm.backbone.kind"]),
    ("damsm.small_widths", &["damsm.backbone.widths"]),
    ("damsm.small_map_after", &["damsm.backbone.map_after"]),
    ("damsm.batch", &["damsm.schedule.batch"]),
    ("damsm.epochs", &["damsm.schedule.epochs"]),
    ("damsm.steps", &["damsm.schedule.steps"]),
    ("damsm.lr", &["damsm.adam.lr"]),
    ("damsm.beta1", &["damsm.adam.beta1"]),
    ("damsm.beta2", &["damsm.adam.beta2"]),
    ("stream.encoder", &["captioner.backbone.kind"]),
    ("stream.small_widths", &["captioner.backbone.widths"]),
    ("stream.small_map_after", &["captioner.backbone.map_after"]),
    ("stream.resize", &["captioner.resize"]),
    ("stream.embed", &["captioner.embedding"]),
    ("stream.hidden", &["captioner.hidden"]),
    ("stream.imagenet_norm", &["captioner.imagenet_normalization"]),
    ("stream.learn_end", &["captioner.learn_end"]),
    ("stream.batch", &["captioner.schedule.batch"]),
    ("stream.epochs", &["captioner.schedule.epochs"]),
    ("stream.steps", &["captioner.schedule.steps"]),
    ("stream.lr", &["captioner.adam.lr"]),
    ("stream.beta1", &["captioner.adam.beta1"]),
    ("stream.beta2", &["captioner.adam.beta2"]),
    ("gan.stages", &["generator.stages"]),
    ("gan.first_ups", &["generator.first_ups"]),
    ("gan.gf", &["generator.width"]),
    ("gan.df", &["discriminator.width"]),
    ("gan.noise", &["generator.noise"]),
    ("gan.condition", &["generator.condition"]),
    ("gan.residual_blocks", &["generator.residual_blocks"]),
    ("gan.sentence_attention", &["generator.sentence_attention"]),
    ("gan.single_head", &["generator.single_head", "discriminator.unconditional"]),
    ("gan.lambda_stream", &["loss.lambda_captioner"]),
    ("gan.lambda_damsm", &["loss.lambda_damsm"]),
    ("train.batch", &["gan.schedule.batch"]),
    ("train.epochs", &["gan.schedule.epochs"]),
    ("train.steps", &["gan.schedule.steps"]),
    ("train.lr_g", &["gan.generator_adam.lr"]),
    ("train.lr_d", &["gan.discriminator_adam.lr"]),
    ("train.beta1", &["gan.generator_adam.beta1", "gan.discriminator_adam.beta1"]),
    ("train.beta2", &["gan.generator_adam.beta2", "gan.discriminator_adam.beta2"]),
    (
        "train.adam_epsilon",
        &[
            "damsm.adam.epsilon",
            "captioner.adam.epsilon",
            "gan.generator_adam.epsilon",
            "gan.discriminator_adam.epsilon",
        ],
    ),
    ("train.average_decay", &["gan.average_decay"]),
    ("eval.pictures", &["eval.images"]),
];

/// Keys added since 0.1.0, and the values, in TOML, that runs without them were trained with. What the small backbone
/// needs was left out where there was none.
const ADDED: &str = r#"
eval.follow_images = 200
discriminator.norm = "batch"
loss.adversarial = "bce"
loss.lambda_kl = 1.0
loss.lambda_consistency = 0.0
gan.lr_tail = 0.0
data.max_pixels = 100_000_000
data.max_side = 65_535
data.exif_orientation = false
data.tokenizer = "attngan"
data.min_count = 1
data.test_ratio = 0.1
data.split_seed = 0
data.classes = "auto"
damsm.backbone = { weights = "none", widths = [32, 64, 128, 256, 256, 256], map_after = 4 }
captioner.backbone = { weights = "none", widths = [32, 64, 128, 256, 256, 256], map_after = 4 }
"#;

/// Adds the keys that a run of an earlier version lacks.
pub fn add_missing(table: &mut Table) {
    let present = flatten(table);
    let added: Table = ADDED.parse().unwrap_or_else(|e| unreachable!("a table of our own: {e}"));
    for (key, value) in flatten(&added).into_iter().filter(|(key, _)| !present.contains_key(key)) {
        insert(table, &key, value);
    }
    // Versions before 0.4.0 measured with each sample grid.
    if let (None, Some(every)) = (present.get("run.eval_every"), present.get("run.sample_every")) {
        insert(table, "run.eval_every", every.clone());
    }
}

/// Keys whose 0 meant none before 0.3.0.
pub fn is_optional(key: &str) -> bool {
    key.ends_with(".schedule.steps") || key.ends_with(".schedule.epochs") || key == "captioner.resize"
}

fn zero_is_none(mut table: Table) -> Table {
    for (key, value) in flatten(&table) {
        if is_optional(&key) && value.as_integer() == Some(0) {
            insert(&mut table, &key, NONE.into());
        }
    }
    table
}

/// What a key of the old vocabulary is now.
pub fn present_keys(old: &str) -> Option<&'static [&'static str]> {
    RENAMED.iter().find(|(key, _)| *key == old).map(|(_, now)| *now)
}

/// A configuration in the present vocabulary, from either. Keys that neither knows stay, to be refused by name.
pub fn to_present(table: Table) -> Table {
    if !OLD_SECTIONS.iter().any(|section| table.contains_key(*section)) {
        return zero_is_none(table);
    }
    let mut present = Table::new();
    // Runs from before there was a choice computed in f32.
    insert(&mut present, "run.precision", "f32".into());
    for (old, value) in flatten(&table) {
        for key in present_keys(&old).unwrap_or(&[&old]) {
            insert(&mut present, key, converted(key, &value));
        }
    }
    zero_is_none(present)
}

fn converted(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("damsm.backbone.kind", Value::String(name)) if name == "inception" => "inception_v3".into(),
        // One head meant one discriminator output.
        ("discriminator.unconditional", Value::Boolean(single_head)) => (!single_head).into(),
        _ => value.clone(),
    }
}
