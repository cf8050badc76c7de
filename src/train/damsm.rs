//! The first stage: STEM's text encoder and an image encoder learn one space, in which a caption lies near its picture.

use std::path::{Path, PathBuf};

use super::inputs::Inputs;
use super::noise::{Purpose, stream};
use super::stage::{At, Context, Figure, Stage};
use crate::config::Config;
use crate::engine::Tensor;
use crate::engine::nn::{Adam, AdamConfig, Archive, Mode, Scope, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::eval::r_precision;
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use crate::mirrorgan::stem::TextEncoder;

const TEXT: &str = "text_encoder";
const IMAGE: &str = "image_encoder";

/// STEM as this stage left it: nothing is recorded for its sake any more.
pub fn frozen_text_encoder(checkpoint: &Path, words: usize, config: &Config) -> Result<TextEncoder> {
    let source = Source::Archive(Archive::read(checkpoint.join(format!("{TEXT}.safetensors")))?);
    let (text, store) = Store::build(source, |scope| TextEncoder::new(scope, words, &config.stem))?;
    store.freeze();
    Ok(text)
}

/// The image encoder's file in a checkpoint of this stage.
pub(super) fn image_encoder_file(checkpoint: &Path) -> PathBuf {
    checkpoint.join(format!("{IMAGE}.safetensors"))
}

/// The image encoder as this stage left it: nothing is recorded for its sake any more.
pub fn frozen_image_encoder(checkpoint: &Path, config: &Config) -> Result<ImageEncoder> {
    let source = Source::Archive(Archive::read(image_encoder_file(checkpoint))?);
    let backbone = config.damsm.backbone()?;
    let build = |scope: &Scope| ImageEncoder::new(scope, config.stem.features, &backbone);
    let (image, store) = Store::build(source, build)?;
    store.freeze();
    Ok(image)
}

pub(super) struct Damsm<'a> {
    context: &'a Context<'a>,
    text: Learner<TextEncoder>,
    image: Learner<ImageEncoder>,
}

/// A network, its parameters, and the optimiser of these.
struct Learner<N> {
    network: N,
    store: Store,
    adam: Adam,
}

impl<N> Learner<N> {
    fn new((network, store): (N, Store), adam: AdamConfig) -> Learner<N> {
        Learner { network, adam: Adam::new(store.params(), adam), store }
    }
}

impl<'a> Damsm<'a> {
    pub fn new(context: &'a Context<'a>) -> Result<Damsm<'a>> {
        let config = context.config;
        let init = |network| Source::Init(stream(config.train.seed, network, Purpose::Weights));
        let backbone = config.damsm.backbone()?;
        let text = Store::build(init(0), |scope| TextEncoder::new(scope, context.words(), &config.stem))?;
        let image = Store::build(init(1), |scope| ImageEncoder::new(scope, config.stem.features, &backbone))?;
        let (learning_rate, beta1, beta2) = (config.damsm.lr, config.damsm.beta1, config.damsm.beta2);
        let adam = AdamConfig { learning_rate, beta1, beta2, epsilon: config.train.adam_epsilon };
        Ok(Damsm { context, text: Learner::new(text, adam), image: Learner::new(image, adam) })
    }

    /// The rate falls with each epoch, down to its floor.
    fn set_learning_rate(&mut self, epoch: u64) {
        let damsm = &self.context.config.damsm;
        let rate = damsm.lr * damsm.lr_decay.powi(epoch as i32).max(damsm.lr_floor);
        self.text.adam.set_learning_rate(rate);
        self.image.adam.set_learning_rate(rate);
    }
}

impl Stage for Damsm<'_> {
    fn step(&mut self, at: At, batch: &Inputs) -> Vec<(String, f32)> {
        let config = self.context.config;
        self.set_learning_rate(at.epoch);
        let mut rng = stream(config.train.seed, at.step, Purpose::Dropout);
        let meaning = self.text.network.forward(&batch.captions, &batch.lengths, Some(&mut rng));
        let seen = self.image.network.forward(batch.largest(), Mode::Train);
        let classes = Some(&batch.classes);
        let terms = damsm_loss(&seen, &meaning, &batch.lengths, classes, config.damsm.gammas());

        let targets = [self.text.adam.targets(), self.image.adam.targets()].concat();
        let mut gradients = backward(&terms.total(), &targets.iter().collect::<Vec<_>>());
        drop(targets);
        self.text.adam.step_clipped(&mut gradients, config.damsm.clip);
        self.image.adam.step(&mut gradients);
        terms.values()
    }

    fn save(&mut self, folder: &Path) -> Result<()> {
        self.text.store.save(folder.join(format!("{TEXT}.safetensors")))?;
        self.image.store.save(image_encoder_file(folder))?;
        let mut optimiser = Archive::default();
        optimiser.add_section(TEXT, self.text.adam.archive());
        optimiser.add_section(IMAGE, self.image.adam.archive());
        optimiser.write(folder.join("optimizer.safetensors"))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.text.store.load(Archive::read(folder.join(format!("{TEXT}.safetensors")))?)?;
        self.image.store.load(Archive::read(image_encoder_file(folder))?)?;
        let mut optimiser = Archive::read(folder.join("optimizer.safetensors"))?;
        self.text.adam.load(optimiser.take_section(TEXT))?;
        self.image.adam.load(optimiser.take_section(IMAGE))
    }

    /// How often a real picture finds its caption.
    fn figure(&mut self) -> Result<Option<Figure>> {
        let code = |batch: &Inputs| -> (Tensor, Tensor) {
            let meaning = self.text.network.forward(&batch.captions, &batch.lengths, None);
            (self.image.network.forward(batch.largest(), Mode::Eval).code, meaning.sentence)
        };
        no_grad(|| r_precision::measure(self.context, "real pictures", code))
    }
}
