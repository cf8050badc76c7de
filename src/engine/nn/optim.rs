//! Adam over a store's parameters, with averaged weights and clipping by the global norm.

use serde::{Deserialize, Serialize};

use super::store::Param;
use super::weights::{Archive, Array};
use crate::engine::ops::optim::{AdamStep, adam, ema, squared_norm};
use crate::engine::ops::pointwise::scale;
use crate::engine::tensor::{Grads, Tensor, backward, no_grad};
use crate::error::{Error, Result};

/// Kingma and Ba, "Adam: a method for stochastic optimization", 2015.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    #[serde(default = "default_epsilon")]
    pub epsilon: f32,
}

fn default_epsilon() -> f32 {
    1e-8
}

pub struct Adam {
    config: AdamConfig,
    steps: u64,
    slots: Vec<Slot>,
    averaging: Option<Averaging>,
}

/// A parameter, the running moments of its gradient, and its average.
struct Slot {
    param: Param,
    m: Tensor,
    v: Tensor,
    average: Option<Tensor>,
}

struct Averaging {
    decay: f32,
    /// The averages stand in the network, and the trained values in their place.
    swapped: bool,
}

impl Adam {
    pub fn new(params: Vec<Param>, config: AdamConfig) -> Adam {
        let slot = |param: Param| {
            let zeros = || Tensor::zeros(param.tensor().shape());
            Slot { m: zeros(), v: zeros(), average: None, param }
        };
        Adam { config, steps: 0, slots: params.into_iter().map(slot).collect(), averaging: None }
    }

    /// Also keeps averages of the weights: average = decay average + (1 - decay) weight after each step.
    pub fn averaging(mut self, decay: f32) -> Adam {
        self.slots.iter_mut().for_each(|s| s.average = Some(s.param.tensor().detach()));
        self.averaging = Some(Averaging { decay, swapped: false });
        self
    }

    pub fn learning_rate(&self) -> f32 {
        self.config.learning_rate
    }

    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.config.learning_rate = learning_rate;
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The targets of a backward pass that serves several optimisers; drop them before [`Adam::step`], which
    /// otherwise has to copy what they share.
    pub fn targets(&self) -> Vec<Tensor> {
        self.slots.iter().map(|s| s.param.tensor()).collect()
    }

    /// One step down the gradient of `loss`.
    #[track_caller]
    pub fn minimise(&mut self, loss: &Tensor) {
        let mut grads = self.gradients(loss);
        self.step(&mut grads);
    }

    /// The gradients of `loss` with respect to these parameters.
    #[track_caller]
    pub fn gradients(&self, loss: &Tensor) -> Grads {
        backward(loss, &self.targets().iter().collect::<Vec<_>>())
    }

    /// Takes a step. A parameter that has no gradient stays as it is.
    pub fn step(&mut self, grads: &mut Grads) {
        self.step_by(grads, 1.0);
    }

    /// Takes a step with gradients of at most this norm, over all parameters together; returns the norm found.
    pub fn step_clipped(&mut self, grads: &mut Grads, max_norm: f32) -> f32 {
        let norm = self.norm(grads);
        self.step_by(grads, (max_norm / (norm + 1e-6)).min(1.0));
        norm
    }

    /// The norm of all gradients together.
    pub fn norm(&self, grads: &Grads) -> f32 {
        let squares = self.slots.iter().filter_map(|s| grads.get(&s.param.tensor())).map(squared_norm);
        squares.sum::<f64>().sqrt() as f32
    }

    fn step_by(&mut self, grads: &mut Grads, factor: f32) {
        let swapped = self.averaging.as_ref().is_some_and(|a| a.swapped);
        assert!(!swapped, "the averages stand in the network: swap them back before a step");
        self.steps += 1;
        let AdamConfig { learning_rate: lr, beta1, beta2, epsilon: eps } = self.config;
        let step = AdamStep { lr, beta1, beta2, eps, step: self.steps };
        let decay = self.averaging.as_ref().map(|a| a.decay);
        no_grad(|| {
            for Slot { param, m, v, average } in &mut self.slots {
                if let Some(g) = grads.take(&param.tensor()) {
                    let g = if factor < 1.0 { scale(&g, factor) } else { g };
                    param.update(|p| adam(p, &g, m, v, &step));
                }
                if let (Some(average), Some(decay)) = (average, decay) {
                    ema(average, &param.tensor(), decay);
                }
            }
        });
    }

    /// Exchanges the weights and their averages, for sampling; a second call exchanges them back.
    pub fn swap_averages(&mut self) {
        let Some(averaging) = &mut self.averaging else { return };
        averaging.swapped = !averaging.swapped;
        for Slot { param, average, .. } in &mut self.slots {
            let Some(average) = average else { continue };
            let weight = param.tensor().detach();
            param.update(|p| p.assign(average));
            *average = weight;
        }
    }

    /// All that a later run needs to go on as if it had never stopped; the weights are the store's to keep.
    pub fn archive(&self) -> Archive {
        let swapped = self.averaging.as_ref().is_some_and(|a| a.swapped);
        assert!(!swapped, "the averages stand in the network: swap them back before saving");
        let mut archive = Archive::default();
        archive.insert("steps", Array::count(self.steps));
        archive.insert("learning_rate", Array::f32(&[], vec![self.config.learning_rate]));
        for Slot { param, m, v, average } in &self.slots {
            archive.insert(format!("m/{}", param.name()), Array::from(m));
            archive.insert(format!("v/{}", param.name()), Array::from(v));
            if let Some(average) = average {
                archive.insert(format!("average/{}", param.name()), Array::from(average));
            }
        }
        archive
    }

    /// Goes on from what [`Adam::archive`] gave.
    pub fn load(&mut self, mut archive: Archive) -> Result<()> {
        let mut missing = Vec::new();
        let steps = take(&mut archive, "steps", &[], &mut missing);
        let learning_rate = take(&mut archive, "learning_rate", &[], &mut missing);
        for Slot { param, m, v, average } in &mut self.slots {
            let slots = [("m", Some(m)), ("v", Some(v)), ("average", average.as_mut())];
            for (kind, tensor) in slots.into_iter().filter_map(|(kind, t)| Some((kind, t?))) {
                let name = format!("{kind}/{}", param.name());
                if let Some(array) = take(&mut archive, &name, &tensor.shape(), &mut missing) {
                    *tensor = array.tensor();
                }
            }
        }
        let unexpected: Vec<String> = archive.names().map(str::to_owned).collect();
        let (Some(steps), Some(learning_rate), true) = (steps, learning_rate, unexpected.is_empty()) else {
            return Err(misfit(&archive, missing, unexpected));
        };
        if !missing.is_empty() {
            return Err(misfit(&archive, missing, unexpected));
        }
        self.steps = steps.to_i64()[0] as u64;
        self.config.learning_rate = learning_rate.to_f32()[0];
        Ok(())
    }
}

/// The array of that name, if it has that shape; else the name is noted.
fn take(archive: &mut Archive, name: &str, shape: &[usize], missing: &mut Vec<String>) -> Option<Array> {
    let array = archive.take(name).filter(|a| a.shape == shape);
    if array.is_none() {
        missing.push(format!("{name} {shape:?}"));
    }
    array
}

fn misfit(archive: &Archive, missing: Vec<String>, unexpected: Vec<String>) -> Error {
    Error::Weights { file: archive.file().to_owned(), missing, unexpected, misshaped: Vec::new() }
}
