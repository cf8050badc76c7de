//! Which real pictures, and which captions and noises of which generated ones.

use super::metrics::{MetricName, Metrics};
use super::pictures::Pictures;
use crate::config::Config;
use crate::data::{Item, captions};
use crate::error::{Error, Result};
use crate::eval::most_candidates;
use crate::eval::protocol::{CaptionChoice, Protocol};
use crate::infer::{Draw, Request};
use crate::run::seed::{RngStream, rng_for};

/// Noises of the diversity within a caption come after all others.
const DIVERSE: u64 = 1 << 40;

pub(super) struct Plan<'a> {
    pub protocol: Protocol,
    items: &'a [Item],
    config: &'a Config,
    truncation: Option<f32>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        items: &'a [Item],
        config: &'a Config,
        protocol: Protocol,
        truncation: Option<f32>,
    ) -> Result<Plan<'a>> {
        let plan = Plan { protocol, items, config, truncation };
        if plan.count() < 2 {
            let batch = plan.protocol.generated.whole_batches.unwrap_or(2);
            let images = plan.protocol.generated.images.unwrap_or(items.len());
            let why = format!("{images} is too few: this protocol needs {batch} at least");
            return Err(Error::config("--images", why));
        }
        Ok(plan)
    }

    /// The real pictures.
    pub(super) fn real(&self) -> Pictures<'a> {
        let (crop, side) = (self.protocol.real.crop, self.config.largest_side());
        Pictures::Items { items: self.items, crop, side, decode: self.config.data.decode }
    }

    /// How many pictures are generated.
    pub(super) fn count(&self) -> usize {
        let generated = &self.protocol.generated;
        generated.whole(generated.images.unwrap_or(self.items.len()))
    }

    /// How many are generated for the diversity within a caption.
    pub(super) fn diverse_count(&self) -> usize {
        let diversity = self.protocol.diversity;
        diversity.captions.min(self.items.len()) * diversity.samples
    }

    /// Fits R-precision to the captions that there are. The lines to tell.
    ///
    /// # Errors
    /// `Config` where it is asked for and there are too few captions of other classes.
    pub(super) fn fit(&mut self, metrics: &mut Metrics, candidates: Option<usize>) -> Result<Vec<String>> {
        if !metrics.has(MetricName::RPrecision) {
            return Ok(Vec::new());
        }
        let classes: Vec<i32> = (0..self.count()).map(|number| self.class(number)).collect();
        let most = most_candidates(&classes);
        let wanted = candidates.unwrap_or(self.protocol.r_precision.candidates);
        self.protocol.r_precision.candidates = wanted;
        if most < 2 {
            let why = format!(
                "all {} captions are of one class, and R-precision takes the wrong captions from other classes; take data of \
                 several classes",
                self.count()
            );
            return Ok(vec![metrics.leave_out(MetricName::RPrecision, why)?]);
        }
        if wanted > most && candidates.is_some() {
            let why = format!(
                "some pictures have only {} captions of other classes; --candidates {most} would do",
                most - 1
            );
            return Err(Error::config(format!("--candidates {wanted}"), why));
        }
        if wanted > most {
            self.protocol.r_precision.candidates = most;
            return Ok(vec![format!(
                "note: R-precision chooses among {most} captions and not among {wanted}: some pictures have no more captions \
                 of other classes; it compares with figures among {most} only"
            )]);
        }
        Ok(Vec::new())
    }

    fn item(&self, number: usize, is_diverse: bool) -> &'a Item {
        let number = if is_diverse { number / self.protocol.diversity.samples } else { number };
        &self.items[number % self.items.len()]
    }

    pub(super) fn class(&self, number: usize) -> i32 {
        self.item(number, false).class
    }

    /// Which caption of those for diversity a picture is of.
    pub(super) fn group(&self, number: usize) -> u64 {
        (number / self.protocol.diversity.samples) as u64
    }

    /// The words of the caption that a picture is generated for.
    pub(super) fn caption(&self, number: usize, is_diverse: bool) -> Vec<i32> {
        let of = &self.item(number, is_diverse).captions;
        let chosen = match self.protocol.generated.captions {
            _ if is_diverse => 0,
            CaptionChoice::First | CaptionChoice::OfAFolder => 0,
            CaptionChoice::DrawnInEachPass => {
                rng_for(self.protocol.seed, number as u64, RngStream::Captions).below(of.len())
            }
        };
        captions::fit_eval(&of[chosen], self.config.data.words_eval)
    }

    pub(super) fn request(&self, number: usize, is_diverse: bool) -> Request {
        let noise = if is_diverse { DIVERSE } else { 0 } + number as u64;
        let draw = Draw { seed: self.protocol.seed, number: noise, truncation: self.truncation };
        Request::words(self.caption(number, is_diverse), draw)
    }
}
