//! Figures and what they depend on, in one value: none can be had or printed without the other.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::{Difference, Line, differences, write_block};
use super::{Measure, Protocol};
use crate::error::{self, Error};
use crate::infer::evaluator::UsedWeights;

/// What was evaluated, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The data set, such as its name and fingerprint.
    pub data: String,
    /// Real pictures that were compared with; none where a file of statistics does not say how many it is of.
    pub real_images: Option<usize>,
    /// The file of statistics that stood for the real pictures.
    pub statistics: Option<String>,
    /// Generated pictures that were evaluated.
    pub images: usize,
    /// The side of the generated pictures; 0 for those of a folder, which may differ.
    pub side: usize,
    /// The generator's checkpoint, such as `gan/step-000600`; of pictures of a folder, the folder.
    pub checkpoint: String,
    pub step: u64,
    /// The weights that the pictures were evaluated by.
    pub weights: UsedWeights,
    /// The run's image encoder, for R-precision.
    pub encoder: Option<UsedWeights>,
    /// The run's captioner, for the cross-entropy of captions.
    pub captioner: Option<UsedWeights>,
    /// z is drawn within ±2 and multiplied by this; none: as it comes.
    pub truncation: Option<f32>,
}

/// A figure: only an [`Evaluation`] makes one, which has the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    name: String,
    measure: Measure,
    value: f64,
    /// The deviation over splits, subsets or folds.
    deviation: Option<f64>,
}

impl Figure {
    /// As the protocol calls it, such as `fid` or `kd-lite0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn measure(&self) -> Measure {
        self.measure
    }

    pub fn value(&self) -> f64 {
        self.value
    }

    pub fn deviation(&self) -> Option<f64> {
        self.deviation
    }
}

/// Figures with their protocol and conditions; printed, or written as JSON, it is always all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Of the engine: its version and the commit that it was built from.
    engine: String,
    protocol: Protocol,
    conditions: Conditions,
    figures: Vec<Figure>,
}

/// The engine's version and the commit that it was built from.
pub fn revision() -> String {
    format!("{} (revision {})", env!("CARGO_PKG_VERSION"), env!("ENGINE_REVISION"))
}

impl Evaluation {
    pub fn new(protocol: Protocol, conditions: Conditions) -> Evaluation {
        Evaluation { engine: revision(), protocol, conditions, figures: Vec::new() }
    }

    /// Reads the file of an evaluation.
    ///
    /// # Errors
    /// `Io` where it cannot be read; `Data` where it is none of this version.
    pub fn read(file: &Path) -> error::Result<Evaluation> {
        let text = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        let why =
            |e| format!("not an evaluation that `engine eval` of this version wrote ({e}); evaluate again");
        serde_json::from_slice(&text).map_err(|e| Error::data(file, why(e)))
    }

    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The figure of this name, if it was measured.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The names of all figures, each once, as the columns of a table.
    pub fn figure_names<'a>(evaluations: impl IntoIterator<Item = &'a Evaluation>) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        for figure in evaluations.into_iter().flat_map(Evaluation::figures) {
            if !names.contains(&figure.name()) {
                names.push(figure.name());
            }
        }
        names
    }

    /// Adds a figure under the protocol's name for it; the error says why the protocol has none.
    pub fn add(&mut self, measure: Measure, value: f64, deviation: Option<f64>) -> Result<(), String> {
        let Conditions { weights, encoder, .. } = &self.conditions;
        let encoder = encoder.as_ref().and_then(|encoder| encoder.encoder.as_deref());
        let encoder = weights.encoder.as_deref().or(encoder);
        let name = self.protocol.figure(measure, encoder)?;
        self.figures.push(Figure { name, measure, value, deviation });
        Ok(())
    }

    /// The lines that forbid that figures of both stand in one column; checkpoints, steps and engines may differ.
    pub fn differences(&self, other: &Evaluation) -> Vec<Difference> {
        let lines = |evaluation: &Evaluation| [evaluation.protocol.lines(), evaluation.held()].concat();
        differences(&lines(self), &lines(other))
    }

    /// Conditions that two evaluations must share.
    fn held(&self) -> Vec<Line> {
        let Conditions { data, real_images, images, side, .. } = &self.conditions;
        let Conditions { weights, statistics, encoder, captioner, truncation, .. } = &self.conditions;
        let or_none =
            |weights: &Option<UsedWeights>| weights.as_ref().map_or("none".into(), |w| w.to_string());
        let real = real_images.map_or("an unknown number of".to_string(), |images| images.to_string());
        vec![
            ("weights", weights.to_string()),
            ("data", data.clone()),
            ("statistics", statistics.clone().unwrap_or_else(|| "none".into())),
            match self.protocol.is_of_folder() {
                true => ("images", format!("{images} of a folder, {real} real")),
                false => ("images", format!("{images} generated of {side}×{side}, {real} real")),
            },
            ("encoder", or_none(encoder)),
            ("captioner", or_none(captioner)),
            ("truncation", truncation.map_or("none".into(), |t| format!("z drawn within ±2, times {t}"))),
        ]
    }

    /// What evaluations must share that stand in one table, as lines.
    pub fn shared(&self) -> String {
        Block([self.protocol.lines(), self.held()].concat()).to_string()
    }

    /// Of what was evaluated: the checkpoint, and the engine that did it.
    pub fn checkpoint(&self) -> &str {
        &self.conditions.checkpoint
    }

    pub fn engine(&self) -> &str {
        &self.engine
    }

    fn lines(&self) -> Vec<Line> {
        let Conditions { checkpoint, step, .. } = &self.conditions;
        let evaluated = match self.protocol.is_of_folder() {
            true => ("folder", checkpoint.clone()),
            false => ("checkpoint", format!("{checkpoint}, step {step}")),
        };
        [self.protocol.lines(), self.held(), vec![evaluated, ("engine", self.engine.clone())]].concat()
    }
}

struct Block(Vec<Line>);

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_block(f, &self.0)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&figure_text(self.value, self.deviation))
    }
}

/// A value, and its deviation where it has one, to six digits of the value.
pub fn figure_text(value: f64, deviation: Option<f64>) -> String {
    let decimals = decimals(value);
    let deviation = deviation.map_or(String::new(), |deviation| format!(" ± {deviation:.decimals$}"));
    format!("{value:.decimals$}{deviation}")
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_block(f, &self.lines())?;
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        if width > 0 {
            f.write_str("\n")?;
        }
        for figure in &self.figures {
            write!(f, "\n{:<width$}  {figure}", figure.name)?;
        }
        Ok(())
    }
}

/// Six digits of a figure, from the first that is not 0.
fn decimals(value: f64) -> usize {
    let before = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    (5.0 - before).clamp(0.0, 12.0) as usize
}

#[cfg(test)]
mod tests {
    use super::super::{ProtocolName, SubsetSize};
    use super::*;

    fn evaluation(name: ProtocolName, encoder: Option<&str>) -> Evaluation {
        let weights = UsedWeights {
            name: "some.pth".into(),
            sha256: Some("ab".repeat(32)),
            is_published: true,
            encoder: encoder.map(str::to_string),
        };
        let conditions = Conditions {
            data: "cub test 12345678".into(),
            real_images: Some(268),
            statistics: None,
            images: 268,
            side: 64,
            checkpoint: "gan/step-000600".into(),
            step: 600,
            weights,
            encoder: Some(UsedWeights {
                name: "damsm/step-000600".into(),
                sha256: None,
                is_published: false,
                encoder: Some("small".into()),
            }),
            captioner: None,
            truncation: None,
        };
        Evaluation::new(name.protocol(), conditions)
    }

    const MEASURES: [Measure; 9] = [
        Measure::FrechetDistance,
        Measure::SquaredMmd,
        Measure::InceptionScore,
        Measure::Precision,
        Measure::Recall,
        Measure::Mind,
        Measure::Diversity,
        Measure::RPrecision { top: 1 },
        Measure::CaptionCrossEntropy,
    ];

    #[test]
    fn only_features_of_inception_make_an_fid() {
        let names = |name: ProtocolName, encoder| -> Vec<String> {
            let mut evaluation = evaluation(name, encoder);
            for measure in MEASURES {
                let _ = evaluation.add(measure, 1.0, None);
            }
            evaluation.figures().iter().map(|figure| figure.name().to_string()).collect()
        };
        let all =
            ["fid", "kid", "is", "precision", "recall", "mind", "diversity", "r-precision-small", "caption"];
        assert_eq!(names(ProtocolName::TorchFidelity, None), all);
        assert_eq!(names(ProtocolName::T2i, None), ["fid", "diversity", "r-precision-small", "caption"]);
        assert_eq!(names(ProtocolName::Clean, None)[..2], ["fid", "kid"]);
        assert_eq!(names(ProtocolName::Lite0, None)[..3], ["fd-lite0", "kd-lite0", "is-lite0"]);
        assert_eq!(
            names(ProtocolName::Encoder, Some("small"))[..3],
            ["fd-small", "kd-small", "precision-small"]
        );
        let of_inception = names(ProtocolName::Encoder, Some("inception_v3"));
        assert_eq!(of_inception[..2], ["fd-damsm-inception_v3", "kd-damsm-inception_v3"]);
        assert!(of_inception.contains(&"r-precision".to_string()));
        let why = evaluation(ProtocolName::T2i, None).add(Measure::SquaredMmd, 1.0, None).unwrap_err();
        assert_eq!(why, "the protocol t2i defines no kernel distance; take another protocol");
    }

    #[test]
    fn figures_are_printed_below_all_that_they_depend_on() {
        let mut evaluation = evaluation(ProtocolName::Lite0, None);
        evaluation.add(Measure::SquaredMmd, 8.555_316_846_892e-4, Some(1e-5)).unwrap();
        evaluation.add(Measure::FrechetDistance, 123.456_789, None).unwrap();
        let text = evaluation.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "protocol            lite0");
        let of = |label: &str| {
            let line = lines.iter().find(|line| line.starts_with(label));
            line.unwrap_or_else(|| panic!("no line '{label}' in\n{text}"))[label.len()..].trim()
        };
        assert_eq!(of("images"), "268 generated of 64×64, 268 real");
        assert_eq!(of("checkpoint"), "gan/step-000600, step 600");
        assert_eq!(of("truncation"), "none");
        assert!(of("engine").starts_with(env!("CARGO_PKG_VERSION")));
        assert_eq!(
            lines[lines.len() - 3..],
            ["", "kd-lite0  0.000855532 ± 0.000010000", "fd-lite0  123.457"]
        );
        let text = serde_json::to_string(&evaluation).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), evaluation);
        assert!(serde_json::from_str::<Evaluation>(&text.replace("\"protocol\"", "\"protocole\"")).is_err());
    }

    #[test]
    fn what_differs_is_named() {
        let one = evaluation(ProtocolName::Clean, None);
        assert_eq!(one.differences(&one), []);
        let mut other = one.clone();
        (other.conditions.step, other.conditions.checkpoint) = (700, "gan/step-000700".into());
        assert_eq!(one.differences(&other), [], "checkpoints may differ");
        other.conditions.truncation = Some(0.88);
        other.protocol.kernel.as_mut().unwrap().size = SubsetSize::All;
        let lines: Vec<String> = one.differences(&other).iter().map(|d| d.line.clone()).collect();
        assert_eq!(lines, ["kernel distance", "truncation"]);
        assert_eq!(
            one.differences(&other)[1].to_string(),
            "truncation: none | z drawn within ±2, times 0.88"
        );
        // No two rows of the table are the same, beside their names.
        for left in ProtocolName::ALL {
            for right in ProtocolName::ALL {
                let lines = left.protocol().differences(&right.protocol());
                assert_eq!(lines.len() > 1, left != right, "{left:?} and {right:?}");
            }
        }
    }

    #[test]
    fn protocols_are_found_by_name_and_survive_json() {
        for name in ProtocolName::ALL {
            assert_eq!(ProtocolName::parse(name.as_str()), Some(name));
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{}\"", name.as_str()));
            let protocol = name.protocol();
            let text = serde_json::to_string(&protocol).unwrap();
            assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), protocol);
            assert!(protocol.to_string().lines().all(|line| line.len() > 20));
        }
        assert_eq!(ProtocolName::parse("fid"), None);
    }
}
