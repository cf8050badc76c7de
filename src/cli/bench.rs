//! `engine bench`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Machine, say};
use crate::bench::benchmarks::{self, Batch, Benchmark, Pass};
use crate::bench::measurement::{CacheFlush, Measurement, least, median, random};
use crate::engine::device::{self, DType, Device, Precision, cpu, cuda};
use crate::engine::ops::matmul::linear;
use crate::engine::tensor::{no_grad, set_precision};
use crate::error::{Error, caught};
use crate::files::atomic;

#[derive(clap::Args)]
pub struct Args {
    /// Only what holds all of these words: an operator, a network, a layer, a pass
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    #[command(flatten)]
    machine: Machine,
    #[arg(long, default_value = "f32", value_parser = super::precision())]
    precision: Precision,
    /// Pictures at once in the networks' layers [default: as published on a GPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// StopReason out the small cases of the gradient check
    #[arg(long)]
    large: bool,
    /// Run everything once: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Begin nothing more after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Say what would be timed, and no more
    #[arg(long)]
    list: bool,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How often and how long, by what computes.
struct Plan {
    warm_up: usize,
    rounds: usize,
    /// Seconds that a round should take at least.
    round: f64,
    /// Largest work that is begun, in floating-point operations and in bytes.
    limits: [f64; 2],
    /// Elements of the copy and rows of the square product that show what is possible.
    copy: usize,
    product: usize,
    batch: Batch,
    parameters: usize,
}

/// What the device can do at best: bytes and floating-point operations a second.
struct Ceilings {
    copy: f64,
    product: f64,
}

struct Row {
    name: String,
    pass: &'static str,
    layer: bool,
    storage: &'static str,
    seconds: f64,
    host: f64,
    bytes: f64,
    flops: f64,
    executed: f64,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    args.machine.set()?;
    let precision = args.precision;
    set_precision(precision)?;
    let device = device::current();
    let plan = Plan::of(&device, &args);
    let all = benchmarks::benchmarks(plan.batch, plan.parameters);
    let chosen = choose(&all, &args.filter)?;
    let mut chosen: Vec<_> =
        chosen.into_iter().filter(|(s, _)| !args.large || s.layer || s.case.large).collect();
    if chosen.is_empty() {
        anyhow::bail!("all of these are small cases of the gradient check, which --large leaves out");
    }
    if args.list {
        return chosen.iter().try_for_each(|(s, p)| say(format!("{} {}", s.name, p.name)));
    }
    if let Device::Cuda(gpu) = &device {
        gpu.load_kernels(DType::F32)?;
        gpu.load_kernels(precision.storage())?;
    }
    let asked = chosen.len();
    chosen.retain(|(s, p)| fits(s, p, plan.limits));
    let too_large = asked - chosen.len();
    if chosen.is_empty() {
        anyhow::bail!("all of these are too large for the emulated driver; give --batch 1 or another filter");
    }

    say(format!(
        "engine {} (revision {}) on {device}, {}",
        env!("CARGO_PKG_VERSION"),
        env!("ENGINE_REVISION"),
        args.precision.name()
    ))?;
    if emulated(&device) {
        say("the driver is emulated on the CPU: these times say nothing about a GPU")?;
    }
    let (ceilings, flush) = ceilings(&device, &plan, precision);
    say(format!(
        "ceilings: copy of {} MiB {:.1} GB/s, product of {}² {:.1} GFLOP/s",
        plan.copy >> 20,
        ceilings.copy / 1e9,
        plan.product,
        ceilings.product / 1e9
    ))?;
    let width = chosen.iter().map(|(s, p)| s.name.len() + 1 + p.name.len()).max().unwrap_or(0);
    say(format!(
        "{:width$} {:>4} {:>11} {:>8} {:>5} {:>9} {:>9} {:>5}",
        "", "", "median", "GB/s", "copy", "GFLOP/s", "executed", "arith"
    ))?;

    let storage = precision.storage();
    let deadline = args.seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let (mut rows, mut failed, mut too_late) = (Vec::new(), Vec::new(), 0);
    for (benchmark, pass) in chosen {
        if deadline.is_some_and(|d| Instant::now() > d) {
            too_late += 1;
            continue;
        }
        match caught(|| measure(benchmark, pass, storage, &plan, flush.as_ref())) {
            Ok(row) => {
                say(row.told(width, &ceilings))?;
                rows.push(row);
            }
            Err(error @ Error::OutOfMemory { .. }) => {
                say(format!("{} {}: left out: {error}", benchmark.name, pass.name))?;
                failed.push(json!({ "case": benchmark.name, "pass": pass.name, "why": error.to_string() }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (count, why) in [(too_late, "the time was up"), (too_large, "too large for the emulated driver")] {
        if count > 0 {
            say(format!("{count} left out: {why}"))?;
        }
    }
    if let Some(path) = &args.json {
        let mut report = report(&device, &args, &plan, &ceilings);
        report["cases"] = rows.iter().map(|row| row.json(&ceilings)).collect();
        report["failed"] = Value::Array(failed);
        report["left_out"] = json!({ "time_was_up": too_late, "too_large_for_the_emulator": too_large });
        let text = serde_json::to_string_pretty(&report)? + "\n";
        atomic::write(path, text.as_bytes())?;
    }
    Ok(())
}

fn emulated(device: &Device) -> bool {
    matches!(device, Device::Cuda(gpu) if gpu.name().starts_with("cudaemu"))
}

impl Plan {
    fn of(device: &Device, args: &Args) -> Plan {
        const NO_LIMITS: [f64; 2] = [f64::INFINITY; 2];
        let given = args.batch.map(|b| Batch::Of(b as usize));
        let (batch, parameters) = (given.unwrap_or(Batch::Of(1)), 7_100_000);
        let plan = match device {
            Device::Cpu => Plan {
                warm_up: 1,
                rounds: 7,
                round: 2e-3,
                limits: NO_LIMITS,
                copy: 64 << 20,
                product: 1024,
                batch,
                parameters,
            },
            gpu if emulated(gpu) => Plan {
                warm_up: 0,
                rounds: 1,
                round: 0.0,
                limits: [3e7, 16e6],
                copy: 1 << 20,
                product: 64,
                batch,
                parameters: 100_000,
            },
            // All the weights of one system: the generator's and those of three discriminators.
            _ => Plan {
                warm_up: 10,
                rounds: 7,
                round: 1e-3,
                limits: NO_LIMITS,
                copy: 256 << 20,
                product: 8192,
                batch: given.unwrap_or(Batch::Published),
                parameters: 104_700_000,
            },
        };
        if args.quick { Plan { warm_up: 0, rounds: 1, round: 0.0, ..plan } } else { plan }
    }
}

/// The passes whose names hold all words of the filter.
fn choose<'a>(all: &'a [Benchmark], filter: &[String]) -> anyhow::Result<Vec<(&'a Benchmark, &'a Pass)>> {
    let words: Vec<String> =
        filter.iter().flat_map(|f| f.split_whitespace()).map(str::to_lowercase).collect();
    let full = |s: &Benchmark, p: &Pass| format!("{} {}", s.name, p.name).to_lowercase();
    let passes = || all.iter().flat_map(|s| s.passes.iter().map(move |p| (s, p)));
    let chosen: Vec<_> =
        passes().filter(|(s, p)| words.iter().all(|w| full(s, p).contains(w.as_str()))).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let names: Vec<String> = passes().map(|(s, p)| full(s, p)).collect();
    let Some(odd) = words.iter().find(|w| !names.iter().any(|n| n.contains(w.as_str()))) else {
        anyhow::bail!(
            "nothing holds all of '{}', though each occurs; see engine bench --list",
            words.join(" ")
        );
    };
    let mut known: Vec<&str> = names.iter().flat_map(|n| n.split_whitespace()).collect();
    known.sort_unstable();
    known.dedup();
    let mut near: Vec<(f64, &str)> = known.iter().map(|n| (strsim::jaro_winkler(odd, n), *n)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> =
        near.iter().take_while(|(likeness, _)| *likeness > 0.75).take(5).map(|n| n.1).collect();
    let near = if near.is_empty() { String::new() } else { format!(" near names: {};", near.join(", ")) };
    anyhow::bail!("nothing that is timed holds '{odd}';{near} engine bench --list shows all")
}

/// Whether it is small enough to be begun, by a low estimate of its bytes.
fn fits(benchmark: &Benchmark, pass: &Pass, [flops, bytes]: [f64; 2]) -> bool {
    let elements: usize = benchmark.case.inputs.iter().map(|i| i.shape.count()).sum();
    pass.flops.max(benchmark.case.flops) <= flops && 4.0 * elements as f64 <= bytes
}

fn ceilings(device: &Device, plan: &Plan, precision: Precision) -> (Ceilings, Option<CacheFlush>) {
    let flush = match device {
        Device::Cpu => None,
        Device::Cuda(gpu) => Some(CacheFlush::new(gpu, plan.copy, plan.rounds)),
    };
    let copy = flush.as_ref().map_or_else(|| copy_on_the_cpu(plan), CacheFlush::rate);
    let n = plan.product;
    let storage = precision.storage();
    let (x, w) = (random([n, n], -1.0, 1.0, 0).cast(storage), random([n, n], -1.0, 1.0, 1));
    let product = || drop(no_grad(|| linear(&x, &w, None)));
    let seconds = || match device {
        Device::Cpu => {
            let start = Instant::now();
            product();
            start.elapsed().as_secs_f64()
        }
        Device::Cuda(gpu) => gpu.time(product),
    };
    (0..plan.warm_up.clamp(1, 3)).for_each(|_| product());
    let seconds = least((0..plan.rounds).map(|_| seconds()));
    (Ceilings { copy, product: 2.0 * (n as f64).powi(3) / seconds }, flush)
}

/// Bytes read and written a second, on all threads.
fn copy_on_the_cpu(plan: &Plan) -> f64 {
    use rayon::prelude::*;
    const CHUNK: usize = 1 << 16;
    let from = vec![1.0f32; plan.copy / 4];
    let mut to = vec![0.0f32; plan.copy / 4];
    let mut copy = || {
        let start = Instant::now();
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        start.elapsed().as_secs_f64()
    };
    copy();
    2.0 * plan.copy as f64 / least((0..plan.rounds).map(|_| copy()))
}

/// The median of several rounds of several runs.
fn measure(
    benchmark: &Benchmark,
    pass: &Pass,
    storage: DType,
    plan: &Plan,
    flush: Option<&CacheFlush>,
) -> Row {
    const MOST_RUNS: f64 = 50.0;
    /// A slow case is not run more often than this many seconds hold, but three times.
    const PATIENCE: f64 = 2.0;
    let mut measurement = Measurement::new(benchmark, pass, storage);
    if plan.warm_up > 0 {
        measurement.seconds(1, flush);
    }
    let once = if plan.round > 0.0 { measurement.seconds(1, flush).max(1e-9) } else { 1.0 };
    if once < PATIENCE / 20.0 && plan.warm_up > 1 {
        measurement.seconds(plan.warm_up, flush);
    }
    let runs = (plan.round / once).ceil().clamp(1.0, MOST_RUNS) as usize;
    let rounds = (PATIENCE / (once * runs as f64)).clamp(3.0, plan.rounds.max(3) as f64) as usize;
    let rounds = rounds.min(plan.rounds);
    let seconds = median((0..rounds).map(|_| measurement.seconds(runs, flush) / runs as f64).collect());
    Row {
        name: benchmark.name.clone(),
        pass: pass.name,
        layer: benchmark.layer,
        storage: measurement.storage.name(),
        seconds,
        host: measurement.host,
        bytes: measurement.bytes,
        flops: pass.flops,
        executed: pass.executed,
    }
}

impl Row {
    fn rates(&self) -> [f64; 3] {
        [self.bytes, self.flops, self.executed].map(|work| work / self.seconds)
    }

    fn told(&self, width: usize, ceilings: &Ceilings) -> String {
        let [bytes, flops, executed] = self.rates();
        let time = if self.seconds < 1e-3 {
            format!("{:.2} µs", self.seconds * 1e6)
        } else {
            format!("{:.3} ms", self.seconds * 1e3)
        };
        let share = |rate: f64, ceiling: f64| format!("{:.0}%", 100.0 * rate / ceiling);
        let arithmetic = if self.flops == 0.0 {
            String::new()
        } else {
            let (flops, executed) = (flops / 1e9, executed / 1e9);
            let share = share(executed * 1e9, ceilings.product);
            format!("{flops:>9.1} {executed:>9.1} {share:>5}")
        };
        let name = format!("{} {}", self.name, self.pass);
        let line = format!(
            "{name:width$} {:>4} {time:>11} {:>8.1} {:>5} {arithmetic}",
            self.storage,
            bytes / 1e9,
            share(bytes, ceilings.copy)
        );
        line.trim_end().to_string()
    }

    fn json(&self, ceilings: &Ceilings) -> Value {
        let [bytes, flops, executed] = self.rates();
        json!({
            "case": self.name,
            "pass": self.pass,
            "layer": self.layer,
            "storage": self.storage,
            "seconds": self.seconds,
            "host_seconds": self.host,
            "bytes": self.bytes,
            "flops": self.flops,
            "flops_executed": self.executed,
            "gb_per_second": bytes / 1e9,
            "gflop_per_second": flops / 1e9,
            "gflop_per_second_executed": executed / 1e9,
            "of_copy": bytes / ceilings.copy,
            "of_product": executed / ceilings.product,
        })
    }
}

/// All but the cases.
fn report(device: &Device, args: &Args, plan: &Plan, ceilings: &Ceilings) -> Value {
    let probe = cuda::probe();
    let version = |v: Option<cuda::Version>| v.map(|v| v.to_string());
    let (name, capability) = match device {
        Device::Cpu => ("cpu".to_string(), None),
        Device::Cuda(gpu) => (gpu.name().to_string(), Some(gpu.arch())),
    };
    json!({
        "engine": env!("CARGO_PKG_VERSION"),
        "revision": env!("ENGINE_REVISION"),
        "target": env!("ENGINE_TARGET"),
        "device": name,
        "capability": capability,
        "emulated": emulated(device),
        "driver": version(probe.driver),
        "nvrtc": version(probe.nvrtc),
        "threads": cpu::threads(),
        "precision": args.precision.name(),
        "ceilings": {
            "copy_bytes": plan.copy,
            "copy_gb_per_second": ceilings.copy / 1e9,
            "product_rows": plan.product,
            "product_gflop_per_second": ceilings.product / 1e9,
        },
    })
}
