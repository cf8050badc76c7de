//! The second stage: STREAM learns to describe real pictures, so that it can re-describe generated ones.

use std::path::Path;

use super::phase::{PhaseTrainer, Position};
use crate::engine::nn::{Adam, AdamConfig, Archive, Mode, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::eval::Metric;
use crate::infer::frozen::{
    CAPTION_CNN, CAPTION_RNN, CaptionerStores, IMAGE_ENCODER, build_captioner, weight_file,
};
use crate::mirrorgan::backbone::TRUNK;
use crate::mirrorgan::captioner::Captioner;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs, Phase};

pub(super) struct CaptionerPhase<'a> {
    context: &'a Context<'a>,
    captioner: Captioner,
    stores: CaptionerStores,
    cnn: Adam,
    rnn: Adam,
}

impl<'a> CaptionerPhase<'a> {
    pub fn new(context: &'a Context<'a>) -> Result<CaptionerPhase<'a>> {
        let config = context.config;
        let init = |network| Source::Init(rng_for(config.train.seed, network, RngStream::Weights));
        let (captioner, stores) = build_captioner([init(2), init(3)], context.words(), config)?;
        init_from_damsm(context, &stores.cnn)?;
        let (learning_rate, beta1, beta2) = (config.stream.lr, config.stream.beta1, config.stream.beta2);
        let adam = AdamConfig { learning_rate, beta1, beta2, epsilon: config.train.adam_epsilon };
        let (cnn, rnn) = (Adam::new(stores.cnn.params(), adam), Adam::new(stores.rnn.params(), adam));
        Ok(CaptionerPhase { context, captioner, stores, cnn, rnn })
    }
}

/// A small encoder begins from DAMSM's, where that is trained and of the same make, as the published one begins from
/// ImageNet's: a few hundred steps of captions teach it to write, but hardly to see.
fn init_from_damsm(context: &Context, cnn: &Store) -> Result<()> {
    let config = context.config;
    let alike = config.damsm.backbone().is_ok_and(|b| config.stream.network().is_ok_and(|n| n.backbone == b));
    let Some(matching) = context.finished(Phase::Damsm).ok().filter(|_| alike) else { return Ok(()) };
    let lender = Archive::read(weight_file(&matching.folder, IMAGE_ENCODER))?;
    let mut archive = cnn.archive();
    for name in lender.names().filter(|name| name.starts_with(TRUNK)) {
        archive.insert(name, lender.get(name).expect("it was named").clone());
    }
    cnn.load(archive)
}

impl PhaseTrainer for CaptionerPhase<'_> {
    fn step(&mut self, _: Position, batch: &Inputs) -> Vec<(String, f32)> {
        let loss = self.captioner.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Train);
        let targets = [self.cnn.targets(), self.rnn.targets()].concat();
        let mut gradients = backward(&loss, &targets.iter().collect::<Vec<_>>());
        drop(targets);
        self.cnn.step(&mut gradients);
        self.rnn.step(&mut gradients);
        vec![("caption".to_string(), loss.item())]
    }

    fn save(&mut self, folder: &Path) -> Result<()> {
        self.stores.cnn.save(weight_file(folder, CAPTION_CNN))?;
        self.stores.rnn.save(weight_file(folder, CAPTION_RNN))?;
        let mut optimizer = Archive::default();
        optimizer.add_section(CAPTION_CNN, self.cnn.archive());
        optimizer.add_section(CAPTION_RNN, self.rnn.archive());
        optimizer.write(folder.join("optimizer.safetensors"))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.stores.cnn.load(Archive::read(weight_file(folder, CAPTION_CNN))?)?;
        self.stores.rnn.load(Archive::read(weight_file(folder, CAPTION_RNN))?)?;
        let mut optimizer = Archive::read(folder.join("optimizer.safetensors"))?;
        self.cnn.load(optimizer.take_section(CAPTION_CNN))?;
        self.rnn.load(optimizer.take_section(CAPTION_RNN))
    }

    /// How well pictures that were not trained on are described; a model that has learnt nothing stays at the
    /// logarithm of the vocabulary.
    fn figure(&mut self) -> Result<Option<Metric>> {
        let config = self.context.config;
        let (mut sum, mut count) = (0.0, 0);
        for batch in self.context.held_out(config.eval.pictures, config.stream.batch)? {
            let batch = batch?;
            if batch.is_empty() {
                continue;
            }
            let batch = Inputs::new(batch, &[config.gan.largest()]);
            let describe =
                || self.captioner.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Eval);
            sum += no_grad(describe).item() * batch.count() as f32;
            count += batch.count();
        }
        let (value, ignorance) = (sum / count.max(1) as f32, (self.context.words() as f32).ln());
        let message =
            format!("caption loss {value:.3} a word on {count} held-out pictures (chance {ignorance:.3})");
        Ok(Some(Metric { name: "held_out".to_string(), value, message }))
    }
}
