//! How much faster than plain Rust the convolutions' vector instructions are, beside what they were: a loss of speed shows without a peer.
//!
//!     cargo bench --bench portable [-- --write]
//!
//! Two processes of this program, one of them with `ENGINE_SIMD=portable`, time the same pass in turns. Each ratio stands beside that of
//! benches/portable.tsv for the same instructions; it is that of the least times in three turns. Where more than a quarter is lost, the program
//! says so and exits with 1. `--write` records the ratios that it finds, which wants a quiet machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use mirrorgan_engine::bench::benchmarks::{Batch, benchmarks};
use mirrorgan_engine::bench::measurement::Measurement;
use mirrorgan_engine::engine::device::cpu::instructions;
use mirrorgan_engine::engine::tensor::DType;

/// A layer of each kind.
const LAYERS: &[&str] = &[
    "conv2d G h_net3.residual.0.block.0 ",
    "conv2d G h_net2.residual.0.block.3 ",
    "conv2d G h_net3.conv ",
    "conv2d G img_net3.img.0 ",
    "upsample2x_conv3x3 G h_net3.upsample.1 ",
    "upsample2x_conv3x3 G h_net1.upsample1.1 ",
    "conv2d D256 img_code_s16.0 ",
    "conv2d D256 img_code_s16.5 ",
    "conv2d D256 img_code_s64.0 ",
    "conv2d D256 img_code_s64_1.0 ",
    "conv2d_frozen inception Mixed_6e.branch7x7_2.conv ",
    "conv2d_frozen resnet resnet.6.1.conv2 ",
];
/// What a ratio may lose.
const LOSS: f64 = 0.75;
const HEADER: &str = "# Seconds in plain Rust over seconds in vector instructions, by `cargo bench --bench portable -- --write`; two threads, batch 1.\n\
                      case\tpass\tinstructions\tratio\n";

/// Case, pass and instructions.
type Key = [String; 3];

fn main() -> ExitCode {
    let asked = |word: &str| std::env::args().any(|arg| arg == word);
    if asked("--time") {
        time_what_is_named();
        return ExitCode::SUCCESS;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/portable.tsv");
    let mut recorded = read(&file);
    let (mut vectors, mut portable) = (Timer::start(None), Timer::start(Some("portable")));
    let mut lost = 0;
    for [case, pass] in passes() {
        let key = [case.clone(), pass.clone(), instructions().to_owned()];
        let before = recorded.get(&key).copied();
        let mut least = [f64::INFINITY; 2];
        for _ in 0..3 {
            for (timer, least) in [&mut portable, &mut vectors].into_iter().zip(&mut least) {
                *least = timer.seconds(&case, &pass).min(*least);
            }
        }
        let found = least[0] / least[1];
        let is_lost = before.is_some_and(|before| found < LOSS * before);
        lost += usize::from(is_lost);
        let beside =
            before.map_or_else(|| "not recorded".to_owned(), |before| format!("recorded {before:.2}"));
        println!(
            "{case:<74} {pass:<16} {} {found:6.2}  {beside}{}",
            key[2],
            if is_lost { "  LOST" } else { "" }
        );
        recorded.insert(key, found);
    }
    if asked("--write") {
        write(&file, &recorded);
    }
    match lost {
        0 => ExitCode::SUCCESS,
        _ => {
            println!("{lost} passes have lost more than a quarter of their speed over plain Rust");
            ExitCode::FAILURE
        }
    }
}

/// The passes that are timed: case and pass.
fn passes() -> Vec<[String; 2]> {
    let of_layer = |benchmark: &mirrorgan_engine::bench::Benchmark| {
        LAYERS.iter().any(|layer| benchmark.name.starts_with(layer))
    };
    let all = benchmarks(Batch::Of(1), 1);
    let of_chosen = all.iter().filter(|benchmark| of_layer(benchmark));
    of_chosen.flat_map(|b| b.passes.iter().map(|pass| [b.name.clone(), pass.name.to_owned()])).collect()
}

/// Times each pass that is named on a line of standard input, as case and pass with a tab between them.
fn time_what_is_named() {
    let all = benchmarks(Batch::Of(1), 1);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input ends with the process that asks");
        let (case, name) = line.split_once('\t').expect("a tab between case and pass");
        let benchmark = all.iter().find(|b| b.name == case).expect("the case");
        let pass = benchmark.passes.iter().find(|p| p.name == name).expect("the pass");
        let mut measurement = Measurement::new(benchmark, pass, DType::F32);
        let once = measurement.seconds(1, None);
        let runs = (0.05 / once.max(1e-6)).ceil() as usize;
        let best = (0..5).map(|_| measurement.seconds(runs, None)).fold(f64::INFINITY, f64::min);
        println!("{}", best / runs as f64);
    }
}

/// A process that times passes; `simd` bounds its instructions.
struct Timer {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Timer {
    fn start(simd: Option<&str>) -> Timer {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("--time").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(simd.map(|simd| ("ENGINE_SIMD", simd)));
        let mut process = command.spawn().expect("this program starts again");
        let (asks, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Timer { process, asks, answers }
    }

    fn seconds(&mut self, case: &str, pass: &str) -> f64 {
        writeln!(self.asks, "{case}\t{pass}").expect("the timing process is there");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the timing process answers");
        line.trim().parse().expect("a number of seconds")
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn read(file: &Path) -> BTreeMap<Key, f64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let rows = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let row = |line: &str| {
        let [case, pass, instructions, ratio] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        Some(([case, pass, instructions].map(str::to_owned), ratio.parse().ok()?))
    };
    rows.map(|line| row(line).unwrap_or_else(|| panic!("{}: '{line}' is no row", file.display()))).collect()
}

fn write(file: &Path, rows: &BTreeMap<Key, f64>) {
    let mut text = HEADER.to_owned();
    for ([case, pass, instructions], ratio) in rows {
        writeln!(text, "{case}\t{pass}\t{instructions}\t{ratio:.2}").expect("strings grow");
    }
    std::fs::write(file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}
