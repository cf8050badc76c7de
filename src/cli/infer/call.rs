//! What `captions.jsonl`, the images' text chunks and the sheets say of a call.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::engine::tensor::Precision;
use crate::infer::Sampler;
use crate::infer::frozen::RAW_GENERATOR;
use crate::run::RunFolder;

/// What all samples of a call have in common.
pub(super) struct Call {
    run: PathBuf,
    checkpoint: String,
    weights: &'static str,
    precision: &'static str,
}

impl Call {
    pub(super) fn new(run: &RunFolder, sampler: &Sampler, precision: Precision) -> Call {
        Call {
            run: run.root().to_path_buf(),
            checkpoint: sampler.checkpoint.clone(),
            weights: sampler.weights,
            precision: precision.name(),
        }
    }

    /// The folder of the generator's checkpoint.
    pub(super) fn checkpoint_folder(&self) -> PathBuf {
        self.run.join(&self.checkpoint)
    }

    /// Adds itself to what is recorded.
    pub(super) fn complete(&self, about: &mut Value) {
        about["run"] = json!(self.run.to_string_lossy());
        about["checkpoint"] = json!(self.checkpoint);
        about["weights"] = json!(self.weights);
        about["precision"] = json!(self.precision);
        about["engine"] = json!(env!("CARGO_PKG_VERSION"));
    }

    /// The remark below a sheet's title: `name` of the sample, the weights, truncation.
    pub(super) fn remark(&self, name: &str, truncation: Option<f32>) -> String {
        let mut parts = vec![
            name.to_string(),
            format!(
                "{}, {} weights",
                self.checkpoint,
                if self.weights == RAW_GENERATOR { "raw" } else { "averaged" }
            ),
        ];
        parts.extend(truncation.map(|t| format!("truncation {t}")));
        parts.retain(|part| !part.is_empty());
        parts.join("   ·   ")
    }
}
