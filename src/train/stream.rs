//! The second stage: STREAM learns to describe real pictures, so that it can re-describe generated ones.

use std::path::Path;

use super::damsm;
use super::inputs::Inputs;
use super::noise::{Purpose, stream};
use super::stage::{At, Context, Figure, Kind, Stage};
use crate::config::Config;
use crate::engine::nn::{Adam, AdamConfig, Archive, Mode, Scope, Source, Store};
use crate::engine::tensor::{backward, no_grad};
use crate::error::Result;
use crate::mirrorgan::backbone::TRUNK;
use crate::mirrorgan::stream::Stream;

const CNN: &str = "caption_cnn";
const RNN: &str = "caption_rnn";

/// The captioner and its two files' worth of parameters.
struct Stores {
    cnn: Store,
    rnn: Store,
}

fn build(cnn: Source, rnn: Source, words: usize, config: &Config) -> Result<(Stream, Stores)> {
    let network = config.stream.network()?;
    let inside = |cnn: &Scope| Store::build(rnn, |rnn| Stream::new(cnn, rnn, words, &network));
    let (built, cnn) = Store::build(cnn, inside)?;
    let (stream, rnn) = built?;
    Ok((stream, Stores { cnn, rnn }))
}

/// STREAM as this stage left it: nothing is recorded for its sake any more.
pub fn frozen(checkpoint: &Path, words: usize, config: &Config) -> Result<Stream> {
    let read =
        |name: &str| Archive::read(checkpoint.join(format!("{name}.safetensors"))).map(Source::Archive);
    let (stream, stores) = build(read(CNN)?, read(RNN)?, words, config)?;
    stores.cnn.freeze();
    stores.rnn.freeze();
    Ok(stream)
}

pub(super) struct Describe<'a> {
    context: &'a Context<'a>,
    stream: Stream,
    stores: Stores,
    cnn: Adam,
    rnn: Adam,
}

impl<'a> Describe<'a> {
    pub fn new(context: &'a Context<'a>) -> Result<Describe<'a>> {
        let config = context.config;
        let init = |network| Source::Init(stream(config.train.seed, network, Purpose::Weights));
        let (stream, stores) = build(init(2), init(3), context.words(), config)?;
        borrow_eyes(context, &stores.cnn)?;
        let (learning_rate, beta1, beta2) = (config.stream.lr, config.stream.beta1, config.stream.beta2);
        let adam = AdamConfig { learning_rate, beta1, beta2, epsilon: config.train.adam_epsilon };
        let (cnn, rnn) = (Adam::new(stores.cnn.params(), adam), Adam::new(stores.rnn.params(), adam));
        Ok(Describe { context, stream, stores, cnn, rnn })
    }
}

/// A small encoder begins from DAMSM's, where that is trained and of the same make, as the published one begins from
/// ImageNet's: a few hundred steps of captions teach it to write, but hardly to see.
fn borrow_eyes(context: &Context, cnn: &Store) -> Result<()> {
    let config = context.config;
    let alike = config.damsm.backbone().is_ok_and(|b| config.stream.network().is_ok_and(|n| n.backbone == b));
    let Some(matching) = context.finished(Kind::Damsm).ok().filter(|_| alike) else { return Ok(()) };
    let lender = Archive::read(damsm::image_encoder_file(&matching.folder))?;
    let mut archive = cnn.archive();
    for name in lender.names().filter(|name| name.starts_with(TRUNK)) {
        archive.insert(name, lender.get(name).expect("it was named").clone());
    }
    cnn.load(archive)
}

impl Stage for Describe<'_> {
    fn step(&mut self, _: At, batch: &Inputs) -> Vec<(String, f32)> {
        let loss = self.stream.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Train);
        let targets = [self.cnn.targets(), self.rnn.targets()].concat();
        let mut gradients = backward(&loss, &targets.iter().collect::<Vec<_>>());
        drop(targets);
        self.cnn.step(&mut gradients);
        self.rnn.step(&mut gradients);
        vec![("caption".to_string(), loss.item())]
    }

    fn save(&mut self, folder: &Path) -> Result<()> {
        self.stores.cnn.save(folder.join(format!("{CNN}.safetensors")))?;
        self.stores.rnn.save(folder.join(format!("{RNN}.safetensors")))?;
        let mut optimiser = Archive::default();
        optimiser.add_section(CNN, self.cnn.archive());
        optimiser.add_section(RNN, self.rnn.archive());
        optimiser.write(folder.join("optimizer.safetensors"))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        self.stores.cnn.load(Archive::read(folder.join(format!("{CNN}.safetensors")))?)?;
        self.stores.rnn.load(Archive::read(folder.join(format!("{RNN}.safetensors")))?)?;
        let mut optimiser = Archive::read(folder.join("optimizer.safetensors"))?;
        self.cnn.load(optimiser.take_section(CNN))?;
        self.rnn.load(optimiser.take_section(RNN))
    }

    /// How well pictures that were not trained on are described; a model that has learnt nothing stays at the
    /// logarithm of the vocabulary.
    fn figure(&mut self) -> Result<Option<Figure>> {
        let config = self.context.config;
        let (mut sum, mut count) = (0.0, 0);
        for batch in self.context.held_out(config.eval.pictures, config.stream.batch)? {
            let batch = batch?;
            if batch.is_empty() {
                continue;
            }
            let batch = Inputs::new(batch, &[config.gan.largest()]);
            let describe = || self.stream.loss(batch.largest(), &batch.captions, &batch.lengths, Mode::Eval);
            sum += no_grad(describe).item() * batch.count() as f32;
            count += batch.count();
        }
        let (value, ignorance) = (sum / count.max(1) as f32, (self.context.words() as f32).ln());
        let told =
            format!("caption loss {value:.3} a word on {count} held-out pictures (chance {ignorance:.3})");
        Ok(Some(Figure { name: "held_out".to_string(), value, told }))
    }
}
