//! What is timed: the layers of the published networks at their full size, then every operator's own cases.
//!
//! `engine bench` and `cargo bench --bench ops` both read this list.

use std::sync::{Arc, Mutex, OnceLock};

use crate::engine::Tensor;
use crate::engine::ops::attention::{channel_attention, cross_attention};
use crate::engine::ops::conv::{Conv, FrozenFilters, conv2d, conv2d_frozen, upsample2x_conv3x3};
use crate::engine::ops::matching::word_scores;
use crate::engine::ops::matmul::linear;
use crate::engine::ops::norm::{Activation, batch_norm_train};
use crate::engine::ops::optim::{AdamStep, Slot, adam};
use crate::engine::ops::pointwise::tanh;
use crate::engine::ops::resample::bilinear;
use crate::engine::ops::rnn::{Cell, lstm};
use crate::engine::ops::{Case, families};
use crate::engine::tensor::{IntTensor, Shape};

/// The convolutions and linear layers of the published networks.
const SHAPES: &str = include_str!("../../benches/conv-shapes.csv");
/// The share of the definition's operations that run: each phase of the upsampled image has 2×2 taps in place of 3×3.
const UP2_EXECUTED: f64 = 4.0 / 9.0;
/// Words of a caption.
const WORDS: usize = 18;

/// An operator on inputs of certain shapes, and the passes of it that are timed.
pub struct Benchmark {
    pub name: String,
    pub case: Case,
    pub passes: Vec<Pass>,
    /// A layer of the networks, or one of the operator's own cases.
    pub layer: bool,
    /// Bytes read and written beside inputs and outputs: an optimizer's state.
    pub kept: f64,
}

impl Benchmark {
    /// With the name of one of its passes.
    pub fn full_name(&self, pass: &Pass) -> String {
        format!("{} {}", self.name, pass.name)
    }
}

/// Forward, or a part of backward.
pub struct Pass {
    pub name: &'static str,
    /// The inputs whose gradients are computed; empty for forward.
    pub targets: Vec<usize>,
    /// Floating-point operations of the definition; 0 if the pass is bound by memory.
    pub flops: f64,
    /// Those that the algorithm executes.
    pub executed: f64,
}

/// The batch size of the networks' layers.
#[derive(Clone, Copy, Debug)]
pub enum Batch {
    Of(usize),
    /// As the networks were published.
    Published,
}

impl Batch {
    fn of(self, published: usize) -> usize {
        match self {
            Batch::Of(batch) => batch,
            Batch::Published => published,
        }
    }
}

/// Everything that can be timed. The optimizer's step has `parameters` parameters.
pub fn benchmarks(batch: Batch, parameters: usize) -> Vec<Benchmark> {
    let lines = SHAPES.lines().filter(|l| !l.starts_with('#')).skip(1);
    // The networks that learn come first, the frozen ones after all that belongs to a step.
    let (frozen, learning): (Vec<&str>, Vec<&str>) = lines.partition(|line| is_frozen(line));
    let mut benchmarks: Vec<Benchmark> = learning.into_iter().map(|line| row(line, batch)).collect();
    benchmarks.extend(others(batch.of(20), parameters));
    benchmarks.extend(frozen.into_iter().map(|line| row(line, batch)));
    for (family, cases) in families() {
        benchmarks.extend(cases.into_iter().map(|case| own(family, case)));
    }
    benchmarks
}

/// The passes whose names contain all words of `filter`; the error names what is near.
pub fn select<'a>(
    all: &'a [Benchmark],
    filter: &[String],
) -> std::result::Result<Vec<(&'a Benchmark, &'a Pass)>, String> {
    let words: Vec<String> =
        filter.iter().flat_map(|f| f.split_whitespace()).map(str::to_lowercase).collect();
    let name = |b: &Benchmark, p: &Pass| b.full_name(p).to_lowercase();
    let passes = || all.iter().flat_map(|b| b.passes.iter().map(move |p| (b, p)));
    let chosen: Vec<_> =
        passes().filter(|(b, p)| words.iter().all(|w| name(b, p).contains(w.as_str()))).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let names: Vec<String> = passes().map(|(b, p)| name(b, p)).collect();
    let Some(odd) = words.iter().find(|w| !names.iter().any(|n| n.contains(w.as_str()))) else {
        let words = words.join(" ");
        return Err(format!("nothing holds all of '{words}', though each occurs; see engine bench --list"));
    };
    let near = near_words(odd, &names);
    let near = if near.is_empty() { String::new() } else { format!(" near names: {};", near.join(", ")) };
    Err(format!("nothing that is timed holds '{odd}';{near} engine bench --list shows all"))
}

/// Up to five words of `names` that are spelled like `word`, the nearest first.
fn near_words<'a>(word: &str, names: &'a [String]) -> Vec<&'a str> {
    const ALIKE: f64 = 0.75;
    let mut known: Vec<&str> = names.iter().flat_map(|n| n.split_whitespace()).collect();
    known.sort_unstable();
    known.dedup();
    let mut near: Vec<(f64, &str)> = known.iter().map(|n| (strsim::jaro_winkler(word, n), *n)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take_while(|(likeness, _)| *likeness > ALIKE).take(5).map(|n| n.1).collect()
}

/// Whether a line of benches/conv-shapes.csv is of a network that does not learn.
fn is_frozen(line: &str) -> bool {
    line.contains(",inception,") || line.contains(",resnet,")
}

/// A convolution whose filters are kept as the first call leaves them.
fn frozen_conv2d(geometry: Conv) -> Case {
    let kept = OnceLock::new();
    Case::new("conv2d_frozen", "", move |x| {
        let filters = kept.get_or_init(|| Arc::new(FrozenFilters::new(&x[1], None, geometry)));
        vec![conv2d_frozen(&x[0], filters, None, Activation::None)]
    })
}

/// A line of benches/conv-shapes.csv.
fn row(line: &str, batch: Batch) -> Benchmark {
    let fields: Vec<&str> = line.split(',').collect();
    let &[system, network, op, .., layer] = &fields[..] else { panic!("conv-shapes.csv: {line}") };
    let op = if is_frozen(line) && op == "conv2d" { "conv2d_frozen" } else { op };
    let numbers: Vec<usize> = fields[3..16]
        .iter()
        .map(|n| n.parse().unwrap_or_else(|_| panic!("conv-shapes.csv: '{n}' is no number in {line}")))
        .collect();
    let &[cin, cout, kh, kw, stride, pad_h, pad_w, h, w, _layers, forward, dx, dw] = &numbers[..] else {
        panic!("conv-shapes.csv: {line}")
    };
    let b = batch.of(if system == "mirrorgan" { 12 } else { 20 });
    let geometry = Conv { stride: [stride; 2], pad: [pad_h, pad_w] };
    let outputs = |size: usize, window: usize, pad: usize| (size + 2 * pad - window) / stride + 1;
    let (case, pixels) = match op {
        "conv2d" => (
            Case::new("conv2d", "", move |x| vec![conv2d(&x[0], &x[1], None, geometry)])
                .input([b, h, w, cin])
                .input([cout, kh, kw, cin]),
            outputs(h, kh, pad_h) * outputs(w, kw, pad_w),
        ),
        "conv2d_frozen" => (
            frozen_conv2d(geometry).input([b, h, w, cin]).constant([cout, kh, kw, cin], -1.0, 1.0),
            outputs(h, kh, pad_h) * outputs(w, kw, pad_w),
        ),
        "upsample2x_conv3x3" => (
            Case::new("upsample2x_conv3x3", "", |x| vec![upsample2x_conv3x3(&x[0], &x[1])])
                .input([b, h, w, cin])
                .input([cout, kh, kw, cin]),
            4 * h * w,
        ),
        "linear" => (
            Case::new("linear", "", |x| vec![linear(&x[0], &x[1], None)]).input([b, cin]).input([cout, cin]),
            1,
        ),
        _ => panic!("conv-shapes.csv: no operator {op}"),
    };
    let flops = 2.0 * (b * pixels * cout * kh * kw * cin) as f64;
    let executed = if op == "upsample2x_conv3x3" { UP2_EXECUTED * flops } else { flops };
    let uses =
        [("forward", vec![], forward), ("input gradient", vec![0], dx), ("weight gradient", vec![1], dw)];
    let used = uses.into_iter().filter(|(.., uses)| *uses > 0);
    Benchmark {
        name: format!("{op} {network} {layer} {kh}x{kw}/{stride} {cin}>{cout} at {h}x{w} batch {b}"),
        case: case.flops(flops).bf16(&[0]),
        passes: used.map(|(name, targets, _)| Pass { name, targets, flops, executed }).collect(),
        layer: true,
        kept: 0.0,
    }
}

/// The networks' other layers, and the optimizer's step.
fn others(b: usize, parameters: usize) -> Vec<Benchmark> {
    fn norm(act: Activation, x: &[Tensor]) -> Vec<Tensor> {
        vec![batch_norm_train(&x[0], &x[1], &x[2], act, x.get(3), 1e-5).y]
    }
    let rows = |name: &str, act: Activation, shape: [usize; 4], residual: bool| {
        let case = Case::new("batch_norm_train", "", move |x| norm(act, x));
        let case = case.input(shape).input_in([shape[3]], 0.5, 1.5).input([shape[3]]);
        let case = if residual { case.input(shape).bf16(&[0, 3]) } else { case.bf16(&[0]) };
        layer(format!("batch_norm_train {name} {}", sizes(shape)), case)
    };
    let mut all = vec![
        rows("G glu", Activation::Glu, [b, 256, 256, 64], false),
        rows("G glu", Activation::Glu, [b, 128, 128, 128], false),
        rows("G residual", Activation::None, [b, 128, 128, 64], true),
        rows("D256 leaky relu", Activation::LeakyRelu(0.2), [b, 64, 64, 128], false),
        layer(
            format!("tanh G {}", sizes([b, 256, 256, 3])),
            Case::new("tanh", "", |x| vec![tanh(&x[0])]).input([b, 256, 256, 3]).bf16(&[0]),
        ),
        layer(
            format!("bilinear inception {} to 299x299", sizes([b, 256, 256, 3])),
            Case::new("bilinear", "", |x| vec![bilinear(&x[0], 299, 299)]).input([b, 256, 256, 3]).bf16(&[0]),
        ),
    ];
    all.extend(text_layers(b));
    all.extend(steps(parameters));
    all
}

/// The layers that captions pass through.
fn text_layers(b: usize) -> Vec<Benchmark> {
    let lengths = move || IntTensor::new((0..b).map(|i| (WORDS - i * 5 % 12) as i32).collect(), [b]);
    let mut all = Vec::new();
    for side in [64, 128] {
        let ids = lengths();
        all.push(layer(
            format!("cross_attention G {} {WORDS} words", sizes([b, side, side, 32])),
            Case::new("cross_attention", "", move |x| vec![cross_attention(&x[0], &x[1], &x[2], &ids).0])
                .input([b, side, side, 32])
                .input([b, WORDS, 256])
                .input([32, 256])
                .bf16(&[0, 1]),
        ));
        all.push(layer(
            format!("channel_attention G {}", sizes([b, side, side, 32])),
            Case::new("channel_attention", "", |x| vec![channel_attention(&x[0], &x[1], &x[2])])
                .input([b, side, side, 32])
                .input([b, 32])
                .input([32, 32])
                .bf16(&[0, 1]),
        ));
    }
    let ids = lengths();
    all.push(layer(
        format!("word_scores inception {b} images by {b} captions"),
        Case::new("word_scores", "", move |x| vec![word_scores(&x[0], &ids, &x[1], 4.0, 5.0)])
            .input([b, WORDS, 256])
            .input([b, 289, 256]),
    ));
    let ids = lengths();
    all.push(layer(
        format!("lstm text encoder 300>128 {WORDS} words batch {b}"),
        Case::new("lstm", "", move |x| {
            let cell = Cell { w_ih: &x[1], w_hh: &x[2], b_ih: &x[3], b_hh: &x[4] };
            vec![lstm(&x[0], &ids, cell, None, false).outputs]
        })
        .input([b, WORDS, 300])
        .input([512, 300])
        .input([512, 128])
        .input([512])
        .input([512]),
    ));
    all
}

/// Adam's step on tensors that stay and change in place, as in training; without and with an average.
fn steps(parameters: usize) -> [Benchmark; 2] {
    let at = AdamStep { lr: 1e-4, beta1: 0.5, beta2: 0.999, eps: 1e-8, step: 3, factor: 1.0, decay: 0.999 };
    [("adam", 3), ("adam with average", 4)].map(|(name, tensors)| {
        let kept: Mutex<Vec<Tensor>> = Mutex::default();
        let update = move |x: &[Tensor]| {
            let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
            kept.resize_with(tensors, || Tensor::zeros(x[0].shape()));
            let [p, m, v, average @ ..] = &mut kept[..] else { unreachable!("three tensors at least") };
            adam(vec![Slot { p, g: Some(&x[0]), m, v, average: average.first_mut() }], &at);
            Vec::new()
        };
        let case = Case::new("adam", "", update).constant([parameters], -1.0, 1.0);
        let step = layer(format!("{name} {parameters} parameters"), case);
        Benchmark { kept: (2 * tensors * 4 * parameters) as f64, ..step }
    })
}

fn layer(name: String, case: Case) -> Benchmark {
    Benchmark { name, passes: passes(&case, 0.0), case, layer: true, kept: 0.0 }
}

fn own(family: &str, case: Case) -> Benchmark {
    let products = ["conv", "matmul"].contains(&family);
    let factors = case.inputs.iter().filter(|i| i.differentiable && i.shape.len() > 1).count();
    let flops = if products { factors as f64 * case.flops } else { 0.0 };
    Benchmark {
        name: format!("{} {}", case.op, case.name).trim_end().to_string(),
        passes: passes(&case, flops),
        case,
        layer: false,
        kept: 0.0,
    }
}

/// Forward, and backward to all differentiable inputs.
fn passes(case: &Case, backward: f64) -> Vec<Pass> {
    let executed = if case.op == "upsample2x_conv3x3" { UP2_EXECUTED } else { 1.0 };
    let pass = |name, targets, flops| Pass { name, targets, flops, executed: executed * flops };
    let mut passes = vec![pass("forward", Vec::new(), case.flops)];
    let targets: Vec<usize> = (0..case.inputs.len()).filter(|&i| case.inputs[i].differentiable).collect();
    if !targets.is_empty() {
        passes.push(pass("backward", targets, backward));
    }
    passes
}

fn sizes(shape: impl Into<Shape>) -> String {
    shape.into().iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_shapes_is_a_layer_and_names_are_unique() {
        let all = benchmarks(Batch::Published, 1000);
        let mut names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        assert!(all.iter().filter(|s| s.layer).count() > 100);
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|w| w[0] == w[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    fn the_generators_largest_layer_is_as_counted() {
        let all = benchmarks(Batch::Of(1), 1000);
        let up = all.iter().find(|s| s.name.contains("h_net3.upsample.1")).unwrap();
        let names: Vec<_> = up.passes.iter().map(|p| p.name).collect();
        assert_eq!(names, ["forward", "input gradient", "weight gradient"]);
        let giga = up.passes[0].flops / 1e9;
        assert!((giga - 4.8318).abs() < 1e-4, "{giga}");
        assert!((up.passes[0].executed / up.passes[0].flops - 4.0 / 9.0).abs() < 1e-12);
    }
}
