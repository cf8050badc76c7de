//! A protocol as lines that people read, and what differs between two.

use std::fmt;

use super::{
    CaptionChoice, Crop, Diversity, Frechet, Generated, LogitKind, PolynomialMmd, Protocol, Real, Split,
    SubsetSize,
};
use crate::infer::evaluator::EvaluatorNetwork;
use crate::mirrorgan::backbone::ClassifierKind;

/// A line of two protocols that is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub line: String,
    pub left: String,
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} | {}", self.line, self.left, self.right)
    }
}

/// A label, and what stands behind it.
pub(super) type Line = (&'static str, String);

/// The lines that differ; both have the same labels.
pub(super) fn differences(left: &[Line], right: &[Line]) -> Vec<Difference> {
    let pairs = left.iter().zip(right).filter(|(left, right)| left != right);
    let difference = |((label, left), (_, right)): (&Line, &Line)| Difference {
        line: label.to_string(),
        left: left.clone(),
        right: right.clone(),
    };
    pairs.map(difference).collect()
}

/// Writes lines with their texts below each other.
pub(super) fn write_block(f: &mut fmt::Formatter<'_>, lines: &[Line]) -> fmt::Result {
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for (i, (label, text)) in lines.iter().enumerate() {
        let end = if i == 0 { "" } else { "\n" };
        write!(f, "{end}{label:<width$}  {text}")?;
    }
    Ok(())
}

impl Protocol {
    /// All of it, a line each; the labels are the same for every protocol.
    pub(super) fn lines(&self) -> Vec<Line> {
        let Protocol { recipe, generated, .. } = self;
        let side = recipe.side.map_or("the run's largest side".to_string(), |side| format!("{side}×{side}"));
        vec![
            ("protocol", self.name.as_str().to_string()),
            ("network", recipe.network.to_string()),
            ("pools", self.pools().to_string()),
            ("published weights", or_none(recipe.weights.as_ref())),
            ("resize", format!("{} to {side}", recipe.resize)),
            ("normalization", recipe.normalization.to_string()),
            ("Fréchet distance", or_none(self.frechet.as_ref())),
            ("kernel distance", or_none(self.kernel.as_ref())),
            ("Inception Score", self.inception_score_line()),
            ("precision, recall", self.neighbors.map_or(none(), |k| format!("{k} nearest neighbors"))),
            ("MIND", self.directions.map_or(none(), |n| format!("{n} directions"))),
            ("R-precision", self.r_precision_line()),
            ("diversity", self.diversity_line()),
            ("real pictures", self.real.to_string()),
            ("generated pictures", generated.to_string()),
            ("captions", generated.captions.to_string()),
            ("seed", self.seed.to_string()),
        ]
    }

    /// The lines that differ.
    pub fn differences(&self, other: &Protocol) -> Vec<Difference> {
        differences(&self.lines(), &other.lines())
    }

    fn pools(&self) -> &'static str {
        match self.recipe.network {
            EvaluatorNetwork::Classifier(ClassifierKind::InceptionV3) => {
                "averages count the zeros around an image, in Mixed_7c too"
            }
            EvaluatorNetwork::Classifier(ClassifierKind::Inception2015) => {
                "averages of Mixed_5*, 6*, 7b do not count the zeros around an image; maxima in Mixed_7c"
            }
            EvaluatorNetwork::Classifier(ClassifierKind::EfficientnetLite0) | EvaluatorNetwork::Encoder => {
                "as published"
            }
        }
    }

    fn inception_score_line(&self) -> String {
        let Some(score) = self.inception_score else { return none() };
        let logits = match score.logits {
            LogitKind::Biased => "logits",
            LogitKind::Unbiased => "logits without bias",
        };
        let order =
            score.shuffle.map_or("in their order".into(), |seed| format!("shuffled with seed {seed}"));
        format!("{} splits of {logits}, {order}", score.splits)
    }

    fn diversity_line(&self) -> String {
        if self.is_of_folder() {
            return none();
        }
        let Diversity { captions, samples } = self.diversity;
        format!(
            "mean Euclidean distance of features, {samples} pictures of each of {captions} captions, or of all where there are fewer"
        )
    }

    fn r_precision_line(&self) -> String {
        if self.is_of_folder() {
            return none();
        }
        let (candidates, folds) = (self.r_precision.candidates, self.r_precision.folds);
        format!(
            "the run's DAMSM, cosine; 1 of {candidates} captions, the others of other classes; mean and deviation over \
             {folds} folds"
        )
    }
}

fn none() -> String {
    "none".to_string()
}

fn or_none(value: Option<&impl fmt::Display>) -> String {
    value.map_or(none(), ToString::to_string)
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_block(f, &self.lines())
    }
}

impl fmt::Display for Frechet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reference = match self {
            Frechet::SquareRoot => {
                "a matrix square root, 1e-6 on the diagonals where it fails, imaginary parts over 1e-3 an error"
            }
            Frechet::RealPartOfSquareRoot => {
                "the real part of a matrix square root, 1e-6 on the diagonals where it fails"
            }
            Frechet::SumOfRoots => "the sum of the roots of the product's eigenvalues",
        };
        write!(f, "eigenvalues of S1^½·S2·S1^½ in f64 (the reference: {reference})")
    }
}

impl fmt::Display for PolynomialMmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolynomialMmd { subsets, size, seed } = self;
        f.write_str("(x·y/d + 1)³, unbiased, ")?;
        match size {
            SubsetSize::All => f.write_str("all pictures at once"),
            SubsetSize::Exactly(n) => write!(f, "{subsets} subsets of {n}, seed {seed}"),
            SubsetSize::AtMost(n) => {
                write!(f, "{subsets} subsets of {n} or of all where there are fewer, seed {seed}")
            }
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.crop {
            Crop::AsTheyAre => write!(f, "{}", self.crop),
            _ => write!(f, "{}, {}", self.split, self.crop),
        }
    }
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Crop::TrainingSquare => {
                "cut by the box, shorter side scaled to 76/64 of the generated side, the square in the middle"
            }
            Crop::Box => "cut by the box, at their own resolution",
            Crop::AsTheyAre => "of a folder, as they are",
        })
    }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.captions == CaptionChoice::OfAFolder {
            return write!(f, "{}", Crop::AsTheyAre);
        }
        match self.images {
            Some(images) => write!(f, "{images}")?,
            None => f.write_str("one for each real picture")?,
        }
        f.write_str(if self.rounded { ", rounded to 8 bits" } else { ", not rounded" })?;
        match self.whole_batches {
            Some(batch) => {
                write!(f, "; what is left over after batches of {batch} is left out on both sides")
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for CaptionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CaptionChoice::DrawnInEachPass => {
                "passes over the real pictures, in each one caption of each drawn by seed"
            }
            CaptionChoice::First => "passes over the real pictures, the first caption of each",
            CaptionChoice::OfAFolder => "none",
        })
    }
}
