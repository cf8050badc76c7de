//! The full-size GAN step and the generator alone, on formula weights, for tools/compare.
//!
//!     cargo bench --bench step -- step|infer [--repeats N] [--outputs FILE.safetensors]
//!
//! Prints one line of JSON: seconds of each repeat after a warm-up, the losses of each step, peak memory in MB.
//! The step is three discriminator updates and the generator's, at batch 4, without text, captions or matching.

use std::collections::HashMap;
use std::time::Instant;

use mirrorgan_engine::engine::nn::{Adam, AdamConfig, Mode, Source, Store};
use mirrorgan_engine::engine::tensor::{Ids, Tensor, no_grad};
use mirrorgan_engine::mirrorgan::discriminator::{Discriminator, DiscriminatorConfig};
use mirrorgan_engine::mirrorgan::generator::{Generated, Generator, GeneratorConfig};
use mirrorgan_engine::mirrorgan::losses::{discriminator_loss, generator_loss};
use mirrorgan_engine::mirrorgan::stem::Meaning;

#[path = "../tests/formula/mod.rs"]
#[allow(dead_code)] // the goldens use more of it
mod formula;

const FEATURES: usize = 256;
const WORDS: usize = 18;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let repeats = option("--repeats").map_or(3, |n| n.parse().expect("--repeats wants a number"));
    let report = match args.first().map(String::as_str) {
        Some("step") => step(repeats),
        Some("infer") => infer(repeats),
        // `cargo bench` without arguments runs every bench; this one has nothing to add then.
        _ => return,
    };
    if let Some(file) = option("--outputs") {
        write(file, &report.image);
    }
    let json =
        serde_json::json!({ "seconds": report.seconds, "losses": report.losses, "peak_mb": peak_mb() });
    println!("{json}");
}

struct Report {
    seconds: Vec<f64>,
    losses: Vec<HashMap<String, f32>>,
    image: Tensor,
}

fn generator() -> (Generator, Store) {
    let config = GeneratorConfig {
        width: 32,
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

fn discriminator(i: usize) -> (Discriminator, Store) {
    let config = DiscriminatorConfig { width: 64, unconditional: true };
    let prefix = format!("netD{i}");
    Store::build(by_formula(&prefix), |scope| Discriminator::new(scope, 64 << i, FEATURES, &config)).unwrap()
}

fn by_formula(prefix: &str) -> Source {
    let prefix = prefix.to_owned();
    Source::Fill(Box::new(move |name, shape| formula::fill(&prefix, name, shape)))
}

/// NCHW by formula, as NHWC.
fn picture(name: &str, batch: usize, side: usize) -> Tensor {
    let values = formula::tensor(name, &[batch, 3, side, side]);
    let (plane, mut out) = (side * side, Vec::with_capacity(values.len()));
    for image in values.chunks(3 * plane) {
        out.extend((0..3 * plane).map(|i| image[i % 3 * plane + i / 3]));
    }
    Tensor::from_vec(out, [batch, side, side, 3])
}

struct Inputs {
    meaning: Meaning,
    lengths: Ids,
    z: Tensor,
    eps: Tensor,
}

fn inputs(batch: usize) -> Inputs {
    let by_channel = formula::tensor("words", &[batch, FEATURES, WORDS]);
    let mut words = Vec::with_capacity(by_channel.len());
    for row in by_channel.chunks(FEATURES * WORDS) {
        words.extend((0..FEATURES * WORDS).map(|i| row[i % FEATURES * WORDS + i / FEATURES]));
    }
    let noise = |name| Tensor::from_vec(formula::normal(name, &[batch, 100]), [batch, 100]);
    Inputs {
        meaning: Meaning {
            words: Tensor::from_vec(words, [batch, WORDS, FEATURES]),
            sentence: Tensor::from_vec(formula::tensor("sentence", &[batch, FEATURES]), [batch, FEATURES]),
        },
        lengths: Ids::new([18, 11, 7, 5][..batch].to_vec(), [batch]),
        z: noise("z"),
        eps: noise("eps"),
    }
}

fn paint(generator: &Generator, inputs: &Inputs, mode: Mode) -> Generated {
    generator.forward(&inputs.z, &inputs.meaning, &inputs.lengths, &inputs.eps, mode)
}

fn step(repeats: usize) -> Report {
    const BATCH: usize = 4;
    let (g, g_store) = generator();
    let (ds, d_stores): (Vec<_>, Vec<_>) = (0..3).map(discriminator).unzip();
    let adam = |store: &Store| {
        Adam::new(store.params(), AdamConfig { learning_rate: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 })
    };
    let mut adam_g = adam(&g_store);
    let mut adam_d: Vec<Adam> = d_stores.iter().map(adam).collect();
    let real: Vec<Tensor> = (0..3).map(|i| picture(&format!("real{i}"), BATCH, 64 << i)).collect();
    let inputs = inputs(BATCH);
    let mut report = Report { seconds: Vec::new(), losses: Vec::new(), image: Tensor::zeros([1]) };
    for k in 0..=repeats {
        let start = Instant::now();
        let made = paint(&g, &inputs, Mode::Train);
        let mut losses = HashMap::new();
        for (i, d) in ds.iter().enumerate() {
            let loss = discriminator_loss(d, &real[i], &made.images[i].detach(), &inputs.meaning.sentence);
            adam_d[i].minimise(&loss);
            losses.insert(format!("d{i}"), loss.item());
        }
        let terms = generator_loss(&ds, &made, &inputs.meaning.sentence);
        adam_g.minimise(&terms.total());
        losses.extend(terms.values());
        if k == 0 {
            report.image = made.images[2].detach();
        } else {
            report.seconds.push(start.elapsed().as_secs_f64());
        }
        report.losses.push(losses);
    }
    report
}

fn infer(repeats: usize) -> Report {
    let (g, _) = generator();
    let inputs = inputs(1);
    let mut report = Report { seconds: Vec::new(), losses: Vec::new(), image: Tensor::zeros([1]) };
    for k in 0..repeats + 2 {
        let start = Instant::now();
        let made = no_grad(|| paint(&g, &inputs, Mode::Eval));
        if k >= 2 {
            report.seconds.push(start.elapsed().as_secs_f64());
        }
        report.image = made.images[2].clone();
    }
    report
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
