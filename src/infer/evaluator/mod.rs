//! Networks that evaluate pictures: features and logits of 8-bit pictures of any size, as a protocol's recipe says.

mod recipe;
mod weights;

use std::path::Path;

use crate::data::Picture;
use crate::engine::Tensor;
use crate::engine::nn::Mode;
use crate::engine::ops::shape::{concat, slice};
use crate::engine::tensor::no_grad;
use crate::error::{Error, Result};
use crate::infer::frozen;
use crate::mirrorgan::backbone::{Classified, Classifier};
use crate::mirrorgan::damsm::ImageEncoder;
use crate::run::{Phase, RunFolder};

pub use recipe::{EvaluatorNetwork, Normalization, PublishedWeights, Recipe, Resize};
pub use weights::{UsedWeights, find_weights};

pub struct Evaluator {
    recipe: Recipe,
    side: usize,
    width: usize,
    network: Network,
    weights: UsedWeights,
}

enum Network {
    Classifier(Box<Classifier>),
    Encoder(Box<ImageEncoder>),
}

/// A row of `width` numbers for each picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub width: usize,
    pub values: Vec<f32>,
}

/// What a network makes of a batch of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    pub features: Rows,
    /// None where the network has no classes.
    pub logits: Option<Logits>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    pub biased: Rows,
    /// Without the bias of the last layer, as torch-fidelity's Inception Score takes them.
    pub unbiased: Rows,
}

impl Rows {
    fn of(tensor: &Tensor) -> Rows {
        Rows { width: tensor.shape().last_dim(), values: tensor.to_vec() }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }
}

impl Evaluator {
    /// The recipe's classifier with the weights of `file`; without one, with those that are found where weights are looked for.
    ///
    /// # Errors
    /// `Data` where no file is found (its name, where people get it and where it was looked for), or where it holds another
    /// network (which one); those of reading it; `Config` for the run's encoder, which [`Evaluator::of_run`] opens.
    pub fn open(recipe: &Recipe, file: Option<&Path>) -> Result<Evaluator> {
        let (EvaluatorNetwork::Classifier(kind), Some(published)) = (recipe.network, &recipe.weights) else {
            let why = "this protocol evaluates by the run's own encoder; it takes no file of weights";
            return Err(Error::config("--weights", why));
        };
        let file = match file {
            Some(file) => file.to_path_buf(),
            None => find_weights(published)?,
        };
        let (archive, weights) = UsedWeights::read(&file, published)?;
        let network = Network::Classifier(Box::new(Classifier::load(kind, archive)?));
        let side = recipe.side.unwrap_or(CLASSIFIER_SIDE);
        Ok(Evaluator { recipe: recipe.clone(), side, width: kind.width(), network, weights })
    }

    /// DAMSM's image encoder of a run, with its newest checkpoint.
    ///
    /// # Errors
    /// `Data` where the run has no checkpoint of its DAMSM phase, and those of reading it.
    pub fn of_run(recipe: &Recipe, run: &RunFolder) -> Result<Evaluator> {
        let config = run.config()?;
        let checkpoint = run.newest(Phase::Damsm)?;
        let encoder = frozen::image_encoder(&checkpoint.folder, &config)?;
        let networks = [frozen::IMAGE_ENCODER];
        let weights = UsedWeights::of_checkpoint(&checkpoint, &networks, config.damsm.backbone.kind)?;
        let width = config.text_encoder.features;
        let side = recipe.side.unwrap_or(config.largest_side());
        Ok(Evaluator {
            recipe: recipe.clone(),
            side,
            width,
            network: Network::Encoder(Box::new(encoder)),
            weights,
        })
    }

    /// How many features a picture has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What the weights were read from.
    pub fn weights(&self) -> &UsedWeights {
        &self.weights
    }

    /// What a user should know where the weights are not those that the recipe names.
    pub fn warning(&self) -> Option<String> {
        self.recipe.weights.as_ref().and_then(|published| self.weights.warning(published))
    }

    /// Features and logits of pictures of any sizes. A picture's do not depend on the others of the batch.
    ///
    /// # Errors
    /// `Data` for a picture without pixels, or one whose pixels are not as many as its size says.
    pub fn evaluate(&self, pictures: &[Picture]) -> Result<Evaluated> {
        for (picture, number) in pictures.iter().zip(1..) {
            let Picture { width, height, pixels } = picture;
            if width * height == 0 || pixels.len() != width * height * 3 {
                let why = format!(
                    "{width}×{height} pixels and {} values of 3 channels cannot be evaluated; leave it out",
                    pixels.len()
                );
                return Err(Error::data(format!("picture {number} of the batch"), why));
            }
        }
        if pictures.is_empty() {
            return Err(Error::data("batch", "there are no pictures to evaluate"));
        }
        let images = self.recipe.input(pictures, self.side);
        Ok(no_grad(|| match &self.network {
            Network::Classifier(classifier) => {
                let Classified { pooled, logits, logits_unbiased } = classifier.forward(&images);
                let logits = Logits { biased: Rows::of(&logits), unbiased: Rows::of(&logits_unbiased) };
                Evaluated { features: Rows::of(&pooled), logits: Some(logits) }
            }
            Network::Encoder(encoder) => {
                // One by one: its last product's sums may depend on how many rows it has.
                let code = |picture| encoder.forward(&slice(&images, 0, picture, 1), Mode::Eval).global;
                let codes: Vec<Tensor> = (0..pictures.len()).map(code).collect();
                Evaluated { features: Rows::of(&concat(&codes.iter().collect::<Vec<_>>(), 0)), logits: None }
            }
        }))
    }
}

/// Where a recipe of a classifier names no side: Inception's.
const CLASSIFIER_SIDE: usize = 299;
