//! The CPU: threads and how loops are split among them, pooled buffers, matrix products, the convolutions' register tile.

pub mod elementary;
mod gemm;
mod pool;
pub mod tile;

use std::cell::Cell;

use rayon::prelude::*;

use crate::error::{Error, Result};
pub use gemm::{Mat, gemm};
pub use pool::Buffer;
pub use tile::instructions;

/// Sets the number of threads of all CPU bodies; 0 takes `RAYON_NUM_THREADS` or else every core. Only the first call counts.
///
/// The calling thread becomes one of them: it begins with a body at once, where it would wait for another to wake, to work and to wake it.
/// Only a lone thread is another: while the caller waits for a loader, that one may wait for a body.
pub fn set_threads(threads: usize) -> Result<()> {
    let asked = || std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let count = match threads {
        0 => asked().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())),
        threads => threads,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    let pool = if count > 1 { pool.use_current_thread() } else { pool };
    pool.build_global().map_err(|e| {
        let why = format!("cannot start {count} threads ({e}); take fewer, as in --threads 1");
        Error::config("--threads", why)
    })
}

thread_local! {
    static EXACT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread sums convolutions directly everywhere; off at first.
pub fn set_exact(exact: bool) {
    EXACT.set(exact);
}

pub fn exact() -> bool {
    EXACT.get()
}

pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Below this many elements a body runs on the calling thread: waking others costs more.
const SERIAL: usize = 16 * 1024;

/// Calls `f(index, chunk)` for each `chunk`-sized part of `out`, in parallel where that is faster.
/// The parts do not depend on the number of threads, so results do not either.
pub fn for_chunks<T: Send>(out: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let chunk = chunk.max(1);
    if out.len() < SERIAL || threads() == 1 {
        out.chunks_mut(chunk).enumerate().for_each(|(i, c)| f(i, c));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, c)| f(i, c));
    }
}

/// Calls `f` with each of `items`, in parallel.
pub fn for_each<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync + Send) {
    match items.len() {
        0 | 1 => items.into_iter().for_each(f),
        _ => items.into_par_iter().for_each(f),
    }
}

/// Calls `f(i)` for `0..n` in parallel and returns the results in order.
pub fn map<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if n <= 1 { (0..n).map(f).collect() } else { (0..n).into_par_iter().map(f).collect() }
}

/// Rows of a parallel part when one row costs `row` elements of work.
pub fn rows_per_chunk(row: usize) -> usize {
    (SERIAL / row.max(1)).max(1)
}

/// The distance of rows of so many numbers: an odd number of lines of the cache, so that the same columns of many rows do not
/// fall onto the same ones.
pub fn odd_pitch(width: usize) -> usize {
    const LINE: usize = 16;
    let lines = width.div_ceil(LINE);
    (lines + 1 - lines % 2) * LINE
}
