//! The compiled kernels of one device: from source, through the cache, to functions that can be launched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cudarc::driver::sys::CUfunction_attribute as Attribute;
use cudarc::driver::{result, sys};

use super::kernel::Kernel;
use super::launch::k::KERNELS;
use super::nvrtc::{Arch, Compiled, Program, families, source_length, supported};
use super::{DType, Probe, Version, cache, described};
use crate::error::{Error, Result};

/// Dynamic shared memory that a kernel may have without being asked for more.
const PLAIN_SHARED: usize = 48 << 10;

/// Machine code or PTX by file and storage.
type Code = HashMap<(&'static str, DType), Arc<Vec<u8>>>;

pub struct Modules {
    arch: Arch,
    compiler: Version,
    /// Code of every file, as soon as it was compiled or read from the cache.
    code: Mutex<Code>,
    loaded: Mutex<HashMap<(&'static str, DType), Module>>,
    functions: RwLock<HashMap<(usize, DType), Arc<Function>>>,
}

#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a module is a handle that the driver lets every thread use.
unsafe impl Send for Module {}

pub struct Function {
    handle: sys::CUfunction,
    shared: Limit,
}

/// The maximum of dynamic shared memory that a function was set to so far; it only grows.
struct Limit {
    bytes: AtomicUsize,
    setting: Mutex<()>,
}

impl Limit {
    fn new() -> Limit {
        Limit { bytes: AtomicUsize::new(PLAIN_SHARED), setting: Mutex::new(()) }
    }

    /// Calls `set` where more is wanted than was set. One thread at a time: the last call must be the largest.
    fn raise<E>(
        &self,
        wanted: usize,
        set: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if wanted <= self.bytes.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > self.bytes.load(Ordering::Acquire) {
            set()?;
            self.bytes.store(wanted, Ordering::Release);
        }
        Ok(())
    }
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
    pub fn new(capability: u32, emulated: bool, compiler: Version, found: &Probe) -> Result<Modules> {
        let device = || format!("a device of sm_{capability}");
        let known = supported();
        let newest = known.iter().copied().filter(|&a| a <= capability).max();
        let Some(newest) = newest else {
            let oldest = known.first().copied().unwrap_or(0);
            let why = format!("NVRTC {compiler} compiles for sm_{oldest} and newer: install an older NVRTC");
            return Err(Error::Unsupported { device: device(), why });
        };
        let arch = if emulated {
            Arch::Ptx { capability }
        } else if newest == capability {
            Arch::of(capability)
        } else {
            Arch::Ptx { capability: newest }
        };
        let newer = |driver: &Version| (compiler.major, compiler.minor) > (driver.major, driver.minor);
        if let (Some(driver), Arch::Ptx { .. }) = (found.driver.filter(newer), arch) {
            let why = format!(
                "NVRTC {compiler} is newer than the driver, which supports CUDA {driver}, and knows no machine code for \
                 sm_{capability}: update the driver, or install NVRTC {driver}"
            );
            return Err(Error::Unsupported { device: device(), why });
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
        let missing: Vec<&'static str> =
            families().filter(|family| !code.contains_key(&(*family, dtype))).collect();
        let jobs: Vec<Job> = missing.into_iter().map(|family| (family, self.arch, dtype)).collect();
        let made = build_all(&jobs, self.compiler)?;
        code.extend(
            jobs.into_iter().zip(made).map(|((family, ..), made)| ((family, dtype), Arc::new(made.code))),
        );
        Ok(())
    }

    fn code(&self, family: &'static str, dtype: DType) -> Result<Arc<Vec<u8>>> {
        let find = || self.code.lock().unwrap_or_else(PoisonError::into_inner).get(&(family, dtype)).cloned();
        if let Some(code) = find() {
            return Ok(code);
        }
        self.prepare(dtype)?;
        Ok(find().expect("all files were prepared"))
    }

    fn module(&self, family: &'static str, dtype: DType) -> Result<Module> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&(family, dtype)) {
            return Ok(*module);
        }
        let code = self.code(family, dtype)?;
        // SAFETY: the image is what NVRTC wrote; PTX ends with a NUL.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = Module(module.map_err(|e| self.refused(family, "the driver does not take it", e))?);
        loaded.insert((family, dtype), module);
        Ok(module)
    }

    fn refused(&self, family: &str, what: &str, error: result::DriverError) -> Error {
        let log = format!("{what}: {}", described(error));
        Error::Compile { file: format!("{family}.cu"), arch: self.arch.to_string(), log }
    }

    /// Every kernel of one storage, so that nothing is left to be loaded by a launch.
    pub fn load(&self, dtype: DType) -> Result<()> {
        self.prepare(dtype)?;
        KERNELS.iter().try_for_each(|kernel| self.loaded(kernel, dtype).map(drop))
    }

    /// The function. With lazy loading, the driver loads a kernel when it is asked for by name.
    fn loaded(&self, kernel: &'static Kernel, dtype: DType) -> Result<Arc<Function>> {
        let key = (std::ptr::from_ref(kernel) as usize, dtype);
        let found = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(function) = found {
            return Ok(function);
        }
        let module = self.module(kernel.family, dtype)?;
        // SAFETY: the module was loaded and is never unloaded.
        let handle = unsafe { result::module::get_function(module.0, kernel.name.to_owned()) };
        let handle = handle.map_err(|e| {
            let what = format!("{} is not in it", kernel.name.to_string_lossy());
            self.refused(kernel.family, &what, e)
        })?;
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been first: the limit of shared memory is to be one.
        Ok(functions
            .entry(key)
            .or_insert_with(|| Arc::new(Function { handle, shared: Limit::new() }))
            .clone())
    }

    /// The function, allowed so much dynamic shared memory.
    pub fn function(&self, kernel: &'static Kernel, dtype: DType, shared: usize) -> Result<Arc<Function>> {
        let function = self.loaded(kernel, dtype)?;
        let set = || {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is alive.
            unsafe { result::function::set_function_attribute(function.handle, attribute, shared as i32) }
        };
        function.shared.raise(shared, set).map_err(|e| {
            let name = kernel.name.to_string_lossy();
            self.refused(kernel.family, &format!("{name} cannot have {shared} bytes of shared memory"), e)
        })?;
        Ok(function)
    }
}

/// A kernel file to be compiled: its family, for what, and how `real` is stored.
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
                    let (family, arch, dtype) = jobs[at];
                    let built = build(family, arch, dtype, compiler);
                    made.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(built);
                }
            });
        }
    });
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.into_iter().map(|m| m.expect("every file was built")).collect()
}

fn build(family: &str, arch: Arch, dtype: DType, compiler: Version) -> Result<Built> {
    let program = Program::new(family, arch, dtype)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The setting takes a while, so that threads meet; a smaller limit must never come after a larger.
    #[test]
    fn a_limit_of_shared_memory_never_falls() {
        let (limit, set) = (Limit::new(), AtomicUsize::new(PLAIN_SHARED));
        std::thread::scope(|scope| {
            for n in [3, 1, 4, 2] {
                let (limit, set) = (&limit, &set);
                scope.spawn(move || {
                    let wanted = PLAIN_SHARED + n * 1024;
                    let done = limit.raise(wanted, || -> std::result::Result<(), ()> {
                        std::thread::sleep(std::time::Duration::from_millis(5 * (5 - n as u64)));
                        set.store(wanted, Ordering::SeqCst);
                        Ok(())
                    });
                    assert!(done.is_ok() && set.load(Ordering::SeqCst) >= wanted);
                });
            }
        });
        assert_eq!(set.load(Ordering::SeqCst), PLAIN_SHARED + 4 * 1024);
    }
}
