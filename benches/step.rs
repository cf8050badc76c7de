//! The full-size GAN step, the generator alone, and the published image encoders, on formula weights, for tools/compare.
//!
//!     cargo bench --bench step -- step|infer|inception_v3|resnet152|damsm|text_encoder|adam [--repeats N] [--outputs FILE.safetensors] [--device NAME]
//!         [--precision f32|tf32|bf16] [--batch N] [--widths GF,DF] [--turns]
//!
//! Prints one line of JSON: seconds of each repeat after a warm-up, the losses of the first three steps, peak memory in
//! MB. On a GPU all repeats are timed together and their mean is the one number. With --turns, a line is printed after the
//! warm-up; each line of standard input then runs the repeats once more, and the report follows at the end of input.
//! The step is three discriminator updates and the generator's, without text, captions or matching. An encoder is frozen
//! and gives its features and the gradient of the images, as in the generator's step. `damsm` is a step of DAMSM with Inception-v3,
//! `text_encoder` its text encoder with the gradients of its weights, `adam` a step of the largest discriminator's weights.

use std::collections::HashMap;
use std::io::BufRead;
use std::time::Instant;

use mirrorgan_engine::engine::device::{self, Device, Precision};
use mirrorgan_engine::engine::nn::{Adam, AdamConfig, CellKind, Mode, Param, Scope, Source, Store};
use mirrorgan_engine::engine::ops::optim::{self, AdamStep, Slot};
use mirrorgan_engine::engine::ops::pointwise::add;
use mirrorgan_engine::engine::ops::reduce::sum;
use mirrorgan_engine::engine::ops::shape::transpose;
use mirrorgan_engine::engine::tensor::{IntTensor, Tensor, backward, no_grad, set_precision};
use mirrorgan_engine::mirrorgan::backbone::{BackboneConfig, BackboneKind};
use mirrorgan_engine::mirrorgan::captioner::{CaptionEncoder, CaptionerConfig};
use mirrorgan_engine::mirrorgan::damsm::{Gammas, ImageEmbedding, ImageEncoder, damsm_loss};
use mirrorgan_engine::mirrorgan::discriminator::{Discriminator, DiscriminatorConfig, DiscriminatorNorm};
use mirrorgan_engine::mirrorgan::generator::{Generated, Generator, GeneratorConfig};
use mirrorgan_engine::mirrorgan::losses::{
    Adversarial, Objective, Terms, discriminator_loss, generator_loss,
};
use mirrorgan_engine::mirrorgan::stem::{TextEmbedding, TextEncoder, TextEncoderConfig};

#[path = "../tests/formula/mod.rs"]
#[allow(dead_code)] // the goldens use more of it
mod formula;

const FEATURES: usize = 256;
const WORDS: usize = 18;
const VOCABULARY: usize = 5450;
/// Words of the captions of a batch, again and again.
const LENGTHS: [usize; 4] = [18, 11, 7, 5];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let number = |name: &str, other: usize| {
        option(name).map_or(other, |n| n.parse().unwrap_or_else(|_| panic!("{name} wants a number, not {n}")))
    };
    let task = match args.first().map(String::as_str) {
        Some("step") => Task::Step,
        Some("infer") => Task::Infer,
        Some("inception_v3") => Task::Encoder(BackboneKind::InceptionV3),
        Some("resnet152") => Task::Encoder(BackboneKind::Resnet152),
        Some("damsm") => Task::Damsm,
        Some("text_encoder") => Task::TextEncoder,
        Some("adam") => Task::Adam,
        // `cargo bench` without arguments runs every bench; this one has nothing to add then.
        _ => return,
    };
    device::cpu::set_threads(0).unwrap_or_else(|e| panic!("{e}"));
    let (device, _) = device::open(option("--device").map_or("cpu", |d| d)).unwrap_or_else(|e| panic!("{e}"));
    device::set(&device);
    let precision = match option("--precision").map(String::as_str) {
        None | Some("f32") => Precision::F32,
        Some("tf32") => Precision::Tf32,
        Some("bf16") => Precision::Bf16,
        Some(other) => panic!("--precision {other}: write f32, tf32 or bf16"),
    };
    set_precision(precision).unwrap_or_else(|e| panic!("{e}"));
    let widths = option("--widths").map_or((32, 64), |w| {
        let pair = w.split_once(',').and_then(|(g, d)| Some((g.parse().ok()?, d.parse().ok()?)));
        pair.unwrap_or_else(|| panic!("--widths wants GF,DF, not {w}"))
    });
    let options = Options {
        device,
        batch: number("--batch", if task == Task::Infer { 1 } else { 4 }),
        repeats: number("--repeats", 3),
        turns: args.iter().any(|a| a == "--turns"),
        widths,
    };
    let report = match task {
        Task::Step => step(&options),
        Task::Infer => infer(&options),
        Task::Encoder(kind) => encoder(&options, kind),
        Task::Damsm => damsm(&options),
        Task::TextEncoder => text_encoder(&options),
        Task::Adam => adam(&options),
    };
    if let Some(file) = option("--outputs") {
        write(file, &report.image);
    }
    let peak = match &options.device {
        Device::Cpu => peak_mb(),
        Device::Cuda(gpu) => gpu.usage().peak as f64 / f64::from(1 << 20),
    };
    println!(
        "{}",
        serde_json::json!({ "seconds": report.seconds, "losses": report.losses, "peak_mb": peak })
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Step,
    Infer,
    Encoder(BackboneKind),
    Damsm,
    TextEncoder,
    Adam,
}

struct Options {
    device: Device,
    batch: usize,
    repeats: usize,
    turns: bool,
    widths: (usize, usize),
}

struct Report {
    seconds: Vec<f64>,
    losses: Vec<HashMap<String, f32>>,
    image: Tensor,
}

impl Options {
    /// Times the repeats: once, or with `turns` once for each line of standard input.
    fn time(&self, mut run: impl FnMut()) -> Vec<f64> {
        let mut turn = || -> Vec<f64> {
            match &self.device {
                Device::Cuda(gpu) => {
                    let all = gpu.time(|| (0..self.repeats).for_each(|_| run()));
                    vec![all / self.repeats as f64]
                }
                Device::Cpu => {
                    let mut one = || {
                        let start = Instant::now();
                        run();
                        start.elapsed().as_secs_f64()
                    };
                    (0..self.repeats).map(|_| one()).collect()
                }
            }
        };
        if !self.turns {
            return turn();
        }
        println!("{{\"ready\": true}}");
        let mut all = Vec::new();
        for _line in std::io::stdin().lock().lines() {
            let seconds = turn();
            println!("{}", serde_json::json!({ "seconds": seconds }));
            all.extend(seconds);
        }
        all
    }

    /// How many runs precede timing.
    fn warm_up(&self, on_the_cpu: usize) -> usize {
        if self.device == Device::Cpu { on_the_cpu } else { self.repeats.min(10) }
    }
}

fn generator(width: usize) -> (Generator, Store) {
    let config = GeneratorConfig {
        width,
        noise: 100,
        condition: 100,
        stages: 3,
        first_ups: 4,
        residual_blocks: 2,
        sentence_attention: true,
        single_head: false,
    };
    Store::build(by_formula("netG"), |scope| Generator::new(scope, FEATURES, &config)).unwrap()
}

fn discriminator(i: usize, width: usize) -> (Discriminator, Store) {
    let config = DiscriminatorConfig { width, unconditional: true, norm: DiscriminatorNorm::Batch };
    let prefix = format!("netD{i}");
    Store::build(by_formula(&prefix), |scope| Discriminator::new(scope, 64 << i, FEATURES, &config)).unwrap()
}

fn by_formula(prefix: &str) -> Source {
    let prefix = prefix.to_owned();
    Source::Fill(Box::new(move |name, shape| formula::fill(&prefix, name, shape)))
}

fn input<const N: usize>(name: &str, shape: [usize; N]) -> Tensor {
    Tensor::from_vec(formula::tensor(name, &shape), shape)
}

/// [B,3,S,S] by formula, as [B,S,S,3].
fn image(name: &str, batch: usize, side: usize) -> Tensor {
    transpose(&input(name, [batch, 3, side, side]), &[0, 2, 3, 1])
}

struct Inputs {
    text: TextEmbedding,
    lengths: IntTensor,
    z: Tensor,
    eps: Tensor,
}

fn inputs(batch: usize) -> Inputs {
    let noise = |name| Tensor::from_vec(formula::normal(name, &[batch, 100]), [batch, 100]);
    Inputs {
        text: TextEmbedding {
            words: transpose(&input("words", [batch, FEATURES, WORDS]), &[0, 2, 1]),
            sentence: input("sentence", [batch, FEATURES]),
        },
        lengths: IntTensor::new((0..batch).map(|i| LENGTHS[i % 4] as i32).collect(), [batch]),
        z: noise("z"),
        eps: noise("eps"),
    }
}

fn generate(generator: &Generator, inputs: &Inputs, mode: Mode) -> Generated {
    generator.forward(&inputs.z, &inputs.text, &inputs.lengths, &inputs.eps, mode)
}

fn step(options: &Options) -> Report {
    let (batch, (gf, df)) = (options.batch, options.widths);
    let (g, g_store) = generator(gf);
    let (ds, d_stores): (Vec<_>, Vec<_>) = (0..3).map(|i| discriminator(i, df)).unzip();
    let adam = |store: &Store| {
        Adam::new(store.params(), AdamConfig { lr: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 })
    };
    let mut adam_g = adam(&g_store);
    let mut adam_d: Vec<Adam> = d_stores.iter().map(adam).collect();
    let real: Vec<Tensor> = (0..3).map(|i| image(&format!("real{i}"), batch, 64 << i)).collect();
    let inputs = inputs(batch);
    // Losses are read at the end: a step does not wait for them.
    let mut losses: Vec<Terms> = Vec::new();
    let mut first_image = None;
    let mut run = || {
        let generated = generate(&g, &inputs, Mode::Train);
        let mut terms = Terms::default();
        for (i, d) in ds.iter().enumerate() {
            let fake = generated.images[i].detach();
            let loss = discriminator_loss(Adversarial::Bce, d, &real[i], &fake, &inputs.text.sentence).loss;
            adam_d[i].minimize(&loss);
            terms.push(format!("d{i}"), loss.detach());
        }
        let generator_terms = generator_loss(Objective::PUBLISHED, &ds, &generated, &inputs.text.sentence);
        adam_g.minimize(&generator_terms.total());
        terms.append(generator_terms.detach());
        if losses.len() < 3 {
            losses.push(terms);
        }
        first_image.get_or_insert_with(|| generated.images[2].detach());
    };
    (0..options.warm_up(1)).for_each(|_| run());
    let seconds = options.time(&mut run);
    Report {
        seconds,
        losses: losses.iter().map(weighted).collect(),
        image: first_image.expect("there was at least one step"),
    }
}

/// The terms times their weights, by name.
fn weighted(terms: &Terms) -> HashMap<String, f32> {
    terms.values().into_iter().map(|loss| (loss.name, loss.weight * loss.value)).collect()
}

fn infer(options: &Options) -> Report {
    let (g, store) = generator(options.widths.0);
    store.freeze();
    let inputs = inputs(options.batch);
    let mut image = None;
    let mut run = || image = no_grad(|| generate(&g, &inputs, Mode::Eval)).images.pop();
    (0..options.warm_up(2)).for_each(|_| run());
    let seconds = options.time(&mut run);
    Report { seconds, losses: Vec::new(), image: image.expect("there was at least one image") }
}

/// Inception-v3 within DAMSM's image encoder, or ResNet-152 within the captioner's: features, then the images' gradient.
fn encoder(options: &Options, kind: BackboneKind) -> Report {
    let backbone = BackboneConfig { kind, ..BackboneConfig::small(Vec::new(), 1) };
    let images = image("image256", options.batch, 256);
    // The features as an image, and the scalar whose gradient is asked for.
    type Forward = Box<dyn Fn(&Tensor) -> (Tensor, Tensor)>;
    let forward: Forward = match kind {
        BackboneKind::Resnet152 => {
            let config = CaptionerConfig {
                backbone,
                resize: Some(224),
                imagenet_normalization: false,
                embedding: FEATURES,
                hidden: 512,
                learn_end: false,
            };
            let build = |scope: &Scope| CaptionEncoder::new(scope, &config);
            let (network, store) = Store::build(by_formula("caption_cnn"), build).unwrap();
            store.freeze();
            Box::new(move |images| {
                let feature = network.forward(images, Mode::Eval);
                let [batch, width] = feature.dims();
                (feature.reshape([batch, 1, 1, width]), sum(&feature))
            })
        }
        _ => {
            let build = |scope: &Scope| ImageEncoder::new(scope, FEATURES, &backbone);
            let (network, store) = Store::build(by_formula("image_encoder"), build).unwrap();
            store.freeze();
            Box::new(move |images| {
                let ImageEmbedding { regions, global } = network.forward(images, Mode::Eval);
                let [batch, _, depth] = regions.dims();
                (regions.reshape([batch, 17, 17, depth]), add(&sum(&regions), &sum(&global)))
            })
        }
    };
    let mut features = None;
    let mut run = || {
        let images = images.leaf();
        let (outputs, total) = forward(&images);
        backward(&total, &[&images]);
        features = Some(outputs.detach());
    };
    (0..options.warm_up(1)).for_each(|_| run());
    let seconds = options.time(&mut run);
    Report { seconds, losses: Vec::new(), image: features.expect("there was at least one run") }
}

/// STEM's bidirectional LSTM over 5,450 words, and a batch of captions for it, longest first.
fn text_network(batch: usize) -> (TextEncoder, Store, IntTensor, IntTensor) {
    let config = TextEncoderConfig { cell: CellKind::Lstm, embedding: 300, features: FEATURES, dropout: 0.0 };
    let (network, store) =
        Store::build(by_formula("text_encoder"), |scope| TextEncoder::new(scope, VOCABULARY, &config))
            .unwrap();
    let mut lengths: Vec<usize> = (0..batch).map(|i| LENGTHS[i % 4]).collect();
    lengths.sort_by(|a, b| b.cmp(a));
    let captions = IntTensor::new(formula::captions(VOCABULARY, &lengths, WORDS), [batch, WORDS]);
    let lengths = IntTensor::new(lengths.into_iter().map(|n| n as i32).collect(), [batch]);
    (network, store, captions, lengths)
}

/// Word features, then the gradients of all weights.
fn text_encoder(options: &Options) -> Report {
    let batch = options.batch;
    let (network, store, captions, lengths) = text_network(batch);
    let targets: Vec<Tensor> = store.params().iter().map(Param::tensor).collect();
    let targets: Vec<&Tensor> = targets.iter().collect();
    let mut words = None;
    let mut run = || {
        let text = network.forward(&captions, &lengths, None);
        backward(&add(&sum(&text.words), &sum(&text.sentence)), &targets);
        words = Some(text.words.detach());
    };
    (0..options.warm_up(1)).for_each(|_| run());
    let seconds = options.time(&mut run);
    let image = words.expect("there was at least one run").reshape([batch, 1, WORDS, FEATURES]);
    Report { seconds, losses: Vec::new(), image }
}

/// A step of DAMSM as published, without dropout and clipping: Inception-v3's statistics adapt, its weights are frozen.
fn damsm(options: &Options) -> Report {
    let batch = options.batch;
    let (text, text_store, captions, lengths) = text_network(batch);
    let backbone = BackboneConfig { kind: BackboneKind::InceptionV3, ..BackboneConfig::small(Vec::new(), 1) };
    let (image, image_store) =
        Store::build(by_formula("image_encoder"), |scope| ImageEncoder::new(scope, FEATURES, &backbone))
            .unwrap();
    let images = self::image("image256", batch, 256);
    let classes = IntTensor::new((0..batch as i32).collect(), [batch]);
    let params = text_store.params().into_iter().chain(image_store.params()).collect();
    let mut optimizer = Adam::new(params, AdamConfig { lr: 2e-3, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 });
    let gammas = Gammas { gamma1: 4.0, gamma2: 5.0, gamma3: 10.0 };
    let (mut losses, mut first): (Vec<Terms>, _) = (Vec::new(), None);
    let mut run = || {
        let text = text.forward(&captions, &lengths, None);
        let embedding = image.forward(&images, Mode::Train);
        let terms = damsm_loss(&embedding, &text, &lengths, Some(&classes), gammas);
        optimizer.minimize(&terms.total());
        if losses.len() < 3 {
            losses.push(terms.detach());
        }
        first.get_or_insert_with(|| embedding.regions.detach());
    };
    (0..options.warm_up(1)).for_each(|_| run());
    let seconds = options.time(&mut run);
    let image = first.expect("there was at least one step").reshape([batch, 17, 17, FEATURES]);
    Report { seconds, losses: losses.iter().map(weighted).collect(), image }
}

/// A step of the weights of the discriminator of 256² images, whose gradients are a hundredth of the weights as they began.
fn adam(options: &Options) -> Report {
    let (_, store) = discriminator(2, options.widths.1);
    let times = |w: &Tensor, factor: f32| {
        Tensor::from_vec(w.to_vec().iter().map(|w| factor * w).collect(), w.shape())
    };
    let mut weights: Vec<Tensor> = store.params().iter().map(|p| times(&p.tensor(), 1.0)).collect();
    let gradients: Vec<Tensor> = weights.iter().map(|w| times(w, 0.01)).collect();
    let mut moments: Vec<[Tensor; 2]> =
        weights.iter().map(|w| [(); 2].map(|()| Tensor::zeros(w.shape()))).collect();
    let (mut step, mut first) = (0, None);
    let of_image = weights.iter().position(|w| w.shape().len() == 4).expect("a convolution");
    let mut run = || {
        step += 1;
        let slots = weights.iter_mut().zip(&gradients).zip(&mut moments);
        let slots = slots.map(|((p, g), [m, v])| Slot { p, g: Some(g), m, v, average: None });
        let at = AdamStep { lr: 2e-4, beta1: 0.5, beta2: 0.999, eps: 1e-8, step, factor: 1.0, decay: 0.0 };
        no_grad(|| optim::adam(slots.collect(), &at));
        first.get_or_insert_with(|| times(&weights[of_image], 1.0));
    };
    (0..options.warm_up(1)).for_each(|_| run());
    let seconds = options.time(&mut run);
    Report { seconds, losses: Vec::new(), image: first.expect("there was at least one step") }
}

fn write(file: &str, image: &Tensor) {
    let values = image.to_vec();
    let view = safetensors::tensor::TensorView::new(
        safetensors::Dtype::F32,
        image.shape().to_vec(),
        bytemuck::cast_slice(&values),
    );
    safetensors::serialize_to_file([("image", view.unwrap())], None, file.as_ref()).unwrap();
}

/// The most memory this process ever held.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).map_or(0.0, |kb| kb / 1024.0)
}
