//! Signals that ask long work to save and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exit;
use crate::error::note;

/// Ctrl-C, SIGTERM (schedulers) and SIGHUP (a dropped connection) set the flag; a second one ends the process at once.
/// A signal that the process was started to ignore, as `nohup` does, stays ignored. `unit` is what is finished before the end.
pub fn stop_flag(unit: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = Signals::new(heard)?;
    let flag = stop.clone();
    let listen = move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(exit::INTERRUPTED.into());
            }
            note(format!("stopping after this {unit}; once more to stop at once"));
        }
    };
    std::thread::Builder::new().name("signals".to_string()).spawn(listen)?;
    Ok(stop)
}

/// Whether this process ignores a signal, where the system tells in Linux's manner.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
