//! `engine info`

use super::say;
use crate::engine::device::{cpu, cuda};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    threads: super::Threads,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    args.threads.set()?;
    say(format!("engine    {} (revision {})", env!("CARGO_PKG_VERSION"), env!("ENGINE_REVISION")))?;
    say(format!("target    {}, built with {}", env!("ENGINE_TARGET"), or_none(env!("ENGINE_FEATURES"))))?;
    let (features, threads) = (features().join(","), cpu::threads());
    say(format!(
        "cpu       {}, {threads} threads; convolutions in {}",
        or_none(&features),
        cpu::instructions()
    ))?;
    say(format!("memory    {}", memory().unwrap_or_else(|| "unknown".to_string())))?;
    say(format!("cuda      {}", cuda::probe()))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "no features named" } else { text }
}

/// What this CPU can do of what the CPU bodies may choose among.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => { [$(($name, is_x86_feature_detected!($name))),*] };
    }
    let all = detected!("sse4.2" "avx" "f16c" "fma" "avx2" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}

/// Total and available memory, where the system tells in Linux's manner.
fn memory() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let gibibytes = |key: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes / f64::from(1 << 20))
    };
    Some(format!("{:.1} GiB, {:.1} available", gibibytes("MemTotal:")?, gibibytes("MemAvailable:")?))
}
