//! The first phase: STEM's text encoder and an image encoder learn one space, where a caption is near its image.

use std::path::Path;

use super::phase::{
    Evaluation, PhaseTrainer, Position, Trainable, WeightFiles, begin_backbone, r_precision_metric,
};
use crate::data::Batch;
use crate::engine::nn::{Archive, Mode, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::infer::features::{self, Watch};
use crate::infer::frozen::{IMAGE_ENCODER, TEXT_ENCODER, weight_file};
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use crate::mirrorgan::losses::Terms;
use crate::mirrorgan::stem::TextEncoder;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs, OPTIMIZER, Phase};

pub(super) struct DamsmPhase<'a> {
    context: Context<'a>,
    text: Trainable<TextEncoder>,
    image: Trainable<ImageEncoder>,
}

impl<'a> DamsmPhase<'a> {
    pub fn new(context: Context<'a>) -> Result<DamsmPhase<'a>> {
        let config = context.config;
        let (damsm, encoder) = (&config.damsm, &config.text_encoder);
        let init = |network| Source::Init(rng_for(config.run.seed, network, RngStream::Weights));
        let text = Store::build(init(0), |scope| TextEncoder::new(scope, context.words(), encoder))?;
        let image =
            Store::build(init(1), |scope| ImageEncoder::new(scope, encoder.features, &damsm.backbone))?;
        Ok(DamsmPhase {
            context,
            text: Trainable::new(text, damsm.adam),
            image: Trainable::new(image, damsm.adam),
        })
    }

    /// The learning rate decays with each epoch, down to its floor.
    fn set_lr(&mut self, epoch: u64) {
        let damsm = &self.context.config.damsm;
        let lr = damsm.adam.lr * damsm.lr_decay.powi(epoch as i32).max(damsm.lr_floor);
        self.text.adam.set_lr(lr);
        self.image.adam.set_lr(lr);
    }
}

impl PhaseTrainer for DamsmPhase<'_> {
    fn begin(&mut self) -> Result<()> {
        begin_backbone(&self.image.store, &self.context.config.damsm.backbone)
    }

    fn load(&self, batch: Batch) -> Inputs {
        Inputs::new(batch, &self.context.image_sides(Phase::Damsm))
    }

    fn compute(&mut self, at: Position, batch: &Inputs) -> Terms {
        let config = self.context.config;
        self.set_lr(at.epoch);
        let mut rng = rng_for(config.run.seed, at.step, RngStream::Dropout);
        let text = self.text.network.forward(&batch.captions, &batch.lengths, Some(&mut rng));
        let image = self.image.network.forward(batch.largest(), Mode::Train);
        let classes = Some(&batch.classes);
        let terms = damsm_loss(&image, &text, &batch.lengths, classes, config.damsm.gammas);

        let targets = [self.text.adam.targets(), self.image.adam.targets()].concat();
        let mut gradients = backward(&terms.total(), &targets.iter().collect::<Vec<_>>());
        drop(targets);
        self.text.adam.step_clipped(&mut gradients, config.damsm.clip);
        self.image.adam.step(&mut gradients);
        terms.detach()
    }

    fn save(&mut self, files: &WeightFiles) -> Result<()> {
        let mut optimizer = Archive::default();
        self.text.save(files, TEXT_ENCODER, &mut optimizer)?;
        self.image.save(files, IMAGE_ENCODER, &mut optimizer)?;
        files.write(OPTIMIZER, optimizer)
    }

    fn restore(&mut self, folder: &Path) -> Result<()> {
        let mut optimizer = Archive::read(weight_file(folder, OPTIMIZER))?;
        self.text.restore(folder, TEXT_ENCODER, &mut optimizer)?;
        self.image.restore(folder, IMAGE_ENCODER, &mut optimizer)
    }

    fn learning_rates(&self) -> Vec<(&'static str, f64)> {
        vec![(TEXT_ENCODER, self.text.adam.lr()), (IMAGE_ENCODER, self.image.adam.lr())]
    }

    /// How often a real image finds its caption.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Evaluation> {
        let codes = no_grad(|| {
            features::codes(&self.context, watch, |batch| {
                let text = self.text.network.forward(&batch.captions, &batch.lengths, None);
                (self.image.network.forward(batch.largest(), Mode::Eval).global, text.sentence)
            })
        })?;
        Ok(r_precision_metric(&self.context, "real images", codes))
    }
}
