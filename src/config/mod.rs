//! A run's configuration as one typed tree. Every hyper-parameter is in a preset file, none in code; a section is the
//! structure of the module that reads it.

mod encoders;
mod keys;
mod migrate;
mod near;
mod presets;
mod ranges;
mod resume;
mod tree;

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use self::encoders::{choose_encoders, find_weights, require_weights, weight_folders};
pub use self::keys::{KeyHelp, help};
pub use self::presets::{PRESETS, Preset};
pub use self::resume::may_change;

use crate::data::{DecodeConfig, OpenConfig};
use crate::engine::nn::AdamConfig;
use crate::engine::tensor::Precision;
use crate::error::{Error, Result};
use crate::mirrorgan::backbone::BackboneConfig;
use crate::mirrorgan::captioner::CaptionerConfig;
use crate::mirrorgan::damsm::Gammas;
use crate::mirrorgan::discriminator::DiscriminatorConfig;
use crate::mirrorgan::generator::GeneratorConfig;
use crate::mirrorgan::losses::Objective;
use crate::mirrorgan::stem::TextEncoderConfig;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub run: RunConfig,
    pub data: DataConfig,
    pub text_encoder: TextEncoderConfig,
    pub damsm: DamsmConfig,
    pub captioner: CaptionerSection,
    pub generator: GeneratorConfig,
    pub discriminator: DiscriminatorConfig,
    pub loss: LossConfig,
    pub gan: GanConfig,
    pub eval: EvalConfig,
}

/// The run as a whole, in every phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    pub seed: u64,
    pub precision: Precision,
    pub log_every: u64,
    pub checkpoint_every: u64,
    pub sample_every: u64,
    pub eval_every: u64,
    pub sample_rows: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    pub words_train: usize,
    pub words_eval: usize,
    pub augment: bool,
    pub workers: usize,
    pub images: usize,
    #[serde(flatten)]
    pub decode: DecodeConfig,
    #[serde(flatten)]
    pub open: OpenConfig,
}

/// How long a phase of training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Images in a batch.
    pub batch: usize,
    /// The phase ends at the first of both limits; one of them is given.
    #[serde(with = "crate::mirrorgan::optional")]
    pub epochs: Option<u64>,
    #[serde(with = "crate::mirrorgan::optional")]
    pub steps: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DamsmConfig {
    pub backbone: BackboneConfig,
    #[serde(flatten)]
    pub gammas: Gammas,
    pub lr_decay: f64,
    pub lr_floor: f64,
    pub clip: f32,
    pub schedule: Schedule,
    pub adam: AdamConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionerSection {
    #[serde(flatten)]
    pub network: CaptionerConfig,
    pub schedule: Schedule,
    pub adam: AdamConfig,
}

/// Weights in the generator's loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    #[serde(flatten)]
    pub objective: Objective,
    pub lambda_captioner: f32,
    pub lambda_damsm: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GanConfig {
    pub average_decay: f64,
    pub lr_tail: f64,
    pub schedule: Schedule,
    pub generator_adam: AdamConfig,
    pub discriminator_adam: AdamConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalConfig {
    pub candidates: usize,
    pub images: usize,
    pub follow_images: usize,
}

impl Schedule {
    /// The last step of a phase that trains on `items` captioned images, a batch of them at least.
    pub fn last_step(&self, items: usize) -> u64 {
        let each = (items / self.batch.max(1)) as u64;
        let of_epochs = self.epochs.map(|epochs| epochs.saturating_mul(each));
        [of_epochs, self.steps].into_iter().flatten().min().unwrap_or(0)
    }
}

/// The text of a preset, by its name, or of a TOML file.
pub fn preset_text(preset: &str) -> Result<String> {
    presets::text(preset).map(|(_, text)| text)
}

impl Config {
    /// A preset by name, or a TOML file, with `section.key=value` settings applied in order.
    pub fn load(preset: &str, settings: &[String]) -> Result<Config> {
        let (label, text) = presets::text(preset)?;
        Config::from_table(&label, parse(&label, &text)?, settings)
    }

    /// A file written by [`Config::to_toml`], of this version or an earlier one.
    pub fn read(path: &Path) -> Result<Config> {
        Config::read_with(path, &[])
    }

    /// As [`Config::read`], with settings applied in order.
    pub fn read_with(path: &Path, settings: &[String]) -> Result<Config> {
        let label = path.display().to_string();
        let mut table = parse(&label, &presets::file(path)?)?;
        migrate::add_missing(&mut table);
        Config::from_table(&label, table, settings)
    }

    fn from_table(label: &str, mut table: Table, settings: &[String]) -> Result<Config> {
        keys::require_sections(label, &table)?;
        for setting in settings {
            keys::apply(&mut table, setting)?;
        }
        keys::require_complete(label, &table)?;
        // Of all settings that are wrong, the first is named with its range.
        ranges::check(&tree::flatten(&table))?;
        let key = |table: &Table| keys::wrong_type(table).map_or(String::new(), |key| format!("{key}: "));
        let wrong = |why| Error::config(label, format!("{}{why}", key(&table)));
        let config = deserialize(table.clone()).map_err(wrong)?;
        ranges::check_networks(&config)?;
        Ok(config)
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| unreachable!("a configuration is plain TOML: {e}"))
    }

    /// Every key in the order of the presets, with its value here.
    pub fn keys(&self) -> Vec<KeyHelp> {
        keys::table_of_help(&self.flat())
    }

    /// The keys in which two configurations differ, each as `(key, ours, theirs)`.
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let (ours, theirs) = (self.flat(), other.flat());
        let mut all: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
        all.sort();
        all.dedup();
        let spelled = |value: Option<&Value>| value.map_or("not set".to_string(), Value::to_string);
        all.into_iter()
            .filter(|&key| ours.get(key) != theirs.get(key))
            .map(|key| (key.clone(), spelled(ours.get(key)), spelled(theirs.get(key))))
            .collect()
    }

    /// `section.key` of each value, as the written file spells it.
    fn flat(&self) -> tree::Flat {
        let table = self.to_toml().parse().unwrap_or_else(|e| unreachable!("it was just written: {e}"));
        tree::flatten(&table)
    }

    /// The side of the largest image of a caption.
    pub fn largest_side(&self) -> usize {
        self.generator.stage_side(self.generator.stages - 1)
    }

    /// Refuses a captioner that cannot be built.
    pub fn check_captioner(&self) -> Result<()> {
        let network = &self.captioner.network;
        let side = network.resize.unwrap_or_else(|| self.largest_side());
        ranges::check_backbone("captioner", &network.backbone, side)
    }
}

/// TOML in the present vocabulary.
fn parse(label: &str, text: &str) -> Result<Table> {
    let wrong = |e: toml::de::Error| {
        let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        Error::config(format!("{label}:{line}"), plain(&e))
    };
    Ok(migrate::to_present(text.parse().map_err(wrong)?))
}

/// The error is one line about the value.
fn deserialize(table: Table) -> std::result::Result<Config, String> {
    Config::deserialize(Value::Table(table)).map_err(|e| plain(&e))
}

/// A TOML error without its excerpt of the file, which has no room in a one-line message.
fn plain(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}
