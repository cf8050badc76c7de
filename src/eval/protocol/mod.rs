//! Protocols of evaluation as data. Two figures can stand in one column only where every line of their protocols is the same.

mod evaluation;
mod lines;
mod table;

use serde::{Deserialize, Serialize};

use crate::infer::evaluator::{EvaluatorNetwork, Recipe};
use crate::mirrorgan::backbone::ClassifierKind;

pub use evaluation::{Conditions, Evaluation, Figure, figure_text, revision};
pub use lines::Difference;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolName {
    /// The text-to-image papers' (DM-GAN, DF-GAN): torchvision's network, input in a range of its own.
    T2i,
    PytorchFid,
    /// clean-fid's.
    Clean,
    TorchFidelity,
    /// EfficientNet-Lite0's features, which everybody can have.
    Lite0,
    /// The run's own image encoder.
    Encoder,
}

/// All that a figure depends on beside the pictures themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    pub name: ProtocolName,
    pub recipe: Recipe,
    pub frechet: Option<Frechet>,
    pub kernel: Option<PolynomialMmd>,
    pub inception_score: Option<InceptionScore>,
    /// k of precision and recall by nearest neighbors.
    pub neighbors: Option<usize>,
    /// Random directions of the sliced distance MIND.
    pub directions: Option<usize>,
    pub r_precision: RPrecision,
    pub diversity: Diversity,
    pub real: Real,
    pub generated: Generated,
    /// Of the noise, the captions that are drawn and all else that is random here.
    pub seed: u64,
}

/// How the reference computes Fréchet's distance. Ours is always by the eigenvalues of a symmetric product in f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frechet {
    /// A matrix square root, 1e-6 on the diagonals where it fails, an imaginary part over 1e-3 is an error.
    SquareRoot,
    /// The same without that error.
    RealPartOfSquareRoot,
    /// Σ√ of the eigenvalues of the product.
    SumOfRoots,
}

/// The kernel distance: the unbiased squared MMD of (x·y/d + 1)³, averaged over subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolynomialMmd {
    pub subsets: usize,
    pub size: SubsetSize,
    /// Draws the subsets.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubsetSize {
    /// All pictures, once.
    All,
    /// So many; fewer pictures are an error.
    Exactly(usize),
    /// So many, or all where there are fewer.
    AtMost(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InceptionScore {
    pub logits: LogitKind,
    pub splits: usize,
    /// Shuffles the pictures before they are split; none: their own order.
    pub shuffle: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitKind {
    Biased,
    Unbiased,
}

/// By the run's DAMSM: does a generated picture find its caption?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RPrecision {
    /// Captions that a picture chooses from, its own among them; the others are of other classes.
    pub candidates: usize,
    pub folds: usize,
}

/// Pictures that are generated for the diversity within a caption, beside all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diversity {
    /// As many captions, one for each of the first pictures of the split; fewer where there are fewer.
    pub captions: usize,
    /// Pictures of each.
    pub samples: usize,
}

/// Which real pictures are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Real {
    pub split: Split,
    pub crop: Crop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// As the networks are shown them: cut by the box where there is one, the shorter side scaled to 76/64 of the generated
    /// pictures' side, and the square in the middle.
    TrainingSquare,
    /// Cut by the box where there is one, at the photograph's own resolution.
    Box,
    /// Pictures of a folder, none of a data set.
    AsTheyAre,
}

/// Which pictures are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// How many; none: one for each picture of the split.
    pub images: Option<usize>,
    pub captions: CaptionChoice,
    /// Whether values are rounded to 8 bits, as a PNG has them, before a network evaluates them.
    pub rounded: bool,
    /// Pictures beyond the last full batch of this size are left out, on both sides.
    pub whole_batches: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionChoice {
    /// Passes over the pictures in their order; in each, one caption of each picture drawn at random.
    DrawnInEachPass,
    /// Each picture's first caption, pass after pass.
    First,
    /// None: the pictures lie in a folder.
    OfAFolder,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    FrechetDistance,
    SquaredMmd,
    InceptionScore,
    Precision,
    Recall,
    Mind,
    /// The mean distance of features within a caption.
    Diversity,
    /// Whether the right caption is among the first `top`.
    RPrecision {
        top: usize,
    },
    /// STREAM's cross-entropy of the caption, a word.
    CaptionCrossEntropy,
}

impl ProtocolName {
    pub const ALL: [ProtocolName; 6] = [
        ProtocolName::T2i,
        ProtocolName::PytorchFid,
        ProtocolName::Clean,
        ProtocolName::TorchFidelity,
        ProtocolName::Lite0,
        ProtocolName::Encoder,
    ];

    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProtocolName::T2i => "t2i",
            ProtocolName::PytorchFid => "pytorch-fid",
            ProtocolName::Clean => "clean",
            ProtocolName::TorchFidelity => "torch-fidelity",
            ProtocolName::Lite0 => "lite0",
            ProtocolName::Encoder => "encoder",
        }
    }

    /// The protocol that the command line calls so.
    pub fn parse(name: &str) -> Option<ProtocolName> {
        ProtocolName::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }

    /// Its row of the table.
    pub fn protocol(self) -> Protocol {
        table::row(self)
    }
}

impl Generated {
    /// How many of `count` pictures are evaluated.
    pub fn whole(&self, count: usize) -> usize {
        self.whole_batches.map_or(count, |batch| count / batch * batch)
    }
}

impl Protocol {
    /// The same, of generated pictures that lie in a folder.
    pub fn of_folder(self) -> Protocol {
        let captions = CaptionChoice::OfAFolder;
        Protocol {
            generated: Generated { images: None, captions, rounded: true, whole_batches: None },
            ..self
        }
    }

    /// Whether the generated pictures lie in a folder, so that nothing is known of their captions.
    pub(super) fn is_of_folder(&self) -> bool {
        self.generated.captions == CaptionChoice::OfAFolder
    }

    /// The name under which a figure is reported, or why this protocol has no such figure. Only Inception's features make an
    /// FID; `encoder` is the kind of the run's image encoder.
    pub fn figure(&self, measure: Measure, encoder: Option<&str>) -> Result<String, String> {
        let (published, own) = match measure {
            Measure::FrechetDistance if self.frechet.is_some() => ("fid", "fd"),
            Measure::SquaredMmd if self.kernel.is_some() => ("kid", "kd"),
            Measure::InceptionScore if self.inception_score.is_some() => ("is", "is"),
            Measure::Precision if self.neighbors.is_some() => ("precision", "precision"),
            Measure::Recall if self.neighbors.is_some() => ("recall", "recall"),
            Measure::Mind if self.directions.is_some() => ("mind", "mind"),
            Measure::Diversity | Measure::RPrecision { .. } | Measure::CaptionCrossEntropy
                if self.is_of_folder() =>
            {
                return Err(format!(
                    "{} needs captions, and pictures of a folder have none",
                    measure.describe()
                ));
            }
            Measure::Diversity => ("diversity", "diversity"),
            Measure::RPrecision { top } => {
                let name = if top == 1 { "r-precision".to_string() } else { format!("r-precision@{top}") };
                return Ok(of_encoder(&name, encoder));
            }
            Measure::CaptionCrossEntropy => return Ok("caption".to_string()),
            _ => {
                let (name, measure) = (self.name.as_str(), measure.describe());
                return Err(format!("the protocol {name} defines no {measure}; take another protocol"));
            }
        };
        Ok(match self.recipe.network {
            EvaluatorNetwork::Classifier(ClassifierKind::EfficientnetLite0) => format!("{own}-lite0"),
            EvaluatorNetwork::Classifier(_) => published.to_string(),
            // Its code is DAMSM's, whatever network it begins with.
            EvaluatorNetwork::Encoder => match encoder {
                Some("small") => format!("{own}-small"),
                Some(kind) => format!("{own}-damsm-{kind}"),
                None => format!("{own}-damsm"),
            },
        })
    }
}

/// The published R-precision is that of a DAMSM on Inception-v3.
fn of_encoder(name: &str, encoder: Option<&str>) -> String {
    match encoder {
        Some("inception_v3") => name.to_string(),
        other => format!("{name}-{}", other.unwrap_or("encoder")),
    }
}

impl Measure {
    pub fn describe(self) -> &'static str {
        match self {
            Measure::FrechetDistance => "Fréchet distance",
            Measure::SquaredMmd => "kernel distance",
            Measure::InceptionScore => "Inception Score",
            Measure::Precision => "precision",
            Measure::Recall => "recall",
            Measure::Mind => "MIND",
            Measure::Diversity => "diversity within a caption",
            Measure::RPrecision { .. } => "R-precision",
            Measure::CaptionCrossEntropy => "cross-entropy of captions",
        }
    }
}
