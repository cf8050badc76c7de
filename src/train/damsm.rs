//! The first phase: STEM's text encoder and an image encoder learn one space, where a caption is near its image.

use std::path::Path;

use super::initial::InitialWeights;
use super::phase::{
    Evaluation, Gauges, HELD_OUT_LOSS, PhaseTrainer, Position, Trainable, WeightFiles, begin_backbone,
    gauge_norm, r_precision_metric,
};
use crate::data::{Batch, Picture};
use crate::engine::nn::{Archive, Mode, Source};
use crate::engine::ops::shape::{slice, transpose};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::files::Origin;
use crate::infer::features::{self, Codes, Watch};
use crate::infer::frozen::{
    IMAGE_ENCODER, TEXT_ENCODER, build_image_encoder, build_text_encoder, weight_file,
};
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss, region_attention};
use crate::mirrorgan::losses::Terms;
use crate::mirrorgan::stem::TextEncoder;
use crate::render::{Attention, Even, Tile, attention_sheet, column, pictures};
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
        let init = |network| Source::Init(rng_for(config.run.seed, network, RngStream::Weights));
        let text = build_text_encoder(init(0), context.words(), config)?;
        let image = build_image_encoder(init(1), config)?;
        let adam = config.damsm.adam;
        Ok(DamsmPhase { context, text: Trainable::new(text, adam), image: Trainable::new(image, adam) })
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
    fn begin(&mut self) -> Result<Option<Origin>> {
        begin_backbone(&self.image.store, &self.context.config.damsm.backbone)
    }

    fn adopt(&mut self, weights: &InitialWeights) -> Result<()> {
        weights.load_by_word(TEXT_ENCODER, &self.text.store, &["encoder.weight"])?;
        weights.load(IMAGE_ENCODER, &self.image.store)
    }

    fn load(&self, batch: Batch) -> Inputs {
        Inputs::new(batch, &self.context.image_sides(Phase::Damsm))
    }

    fn compute(&mut self, at: Position, batch: &Inputs, mut gauges: Option<&mut Gauges>) -> Terms {
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
        gauge_norm(&mut gauges, TEXT_ENCODER, &self.text.adam, &gradients);
        gauge_norm(&mut gauges, IMAGE_ENCODER, &self.image.adam, &gradients);
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

    /// Which regions each word of a held-out image's caption attends to.
    fn sample(&mut self, step: u64) -> Option<(&'static str, Picture)> {
        let config = self.context.config;
        let batch = self.context.samples(config.run.sample_rows.min(SHEETS)).ok()??;
        let captions = batch.captions.as_slice().chunks(config.data.words_eval);
        let vocabulary = &self.context.dataset.vocabulary;
        let remark = format!("DAMSM after step {step}: a held-out picture and its caption");
        let sheets = no_grad(|| {
            let text = self.text.network.forward(&batch.captions, &batch.lengths, None);
            let image = self.image.network.forward(batch.largest(), Mode::Eval);
            let [_, regions, width] = image.regions.dims();
            let (side, pictures) = (regions.isqrt(), pictures(batch.largest()));
            let sheet = |(at, (ids, &length)): (usize, (&[i32], &i32))| {
                let length = length as usize;
                let own = slice(&image.regions, 0, at, 1).reshape([regions, width]);
                let words = slice(&slice(&text.words, 0, at, 1), 1, 0, length).reshape([length, width]);
                let attention = region_attention(&words, &own, config.damsm.gammas.gamma1);
                let maps = transpose(&attention, &[1, 0]).reshape([1, side, side, length]);
                let spelled = ids[..length].iter().filter_map(|&id| vocabulary.word(id));
                let spelled: Vec<String> = spelled.map(str::to_string).collect();
                let picture = vec![Tile::new(pictures[at].clone(), "real picture")];
                let maps = [Attention::of(&maps, 0, length)];
                attention_sheet(&vocabulary.sentence(ids), &remark, picture, &maps, &spelled, Even::Regions)
            };
            captions.zip(batch.lengths.as_slice()).enumerate().map(sheet).collect::<Vec<Picture>>()
        });
        Some(("attention", column(&sheets)))
    }

    fn measure(&mut self, watch: &mut dyn Watch) -> Result<Option<Vec<(String, f32)>>> {
        let (mut sum, mut count) = (0.0, 0);
        let images = self.context.config.eval.follow_images;
        let seen = |loss, images| (sum, count) = (sum + loss * images as f32, count + images);
        let codes = self.codes(images, watch, seen)?;
        let Some(codes) = codes else { return Ok(None) };
        let mut values = Vec::new();
        if count > 0 {
            values.push((HELD_OUT_LOSS.to_string(), sum / count as f32));
        }
        if let Evaluation::Metric(metric) = r_precision_metric(&self.context, "real images", Some(codes)) {
            values.push((metric.name, metric.value));
        }
        Ok(Some(values))
    }

    /// How often a real image finds its caption.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Evaluation> {
        let codes = self.codes(self.context.config.eval.images, watch, |_, _| {})?;
        Ok(r_precision_metric(&self.context, "real images", codes))
    }
}

/// Images whose attention a sample shows, at most.
const SHEETS: usize = 4;

impl DamsmPhase<'_> {
    /// The codes of at most `count` held-out images; `seen` takes the loss of every whole batch and its number of images.
    fn codes(
        &self,
        count: usize,
        watch: &mut dyn Watch,
        mut seen: impl FnMut(f32, usize),
    ) -> Result<Option<Codes>> {
        let damsm = &self.context.config.damsm;
        no_grad(|| {
            features::codes(&self.context, count, damsm.schedule.batch, watch, |batch| {
                let text = self.text.network.forward(&batch.captions, &batch.lengths, None);
                let image = self.image.network.forward(batch.largest(), Mode::Eval);
                // The loss of a batch depends on its size.
                if batch.count() == damsm.schedule.batch {
                    let loss = damsm_loss(&image, &text, &batch.lengths, Some(&batch.classes), damsm.gammas);
                    seen(loss.total().item(), batch.count());
                }
                (image.global, text.sentence)
            })
        })
    }
}
