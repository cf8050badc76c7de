//! `engine data demo`, `check`, `pack` and `speed`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};

use super::dataset::DatasetName;
use super::{Threads, exit, say, signals};
use crate::config::Config;
use crate::data::{
    self, Classes, Dataset, DecodeConfig, Loader, LoaderConfig, OpenConfig, PackSummary, Packing, Skip,
    Tokenizer, demo,
};
use crate::error::{Error, Result, note};

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
        /// The data set's folder, or a pack of it, all of whose checksums are tested
        #[arg(value_name = "DIR|FILE")]
        folder: PathBuf,
        #[command(flatten)]
        layout: Layout,
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
    /// The data set's folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The file to write; an earlier pack is replaced once the new one is whole
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    side: Side,
    #[command(flatten)]
    layout: Layout,
    #[command(flatten)]
    threads: Threads,
}

#[derive(clap::Args)]
pub struct SpeedArgs {
    /// The data set's folder, or a pack of it
    #[arg(value_name = "DIR|FILE")]
    folder: PathBuf,
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
    layout: Layout,
}

/// The size that images are prepared for.
#[derive(clap::Args)]
pub struct Side {
    /// The side of the networks' largest images: 256 with the published presets, 64 with the demo's
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(4..=16384))]
    side: usize,
}

/// How a data set lies on disk, and the keys of the presets' `[data]` that say how it is read; without them those of its own
/// preset.
#[derive(clap::Args)]
pub struct Layout {
    /// How the folder is laid out; the demo's is cub
    #[arg(long)]
    dataset: FormatName,
    /// Images of more pixels are skipped: data.max_pixels of a training
    #[arg(long, value_name = "N", value_parser = limits())]
    max_pixels: Option<usize>,
    /// Images with a longer side are skipped: data.max_side of a training
    #[arg(long, value_name = "N", value_parser = limits())]
    max_side: Option<usize>,
    /// Turn images as their EXIF orientation says: data.exif_orientation of a training [default: only for folder]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    exif_orientation: Option<bool>,
    /// What is a word: data.tokenizer of a training [default: attngan; for folder unicode]
    #[arg(long, value_parser = tokenizers())]
    tokenizer: Option<Tokenizer>,
    /// Words that the captions have fewer times are left out: data.min_count of a training [default: 1]
    #[arg(long, value_name = "N", value_parser = limits())]
    min_count: Option<usize>,
    /// The share of a folder's pictures that is held out: data.test_ratio of a training [default: 0.1]
    #[arg(long, value_name = "SHARE", value_parser = ratio)]
    test_ratio: Option<f64>,
    /// Which pictures of a folder these are: data.split_seed of a training [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    split_seed: Option<u64>,
    /// What makes a class of a folder: data.classes of a training [default: auto]
    #[arg(long, value_parser = classes())]
    classes: Option<Classes>,
}

impl Layout {
    fn name(&self) -> DatasetName {
        self.dataset.into()
    }

    /// The data set in a folder or a pack, and the values of the keys.
    fn open(&self, path: &Path) -> Result<(Dataset, DecodeConfig, OpenConfig)> {
        let (decode, open) = self.keys()?;
        Ok((data::open(self.name().format(), path, &open)?, decode, open))
    }

    fn keys(&self) -> Result<(DecodeConfig, OpenConfig)> {
        let preset = Config::load(self.name().name(), &[])?.data;
        let (mut decode, mut open) = (preset.decode, preset.open);
        decode.max_pixels = self.max_pixels.unwrap_or(decode.max_pixels);
        decode.max_side = self.max_side.unwrap_or(decode.max_side);
        decode.exif_orientation = self.exif_orientation.unwrap_or(decode.exif_orientation);
        open.tokenizer = self.tokenizer.unwrap_or(open.tokenizer);
        open.min_count = self.min_count.unwrap_or(open.min_count);
        open.test_ratio = self.test_ratio.unwrap_or(open.test_ratio);
        open.split_seed = self.split_seed.unwrap_or(open.split_seed);
        open.classes = self.classes.unwrap_or(open.classes);
        Ok((decode, open))
    }
}

/// The options of `engine data check` that read a data set as a training with `config` does.
pub fn options(name: DatasetName, config: &Config) -> String {
    let checked = match name {
        DatasetName::Demo => DatasetName::Cub,
        name => name,
    };
    let mut options = format!("--dataset {}", checked.name());
    let Ok(preset) = Config::load(checked.name(), &[]) else { return options };
    let [ours, theirs] = [config, &preset].map(|Config { data, .. }| {
        data.decode.keys().into_iter().chain(data.open.keys()).collect::<Vec<_>>()
    });
    for ((key, value), _) in ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs) {
        options += &format!(" --{}={value}", key.replace('_', "-"));
    }
    options
}

fn tokenizers() -> impl TypedValueParser<Value = Tokenizer> {
    let of_name = |name: String| Tokenizer::ALL.into_iter().find(|known| known.name() == name);
    PossibleValuesParser::new(Tokenizer::ALL.map(Tokenizer::name))
        .map(move |name| of_name(name).expect("a possible value"))
}

fn classes() -> impl TypedValueParser<Value = Classes> {
    let of_name = |name: String| Classes::ALL.into_iter().find(|known| known.name() == name);
    PossibleValuesParser::new(Classes::ALL.map(Classes::name))
        .map(move |name| of_name(name).expect("a possible value"))
}

fn ratio(text: &str) -> std::result::Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..1.0).contains(ratio));
    ratio.ok_or_else(|| format!("'{text}' is not a share: write a number from 0 to less than 1, such as 0.1"))
}

fn limits() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn counts() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=demo::MOST as u64)
}

/// The layouts that a data set may have on disk.
#[derive(Clone, Copy, ValueEnum)]
pub enum FormatName {
    Cub,
    Coco,
    Folder,
}

impl From<FormatName> for DatasetName {
    fn from(name: FormatName) -> DatasetName {
        match name {
            FormatName::Cub => DatasetName::Cub,
            FormatName::Coco => DatasetName::Coco,
            FormatName::Folder => DatasetName::Folder,
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
        Command::Check { folder, layout, threads } => {
            threads.set()?;
            let (dataset, decode, _) = layout.open(&folder)?;
            dataset.packing().map_or(Ok(()), |packing| packing.require_decode(&decode))?;
            let report = data::check(dataset, &decode);
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
    let PackArgs { folder, layout, out, side: Side { side }, threads } = args;
    threads.set()?;
    let (dataset, decode, open) = layout.open(&folder)?;
    let (stop, all) = (signals::stop_flag("picture")?, dataset.train.len() + dataset.test.len());
    let mut shown = Instant::now();
    let mut progress = |done: usize| {
        if shown.elapsed() >= QUIET {
            shown = Instant::now();
            note(format!("{done} of {all} images"));
        }
        !stop.load(Ordering::Relaxed)
    };
    let format = layout.name().name().to_string();
    let packing = Packing { file: out.clone(), format, root: String::new(), side, decode, open };
    let packed = data::pack(&dataset, packing, &mut progress)?;
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
    let SpeedArgs { folder, layout, side: Side { side }, workers, batch, seconds } = args;
    let (dataset, decode, _) = layout.open(&folder)?;
    let (config, packed) = (speed_config(side, workers, batch, decode), dataset.packing().is_some());
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
