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
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
}

fn default_epsilon() -> f64 {
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
    decay: f64,
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
    pub fn averaging(mut self, decay: f64) -> Adam {
        self.slots.iter_mut().for_each(|s| s.average = Some(s.param.tensor().detach()));
        self.averaging = Some(Averaging { decay, swapped: false });
        self
    }

    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    pub fn set_learning_rate(&mut self, learning_rate: f64) {
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
        self.state().for_each(|(name, tensor)| archive.insert(name, Array::from(tensor)));
        archive
    }

    /// Goes on from what [`Adam::archive`] gave; changes nothing where that does not fit. The learning rate is the
    /// schedule's to set.
    pub fn load(&mut self, mut archive: Archive) -> Result<()> {
        let steps = archive.take("steps");
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        if steps.is_none() {
            missing.push("steps".to_owned());
        }
        for (name, tensor) in self.state() {
            match archive.take(&name).filter(|a| a.shape == *tensor.shape()) {
                Some(array) => found.push(array.tensor()),
                None => missing.push(format!("{name} {:?}", tensor.shape())),
            }
        }
        let unexpected: Vec<String> = archive.names().map(str::to_owned).collect();
        let (Some(steps), true, true) = (steps, missing.is_empty(), unexpected.is_empty()) else {
            let file = archive.file().to_owned();
            return Err(Error::Weights { file, missing, unexpected, misshaped: Vec::new() });
        };
        self.steps = steps.to_i64()[0] as u64;
        self.state_mut().zip(found).for_each(|(tensor, value)| *tensor = value);
        Ok(())
    }

    /// Moments and averages with their names.
    fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.slots.iter().flat_map(|Slot { param, m, v, average }| {
            let kinds = [("m", Some(m)), ("v", Some(v)), ("average", average.as_ref())];
            kinds.into_iter().filter_map(|(kind, t)| Some((format!("{kind}/{}", param.name()), t?)))
        })
    }

    /// The same in the same order, to be changed.
    fn state_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.slots
            .iter_mut()
            .flat_map(|Slot { m, v, average, .. }| [Some(m), Some(v), average.as_mut()].into_iter().flatten())
    }
}
