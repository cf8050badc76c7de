//! A run's configuration as one typed tree. Every hyper-parameter is in a preset file, none in code; a section is the
//! structure of the module that reads it.

mod keys;
mod migrate;
mod near;
mod presets;
mod tree;

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use self::keys::{KeyHelp, help};
pub use self::presets::PRESETS;

use crate::data::DecodeConfig;
use crate::engine::nn::AdamConfig;
use crate::engine::tensor::Precision;
use crate::error::{Error, Result};
use crate::mirrorgan::backbone::BackboneConfig;
use crate::mirrorgan::captioner::CaptionerConfig;
use crate::mirrorgan::damsm::Gammas;
use crate::mirrorgan::discriminator::DiscriminatorConfig;
use crate::mirrorgan::generator::GeneratorConfig;
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
}

/// How long a phase of training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Images in a batch.
    pub batch: usize,
    pub epochs: u64,
    /// When not 0, this counts and `epochs` does not.
    pub steps: u64,
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
    pub lambda_captioner: f32,
    pub lambda_damsm: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GanConfig {
    pub average_decay: f64,
    pub schedule: Schedule,
    pub generator_adam: AdamConfig,
    pub discriminator_adam: AdamConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalConfig {
    pub candidates: usize,
    pub images: usize,
}

impl Schedule {
    /// The last step of a phase that trains on `items` captioned images.
    pub fn last_step(&self, items: usize) -> u64 {
        if self.steps > 0 { self.steps } else { self.epochs * (items / self.batch) as u64 }
    }
}

impl Config {
    /// A preset by name, or a TOML file, with `section.key=value` settings applied in order.
    pub fn load(preset: &str, settings: &[String]) -> Result<Config> {
        let (label, text) = presets::text(preset)?;
        let mut table = parse(&label, &text)?;
        for setting in settings {
            keys::apply(&mut table, setting)?;
        }
        Config::from_table(&label, table)
    }

    /// stub
    pub fn read_with(path: &Path, settings: &[String]) -> Result<Config> {
        Config::load(&path.display().to_string(), settings)
    }

    /// A file written by [`Config::to_toml`], of this version or an earlier one.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let label = path.display().to_string();
        Config::from_table(&label, parse(&label, &text)?)
    }

    fn from_table(label: &str, table: Table) -> Result<Config> {
        keys::require_complete(label, &table)?;
        let config = deserialize(table).map_err(|why| Error::config(label, why))?;
        config.check()?;
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

    /// Ranges without which the networks cannot be built or a loss is undefined.
    fn check(&self) -> Result<()> {
        at_least("data.words_train", self.data.words_train, 1, "a caption needs a word")?;
        at_least("data.words_eval", self.data.words_eval, 1, "a caption needs a word")?;
        at_least("generator.stages", self.generator.stages, 1, "there must be an image")?;
        at_least("generator.first_ups", self.generator.first_ups, 1, "the first image is 4·2^ups wide")?;
        at_least("run.sample_rows", self.run.sample_rows, 1, "a sample grid needs a row")?;
        at_least("eval.candidates", self.eval.candidates, 2, "R-precision chooses among captions")?;
        check_schedule("damsm", &self.damsm.schedule)?;
        check_schedule("captioner", &self.captioner.schedule)?;
        check_schedule("gan", &self.gan.schedule)?;
        for (key, every) in [
            ("log_every", self.run.log_every),
            ("checkpoint_every", self.run.checkpoint_every),
            ("sample_every", self.run.sample_every),
        ] {
            at_least(&format!("run.{key}"), every as usize, 1, "it counts steps")?;
        }
        check_backbone("damsm", &self.damsm.backbone)?;
        check_backbone("captioner", &self.captioner.network.backbone)?;
        if !(0.0..1.0).contains(&self.text_encoder.dropout) {
            let why = format!("{} is not in [0, 1)", self.text_encoder.dropout);
            return Err(Error::config("text_encoder.dropout", why));
        }
        if self.generator.stages > 3 || self.generator.first_ups > 4 {
            let why = "at most three stages from 64x64 are known to the discriminators";
            return Err(Error::config("generator.stages", why));
        }
        Ok(())
    }
}

fn at_least(key: &str, value: usize, least: usize, why: &str) -> Result<()> {
    if value >= least {
        return Ok(());
    }
    Err(Error::config(key, format!("{value} is too small: {why} (at least {least})")))
}

fn check_schedule(phase: &str, schedule: &Schedule) -> Result<()> {
    let why = "a batch is normalized over itself, and mismatched pairs are taken from within it";
    at_least(&format!("{phase}.schedule.batch"), schedule.batch, 2, why)?;
    let steps = (schedule.steps + schedule.epochs) as usize;
    at_least(&format!("{phase}.schedule.steps"), steps, 1, "epochs are 0 too")
}

fn check_backbone(section: &str, backbone: &BackboneConfig) -> Result<()> {
    let BackboneConfig::Small(small) = backbone else { return Ok(()) };
    if (1..=small.widths.len()).contains(&small.map_after) {
        return Ok(());
    }
    let (after, layers) = (small.map_after, small.widths.len());
    let why = format!("{after} is not one of the {layers} layers of {section}.backbone.widths");
    Err(Error::config(format!("{section}.backbone.map_after"), why))
}

/// Refuses a published backbone that is not implemented; `section` is the one that chose it.
pub fn require_available(section: &str, backbone: &BackboneConfig) -> Result<()> {
    let name = match backbone {
        BackboneConfig::Small(_) => return Ok(()),
        BackboneConfig::InceptionV3 => "inception_v3",
        BackboneConfig::Resnet152 => "resnet152",
    };
    let key = format!("{section}.backbone.kind");
    let why = format!("the {name} encoder is not available yet; take --set {key}=small");
    Err(Error::config(key, why))
}

/// TOML in the present vocabulary.
fn parse(label: &str, text: &str) -> Result<Table> {
    let table = text.parse().map_err(|e| Error::config(label, plain(&e)))?;
    Ok(migrate::to_present(table))
}

/// The error is one line about the value.
fn deserialize(table: Table) -> std::result::Result<Config, String> {
    Config::deserialize(Value::Table(table)).map_err(|e| plain(&e))
}

/// A TOML error without its excerpt of the file, which has no room in a one-line message.
fn plain(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}

/// stub
pub fn may_change(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    ["steps", "epochs", "workers", "lr", "batch"].contains(&last)
        || last.ends_with("_every")
        || key.starts_with("eval.")
        || key.starts_with("loss.")
}
