//! `engine infer`

mod call;
mod captions;
mod dump;
mod interpolate;
mod output;
mod pages;
mod plan;
mod swap;
mod training;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::ValueEnum;

use self::call::Call;
use self::captions::Asked;
use self::dump::Dump;
use self::interpolate::Ends;
use self::output::Output;
use self::plan::{Draws, Plan};
use self::swap::Swap;
use super::progress::Count;
use super::{Lines, Machine, Run, exit, signals};
use crate::engine::tensor::{Precision, set_precision};
use crate::error::{Error, note};
use crate::files::lock;
use crate::infer::{Sampler, Weights};
use crate::run::RunFolder;

/// Generate images for captions
///
/// Writes, for each caption and sample, an image of every stage (the demo: 16², 32², 64² pixels; CUB: 64², 128², 256²), and a
/// sheet with all stages and what each word looked at. Several samples of a caption, and --grid, give contact sheets. The
/// numbers of the files grow with each call. captions.jsonl has a line for each sample: files, caption, words used and left out,
/// seed, checkpoint; the images carry the same as text chunks. Ctrl-C ends the call after the batch that is at work.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// Sentences that say what an image shows
    #[arg(required_unless_present_any = ["file", "training_gif"])]
    captions: Vec<String>,
    /// A file of captions, one a line; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "captions")]
    file: Option<PathBuf>,
    /// Samples of each caption
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,
    /// The seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// One sample of each of these seeds, such as 0-15 or 3,7,20-29; with --interpolate noise the seeds on the way
    #[arg(long, value_name = "SEEDS", value_parser = parse_seeds, conflicts_with_all = ["seed", "samples"])]
    seeds: Option<Seeds>,
    /// Draw z within ±2 and multiply it by this, as DF-GAN does (0.88 there): less variety, fewer failures
    #[arg(long, value_name = "T", value_parser = parse_truncation)]
    truncation: Option<f32>,
    /// The generator's weights: a STEP of the GAN phase; best, by what training measured; or raw, which are those that it goes on with [default: the averaged
    /// weights of the newest checkpoint]
    #[arg(long, value_name = "STEP|best|raw", value_parser = parse_weights)]
    checkpoint: Option<Weights>,
    /// Put other words in place of a caption's word, such as red=blue,yellow, with the same noise; a sheet marks what changed
    #[arg(long, value_name = "WORD=WORD,..", value_parser = swap::parse)]
    swap: Option<Swap>,
    /// Frames between two seeds' noises, or between the captions' embeddings, as a strip
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["samples", "swap", "grid"])]
    interpolate: Option<Ends>,
    /// Frames of an interpolation, with both ends
    #[arg(long, default_value_t = 8, value_name = "N", requires = "interpolate", value_parser = clap::value_parser!(u32).range(2..=1000))]
    frames: u32,
    /// Also write the frames of an interpolation as an animated GIF
    #[arg(long, requires = "interpolate")]
    gif: bool,
    /// Make an animated GIF of the sample grids that training drew (RUN/samples); nothing is generated
    #[arg(long, conflicts_with_all = ["captions", "file", "samples", "seed", "seeds", "truncation", "checkpoint", "swap", "interpolate", "grid", "sheets", "dump"])]
    training_gif: bool,
    /// Contact sheets of everything, with the captions below [default: where captions have several samples]
    #[arg(long)]
    grid: bool,
    /// Sheets of stages and attention, one for each sample; auto draws them for at most 16 samples
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    sheets: Sheets,
    /// Samples that are computed together; it changes no image [default: as many as the images' size suggests]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// The folder that images are written to [default: RUN/infer]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write inputs and outputs as tensors in PyTorch's layouts; keeps all of them in memory
    #[arg(long, value_name = "FILE.safetensors")]
    dump: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// How activations are stored and multiplied; tf32 and bf16 need CUDA
    #[arg(long, default_value = "f32", value_parser = super::precision())]
    precision: Precision,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Sheets {
    Auto,
    Always,
    Never,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let on_cpu = args.machine.open()?;
    set_precision(args.precision)?;
    let run = RunFolder::open(&args.run.folder)?;
    let out = args.out.clone().unwrap_or_else(|| run.root().join("infer"));
    if args.training_gif {
        return training::write_gif(&run, &out);
    }
    let sampler = Sampler::open(&run, args.checkpoint.unwrap_or_default())?;
    let plan = args.plan(&sampler)?;
    make_places(&out, args.dump.as_deref())?;
    let reserved = lock::reserve_numbers(&out, plan.asked.len(), next_number(&out));
    let first = reserved.context("no place for the images")?;
    let stop = signals::stop_flag("batch")?;
    on_cpu.into_iter().for_each(note);
    captions::note_what_is_left_out(&plan.asked, &sampler);
    let call = Call::new(&run, &sampler, args.precision);
    let output = Output::new(out, first, call, args.draws_sheets(&plan), args.draws_grid(&plan));
    let work = Work { sampler: &sampler, batch: args.batch_for(&sampler), stop, dump: args.dump.as_deref() };
    match args.interpolate {
        Some(ends) => work.interpolate(&plan, ends, args.frames as usize, args.gif, output),
        None => work.generate(&plan, output),
    }
}

impl Args {
    fn plan(&self, sampler: &Sampler) -> anyhow::Result<Plan> {
        let asked = captions::asked(&self.captions, self.file.as_deref(), sampler)?;
        if self.interpolate == Some(Ends::Sentence) && asked.len() < 2 {
            anyhow::bail!("--interpolate sentence goes from one caption to another: give two or more");
        }
        let swapped = |asked: &Asked| self.swap.as_ref().map(|swap| swap.of(asked, sampler)).transpose();
        let swapped = asked.iter().map(swapped).collect::<Result<Option<Vec<_>>, _>>();
        let swapped = swapped?.unwrap_or_default();
        let draws = match (&self.seeds, self.interpolate) {
            (Some(Seeds(seeds)), Some(Ends::Noise)) if seeds.len() < 2 => {
                anyhow::bail!(
                    "--interpolate noise goes from one seed to another: give two or more with --seeds"
                )
            }
            (Some(Seeds(seeds)), Some(Ends::Sentence)) if seeds.len() > 1 => {
                anyhow::bail!("--interpolate sentence keeps one noise: give one with --seed, not --seeds")
            }
            (None, Some(Ends::Noise)) => Draws::Seeds(vec![self.seed, self.seed.wrapping_add(1)]),
            (Some(Seeds(seeds)), _) => Draws::Seeds(seeds.clone()),
            (None, _) => Draws::Samples { seed: self.seed, count: self.samples.into() },
        };
        Ok(Plan { asked, swapped, draws, truncation: self.truncation })
    }

    fn draws_sheets(&self, plan: &Plan) -> bool {
        /// Drawing a sheet takes as long as generating a dozen small images.
        const AUTO: usize = 16;
        match self.sheets {
            Sheets::Always => true,
            Sheets::Never => false,
            Sheets::Auto => plan.count() <= AUTO,
        }
    }

    fn draws_grid(&self, plan: &Plan) -> bool {
        let several = plan.of_caption() > 1 && self.swap.is_none();
        self.interpolate.is_none() && (self.grid || several)
    }

    fn batch_for(&self, sampler: &Sampler) -> usize {
        self.batch.map_or(default_batch(sampler.config.largest_side()), |batch| batch as usize)
    }
}

/// On the CPU small images gain by a batch, large ones need memory.
pub(super) fn default_batch(side: usize) -> usize {
    const PIXELS: usize = 16 * 64 * 64;
    (PIXELS / (side * side)).clamp(4, 16)
}

/// What turns a plan into files.
struct Work<'a> {
    sampler: &'a Sampler,
    batch: usize,
    stop: Arc<AtomicBool>,
    dump: Option<&'a Path>,
}

impl Work<'_> {
    fn generate(&self, plan: &Plan, mut output: Output) -> anyhow::Result<ExitCode> {
        let (count, mut done) = (plan.count(), 0);
        let (mut list, mut dump) = (Lines::default(), Dump::default());
        let mut shown = Count::new("infer", count);
        let requests = (0..count).map(|index| plan.job(index).request());
        let whole = self.sampler.generate(requests, self.batch, |samples| {
            let jobs: Vec<_> = (done..done + samples.count()).map(|index| plan.job(index)).collect();
            let written = output.write(&jobs, samples, plan)?;
            shown.aside(|| written.iter().for_each(|path| list.say(path.display())));
            if self.dump.is_some() {
                let ids = jobs.iter().map(|job| job.asked.prompt.ids.clone());
                ids.enumerate().for_each(|(row, ids)| dump.push(ids, samples.sample(row)));
            }
            done += samples.count();
            shown.done(done);
            anyhow::Ok(!self.stop.load(Ordering::Relaxed))
        })?;
        shown.end();
        output.end()?.iter().for_each(|path| list.say(path.display()));
        self.write_dump(&dump, &mut list)?;
        if !whole {
            note(format!("interrupted: {done} of {count} samples are written"));
        }
        list.end()?;
        Ok(ExitCode::from(if whole { exit::FINISHED } else { exit::INTERRUPTED }))
    }

    fn write_dump(&self, dump: &Dump, list: &mut Lines) -> anyhow::Result<()> {
        let Some(path) = self.dump else { return Ok(()) };
        dump.archive().write(path)?;
        list.say(path.display());
        Ok(())
    }
}

fn make_places(out: &Path, dump: Option<&Path>) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e)).context("no place for the images")?;
    if let Some(folder) = dump.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()) {
        let missing = || Error::data(folder, "no such folder for --dump; make it first");
        folder.is_dir().then_some(()).ok_or_else(missing)?;
    }
    Ok(())
}

/// The number after the largest that a file name of the folder begins with.
fn next_number(out: &Path) -> usize {
    let names = std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.split_once('-')?.0.parse::<usize>().ok());
    numbers.max().unwrap_or(0).saturating_add(1)
}

/// The seeds of `--seeds`, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seeds(pub Vec<u64>);

pub(super) fn parse_seeds(text: &str) -> Result<Seeds, String> {
    const MOST: u64 = 10_000;
    let seed = |text: &str| {
        text.trim()
            .parse::<u64>()
            .map_err(|_| format!("'{text}' is no seed; write them like 0-15 or 3,7,20-29"))
    };
    let mut seeds = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (seed(from)?, seed(to)?);
        if to < from {
            return Err(format!("'{part}' goes down; write {to}-{from}"));
        }
        if to - from >= MOST {
            return Err(format!("'{part}' is more than {MOST} seeds"));
        }
        seeds.extend(from..=to);
    }
    let mut sorted = seeds.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("seed {} is there twice", pair[0])),
        None => Ok(Seeds(seeds)),
    }
}

pub(super) fn parse_truncation(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a number above 0, up to 1, such as 0.88".to_string()),
    }
}

pub(super) fn parse_weights(text: &str) -> Result<Weights, String> {
    match (text, text.parse()) {
        ("raw", _) => Ok(Weights::Raw),
        ("best", _) => Ok(Weights::Best),
        (_, Ok(step)) => Ok(Weights::Step(step)),
        _ => Err("a step of the GAN phase such as 1200, or best, or raw".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_ranges_and_numbers() {
        assert_eq!(parse_seeds("3,7, 9-11").unwrap().0, [3, 7, 9, 10, 11]);
        for (text, part) in [
            ("a", "no seed"),
            ("", "no seed"),
            ("3-", "no seed"),
            ("9-3", "goes down"),
            ("0-99999", "more than"),
            ("1,0-2", "twice"),
        ] {
            assert!(parse_seeds(text).unwrap_err().contains(part), "{text}");
        }
    }
}
