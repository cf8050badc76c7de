//! The device, and NVRTC for its architecture.

use cudarc::driver::{sys, CudaContext, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig};
use cudarc::nvrtc::{result, sys as nvrtc, Ptx};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

pub struct Gpu {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub name: String,
    pub capability: i32,
    pub driver: i32,
    pub nvrtc: String,
    pub headers: Option<PathBuf>,
}

/// A kernel file.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
    /// Compile for sm_90a.
    pub is_hopper: bool,
}

impl Gpu {
    pub fn open() -> Outcome<Gpu> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: plain calls; cudarc panics where a library is missing
        unsafe {
            if !sys::is_culib_present() || !nvrtc::is_culib_present() {
                return Err("the loader does not find libcuda.so or libnvrtc.so (LD_LIBRARY_PATH)".into());
            }
            nvrtc::nvrtcVersion(&mut major, &mut minor).result()?;
        }
        let nvrtc = format!("{major}.{minor}");
        let context = CudaContext::new(0)?;
        let stream = context.new_stream()?;
        let (major, minor) = context.compute_capability()?;
        let mut driver = 0;
        // SAFETY: a plain call
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result()?;
        let name = context.name()?;
        Ok(Gpu { context, stream, name, capability: major * 10 + minor, driver, nvrtc, headers: headers() })
    }

    /// Compile for this device: a cubin for hardware, PTX for the emulator.
    pub fn load(&self, source: Source) -> Outcome<Arc<CudaModule>> {
        let architecture = format!("sm_{}{}", self.capability, if source.is_hopper { "a" } else { "" });
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "-lineinfo".into()];
        options.extend(self.headers.iter().map(|h| format!("--include-path={}", h.display())));
        let (text, name) = (CString::new(source.text)?, CString::new(source.name)?);
        let (include, include_name) = (CString::new(include_str!("kernels/ptx.cuh"))?, c"ptx.cuh");
        let (includes, names) = ([include.as_ptr()], [include_name.as_ptr()]);
        let mut program = std::ptr::null_mut();
        // SAFETY: texts and arrays outlive the program
        unsafe {
            let (text, name) = (text.as_ptr(), name.as_ptr());
            nvrtc::nvrtcCreateProgram(&mut program, text, name, 1, includes.as_ptr(), names.as_ptr()).result()?;
        }
        // SAFETY: the program is alive until it is destroyed
        let image = unsafe {
            let image = self.compile(program, &options);
            result::destroy_program(program)?;
            image?
        };
        Ok(self.context.load_module(image)?)
    }

    unsafe fn compile(&self, program: nvrtc::nvrtcProgram, options: &[String]) -> Outcome<Ptx> {
        if let Err(error) = result::compile_program(program, options) {
            let log = result::get_program_log(program)?;
            return Err(format!("{error}: {}", CStr::from_ptr(log.as_ptr()).to_string_lossy().trim()).into());
        }
        if self.name.starts_with("cudaemu") {
            let ptx = result::get_ptx(program)?;
            return Ok(Ptx::from_src(CStr::from_ptr(ptx.as_ptr()).to_string_lossy()));
        }
        let mut size = 0;
        nvrtc::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut cubin = vec![0u8; size];
        nvrtc::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result()?;
        Ok(Ptx::from_binary(cubin))
    }

    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Outcome<CudaSlice<T>> {
        Ok(self.stream.clone_htod(values)?)
    }

    pub fn download<T: DeviceRepr>(&self, values: &CudaSlice<T>) -> Outcome<Vec<T>> {
        let host = self.stream.clone_dtoh(values)?;
        self.stream.synchronize()?;
        Ok(host)
    }
}

fn headers() -> Option<PathBuf> {
    let wheel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nvrtc/nvidia/cu13/include");
    let candidates =
        [std::env::var_os("CUDA_INC").map(PathBuf::from), Some(wheel), Some("/usr/local/cuda/include".into())];
    candidates.into_iter().flatten().find(|d| d.join("cuda_fp16.h").exists())
}

pub fn config(grid: (usize, usize), block: (u32, u32), shared: u32) -> LaunchConfig {
    let grid_dim = (grid.0 as u32, grid.1 as u32, 1);
    LaunchConfig { grid_dim, block_dim: (block.0, block.1, 1), shared_mem_bytes: shared }
}

/// Every element within its tolerance.
pub fn compare(got: &[f32], expected: &[f32], tolerance: impl Fn(usize) -> f32) -> Outcome {
    if got.len() != expected.len() {
        return Err(format!("{} elements, expected {}", got.len(), expected.len()).into());
    }
    // NaN is not right
    let is_right = |i: &usize| (got[*i] - expected[*i]).abs() <= tolerance(*i);
    let wrong: Vec<usize> = (0..got.len()).filter(|i| !is_right(i)).collect();
    match wrong.first() {
        None => Ok(()),
        Some(&first) => {
            let (wrong, all, x, y) = (wrong.len(), got.len(), got[first], expected[first]);
            Err(format!("{wrong} of {all} elements wrong; element {first} is {x:e}, expected {y:e}").into())
        }
    }
}
