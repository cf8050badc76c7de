//! `engine infer`

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::{Lines, Machine, Run};
use crate::data::{Picture, save_png_with_text};
use crate::engine::Tensor;
use crate::engine::nn::{Archive, Array, Values};
use crate::engine::ops::shape::transpose;
use crate::engine::tensor::{Precision, set_precision};
use crate::error::{Error, Result, note};
use crate::files::{atomic, kind, lock};
use crate::infer::{Prompt, Sample, Sampler};
use crate::render::grid;
use crate::run::RunFolder;

/// Generate images for captions
///
/// Writes, for each caption and sample, an image of every stage (the demo: 16², 32², 64² pixels; CUB: 64², 128², 256²) and a
/// sheet for every attention map, which shows what each word looked at. The numbers of the files grow with each call.
/// captions.jsonl has a line for each sample: files, caption, words used and left out, seed, checkpoint; the images carry the
/// same as text chunks.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// Sentences that say what an image shows
    #[arg(required_unless_present = "file")]
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
    /// The folder that images are written to [default: RUN/infer]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write inputs and outputs as tensors in PyTorch's layouts
    #[arg(long, value_name = "FILE.safetensors")]
    dump: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// How activations are stored and multiplied; tf32 and bf16 need CUDA
    #[arg(long, default_value = "f32", value_parser = super::precision())]
    precision: Precision,
}

/// A caption as it was given.
struct Asked {
    caption: String,
    /// How notes and errors call it.
    label: String,
    line: Option<usize>,
    prompt: Prompt,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let on_cpu = args.machine.open()?;
    set_precision(args.precision)?;
    let run = RunFolder::open(&args.run.folder)?;
    let sampler = Sampler::open(&run)?;
    let asked = args.asked(&sampler)?;
    let out = args.out.clone().unwrap_or_else(|| run.root().join("infer"));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e)).context("no place for the images")?;
    if let Some(folder) = args.dump.as_deref().and_then(Path::parent).filter(|f| !f.as_os_str().is_empty()) {
        let missing = || Error::data(folder, "no such folder for --dump; make it first");
        folder.is_dir().then_some(()).ok_or_else(missing)?;
    }
    let first =
        lock::reserve_numbers(&out, asked.len(), next_number(&out)).context("no place for the images")?;
    on_cpu.into_iter().for_each(note);
    for Asked { label, prompt, .. } in &asked {
        for line in sampler.suggestions(&prompt.unknown) {
            note(format!("note: {label}: {line}; left out"));
        }
        if !prompt.beyond.is_empty() {
            let (limit, words) = (sampler.config.data.words_eval, prompt.beyond.join(" "));
            note(format!("note: {label}: longer than {limit} words (data.words_eval); left out: {words}"));
        }
    }
    let mut list = Lines::default();
    let mut dump = Dump::default();
    for (position, asked) in asked.iter().enumerate() {
        for index in 0..args.samples {
            let number = (position as u64) << 32 | u64::from(index);
            let sample = sampler.sample(&asked.prompt.ids, args.seed, number);
            sample
                .require_finite(&run.root().join(&sampler.checkpoint))
                .with_context(|| asked.label.clone())?;
            let stem = format!("{:03}-{}", first + position, index + 1);
            let about = args.about(&run, &sampler, asked, index);
            for path in write(&out, &stem, asked, &sample, about)? {
                list.say(path.display());
            }
            if args.dump.is_some() {
                dump.0.push((asked.prompt.ids.clone(), sample));
            }
        }
    }
    if let Some(path) = &args.dump {
        dump.archive().write(path)?;
        list.say(path.display());
    }
    list.end()
}

/// The number after the largest that a file name of the folder begins with.
fn next_number(out: &Path) -> usize {
    let names = std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.split_once('-')?.0.parse::<usize>().ok());
    numbers.max().unwrap_or(0).saturating_add(1)
}

impl Args {
    /// Every caption as words; those that have no known word are errors, all in one.
    fn asked(&self, sampler: &Sampler) -> anyhow::Result<Vec<Asked>> {
        let (mut asked, mut wrong) = (Vec::new(), Vec::new());
        for (label, line, caption) in self.captions()? {
            match sampler.prompt(&caption) {
                Ok(prompt) => asked.push(Asked { caption, label, line, prompt }),
                Err(why) => wrong.push(format!("{label}: {why}")),
            }
        }
        const NAMED: usize = 8;
        if wrong.len() > NAMED {
            let more = format!("and {} more captions like these", wrong.len() - NAMED);
            wrong.truncate(NAMED);
            wrong.push(more);
        }
        if wrong.is_empty() { Ok(asked) } else { anyhow::bail!("{}", wrong.join("\n  ")) }
    }

    /// The captions as they were given, each with its label, and with its line in the file.
    fn captions(&self) -> anyhow::Result<Vec<(String, Option<usize>, String)>> {
        let Some(file) = &self.file else {
            let labeled =
                |(number, caption): (usize, &String)| (format!("caption {number}"), None, caption.clone());
            return Ok((1..).zip(&self.captions).map(labeled).collect());
        };
        let mut bytes = Vec::new();
        match file.as_os_str() == "-" {
            true => std::io::stdin().read_to_end(&mut bytes).map(drop),
            false => std::fs::read(file).map(|read| bytes = read),
        }
        .map_err(|e| Error::io(file, e))?;
        if let Some(kind) = kind::of_bytes(&bytes) {
            return Err(Error::data(file, format!("{kind}; captions are UTF-8 text, one a line")).into());
        }
        let text = String::from_utf8(bytes).map_err(|_| Error::data(file, "not UTF-8; save it as UTF-8"))?;
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
        let name =
            if file.as_os_str() == "-" { "standard input".to_string() } else { file.display().to_string() };
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let lines = lines.map(|(line, caption)| (format!("{name}:{line}"), Some(line), caption.to_string()));
        let captions: Vec<_> = lines.collect();
        match captions.is_empty() {
            true => Err(Error::data(file, "no captions in it; write one a line").into()),
            false => Ok(captions),
        }
    }

    /// What is recorded of a sample, but its files.
    fn about(&self, run: &RunFolder, sampler: &Sampler, asked: &Asked, index: u32) -> serde_json::Value {
        let Asked { caption, line, prompt, .. } = asked;
        let left_out = [&prompt.unknown[..], &prompt.beyond[..]].concat();
        json!({
            "caption": caption,
            "line": line,
            "words": prompt.words,
            "left_out": left_out,
            "seed": self.seed,
            "sample": index + 1,
            "run": run.root().to_string_lossy(),
            "checkpoint": sampler.checkpoint,
            "precision": self.precision.name(),
            "engine": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// Writes the image of each stage, and a sheet for each attention map; then the line in captions.jsonl.
fn write(
    out: &Path,
    stem: &str,
    asked: &Asked,
    sample: &Sample,
    mut about: serde_json::Value,
) -> Result<Vec<PathBuf>> {
    let software = concat!("engine ", env!("CARGO_PKG_VERSION"));
    let comment = about.to_string();
    let texts =
        [("Description", asked.caption.as_str()), ("Software", software), ("Comment", comment.as_str())];
    let (mut written, mut names) = (Vec::new(), Vec::new());
    let mut save = |name: String, picture: &Picture| {
        let name = format!("{stem}-{name}.png");
        let path = out.join(&name);
        save_png_with_text(&path, picture.width, picture.height, &picture.pixels, &texts)?;
        written.push(path);
        names.push(name);
        Ok(())
    };
    let pictures: Vec<Picture> =
        sample.generated.images.iter().map(|image| grid::picture(image, 0)).collect();
    for picture in &pictures {
        save(picture.width.to_string(), picture)?;
    }
    // A map is shown on the image of its own stage.
    let first = pictures.len().saturating_sub(sample.generated.attention.len());
    for (i, map) in sample.generated.attention.iter().enumerate() {
        let picture = &pictures[(first + i).min(pictures.len() - 1)];
        save(format!("attention{}", i + 1), &grid::attention_sheet(picture, map, 0, &asked.prompt.words))?;
    }
    about["files"] = json!(names);
    atomic::append_line(out.join("captions.jsonl"), &about.to_string())?;
    Ok(written)
}

/// All samples with their word ids, for one file.
#[derive(Default)]
struct Dump(Vec<(Vec<i32>, Sample)>);

impl Dump {
    /// Captions, word features and attention maps are padded with 0 to the longest caption.
    fn archive(&self) -> Archive {
        let longest = self.0.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let (mut captions, mut lengths) = (Vec::new(), Vec::new());
        for (ids, _) in &self.0 {
            captions.extend(ids.iter().map(|&id| i64::from(id)));
            captions.resize(lengths.len() * longest + longest, 0);
            lengths.push(ids.len() as i64);
        }
        let count = self.0.len();
        let mut archive = Archive::default();
        archive.insert("captions", Array { shape: vec![count, longest], values: Values::I64(captions) });
        archive.insert("lengths", Array { shape: vec![count], values: Values::I64(lengths) });
        archive.insert("z", self.stack(|p| p.z.clone()));
        archive.insert("eps", self.stack(|p| p.eps.clone()));
        archive.insert("sentence", self.stack(|p| p.embedding.sentence.clone()));
        archive.insert("words", self.stack(|p| transpose(&padded(&p.embedding.words, longest), &[0, 2, 1])));
        let Some((_, first)) = self.0.first() else { return archive };
        for i in 0..first.generated.images.len() {
            let image = self.stack(|p| transpose(&p.generated.images[i], &[0, 3, 1, 2]));
            archive.insert(format!("image{i}"), image);
        }
        for i in 0..first.generated.attention.len() {
            let words_first = |p: &Sample| transpose(&p.generated.attention[i], &[0, 3, 1, 2]);
            archive.insert(format!("attention{i}"), self.stack(|p| padded(&words_first(p), longest)));
        }
        archive
    }

    /// `part` of each sample, [1,..], as one [B,..].
    fn stack(&self, part: impl Fn(&Sample) -> Tensor) -> Array {
        let parts: Vec<Tensor> = self.0.iter().map(|(_, sample)| part(sample)).collect();
        let mut shape = parts[0].shape().to_vec();
        shape[0] = parts.len();
        Array::f32(&shape, parts.iter().flat_map(Tensor::to_vec).collect())
    }
}

/// [1,T,..] padded with zeros to [1,words,..].
fn padded(x: &Tensor, words: usize) -> Tensor {
    let mut shape = x.shape().to_vec();
    let mut values = x.to_vec();
    values.resize(values.len() / shape[1] * words, 0.0);
    shape[1] = words;
    Tensor::from_vec(values, shape.as_slice())
}
