//! The first stage: STEM's text encoder and an image encoder learn one space, in which a caption lies near its picture.

use std::path::Path;

use super::phase::{PhaseTrainer, Position};
use crate::engine::Tensor;
use crate::engine::nn::{Adam, AdamConfig, Archive, Mode, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::eval::{Metric, r_precision};
use crate::infer::frozen::{IMAGE_ENCODER, TEXT_ENCODER, weight_file};
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use crate::mirrorgan::stem::TextEncoder;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs};

pub(super) struct Damsm<'a> {
    context: &'a Context<'a>,
    text: Learner<TextEncoder>,
    image: Learner<ImageEncoder>,
}

/// A network, its parameters, and the optimizer of these.
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
        let init = |network| Source::Init(rng_for(config.train.seed, network, RngStream::Weights));
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

impl PhaseTrainer for Damsm<'_> {
    fn step(&mut self, at: Position, batch: &Inputs) -> Vec<(String, f32)> {
        let config = self.context.config;
        self.set_learning_rate(at.epoch);
        let mut rng = rng_for(config.train.seed, at.step, RngStream::Dropout);
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
        self.text.store.save(weight_file(folder, TEXT_ENCODER))?;
        self.image.store.save(weight_file(folder, IMAGE_ENCODER))?;
        let mut optimizer = Archive::default();
        optimizer.add_section(TEXT_ENCODER, self.text.adam.archive());
        optimizer.add_section(IMAGE_ENCODER, self.image.adam.archive());
        optimizer.write(folder.join("optimizer.safetensors"))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.text.store.load(Archive::read(weight_file(folder, TEXT_ENCODER))?)?;
        self.image.store.load(Archive::read(weight_file(folder, IMAGE_ENCODER))?)?;
        let mut optimizer = Archive::read(folder.join("optimizer.safetensors"))?;
        self.text.adam.load(optimizer.take_section(TEXT_ENCODER))?;
        self.image.adam.load(optimizer.take_section(IMAGE_ENCODER))
    }

    /// How often a real picture finds its caption.
    fn figure(&mut self) -> Result<Option<Metric>> {
        let code = |batch: &Inputs| -> (Tensor, Tensor) {
            let meaning = self.text.network.forward(&batch.captions, &batch.lengths, None);
            (self.image.network.forward(batch.largest(), Mode::Eval).global, meaning.sentence)
        };
        no_grad(|| r_precision::measure(self.context, "real pictures", code))
    }
}
