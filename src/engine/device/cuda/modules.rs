//! The compiled kernels of one device: from source, through the cache, to functions that can be launched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cudarc::driver::sys::CUfunction_attribute as Attribute;
use cudarc::driver::{result, sys};

use super::launch::Kernel;
use super::nvrtc::{Arch, Compiled, Program, source_length, stems, supported};
use super::{DType, Version, cache, described};
use crate::error::{Error, Result};

/// Dynamic shared memory that a kernel may have without being asked for more.
const PLAIN_SHARED: usize = 48 << 10;

pub struct Modules {
    arch: Arch,
    compiler: Version,
    /// Code of every file, as soon as it was compiled or read from the cache.
    code: Mutex<HashMap<(&'static str, DType), Arc<Vec<u8>>>>,
    loaded: Mutex<HashMap<(&'static str, DType), Module>>,
    functions: RwLock<HashMap<(usize, DType), Arc<Function>>>,
}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a module is a handle that the driver lets every thread use.
unsafe impl Send for Module {}

pub struct Function {
    handle: sys::CUfunction,
    /// The most dynamic shared memory it was given leave for.
    shared: AtomicUsize,
}

// SAFETY: a function is a handle that the driver lets every thread use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    pub fn handle(&self) -> sys::CUfunction {
        self.handle
    }
}

impl Modules {
    /// Machine code where this NVRTC knows the device; PTX for an emulated device, or for one newer than NVRTC.
    pub fn new(capability: u32, emulated: bool, compiler: Version, driver: Version) -> Result<Modules> {
        let known = supported();
        let newest = known.iter().copied().filter(|&a| a <= capability).max();
        let Some(newest) = newest else {
            return Err(Error::Device(format!(
                "NVRTC {compiler} compiles for sm_{} and newer, the device is sm_{capability}: install an older NVRTC",
                known.first().copied().unwrap_or(0)
            )));
        };
        let arch = if emulated {
            Arch::Ptx { capability }
        } else if newest == capability {
            Arch::of(capability)
        } else {
            Arch::Ptx { capability: newest }
        };
        let newer = (compiler.major, compiler.minor) > (driver.major, driver.minor);
        if newer && matches!(arch, Arch::Ptx { .. }) {
            return Err(Error::Device(format!(
                "NVRTC {compiler} is newer than the driver, which supports CUDA {driver}, and knows no machine code for \
                 sm_{capability}: update the driver, or install NVRTC {driver}"
            )));
        }
        Ok(Modules {
            arch,
            compiler,
            code: Mutex::default(),
            loaded: Mutex::default(),
            functions: RwLock::default(),
        })
    }

    /// Compiles all files that the cache does not hold, on all cores.
    pub fn prepare(&self, dtype: DType) -> Result<()> {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<&'static str> = stems().filter(|stem| !code.contains_key(&(*stem, dtype))).collect();
        let jobs: Vec<Job> = missing.into_iter().map(|stem| (stem, self.arch, dtype)).collect();
        let made = build_all(&jobs, self.compiler)?;
        code.extend(
            jobs.into_iter().zip(made).map(|((stem, ..), made)| ((stem, dtype), Arc::new(made.code))),
        );
        Ok(())
    }

    fn code(&self, stem: &'static str, dtype: DType) -> Result<Arc<Vec<u8>>> {
        let find = || self.code.lock().unwrap_or_else(PoisonError::into_inner).get(&(stem, dtype)).cloned();
        if let Some(code) = find() {
            return Ok(code);
        }
        self.prepare(dtype)?;
        Ok(find().expect("all files were prepared"))
    }

    fn module(&self, stem: &'static str, dtype: DType) -> Result<Module> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&(stem, dtype)) {
            return Ok(*module);
        }
        let code = self.code(stem, dtype)?;
        // SAFETY: the image is what NVRTC wrote; PTX ends with a NUL.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = Module(module.map_err(|e| {
            Error::Device(format!(
                "the driver does not take {stem}.cu compiled for {}: {}",
                self.arch,
                described(e)
            ))
        })?);
        loaded.insert((stem, dtype), module);
        Ok(module)
    }

    /// The function, with leave for so much dynamic shared memory.
    pub fn function(&self, kernel: &'static Kernel, dtype: DType, shared: usize) -> Result<Arc<Function>> {
        let key = (std::ptr::from_ref(kernel) as usize, dtype);
        let found = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let function = match found {
            Some(function) => function,
            None => {
                let module = self.module(kernel.stem, dtype)?;
                // SAFETY: the module was loaded and is never unloaded.
                let handle = unsafe { result::module::get_function(module.0, kernel.name.to_owned()) };
                let handle = handle.map_err(|e| {
                    let (name, stem) = (kernel.name.to_string_lossy(), kernel.stem);
                    Error::Device(format!(
                        "{name} is not in {stem}.cu compiled for {}: {}",
                        self.arch,
                        described(e)
                    ))
                })?;
                let function = Arc::new(Function { handle, shared: AtomicUsize::new(PLAIN_SHARED) });
                self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(key, function.clone());
                function
            }
        };
        if shared > function.shared.load(Ordering::Relaxed) {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is alive.
            let done = unsafe {
                result::function::set_function_attribute(function.handle, attribute, shared as i32)
            };
            done.map_err(|e| {
                let name = kernel.name.to_string_lossy();
                Error::Device(format!("{name} cannot have {shared} bytes of shared memory: {}", described(e)))
            })?;
            function.shared.store(shared, Ordering::Relaxed);
        }
        Ok(function)
    }
}

/// A kernel file to be compiled: its stem, for what, and how `real` is stored.
pub type Job = (&'static str, Arch, DType);

/// Code, the compiler's log, and whether the cache held them.
pub struct Built {
    pub code: Vec<u8>,
    pub log: String,
    pub cached: bool,
}

/// The code of these files in their order, from the cache or compiled, in parallel.
pub fn build_all(jobs: &[Job], compiler: Version) -> Result<Vec<Built>> {
    // The longest files first, so that no core is left with one when the others are done.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(source_length(jobs[at].0)));
    let next = AtomicUsize::new(0);
    let made: Mutex<Vec<Option<Result<Built>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&at) = order.get(at) else { return };
                    let (stem, arch, dtype) = jobs[at];
                    let built = build(stem, arch, dtype, compiler);
                    made.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(built);
                }
            });
        }
    });
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.into_iter().map(|m| m.expect("every file was built")).collect()
}

fn build(stem: &str, arch: Arch, dtype: DType, compiler: Version) -> Result<Built> {
    let program = Program::new(stem, arch, dtype)?;
    let version = compiler.to_string();
    let key = cache::key(program.parts().chain([version.as_str()]));
    let log_key = format!("{key}.log");
    let folder = cache::folder();
    let load = |key: &str| folder.as_deref().and_then(|f| cache::load(f, key));
    if let (Some(code), Some(log)) = (load(&key), load(&log_key)) {
        return Ok(Built { code, log: String::from_utf8_lossy(&log).into_owned(), cached: true });
    }
    let Compiled { code, log } = program.compile()?;
    if let Some(folder) = folder {
        cache::store(&folder, &log_key, log.as_bytes());
        cache::store(&folder, &key, &code);
    }
    Ok(Built { code, log, cached: false })
}
