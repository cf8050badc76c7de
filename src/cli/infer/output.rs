//! The files of a call: images, sheets, contact sheets, captions.jsonl.

use std::path::PathBuf;

use anyhow::Context;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::call::Call;
use super::pages::Pages;
use super::plan::{Job, Plan};
use crate::data::{Picture, save_png_with_text};
use crate::error::Result;
use crate::files::atomic;
use crate::infer::Samples;
use crate::render::{Attention, Change, Even, Tile, attention_sheet, change_sheet, pictures};

pub(super) struct Output {
    pub folder: PathBuf,
    /// The number of the first caption's files.
    pub first: usize,
    pub call: Call,
    /// Whether every sample gets a sheet.
    sheets: bool,
    pages: Option<Pages>,
    /// A sample and its swaps, until the last one is there.
    changes: Vec<Change>,
}

impl Output {
    pub(super) fn new(folder: PathBuf, first: usize, call: Call, sheets: bool, grid: bool) -> Output {
        Output { folder, first, call, sheets, pages: grid.then(|| Pages::new(first)), changes: Vec::new() }
    }

    /// Writes what belongs to the samples of a batch, and returns the files.
    pub(super) fn write(
        &mut self,
        jobs: &[Job],
        samples: &Samples,
        plan: &Plan,
    ) -> anyhow::Result<Vec<PathBuf>> {
        for (row, job) in jobs.iter().enumerate() {
            let finite = samples.sample(row).require_finite(&self.call.checkpoint_folder());
            finite.with_context(|| job.asked.label.clone())?;
        }
        let stages: Vec<Vec<Picture>> = samples.generated.images.iter().map(pictures).collect();
        let of_row = |row: usize| stages.iter().map(|stage| &stage[row]).collect::<Vec<_>>();
        let write = |(row, job): (usize, &Job)| self.write_sample(job, &of_row(row), &samples.sample(row));
        let written = jobs.par_iter().enumerate().map(write).collect::<Result<Vec<Vec<String>>>>()?;
        let (mut files, mut lines) = (Vec::new(), Vec::new());
        for ((row, job), names) in jobs.iter().enumerate().zip(written) {
            files.extend(names.iter().map(|name| self.folder.join(name)));
            let mut about = self.about(job);
            about["files"] = json!(names);
            let largest = &stages[stages.len() - 1][row];
            if plan.variants() > 1 {
                about["swap_sheet"] = json!(self.change_sheet_name(job, plan));
                files.extend(self.add_change(job, largest, plan)?);
            }
            if let Some(pages) = &mut self.pages {
                let full = pages.add(job, largest, plan);
                about["grid"] = json!(pages.name());
                files.extend(full.map(|page| page.write(&self.folder, &self.call)).transpose()?);
            }
            lines.push(about.to_string());
        }
        atomic::append_line(self.folder.join("captions.jsonl"), &lines.join("\n"))?;
        Ok(files)
    }

    /// Writes the contact sheet that is not full yet.
    pub(super) fn end(mut self) -> Result<Option<PathBuf>> {
        let page = self.pages.take().and_then(Pages::take);
        page.map(|page| page.write(&self.folder, &self.call)).transpose()
    }

    /// The images of every stage, and a sheet, under names that are returned.
    fn write_sample(&self, job: &Job, stages: &[&Picture], sample: &Samples) -> Result<Vec<String>> {
        let stem = format!("{:03}-{}", self.first + job.caption, job.number);
        let comment = self.about(job).to_string();
        let save = |name: String, picture: &Picture| {
            self.save(&name, picture, &job.asked.caption, &comment)?;
            Ok(name)
        };
        let images = stages.iter().map(|stage| save(format!("{stem}-{}.png", stage.width), stage));
        let mut names = images.collect::<Result<Vec<String>>>()?;
        if self.sheets {
            names.push(save(format!("{stem}-sheet.png"), &self.sheet(job, stages, sample))?);
        }
        Ok(names)
    }

    /// A PNG with its caption and with what led to it as text chunks.
    pub(super) fn save(
        &self,
        name: &str,
        picture: &Picture,
        caption: &str,
        comment: &str,
    ) -> Result<PathBuf> {
        let software = concat!("engine ", env!("CARGO_PKG_VERSION"));
        let texts = [("Description", caption), ("Software", software), ("Comment", comment)];
        let path = self.folder.join(name);
        save_png_with_text(&path, picture.width, picture.height, &picture.pixels, &texts)?;
        Ok(path)
    }

    fn sheet(&self, job: &Job, stages: &[&Picture], sample: &Samples) -> Picture {
        let words = &job.asked.prompt.words;
        let tile = |stage: &&Picture| Tile::new((*stage).clone(), format!("{0} × {0}", stage.width));
        let maps = sample.generated.attention.iter().map(|map| Attention::of(map, 0, words.len()));
        let mut remark = self.call.remark(&job.name(), job.draw.truncation);
        if !job.asked.left_out().is_empty() {
            remark += &format!("   ·   left out: {}", job.asked.left_out().join(", "));
        }
        let (stages, maps) = (stages.iter().map(tile).collect(), maps.collect::<Vec<_>>());
        attention_sheet(&job.asked.caption, &remark, stages, &maps, words, Even::Words)
    }

    /// What is recorded of a sample, but its files.
    fn about(&self, job: &Job) -> Value {
        let mut about = job.about();
        self.call.complete(&mut about);
        about
    }

    /// `001-swap.png`, and with several noises `001-swap3.png` for the third.
    fn change_sheet_name(&self, job: &Job, plan: &Plan) -> String {
        let (number, draw) = (self.first + job.caption, (job.number - 1) / plan.variants() + 1);
        let draw = if plan.of_caption() > plan.variants() { draw.to_string() } else { String::new() };
        format!("{number:03}-swap{draw}.png")
    }

    /// Writes the sheet of a sample and its swaps once all are there.
    fn add_change(&mut self, job: &Job, picture: &Picture, plan: &Plan) -> Result<Option<PathBuf>> {
        let label = job.swapped.map_or("original", |swapped| &swapped.to).to_string();
        self.changes.push(Change { label, picture: picture.clone() });
        if self.changes.len() < plan.variants() {
            return Ok(None);
        }
        let mut changes = std::mem::take(&mut self.changes);
        let original = changes.remove(0);
        let caption = &plan.asked[job.caption].caption;
        let remark = self.call.remark(&job.name(), job.draw.truncation);
        let sheet = change_sheet(caption, &remark, original, changes);
        self.save(&self.change_sheet_name(job, plan), &sheet, caption, &self.about(job).to_string()).map(Some)
    }
}
