//! One CUDA device: its context, its stream, its memory and its kernels.
//!
//! All work of a device goes to one stream, so memory that is given back may be given out again at once.

mod cache;
mod kernel;
mod launch;
mod memory;
mod modules;
mod nvrtc;
mod probe;
pub mod report;
mod staging;
mod timer;
mod toolkit;
mod view;

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{result, sys};

use super::{DType, Precision};
use crate::error::{Error, Result, throw};
pub use kernel::Kernel;
pub use launch::{Grid, k};
pub use memory::{Arena, Buffer, Inside, Usage};
pub use nvrtc::{Arch, Compiled};
pub use probe::{Probe, Version, probe};
pub use view::{In, IntBuffer, Ints, Out, Table};

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
    staging: Mutex<staging::Staging>,
    modules: modules::Modules,
}

// SAFETY: context and stream are handles that the driver lets every thread use.
unsafe impl Send for Inner {}
// SAFETY: as above; what changes is behind locks.
unsafe impl Sync for Inner {}

/// Devices stay open until the process ends: opening one takes long, and all
/// users of a device share its memory.
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
        let compiler = found.usable(ordinal)?;
        // SAFETY: driver calls in their documented order on a device that the driver listed.
        let made = unsafe {
            (|| {
                let device = result::device::get(ordinal as c_int)?;
                let ask = |attribute| result::device::get_attribute(device, attribute);
                let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
                let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
                let multiprocessors = ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
                let context = result::primary_ctx::retain(device)?;
                make_current(context)?;
                let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
                Ok(((major * 10 + minor) as u32, multiprocessors as usize, context, stream))
            })()
        };
        let (capability, multiprocessors, context, stream) = made.map_err(|e: result::DriverError| {
            let why = format!("it cannot be opened: {}", described(e));
            Error::NoDevice { device: format!("cuda:{ordinal}"), why }
        })?;
        let (name, total) = found.devices[ordinal].clone();
        if capability < OLDEST {
            let device = format!("cuda:{ordinal} ({name}, sm_{capability})");
            let why = format!("is older than supported: sm_{OLDEST} or newer is wanted; use --device cpu");
            return Err(Error::Unsupported { device, why });
        }
        let modules = modules::Modules::new(capability, name.starts_with("cudaemu"), compiler, &found)?;
        let gpu = Gpu(Arc::new(Inner {
            ordinal,
            name,
            capability,
            multiprocessors,
            context,
            stream,
            pool: Mutex::new(memory::Pool::new(total)),
            staging: Mutex::default(),
            modules,
        }));
        gpu.prepare(DType::F32)?;
        Ok(gpu)
    }

    /// Has the kernels of one storage ready as code: from the cache, or compiled on all cores.
    pub fn prepare(&self, dtype: DType) -> Result<()> {
        self.0.modules.prepare(dtype)
    }

    /// Loads every kernel of one storage onto the device, so that no later launch has to: before a timing or a capture.
    pub fn load_kernels(&self, dtype: DType) -> Result<()> {
        self.bind();
        self.0.modules.load(dtype)
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

    /// How many there are. Products and sums are split by this number, so results have the same bits on devices with
    /// equally many (H100 SXM and H200: 132), and differ in rounding from one with another number (H100 PCIe: 114).
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
        let done = self.make_current();
        if done.is_err() {
            self.check("cuCtxSetCurrent", done);
        }
    }

    fn make_current(&self) -> std::result::Result<(), result::DriverError> {
        make_current(self.0.context)
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) {
        self.bind();
        // SAFETY: the stream lives as long as the device.
        self.check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.0.stream) });
    }

    /// Sets `len` elements at an address.
    fn set_memory(&self, at: u64, len: usize, dtype: DType, value: f32) {
        if len == 0 {
            return;
        }
        self.bind();
        let stream = self.0.stream;
        // SAFETY: the views and buffers that ask cover `len` elements.
        let done = unsafe {
            match dtype {
                DType::F32 => sys::cuMemsetD32Async(at, value.to_bits(), len, stream).result(),
                DType::Bf16 => {
                    sys::cuMemsetD16Async(at, half::bf16::from_f32(value).to_bits(), len, stream).result()
                }
            }
        };
        self.check("cuMemsetAsync", done);
    }

    fn copy_memory(&self, to: u64, from: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.bind();
        // SAFETY: the views and buffers that ask cover `bytes` bytes.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.0.stream) };
        self.check("cuMemcpyDtoDAsync", done);
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
            Err(error) => throw(Error::Driver {
                ordinal: self.0.ordinal,
                device: self.0.name.clone(),
                call: call.to_string(),
                code: described(error),
                hint: format!(
                    "the last kernels: {}\n  work is done behind the calls that ask for it: ENGINE_TRACE=1 waits for each \
                     kernel and so names the one that failed. The device is lost to this process; what was saved is intact",
                    kernel::last_kernels()
                ),
            }),
        }
    }
}

/// Makes a context the calling thread's; all changes of it go through here.
fn make_current(context: sys::CUcontext) -> std::result::Result<(), result::DriverError> {
    thread_local! {
        static BOUND: Cell<usize> = const { Cell::new(0) };
    }
    if BOUND.get() != context as usize {
        // SAFETY: the context is retained as long as the process lives.
        unsafe { result::ctx::set_current(context)? };
        BOUND.set(context as usize);
    }
    Ok(())
}

/// Code and text of a driver's error.
fn described(error: result::DriverError) -> String {
    let text = |c: std::result::Result<&std::ffi::CStr, _>| c.map(|c| c.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(text)) => format!("{name} ({text})"),
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
