//! Damages inputs of parsers, and counts the memory that each takes.
#![allow(dead_code)] // Each test file uses a part.

pub mod programs;
pub mod zips;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

pub type Random = Xoshiro256PlusPlus;

// ---------------------------------------------------------------- memory

/// The system's allocator, which counts what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// A block that grows counts twice while it is copied.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize);
        let grown = unsafe { System.realloc(block, layout, size) };
        count(-(layout.size() as isize));
        grown
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The result, and the most bytes that this thread held beyond what it held before.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    HELD.set(0);
    PEAK.set(0);
    let result = f();
    (result, PEAK.get() as usize)
}

// ---------------------------------------------------------------- targets

pub type Generate<'a> = &'a dyn Fn(&mut Random) -> Vec<u8>;

/// A parser under test.
pub struct Target<'a> {
    pub name: &'a str,
    pub corpus: Vec<Vec<u8>>,
    /// What stands in the format and means something.
    pub tokens: &'a [&'a [u8]],
    /// Bytes that any input may take, and bytes for each byte of input.
    pub bound: (usize, usize),
    /// Another source of inputs, which gets half of them.
    pub generate: Option<Generate<'a>>,
}

/// Files below `tests/` whose names have this ending, in the order of their names.
pub fn corpus(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no {ending} in {}", folder.display());
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Inputs of a target: `ENGINE_FUZZ`, or few.
fn inputs() -> u64 {
    std::env::var("ENGINE_FUZZ").map_or(20_000, |count| count.parse().expect("ENGINE_FUZZ is a number"))
}

/// No message is longer, whatever stands in the file.
pub const LONGEST_MESSAGE: usize = 4000;
/// No small input takes longer: they take microseconds, but a busy machine may stop for a while.
const LONGEST: Duration = Duration::from_secs(20);

impl Target<'_> {
    /// Damages the corpus; `parse` must not panic, and keep to the bound.
    pub fn fuzz(&self, parse: impl Fn(&[u8]) -> Result<(), String>) {
        let started = Instant::now();
        for input in &self.corpus {
            self.check(&parse, input, "the corpus");
        }
        let (mut accepted, mut worst) = (0, 0.0_f64);
        for number in 0..inputs() {
            let mut random = Random::seed_from_u64(number);
            let input = self.input(&mut random);
            let (is_accepted, peak) = self.check(&parse, &input, &format!("input {number}"));
            accepted += u64::from(is_accepted);
            let beyond = peak.saturating_sub(self.bound.0) as f64;
            worst = worst.max(beyond / input.len().max(1) as f64);
        }
        eprintln!(
            "{}: {} inputs in {:.1} s, {accepted} accepted; peak {} + {worst:.1} a byte of at most {}",
            self.name,
            inputs(),
            started.elapsed().as_secs_f64(),
            self.bound.0,
            self.bound.1
        );
    }

    fn input(&self, random: &mut Random) -> Vec<u8> {
        match &self.generate {
            Some(generate) if random.random() => {
                let whole = generate(random);
                if random.random_bool(0.7) { whole } else { self.damaged(whole, random) }
            }
            _ => self.damaged(self.corpus.choose(random).unwrap().clone(), random),
        }
    }

    pub fn damaged(&self, bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
        damaged(bytes, &self.corpus, self.tokens, random)
    }

    /// Parses one input; whether it was accepted, and the peak.
    #[track_caller]
    pub fn check(
        &self,
        parse: impl Fn(&[u8]) -> Result<(), String>,
        input: &[u8],
        what: &str,
    ) -> (bool, usize) {
        let from = Instant::now();
        let (parsed, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| parse(input))));
        let (constant, factor) = self.bound;
        let fault = match &parsed {
            Err(_) => Some("it panics".to_string()),
            _ if peak > constant + factor * input.len() => Some(format!("it takes {peak} bytes")),
            _ if from.elapsed() > LONGEST => Some(format!("it takes {:?}", from.elapsed())),
            Ok(Err(message)) if message.len() > LONGEST_MESSAGE => {
                Some(format!("a message of {} bytes", message.len()))
            }
            Ok(Err(message)) if message.is_empty() => Some("no message".to_string()),
            _ => None,
        };
        if let Some(fault) = fault {
            let name = format!("{}-{}", self.name, what.replace(' ', "-"));
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&file, input).unwrap();
            panic!("{}, {what} of {} bytes: {fault}; kept as {}", self.name, input.len(), file.display());
        }
        (matches!(parsed, Ok(Ok(()))), peak)
    }
}

// ---------------------------------------------------------------- damage

/// Numbers at the edge of something.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 60,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Damages bytes as disks, transfers and adversaries do.
pub fn damaged(mut bytes: Vec<u8>, corpus: &[Vec<u8>], tokens: &[&[u8]], random: &mut Random) -> Vec<u8> {
    const LONGEST: usize = 1 << 16;
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..bytes.len() + 1);
        let end = (at + random.random_range(0..64)).min(bytes.len());
        match random.random_range(0..14) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = random.random(),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 | 6 => {
                let times = if random.random_bool(0.1) { random.random_range(1..200) } else { 1 };
                let chunk = bytes[at..end].repeat(times);
                let to = random.random_range(0..bytes.len() + 1);
                drop(bytes.splice(to..to, chunk));
            }
            7 => {
                let other = corpus.choose(random).unwrap();
                let from = random.random_range(0..other.len() + 1);
                let to = (from + random.random_range(0..256)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            8 => bytes[at..end].fill(*[0, 0xff, b' ', b'\n', b'('].choose(random).unwrap()),
            9 | 10 => {
                let edge = *EDGES.choose(random).unwrap();
                let width = *[1, 2, 4, 8].choose(random).unwrap();
                let number = if random.random() { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let number =
                    if number[0] == 0 && edge != 0 { &number[8 - width..] } else { &number[..width] };
                let to = if random.random() { (at + width).min(bytes.len()) } else { at };
                drop(bytes.splice(at..to, number.iter().copied()));
            }
            11 => {
                let digits = EDGES.choose(random).unwrap().to_string();
                drop(bytes.splice(at..end.min(at + 3), digits.into_bytes()));
            }
            _ if !tokens.is_empty() => {
                let token = tokens.choose(random).unwrap();
                let times = if random.random_bool(0.1) { random.random_range(1..500) } else { 1 };
                drop(bytes.splice(at..at, token.repeat(times)));
            }
            _ => {}
        }
        bytes.truncate(LONGEST);
    }
    bytes
}
