//! Networks and losses against what PyTorch computes in f64 on the same weights, both made by formula
//! (`tools/reference/make_goldens.py`). Every tensor of a golden file must be compared: one left over fails.

#![allow(clippy::excessive_precision)]

mod device;
mod formula;

use std::collections::BTreeMap;

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::nn::{
    Adam, AdamConfig, Archive, Array, CellKind, Mode, Param, Scope, Source, Store, Values,
};
use mirrorgan_engine::engine::ops::matmul::linear;
use mirrorgan_engine::engine::ops::pointwise::{add, add_all, mul, scale};
use mirrorgan_engine::engine::ops::pool::adaptive_avg_pool;
use mirrorgan_engine::engine::ops::reduce::{mean_rows, sum};
use mirrorgan_engine::engine::ops::shape::transpose;
use mirrorgan_engine::engine::tensor::{Grads, IntTensor, Tensor, backward};
use mirrorgan_engine::mirrorgan::backbone::{BackboneConfig, BackboneKind};
use mirrorgan_engine::mirrorgan::captioner::{CaptionDecoder, CaptionEncoder, Captioner, CaptionerConfig};
use mirrorgan_engine::mirrorgan::damsm::{Gammas, ImageEmbedding, ImageEncoder, damsm_loss};
use mirrorgan_engine::mirrorgan::discriminator::{Discriminator, DiscriminatorConfig, DiscriminatorNorm};
use mirrorgan_engine::mirrorgan::generator::{Generator, GeneratorConfig};
use mirrorgan_engine::mirrorgan::losses::{
    Adversarial, Objective, adversarial_loss, discriminator_loss, generator_loss,
};
use mirrorgan_engine::mirrorgan::stem::{TextEmbedding, TextEncoder, TextEncoderConfig};

const LENGTHS: [usize; 4] = [18, 11, 7, 5];
const WORDS: usize = 18;
const GRADIENT: f64 = 1e-3;

/// Every golden on the CPU, and under `cuda::` on the device under test.
macro_rules! goldens {
    ($($name:ident)*) => {
        mod cpu {
            $(#[test]
            fn $name() {
                super::$name();
            })*
        }

        mod cuda {
            $(#[test]
            fn $name() {
                if let Some(device) = super::device::cuda() {
                    super::with(device, super::$name);
                }
            })*
        }
    };
}

goldens! {
    text_encoder_lstm
    text_encoder_gru
    generator_mirror_small
    generator_attn_small
    generator_dcgan_small
    generator_mirror_cub
    discriminators_small
    discriminators_cub
    damsm_losses
    stream
    image_encoder
    image_encoder_lite
    image_encoder_small
    captioner_small
    gan_step_mirror
    gan_step_attn
}

// ------------------------------------------------------------------------------------------------- the golden file

/// A golden file, and the largest error found in each kind of tensor.
struct Golden {
    name: &'static str,
    archive: Archive,
    worst: BTreeMap<&'static str, (f64, String)>,
    /// What the names of images and noise end in, so that no activation lies at a kink.
    seed: Option<i64>,
}

impl Golden {
    fn open(name: &'static str) -> Golden {
        // The tests also run on machines where they were not built: tools/gpu takes the files along.
        let tests = std::env::var("ENGINE_TESTS");
        let tests = tests.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests").to_string());
        let path = format!("{tests}/golden/{name}.safetensors");
        let mut archive = Archive::read(path).unwrap();
        let seed = archive.take("seed").map(|seed| seed.to_i64()[0]);
        Golden { name, archive, worst: BTreeMap::new(), seed }
    }

    /// The name by which the formula makes an image or noise of this golden.
    fn seeded(&self, name: String) -> String {
        self.seed.map_or(name.clone(), |seed| format!("{name}/{seed}"))
    }

    fn take(&mut self, name: &str) -> Array {
        self.archive.take(name).unwrap_or_else(|| panic!("{} holds no '{name}'", self.name))
    }

    /// Compares values in PyTorch's order. A gradient below `floor` (its norm, per root of its length) is noise.
    fn close(&mut self, kind: &'static str, name: &str, ours: &[f32], tolerance: f64, floor: f64) {
        let error = match self.archive.take(name) {
            Some(whole) => distance(ours, &floats(whole), floor),
            None => self.digest_error(name, ours, floor),
        };
        assert!(
            error <= tolerance,
            "{}: {name}: relative error {error:.2e} exceeds {tolerance:.0e}",
            self.name
        );
        let worst = self.worst.entry(kind).or_default();
        if error >= worst.0 {
            *worst = (error, name.to_owned());
        }
    }

    fn forward(&mut self, name: &str, ours: &[f32], tolerance: f64) {
        self.close("forward", name, ours, tolerance, 0.0);
    }

    fn gradient(&mut self, name: &str, ours: &[f32]) {
        self.close("gradient", name, ours, GRADIENT, 1e-7);
    }

    /// A gradient through a hundred rectifiers: some of their millions of inputs lie within rounding of 0 on any image.
    /// PyTorch's own f32 is 5.9e-3 (Inception-v3) and 1.1e-2 (ResNet-152) from these goldens, and 5e-3 to 1.6e-2 from f64 on
    /// 24 other images.
    fn deep_gradient(&mut self, name: &str, ours: &[f32]) {
        self.close("gradient", name, ours, 1.5e-2, 1e-7);
    }

    /// A large tensor is kept as its norm, its mean and a sample of its values.
    fn digest_error(&mut self, name: &str, ours: &[f32], floor: f64) -> f64 {
        let [norm, mean, at, values] =
            ["norm", "mean", "at", "values"].map(|part| self.take(&format!("{name}.{part}")));
        let (norm, mean) = (f64::from(floats(norm)[0]), f64::from(floats(mean)[0]));
        let (n, exact) = (ours.len() as f64, floats(values));
        let sample: Vec<f32> = at.to_i64().iter().map(|&i| ours[i as usize]).collect();
        // A sample of a sparse tensor may hold nothing but zeros; what it would hold on the average is the scale.
        let scale = (norm * (exact.len() as f64 / n).sqrt())
            .max(length(&exact))
            .max(floor * (exact.len() as f64).sqrt());
        let our_mean = ours.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let whole = norm.max(floor * n.sqrt());
        let of_sample = difference(&sample, &exact) / scale;
        let of_norm = (length(ours) - norm).abs() / whole;
        let of_mean = (our_mean - mean).abs() * n.sqrt() / whole;
        of_sample.max(of_norm).max(of_mean)
    }

    /// All gradients of a network, and no others.
    fn gradients(&mut self, prefix: &str, store: &Store, grads: &Grads) {
        store.params().iter().for_each(|param| self.gradient_of(prefix, param, grads));
    }

    fn gradient_of(&mut self, prefix: &str, param: &Param, grads: &Grads) {
        let gradient =
            grads.get(&param.tensor()).unwrap_or_else(|| panic!("no gradient for {}", param.name()));
        self.gradient(&format!("grad.{prefix}/{}", param.name()), &floats(param.published(gradient)));
    }

    /// All running statistics of a network.
    fn statistics(&mut self, prefix: &str, store: &Store, tolerance: f64) {
        for param in store.entries().iter().filter(|p| p.name().contains(".running_")) {
            let name = format!("stats.{prefix}/{}", param.name());
            self.close("statistics", &name, &param.tensor().to_vec(), tolerance, 0.0);
        }
    }

    fn same_ids(&mut self, name: &str, ours: &[i32]) {
        let theirs = self.take(name).to_i64();
        assert!(ours.iter().map(|&x| i64::from(x)).eq(theirs.iter().copied()), "{}: {name}", self.name);
    }

    fn finish(self) {
        let left: Vec<&str> = self.archive.names().collect();
        assert!(left.is_empty(), "{}: {} tensors were not compared: {left:?}", self.name, left.len());
        for (kind, (error, name)) in &self.worst {
            println!("{:<28} {kind:<10} {error:.1e}  {name}", self.name);
        }
    }
}

fn floats(array: Array) -> Vec<f32> {
    match array.values {
        Values::F32(values) => values,
        Values::I64(_) => array.to_f32(),
    }
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

/// ‖a - b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32], floor: f64) -> f64 {
    difference(a, b) / length(b).max(floor * (b.len() as f64).sqrt()).max(f64::MIN_POSITIVE)
}

// ------------------------------------------------------------------------------------------------ inputs by formula

fn network<N>(prefix: &'static str, make: impl FnOnce(&Scope) -> N) -> (N, Store) {
    let fill = move |key: &str, shape: &[usize]| formula::fill(prefix, key, shape);
    Store::build(Source::Fill(Box::new(fill)), make).unwrap()
}

fn input<const N: usize>(name: &str, shape: [usize; N]) -> Tensor {
    Tensor::from_vec(formula::tensor(name, &shape), shape)
}

fn noise(name: &str, batch: usize) -> Tensor {
    Tensor::from_vec(formula::normal(name, &[batch, 100]), [batch, 100])
}

/// [B,C,H,W] -> [B,H,W,C]
fn channels_last(x: &Tensor) -> Tensor {
    transpose(x, &[0, 2, 3, 1])
}

/// [B,H,W,C] -> [B,C,H,W]
fn channels_first(x: &Tensor) -> Tensor {
    transpose(x, &[0, 3, 1, 2])
}

/// [B,T,D] <-> [B,D,T]
fn swapped(x: &Tensor) -> Tensor {
    transpose(x, &[0, 2, 1])
}

fn image(name: &str, batch: usize, side: usize) -> Tensor {
    channels_last(&input(name, [batch, 3, side, side]))
}

fn meaning(batch: usize, features: usize) -> TextEmbedding {
    TextEmbedding {
        words: swapped(&input("words", [batch, features, WORDS])),
        sentence: input("sentence", [batch, features]),
    }
}

fn lengths(batch: usize) -> IntTensor {
    IntTensor::new(LENGTHS[..batch].iter().map(|&n| n as i32).collect(), [batch])
}

fn captions(vocabulary: usize) -> IntTensor {
    IntTensor::new(formula::captions(vocabulary, &LENGTHS, WORDS), [LENGTHS.len(), WORDS])
}

/// A scalar that touches every element of `x`, in PyTorch's order, with its own weight.
fn probe(name: &str, x: &Tensor) -> Tensor {
    let weights = Tensor::from_vec(formula::tensor(&format!("probe.{name}"), &x.shape()), x.shape());
    sum(&mul(x, &weights))
}

fn targets(store: &Store, inputs: &[&Tensor]) -> Vec<Tensor> {
    store.params().iter().map(Param::tensor).chain(inputs.iter().map(|&x| x.clone())).collect()
}

fn gradients(loss: &Tensor, targets: &[Tensor]) -> Grads {
    backward(loss, &targets.iter().collect::<Vec<_>>())
}

// ------------------------------------------------------------------------------------------------------------- STEM

fn text_encoder(name: &'static str, cell: CellKind) {
    let mut golden = Golden::open(name);
    let config = TextEncoderConfig { cell, embedding: 300, features: 256, dropout: 0.5 };
    let (encoder, store) = network("text_encoder", |scope| TextEncoder::new(scope, 5450, &config));
    let said = encoder.forward(&captions(5450), &lengths(4), None);
    let words = swapped(&said.words);
    let loss = add(&probe("words", &words), &probe("sentence", &said.sentence));
    let grads = gradients(&loss, &targets(&store, &[]));
    golden.same_ids("in.captions", captions(5450).as_slice());
    golden.same_ids("in.lengths", lengths(4).as_slice());
    golden.forward("words", &words.to_vec(), 1e-5);
    golden.forward("sentence", &said.sentence.to_vec(), 1e-5);
    golden.gradients("text_encoder", &store, &grads);
    golden.finish();
}

fn text_encoder_lstm() {
    text_encoder("text_encoder_lstm", CellKind::Lstm);
}

fn text_encoder_gru() {
    text_encoder("text_encoder_gru", CellKind::Gru);
}

// -------------------------------------------------------------------------------------------------------- generator

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mirror,
    Attn,
    Dcgan,
}

fn generator_config(width: usize, kind: Kind) -> GeneratorConfig {
    GeneratorConfig {
        width,
        noise: 100,
        condition: 100,
        stages: 3,
        first_ups: 4,
        residual_blocks: 2,
        sentence_attention: kind == Kind::Mirror,
        single_head: kind == Kind::Dcgan,
    }
}

fn generator(
    name: &'static str,
    kind: Kind,
    width: usize,
    features: usize,
    batch: usize,
    mode: Mode,
    tolerance: f64,
) {
    let mut golden = Golden::open(name);
    let config = generator_config(width, kind);
    let (generator, store) = network("netG", |scope| Generator::new(scope, features, &config));
    let said = meaning(batch, features);
    let said = TextEmbedding { words: said.words.leaf(), sentence: said.sentence.leaf() };
    let made = generator.forward(&noise("z", batch), &said, &lengths(batch), &noise("eps", batch), mode);
    let images: Vec<Tensor> = made.images.iter().map(channels_first).collect();
    let probes = images.iter().enumerate().map(|(i, x)| probe(&format!("image{i}"), x));
    let mut terms: Vec<Tensor> = probes.collect();
    terms.push(generator_loss(Objective::PUBLISHED, &[], &made, &said.sentence).total());
    let loss = add_all(&terms.iter().collect::<Vec<_>>());
    let grads = gradients(&loss, &targets(&store, &[&said.words, &said.sentence]));

    let pads: Vec<i32> =
        formula::captions(100, &LENGTHS, WORDS).iter().map(|&id| i32::from(id == 0)).collect();
    golden.same_ids("mask", &pads[..batch * WORDS]);
    for (i, x) in images.iter().enumerate() {
        golden.forward(&format!("image{i}"), &x.to_vec(), tolerance);
    }
    for (i, map) in made.attention.iter().enumerate() {
        golden.forward(&format!("attention{i}"), &channels_first(map).to_vec(), tolerance);
    }
    golden.forward("mu", &made.mu.to_vec(), tolerance);
    golden.forward("logvar", &made.logvar.to_vec(), tolerance);
    golden.forward("loss", &loss.to_vec(), tolerance);
    golden.gradient("grad.in.words", &swapped(grads.get(&said.words).unwrap()).to_vec());
    golden.gradient("grad.in.sentence", &grads.get(&said.sentence).unwrap().to_vec());
    golden.gradients("netG", &store, &grads);
    if mode == Mode::Train {
        golden.statistics("netG", &store, tolerance);
    }
    golden.finish();
}

fn generator_mirror_small() {
    generator("generator_mirror_small_train", Kind::Mirror, 8, 32, 4, Mode::Train, 1e-5);
    generator("generator_mirror_small_eval", Kind::Mirror, 8, 32, 4, Mode::Eval, 1e-5);
}

fn generator_attn_small() {
    generator("generator_attn_small_train", Kind::Attn, 8, 32, 4, Mode::Train, 1e-5);
    generator("generator_attn_small_eval", Kind::Attn, 8, 32, 4, Mode::Eval, 1e-5);
}

fn generator_dcgan_small() {
    generator("generator_dcgan_small_train", Kind::Dcgan, 8, 32, 4, Mode::Train, 1e-5);
    generator("generator_dcgan_small_eval", Kind::Dcgan, 8, 32, 4, Mode::Eval, 1e-5);
}

fn generator_mirror_cub() {
    generator("generator_mirror_cub_train", Kind::Mirror, 32, 256, 2, Mode::Train, 1e-4);
    generator("generator_mirror_cub_eval", Kind::Mirror, 32, 256, 2, Mode::Eval, 1e-4);
}

// --------------------------------------------------------------------------------------------------- discriminators

const STAGES: [&str; 3] = ["netD0", "netD1", "netD2"];

fn stage_discriminator(stage: usize, width: usize, features: usize) -> (Discriminator, Store) {
    let config = DiscriminatorConfig { width, unconditional: true, norm: DiscriminatorNorm::Batch };
    network(STAGES[stage], |scope| Discriminator::new(scope, 64 << stage, features, &config))
}

fn discriminator(mut golden: Golden, stage: usize, width: usize, features: usize, batch: usize) {
    let (d, store) = stage_discriminator(stage, width, features);
    let of_kind = |kind| image(&golden.seeded(format!("{kind}{stage}")), batch, 64 << stage);
    let (real, fake, sentence) = (of_kind("real"), of_kind("fake"), input("sentence", [batch, features]));

    let loss = discriminator_loss(Adversarial::Bce, &d, &real, &fake, &sentence).loss;
    let grads = gradients(&loss, &targets(&store, &[]));
    golden.forward("loss_d", &loss.to_vec(), 1e-5);
    golden.gradients(STAGES[stage], &store, &grads);
    golden.statistics(STAGES[stage], &store, 1e-5);

    let fake = fake.leaf();
    let loss = adversarial_loss(Adversarial::Bce, &d, &fake, &sentence);
    let grads = backward(&loss, &[&fake]);
    golden.forward("loss_g", &loss.to_vec(), 1e-5);
    golden.gradient("grad.in.fake", &channels_first(grads.get(&fake).unwrap()).to_vec());
    golden.finish();
}

fn discriminators_small() {
    discriminator(Golden::open("discriminator0_small"), 0, 8, 32, 4);
    discriminator(Golden::open("discriminator1_small"), 1, 8, 32, 4);
    discriminator(Golden::open("discriminator2_small"), 2, 8, 32, 4);
}

fn discriminators_cub() {
    discriminator(Golden::open("discriminator0_cub"), 0, 64, 256, 2);
    discriminator(Golden::open("discriminator1_cub"), 1, 64, 256, 2);
    discriminator(Golden::open("discriminator2_cub"), 2, 64, 256, 2);
}

// ------------------------------------------------------------------------------------------------------------ DAMSM

const GAMMAS: Gammas = Gammas { gamma1: 4.0, gamma2: 5.0, gamma3: 10.0 };
const CLASSES: [i32; 4] = [0, 1, 1, 2];

fn damsm_losses() {
    use mirrorgan_engine::engine::ops::matching::{cosine_scores, word_scores};
    let mut golden = Golden::open("damsm_loss");
    let said = meaning(4, 256);
    let said = TextEmbedding { words: said.words.leaf(), sentence: said.sentence.leaf() };
    let regions = channels_last(&input("regions", [4, 256, 17, 17])).reshape([4, 289, 256]).leaf();
    let seen = ImageEmbedding { regions, global: input("code", [4, 256]).leaf() };
    let classes = IntTensor::new(CLASSES.to_vec(), [4]);
    golden.same_ids("in.lengths", lengths(4).as_slice());
    golden.same_ids("in.classes", &CLASSES);
    let scores = word_scores(&said.words, &lengths(4), &seen.regions, GAMMAS.gamma1, GAMMAS.gamma2);
    golden.forward("word_scores", &scores.to_vec(), 1e-5);
    golden.forward("sentence_scores", &cosine_scores(&seen.global, &said.sentence).to_vec(), 1e-5);

    let terms = damsm_loss(&seen, &said, &lengths(4), Some(&classes), GAMMAS);
    for (name, term) in terms.iter() {
        golden.forward(name, &term.to_vec(), 1e-5);
    }
    let grads = backward(&terms.total(), &[&said.words, &said.sentence, &seen.regions, &seen.global]);
    let grad = |x: &Tensor| grads.get(x).unwrap().clone();
    golden.gradient("grad.in.regions", &swapped(&grad(&seen.regions)).to_vec());
    golden.gradient("grad.in.words", &swapped(&grad(&said.words)).to_vec());
    golden.gradient("grad.in.code", &grad(&seen.global).to_vec());
    golden.gradient("grad.in.sentence", &grad(&said.sentence).to_vec());
    golden.finish();
}

/// EfficientNet-Lite as DAMSM's image encoder, against the definition in the wheel efficientnet-lite-pytorch.
fn image_encoder_lite() {
    for (name, kind, side) in [
        ("image_encoder_lite0", BackboneKind::EfficientnetLite0, 7),
        ("image_encoder_lite2", BackboneKind::EfficientnetLite2, 9),
    ] {
        let mut golden = Golden::open(name);
        let config = BackboneConfig { kind, ..small_backbone() };
        let (encoder, store) = network(name, |scope| ImageEncoder::new(scope, 32, &config));
        let image = image("image256", 1, 256).leaf();
        let seen = encoder.forward(&image, Mode::Train);
        let regions = swapped(&seen.regions).reshape([1, 32, side, side]);
        let loss = add(&probe("regions", &regions), &probe("code", &seen.global));
        let grads = gradients(&loss, &targets(&store, &[&image]));
        golden.forward("regions", &regions.to_vec(), 1e-4);
        golden.forward("code", &seen.global.to_vec(), 1e-4);
        golden.deep_gradient("grad.in.image256", &channels_first(grads.get(&image).unwrap()).to_vec());
        golden.gradients(name, &store, &grads);
        golden.finish();
    }
}

/// The small backbone in place of Inception-v3.
fn image_encoder_small() {
    for (name, mode) in [("image_encoder_small_train", Mode::Train), ("image_encoder_small_eval", Mode::Eval)]
    {
        let mut golden = Golden::open(name);
        let (encoder, store) =
            network("image_encoder_small", |scope| ImageEncoder::new(scope, 16, &small_backbone()));
        let image = image("image64", 4, 64).leaf();
        let seen = encoder.forward(&image, mode);
        let regions = swapped(&seen.regions).reshape([4, 16, 8, 8]);
        let loss = add(&probe("regions", &regions), &probe("code", &seen.global));
        let grads = gradients(&loss, &targets(&store, &[&image]));
        golden.forward("regions", &regions.to_vec(), 1e-5);
        golden.forward("code", &seen.global.to_vec(), 1e-5);
        golden.gradient("grad.in.image64", &channels_first(grads.get(&image).unwrap()).to_vec());
        golden.gradients("image_encoder_small", &store, &grads);
        if mode == Mode::Train {
            golden.statistics("image_encoder_small", &store, 1e-5);
        }
        golden.finish();
    }
}

fn small_backbone() -> BackboneConfig {
    BackboneConfig::small(vec![4, 8, 16, 16, 16], 3)
}

// ----------------------------------------------------------------------------------------------------------- STREAM

/// From images to the loss and to words, with the small backbone in place of ResNet-152 and with end tokens.
fn captioner_small() {
    let config = CaptionerConfig {
        backbone: small_backbone(),
        resize: Some(64),
        imagenet_normalization: true,
        embedding: 8,
        hidden: 10,
        learn_end: true,
    };
    for (name, mode) in [("captioner_small_train", Mode::Train), ("captioner_small_eval", Mode::Eval)] {
        let mut golden = Golden::open(name);
        let make = |scope: &Scope| Captioner::new(&scope.at("cnn"), &scope.at("rnn"), 39, &config);
        let (captioner, store) = network("captioner_small", make);
        let image = image("image48", 4, 48).leaf();
        let loss = captioner.loss(&image, &captions(39), &lengths(4), mode);
        let grads = gradients(&loss, &targets(&store, &[&image]));
        golden.forward("loss", &loss.to_vec(), 1e-5);
        golden.gradient("grad.in.image48", &channels_first(grads.get(&image).unwrap()).to_vec());
        if mode == Mode::Train {
            // It moves nothing before a batch norm: its gradient is rounding, and not in the golden.
            let bias = store.params().into_iter().find(|p| p.name() == "cnn.linear.bias").unwrap();
            assert!(length(&grads.get(&bias.tensor()).unwrap().to_vec()) < 1e-6);
            let others = store.params().into_iter().filter(|p| p.name() != bias.name());
            others.for_each(|param| golden.gradient_of("captioner_small", &param, &grads));
            golden.statistics("captioner_small", &store, 1e-5);
        } else {
            golden.gradients("captioner_small", &store, &grads);
            let written = captioner.describe(&image, 6);
            assert!(
                written.iter().all(|caption| caption.len() == 6),
                "no caption of the golden ends: {written:?}"
            );
            golden.same_ids("greedy", &written.concat());
        }
        golden.finish();
    }
}

/// DAMSM's image encoder as published: Inception-v3 at 299², frozen.
fn image_encoder() {
    let mut golden = Golden::open("image_encoder");
    let config = BackboneConfig { kind: BackboneKind::InceptionV3, ..small_backbone() };
    let (encoder, store) = network("image_encoder", |scope| ImageEncoder::new(scope, 256, &config));
    let image = image("image256", 1, 256).leaf();
    let seen = encoder.forward(&image, Mode::Eval);
    let regions = swapped(&seen.regions).reshape([1, 256, 17, 17]);
    let loss = add(&probe("regions", &regions), &probe("code", &seen.global));
    let grads = gradients(&loss, &targets(&store, &[&image]));
    golden.forward("regions", &regions.to_vec(), 1e-4);
    golden.forward("code", &seen.global.to_vec(), 1e-4);
    golden.deep_gradient("grad.in.image256", &channels_first(grads.get(&image).unwrap()).to_vec());
    golden.gradients("image_encoder", &store, &grads);
    golden.finish();
}

/// STREAM as published: ResNet-152 at 224², frozen, and the LSTM.
fn stream() {
    let mut golden = Golden::open("stream");
    let (decoder, store) = network("caption_rnn", |scope| CaptionDecoder::new(scope, 5450, 256, 512));
    let (ids, feature) = (captions(5450), input("feature4", [4, 256]).leaf());
    golden.same_ids("in.captions", ids.as_slice());
    golden.same_ids("in.lengths", lengths(4).as_slice());
    golden.forward("logits", &decoder.logits(&feature, &ids).to_vec(), 1e-5);
    let loss = decoder.loss(&feature, &ids, &lengths(4));
    golden.forward("loss", &loss.to_vec(), 1e-5);
    let grads = gradients(&loss, &targets(&store, &[&feature]));
    golden.gradient("grad.in.feature4", &grads.get(&feature).unwrap().to_vec());
    golden.gradients("caption_rnn", &store, &grads);
    golden.same_ids("greedy", &decoder.greedy(&feature, 20, None).concat());

    let config = CaptionerConfig {
        backbone: BackboneConfig { kind: BackboneKind::Resnet152, ..small_backbone() },
        resize: Some(224),
        // The oracle takes images as they are, as the published code did.
        imagenet_normalization: false,
        embedding: 256,
        hidden: 512,
        learn_end: false,
    };
    let (encoder, _) = network("caption_cnn", |scope| CaptionEncoder::new(scope, &config));
    let image = image("image256", 1, 256).leaf();
    let feature = encoder.forward(&image, Mode::Eval);
    golden.forward("feature", &feature.to_vec(), 1e-4);
    let one = IntTensor::new(ids.as_slice()[..WORDS].to_vec(), [1, WORDS]);
    let grads = backward(&decoder.loss(&feature, &one, &lengths(1)), &[&image]);
    golden.deep_gradient("grad.in.image256", &channels_first(grads.get(&image).unwrap()).to_vec());
    golden.finish();
}

// --------------------------------------------------------------------------------------------- whole GAN iterations

/// The relative error allowed in the losses of each iteration: Adam's first steps are little more than the signs of
/// gradients, so that rounding grows from one to the next.
const ITERATIONS: [f64; 5] = [1e-5, 2e-3, 2e-3, 1e-2, 3e-2];
/// The share of Adam's first step that may differ.
const STEP: f64 = 1e-2;

struct Players {
    generator: Generator,
    store: Store,
    discriminators: Vec<Discriminator>,
    stores: Vec<Store>,
}

impl Players {
    fn new(kind: Kind) -> Players {
        let (generator, store) =
            network("netG", |scope| Generator::new(scope, 32, &generator_config(8, kind)));
        let (discriminators, stores) = (0..3).map(|i| stage_discriminator(i, 8, 32)).unzip();
        Players { generator, store, discriminators, stores }
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &Store)> {
        [("netG", &self.store)].into_iter().chain(STAGES.into_iter().zip(&self.stores))
    }
}

fn adam(store: &Store) -> Adam {
    let config = AdamConfig { lr: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
    Adam::new(store.params(), config)
}

/// `semantic` takes the largest image to the weighted caption or matching loss.
fn gan_step(name: &'static str, kind: Kind, semantic: impl Fn(&Tensor) -> Tensor) {
    let mut golden = Golden::open(name);
    let players = Players::new(kind);
    let (mut opt_g, mut opt_d) = (adam(&players.store), players.stores.iter().map(adam).collect::<Vec<_>>());
    let said = meaning(4, 32);
    let real: Vec<Tensor> = (0..3).map(|i| image(&golden.seeded(format!("real{i}")), 4, 64 << i)).collect();
    let mut losses: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut note = |name: String, value: &Tensor| losses.entry(name).or_default().push(value.item());
    for k in 0..ITERATIONS.len() {
        let [z, eps] = ["z", "eps"].map(|kind| noise(&golden.seeded(format!("{kind}{k}")), 4));
        let made = players.generator.forward(&z, &said, &lengths(4), &eps, Mode::Train);
        for (i, d) in players.discriminators.iter().enumerate() {
            let loss =
                discriminator_loss(Adversarial::Bce, d, &real[i], &made.images[i].detach(), &said.sentence)
                    .loss;
            note(format!("loss_d{i}"), &loss);
            opt_d[i].minimize(&loss);
        }
        let mut terms = generator_loss(Objective::PUBLISHED, &players.discriminators, &made, &said.sentence);
        terms.push("semantic", semantic(&made.images[2]));
        terms.iter().for_each(|(name, term)| note(format!("loss_{name}"), term));
        let mut grads = opt_g.gradients(&terms.total());
        if k == 0 {
            golden.gradients("netG", &players.store, &grads);
        }
        opt_g.step(&mut grads);
        if k == 0 {
            players.named().for_each(|(prefix, store)| first_step(&mut golden, prefix, store));
        }
    }
    for (name, values) in losses {
        let exact = floats(golden.take(&name));
        assert_eq!((values.len(), exact.len()), (ITERATIONS.len(), ITERATIONS.len()), "{name}");
        for (k, ((ours, exact), tolerance)) in values.iter().zip(exact).zip(ITERATIONS).enumerate() {
            let error = f64::from((ours - exact).abs() / exact.abs());
            println!("{:<28} {name} of iteration {k}: {error:.1e}", golden.name);
            assert!(error <= tolerance, "{name} of iteration {k}: {ours} is not {exact}, error {error:.1e}");
        }
    }
    golden.finish();
}

/// Parameters after Adam's first step: what the step added is compared, for the parameters themselves barely move.
fn first_step(golden: &mut Golden, prefix: &str, store: &Store) {
    for param in store.params() {
        let name = format!("after.{prefix}/{}", param.name());
        let after = param.published(&param.tensor());
        let before = formula::fill(prefix, param.name(), &after.shape);
        let after = floats(after);
        // A step is about a thousandth of what it is added to.
        let of_whole = 1e-3 * STEP;
        let (ours, exact) = match golden.archive.take(&name) {
            Some(whole) => (moved(&after, &before), moved(&floats(whole), &before)),
            None => {
                let [norm, mean, at, values] =
                    ["norm", "mean", "at", "values"].map(|p| golden.take(&format!("{name}.{p}")));
                let exact_mean = f64::from(floats(mean)[0]);
                let our_mean = after.iter().map(|&x| f64::from(x)).sum::<f64>() / after.len() as f64;
                assert!(
                    (our_mean - exact_mean).abs() < of_whole,
                    "{name}: mean {our_mean}, not {exact_mean}"
                );
                let norm = f64::from(floats(norm)[0]);
                assert!(
                    (length(&after) / norm - 1.0).abs() < of_whole,
                    "{name}: norm {}, not {norm}",
                    length(&after)
                );
                let pick = |from: &[f32]| at.to_i64().iter().map(|&i| from[i as usize]).collect::<Vec<f32>>();
                (moved(&pick(&after), &pick(&before)), moved(&floats(values), &pick(&before)))
            }
        };
        let error = distance(&ours, &exact, 0.0);
        assert!(error <= STEP, "{name}: Adam's step differs by {error:.1e} of itself");
        let worst = golden.worst.entry("step").or_default();
        if error >= worst.0 {
            *worst = (error, name);
        }
    }
}

fn moved(after: &[f32], before: &[f32]) -> Vec<f32> {
    assert_eq!(after.len(), before.len());
    after.iter().zip(before).map(|(a, b)| a - b).collect()
}

/// An 8×8 grid of cell means, [B,8,8,3].
fn grid(image: &Tensor) -> Tensor {
    adaptive_avg_pool(image, [8, 8])
}

fn gan_step_mirror() {
    let (decoder, store) = network("caption_rnn", |scope| CaptionDecoder::new(scope, 100, 32, 64));
    store.freeze();
    let pool = Tensor::from_vec(formula::fill("standin", "pool.weight", &[32, 192]), [32, 192]);
    gan_step("gan_step_mirror", Kind::Mirror, |image| {
        let feature = linear(&channels_first(&grid(image)).reshape([4, 192]), &pool, None);
        scale(&decoder.loss(&feature, &captions(100), &lengths(4)), 20.0)
    });
}

fn gan_step_attn() {
    let weight = Tensor::from_vec(formula::fill("standin", "region.weight", &[32, 3]), [32, 3]);
    let (said, classes) = (meaning(4, 32), IntTensor::new(CLASSES.to_vec(), [4]));
    gan_step("gan_step_attn", Kind::Attn, |image| {
        let regions = linear(&grid(image).reshape([4, 64, 3]), &weight, None);
        let seen = ImageEmbedding { global: mean_rows(&regions), regions };
        scale(&damsm_loss(&seen, &said, &lengths(4), Some(&classes), GAMMAS).total(), 5.0)
    });
}
