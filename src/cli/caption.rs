//! `engine caption`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::dataset::DatasetName;
use super::{Machine, Run, say};
use crate::config::Config;
use crate::data::{self, Dataset, Format};
use crate::error::{Error, chain, note};
use crate::files::whole;
use crate::infer::{frozen, image_square};
use crate::run::{Checkpoints, Phase, RunFolder};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// JPEG, PNG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// What of the image is shown to the network, in pixels, as in training [default: the whole image]
    #[arg(long, value_name = "X,Y,W,H", value_parser = parse_box, conflicts_with = "data")]
    bbox: Option<[f32; 4]>,
    /// The data set that the images belong to, a folder or a pack, whose boxes are taken [default: the run's]
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let on_cpu = args.machine.open()?;
    let run = RunFolder::open(&args.run.folder)?;
    let (config, vocabulary) = (run.config()?, run.vocabulary()?);
    let checkpoint = Checkpoints::of(run.root(), Phase::Captioner).latest()?.ok_or_else(|| {
        Error::data(run.root(), "this run has no captioner; train one with --phase captioner")
    })?;
    // Runs of versions without a record were trained on CUB's layout.
    let recorded = run.record()?.and_then(|record| DatasetName::recorded(&record.dataset));
    let format = recorded.map_or(Format::Cub, DatasetName::format);
    let boxes = args.boxes(&run, format, &config)?;
    let captioner = frozen::captioner(&checkpoint.folder, vocabulary.len(), &config)?;
    on_cpu.into_iter().for_each(note);
    if format.has_boxes() && boxes.values().any(Option::is_none) {
        note(
            "note: the whole image is taken where no box is known; give it with --bbox X,Y,W,H, or name its data set with --data DIR",
        );
    }
    let mut failed = 0;
    for path in &args.images {
        let bbox = boxes.get(path).copied().flatten();
        match image_square(path, bbox, config.largest_side(), &config.data.decode) {
            Ok(image) => {
                let ids = captioner.describe(&image, config.data.words_eval).remove(0);
                say(format!("{}: {}", path.display(), vocabulary.sentence(&ids)))?;
            }
            Err(error) if args.images.len() > 1 => {
                note(format!("error: {}", chain(&error, ": ")));
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} of {} images could not be described", args.images.len()),
    }
}

impl Args {
    /// The box of each image that has one.
    fn boxes(
        &self,
        run: &RunFolder,
        format: Format,
        config: &Config,
    ) -> anyhow::Result<HashMap<PathBuf, Option<[f32; 4]>>> {
        if self.bbox.is_some() {
            if self.images.len() > 1 {
                bail!(
                    "--bbox is the box of one image, and {} are given; name their data set with --data",
                    self.images.len()
                );
            }
            return Ok(self.images.iter().map(|path| (path.clone(), self.bbox)).collect());
        }
        let known = match &self.data {
            Some(_) if !format.has_boxes() => {
                bail!("--data names a data set for its boxes, and this run's has none; leave it out")
            }
            Some(folder) => Some(Boxes::of(&data::open(format, folder, &config.data.open)?)),
            None if format.has_boxes() => self.boxes_of_run(run, format, config),
            None => None,
        };
        let find = |path: &PathBuf| {
            let found = known.as_ref().and_then(|known| known.of_image(path));
            if self.data.is_some() && found.is_none() {
                bail!("{}: not an image of the data set that --data names", path.display());
            }
            Ok((path.clone(), found.flatten()))
        };
        self.images.iter().map(find).collect()
    }

    /// The boxes of the run's own data set, where one of the images lies in its folder, or in that of its pack.
    fn boxes_of_run(&self, run: &RunFolder, format: Format, config: &Config) -> Option<Boxes> {
        let data = run.record().ok()??.folder(run.root())?.canonicalize().ok()?;
        let open = || data::open(format, &data, &config.data.open).ok();
        let pack = if data.is_file() { Some(open()?) } else { None };
        let folder = match pack.as_ref().and_then(Dataset::packing) {
            Some(packing) => Path::new(&packing.root).canonicalize().ok()?,
            None => data.clone(),
        };
        let inside = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path.starts_with(&folder));
        let dataset = self.images.iter().any(inside).then(|| pack.or_else(open))??;
        Some(Boxes::of(&dataset))
    }
}

/// The boxes of a data set, by the whole path of an image and by its key.
struct Boxes(HashMap<PathBuf, Option<[f32; 4]>>);

impl Boxes {
    fn of(dataset: &Dataset) -> Boxes {
        let items = dataset.train.iter().chain(&dataset.test);
        let paths = items.flat_map(|item| {
            let path = whole(&item.image);
            [(path, item.bbox), (PathBuf::from(&item.id), item.bbox)]
        });
        Boxes(paths.collect())
    }

    /// None where the data set has no such image.
    fn of_image(&self, path: &Path) -> Option<Option<[f32; 4]>> {
        let whole = whole(path);
        let class = whole.parent().and_then(Path::file_name).map(Path::new);
        let key = class.zip(whole.file_stem()).map(|(class, stem)| class.join(stem));
        self.0.get(&whole).or_else(|| self.0.get(&key?)).copied()
    }
}

fn parse_box(text: &str) -> std::result::Result<[f32; 4], String> {
    let wrong = || format!("'{text}' is not a box: write X,Y,W,H in pixels, such as 60,27,325,304");
    let sides: Option<Vec<f32>> =
        text.split(',').map(|side| side.trim().parse().ok().filter(|side: &f32| side.is_finite())).collect();
    let sides: [f32; 4] = sides.ok_or_else(wrong)?.try_into().map_err(|_| wrong())?;
    if sides[2] >= 1.0 && sides[3] >= 1.0 { Ok(sides) } else { Err(wrong()) }
}
