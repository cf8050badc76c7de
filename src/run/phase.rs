use crate::config::Config;

/// The stages, in the order in which each needs the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Damsm,
    Captioner,
    Gan,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Damsm => "damsm",
            Phase::Captioner => "stream",
            Phase::Gan => "gan",
        }
    }

    /// Samples in a batch, steps, and epochs where the steps are 0.
    pub fn length(self, config: &Config) -> (usize, u64, u64) {
        match self {
            Phase::Damsm => (config.damsm.batch, config.damsm.steps, config.damsm.epochs),
            Phase::Captioner => (config.stream.batch, config.stream.steps, config.stream.epochs),
            Phase::Gan => (config.train.batch, config.train.steps, config.train.epochs),
        }
    }

    /// The key of the batch size in a configuration.
    pub fn batch_key(self) -> &'static str {
        match self {
            Phase::Damsm => "damsm.batch",
            Phase::Captioner => "stream.batch",
            Phase::Gan => "train.batch",
        }
    }
}
