//! What is said when a CUDA device cannot be used, or fails. All on the emulated driver, in a process of its own.

mod device;

use std::path::Path;
use std::process::Command;

use device::Emulated;

/// Trains the smallest demo; what it wrote, standard error last.
struct Said {
    success: bool,
    text: String,
}

fn engine(driver: &Emulated, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(arguments).envs(environment.iter().copied());
    let output = driver.run(&mut command);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Said { success: output.status.success(), text }
}

/// Fails before a folder is made: the device is opened first.
fn refused(driver: &Emulated, device: &str, environment: &[(&str, &str)]) -> String {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("run");
    let said = engine(
        driver,
        &["train", "--dataset", "demo", "--device", device, "--out", out.to_str().unwrap()],
        environment,
    );
    assert!(!said.success && !out.exists(), "{}", said.text);
    said.text
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
}

#[test]
fn a_name_that_is_no_device() {
    let Some(driver) = Emulated::new(true) else { return };
    says(&refused(&driver, "gpu", &[]), &["'gpu' cannot be used: write auto, cpu or cuda:N"]);
}

#[test]
fn no_driver() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(["train", "--dataset", "demo", "--device", "cuda:0"]).env("LD_LIBRARY_PATH", empty.path());
    let output = command.current_dir(empty.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if mirrorgan_engine::engine::device::cuda::probe().driver.is_some() {
        return device::skip("this machine has a CUDA driver");
    }
    says(&text, &["no CUDA driver: libcuda.so was not found", "--device cpu"]);
}

#[test]
fn a_driver_without_nvrtc() {
    let Some(driver) = Emulated::new(false) else { return };
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    let text = refused(&driver, "cuda:0", &[("ENGINE_NVRTC", folder)]);
    says(&text, &["no NVRTC", folder, "pip install nvidia-cuda-nvrtc", "--device cpu"]);
}

/// `engine info` where only `variable` tells where NVRTC is.
fn info(driver: &Emulated, working: &Path, variable: &str, value: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.arg("info").current_dir(working).env(variable, value);
    String::from_utf8_lossy(&driver.run(&mut command).stdout).into_owned()
}

#[test]
fn nvrtc_is_found_in_cudas_folders_and_where_one_says() {
    let Some(driver) = Emulated::new(false) else { return };
    let Ok(nvrtc) = device::nvrtc() else { return device::skip("no NVRTC") };
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64");
    std::os::unix::fs::symlink(nvrtc, &library).unwrap();
    for (variable, value) in
        [("CUDA_HOME", home.path()), ("CUDA_PATH", home.path()), ("ENGINE_NVRTC", &library)]
    {
        let text = info(&driver, home.path(), variable, value.to_str().unwrap());
        says(&text, &["NVRTC 1", library.join("libnvrtc.so").to_str().unwrap()]);
    }
}

/// `cuEventElapsedTime_v2` came with CUDA 12.8: here its name is written over in a copy of the driver.
#[test]
fn a_driver_before_12_8_tells_time_as_well() {
    let Some(driver) = Emulated::new(true) else { return };
    driver.without(b"cuEventElapsedTime_v2\0");
    let list = ["bench", "pool", "--quick", "--batch", "1", "--device", "cuda:0", "--seconds", "2"];
    let said = engine(&driver, &list, &[]);
    assert!(said.success, "{}", said.text);
    says(&said.text, &["pool"]);
}

#[test]
fn nvrtc_newer_than_the_driver() {
    let Some(driver) = Emulated::new(true) else { return };
    let text = refused(&driver, "cuda:0", &[("CUDAEMU_DRIVER", "12040")]);
    says(&text, &["is newer than the driver, which supports CUDA 12.4", "install NVRTC 12"]);
}

#[test]
fn a_gpu_older_than_supported() {
    let Some(driver) = Emulated::new(true) else { return };
    let text = refused(&driver, "cuda:0", &[("CUDAEMU_CC", "70")]);
    says(&text, &["sm_70) is older than supported: sm_75 or newer"]);
}

#[test]
fn a_device_that_is_not_there() {
    let Some(driver) = Emulated::new(true) else { return };
    says(&refused(&driver, "cuda:3", &[]), &["there is no cuda:3: this machine has cuda:0"]);
    let text = refused(&driver, "cuda:0", &[("CUDAEMU_DEVICES", "0")]);
    says(&text, &["CUDA_ERROR_NO_DEVICE"]);
}

/// Kernel sources with `added` after the first `mark` of a file.
fn kernels_with(file: &str, mark: &str, added: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap().flatten() {
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == file {
            let at = text.find(mark).unwrap_or_else(|| panic!("{file} does not hold '{mark}'")) + mark.len();
            text.insert_str(at, added);
        }
        std::fs::write(folder.path().join(entry.file_name()), text).unwrap();
    }
    folder
}

#[test]
fn a_kernel_that_does_not_compile_is_shown_with_file_and_line() {
    let Some(driver) = Emulated::new(true) else { return };
    let kernels = kernels_with("pointwise.cu", "#include \"prelude.cuh\"", "\nnonsense here;");
    let text = refused(&driver, "cuda:0", &[("ENGINE_KERNELS", kernels.path().to_str().unwrap())]);
    says(&text, &["kernels/pointwise.cu for", "NVRTC does not compile it", "pointwise.cu(", "nonsense"]);
}

/// A demo so small that the emulated device trains it in seconds.
const SMALL: [&str; 38] = [
    "train",
    "--dataset",
    "demo",
    "--set",
    "data.images=24",
    "--set",
    "text_encoder.embedding=8",
    "--set",
    "text_encoder.features=8",
    "--set",
    "damsm.backbone.widths=[4, 8, 8]",
    "--set",
    "damsm.backbone.map_after=2",
    "--set",
    "damsm.schedule.batch=4",
    "--set",
    "generator.first_ups=1",
    "--set",
    "generator.width=2",
    "--set",
    "discriminator.width=4",
    "--set",
    "loss.lambda_captioner=0.0",
    "--set",
    "gan.schedule.batch=4",
    "--set",
    "run.sample_rows=3",
    "--set",
    "generator.noise=4",
    "--set",
    "generator.condition=4",
    "--set",
    "damsm.schedule.steps=2",
    "--set",
    "captioner.schedule.steps=2",
    "--set",
    "gan.schedule.steps=2",
    "--threads",
];

fn small(driver: &Emulated, out: &Path, more: &[&str], environment: &[(&str, &str)]) -> Said {
    let out = ["1", "--out", out.to_str().unwrap()];
    engine(driver, &[&SMALL[..], &out, more].concat(), environment)
}

#[test]
fn a_cache_folder_that_cannot_be_written_costs_time_alone() {
    let Some(driver) = Emulated::new(true) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let said = small(
        &driver,
        &folder.path().join("run"),
        &["--device", "cuda:0"],
        &[("ENGINE_CACHE", file.join("cache").to_str().unwrap())],
    );
    says(&said.text, &["compiled kernels cannot be kept in", "ENGINE_CACHE"]);
    assert!(said.success, "{}", said.text);
    assert_eq!(said.text.matches("cannot be kept").count(), 1);
}

#[test]
fn two_processes_fill_one_cache() {
    let Some(driver) = Emulated::new(true) else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let (driver, cache, out) = (&driver, cache.to_str().unwrap(), folder.path().join(name));
            scope.spawn(move || {
                let said = small(driver, &out, &["--device", "cuda:0"], &[("ENGINE_CACHE", cache)]);
                assert!(said.success, "{}", said.text);
            });
        }
    });
    let temporary = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".tmp");
    let leftovers = std::fs::read_dir(&cache).unwrap().flatten().filter(|e| temporary(&e.file_name()));
    assert_eq!(leftovers.count(), 0, "temporary files are left");
}

#[test]
fn memory_that_runs_out_in_a_step_leaves_the_run_intact() {
    let Some(driver) = Emulated::new(true) else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let wide =
        ["--set", "generator.width=16", "--set", "gan.schedule.batch=16", "--set", "generator.first_ups=2"];
    let said =
        small(&driver, &run, &[&wide[..], &["--device", "cuda:0"]].concat(), &[("CUDAEMU_MEM_MB", "20")]);
    assert!(!said.success, "{}", said.text);
    says(&said.text, &["out of memory on cuda:0", "gan step 1 >", "--set gan.schedule.batch="]);
    // What the message advises, until it fits into the same memory.
    let mut text = said.text;
    for _ in 0..3 {
        let Some((_, advised)) = text.split_once("try: ") else { break };
        let line = format!("{} --device cuda:0 --threads 1", advised.lines().next().unwrap());
        let output = driver.run(Command::new("sh").args(["-c", &line]).env("CUDAEMU_MEM_MB", "20"));
        text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return says(&text, &["damsm: finished at step 2, kept", "gan.schedule.batch is "]);
        }
    }
    panic!("no advice was good: {text}");
}

#[test]
fn a_kernel_that_fails_ends_the_run_and_names_itself() {
    let Some(driver) = Emulated::new(true) else { return };
    let mark = "accumulate(real* __restrict__ sum, const real* __restrict__ x, int n) {";
    let kernels = kernels_with("pointwise.cu", mark, " sum += 1 << 28;");
    let folder = tempfile::tempdir().unwrap();
    let environment = [
        ("ENGINE_KERNELS", kernels.path().to_str().unwrap()),
        ("CUDAEMU_CHECK", "1"),
        ("CUDAEMU_STICKY", "1"),
    ];
    let said = small(&driver, &folder.path().join("run"), &["--device", "cuda:0"], &environment);
    assert!(!said.success, "{}", said.text);
    says(&said.text, &["accumulate", "CUDA_ERROR_ILLEGAL_ADDRESS", "what was saved is intact"]);
}
