//! `engine kernels`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::say;
use crate::engine::device::cuda::report::{self, Compilation, Report};
use crate::engine::device::cuda::{Arch, Version, probe};
use crate::engine::device::{self, DType, Device};
use crate::engine::ops::{Case, families};
use crate::engine::tensor::{Tensor, backward_from};
use crate::error::note;

#[derive(clap::Args)]
pub struct Args {
    /// Only kernels of which the name or the file contains this; with --profile, operators
    #[arg(default_value = "", hide_default_value = true)]
    filter: String,
    /// Architectures [default: the device's, else sm_80,sm_90a]
    #[arg(long, value_delimiter = ',', value_name = "ARCH", conflicts_with_all = ["compile", "profile"])]
    arch: Vec<Arch>,
    /// How `real` is stored [default: both]
    #[arg(long, value_name = "STORAGE", value_parser = DType::ALL.map(DType::name))]
    storage: Option<String>,
    /// Compile for these architectures into the cache and list nothing
    #[arg(long, value_delimiter = ',', value_name = "ARCH", conflicts_with = "profile")]
    compile: Vec<Arch>,
    /// Run the operators' cases on the emulated driver; list their memory accesses by source line, worst first
    #[arg(long)]
    profile: bool,
    /// All there is, as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let asked = |dtype: &DType| args.storage.as_deref().is_none_or(|only| only == dtype.name());
    let storages: Vec<DType> = DType::ALL.into_iter().filter(asked).collect();
    if args.profile {
        return profile(&args, &storages);
    }
    if !args.compile.is_empty() {
        let begin = Instant::now();
        let Compilation { compiler, compiled, cached, .. } =
            report::compile(&args.compile, &storages, &args.filter)?;
        let seconds = begin.elapsed().as_secs_f64();
        if args.json {
            return say(serde_json::json!({
                "nvrtc": compiler.to_string(), "compiled": compiled, "cached": cached, "seconds": seconds
            }));
        }
        return say(format!("NVRTC {compiler}: {compiled} compiled, {cached} in the cache, {seconds:.1} s"));
    }
    let archs = match (&args.arch[..], report::device_arch()) {
        ([], Some(arch)) => vec![arch],
        ([], None) => vec![machine(80, false), machine(90, true)],
        (named, _) => named.to_vec(),
    };
    if let Some(ptx) = archs.iter().find(|a| matches!(a, Arch::Ptx { .. })) {
        anyhow::bail!("{ptx} is PTX, which has no registers yet: write sm_80 or sm_90a");
    }
    let Compilation { compiler, reports, .. } = report::compile(&archs, &storages, &args.filter)?;
    if reports.is_empty() {
        anyhow::bail!("no kernel and no kernel file is called '{}'", args.filter);
    }
    if args.json { say(Listing { nvrtc: compiler, kernels: reports }.json()?) } else { table(&reports) }
}

fn machine(capability: u32, specific: bool) -> Arch {
    Arch::Machine { capability, specific }
}

struct Listing {
    nvrtc: Version,
    kernels: Vec<Report>,
}

impl Listing {
    fn json(&self) -> anyhow::Result<String> {
        let value = serde_json::json!({ "nvrtc": self.nvrtc.to_string(), "kernels": self.kernels });
        Ok(serde_json::to_string_pretty(&value)?)
    }
}

fn table(reports: &[Report]) -> anyhow::Result<()> {
    let width = reports.iter().map(|r| r.kernel.len()).max().unwrap_or(0);
    say(format!(
        "{:<width$}  {:<14} {:<4} {:<6} {:>9} {:>7} {:>6} {:>7} {:>8} {:>10} {:>7}",
        "kernel",
        "file",
        "real",
        "arch",
        "registers",
        "shared",
        "stack",
        "spills",
        "threads",
        "occupancy",
        "matrix"
    ))?;
    for r in reports {
        let occupancy = r.occupancy.map_or("?".to_string(), |share| format!("{:.0} %", share * 100.0));
        say(format!(
            "{:<width$}  {:<14} {:<4} {:<6} {:>9} {:>7} {:>6} {:>7} {:>8} {occupancy:>10} {:>7}",
            r.kernel,
            r.file,
            r.storage,
            r.arch,
            r.registers,
            r.shared,
            r.stack,
            r.spills,
            r.threads,
            r.matrix
        ))?;
    }
    let spilling = reports.iter().filter(|r| r.spills > 0).count();
    say(format!(
        "{} kernels, {spilling} with spills; shared, stack and spills in bytes, occupancy without the shared memory \
         that a launch adds, matrix: matrix instructions",
        reports.len()
    ))
}

// ---------------------------------------------------------------- profile

/// The emulated driver reads it at every launch, so it is set for a process of its own.
const PROFILE_FILE: &str = "CUDAEMU_PROF_FILE";

fn profile(args: &Args, storages: &[DType]) -> anyhow::Result<()> {
    report::compiler()?;
    let found = probe();
    match found.devices.first() {
        Some((name, _)) if name.starts_with("cudaemu") => {}
        Some((name, _)) => anyhow::bail!(
            "the profile counts what the emulated driver does, and the driver here is {name}'s: ask Nsight Compute \
             (ncu --set full engine ...), or put the emulated one first.{EMULATED}"
        ),
        None => anyhow::bail!(
            "the profile counts what the emulated driver does, and there is none here.{EMULATED}"
        ),
    }
    if std::env::var_os(PROFILE_FILE).is_some() {
        return run_cases(&args.filter, storages);
    }
    let file = Temporary(std::env::temp_dir().join(format!("engine-profile-{}.jsonl", std::process::id())));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["kernels", "--profile", &args.filter]);
    if let Some(storage) = &args.storage {
        command.args(["--storage", storage]);
    }
    command.env(PROFILE_FILE, &file.0).env("CUDAEMU_QUIET", "1").stdout(Stdio::null());
    let done = command.status()?;
    anyhow::ensure!(done.success(), "the cases did not run to their end");
    let lines = Line::read(&file.0)?;
    if args.json { say(serde_json::to_string_pretty(&lines)?) } else { lint(&lines) }
}

const EMULATED: &str = "
  cargo build -p cudaemu && mkdir -p target/emulated && ln -sf ../debug/libcudaemu.so target/emulated/libcuda.so
  LD_LIBRARY_PATH=target/emulated:$(tools/nvrtc) engine kernels --profile";

/// Removed when dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Every case of the operators, forward and backward, in each storage.
fn run_cases(filter: &str, storages: &[DType]) -> anyhow::Result<()> {
    let (device, _) = device::open("cuda:0")?;
    let mut count = 0;
    for (family, cases) in families() {
        for case in cases.iter().filter(|c| family.contains(filter) || c.op.contains(filter)) {
            for &dtype in storages.iter().filter(|d| **d == DType::F32 || !case.bf16.is_empty()) {
                note(format!("{family}: {} ({}) {dtype:?}", case.op, case.name));
                run_case(case, &device, dtype);
                count += 1;
            }
        }
    }
    anyhow::ensure!(count > 0, "no operator and no family of operators is called '{filter}'");
    Ok(())
}

fn run_case(case: &Case, device: &Device, dtype: DType) {
    const SEED: u64 = 2019;
    let values = device::with(&Device::Cpu, || case.values(SEED));
    let input = |at: usize| {
        let stored = if case.bf16.contains(&at) { dtype } else { DType::F32 };
        let x = values[at].to(device).cast(stored);
        if case.inputs[at].differentiable { x.leaf() } else { x }
    };
    device::with(device, || {
        let inputs: Vec<Tensor> = (0..values.len()).map(input).collect();
        let outputs = (case.run)(&inputs);
        let ends = outputs.iter().map(|y| (y, Tensor::full(y.shape(), 1.0).cast(y.dtype())));
        backward_from(ends, &inputs.iter().collect::<Vec<_>>());
    });
}

/// One source line's accesses of one kind, summed over launches, as the emulated driver writes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    kernel: String,
    file: String,
    line: u32,
    space: String,
    kind: String,
    requests: u64,
    /// 32 bytes each; of global memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    sectors: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    ideal_sectors: u64,
    /// Of shared memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    passes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    ideal_passes: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Line {
    /// What the accesses cost and what they would cost at best: sectors, or passes.
    fn cost(&self) -> (u64, u64) {
        (self.sectors + self.passes, self.ideal_sectors + self.ideal_passes)
    }

    fn waste(&self) -> u64 {
        let (cost, ideal) = self.cost();
        cost.saturating_sub(ideal)
    }

    /// The file's lines, those of several launches as one, the most wasteful first.
    fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
        let text = std::fs::read_to_string(path).context("the emulated driver wrote no profile")?;
        let mut sums: BTreeMap<(String, String, u32, String, String), Line> = BTreeMap::new();
        for line in text.lines() {
            let mut line: Line =
                serde_json::from_str(line).context("a line of the emulated driver's profile")?;
            // NVRTC takes the kernels for files of the working folder.
            line.file = line.file.rsplit('/').next().unwrap_or_default().to_string();
            let Line { kernel, file, space, kind, .. } = line.clone();
            sums.entry((kernel, file, line.line, space, kind))
                .and_modify(|sum| {
                    sum.requests += line.requests;
                    sum.sectors += line.sectors;
                    sum.ideal_sectors += line.ideal_sectors;
                    sum.passes += line.passes;
                    sum.ideal_passes += line.ideal_passes;
                })
                .or_insert(line);
        }
        let mut lines: Vec<Line> = sums.into_values().collect();
        lines.sort_by_key(|l| std::cmp::Reverse(l.waste()));
        Ok(lines)
    }
}

/// How much above the ideal is worth a line.
const TOLERATED: f64 = 1.05;

fn lint(lines: &[Line]) -> anyhow::Result<()> {
    for (space, unit, title) in [
        ("global", "sectors", "global memory: sectors of 32 bytes a request"),
        ("shared", "passes", "shared memory: passes a request, more than the ideal where banks conflict"),
    ] {
        let here: Vec<&Line> = lines.iter().filter(|l| l.space == space).collect();
        say(title)?;
        say(format!(
            "  {:>10} {:>8} {:>8} {:>7}  source",
            format!("wasted {unit}"),
            "each",
            "ideal",
            "factor"
        ))?;
        let mut fine = 0;
        for l in &here {
            let (cost, ideal) = l.cost();
            let (each, best) = (cost as f64 / l.requests as f64, ideal as f64 / l.requests as f64);
            if each <= best * TOLERATED {
                fine += 1;
                continue;
            }
            let Line { file, line, kind, kernel, .. } = l;
            say(format!(
                "  {:>width$} {each:>8.2} {best:>8.2} {:>6.1}x  {file}:{line} {kind} in {kernel}",
                l.waste(),
                each / best.max(f64::MIN_POSITIVE),
                width = "wasted ".len() + unit.len()
            ))?;
        }
        say(format!(
            "  {fine} of {} source lines are within {:.0} % of the ideal",
            here.len(),
            (TOLERATED - 1.0) * 100.0
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_launches_are_added_and_the_worst_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile");
        let global = |line: u32, sectors: u64| {
            format!(
                "{{\"kernel\":\"k\",\"grid\":[1,1,1],\"block\":[32,1,1],\"file\":\"/a/x.cu\",\"line\":{line},\"space\":\"global\",\
                 \"kind\":\"load\",\"requests\":1,\"bytes_per_request\":128.00,\"sectors\":{sectors},\"ideal_sectors\":4}}\n"
            )
        };
        std::fs::write(&path, [global(3, 4), global(7, 32), global(3, 6)].concat()).unwrap();
        let lines = Line::read(&path).unwrap();
        assert!(lines.iter().all(|l| l.file == "x.cu"));
        assert_eq!(
            lines.iter().map(|l| (l.line, l.waste(), l.requests)).collect::<Vec<_>>(),
            [(7, 28, 1), (3, 2, 2)]
        );
    }
}
