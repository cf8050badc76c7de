//! `engine infer`

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Machine, Run, say};
use crate::data::{Picture, save_png};
use crate::engine::Tensor;
use crate::engine::nn::{Archive, Array, Values};
use crate::engine::ops::shape::transpose;
use crate::engine::tensor::{Precision, set_precision};
use crate::error::{Error, Result, note};
use crate::infer::{Prompt, Sample, Sampler};
use crate::render::grid;
use crate::run::RunFolder;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// Sentences that say what an image shows
    #[arg(required_unless_present = "file")]
    captions: Vec<String>,
    /// A file of captions, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "captions")]
    file: Option<PathBuf>,
    /// Samples of each caption
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
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

pub fn run(args: Args) -> anyhow::Result<()> {
    args.machine.set()?;
    set_precision(args.precision)?;
    let run = RunFolder::open(&args.run.folder)?;
    let sampler = Sampler::open(&run)?;
    let prompts = args.prompts(&sampler)?;
    let out = args.out.clone().unwrap_or_else(|| run.root().join("infer"));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e)).context("no place for the images")?;
    let mut dump = Dump::default();
    for (number, prompt) in prompts.iter().enumerate() {
        for line in sampler.suggestions(&prompt.unknown) {
            note(format!("note: caption {}: {line}; left out", number + 1));
        }
        for index in 0..args.samples {
            let sample = sampler.sample(&prompt.ids, args.seed, (number as u64) << 32 | u64::from(index));
            let stem = format!("{:03}-{}", number + 1, index + 1);
            for path in write(&out, &stem, prompt, &sample)? {
                say(path.display())?;
            }
            if args.dump.is_some() {
                dump.0.push((prompt.ids.clone(), sample));
            }
        }
    }
    if let Some(path) = &args.dump {
        dump.archive().write(path)?;
        say(path.display())?;
    }
    Ok(())
}

impl Args {
    /// Every caption as words; the first that has no known word is an error.
    fn prompts(&self, sampler: &Sampler) -> anyhow::Result<Vec<Prompt>> {
        let Some(file) = &self.file else {
            let prompt = |(number, caption): (usize, &String)| {
                sampler.prompt(caption).map_err(|why| anyhow::anyhow!("caption {number}: {why}"))
            };
            return (1..).zip(&self.captions).map(prompt).collect();
        };
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::data(file, "not UTF-8; save it as UTF-8"))?;
        if text.trim().is_empty() {
            return Err(Error::data(file, "no captions in it; write one a line").into());
        }
        let prompt = |(line, caption)| sampler.prompt(caption).map_err(|why| Error::data_at(file, line, why));
        Ok((1..).zip(text.lines()).map(prompt).collect::<Result<_>>()?)
    }
}

/// Writes the image of each stage, and a sheet for each attention map.
fn write(out: &Path, stem: &str, prompt: &Prompt, sample: &Sample) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut save = |name: String, picture: &Picture| {
        let path = out.join(format!("{stem}-{name}.png"));
        save_png(&path, picture.width, picture.height, &picture.pixels)?;
        written.push(path);
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
        save(format!("attention{}", i + 1), &grid::attention_sheet(picture, map, 0, &prompt.words))?;
    }
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
