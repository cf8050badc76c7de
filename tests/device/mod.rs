//! The CUDA device under test: the emulated one, or the one that ENGINE_TEST_DEVICE names.

#![allow(dead_code)] // each test file uses a part

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use mirrorgan_engine::engine::device::{self, Device};

/// The folder of NVRTC's libraries: what NVRTC_DIR names, else what tools/nvrtc prints, which fetches them once. The
/// error is the reason why there are none.
pub fn nvrtc() -> Result<&'static Path, &'static str> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || {
        if let Some(folder) = std::env::var_os("NVRTC_DIR").map(PathBuf::from) {
            return if folder.is_dir() { Ok(folder) } else { Err("NVRTC_DIR names no folder".to_string()) };
        }
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/nvrtc");
        let output = Command::new(tool).output().map_err(|e| format!("tools/nvrtc: {e}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        let folder = PathBuf::from(text(&output.stdout));
        if output.status.success() && folder.is_dir() {
            Ok(folder)
        } else {
            let said = text(&output.stderr);
            Err(format!("tools/nvrtc failed: {}", said.lines().last().unwrap_or("it said nothing")))
        }
    };
    let found = FOUND.get_or_init(find);
    found.as_deref().map_err(String::as_str)
}

/// Leaves a test out and says so past the test harness, which swallows what passing tests print. In CI it fails.
pub fn skip(why: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn summary() {
        let name = std::env::current_exe().unwrap_or_default();
        let name = name.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.rsplit_once('-').map_or(name.as_str(), |(name, _)| name);
        let _ = writeln!(std::io::stderr(), "{name}: {} skipped", SKIPPED.load(Ordering::Relaxed));
    }
    unsafe extern "C" {
        safe fn atexit(function: extern "C" fn()) -> i32;
    }

    assert!(!std::env::var("CI").is_ok_and(|v| v == "true"), "nothing may be skipped in CI: {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
    if SKIPPED.fetch_add(1, Ordering::Relaxed) == 0 {
        atexit(summary);
    }
}

/// As [`nvrtc`]; without one, the test is skipped.
fn nvrtc_or_skip() -> Option<&'static Path> {
    nvrtc().inspect_err(|why| skip(&format!("no NVRTC: {why}"))).ok()
}

/// A folder that stands first on the loader's path, so that a program finds the emulated driver, and NVRTC where wanted.
pub struct Emulated {
    folder: tempfile::TempDir,
}

impl Emulated {
    /// None where there is no NVRTC, as in [`cuda`].
    pub fn new(with_nvrtc: bool) -> Option<Emulated> {
        let nvrtc = nvrtc_or_skip()?;
        let folder = tempfile::tempdir().unwrap();
        let link =
            |from: &Path, name: &str| std::os::unix::fs::symlink(from, folder.path().join(name)).unwrap();
        link(&cudaemu::library(), "libcuda.so");
        if with_nvrtc {
            for entry in std::fs::read_dir(nvrtc).unwrap().flatten() {
                link(&entry.path(), &entry.file_name().to_string_lossy());
            }
        }
        Some(Emulated { folder })
    }

    /// Takes a function, by its name, away from this driver.
    pub fn without(&self, name: &[u8]) {
        let mut driver = std::fs::read(cudaemu::library()).unwrap();
        let found: Vec<usize> =
            (0..driver.len() - name.len()).filter(|&at| driver[at..].starts_with(name)).collect();
        assert!(!found.is_empty(), "the driver has no such function");
        found.into_iter().for_each(|at| driver[at] = b'x');
        let path = self.folder.path().join("libcuda.so");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, driver).unwrap();
    }

    /// Lets a program find this driver alone.
    pub fn run(&self, program: &mut std::process::Command) -> std::process::Output {
        program.env("LD_LIBRARY_PATH", self.folder.path()).env("CUDAEMU_QUIET", "1");
        program.output().unwrap()
    }
}

/// None where there is no NVRTC: then the test is skipped.
pub fn cuda() -> Option<&'static Device> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let name = std::env::var("ENGINE_TEST_DEVICE").unwrap_or_default();
    let emulator = if name.is_empty() { Some(nvrtc_or_skip()?) } else { None };
    Some(DEVICE.get_or_init(|| {
        if let Some(nvrtc) = emulator {
            for (switch, value) in
                [("CUDAEMU_CHECK", "1"), ("CUDAEMU_QUIET", "1"), ("ENGINE_EXACT_MEMORY", "1")]
            {
                if std::env::var_os(switch).is_none() {
                    // SAFETY: no other thread of the test asks the environment while the device is being opened.
                    unsafe { std::env::set_var(switch, value) };
                }
            }
            cudaemu::install(Some(nvrtc));
        }
        let name = if name.is_empty() { "cuda:0" } else { &name };
        device::open(name).unwrap_or_else(|e| panic!("{e}")).0
    }))
}
