//! `engine nearest`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::dataset::{self, DatasetName};
use super::eval::Shown;
use super::{Machine, Run, exit, say, signals};
use crate::data::{DecodeConfig, Picture, decode, save_png};
use crate::error::{Error, note};
use crate::eval::evaluate::{Pictures, features, open_evaluator};
use crate::eval::protocol::{Crop, ProtocolName};
use crate::eval::{Neighbor, nearest};
use crate::render::{Section, Tile, contact_sheet};
use crate::run::RunFolder;

/// Find the training pictures that are nearest to pictures: is one memorised?
///
/// Nearness is the distance of codes of the run's image encoder. For scale: how far training pictures are from their own nearest
/// neighbors.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// JPEG, PNG or WebP files, such as `engine infer` wrote
    #[arg(required = true, value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
    /// Neighbors of each picture
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=64))]
    k: u32,
    /// The run's data set, where it lies elsewhere by now: a folder, or a pack
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
    /// What the data set is, for an imported run
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// Draw pictures and neighbors as a sheet
    #[arg(long, value_name = "FILE.png")]
    out: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    const BATCH: usize = 16;
    let on_cpu = args.machine.open()?;
    let run = RunFolder::open(&args.run.folder)?;
    let config = run.config()?;
    let queries = args.pictures.iter().map(|path| Ok(decode(path, &DecodeConfig::default())?.picture));
    let queries = queries.collect::<anyhow::Result<Vec<Picture>>>()?;
    let (dataset, _) = dataset::of_run(&run, &config, args.data.as_deref(), args.dataset)?;
    let evaluator = open_evaluator(&ProtocolName::Encoder.protocol(), None, Some(&run))?;
    let mut shown = Shown::new("search", signals::stop_flag("batch")?);
    on_cpu.into_iter().for_each(note);
    let (crop, side, decode) = (Crop::TrainingSquare, config.largest_side(), config.data.decode);
    let training = Pictures::Items { items: &dataset.train, crop, side, decode };
    let codes = features(&training, &evaluator, BATCH, None, "training", &mut shown)?;
    let Some(codes) = codes else { return Ok(ExitCode::from(exit::INTERRUPTED)) };
    let evaluated = evaluator.evaluate(&queries)?;
    let of_queries = crate::eval::Features::of_rows(evaluated.features.width, evaluated.features.iter())?;
    let found = nearest(&of_queries, &codes, args.k as usize)?;
    // Each is its own nearest one.
    let own: Vec<f64> = nearest(&codes, &codes, 2)?.iter().map(|pair| pair[1].distance).collect();
    let scale = Scale::of(own);
    let name = |neighbor: &Neighbor| dataset.train[neighbor.image as usize].id.clone();
    for (path, neighbors) in args.pictures.iter().zip(&found) {
        say(path.display())?;
        for neighbor in neighbors {
            say(format!("  {:<10.4} {}", neighbor.distance, name(neighbor)))?;
        }
        say(format!("  {}", scale.verdict(neighbors[0].distance)))?;
    }
    say(scale.describe())?;
    let Some(out) = &args.out else { return Ok(ExitCode::from(exit::FINISHED)) };
    let mut sections = Vec::new();
    for ((path, query), neighbors) in args.pictures.iter().zip(queries).zip(&found) {
        let mut tiles = vec![Tile::new(query, "the picture")];
        for neighbor in neighbors {
            let picture = training.get(neighbor.image as usize)?;
            let picture = picture.map_err(|why| Error::data(name(neighbor), why))?;
            let label = format!("{:.4}\n{}", neighbor.distance, name(neighbor));
            tiles.push(Tile::new(picture, label));
        }
        let heading = format!("{}: {}", path.display(), scale.verdict(neighbors[0].distance));
        sections.push(Section { heading, tiles });
    }
    let sheet = contact_sheet("The nearest training pictures", &scale.describe(), &sections);
    save_png(out, sheet.width, sheet.height, &sheet.pixels)?;
    say(out.display())?;
    Ok(ExitCode::from(exit::FINISHED))
}

/// How far training pictures are from their own nearest neighbors, ascending.
struct Scale(Vec<f64>);

impl Scale {
    fn of(mut distances: Vec<f64>) -> Scale {
        distances.sort_by(f64::total_cmp);
        Scale(distances)
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn describe(&self) -> String {
        let (count, mean) = (self.0.len(), self.mean());
        format!(
            "for scale: the {count} training pictures are on average {mean:.4} from their nearest neighbor among themselves"
        )
    }

    /// What the distance of the nearest training picture says.
    fn verdict(&self, distance: f64) -> String {
        let nearer = self.0.partition_point(|own| *own < distance) as f64 / self.0.len() as f64;
        let times = distance / self.mean().max(f64::MIN_POSITIVE);
        let verdict = match nearer {
            _ if distance == 0.0 => "the very picture",
            0.0..0.01 => "as near as a copy: look at it",
            0.01..0.25 => "nearer than most training pictures are to each other",
            _ => "no nearer than training pictures are to each other",
        };
        format!("{times:.2} times the mean distance: {verdict}")
    }
}
