//! One CUDA device: its context, its stream, its memory and its kernels.
//!
//! All work of a device goes to one stream, so memory that is given back may be given out again at once.

mod cache;
mod launch;
mod memory;
mod modules;
mod nvrtc;
mod probe;
pub mod report;
mod timer;

use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{result, sys};

use super::{DType, Precision};
use crate::error::{Error, Result, throw};
pub use launch::{Grid, In, IntBuffer, Ints, Kernel, Out, Table, k};
pub use memory::{Buffer, Usage};
pub use nvrtc::{Arch, Compiled};
pub use probe::{Probe, Version, probe};

/// The oldest compute capability that the kernels are written for.
const OLDEST: u32 = 75;
/// Tensor cores as `mma.sync` with bf16 and TF32 came with this one.
const TENSOR_CORES: u32 = 80;

/// A device that is open; cheap to clone.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    ordinal: usize,
    name: String,
    /// Compute capability, as 90.
    capability: u32,
    multiprocessors: usize,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pool: Mutex<memory::Pool>,
    modules: modules::Modules,
}

// SAFETY: context and stream are handles that the driver lets every thread use.
unsafe impl Send for Inner {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Inner {}

/// Devices stay open until the process ends: contexts are dear, and all users of a device share its memory.
static OPEN: Mutex<Vec<(usize, Gpu)>> = Mutex::new(Vec::new());

impl Gpu {
    /// Opens a device, or says what is missing and what to do.
    pub fn open(ordinal: usize) -> Result<Gpu> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gpu)) = open.iter().find(|(at, _)| *at == ordinal) {
            gpu.bind();
            return Ok(gpu.clone());
        }
        let gpu = Gpu::create(ordinal)?;
        open.push((ordinal, gpu.clone()));
        Ok(gpu)
    }

    fn create(ordinal: usize) -> Result<Gpu> {
        let found = probe();
        let failed = |what: &str, why: String| Error::Device(format!("cuda:{ordinal}: {what}: {why}"));
        let Some(driver) = found.driver else {
            return Err(Error::Device(
                "no CUDA driver: libcuda.so was not found; install NVIDIA's driver, or use --device cpu"
                    .into(),
            ));
        };
        if let Some(trouble) = found.trouble {
            return Err(failed("the driver does not work", trouble));
        }
        if ordinal >= found.devices.len() {
            let there = match found.devices.len() {
                0 => "this machine has none".to_string(),
                n => format!("this machine has cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::Device(format!("there is no cuda:{ordinal}: {there}")));
        }
        let Some(compiler) = found.nvrtc else {
            return Err(Error::Device(
                "the driver is there but not NVRTC, CUDA's run-time compiler: install it (libnvrtc.so of CUDA 12 or 13; \
                 the Python wheel nvidia-cuda-nvrtc holds it) and put its folder on LD_LIBRARY_PATH, or use --device cpu"
                    .into(),
            ));
        };
        if compiler.major > driver.major {
            return Err(Error::Device(format!(
                "NVRTC {compiler} is newer than the driver, which supports CUDA {driver}: update the driver, or install NVRTC {}",
                driver.major
            )));
        }
        // SAFETY: driver calls in their documented order on a device that the driver listed.
        let made = unsafe {
            (|| {
                let device = result::device::get(ordinal as c_int)?;
                let ask = |attribute| result::device::get_attribute(device, attribute);
                let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
                let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
                let multiprocessors = ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
                let context = result::primary_ctx::retain(device)?;
                result::ctx::set_current(context)?;
                let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
                Ok(((major * 10 + minor) as u32, multiprocessors as usize, context, stream))
            })()
        };
        let (capability, multiprocessors, context, stream) =
            made.map_err(|e: result::DriverError| failed("cannot be opened", described(e)))?;
        let (name, total) = found.devices[ordinal].clone();
        if capability < OLDEST {
            return Err(Error::Device(format!(
                "cuda:{ordinal} ({name}, sm_{capability}) is older than supported: sm_{OLDEST} or newer is wanted; use --device cpu"
            )));
        }
        let modules = modules::Modules::new(capability, name.starts_with("cudaemu"), compiler, driver)?;
        let gpu = Gpu(Arc::new(Inner {
            ordinal,
            name,
            capability,
            multiprocessors,
            context,
            stream,
            pool: Mutex::new(memory::Pool::new(total)),
            modules,
        }));
        gpu.0.modules.prepare(DType::F32)?;
        Ok(gpu)
    }

    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Compute capability: 80, 90.
    pub fn arch(&self) -> u32 {
        self.0.capability
    }

    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    /// Whether matrix instructions for bf16 and TF32 are there.
    pub fn tensor_cores(&self) -> bool {
        self.0.capability >= TENSOR_CORES
    }

    /// Whether this thread wants f32 matrix products to round their factors to TF32 and use the tensor cores.
    pub fn tf32(&self) -> bool {
        self.tensor_cores() && super::precision() == Precision::Tf32
    }

    /// Makes the device's context the calling thread's.
    fn bind(&self) {
        thread_local! {
            static BOUND: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
        }
        let context = self.0.context as usize;
        if BOUND.get() != context {
            // SAFETY: the context is retained as long as the process lives.
            self.check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.0.context) });
            BOUND.set(context);
        }
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) {
        self.bind();
        // SAFETY: the stream lives as long as the device.
        self.check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.0.stream) });
    }

    /// Sets every element of `out`.
    pub fn fill(&self, out: Out, value: f32) {
        if out.is_empty() {
            return;
        }
        self.bind();
        let (at, len, stream) = (out.address(), out.len(), self.0.stream);
        // SAFETY: the view covers `len` elements of its type.
        let done = unsafe {
            match out.dtype() {
                DType::F32 => sys::cuMemsetD32Async(at, value.to_bits(), len, stream).result(),
                DType::Bf16 => {
                    sys::cuMemsetD16Async(at, half::bf16::from_f32(value).to_bits(), len, stream).result()
                }
            }
        };
        self.check("cuMemsetAsync", done);
    }

    pub fn zero(&self, out: Out) {
        self.fill(out, 0.0);
    }

    /// out = x, of the same length and type.
    #[track_caller]
    pub fn copy(&self, out: Out, x: In) {
        assert_eq!((out.len(), out.dtype()), (x.len(), x.dtype()), "a copy between views that differ");
        if out.is_empty() {
            return;
        }
        self.bind();
        let bytes = x.len() * x.dtype().bytes();
        // SAFETY: both views cover `bytes` bytes.
        let done = unsafe { result::memcpy_dtod_async(out.address(), x.address(), bytes, self.0.stream) };
        self.check("cuMemcpyDtoDAsync", done);
    }

    /// Takes values from the host; they may be freed at once.
    fn write<T: Pod>(&self, to: u64, values: &[T]) {
        if values.is_empty() {
            return;
        }
        self.bind();
        // SAFETY: `to` has room for the values; from pageable memory the driver copies before it returns.
        self.check("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, values, self.0.stream) });
    }

    fn read<T: Pod>(&self, values: &mut [T], from: u64) {
        if values.is_empty() {
            return;
        }
        self.bind();
        // SAFETY: `from` holds as many values; the call waits for the work before it.
        self.check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(values, from, self.0.stream) });
        self.synchronize();
    }

    /// Leaves the computation with the driver's error.
    fn check<T>(&self, call: &str, done: std::result::Result<T, result::DriverError>) -> T {
        match done {
            Ok(value) => value,
            Err(error) => throw(Error::Device(format!(
                "cuda:{} ({}): {call} failed: {}\n  the last kernels: {}\n  work is done behind the calls that ask for it: \
                 ENGINE_TRACE=1 waits for each kernel and so names the one that failed. The device is lost to this \
                 process; what was saved is intact",
                self.0.ordinal,
                self.0.name,
                described(error),
                launch::last_kernels()
            ))),
        }
    }
}

/// Code and meaning of a driver's error.
fn described(error: result::DriverError) -> String {
    let text = |c: std::result::Result<&std::ffi::CStr, _>| c.map(|c| c.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(meaning)) => format!("{name} ({meaning})"),
        _ => format!("{:?}", error.0),
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({}, sm_{})", self.0.ordinal, self.0.name, self.0.capability)
    }
}
