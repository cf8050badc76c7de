//! The one place where a kernel meets a device: tracing and the hunt for NaN live here.

use std::sync::LazyLock;
use std::time::Instant;

use super::{Shape, Tensor};

/// What runs: a name for the trace and, where it means something, the floating-point operations.
#[derive(Clone, Copy)]
pub struct Kernel {
    name: &'static str,
    flops: f64,
}

impl Kernel {
    pub fn new(name: &'static str, flops: f64) -> Kernel {
        Kernel { name, flops }
    }
}

impl From<&'static str> for Kernel {
    fn from(name: &'static str) -> Kernel {
        Kernel { name, flops: 0.0 }
    }
}

/// `ENGINE_TRACE=1` prints a line for each kernel, `=2` also stops at the first value that is not finite.
static TRACE: LazyLock<u32> =
    LazyLock::new(|| std::env::var("ENGINE_TRACE").ok().and_then(|v| v.parse().ok()).unwrap_or(0));

/// Runs a kernel: writes `outs` from `ins`.
#[track_caller]
pub fn run<const O: usize, const I: usize>(
    kernel: impl Into<Kernel>,
    outs: [&mut Tensor; O],
    ins: [&Tensor; I],
    cpu: impl FnOnce([&mut [f32]; O], [&[f32]; I]),
) {
    if *TRACE == 0 {
        return cpu(outs.map(Tensor::as_mut_slice), ins.map(Tensor::as_slice));
    }
    traced(kernel.into(), outs, ins, cpu);
}

#[track_caller]
fn traced<const O: usize, const I: usize>(
    kernel: Kernel,
    mut outs: [&mut Tensor; O],
    ins: [&Tensor; I],
    cpu: impl FnOnce([&mut [f32]; O], [&[f32]; I]),
) {
    let shapes = |tensors: &mut dyn Iterator<Item = Shape>| -> String {
        tensors.map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ")
    };
    let bytes =
        4 * (outs.iter().map(|t| t.len()).sum::<usize>() + ins.iter().map(|t| t.len()).sum::<usize>());
    let start = Instant::now();
    cpu(outs.each_mut().map(|t| t.as_mut_slice()), ins.map(Tensor::as_slice));
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{:<24} {} <- {}  {:.0} µs  {:.1} GB/s  {:.1} GFLOP/s",
        kernel.name,
        shapes(&mut outs.iter().map(|t| t.shape())),
        shapes(&mut ins.iter().map(|t| t.shape())),
        seconds * 1e6,
        bytes as f64 / seconds / 1e9,
        kernel.flops / seconds / 1e9
    );
    if *TRACE >= 2 {
        for (i, out) in outs.iter().enumerate() {
            assert!(
                out.all_finite(),
                "{}: output {i} {:?} holds a value that is not finite",
                kernel.name,
                out.shape()
            );
        }
    }
}
