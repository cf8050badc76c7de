//! The one place where a kernel meets a device: tracing and the hunt for NaN live here.

use std::sync::LazyLock;
use std::time::Instant;

use super::{Shape, Tensor};
use crate::engine::device::Device;
use crate::engine::device::cuda::{Gpu, In, Out};
use crate::engine::device::range::range;

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

/// Runs a kernel where its tensors live: writes `outs` from `ins`.
#[track_caller]
pub fn run<const O: usize, const I: usize>(
    kernel: impl Into<Kernel>,
    mut outs: [&mut Tensor; O],
    ins: [&Tensor; I],
    cpu: impl FnOnce([&mut [f32]; O], [&[f32]; I]),
    cuda: impl FnOnce(&Gpu, [Out; O], [In; I]),
) {
    let kernel = kernel.into();
    let device = begin(kernel, outs.iter().map(|t| &**t).chain(ins));
    let start = clock(&device);
    match &device {
        Device::Cpu => cpu(outs.each_mut().map(|t| t.as_mut_slice()), ins.map(Tensor::as_slice)),
        Device::Cuda(gpu) => range(kernel.name, || {
            cuda(gpu, outs.each_mut().map(|t| t.as_out()), ins.map(Tensor::as_in));
        }),
    }
    end(kernel, &device, start, &outs.map(|t| &*t), &ins);
}

/// [`run`] for numbers of tensors known only at run time.
#[track_caller]
pub fn run_many(
    kernel: impl Into<Kernel>,
    mut outs: Vec<&mut Tensor>,
    ins: &[&Tensor],
    cpu: impl FnOnce(Vec<&mut [f32]>, Vec<&[f32]>),
    cuda: impl FnOnce(&Gpu, Vec<Out>, Vec<In>),
) {
    let kernel = kernel.into();
    let device = begin(kernel, outs.iter().map(|t| &**t).chain(ins.iter().copied()));
    let start = clock(&device);
    match &device {
        Device::Cpu => {
            cpu(
                outs.iter_mut().map(|t| t.as_mut_slice()).collect(),
                ins.iter().map(|t| t.as_slice()).collect(),
            );
        }
        Device::Cuda(gpu) => range(kernel.name, || {
            cuda(gpu, outs.iter_mut().map(|t| t.as_out()).collect(), ins.iter().map(|t| t.as_in()).collect());
        }),
    }
    end(kernel, &device, start, &outs.iter().map(|t| &**t).collect::<Vec<_>>(), ins);
}

/// The device that all tensors live on; the outputs come first.
#[track_caller]
fn begin<'a>(kernel: Kernel, tensors: impl Iterator<Item = &'a Tensor> + Clone) -> Device {
    let device = tensors.clone().next().map_or(Device::Cpu, Tensor::device);
    for t in tensors.filter(|t| t.len() > 0) {
        let other = t.device();
        assert!(other == device, "{}: {:?} lives on {other}, the output on {device}", kernel.name, t.shape());
    }
    device
}

/// The time, where kernels are traced, once all work before is done.
fn clock(device: &Device) -> Option<Instant> {
    (*TRACE > 0).then(|| {
        if let Device::Cuda(gpu) = device {
            gpu.synchronise();
        }
        Instant::now()
    })
}

#[track_caller]
fn end(kernel: Kernel, device: &Device, start: Option<Instant>, outs: &[&Tensor], ins: &[&Tensor]) {
    if let Some(start) = start {
        if let Device::Cuda(gpu) = device {
            gpu.synchronise();
        }
        trace(kernel, start.elapsed().as_secs_f64(), outs, ins);
    }
}

#[track_caller]
fn trace(kernel: Kernel, seconds: f64, outs: &[&Tensor], ins: &[&Tensor]) {
    let shapes = |tensors: &[&Tensor]| -> String {
        tensors.iter().map(|t| format!("{:?}", Shape::clone(&t.shape()))).collect::<Vec<_>>().join(" ")
    };
    let bytes: usize = outs.iter().chain(ins).map(|t| t.len() * t.dtype().bytes()).sum();
    eprintln!(
        "{:<24} {} <- {}  {:.0} µs  {:.1} GB/s  {:.1} GFLOP/s",
        kernel.name,
        shapes(outs),
        shapes(ins),
        seconds * 1e6,
        bytes as f64 / seconds / 1e9,
        kernel.flops / seconds / 1e9
    );
    if *TRACE >= 2 {
        for (i, out) in outs.iter().enumerate() {
            let finite = out.all_finite();
            assert!(finite, "{}: output {i} {:?} holds a value that is not finite", kernel.name, out.shape());
        }
    }
}
