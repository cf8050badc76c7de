//! The papers' analyses of their components.

use super::plan::{Variant, folder};

/// A table of a paper: variants of a preset.
pub struct Analysis {
    pub name: &'static str,
    pub about: &'static str,
    /// The preset that the paper varied.
    pub preset: &'static str,
    variants: &'static [(&'static str, &'static [&'static str])],
}

/// AttnGAN (Xu et al., CVPR 2018), table 2: λ of the DAMSM loss with one attention stage, then both stages. MirrorGAN (Qiao et
/// al., CVPR 2019), table 3: without and with attention to the sentence, and λ of the caption loss.
pub const ANALYSES: [Analysis; 2] = [
    Analysis {
        name: "attngan-components",
        about: "AttnGAN's component analysis: the weight of the DAMSM loss, and one attention stage or two",
        preset: "attngan-cub",
        variants: &[
            ("AttnGAN1, no DAMSM", &[ONE_STAGE, "loss.lambda_damsm=0"]),
            ("AttnGAN1, λ = 0.1", &[ONE_STAGE, "loss.lambda_damsm=0.1"]),
            ("AttnGAN1, λ = 1", &[ONE_STAGE, "loss.lambda_damsm=1"]),
            ("AttnGAN1, λ = 5", &[ONE_STAGE, "loss.lambda_damsm=5"]),
            ("AttnGAN1, λ = 10", &[ONE_STAGE, "loss.lambda_damsm=10"]),
            ("AttnGAN2, λ = 5", &["loss.lambda_damsm=5"]),
        ],
    },
    Analysis {
        name: "mirrorgan-ablation",
        about: "MirrorGAN's ablation: attention to the sentence, and the weight of the caption loss",
        preset: "cub",
        variants: &[
            ("words alone, λ = 0", &[WORDS_ALONE, "loss.lambda_captioner=0"]),
            ("words alone, λ = 20", &[WORDS_ALONE, "loss.lambda_captioner=20"]),
            ("words and sentence, λ = 0", &["loss.lambda_captioner=0"]),
            ("words and sentence, λ = 5", &["loss.lambda_captioner=5"]),
            ("words and sentence, λ = 10", &["loss.lambda_captioner=10"]),
            ("words and sentence, λ = 20", &["loss.lambda_captioner=20"]),
        ],
    },
];

const ONE_STAGE: &str = "generator.stages=2";
const WORDS_ALONE: &str = "generator.sentence_attention=false";

impl Analysis {
    pub fn variants(&self) -> Vec<Variant> {
        let variant = |(title, settings): &(&str, &[&str])| Variant {
            folder: folder(&title.replace("λ = ", "lambda=").replace(", ", "-").replace(' ', "-")),
            cells: vec![title.to_string()],
            settings: settings.iter().map(ToString::to_string).collect(),
        };
        self.variants.iter().map(variant).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_variant_is_a_configuration_of_its_own() {
        for analysis in &ANALYSES {
            let variants = analysis.variants();
            for preset in [analysis.preset, "demo"] {
                let configs: Vec<Config> =
                    variants.iter().map(|variant| Config::load(preset, &variant.settings).unwrap()).collect();
                for (i, config) in configs.iter().enumerate() {
                    assert!(!configs[..i].contains(config), "{preset}: {:?}", variants[i]);
                }
            }
            let mut folders: Vec<&str> = variants.iter().map(|variant| variant.folder.as_str()).collect();
            folders.sort();
            folders.dedup();
            assert_eq!(folders.len(), variants.len());
        }
    }
}
