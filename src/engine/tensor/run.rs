//! The one place where a kernel meets a device: tracing and the hunt for NaN live here.

use std::sync::LazyLock;
use std::time::Instant;

use super::slots::{Inputs, Outputs};
use super::{Shape, Tensor};
use crate::engine::device::Device;
use crate::engine::device::cuda::Gpu;
use crate::engine::device::range::range;
use crate::error::note;

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
///
/// Both are arrays or tuples of tensors; a tensor that may be absent is an `Option`, and comes as one to the bodies.
#[track_caller]
pub fn run<O, I>(
    kernel: impl Into<Kernel>,
    mut outs: O,
    ins: I,
    cpu: impl for<'a> FnOnce(<O as Outputs<'a>>::Cpu, I::Cpu),
    cuda: impl for<'a> FnOnce(&Gpu, <O as Outputs<'a>>::Cuda, I::Cuda),
) where
    O: for<'a> Outputs<'a>,
    I: Inputs,
{
    let kernel = kernel.into();
    let device = device_of(kernel, &|look| {
        outs.each(look);
        ins.each(look);
    });
    let start = clock(&device);
    match &device {
        Device::Cpu => cpu(outs.cpu(), ins.cpu()),
        Device::Cuda(gpu) => range(kernel.name, || cuda(gpu, outs.cuda(), ins.cuda())),
    }
    if let Some(start) = start {
        trace(kernel, &device, start, &|f| outs.each(f), &|f| ins.each(f));
    }
}

/// Calls a function for each tensor of a kernel.
type Each<'a, 'b> = &'b dyn Fn(&mut dyn FnMut(&'a Tensor));

/// The device that all tensors live on; the outputs come first.
#[track_caller]
fn device_of<'a>(kernel: Kernel, each: Each<'a, '_>) -> Device {
    let (mut device, mut wrong) = (None, None);
    each(&mut |t: &'a Tensor| match &device {
        None => device = Some(t.device()),
        Some(device) if t.len() > 0 && !t.lives_on(device) => wrong = Some((t.device(), t.shape())),
        Some(_) => {}
    });
    let device = device.unwrap_or(Device::Cpu);
    if let Some((other, shape)) = wrong {
        panic!("{}: {shape:?} lives on {other}, the output on {device}", kernel.name);
    }
    device
}

/// The time, where kernels are traced, once all work before is done.
fn clock(device: &Device) -> Option<Instant> {
    (*TRACE > 0).then(|| {
        if let Device::Cuda(gpu) = device {
            gpu.synchronize();
        }
        Instant::now()
    })
}

#[track_caller]
fn trace<'a>(kernel: Kernel, device: &Device, start: Instant, outs: Each<'a, '_>, ins: Each<'a, '_>) {
    if let Device::Cuda(gpu) = device {
        gpu.synchronize();
    }
    let seconds = start.elapsed().as_secs_f64();
    let list = |each: Each<'a, '_>| {
        let mut tensors: Vec<&Tensor> = Vec::new();
        each(&mut |t| tensors.push(t));
        tensors
    };
    let (outs, ins) = (list(outs), list(ins));
    let shapes = |tensors: &[&Tensor]| -> String {
        tensors.iter().map(|t| format!("{:?}", Shape::clone(&t.shape()))).collect::<Vec<_>>().join(" ")
    };
    let bytes: usize = outs.iter().chain(&ins).map(|t| t.len() * t.dtype().bytes()).sum();
    note(format_args!(
        "{:<24} {} <- {}  {:.0} µs  {:.1} GB/s  {:.1} GFLOP/s",
        kernel.name,
        shapes(&outs),
        shapes(&ins),
        seconds * 1e6,
        bytes as f64 / seconds / 1e9,
        kernel.flops / seconds / 1e9
    ));
    if *TRACE >= 2 {
        for (i, out) in outs.iter().enumerate() {
            let finite = out.all_finite();
            assert!(finite, "{}: output {i} {:?} holds a value that is not finite", kernel.name, out.shape());
        }
    }
}
