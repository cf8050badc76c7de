//! Where numbers live and who computes on them.

pub mod cpu;
pub mod cuda;
mod library;
mod nvtx;
pub mod range;

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use cuda::Gpu;

/// How the elements are stored. Arithmetic is f32 in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    Bf16,
}

impl DType {
    pub const ALL: [DType; 2] = [DType::F32, DType::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }
}

/// Where a tensor lives and is computed with.
#[derive(Clone, Debug, PartialEq)]
pub enum Device {
    Cpu,
    Cuda(Gpu),
}

/// How activations are stored and matrix products are computed; sums, statistics, weights and losses are f32 in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Stored as f32; matrix products round their factors to TF32.
    Tf32,
    /// Stored as bf16.
    Bf16,
}

thread_local! {
    static CURRENT: RefCell<Device> = const { RefCell::new(Device::Cpu) };
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// How this thread computes.
pub fn precision() -> Precision {
    PRECISION.get()
}

impl Precision {
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }

    /// How activations are stored.
    pub fn storage(self) -> DType {
        if self == Precision::Bf16 { DType::Bf16 } else { DType::F32 }
    }
}

/// From now on this thread computes so on the current device, which gets the kernels for it ready.
///
/// # Errors
/// `Config` where the device has no such arithmetic.
pub fn set_precision(precision: Precision) -> Result<()> {
    match current() {
        Device::Cpu if precision != Precision::F32 => {
            let why = "the CPU computes in f32 alone; tf32 and bf16 are for --device cuda:N";
            return Err(Error::config("run.precision", why));
        }
        Device::Cpu => {}
        Device::Cuda(gpu) if precision == Precision::Tf32 && !gpu.tensor_cores() => {
            let why = format!("{gpu:?} has no TF32; sm_80 and newer have");
            return Err(Error::config("run.precision", why));
        }
        Device::Cuda(gpu) => gpu.prepare(precision.storage())?,
    }
    PRECISION.set(precision);
    Ok(())
}

/// The device on which this thread makes new tensors: the CPU, unless [`with`] or [`set`] said another.
pub fn current() -> Device {
    CURRENT.with_borrow(Clone::clone)
}

/// From now on this thread makes new tensors there.
pub fn set(device: &Device) {
    CURRENT.set(device.clone());
}

/// Runs `f` while new tensors are made on `device`.
pub fn with<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    struct Restore(Device);
    impl Drop for Restore {
        fn drop(&mut self) {
            set(&self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(device.clone()));
    f()
}

/// Opens `auto`, `cpu`, `cuda` or `cuda:N`. For `auto` without a device that works, why the CPU is taken.
pub fn open(name: &str) -> Result<(Device, Option<String>)> {
    let ordinal = match name {
        "cpu" => return Ok((Device::Cpu, None)),
        "auto" => {
            return Ok(match Gpu::open(0) {
                Ok(gpu) => (Device::Cuda(gpu), None),
                Err(Error::NoDevice { why, .. }) => (Device::Cpu, Some(why)),
                Err(error) => (Device::Cpu, Some(error.to_string())),
            });
        }
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    match ordinal {
        Some(ordinal) => Ok((Device::Cuda(Gpu::open(ordinal)?), None)),
        None => {
            Err(Error::NoDevice { device: format!("'{name}'"), why: "write auto, cpu or cuda:N".to_string() })
        }
    }
}

/// Bytes that tensors hold on the current device; none on the CPU, where the system tells.
pub fn memory_in_use() -> Option<usize> {
    match current() {
        Device::Cpu => None,
        Device::Cuda(gpu) => Some(gpu.usage().live),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => write!(f, "the CPU, {} threads", cpu::threads()),
            Device::Cuda(gpu) => write!(f, "{gpu:?}"),
        }
    }
}
