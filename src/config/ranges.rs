//! The range of every number of a configuration, checked in one place, and what the networks need beyond it.

use toml::Value;

use super::tree::Flat;
use super::{Config, keys};
use crate::error::{Error, Result};
use crate::mirrorgan::backbone::{BackboneConfig, BackboneKind};

/// A bound, with or without its own value.
#[derive(Clone, Copy, Debug)]
enum Bound {
    To(f64),
    /// The bound itself is outside.
    Short(f64),
}

use Bound::{Short, To};

/// The least and the greatest value. Upper bounds of sizes keep their products within an index.
fn range(key: &str) -> Option<(Bound, Bound)> {
    let size = |most: u32| (To(1.0), To(f64::from(most)));
    let (section, last) = key.rsplit_once('.')?;
    Some(match (section, last) {
        ("run", "seed") => (To(0.0), To(i64::MAX as f64)),
        ("run", "sample_rows") => size(64),
        ("run", "log_every" | "checkpoint_every" | "sample_every" | "eval_every") => size(u32::MAX),
        ("data", "words_train" | "words_eval") => size(1000),
        ("data", "workers") => (To(0.0), To(256.0)),
        ("data", "images") => (To(0.0), To(1e6)),
        ("data", "max_pixels") => size(u32::MAX),
        ("data", "max_side") => size(1 << 20),
        ("data", "min_count") => size(u32::MAX),
        ("data", "test_ratio") => (To(0.0), Short(1.0)),
        ("data", "split_seed") => (To(0.0), To(i64::MAX as f64)),
        ("text_encoder", "features") => (To(2.0), To(8192.0)),
        ("text_encoder", "dropout") => (To(0.0), Short(1.0)),
        ("damsm", "gamma1" | "gamma2" | "gamma3") => (Short(0.0), To(1e4)),
        ("damsm", "lr_decay" | "lr_floor") | ("gan", "average_decay" | "lr_tail") => (To(0.0), To(1.0)),
        ("damsm", "clip") => (Short(0.0), To(1e9)),
        ("captioner", "resize") => size(2048),
        ("generator", "stages") => size(3),
        ("generator", "first_ups") => size(4),
        ("generator", "residual_blocks") => (To(0.0), To(64.0)),
        ("generator" | "discriminator", "width") => size(1024),
        ("loss", _) => (To(0.0), To(1e6)),
        ("eval", "candidates") => (To(2.0), To(1e6)),
        ("eval", "images" | "follow_images") => size(u32::MAX),
        (_, "widths" | "noise" | "condition" | "embedding" | "hidden") => size(8192),
        (_, "map_after") => size(32),
        // A batch is normalized over itself, and mismatched pairs are taken from within it.
        (_, "batch") => (To(2.0), To(65536.0)),
        (_, "epochs" | "steps") => (To(1.0), To(1e12)),
        (_, "lr") => (To(0.0), To(f64::MAX)),
        (_, "beta1" | "beta2") => (To(0.0), Short(1.0)),
        (_, "epsilon") => (Short(0.0), To(1.0)),
        _ => return None,
    })
}

/// Refuses a number that is out of its range, with its key.
pub(super) fn check(flat: &Flat) -> Result<()> {
    for (key, value) in flat {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        values.iter().try_for_each(|value| check_one(key, value))?;
    }
    Ok(())
}

fn check_one(key: &str, value: &Value) -> Result<()> {
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Ok(()),
    };
    let Some((least, most)) = range(key) else { return Ok(()) };
    let problem = match (least, most) {
        (To(least), _) if number < least => format!("too small: {least} is the least"),
        (Short(least), _) if number <= least => format!("too small: it must be more than {least}"),
        (_, To(most)) if number > most => format!("too large: {most} is the most"),
        (_, Short(most)) if number >= most => format!("too large: it must be less than {most}"),
        _ if number.is_nan() => "no number".to_string(),
        _ => return Ok(()),
    };
    let help = keys::help(key).map_or(String::new(), |help| format!(" ({help})"));
    Err(Error::config(key, format!("{value} is {problem}{help}")))
}

/// What cannot be said of one number alone: whether the networks can be built.
pub(super) fn check_networks(config: &Config) -> Result<()> {
    let features = config.text_encoder.features;
    if !features.is_multiple_of(2) {
        let why = format!("{features} is odd: half of the features are for each direction");
        return Err(Error::config("text_encoder.features", why));
    }
    for (section, schedule) in [
        ("damsm", config.damsm.schedule),
        ("captioner", config.captioner.schedule),
        ("gan", config.gan.schedule),
    ] {
        if schedule.steps.is_none() && schedule.epochs.is_none() {
            let why = "steps and epochs are both \"none\": give one of them, for the phase to end";
            return Err(Error::config(format!("{section}.schedule.steps"), why));
        }
    }
    check_backbone("damsm", &config.damsm.backbone, config.largest_side())?;
    match config.loss.lambda_captioner > 0.0 {
        true => config.check_captioner(),
        false => Ok(()),
    }
}

/// Refuses a small backbone that has no layers, or more than `side` can be halved.
pub(super) fn check_backbone(section: &str, backbone: &BackboneConfig, side: usize) -> Result<()> {
    if backbone.kind != BackboneKind::Small {
        return Ok(());
    }
    let (layers, halvings) = (backbone.widths.len(), side.ilog2() as usize);
    if layers == 0 || layers > halvings {
        let why = format!("{layers} layers: an image of {side}x{side} can be halved 1 to {halvings} times");
        return Err(Error::config(format!("{section}.backbone.widths"), why));
    }
    if !(1..=layers).contains(&backbone.map_after) {
        let why =
            format!("{} is not one of the {layers} layers of {section}.backbone.widths", backbone.map_after);
        return Err(Error::config(format!("{section}.backbone.map_after"), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PRESETS;

    #[test]
    fn every_number_has_a_range() {
        for preset in PRESETS.iter() {
            let flat = Config::load(preset.name, &[]).unwrap().flat();
            for (key, value) in flat {
                let number = value.is_integer() || value.is_float() || value.is_array();
                assert!(!number || range(&key).is_some(), "{key} has no range");
            }
        }
    }
}
