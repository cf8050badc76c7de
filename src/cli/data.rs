//! `engine data demo`, `check`, `pack` and `speed`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser;
use clap::{Subcommand, ValueEnum};

use super::{Threads, exit, say, signals};
use crate::data::{self, DecodeConfig, Format, Loader, LoaderConfig, PackSummary, Skip, demo};
use crate::error::{Error, note};

#[derive(Subcommand)]
pub enum Command {
    /// Render the demo's birds in CUB's layout
    Demo {
        /// A new or empty folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Birds to render, from 1; each is an image with ten captions
        #[arg(long, default_value_t = demo::DEFAULT_COUNT, value_name = "N", value_parser = counts())]
        count: usize,
        /// The seed of every random number; equal seeds give equal files
        #[arg(long, default_value_t = 0, value_name = "N")]
        seed: u64,
        #[command(flatten)]
        threads: Threads,
    },
    /// Report what is there, what is missing, and what will be skipped and why
    Check {
        /// The folder that holds CUB_200_2011 and text, or a pack, all of whose checksums are tested
        #[arg(value_name = "DIR|FILE")]
        folder: PathBuf,
        /// How the folder is laid out; the demo's is cub
        #[arg(long)]
        dataset: FormatName,
        #[command(flatten)]
        decode: Decode,
        #[command(flatten)]
        threads: Threads,
    },
    /// Write a data set into one file, its images decoded and scaled: training from it waits for no decoder
    ///
    /// `engine train --data FILE` trains from it exactly as from the folder; a run may go on from either.
    Pack(PackArgs),
    /// Measure how many images a second the loader delivers, as training would read them
    Speed(SpeedArgs),
}

#[derive(clap::Args)]
pub struct PackArgs {
    /// The folder that holds CUB_200_2011 and text
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How the folder is laid out; the demo's is cub
    #[arg(long)]
    dataset: FormatName,
    /// The file to write; an earlier pack is replaced once the new one is whole
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    side: Side,
    #[command(flatten)]
    decode: Decode,
    #[command(flatten)]
    threads: Threads,
}

#[derive(clap::Args)]
pub struct SpeedArgs {
    /// The folder that holds CUB_200_2011 and text, or a pack
    #[arg(value_name = "DIR|FILE")]
    folder: PathBuf,
    /// How the folder is laid out; the demo's is cub
    #[arg(long)]
    dataset: FormatName,
    #[command(flatten)]
    side: Side,
    /// Threads that prepare batches: data.workers of a training
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    workers: usize,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = limits())]
    batch: usize,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    decode: Decode,
}

/// The size that images are prepared for.
#[derive(clap::Args)]
pub struct Side {
    /// The side of the networks' largest images: 256 with the published presets, 64 with the demo's
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(4..=16384))]
    side: usize,
}

/// The keys of the presets' `[data]` that say how images are read.
#[derive(clap::Args)]
pub struct Decode {
    /// Images of more pixels are skipped: data.max_pixels of a training
    #[arg(long, value_name = "N", default_value_t = DecodeConfig::default().max_pixels, value_parser = limits())]
    max_pixels: usize,
    /// Images with a longer side are skipped: data.max_side of a training
    #[arg(long, value_name = "N", default_value_t = DecodeConfig::default().max_side, value_parser = limits())]
    max_side: usize,
    /// Turn images as their EXIF orientation says: data.exif_orientation of a training
    #[arg(long)]
    exif_orientation: bool,
}

impl Decode {
    fn config(&self) -> DecodeConfig {
        let Decode { max_pixels, max_side, exif_orientation } = *self;
        DecodeConfig { max_pixels, max_side, exif_orientation }
    }
}

fn limits() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn counts() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=demo::MOST as u64)
}

#[derive(Clone, Copy, ValueEnum)]
pub enum FormatName {
    Cub,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Format {
        match name {
            FormatName::Cub => Format::Cub,
        }
    }
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo { out, count, seed, threads } => {
            threads.set()?;
            demo::write(&out, count, seed)?;
            let birds = if count == 1 { "1 bird".to_string() } else { format!("{count} birds") };
            say(format!("{birds} with {} captions each in {}", demo::CAPTIONS, out.display()))?;
        }
        Command::Check { folder, dataset, decode, threads } => {
            threads.set()?;
            let (dataset, config) = (data::open(dataset.into(), &folder)?, decode.config());
            dataset.packing().map_or(Ok(()), |packing| packing.require_decode(&config))?;
            let report = data::check(dataset, &config);
            let said = say(report.to_string().trim_end());
            if let Some(why) = report.unusable {
                return Err(Error::data(folder, why).into());
            }
            said?;
        }
        Command::Pack(args) => return pack(args),
        Command::Speed(args) => speed(args)?,
    }
    Ok(ExitCode::from(exit::FINISHED))
}

fn pack(args: PackArgs) -> anyhow::Result<ExitCode> {
    let PackArgs { folder, dataset, out, side: Side { side }, decode, threads } = args;
    threads.set()?;
    let format = dataset.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
    let dataset = data::open(dataset.into(), &folder)?;
    let (stop, all) = (signals::stop_flag()?, dataset.train.len() + dataset.test.len());
    let mut shown = Instant::now();
    let mut progress = |done: usize| {
        if shown.elapsed() >= QUIET {
            shown = Instant::now();
            note(format!("{done} of {all} images"));
        }
        !stop.load(Ordering::Relaxed)
    };
    let packed = data::pack(&dataset, &format, side, &decode.config(), &out, &mut progress)?;
    let Some(PackSummary { pictures, bytes, skipped }) = packed else {
        note(format!("interrupted: {} is not written", out.display()));
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    name_skipped(&skipped);
    let images = data::count(pictures, "image", "images");
    let (mib, out) = (bytes as f64 / f64::from(1 << 20), out.display());
    say(format!(
        "{images} for networks of {side}×{side} pixels in {out} ({mib:.1} MiB); train with --data {out}"
    ))?;
    Ok(ExitCode::from(exit::FINISHED))
}

/// Images that training will skip, the first ones by name.
fn name_skipped(skipped: &[Skip]) {
    const NAMED: usize = 8;
    for Skip { file, why } in skipped.iter().take(NAMED) {
        note(format!("note: {}: {why}; training will take another in its place", file.display()));
    }
    if skipped.len() > NAMED {
        note(format!("note: ... and {} more", skipped.len() - NAMED));
    }
}

/// The least time between two lines of progress.
const QUIET: Duration = Duration::from_secs(5);

fn speed(args: SpeedArgs) -> anyhow::Result<()> {
    let SpeedArgs { folder, dataset, side: Side { side }, workers, batch, seconds, decode } = args;
    let dataset = data::open(dataset.into(), &folder)?;
    let (config, packed) = (speed_config(side, workers, batch, decode.config()), dataset.packing().is_some());
    dataset.require_trainable("batch", 1)?;
    let items = Arc::new(dataset.train);
    let config = LoaderConfig { batch: batch.min(items.len()), ..config };
    let (batch, sizes) = (config.batch, config.sizes.clone());
    let mut loader = Loader::new(items, config, 0)?;
    // The queues fill, and files come into the system's memory.
    for _ in 0..4 * workers {
        loader.next_batch()?;
    }
    let (begin, mut rates) = (Instant::now(), Vec::new());
    while rates.len() < PARTS {
        let (part, mut images) = (Instant::now(), 0);
        let end = Duration::from_secs(seconds) * (rates.len() as u32 + 1) / PARTS as u32;
        while images == 0 || begin.elapsed() < end {
            images += loader.next_batch()?.len();
        }
        rates.push(images as f64 / part.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let (low, median, high) = (rates[0], rates[PARTS / 2], rates[PARTS - 1]);
    let workers = data::count(workers, "worker", "workers");
    let source = if packed { "a pack" } else { "image files, each decoded anew" };
    say(format!(
        "{median:.0} images/s ({low:.0} to {high:.0}) from {source}, {workers}, batches of {batch}, {sizes:?} pixels"
    ))
}

/// Parts of a measurement, whose rates tell how steady it is.
const PARTS: usize = 5;

/// The batches of a generator's training. Prepared images are not kept, as of a data set that is larger than memory.
fn speed_config(side: usize, workers: usize, batch: usize, decode: DecodeConfig) -> LoaderConfig {
    LoaderConfig {
        batch,
        sizes: vec![side / 4, side / 2, side],
        words: 18,
        train: true,
        augment: true,
        workers,
        seed: 0,
        cache_bytes: 0,
        decode,
    }
}
