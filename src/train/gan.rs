//! The last phase: generator and discriminators. [`GanPhase::compute`] reads like the papers.

use std::path::Path;

use super::collapse::{ACCURACY, DIVERSITY, Spread};
use super::initial::InitialWeights;
use super::phase::{
    Evaluation, Gauges, PhaseTrainer, Position, Trainable, WeightFiles, gradient_norm, r_precision_metric,
};
use crate::config::Config;
use crate::data::{Batch, Picture};
use crate::engine::nn::{Adam, Archive, Mode, Source, Store};
use crate::engine::tensor::{Rng, no_grad, range};
use crate::engine::{IntTensor, Tensor};
use crate::error::{Error, Result};
use crate::infer::features::{self, Codes, Watch};
use crate::infer::frozen::{
    self, GENERATOR, RAW_GENERATOR, build_discriminator, build_generator, discriminator_stem, weight_file,
};
use crate::mirrorgan::captioner::Captioner;
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use crate::mirrorgan::discriminator::Discriminator;
use crate::mirrorgan::generator::{Generated, Generator, GeneratorConfig};
use crate::mirrorgan::losses::{Judged, Terms, discriminator_loss, generator_loss};
use crate::mirrorgan::stem::{TextEmbedding, TextEncoder};
use crate::render::{SampleRow, pictures, sample_table};
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Checkpoint, Context, Inputs, OPTIMIZER, Phase};

pub(super) struct GanPhase<'a> {
    context: Context<'a>,
    text: TextEncoder,
    frozen: FrozenNetworks,
    generator: Trainable<Generator>,
    discriminators: Vec<Discriminator>,
    discriminator_stores: Vec<Store>,
    discriminator_adams: Vec<Adam>,
    samples: SampleInputs,
    /// Of the real images that the phase is measured on, once it was.
    real: Option<Spread>,
    builds_on: Vec<(Phase, u64)>,
}

/// The networks of the semantic losses; one whose weight in the loss is 0 is absent.
struct FrozenNetworks {
    captioner: Option<Captioner>,
    damsm: Option<ImageEncoder>,
}

/// Captions, their real pictures, and noise of the sample grids.
struct SampleInputs {
    captions: Vec<String>,
    real: Vec<Picture>,
    embedding: TextEmbedding,
    lengths: IntTensor,
    noise: Tensor,
    eps: Tensor,
}

/// z [B,Z] and the augmentation's eps [B,C].
fn draw_noise(rng: &mut Rng, batch: usize, config: &GeneratorConfig) -> (Tensor, Tensor) {
    (rng.normal([batch, config.noise]), rng.normal([batch, config.condition]))
}

/// The noise of a step.
fn step_noise(config: &Config, at: Position, batch: &Inputs) -> (Tensor, Tensor) {
    let mut rng = rng_for(config.run.seed, at.step, RngStream::Noise);
    draw_noise(&mut rng, batch.count(), &config.generator)
}

impl<'a> GanPhase<'a> {
    pub fn new(context: Context<'a>) -> Result<GanPhase<'a>> {
        let (config, words) = (context.config, context.words());
        let damsm = context.trained(Phase::Damsm)?;
        let captioner = match config.loss.lambda_captioner > 0.0 {
            true => Some(context.trained(Phase::Captioner)?),
            false => None,
        };
        let builds_on = [Some(&damsm), captioner.as_ref()].into_iter().flatten();
        let builds_on = builds_on.map(|checkpoint| (checkpoint.state.phase, checkpoint.state.step)).collect();
        let text = frozen::text_encoder(&damsm.folder, words, config)?;
        let frozen = FrozenNetworks::new(&context, &damsm, captioner.as_ref())?;
        let init = |network| Source::Init(rng_for(config.run.seed, network, RngStream::Weights));
        let mut generator = Trainable::new(build_generator(init(4), config)?, config.gan.generator_adam);
        generator.adam = generator.adam.averaging(config.gan.average_decay);
        let samples = SampleInputs::new(&context, &text)?;
        let (mut discriminators, mut discriminator_stores, mut discriminator_adams) =
            (vec![], vec![], vec![]);
        for (&side, network) in config.generator.image_sides().iter().zip(5..) {
            let (discriminator, store) = build_discriminator(init(network), side, config)?;
            discriminators.push(discriminator);
            discriminator_adams.push(Adam::new(store.params(), config.gan.discriminator_adam));
            discriminator_stores.push(store);
        }
        Ok(GanPhase {
            context,
            text,
            frozen,
            generator,
            discriminators,
            discriminator_stores,
            discriminator_adams,
            samples,
            real: None,
            builds_on,
        })
    }

    /// In the phase's tail the learning rates fall linearly to 0, as pix2pix's do.
    fn set_lr(&mut self, step: u64) {
        let gan = &self.context.config.gan;
        let last = gan.schedule.last_step(self.context.dataset.train.len()) as f64;
        let share = ((last - step as f64) / (last * gan.lr_tail)).clamp(0.0, 1.0);
        self.generator.adam.set_lr(gan.generator_adam.lr * share);
        for adam in &mut self.discriminator_adams {
            adam.set_lr(gan.discriminator_adam.lr * share);
        }
    }

    /// Adds the generator's loss beyond the discriminators': the caption of the image (STREAM), and its match with
    /// the words (DAMSM).
    fn semantic_losses(
        &self,
        generated: &Generated,
        text: &TextEmbedding,
        batch: &Inputs,
        terms: &mut Terms,
    ) {
        let (config, largest) = (self.context.config, &generated.images[generated.images.len() - 1]);
        if let Some(captioner) = &self.frozen.captioner {
            let loss = captioner.loss(largest, &batch.captions, &batch.lengths, Mode::Eval);
            terms.add_weighted(config.loss.lambda_captioner, Terms::from([("caption", loss)]));
        }
        if let Some(encoder) = &self.frozen.damsm {
            let image = encoder.forward(largest, Mode::Eval);
            let loss = damsm_loss(&image, text, &batch.lengths, Some(&batch.classes), config.damsm.gammas);
            terms.add_weighted(config.loss.lambda_damsm, loss);
        }
    }
}

impl PhaseTrainer for GanPhase<'_> {
    /// The generator begins with the averaged weights, which are all that the published code kept.
    fn adopt(&mut self, weights: &InitialWeights) -> Result<()> {
        let Trainable { store, adam, .. } = &mut self.generator;
        weights.load(GENERATOR, store)?;
        let config = &self.context.config.gan;
        *adam = Adam::new(store.params(), config.generator_adam).averaging(config.average_decay);
        let mut stores = self.discriminator_stores.iter().enumerate();
        stores.try_for_each(|(i, store)| weights.load(&discriminator_stem(i), store))
    }

    fn load(&self, batch: Batch) -> Inputs {
        Inputs::new(batch, &self.context.image_sides(Phase::Gan))
    }

    fn noise(&self, at: Position, batch: &Inputs) -> Vec<(&'static str, Tensor)> {
        let (z, eps) = step_noise(self.context.config, at, batch);
        vec![("z", z), ("eps", eps)]
    }

    fn compute(&mut self, at: Position, batch: &Inputs, mut gauges: Option<&mut Gauges>) -> Terms {
        let config = self.context.config;
        let objective = config.loss.objective;
        self.set_lr(at.step);

        // 1  captions → words w, sentence s (STEM, frozen)
        let text = range("text", || self.text.forward(&batch.captions, &batch.lengths, None));

        // 2  noise z, w, s → an image from every stage
        let (z, eps) = step_noise(config, at, batch);
        let generate = || self.generator.network.forward(&z, &text, &batch.lengths, &eps, Mode::Train);
        let generated = range("generator", generate);

        // 3  each discriminator learns real from generated, and matching from mismatched captions
        let mut discriminator_losses = Terms::default();
        let networks = self.discriminators.iter().zip(&mut self.discriminator_adams);
        let images = batch.images.iter().zip(&generated.images);
        for (i, ((d, adam), (real, fake))) in networks.zip(images).enumerate() {
            range(format!("discriminator {i}"), || {
                let judged =
                    discriminator_loss(objective.adversarial, d, real, &fake.detach(), &text.sentence);
                learn(adam, &judged.loss, &discriminator_stem(i), &mut gauges);
                gauge_accuracies(&mut gauges, i, &judged);
                discriminator_losses.push(format!("d{i}"), judged.loss.detach());
            });
        }

        // 4  the generator learns to fool them, to be re-described by its caption (STREAM) and to match it (DAMSM)
        let mut generator_losses =
            generator_loss(objective, &self.discriminators, &generated, &text.sentence);
        self.semantic_losses(&generated, &text, batch, &mut generator_losses);
        range("generator learns", || {
            learn(&mut self.generator.adam, &generator_losses.total(), GENERATOR, &mut gauges);
        });

        let mut terms = discriminator_losses;
        terms.append(generator_losses.detach());
        terms
    }

    fn save(&mut self, files: &WeightFiles) -> Result<()> {
        let Trainable { store, adam, .. } = &mut self.generator;
        files.write(RAW_GENERATOR, store.archive())?;
        files.write(GENERATOR, averaged(adam, || store.archive()))?;
        let mut optimizer = Archive::default();
        optimizer.add_section(GENERATOR, adam.archive());
        let discriminators = self.discriminator_stores.iter().zip(&self.discriminator_adams);
        for (i, (store, adam)) in discriminators.enumerate() {
            files.write(&discriminator_stem(i), store.archive())?;
            optimizer.add_section(&discriminator_stem(i), adam.archive());
        }
        files.write(OPTIMIZER, optimizer)
    }

    fn restore(&mut self, folder: &Path) -> Result<()> {
        self.generator.store.load(Archive::read(weight_file(folder, RAW_GENERATOR))?)?;
        let mut optimizer = Archive::read(weight_file(folder, OPTIMIZER))?;
        self.generator.adam.load(optimizer.take_section(GENERATOR))?;
        let discriminators = self.discriminator_stores.iter().zip(&mut self.discriminator_adams);
        for (i, (store, adam)) in discriminators.enumerate() {
            store.load(Archive::read(weight_file(folder, &discriminator_stem(i)))?)?;
            adam.load(optimizer.take_section(&discriminator_stem(i)))?;
        }
        Ok(())
    }

    fn builds_on(&self) -> Vec<(Phase, u64)> {
        self.builds_on.clone()
    }

    fn learning_rates(&self) -> Vec<(&'static str, f64)> {
        let discriminators = self.discriminator_adams.first().map(|adam| ("netD", adam.lr()));
        [(GENERATOR, self.generator.adam.lr())].into_iter().chain(discriminators).collect()
    }

    fn sample(&mut self, step: u64) -> Option<(&'static str, Picture)> {
        let SampleInputs { captions, real, embedding, lengths, noise, eps } = &self.samples;
        let Trainable { network, adam, .. } = &mut self.generator;
        let generated = averaged(adam, || network.forward(noise, embedding, lengths, eps, Mode::Eval));
        let stages: Vec<Vec<Picture>> = generated.images.iter().map(pictures).collect();
        let row = |(at, (caption, real)): (usize, (&String, &Picture))| SampleRow {
            caption: caption.clone(),
            real: real.clone(),
            generated: stages.iter().map(|stage| stage[at].clone()).collect(),
        };
        let rows: Vec<SampleRow> = captions.iter().zip(real).enumerate().map(row).collect();
        let remark = "Held-out captions with fixed noise; averaged weights.";
        Some(("images", sample_table(&format!("Generator after step {step}"), remark, &rows)))
    }

    fn captions(&self) -> &[String] {
        &self.samples.captions
    }

    /// R-precision of generated images, and how much they differ as a share of the real ones'.
    fn measure(&mut self, watch: &mut dyn Watch) -> Result<Option<Vec<(String, f32)>>> {
        let (mut real, mut generated) = (Spread::default(), Spread::default());
        let (count, is_known) = (self.context.config.eval.follow_images, self.real.is_some());
        let codes = self.codes(count, watch, |codes| {
            generated.take(codes.generated);
            if !is_known {
                real.take(&codes.encoder.forward(codes.real, Mode::Eval).global);
            }
        })?;
        let Some(codes) = codes else { return Ok(None) };
        // The real images stay the same.
        let real = &*self.real.get_or_insert(real);
        let mut values = Vec::new();
        if let Evaluation::Metric(metric) = r_precision_metric(&self.context, "generated images", Some(codes))
        {
            values.push((metric.name, metric.value));
        }
        values.extend(generated.share_of(real).map(|share| (DIVERSITY.to_string(), share as f32)));
        Ok(Some(values))
    }

    /// How often an image finds the caption it was generated from.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Evaluation> {
        let codes = self.codes(self.context.config.eval.images, watch, |_| {})?;
        Ok(r_precision_metric(&self.context, "generated images", codes))
    }
}

/// A batch of an evaluation: real images, and the codes of generated ones.
struct Batched<'a> {
    encoder: &'a ImageEncoder,
    real: &'a Tensor,
    generated: &'a Tensor,
}

impl GanPhase<'_> {
    /// Codes of images that the averaged generator makes for the captions of at most `count` held-out images, always
    /// of the same noise; `seen` takes each batch.
    fn codes(
        &mut self,
        count: usize,
        watch: &mut dyn Watch,
        mut seen: impl FnMut(Batched),
    ) -> Result<Option<Codes>> {
        let (context, config) = (&self.context, self.context.config);
        let opened = match &self.frozen.damsm {
            Some(_) => None,
            None => Some(frozen::image_encoder(&context.trained(Phase::Damsm)?.folder, config)?),
        };
        let encoder = self.frozen.damsm.as_ref().or(opened.as_ref()).expect("one of both is there");
        let mut rng = rng_for(config.run.seed, 0, RngStream::Evaluation);
        let Trainable { network, adam, .. } = &mut self.generator;
        let encode = |batch: &Inputs| {
            let text = self.text.forward(&batch.captions, &batch.lengths, None);
            let (z, eps) = draw_noise(&mut rng, batch.count(), &config.generator);
            let images = network.forward(&z, &text, &batch.lengths, &eps, Mode::Eval).images;
            let generated = encoder.forward(&images[images.len() - 1], Mode::Eval).global;
            seen(Batched { encoder, real: batch.largest(), generated: &generated });
            (generated, text.sentence)
        };
        averaged(adam, || features::codes(context, count, config.gan.schedule.batch, watch, encode))
    }
}

/// Backward from a network's loss, then a step.
fn learn(adam: &mut Adam, loss: &Tensor, network: &str, gauges: &mut Option<&mut Gauges>) {
    match gauges {
        Some(gauges) => gauges.push(gradient_norm(network, adam.minimize_with_norm(loss))),
        None => adam.minimize(loss),
    }
}

fn gauge_accuracies(gauges: &mut Option<&mut Gauges>, discriminator: usize, judged: &Judged) {
    let Some(gauges) = gauges else { return };
    for (of, share) in ["real", "generated"].into_iter().zip(judged.accuracies()) {
        gauges.push((format!("{ACCURACY}/{}_{of}", discriminator_stem(discriminator)), share));
    }
}

/// Runs `f` with the averaged weights in the network.
fn averaged<R>(adam: &mut Adam, f: impl FnOnce() -> R) -> R {
    adam.swap_averages();
    let result = no_grad(f);
    adam.swap_averages();
    result
}

impl FrozenNetworks {
    fn new(context: &Context, damsm: &Checkpoint, captioner: Option<&Checkpoint>) -> Result<FrozenNetworks> {
        let config = context.config;
        let load = |checkpoint: &Checkpoint| frozen::captioner(&checkpoint.folder, context.words(), config);
        let encoder = || frozen::image_encoder(&damsm.folder, config);
        Ok(FrozenNetworks {
            captioner: captioner.map(load).transpose()?,
            damsm: (config.loss.lambda_damsm > 0.0).then(encoder).transpose()?,
        })
    }
}

impl SampleInputs {
    fn new(context: &Context, text: &TextEncoder) -> Result<SampleInputs> {
        let config = context.config;
        let none =
            || Error::data(&context.dataset.root, "none of the images for the sample grids can be used");
        let batch = context.samples(config.run.sample_rows)?.ok_or_else(none)?;
        let sentence = |ids: &[i32]| context.dataset.vocabulary.sentence(ids);
        let captions = batch.captions.as_slice().chunks(config.data.words_eval).map(sentence).collect();
        let embedding = no_grad(|| text.forward(&batch.captions, &batch.lengths, None));
        let mut rng = rng_for(config.run.seed, 0, RngStream::Samples);
        let (noise, eps) = draw_noise(&mut rng, batch.count(), &config.generator);
        let real = pictures(batch.largest());
        Ok(SampleInputs { captions, real, embedding, lengths: batch.lengths, noise, eps })
    }
}
