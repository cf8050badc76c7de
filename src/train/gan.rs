//! The last stage: generator and discriminators. One step reads like the papers.

use std::path::Path;

use super::phase::{PhaseTrainer, Position};
use crate::config::Config;
use crate::data::Picture;
use crate::engine::nn::{Adam, AdamConfig, Archive, Mode, Scope, Source, Store};
use crate::engine::tensor::{no_grad, range};
use crate::engine::{IntTensor, Tensor};
use crate::error::{Error, Result};
use crate::eval::{Metric, r_precision};
use crate::infer::frozen;
use crate::mirrorgan::captioner::Captioner;
use crate::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use crate::mirrorgan::discriminator::Discriminator;
use crate::mirrorgan::generator::{Generated, Generator};
use crate::mirrorgan::losses::{Terms, discriminator_loss, generator_loss};
use crate::mirrorgan::stem::{TextEmbedding, TextEncoder};
use crate::render::grid;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs, Phase};

pub(super) struct Gan<'a> {
    context: &'a Context<'a>,
    text: TextEncoder,
    frozen: FrozenNetworks,
    generator: Generator,
    generator_store: Store,
    generator_adam: Adam,
    discriminators: Vec<Discriminator>,
    discriminator_stores: Vec<Store>,
    discriminator_adams: Vec<Adam>,
    samples: Samples,
}

/// Frozen networks that a picture is shown to; those of no weight in the loss are left out.
struct FrozenNetworks {
    captioner: Option<Captioner>,
    damsm: Option<ImageEncoder>,
}

/// What the sample grids are painted from.
struct Samples {
    captions: Vec<String>,
    meaning: TextEmbedding,
    lengths: IntTensor,
    noise: Tensor,
    eps: Tensor,
}

impl<'a> Gan<'a> {
    pub fn new(context: &'a Context<'a>) -> Result<Gan<'a>> {
        let config = context.config;
        let matching = context.finished(Phase::Damsm)?.folder;
        let text = frozen::text_encoder(&matching, context.words(), config)?;
        let frozen = FrozenNetworks::new(context, &matching)?;
        let init = |network| Source::Init(rng_for(config.train.seed, network, RngStream::Weights));
        let features = config.stem.features;
        let build = |scope: &Scope| Generator::new(scope, features, &config.gan.generator());
        let (generator, generator_store) = Store::build(init(4), build)?;
        let adam = Adam::new(generator_store.params(), adam(config, config.train.lr_g));
        let mut gan = Gan {
            context,
            samples: Samples::new(context, &text)?,
            text,
            frozen,
            generator,
            generator_adam: adam.averaging(config.train.average_decay),
            generator_store,
            discriminators: Vec::new(),
            discriminator_stores: Vec::new(),
            discriminator_adams: Vec::new(),
        };
        for (&side, network) in config.gan.sizes().iter().zip(5..) {
            let build =
                |scope: &Scope| Discriminator::new(scope, side, features, &config.gan.discriminator());
            gan.add_discriminator(Store::build(init(network), build)?);
        }
        Ok(gan)
    }

    fn add_discriminator(&mut self, (discriminator, store): (Discriminator, Store)) {
        let config = self.context.config;
        self.discriminators.push(discriminator);
        self.discriminator_adams.push(Adam::new(store.params(), adam(config, config.train.lr_d)));
        self.discriminator_stores.push(store);
    }

    /// z [B,Z] and the augmentation's eps [B,C] of a step.
    fn noise(&self, step: u64, batch: usize) -> (Tensor, Tensor) {
        let gan = &self.context.config.gan;
        let mut rng = rng_for(self.context.config.train.seed, step, RngStream::Noise);
        (rng.normal([batch, gan.noise]), rng.normal([batch, gan.condition]))
    }

    /// The generator's loss beyond what the discriminators say.
    fn judged(&self, made: &Generated, meaning: &TextEmbedding, batch: &Inputs, terms: &mut Terms) {
        let (config, largest) = (self.context.config, &made.images[made.images.len() - 1]);
        if let Some(captioner) = &self.frozen.captioner {
            let loss = captioner.loss(largest, &batch.captions, &batch.lengths, Mode::Eval);
            terms.add_weighted(config.gan.lambda_stream, Terms::from([("caption", loss)]));
        }
        if let Some(image) = &self.frozen.damsm {
            let seen = image.forward(largest, Mode::Eval);
            let (classes, gammas) = (Some(&batch.classes), config.damsm.gammas());
            let loss = damsm_loss(&seen, meaning, &batch.lengths, classes, gammas);
            terms.add_weighted(config.gan.lambda_damsm, loss);
        }
    }
}

impl PhaseTrainer for Gan<'_> {
    fn step(&mut self, at: Position, batch: &Inputs) -> Vec<(String, f32)> {
        // 1  text → embeddings (STEM is frozen)
        let meaning = range("text", || self.text.forward(&batch.captions, &batch.lengths, None));

        // 2  noise → a picture of every size
        let (z, eps) = self.noise(at.step, batch.count());
        let paint = || self.generator.forward(&z, &meaning, &batch.lengths, &eps, Mode::Train);
        let made = range("generator", paint);

        // 3  each discriminator learns to tell real from made, and to tell whose caption it is
        let mut told = Terms::default();
        let pairs = batch.images.iter().zip(&made.images);
        for (i, ((d, adam), (real, fake))) in
            self.discriminators.iter().zip(&mut self.discriminator_adams).zip(pairs).enumerate()
        {
            range(format!("discriminator {i}"), || {
                let loss = discriminator_loss(d, real, &fake.detach(), &meaning.sentence);
                adam.minimize(&loss);
                told.push(format!("d{i}"), loss.detach());
            });
        }

        // 4  the generator learns to fool them, to be re-described as its caption (STREAM), to match it (DAMSM)
        let mut terms = generator_loss(&self.discriminators, &made, &meaning.sentence);
        self.judged(&made, &meaning, batch, &mut terms);
        range("generator learns", || self.generator_adam.minimize(&terms.total()));

        [told.values(), terms.values()].concat()
    }

    fn save(&mut self, folder: &Path) -> Result<()> {
        self.generator_store.save(folder.join("netG_raw.safetensors"))?;
        let average = averaged(&mut self.generator_adam, || self.generator_store.archive());
        average.write(folder.join("netG.safetensors"))?;
        let mut optimizer = Archive::default();
        optimizer.add_section("netG", self.generator_adam.archive());
        for (i, (store, adam)) in self.discriminator_stores.iter().zip(&self.discriminator_adams).enumerate()
        {
            store.save(folder.join(format!("netD{i}.safetensors")))?;
            optimizer.add_section(&format!("netD{i}"), adam.archive());
        }
        optimizer.write(folder.join("optimizer.safetensors"))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.generator_store.load(Archive::read(folder.join("netG_raw.safetensors"))?)?;
        let mut optimizer = Archive::read(folder.join("optimizer.safetensors"))?;
        self.generator_adam.load(optimizer.take_section("netG"))?;
        let discriminators = self.discriminator_stores.iter().zip(&mut self.discriminator_adams);
        for (i, (store, adam)) in discriminators.enumerate() {
            store.load(Archive::read(folder.join(format!("netD{i}.safetensors")))?)?;
            adam.load(optimizer.take_section(&format!("netD{i}")))?;
        }
        Ok(())
    }

    fn paint(&mut self) -> Option<Picture> {
        let Samples { meaning, lengths, noise, eps, .. } = &self.samples;
        let paint = || self.generator.forward(noise, meaning, lengths, eps, Mode::Eval);
        let made = averaged(&mut self.generator_adam, paint);
        let row = |caption| made.images.iter().map(|image| grid::picture(image, caption)).collect();
        Some(grid::table(&(0..lengths.len()).map(row).collect::<Vec<Vec<Picture>>>()))
    }

    fn captions(&self) -> &[String] {
        &self.samples.captions
    }

    /// How often a picture finds the caption it was painted from.
    fn figure(&mut self) -> Result<Option<Metric>> {
        let (context, gan) = (self.context, &self.context.config.gan);
        let matching = context.finished(Phase::Damsm)?.folder;
        let image = frozen::image_encoder(&matching, context.config)?;
        let mut rng = rng_for(context.config.train.seed, 0, RngStream::Evaluation);
        let code = |batch: &Inputs| {
            let meaning = self.text.forward(&batch.captions, &batch.lengths, None);
            let z = rng.normal([batch.count(), gan.noise]);
            let eps = rng.normal([batch.count(), gan.condition]);
            let made = self.generator.forward(&z, &meaning, &batch.lengths, &eps, Mode::Eval);
            (image.forward(&made.images[made.images.len() - 1], Mode::Eval).global, meaning.sentence)
        };
        averaged(&mut self.generator_adam, || r_precision::measure(context, "generated pictures", code))
    }
}

/// Runs `f` with the averaged weights in the network.
fn averaged<R>(adam: &mut Adam, f: impl FnOnce() -> R) -> R {
    adam.swap_averages();
    let result = no_grad(f);
    adam.swap_averages();
    result
}

fn adam(config: &Config, learning_rate: f64) -> AdamConfig {
    let train = &config.train;
    AdamConfig { learning_rate, beta1: train.beta1, beta2: train.beta2, epsilon: train.adam_epsilon }
}

impl FrozenNetworks {
    fn new(context: &Context, matching: &Path) -> Result<FrozenNetworks> {
        let config = context.config;
        let captioner = || -> Result<Captioner> {
            frozen::captioner(&context.finished(Phase::Captioner)?.folder, context.words(), config)
        };
        let damsm = || frozen::image_encoder(matching, config);
        Ok(FrozenNetworks {
            captioner: (config.gan.lambda_stream > 0.0).then(captioner).transpose()?,
            damsm: (config.gan.lambda_damsm > 0.0).then(damsm).transpose()?,
        })
    }
}

impl Samples {
    fn new(context: &Context, text: &TextEncoder) -> Result<Samples> {
        let (config, rows) = (context.config, context.config.train.sample_rows);
        let batch = context.held_out(rows, rows)?.next().transpose()?.filter(|batch| !batch.is_empty());
        let none =
            || Error::data(&context.dataset.root, "none of the pictures for the sample grids can be used");
        let batch = batch.ok_or_else(none)?;
        let sentence = |ids: &[i32]| context.dataset.vocabulary.sentence(ids);
        let captions = batch.captions.chunks(config.data.words_eval).map(sentence).collect();
        let batch = Inputs::new(batch, &[config.gan.largest()]);
        let meaning = no_grad(|| text.forward(&batch.captions, &batch.lengths, None));
        let mut rng = rng_for(config.train.seed, 0, RngStream::Samples);
        let (noise, eps) = (
            rng.normal([batch.count(), config.gan.noise]),
            rng.normal([batch.count(), config.gan.condition]),
        );
        Ok(Samples { captions, meaning, lengths: batch.lengths, noise, eps })
    }
}
