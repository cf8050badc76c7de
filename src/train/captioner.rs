//! The second phase: the captioner (STREAM) learns to describe real images, so that it can re-describe generated ones.

use std::path::Path;

use super::initial::InitialWeights;
use super::phase::{
    Evaluation, Followed, Gauges, HELD_OUT_LOSS, PhaseTrainer, Position, WeightFiles, begin_backbone,
    gauge_norm,
};
use crate::data::Batch;
use crate::engine::nn::{Adam, Archive, Mode, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::eval::Metric;
use crate::files::Origin;
use crate::infer::features::{Watch, for_held_out};
use crate::infer::frozen::{
    CAPTION_CNN, CAPTION_RNN, CaptionerStores, IMAGE_ENCODER, build_captioner, weight_file,
};
use crate::mirrorgan::backbone::{BackboneKind, TRUNK};
use crate::mirrorgan::captioner::Captioner;
use crate::mirrorgan::losses::Terms;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs, OPTIMIZER, Phase};

pub(super) struct CaptionerPhase<'a> {
    context: Context<'a>,
    captioner: Captioner,
    stores: CaptionerStores,
    cnn: Adam,
    rnn: Adam,
    /// The step of the DAMSM phase that the backbone began with.
    damsm: Option<u64>,
}

impl<'a> CaptionerPhase<'a> {
    pub fn new(context: Context<'a>) -> Result<CaptionerPhase<'a>> {
        let config = context.config;
        let init = |network| Source::Init(rng_for(config.run.seed, network, RngStream::Weights));
        let (captioner, stores) = build_captioner([init(2), init(3)], context.words(), config)?;
        let adam = config.captioner.adam;
        let (cnn, rnn) = (Adam::new(stores.cnn.params(), adam), Adam::new(stores.rnn.params(), adam));
        Ok(CaptionerPhase { context, captioner, stores, cnn, rnn, damsm: None })
    }
}

/// Initializes the backbone with DAMSM's, where that is trained and has the same configuration, as the published
/// backbone is initialized from ImageNet: a few hundred steps of captions are too few to learn to see. Returns the step
/// of the weights.
fn init_from_damsm(context: &Context, cnn: &Store) -> Result<Option<u64>> {
    let config = context.config;
    let backbone = &config.captioner.network.backbone;
    let same = backbone.kind == BackboneKind::Small && config.damsm.backbone == *backbone;
    let Some(damsm) = context.trained(Phase::Damsm).ok().filter(|_| same) else { return Ok(None) };
    let trained = Archive::read(weight_file(&damsm.folder, IMAGE_ENCODER))?;
    let mut archive = cnn.archive();
    for name in trained.names().filter(|name| name.starts_with(TRUNK)) {
        archive.insert(name, trained.get(name).expect("it was named").clone());
    }
    cnn.load(archive)?;
    Ok(Some(damsm.state.step))
}

impl PhaseTrainer for CaptionerPhase<'_> {
    fn begin(&mut self) -> Result<Option<Origin>> {
        let origin = begin_backbone(&self.stores.cnn, &self.context.config.captioner.network.backbone)?;
        self.damsm = init_from_damsm(&self.context, &self.stores.cnn)?;
        Ok(origin)
    }

    fn adopt(&mut self, weights: &InitialWeights) -> Result<()> {
        weights.load(CAPTION_CNN, &self.stores.cnn)?;
        let tables = ["embed.weight", "linear.weight", "linear.bias"];
        weights.load_by_word(CAPTION_RNN, &self.stores.rnn, &tables)
    }

    fn load(&self, batch: Batch) -> Inputs {
        Inputs::new(batch, &self.context.image_sides(Phase::Captioner))
    }

    fn compute(&mut self, _: Position, batch: &Inputs, mut gauges: Option<&mut Gauges>) -> Terms {
        let loss = self.captioner.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Train);
        let targets = [self.cnn.targets(), self.rnn.targets()].concat();
        let mut gradients = backward(&loss, &targets.iter().collect::<Vec<_>>());
        drop(targets);
        gauge_norm(&mut gauges, CAPTION_CNN, &self.cnn, &gradients);
        gauge_norm(&mut gauges, CAPTION_RNN, &self.rnn, &gradients);
        self.cnn.step(&mut gradients);
        self.rnn.step(&mut gradients);
        Terms::from([("caption", loss.detach())])
    }

    fn save(&mut self, files: &WeightFiles) -> Result<()> {
        files.write(CAPTION_CNN, self.stores.cnn.archive())?;
        files.write(CAPTION_RNN, self.stores.rnn.archive())?;
        let mut optimizer = Archive::default();
        optimizer.add_section(CAPTION_CNN, self.cnn.archive());
        optimizer.add_section(CAPTION_RNN, self.rnn.archive());
        files.write(OPTIMIZER, optimizer)
    }

    fn restore(&mut self, folder: &Path) -> Result<()> {
        self.stores.cnn.load(Archive::read(weight_file(folder, CAPTION_CNN))?)?;
        self.stores.rnn.load(Archive::read(weight_file(folder, CAPTION_RNN))?)?;
        let mut optimizer = Archive::read(weight_file(folder, OPTIMIZER))?;
        self.cnn.load(optimizer.take_section(CAPTION_CNN))?;
        self.rnn.load(optimizer.take_section(CAPTION_RNN))
    }

    fn builds_on(&self) -> Vec<(Phase, u64)> {
        self.damsm.map(|step| (Phase::Damsm, step)).into_iter().collect()
    }

    fn learning_rates(&self) -> Vec<(&'static str, f64)> {
        vec![(CAPTION_CNN, self.cnn.lr()), (CAPTION_RNN, self.rnn.lr())]
    }

    fn measure(&mut self, watch: &mut dyn Watch) -> Result<Option<Vec<(String, f32)>>> {
        let count = self.context.config.eval.follow_images;
        Ok(self.held_out_loss(count, watch)?.map(|(loss, _)| vec![(HELD_OUT_LOSS.to_string(), loss)]))
    }

    fn followed(&self) -> Followed {
        Followed { name: HELD_OUT_LOSS, higher_is_better: false }
    }

    /// The caption loss on held-out images. An untrained captioner is at the logarithm of the vocabulary's size.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Evaluation> {
        let images = self.context.config.eval.images;
        let Some((value, count)) = self.held_out_loss(images, watch)? else {
            return Ok(Evaluation::Interrupted);
        };
        let chance = (self.context.words() as f32).ln();
        let mut message =
            format!("caption loss {value:.3} a word on {count} held-out images (chance {chance:.3})");
        if value > chance - NOTHING_LEARNT {
            message.push_str("; the loss equals ln(V) of the vocabulary's V words: nothing is learnt");
        }
        Ok(Evaluation::Metric(Metric { name: HELD_OUT_LOSS.to_string(), value, message }))
    }
}

/// A loss so near to chance is chance: STREAM of the published code ended there.
const NOTHING_LEARNT: f32 = 0.05;

impl CaptionerPhase<'_> {
    /// The loss of a word on at most `count` images, and their number; none where `watch` ended it.
    fn held_out_loss(&self, count: usize, watch: &mut dyn Watch) -> Result<Option<(f32, usize)>> {
        let (mut sum, mut seen) = (0.0, 0);
        let batch = self.context.config.captioner.schedule.batch;
        let whole = for_held_out(&self.context, count, batch, watch, |batch| {
            let loss = || self.captioner.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Eval);
            sum += no_grad(loss).item() * batch.count() as f32;
            seen += batch.count();
        })?;
        Ok(whole.then_some((sum / seen.max(1) as f32, seen)))
    }
}
