//! `engine bench`

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Machine, output_is_closed, say};
use crate::bench::benchmarks::{benchmarks, select};
use crate::bench::{BenchResult, Benchmark, CacheFlush, Ceilings, DeviceCopy, Pass, Plan, is_emulated};
use crate::engine::device::{self, DType, Device, Precision, cpu, cuda};
use crate::engine::tensor::set_precision;
use crate::error::{Error, caught, note};
use crate::files::atomic;

#[derive(clap::Args)]
pub struct Args {
    /// Only benchmarks whose name contains all of these words: an operator, a network, a layer, a pass
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    #[command(flatten)]
    machine: Machine,
    /// Precision of matrix products, and dtype of activations
    #[arg(long, default_value = "f32", value_parser = super::precision())]
    precision: Precision,
    /// Batch size of the networks' layers [default: as published on a GPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Leave out the small cases of the gradient check
    #[arg(long)]
    large: bool,
    /// Run everything once, to see that it works
    #[arg(long)]
    quick: bool,
    /// Start no further benchmark after N seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// List what would be timed and exit
    #[arg(long)]
    list: bool,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Benchmarks that are run, and how many are not.
struct Chosen<'a> {
    passes: Vec<(&'a Benchmark, &'a Pass)>,
    too_large: usize,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let on_cpu = args.machine.open()?;
    set_precision(args.precision)?;
    let device = device::current();
    let plan = Plan::of(&device, args.batch.map(|batch| batch as usize), args.quick);
    let all = benchmarks(plan.batch, plan.parameters);
    let chosen = args.choose(&all, &plan)?;
    if args.list {
        return chosen.passes.iter().try_for_each(|(b, p)| say(b.full_name(p)));
    }
    if chosen.passes.is_empty() {
        anyhow::bail!("all of these are too large for the emulated driver; give --batch 1 or another filter");
    }
    on_cpu.into_iter().for_each(note);
    if let Device::Cuda(gpu) = &device {
        gpu.load_kernels(DType::F32)?;
        gpu.load_kernels(args.precision.storage())?;
    }
    args.say(describe(&device, args.precision))?;
    let copy = match &device {
        Device::Cpu => None,
        Device::Cuda(gpu) => Some(DeviceCopy::new(gpu, plan.copy, plan.rounds)),
    };
    let ceilings = Ceilings::measure(&device, &plan, args.precision, copy.as_ref());
    let Ceilings { copy: bytes, product: flops } = &ceilings;
    args.say(format!(
        "ceilings: copy of {} MiB {:.1} GB/s, product of {}² {:.1} GFLOP/s",
        plan.copy >> 20,
        bytes / 1e9,
        plan.product,
        flops / 1e9
    ))?;
    let mut report = Report::new(&device, &args, &plan, ceilings, chosen.too_large);
    let flush = copy.as_ref().map(CacheFlush);
    let measured = measure_all(&chosen.passes, &args, &plan, flush, &mut report);
    report.save()?;
    measured?;
    for line in report.left_out() {
        args.say(line)?;
    }
    match report.first_error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

impl Args {
    fn choose<'a>(&self, all: &'a [Benchmark], plan: &Plan) -> anyhow::Result<Chosen<'a>> {
        let mut passes = select(all, &self.filter).map_err(|why| anyhow::anyhow!(why))?;
        passes.retain(|(b, _)| !self.large || b.layer || b.case.large);
        if passes.is_empty() {
            anyhow::bail!("all of these are small cases of the gradient check, which --large leaves out");
        }
        let count = passes.len();
        if !self.list {
            passes.retain(|(b, p)| plan.fits(b, p));
        }
        Ok(Chosen { too_large: count - passes.len(), passes })
    }

    /// A line on standard output. Where that is closed, the benchmarks go on for the file of --json, if there is one.
    fn say(&self, line: impl Display) -> anyhow::Result<()> {
        match say(line) {
            Err(error) if self.json.is_some() && output_is_closed(&error) => Ok(()),
            said => said,
        }
    }
}

fn describe(device: &Device, precision: Precision) -> String {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("ENGINE_REVISION"));
    let emulated = match is_emulated(device) {
        true => "\nthe driver is emulated on the CPU: these times say nothing about a GPU",
        false => "",
    };
    format!("engine {version} (revision {revision}) on {device}, {}{emulated}", precision.name())
}

/// Measures one pass after the other, each printed and reported at once: an error costs no other result.
fn measure_all(
    passes: &[(&Benchmark, &Pass)],
    args: &Args,
    plan: &Plan,
    flush: Option<CacheFlush>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let width = passes.iter().map(|(b, p)| b.full_name(p).len()).max().unwrap_or(0);
    args.say(format!(
        "{:width$} {:>4} {:>11} {:>8} {:>5} {:>9} {:>9} {:>5}",
        "", "", "median", "GB/s", "copy", "GFLOP/s", "executed", "arith"
    ))?;
    let storage = args.precision.storage();
    let deadline = args.seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    for (benchmark, pass) in passes {
        if deadline.is_some_and(|d| Instant::now() > d) {
            report.too_late += 1;
            continue;
        }
        match caught(|| BenchResult::measure(benchmark, pass, storage, plan, flush)) {
            Ok(result) => {
                args.say(line(&result, width, &report.ceilings))?;
                report.add(&result)?;
            }
            Err(error) => {
                args.say(format!("{}: left out: {error}", benchmark.full_name(pass)))?;
                report.add_failure(benchmark, pass, error)?;
            }
        }
    }
    Ok(())
}

/// A row of the table on standard output.
fn line(result: &BenchResult, width: usize, ceilings: &Ceilings) -> String {
    let time = match result.seconds {
        short if short < 1e-3 => format!("{:.2} µs", short * 1e6),
        long => format!("{:.3} ms", long * 1e3),
    };
    let share = |rate: f64, ceiling: f64| format!("{:.0}%", 100.0 * rate / ceiling);
    let arithmetic = if result.flops == 0.0 {
        String::new()
    } else {
        let (flops, executed) = (result.flop_rate() / 1e9, result.executed_rate() / 1e9);
        format!("{flops:>9.1} {executed:>9.1} {:>5}", share(result.executed_rate(), ceilings.product))
    };
    let name = format!("{} {}", result.name, result.pass);
    let bytes = result.byte_rate();
    let line = format!(
        "{name:width$} {:>4} {time:>11} {:>8.1} {:>5} {arithmetic}",
        result.storage.name(),
        bytes / 1e9,
        share(bytes, ceilings.copy)
    );
    line.trim_end().to_string()
}

/// The JSON file of `--json`, if there is one.
struct Report {
    path: Option<PathBuf>,
    saved: Instant,
    header: Value,
    ceilings: Ceilings,
    cases: Vec<Value>,
    failed: Vec<Value>,
    first_error: Option<Error>,
    too_large: usize,
    too_late: usize,
}

impl Report {
    fn new(device: &Device, args: &Args, plan: &Plan, ceilings: Ceilings, too_large: usize) -> Report {
        Report {
            path: args.json.clone(),
            saved: Instant::now(),
            header: header(device, args.precision, plan, &ceilings),
            ceilings,
            cases: Vec::new(),
            failed: Vec::new(),
            first_error: None,
            too_large,
            too_late: 0,
        }
    }

    fn add(&mut self, result: &BenchResult) -> anyhow::Result<()> {
        self.cases.push(row(result, &self.ceilings));
        self.save_if_due()
    }

    /// Out of memory is a result; any other error also fails the command, after all benchmarks have run.
    fn add_failure(&mut self, benchmark: &Benchmark, pass: &Pass, error: Error) -> anyhow::Result<()> {
        self.failed.push(json!({ "case": benchmark.name, "pass": pass.name, "why": error.to_string() }));
        if self.first_error.is_none() && !matches!(error, Error::OutOfMemory { .. }) {
            self.first_error = Some(error);
        }
        self.save_if_due()
    }

    /// Saves now and then, so that a run that is cut short leaves most of its results.
    fn save_if_due(&mut self) -> anyhow::Result<()> {
        const EVERY: Duration = Duration::from_secs(5);
        if self.saved.elapsed() < EVERY { Ok(()) } else { self.save() }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut report = self.header.clone();
        report["cases"] = Value::Array(self.cases.clone());
        report["failed"] = Value::Array(self.failed.clone());
        report["left_out"] =
            json!({ "time_was_up": self.too_late, "too_large_for_the_emulator": self.too_large });
        let text = serde_json::to_string_pretty(&report)? + "\n";
        atomic::write(path, text.as_bytes())?;
        self.saved = Instant::now();
        Ok(())
    }

    fn left_out(&self) -> impl Iterator<Item = String> {
        let counts =
            [(self.too_late, "the time was up"), (self.too_large, "too large for the emulated driver")];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        counts.map(|(count, why)| format!("{count} left out: {why}"))
    }
}

fn row(result: &BenchResult, ceilings: &Ceilings) -> Value {
    json!({
        "case": result.name,
        "pass": result.pass,
        "layer": result.layer,
        "storage": result.storage.name(),
        "seconds": result.seconds,
        "host_seconds": result.host,
        "bytes": result.bytes,
        "flops": result.flops,
        "flops_executed": result.executed,
        "gb_per_second": result.byte_rate() / 1e9,
        "gflop_per_second": result.flop_rate() / 1e9,
        "gflop_per_second_executed": result.executed_rate() / 1e9,
        "of_copy": result.byte_rate() / ceilings.copy,
        "of_product": result.executed_rate() / ceilings.product,
    })
}

/// What the results were measured with and on.
fn header(device: &Device, precision: Precision, plan: &Plan, ceilings: &Ceilings) -> Value {
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
        "emulated": is_emulated(device),
        "driver": version(probe.driver),
        "nvrtc": version(probe.nvrtc),
        "threads": cpu::threads(),
        "instructions": cpu::instructions(),
        "precision": precision.name(),
        "ceilings": {
            "copy_bytes": plan.copy,
            "copy_gb_per_second": ceilings.copy / 1e9,
            "product_rows": plan.product,
            "product_gflop_per_second": ceilings.product / 1e9,
        },
    })
}
