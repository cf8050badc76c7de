//! The CUDA device under test: the emulated one, or the one that ENGINE_TEST_DEVICE names.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mirrorgan_engine::engine::device::{self, Device};

/// NVRTC's libraries: where NVRTC_DIR says, or where tools/nvrtc puts them.
pub fn nvrtc() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nvrtc/nvidia/cu13/lib");
    std::env::var_os("NVRTC_DIR").map(PathBuf::from).into_iter().chain([own]).find(|p| p.is_dir())
}

/// Past the test harness, which keeps what passing tests print to itself.
fn skipped() {
    let why = "SKIPPED: no NVRTC in .tools/nvrtc and none named by NVRTC_DIR: run tools/nvrtc";
    let _ = writeln!(std::io::stderr(), "{why}");
}

/// A folder that stands first on the loader's path, so that a program finds the emulated driver, and NVRTC where wanted.
#[allow(dead_code)]
pub struct Emulated {
    folder: tempfile::TempDir,
}

#[allow(dead_code)]
impl Emulated {
    /// None where there is no NVRTC, as in [`cuda`].
    pub fn new(with_nvrtc: bool) -> Option<Emulated> {
        let Some(nvrtc) = nvrtc() else {
            assert!(!std::env::var("CI").is_ok_and(|v| v == "true"), "no NVRTC: run tools/nvrtc first");
            skipped();
            return None;
        };
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

#[allow(dead_code)]
/// None where there is no NVRTC: then the test is left out, which CI does not allow.
pub fn cuda() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        let name = std::env::var("ENGINE_TEST_DEVICE").unwrap_or_default();
        if name.is_empty() {
            let Some(nvrtc) = nvrtc() else {
                let ci = std::env::var("CI").is_ok_and(|v| v == "true");
                assert!(!ci, "no NVRTC: run tools/nvrtc first");
                return None;
            };
            for (switch, value) in
                [("CUDAEMU_CHECK", "1"), ("CUDAEMU_QUIET", "1"), ("ENGINE_EXACT_MEMORY", "1")]
            {
                if std::env::var_os(switch).is_none() {
                    // SAFETY: no other thread of the test asks the environment while the device is being opened.
                    unsafe { std::env::set_var(switch, value) };
                }
            }
            cudaemu::install(Some(&nvrtc));
        }
        let name = if name.is_empty() { "cuda:0" } else { &name };
        Some(device::open(name).unwrap_or_else(|e| panic!("{e}")).0)
    });
    if device.is_none() {
        skipped();
    }
    device.as_ref()
}
