//! A run's configuration as one typed tree. Every hyper-parameter stands in a preset file, none in code.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::engine::tensor::Precision;
use crate::error::{Error, Result};
use crate::mirrorgan::backbone::{BackboneConfig, SmallConfig};
use crate::mirrorgan::captioner::CaptionerConfig;
use crate::mirrorgan::damsm::Gammas;
use crate::mirrorgan::discriminator::DiscriminatorConfig;
use crate::mirrorgan::generator::GeneratorConfig;
use crate::mirrorgan::stem::TextEncoderConfig;

/// The presets in the binary: complete files, no inheritance.
pub const PRESETS: [(&str, &str); 6] = [
    ("demo", include_str!("../presets/demo.toml")),
    ("cub", include_str!("../presets/cub.toml")),
    ("coco", include_str!("../presets/coco.toml")),
    ("attngan-cub", include_str!("../presets/attngan-cub.toml")),
    ("attngan-coco", include_str!("../presets/attngan-coco.toml")),
    ("attndcgan-cub", include_str!("../presets/attndcgan-cub.toml")),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data: Data,
    pub stem: TextEncoderConfig,
    pub damsm: Damsm,
    pub stream: Stream,
    pub gan: Gan,
    pub train: Train,
    pub eval: Eval,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub words_train: usize,
    pub words_eval: usize,
    pub augment: bool,
    pub workers: usize,
    pub pictures: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damsm {
    pub encoder: DamsmEncoder,
    pub small_widths: Vec<usize>,
    pub small_map_after: usize,
    pub gamma1: f32,
    pub gamma2: f32,
    pub gamma3: f32,
    pub batch: usize,
    pub epochs: u64,
    pub steps: u64,
    pub lr: f64,
    pub lr_decay: f64,
    pub lr_floor: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub clip: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DamsmEncoder {
    Small,
    Inception,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    pub encoder: StreamEncoder,
    pub small_widths: Vec<usize>,
    pub small_map_after: usize,
    pub resize: usize,
    pub embed: usize,
    pub hidden: usize,
    pub imagenet_norm: bool,
    pub learn_end: bool,
    pub batch: usize,
    pub epochs: u64,
    pub steps: u64,
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamEncoder {
    Small,
    Resnet152,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gan {
    pub stages: usize,
    pub first_ups: usize,
    pub gf: usize,
    pub df: usize,
    pub noise: usize,
    pub condition: usize,
    pub residual_blocks: usize,
    pub sentence_attention: bool,
    pub single_head: bool,
    pub lambda_stream: f32,
    pub lambda_damsm: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    pub seed: u64,
    /// Runs from before there was a choice computed in f32.
    #[serde(default)]
    pub precision: Precision,
    pub batch: usize,
    pub epochs: u64,
    pub steps: u64,
    pub lr_g: f64,
    pub lr_d: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub adam_epsilon: f64,
    pub average_decay: f64,
    pub log_every: u64,
    pub checkpoint_every: u64,
    pub sample_every: u64,
    pub sample_rows: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    pub candidates: usize,
    pub pictures: usize,
}

impl Damsm {
    pub fn gammas(&self) -> Gammas {
        Gammas { gamma1: self.gamma1, gamma2: self.gamma2, gamma3: self.gamma3 }
    }

    pub fn backbone(&self) -> Result<BackboneConfig> {
        match self.encoder {
            DamsmEncoder::Small => small("damsm", &self.small_widths, self.small_map_after),
            DamsmEncoder::Inception => Err(not_here_yet("damsm.encoder", "inception")),
        }
    }
}

impl Stream {
    pub fn network(&self) -> Result<CaptionerConfig> {
        let backbone = match self.encoder {
            StreamEncoder::Small => small("stream", &self.small_widths, self.small_map_after)?,
            StreamEncoder::Resnet152 => return Err(not_here_yet("stream.encoder", "resnet152")),
        };
        Ok(CaptionerConfig {
            backbone,
            resize: (self.resize > 0).then_some(self.resize),
            imagenet_normalization: self.imagenet_norm,
            embedding: self.embed,
            hidden: self.hidden,
            learn_end: self.learn_end,
        })
    }
}

fn small(section: &str, widths: &[usize], map_after: usize) -> Result<BackboneConfig> {
    if !(1..=widths.len()).contains(&map_after) {
        let why = format!("{map_after} is not one of the {} layers of {section}.small_widths", widths.len());
        return Err(Error::config(format!("{section}.small_map_after"), why));
    }
    Ok(BackboneConfig::Small(SmallConfig { widths: widths.to_vec(), map_after }))
}

fn not_here_yet(key: &str, encoder: &str) -> Error {
    Error::config(key, format!("the {encoder} encoder is not available yet; take --set {key}=small"))
}

impl Gan {
    pub fn generator(&self) -> GeneratorConfig {
        GeneratorConfig {
            width: self.gf,
            noise: self.noise,
            condition: self.condition,
            stages: self.stages,
            first_ups: self.first_ups,
            residual_blocks: self.residual_blocks,
            sentence_attention: self.sentence_attention,
            single_head: self.single_head,
        }
    }

    pub fn discriminator(&self) -> DiscriminatorConfig {
        DiscriminatorConfig { width: self.df, unconditional: !self.single_head }
    }

    /// The side of each picture, smallest first.
    pub fn sizes(&self) -> Vec<usize> {
        self.generator().image_sides()
    }

    pub fn largest(&self) -> usize {
        self.generator().stage_side(self.stages - 1)
    }
}

impl Config {
    /// A preset by name, or a TOML file, with `a.b=value` settings applied in order.
    pub fn load(preset: &str, settings: &[String]) -> Result<Config> {
        let (label, text) = preset_text(preset)?;
        let mut table: Table = text.parse().map_err(|e| Error::config(&label, plain(&e)))?;
        for setting in settings {
            apply(&mut table, setting)?;
        }
        Config::from_table(&label, table)
    }

    /// A file written by [`Config::to_toml`].
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let label = path.display().to_string();
        let table = text.parse().map_err(|e| Error::config(&label, plain(&e)))?;
        Config::from_table(&label, table)
    }

    fn from_table(label: &str, table: Table) -> Result<Config> {
        let config = Config::deserialize(Value::Table(table)).map_err(|e| Error::config(label, plain(&e)))?;
        config.check()?;
        Ok(config)
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| unreachable!("a configuration is plain TOML: {e}"))
    }

    /// The keys in which two configurations differ, each as `key: ours, not theirs`.
    pub fn differences(&self, other: &Config) -> Vec<(String, String, String)> {
        let (ours, theirs) = (self.flat(), other.flat());
        ours.into_iter()
            .filter(|(key, value)| theirs[key] != *value)
            .map(|(key, value)| (key.clone(), value.to_string(), theirs[&key].to_string()))
            .collect()
    }

    fn flat(&self) -> BTreeMap<String, Value> {
        let table = Table::try_from(self).unwrap_or_else(|e| unreachable!("a configuration is a table: {e}"));
        flatten(&table)
    }

    /// Ranges without which the networks cannot be built or a loss is undefined.
    fn check(&self) -> Result<()> {
        let at_least = |key: &str, value: usize, least: usize, why: &str| {
            if value >= least {
                return Ok(());
            }
            Err(Error::config(key, format!("{value} is too small: {why} (at least {least})")))
        };
        at_least("data.words_train", self.data.words_train, 1, "a caption needs a word")?;
        at_least("data.words_eval", self.data.words_eval, 1, "a caption needs a word")?;
        at_least("gan.stages", self.gan.stages, 1, "there must be a picture")?;
        at_least("gan.first_ups", self.gan.first_ups, 1, "the first picture is 4·2^ups wide")?;
        at_least("train.sample_rows", self.train.sample_rows, 1, "a sample grid needs a row")?;
        at_least("eval.candidates", self.eval.candidates, 2, "R-precision chooses among captions")?;
        for (key, batch) in
            [("train", self.train.batch), ("damsm", self.damsm.batch), ("stream", self.stream.batch)]
        {
            let why = "a batch is normalized over itself, and wrong pairs are made within it";
            at_least(&format!("{key}.batch"), batch, 2, why)?;
        }
        for (key, every) in [
            ("log_every", self.train.log_every),
            ("checkpoint_every", self.train.checkpoint_every),
            ("sample_every", self.train.sample_every),
        ] {
            at_least(&format!("train.{key}"), every as usize, 1, "it counts steps")?;
        }
        for (key, steps, epochs) in [
            ("train", self.train.steps, self.train.epochs),
            ("damsm", self.damsm.steps, self.damsm.epochs),
            ("stream", self.stream.steps, self.stream.epochs),
        ] {
            at_least(&format!("{key}.steps"), (steps + epochs) as usize, 1, "epochs are 0 too")?;
        }
        if !(0.0..1.0).contains(&self.stem.dropout) {
            return Err(Error::config("stem.dropout", format!("{} is not in [0, 1)", self.stem.dropout)));
        }
        if self.gan.stages > 3 || self.gan.first_ups > 4 {
            let why = "at most three stages from 64x64 are known to the discriminators";
            return Err(Error::config("gan.stages", why));
        }
        Ok(())
    }
}

/// A TOML error without its picture of the file, which a one-line message has no room for.
fn plain(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}

fn preset_text(preset: &str) -> Result<(String, String)> {
    if let Some((name, text)) = PRESETS.iter().find(|(name, _)| *name == preset) {
        return Ok((format!("preset {name}"), text.to_string()));
    }
    let path = Path::new(preset);
    if path.extension().is_some() || path.components().count() > 1 || path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        return Ok((preset.to_string(), text));
    }
    let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
    let near = nearest(preset, names.iter().copied());
    let hint = if near.is_empty() { String::new() } else { format!("; did you mean '{}'?", near[0]) };
    Err(Error::config(
        "preset",
        format!("there is no preset '{preset}'{hint} There are {}, or give a TOML file", names.join(", ")),
    ))
}

/// Puts `value` of a `a.b=value` in place of the value that stands there, as the same type.
fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let Some((key, text)) = setting.split_once('=') else {
        return Err(Error::config(setting, "a setting reads key=value, as in train.batch=8"));
    };
    let (key, text) = (key.trim(), text.trim());
    let unknown = unknown_key(table, key);
    let slot = key
        .split_once('.')
        .and_then(|(section, name)| table.get_mut(section)?.as_table_mut()?.get_mut(name))
        .ok_or(unknown)?;
    *slot = typed(slot, text).ok_or_else(|| {
        Error::config(key, format!("'{text}' is not {}; it is {slot} now", kind_name(slot)))
    })?;
    Ok(())
}

fn unknown_key(table: &Table, key: &str) -> Error {
    let keys = flatten(table);
    let near = nearest(key, keys.keys().map(String::as_str));
    let why = match near.is_empty() {
        true => format!(
            "there is no such key; the sections are {}",
            table.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
        false => format!("there is no such key; near ones are {}", near.join(", ")),
    };
    Error::config(key, why)
}

fn typed(like: &Value, text: &str) -> Option<Value> {
    Some(match like {
        Value::Integer(_) => Value::Integer(text.replace('_', "").parse().ok().filter(|n: &i64| *n >= 0)?),
        Value::Float(_) => Value::Float(text.parse().ok().filter(|x: &f64| x.is_finite())?),
        Value::Boolean(_) => Value::Boolean(text.parse().ok()?),
        Value::String(_) => Value::String(text.trim_matches('"').to_string()),
        Value::Array(_) => {
            format!("x = {text}").parse::<Table>().ok()?.remove("x").filter(Value::is_array)?
        }
        _ => return None,
    })
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number, 0 or more",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list such as [16, 32]",
        _ => "a value of its kind",
    }
}

/// `section.key` of each value.
fn flatten(table: &Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (section, values) in table {
        for (key, value) in values.as_table().into_iter().flatten() {
            flat.insert(format!("{section}.{key}"), value.clone());
        }
    }
    flat
}

/// Up to three of `known` spelt like `word`, or with the same last part, the nearest first.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const ALIKE: f64 = 0.75;
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let score = |key: &str| {
        let whole = strsim::normalized_damerau_levenshtein(word, key);
        let parts = strsim::jaro_winkler(&last(word), &last(key));
        whole.max(parts * 0.95)
    };
    let mut scored: Vec<_> = known.map(|key| (score(key), key)).filter(|(s, _)| *s >= ALIKE).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, key)| key).collect()
}
