//! An evaluation of pictures that lie in a folder, whoever made them.

use std::path::{Path, PathBuf};

use super::metrics::Metrics;
use super::networks::wanted_logits;
use super::pictures::{Pictures, features, rows};
use super::score::Sets;
use super::statistics::RealSide;
use super::{Watch, leave_out_pairs, open_evaluator};
use crate::error::{Error, Result};
use crate::eval::protocol::{Conditions, Evaluation, Protocol};
use crate::run::RunFolder;

/// What pictures are compared with.
pub enum Real<'a> {
    Pictures {
        /// Where they lie.
        at: &'a Path,
        pictures: Pictures<'a>,
        /// What they are.
        name: String,
    },
    /// A file of mean and covariance.
    Statistics(&'a Path),
}

/// Pictures of a folder, and what they are compared with.
pub struct FolderJob<'a> {
    pub folder: &'a Path,
    pub files: &'a [PathBuf],
    pub real: Real<'a>,
    /// Of a folder.
    pub protocol: Protocol,
    pub metrics: Metrics,
    /// The evaluator's weights, where they are not looked for.
    pub weights: Option<&'a Path>,
    /// Whose encoder evaluates, where the protocol says so.
    pub run: Option<&'a RunFolder>,
    pub batch: usize,
}

/// Evaluates pictures of a folder. None where `watch` ended it: then nothing is kept.
///
/// # Errors
/// As [`super::evaluate`].
pub fn evaluate_folder(job: FolderJob, watch: &mut dyn Watch) -> Result<Option<Evaluation>> {
    let FolderJob { mut protocol, mut metrics, batch, .. } = job;
    let evaluator = open_evaluator(&protocol, job.weights, job.run)?;
    evaluator.warning().iter().for_each(|warning| watch.note(&format!("warning: {warning}")));
    let (real, statistics, data) = match &job.real {
        Real::Statistics(file) => {
            leave_out_pairs(&mut metrics, watch)?;
            (
                None,
                Some(RealSide::read(file, &protocol, &evaluator)?),
                "the pictures of the statistics".into(),
            )
        }
        Real::Pictures { pictures, name, .. } => {
            let real = features(pictures, &evaluator, batch, None, "real", watch)?;
            if real.is_none() {
                return Ok(None);
            }
            (real, None, name.clone())
        }
    };
    protocol.real = statistics.as_ref().and_then(RealSide::real).unwrap_or(protocol.real);
    let logits = wanted_logits(&protocol, &metrics);
    let given = Pictures::Files(job.files);
    let Some(generated) = rows(&given, &evaluator, logits, batch, None, "generated", watch)? else {
        return Ok(None);
    };
    require_two(&job.real, job.folder, [generated.len(), real.as_ref().map_or(2, |real| real.len())])?;
    let conditions = Conditions {
        data,
        real_images: real.as_ref().map(|real| real.len()).or(statistics.as_ref().and_then(RealSide::images)),
        statistics: statistics.as_ref().map(RealSide::describe),
        images: generated.len(),
        side: 0,
        checkpoint: job.folder.display().to_string(),
        step: 0,
        weights: evaluator.weights().clone(),
        encoder: None,
        captioner: None,
        truncation: None,
    };
    let mut evaluation = Evaluation::new(protocol.clone(), conditions);
    let sets = Sets {
        protocol: &protocol,
        plan: None,
        real,
        statistics,
        generated,
        diverse: None,
        own_codes: false,
    };
    sets.score(&mut evaluation, &metrics, watch)?;
    Ok(Some(evaluation))
}

/// That there are two pictures at least, generated and real.
fn require_two(real: &Real, folder: &Path, counts: [usize; 2]) -> Result<()> {
    let Some(side) = counts.iter().position(|&count| count < 2) else { return Ok(()) };
    let (which, at) = match real {
        Real::Pictures { at, .. } if side == 1 => ("real", *at),
        _ => ("generated", folder),
    };
    let why = format!("1 {which} picture that can be used; an evaluation needs 2 at least");
    Err(Error::data(at, why))
}
