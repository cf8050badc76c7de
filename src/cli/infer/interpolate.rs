//! `--interpolate`: frames between noises or between captions, as a strip and an animation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::json;

use super::dump::Dump;
use super::output::Output;
use super::plan::{Job, Plan};
use super::{Count, Lines, Work, exit, note};
use crate::data::Picture;
use crate::error::Result;
use crate::files::atomic;
use crate::infer::{Noise, Place, Request, Text, between_noises, between_texts};
use crate::render::{Tile, gif, pictures, strip, with_held_ends};

/// What lies at the ends of an interpolation.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(super) enum Ends {
    /// Two seeds' noises [default: --seed and the one after], for each caption
    Noise,
    /// The captions' embeddings, with one noise
    Sentence,
}

impl Work<'_> {
    /// A strip for each caption, or one for the way through all of them.
    pub(super) fn interpolate(
        &self,
        plan: &Plan,
        ends: Ends,
        frames: usize,
        animated: bool,
        output: Output,
    ) -> anyhow::Result<ExitCode> {
        let ways: Vec<Way> = match ends {
            Ends::Noise => (0..plan.asked.len()).map(|caption| Way::of_noises(plan, caption)).collect(),
            Ends::Sentence => vec![Way::of_captions(plan)],
        };
        let (mut list, mut dump) = (Lines::default(), Dump::default());
        let mut shown = Count::new("infer", ways.len() * frames);
        for (number, way) in ways.iter().enumerate() {
            let mut strip = Vec::new();
            let requests = (0..frames)
                .map(|frame| way.request(self, Place::of(frame, frames, way.stations.len()), ends));
            let whole = self.sampler.generate(requests, self.batch, |samples| {
                samples
                    .require_finite(&output.call.checkpoint_folder())
                    .with_context(|| way.stations[0].asked.label.clone())?;
                strip.extend(pictures(samples.largest()));
                for row in (0..samples.count()).filter(|_| self.dump.is_some()) {
                    let place = Place::of(strip.len() - samples.count() + row, frames, way.stations.len());
                    dump.push(way.stations[place.from].asked.prompt.ids.clone(), samples.sample(row));
                }
                shown.done(number * frames + strip.len());
                anyhow::Ok(!self.stop.load(Ordering::Relaxed))
            })?;
            if !whole {
                shown.end();
                note(format!("interrupted: {number} of {} strips are written", ways.len()));
                return Ok(ExitCode::from(exit::INTERRUPTED));
            }
            let written = way.write(strip, ends, animated, &output)?;
            shown.aside(|| written.iter().for_each(|path| list.say(path.display())));
        }
        shown.end();
        self.write_dump(&dump, &mut list)?;
        list.end()?;
        Ok(ExitCode::from(exit::FINISHED))
    }
}

/// The stations of one strip: samples that a call without `--interpolate` gives.
struct Way<'a> {
    caption: usize,
    title: String,
    stations: Vec<Job<'a>>,
}

impl<'a> Way<'a> {
    fn of_noises(plan: &'a Plan, caption: usize) -> Way<'a> {
        let jobs = (0..plan.of_caption()).map(|draw| plan.job(caption * plan.of_caption() + draw));
        Way { caption, title: plan.asked[caption].caption.clone(), stations: jobs.collect() }
    }

    /// All with the first caption's noise.
    fn of_captions(plan: &'a Plan) -> Way<'a> {
        let captions: Vec<&str> = plan.asked.iter().map(|asked| asked.caption.as_str()).collect();
        let mut stations: Vec<Job> = (0..plan.asked.len()).map(|i| plan.job(i * plan.of_caption())).collect();
        let draw = stations[0].draw;
        stations.iter_mut().for_each(|job| job.draw = draw);
        Way { caption: 0, title: captions.join("  →  "), stations }
    }

    fn request(&self, work: &Work, Place { from, to, at }: Place, ends: Ends) -> Request {
        let (from, to) = (&self.stations[from], &self.stations[to]);
        let mut request = from.request();
        if at == 0.0 {
            return request;
        }
        match ends {
            Ends::Noise => {
                let [a, b] = [from, to].map(|job| job.draw.values(&work.sampler.config.generator));
                request.noise = Noise::Given(between_noises(&a, &b, at));
            }
            Ends::Sentence => {
                let [a, b] = [from, to].map(|job| work.sampler.embedding(&job.asked.prompt.ids));
                request.text = Text::Embedding(between_texts(&a, &b, at));
            }
        }
        request
    }

    fn write(
        &self,
        frames: Vec<Picture>,
        ends: Ends,
        animated: bool,
        output: &Output,
    ) -> Result<Vec<PathBuf>> {
        let (first, number) = (&self.stations[0], output.first + self.caption);
        let names: Vec<String> = self
            .stations
            .iter()
            .map(|job| match ends {
                Ends::Noise => format!("seed {}", job.draw.seed),
                Ends::Sentence => job.asked.caption.clone(),
            })
            .collect();
        let kind = if ends == Ends::Noise { "noise" } else { "sentence" };
        let mut about = first.about();
        about["interpolate"] = json!(kind);
        about["frames"] = json!(frames.len());
        match ends {
            Ends::Noise => {
                about["seeds"] = json!(self.stations.iter().map(|job| job.draw.seed).collect::<Vec<_>>())
            }
            Ends::Sentence => about["captions"] = json!(names),
        }
        output.call.complete(&mut about);
        let mut files = vec![format!("{number:03}-{kind}.png")];
        let tiles = frames.iter().enumerate().map(|(frame, picture)| {
            let place = Place::of(frame, frames.len(), self.stations.len());
            let label = match place.at == 0.0 {
                true if ends == Ends::Noise => names[place.from].clone(),
                true => format!("caption {}", place.from + 1),
                false => format!("{:.0} %", place.at * 100.0),
            };
            Tile::new(picture.clone(), label)
        });
        let what = match ends {
            Ends::Noise => "between noises, on the great circle".to_string(),
            Ends::Sentence => format!("between captions, seed {}", first.draw.seed),
        };
        let remark = output.call.remark(&what, first.draw.truncation);
        let sheet = strip(&self.title, &remark, &tiles.collect::<Vec<_>>());
        let mut written = vec![output.save(&files[0], &sheet, &self.title, &about.to_string())?];
        if animated {
            files.push(format!("{number:03}-{kind}.gif"));
            written.push(output.folder.join(&files[1]));
            atomic::write(&written[1], &gif(with_held_ends(frames)))?;
        }
        about["files"] = json!(files);
        atomic::append_line(output.folder.join("captions.jsonl"), &about.to_string())?;
        Ok(written)
    }
}
