//! Contact sheets of a call, page by page, so that memory does not grow.

use std::path::{Path, PathBuf};

use super::call::Call;
use super::plan::{Draws, Job, Plan};
use crate::data::{Picture, save_png};
use crate::error::Result;
use crate::render::{Section, Tile, contact_sheet};

/// Pictures on a page; one caption's samples may be more.
const FULL: usize = 64;

/// The page that is being filled.
pub(super) struct Pages {
    first: usize,
    /// Pages before this one.
    before: usize,
    page: Page,
}

/// A page, once all of its pictures are there.
#[derive(Default)]
pub(super) struct Page {
    name: String,
    title: String,
    /// Where all of its samples have one seed, that.
    seed: String,
    truncation: Option<f32>,
    sections: Vec<Section>,
}

impl Pages {
    pub(super) fn new(first: usize) -> Pages {
        Pages { first, before: 0, page: Page::default() }
    }

    /// Adds a sample's largest picture. Returns the page before, if this sample begins a new one.
    pub(super) fn add(&mut self, job: &Job, picture: &Picture, plan: &Plan) -> Option<Page> {
        let full = (self.page.count() >= FULL).then(|| std::mem::take(&mut self.page));
        if self.page.count() == 0 {
            self.before += usize::from(full.is_some());
            self.begin(job, plan);
        }
        let caption = &job.asked.caption;
        let several = plan.of_caption() > 1;
        let label = if several { job.short_name(plan) } else { caption.clone() };
        // Where there are several captions, each with several samples, a caption is a heading.
        let heading = if several && plan.asked.len() > 1 { caption.clone() } else { String::new() };
        let tile = Tile::new(picture.clone(), label);
        match self.page.sections.last_mut() {
            Some(section) if section.heading == heading && (!several || job.number > 1) => {
                section.tiles.push(tile)
            }
            _ => self.page.sections.push(Section { heading, tiles: vec![tile] }),
        }
        full
    }

    fn begin(&mut self, job: &Job, plan: &Plan) {
        let number = if self.before == 0 { String::new() } else { format!("-{}", self.before + 1) };
        let several = plan.of_caption() > 1;
        let title = match plan.asked.len() {
            1 => plan.asked[0].caption.clone(),
            captions if several => format!("{captions} captions, {} samples of each", plan.of_caption()),
            captions => format!("{captions} captions"),
        };
        self.page.name = format!("{:03}-grid{number}.png", self.first);
        self.page.title = if self.before == 0 { title } else { format!("{title}, page {}", self.before + 1) };
        let one_seed = matches!(plan.draws, Draws::Samples { .. });
        self.page.seed = if one_seed { format!("seed {}", job.draw.seed) } else { String::new() };
        self.page.truncation = job.draw.truncation;
    }

    /// The name of the page that is being filled.
    pub(super) fn name(&self) -> &str {
        &self.page.name
    }

    pub(super) fn take(self) -> Option<Page> {
        (self.page.count() > 0).then_some(self.page)
    }
}

impl Page {
    fn count(&self) -> usize {
        self.sections.iter().map(|section| section.tiles.len()).sum()
    }

    pub(super) fn write(&self, folder: &Path, call: &Call) -> Result<PathBuf> {
        let remark = call.remark(&self.seed, self.truncation);
        let sheet = contact_sheet(&self.title, &remark, &self.sections);
        let path = folder.join(&self.name);
        save_png(&path, sheet.width, sheet.height, &sheet.pixels)?;
        Ok(path)
    }
}
