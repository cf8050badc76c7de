//! An evaluation of a run: pictures are generated in batches, go through the networks that evaluate them and are dropped; what
//! stays is a row of numbers for each.

mod folder;
mod metrics;
mod networks;
mod pictures;
mod plan;
mod score;
mod statistics;
mod table;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use self::networks::Networks;
use self::plan::Plan;
use self::score::Sets;
use self::table::Table;
use crate::data::{Dataset, Fingerprint, save_png};
use crate::engine::tensor::current_device;
use crate::error::{Error, Result};
use crate::eval::protocol::{Conditions, Evaluation, Protocol, revision};
use crate::infer::Sampler;
use crate::infer::evaluator::UsedWeights;
use crate::infer::frozen::{RAW_GENERATOR, TEXT_ENCODER, weight_file};
use crate::render::pictures as pictures_of_tensor;
use crate::run::{Checkpoints, Phase, RunFolder};

pub use self::folder::{FolderJob, Real, evaluate_folder};
pub use self::metrics::{MetricName, Metrics};
pub use self::networks::open_evaluator;
pub use self::pictures::{Pictures, features, pictures_of, real_items};
pub use self::statistics::{RealSide, Source};

/// Follows an evaluation.
pub trait Watch {
    /// Work of `total` pictures begins, `done` of which an earlier call did.
    fn begin(&mut self, what: &str, total: usize, done: usize);
    /// Whether to go on.
    fn done(&mut self, done: usize) -> bool;
    fn end(&mut self);
    fn note(&mut self, line: &str);
}

/// What is evaluated, and how.
pub struct Job<'a> {
    pub run: &'a RunFolder,
    pub sampler: &'a Sampler,
    pub dataset: &'a Dataset,
    /// The name of the data set.
    pub data: String,
    /// With the number of images and the seed that are wanted.
    pub protocol: Protocol,
    pub metrics: Metrics,
    /// The evaluator's weights, where they are not looked for.
    pub weights: Option<PathBuf>,
    /// The statistics of the real side.
    pub real: Option<PathBuf>,
    pub truncation: Option<f32>,
    /// Captions that a picture chooses from, where the protocol's number is not to be taken.
    pub candidates: Option<usize>,
    /// Where pictures are kept.
    pub keep: Option<PathBuf>,
    pub batch: usize,
    /// The folder in which an interrupted evaluation is kept.
    pub place: PathBuf,
}

/// Evaluates a run. None where `watch` ended it: the same job goes on from there, and gives the figures of an uninterrupted one.
///
/// # Errors
/// `Config` for metrics that cannot be computed of what is there; `Data` for data and weights that do not fit; `Features` and
/// `Metric` where numbers are none or too few.
pub fn evaluate(job: Job, watch: &mut dyn Watch) -> Result<Option<Evaluation>> {
    let Job { run, sampler, dataset, data, mut protocol, mut metrics, .. } = job;
    let (items, note) = real_items(dataset, &mut protocol)?;
    note.iter().for_each(|note| watch.note(note));
    let mut plan = Plan::new(items, &sampler.config, protocol, job.truncation)?;
    for note in plan.fit(&mut metrics, job.candidates)? {
        watch.note(&note);
    }
    let networks = Networks::open(run, sampler, &plan.protocol, &mut metrics, job.weights.as_deref(), watch)?;
    let read = |file: &Path| RealSide::read(file, &plan.protocol, &networks.evaluator);
    let statistics = job.real.as_deref().map(read).transpose()?;
    if statistics.is_some() {
        leave_out_pairs(&mut metrics, watch)?;
    }
    let conditions = conditions(named(&data, dataset), sampler, &plan, &networks, job.truncation);
    let hash = identity(&job.keep, run, sampler, &plan.protocol, &conditions)?;
    let folder = job.place.join(format!(".partial-{}", &hash[..16]));
    let (batch, root) = (job.batch, run.root());
    let work = Work { plan: &plan, networks: &networks, sampler, batch, folder: &folder, run: root };

    let compares = metrics.names().iter().any(|metric| metric.compares()) && statistics.is_none();
    let real = match compares {
        false => None,
        true => features(&plan.real(), &networks.evaluator, batch, Some(&folder), "real", watch)?,
    };
    if compares && real.is_none() {
        return Ok(None);
    }
    let Some(generated) = work.generate("generated", plan.count(), job.keep.as_deref(), watch)? else {
        return Ok(None);
    };
    let wants_diverse = metrics.has(MetricName::Diversity);
    let diverse = match wants_diverse {
        false => None,
        true => work.generate("diversity", plan.diverse_count(), None, watch)?,
    };
    if wants_diverse && diverse.is_none() {
        return Ok(None);
    }
    let real_images = match (&real, &statistics) {
        (Some(real), _) => Some(real.len()),
        (None, Some(statistics)) => statistics.images(),
        (None, None) => Some(0),
    };
    let statistics_name = statistics.as_ref().map(RealSide::describe);
    let conditions = Conditions { real_images, statistics: statistics_name, ..conditions };
    let mut evaluation = Evaluation::new(plan.protocol.clone(), conditions);
    let own_codes = networks.codes_are_features();
    let protocol = &plan.protocol;
    let sets = Sets { protocol, plan: Some(&plan), real, statistics, generated, diverse, own_codes };
    sets.score(&mut evaluation, &metrics, watch)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    }
    Ok(Some(evaluation))
}

/// Statistics are no pairs of pictures.
fn leave_out_pairs(metrics: &mut Metrics, watch: &mut dyn Watch) -> Result<()> {
    for metric in [MetricName::Kid, MetricName::PrecisionRecall, MetricName::Mind] {
        if metrics.has(metric) {
            let why = "--real holds mean and covariance, which is enough for fid alone; leave --real out";
            watch.note(&metrics.leave_out(metric, why.to_string())?);
        }
    }
    Ok(())
}

/// What is known before the real side is.
fn conditions(
    data: String,
    sampler: &Sampler,
    plan: &Plan,
    networks: &Networks,
    truncation: Option<f32>,
) -> Conditions {
    Conditions {
        data,
        real_images: Some(0),
        statistics: None,
        images: plan.count(),
        side: sampler.config.largest_side(),
        checkpoint: match sampler.weights {
            RAW_GENERATOR => format!("{}, raw weights", sampler.checkpoint),
            _ => sampler.checkpoint.clone(),
        },
        step: step_of(&sampler.checkpoint),
        weights: networks.evaluator.weights().clone(),
        encoder: networks.encoder_weights(),
        captioner: networks.captioner_weights(),
        truncation,
    }
}

/// A data set's name, with what tells it from others.
pub fn named(name: &str, dataset: &Dataset) -> String {
    let Fingerprint { training_images, test_images, images, captions, .. } = Fingerprint::of(dataset);
    format!(
        "{name}, {training_images} training and {test_images} test pictures, fingerprint {images:08x}-{captions:08x}"
    )
}

fn step_of(checkpoint: &str) -> u64 {
    checkpoint.rsplit('-').next().and_then(|step| step.parse().ok()).unwrap_or(0)
}

/// A hash of all that rows of features depend on.
fn identity(
    keep: &Option<PathBuf>,
    run: &RunFolder,
    sampler: &Sampler,
    protocol: &Protocol,
    conditions: &Conditions,
) -> Result<String> {
    let generator = weight_file(&run.root().join(&sampler.checkpoint), sampler.weights);
    let damsm = Checkpoints::of(run.root(), Phase::Damsm).latest()?;
    let text = damsm
        .map(|damsm| UsedWeights::of_checkpoint(&damsm, &[TEXT_ENCODER], sampler.config.damsm.backbone.kind));
    let all = (
        revision(),
        current_device().to_string(),
        crate::files::Origin::read(&generator)?.sha256,
        text.transpose()?,
        protocol,
        conditions,
        keep,
    );
    let json = serde_json::to_vec(&all).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
    Ok(format!("{:x}", Sha256::digest(json)))
}

/// What generates, and looks at what was generated.
struct Work<'a> {
    plan: &'a Plan<'a>,
    networks: &'a Networks,
    sampler: &'a Sampler,
    batch: usize,
    folder: &'a Path,
    run: &'a Path,
}

impl Work<'_> {
    /// Generates the pictures of a part and looks at them; none where `watch` ended it.
    fn generate(
        &self,
        part: &'static str,
        total: usize,
        keep: Option<&Path>,
        watch: &mut dyn Watch,
    ) -> Result<Option<Table>> {
        let is_diverse = part == "diversity";
        let mut table = Table::open(Some(self.folder), part)?;
        if let Some(keep) = keep {
            std::fs::create_dir_all(keep).map_err(|e| Error::io(keep, e))?;
        }
        watch.begin(&format!("{part} pictures"), total, table.next());
        let requests = (table.next()..total).map(|number| self.plan.request(number, is_diverse));
        let whole = self.sampler.generate(requests, self.batch, |samples| {
            samples.require_finite(&self.run.join(&self.sampler.checkpoint))?;
            let pictures = pictures_of_tensor(samples.largest());
            let first = table.next();
            let captions: Vec<Vec<i32>> =
                (first..first + pictures.len()).map(|number| self.plan.caption(number, is_diverse)).collect();
            let rows = self.networks.rows(&pictures, samples, &captions, is_diverse)?;
            for ((number, row), picture) in (first..).zip(rows).zip(&pictures) {
                table.push(number, &row)?;
                if let Some(keep) = keep {
                    let path = keep.join(format!("{number:06}.png"));
                    save_png(path, picture.width, picture.height, &picture.pixels)?;
                }
            }
            table.save_if_due()?;
            Result::Ok(watch.done(table.next()))
        });
        watch.end();
        let whole = whole?;
        if !whole {
            table.save()?;
        }
        Ok(whole.then_some(table))
    }
}
