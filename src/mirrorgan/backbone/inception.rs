//! Inception-v3 (Szegedy et al., 2016) as a table of layers, under torchvision's names and without its heads; torchvision's
//! network, and TensorFlow's of 2015 as FID's evaluators have it.

use super::Features;
use crate::engine::nn::{BatchNorm, Conv2d, Mode, Scope};
use crate::engine::ops::conv::Conv;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::pool::{Border, avg_pool, global_avg_pool, max_pool};
use crate::engine::ops::shape::concat;
use crate::engine::tensor::Tensor;

/// Added to the variance in every norm. Source: torchvision's `BasicConv2d`.
const EPSILON: f32 = 1e-3;

/// Channels of [`Features::map`] and of [`Features::pooled`].
pub const WIDTHS: [usize; 2] = [768, 2048];

pub struct InceptionV3 {
    stem: Vec<Step>,
    /// Up to Mixed_6e, whose output is the map of regions.
    middle: Vec<Module>,
    end: Vec<Module>,
}

enum Step {
    Layer(Layer),
    MaxPool,
}

/// Networks of the same layers that differ in the pools before `branch_pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InceptionVariant {
    Torchvision,
    /// TensorFlow's graph `inception-2015-12-05`: averages do not count the zeros around an image, and the last module takes
    /// maxima. Source: the ports of pytorch-fid and torch-fidelity.
    Ported2015,
}

impl InceptionVariant {
    /// The branches of a module as this variant has them.
    fn of_module(self, module: &str, mut branches: Vec<Branch>) -> Vec<Branch> {
        let averages = branches.iter_mut().filter(|branch| matches!(branch.pool, Pool::Average(_)));
        for branch in averages.filter(|_| self == InceptionVariant::Ported2015) {
            branch.pool = match module {
                "Mixed_7c" => Pool::MaxOfNeighbors,
                _ => Pool::Average(Border::Ignored),
            };
        }
        branches
    }
}

impl InceptionV3 {
    pub fn new(scope: &Scope, variant: InceptionVariant) -> InceptionV3 {
        let mut channels = 3;
        let mut layer = |name, outputs, k, stride, pad| {
            let spec = Spec { name, outputs, kernel: [k, k], conv: Conv::new(stride, pad) };
            Step::Layer(Layer::new(scope, std::mem::replace(&mut channels, outputs), spec))
        };
        let stem = vec![
            layer("Conv2d_1a_3x3", 32, 3, 2, 0),
            layer("Conv2d_2a_3x3", 32, 3, 1, 0),
            layer("Conv2d_2b_3x3", 64, 3, 1, 1),
            Step::MaxPool,
            layer("Conv2d_3b_1x1", 80, 1, 1, 0),
            layer("Conv2d_4a_3x3", 192, 3, 1, 0),
            Step::MaxPool,
        ];
        let mut modules = |table: Vec<(&str, Vec<Branch>)>| -> Vec<Module> {
            let module = |(name, branches)| {
                Module::new(&scope.at(name), &mut channels, variant.of_module(name, branches))
            };
            table.into_iter().map(module).collect()
        };
        let middle = modules(vec![
            ("Mixed_5b", grid35(32)),
            ("Mixed_5c", grid35(64)),
            ("Mixed_5d", grid35(64)),
            ("Mixed_6a", to_grid17()),
            ("Mixed_6b", grid17(128)),
            ("Mixed_6c", grid17(160)),
            ("Mixed_6d", grid17(160)),
            ("Mixed_6e", grid17(192)),
        ]);
        let end = modules(vec![("Mixed_7a", to_grid8()), ("Mixed_7b", grid8()), ("Mixed_7c", grid8())]);
        InceptionV3 { stem, middle, end }
    }

    /// Images [B,S,S,3], S at least 75; 299 gives a map of 17×17 regions.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Features {
        let mut x = images.to_activation_dtype();
        for step in &self.stem {
            x = match step {
                Step::Layer(layer) => layer.forward(&x, mode),
                Step::MaxPool => max_pool(&x, 3, 2, 0),
            };
        }
        let through = |modules: &[Module], x: Tensor| modules.iter().fold(x, |x, m| m.forward(&x, mode));
        let map = through(&self.middle, x);
        Features { pooled: global_avg_pool(&through(&self.end, map.clone())), map }
    }
}

// ---------------------------------------------------------------- the tables

/// A convolution of a table.
#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    outputs: usize,
    kernel: [usize; 2],
    conv: Conv,
}

/// What a branch does before its layers.
#[derive(Clone, Copy, PartialEq)]
enum Pool {
    None,
    /// 3×3 at stride 1.
    Average(Border),
    /// 3×3 at stride 2.
    Max,
    /// 3×3 at stride 1.
    MaxOfNeighbors,
}

/// Layers one after the other, then some side by side.
struct Branch {
    pool: Pool,
    layers: Vec<Spec>,
    fork: Vec<Spec>,
}

/// Keeps height and width.
fn same(name: &'static str, outputs: usize, kernel: [usize; 2]) -> Spec {
    let conv = Conv { stride: [1; 2], pad: kernel.map(|k| k / 2) };
    Spec { name, outputs, kernel, conv }
}

/// 3×3 at stride 2 without padding.
fn halving(name: &'static str, outputs: usize) -> Spec {
    Spec { name, outputs, kernel: [3, 3], conv: Conv::new(2, 0) }
}

fn branch(layers: Vec<Spec>) -> Branch {
    Branch { pool: Pool::None, layers, fork: Vec::new() }
}

fn pooled(outputs: usize) -> Branch {
    Branch { pool: Pool::Average(Border::Counts), ..branch(vec![same("branch_pool", outputs, [1, 1])]) }
}

fn max_pooled() -> Branch {
    Branch { pool: Pool::Max, ..branch(Vec::new()) }
}

fn grid35(pool: usize) -> Vec<Branch> {
    vec![
        branch(vec![same("branch1x1", 64, [1, 1])]),
        branch(vec![same("branch5x5_1", 48, [1, 1]), same("branch5x5_2", 64, [5, 5])]),
        branch(vec![
            same("branch3x3dbl_1", 64, [1, 1]),
            same("branch3x3dbl_2", 96, [3, 3]),
            same("branch3x3dbl_3", 96, [3, 3]),
        ]),
        pooled(pool),
    ]
}

fn to_grid17() -> Vec<Branch> {
    vec![
        branch(vec![halving("branch3x3", 384)]),
        branch(vec![
            same("branch3x3dbl_1", 64, [1, 1]),
            same("branch3x3dbl_2", 96, [3, 3]),
            halving("branch3x3dbl_3", 96),
        ]),
        max_pooled(),
    ]
}

/// 7×7 as 1×7 and 7×1, with `width` channels between.
fn grid17(width: usize) -> Vec<Branch> {
    vec![
        branch(vec![same("branch1x1", 192, [1, 1])]),
        branch(vec![
            same("branch7x7_1", width, [1, 1]),
            same("branch7x7_2", width, [1, 7]),
            same("branch7x7_3", 192, [7, 1]),
        ]),
        branch(vec![
            same("branch7x7dbl_1", width, [1, 1]),
            same("branch7x7dbl_2", width, [7, 1]),
            same("branch7x7dbl_3", width, [1, 7]),
            same("branch7x7dbl_4", width, [7, 1]),
            same("branch7x7dbl_5", 192, [1, 7]),
        ]),
        pooled(192),
    ]
}

fn to_grid8() -> Vec<Branch> {
    vec![
        branch(vec![same("branch3x3_1", 192, [1, 1]), halving("branch3x3_2", 320)]),
        branch(vec![
            same("branch7x7x3_1", 192, [1, 1]),
            same("branch7x7x3_2", 192, [1, 7]),
            same("branch7x7x3_3", 192, [7, 1]),
            halving("branch7x7x3_4", 192),
        ]),
        max_pooled(),
    ]
}

fn grid8() -> Vec<Branch> {
    let fork = |names: [&'static str; 2]| vec![same(names[0], 384, [1, 3]), same(names[1], 384, [3, 1])];
    vec![
        branch(vec![same("branch1x1", 320, [1, 1])]),
        Branch {
            fork: fork(["branch3x3_2a", "branch3x3_2b"]),
            ..branch(vec![same("branch3x3_1", 384, [1, 1])])
        },
        Branch {
            fork: fork(["branch3x3dbl_3a", "branch3x3dbl_3b"]),
            ..branch(vec![same("branch3x3dbl_1", 448, [1, 1]), same("branch3x3dbl_2", 384, [3, 3])])
        },
        pooled(192),
    ]
}

// ---------------------------------------------------------------- layers

/// relu(norm(conv(x)))
struct Layer {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Layer {
    fn new(scope: &Scope, inputs: usize, spec: Spec) -> Layer {
        let scope = scope.at(spec.name);
        Layer {
            conv: Conv2d::new(&scope.at("conv"), inputs, spec.outputs, spec.kernel, spec.conv),
            norm: BatchNorm::new(&scope.at("bn"), spec.outputs).epsilon(EPSILON),
        }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.after(&self.conv, x, mode, Activation::Relu, None)
    }
}

/// Branches side by side; their outputs are concatenated over the channels.
struct Module(Vec<(Pool, Vec<Layer>, Vec<Layer>)>);

impl Module {
    /// `channels` are the inputs' before, the outputs' after.
    fn new(scope: &Scope, channels: &mut usize, branches: Vec<Branch>) -> Module {
        let (inputs, mut outputs) = (*channels, 0);
        let build = |Branch { pool, layers, fork }: Branch| {
            let mut width = inputs;
            let mut layer = |spec: Spec| Layer::new(scope, std::mem::replace(&mut width, spec.outputs), spec);
            let layers: Vec<Layer> = layers.into_iter().map(&mut layer).collect();
            outputs += if fork.is_empty() { width } else { fork.iter().map(|spec| spec.outputs).sum() };
            let fork = fork.into_iter().map(|spec| Layer::new(scope, width, spec)).collect();
            (pool, layers, fork)
        };
        let branches = branches.into_iter().map(build).collect();
        *channels = outputs;
        Module(branches)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut outputs = Vec::new();
        for (pool, layers, fork) in &self.0 {
            let x = match pool {
                Pool::None => x.clone(),
                Pool::Average(border) => avg_pool(x, 3, 1, 1, *border),
                Pool::Max => max_pool(x, 3, 2, 0),
                Pool::MaxOfNeighbors => max_pool(x, 3, 1, 1),
            };
            let x = layers.iter().fold(x, |x, layer| layer.forward(&x, mode));
            match fork.is_empty() {
                true => outputs.push(x),
                false => outputs.extend(fork.iter().map(|layer| layer.forward(&x, mode))),
            }
        }
        concat(&outputs.iter().collect::<Vec<_>>(), 3)
    }
}
