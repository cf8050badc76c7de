//! The example `trial` on the emulator, which it finds as it would find a driver: by the loader's search.

mod common;

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder in which the emulator has a driver's names.
struct Driver(PathBuf);

impl Driver {
    fn new(test: &str) -> Driver {
        let emulator = beside_this_test("libcudaemu.so");
        let folder = std::env::temp_dir().join(format!("cudaemu-{test}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(&emulator, folder.join(name)).unwrap();
        }
        Driver(folder)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn beside_this_test(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

/// Run the trial, unless there is no NVRTC.
fn trial(test: &str, arguments: &[&str], switches: &[(&str, &str)]) -> Option<Output> {
    let nvrtc = common::nvrtc()?;
    let program = beside_this_test("../examples/trial");
    assert!(program.exists(), "build it first: cargo build -p cudaemu --example trial");
    let driver = Driver::new(test);
    let path = std::env::join_paths([&driver.0, &nvrtc.libraries]).unwrap();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CUDAEMU_")) {
        command.env_remove(name);
    }
    command.env("LD_LIBRARY_PATH", path).env("CUDA_INC", nvrtc.headers).env("CUDAEMU_QUIET", "1");
    Some(command.args(arguments).envs(switches.iter().copied()).output().unwrap())
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
}

#[test]
fn every_trial_passes() {
    let Some(output) = trial("all", &[], &[("CUDAEMU_CHECK", "3")]) else { return };
    let lines = lines(&output);
    assert!(output.status.success(), "{lines:#?} {}", String::from_utf8_lossy(&output.stderr));
    assert!(lines[0].starts_with("cudaemu"), "{lines:#?}");
    let (last, trials) = lines[1..].split_last().unwrap();
    assert!(trials.iter().all(|line| line.starts_with("ok ")), "{lines:#?}");
    assert_eq!(*last, format!("{} ran, 0 failed", trials.len()));
    assert!(trials.len() >= 20, "{lines:#?}");
}

#[test]
fn deferred_streams_change_nothing() {
    let filters = ["gemm16", "embedding_gradient", "graph", "streams"];
    for order in ["1", "2"] {
        let switches = [("CUDAEMU_DEFER", order), ("CUDAEMU_CHECK", "1")];
        let Some(output) = trial(&format!("deferred-{order}"), &filters, &switches) else { return };
        assert!(output.status.success(), "{:#?}", lines(&output));
    }
}

#[test]
fn a_lesser_device_skips() {
    let Some(output) = trial("lesser", &["gemm16", "mma_m16n8k8"], &[("CUDAEMU_CC", "75")]) else { return };
    let expected = [
        "ok gemm16",
        "ok mma_m16n8k8_f16_f32",
        "skipped mma_m16n8k8_bf16_f32: compute capability 75, not 80",
        "skipped mma_m16n8k8_tf32_f32: compute capability 75, not 80",
        "2 ran, 0 failed",
    ];
    assert_eq!(lines(&output)[1..], expected);
    assert!(output.status.success());
}

#[test]
fn failures_are_told() {
    let Some(output) = trial("failing", &["softmax"], &[("CUDAEMU_MAX_PTX", "8.0")]) else { return };
    let lines = lines(&output);
    assert!(lines[1].starts_with("FAILED softmax: DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), "{lines:#?}");
    assert_eq!(output.status.code(), Some(1));
    let Some(output) = trial("none", &[], &[("CUDAEMU_DEVICES", "0")]) else { return };
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("FAILED device: DriverError(CUDA_ERROR_NO_DEVICE"));
    assert_eq!(output.status.code(), Some(1));
}
