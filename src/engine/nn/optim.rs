//! Adam over a store's parameters, with averaged weights and clipping by the global norm.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::archive::{Archive, Array};
use super::store::Param;
use crate::engine::ops::optim::{self, AdamStep, adam, squared_norm};
use crate::engine::tensor::{Device, Grads, Key, Tensor, backward, backward_each, no_grad};
use crate::error::{Error, Result};

/// Kingma and Ba, "Adam: a method for stochastic optimization", 2015.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of the squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

pub struct Adam {
    config: AdamConfig,
    steps: u64,
    params: Vec<AdamParam>,
    averaging: Option<Averaging>,
}

/// A parameter, the moments of its gradient, and its average.
struct AdamParam {
    param: Param,
    m: Tensor,
    v: Tensor,
    average: Option<Tensor>,
}

struct Averaging {
    decay: f64,
    /// The network has the averages, and `AdamParam::average` the trained weights.
    swapped: bool,
}

impl Adam {
    pub fn new(params: Vec<Param>, config: AdamConfig) -> Adam {
        let state = |param: Param| {
            let zeros = || Tensor::zeros(param.tensor().shape());
            AdamParam { m: zeros(), v: zeros(), average: None, param }
        };
        Adam { config, steps: 0, params: params.into_iter().map(state).collect(), averaging: None }
    }

    /// Also keeps an average of every weight: average ← decay · average + (1 - decay) · weight after each step.
    pub fn averaging(mut self, decay: f64) -> Adam {
        self.params.iter_mut().for_each(|s| s.average = Some(s.param.tensor().detach()));
        self.averaging = Some(Averaging { decay, swapped: false });
        self
    }

    pub fn lr(&self) -> f64 {
        self.config.lr
    }

    pub fn set_lr(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameters as targets of a backward pass that serves several optimizers. Drop them before [`Adam::step`]:
    /// it would have to copy every parameter whose storage is shared.
    pub fn targets(&self) -> Vec<Tensor> {
        self.params.iter().map(|s| s.param.tensor()).collect()
    }

    /// Backward from `loss`, and a step.
    ///
    /// On the CPU each parameter changes as soon as its gradient is complete, so that gradients need not lie beside each other; a
    /// GPU changes all in one launch.
    #[track_caller]
    pub fn minimize(&mut self, loss: &Tensor) {
        self.descend(loss, false);
    }

    /// [`minimize`](Adam::minimize); returns the global norm of the gradients.
    #[track_caller]
    pub fn minimize_with_norm(&mut self, loss: &Tensor) -> f32 {
        self.descend(loss, true).unwrap_or(0.0)
    }

    #[track_caller]
    fn descend(&mut self, loss: &Tensor, norm: bool) -> Option<f32> {
        if loss.device() != Device::Cpu {
            let mut grads = self.gradients(loss);
            let norm = norm.then(|| self.norm(&grads));
            self.step(&mut grads);
            return norm;
        }
        let at = self.begin_step(1.0);
        // Without the tensors themselves, whose storage must not be shared when it changes.
        let index = |(i, s): (usize, &AdamParam)| Some((s.param.tensor().key()?, i));
        let places: HashMap<Key, usize> = self.params.iter().enumerate().filter_map(index).collect();
        let mut squares = vec![None; self.params.len()];
        backward_each(loss, places.keys().copied(), |key, gradient| {
            let i = places[&key];
            squares[i] = Some(if norm { squared_norm(&[&gradient]) } else { 0.0 });
            step_of(&mut self.params[i..=i], &[Some(gradient)], &at);
        });
        // The averages of those without a gradient.
        for (param, _) in self.params.iter_mut().zip(&squares).filter(|(_, squares)| squares.is_none()) {
            step_of(std::slice::from_mut(param), &[None], &at);
        }
        norm.then(|| squares.iter().flatten().sum::<f64>().sqrt() as f32)
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

    /// Clips the gradients to a global norm of `max_norm`, then takes a step; returns the norm before clipping.
    pub fn step_clipped(&mut self, grads: &mut Grads, max_norm: f32) -> f32 {
        let norm = self.norm(grads);
        self.step_by(grads, (max_norm / (norm + 1e-6)).min(1.0));
        norm
    }

    /// The global norm of the gradients.
    pub fn norm(&self, grads: &Grads) -> f32 {
        let found: Vec<&Tensor> = self.params.iter().filter_map(|s| grads.get(&s.param.tensor())).collect();
        squared_norm(&found).sqrt() as f32
    }

    fn step_by(&mut self, grads: &mut Grads, factor: f32) {
        let at = self.begin_step(factor);
        let gradients: Vec<_> = self.params.iter().map(|s| grads.take(&s.param.tensor())).collect();
        step_of(&mut self.params, &gradients, &at);
    }

    /// Counts a step, and returns its constants.
    fn begin_step(&mut self, factor: f32) -> AdamStep {
        let swapped = self.averaging.as_ref().is_some_and(|a| a.swapped);
        assert!(!swapped, "the network has the averaged weights: swap them back before a step");
        self.steps += 1;
        let AdamConfig { lr, beta1, beta2, epsilon: eps } = self.config;
        let decay = self.averaging.as_ref().map_or(0.0, |a| a.decay);
        AdamStep { lr, beta1, beta2, eps, step: self.steps, factor, decay }
    }

    /// Swaps the weights of the network with their averages, for sampling; a second call swaps them back.
    pub fn swap_averages(&mut self) {
        let Some(averaging) = &mut self.averaging else { return };
        averaging.swapped = !averaging.swapped;
        for AdamParam { param, average, .. } in &mut self.params {
            let Some(average) = average else { continue };
            let weight = param.tensor().detach();
            param.update(|p| p.assign(average));
            *average = weight;
        }
    }

    /// Moments, averages and step count: what a resumed run needs besides the weights, which the store saves. Each is
    /// in the layout of the weight that it belongs to.
    pub fn archive(&self) -> Archive {
        let swapped = self.averaging.as_ref().is_some_and(|a| a.swapped);
        assert!(!swapped, "the network has the averaged weights: swap them back before saving");
        let mut archive = Archive::default();
        archive.insert("steps", Array::count(self.steps));
        self.state().for_each(|(name, param, tensor)| archive.insert(name, param.published(tensor)));
        archive
    }

    /// Restores what [`Adam::archive`] gave; changes nothing where names or shapes do not fit, or where a number is not
    /// finite. The learning rate is not part of it.
    pub fn load(&mut self, mut archive: Archive) -> Result<()> {
        archive.require_finite()?;
        // Versions before 0.3.0 wrote no metadata, and the layout of memory.
        let as_in_memory = archive.metadata("format").is_none() && !archive.file().as_os_str().is_empty();
        let steps = archive.take("steps");
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        if steps.is_none() {
            missing.push("steps".to_owned());
        }
        for (name, param, tensor) in self.state() {
            let shape = if as_in_memory { tensor.shape().to_vec() } else { param.published_shape() };
            match archive.take(&name).filter(|a| a.shape == shape) {
                Some(array) if as_in_memory => found.push(array.tensor()),
                Some(array) => found.push(param.tensor_of_published(array.to_f32())),
                None => missing.push(format!("{name} {shape:?}")),
            }
        }
        let unexpected: Vec<String> = archive.names().map(str::to_owned).collect();
        let (Some(steps), true, true) = (steps, missing.is_empty(), unexpected.is_empty()) else {
            let file = archive.file().to_owned();
            return Err(Error::Weights { file, missing, unexpected, misshaped: Vec::new() });
        };
        self.steps = steps.to_i64().first().copied().unwrap_or(0).max(0) as u64;
        self.state_mut().zip(found).for_each(|(tensor, value)| *tensor = value);
        Ok(())
    }

    /// Moments and averages with their names and their parameters.
    fn state(&self) -> impl Iterator<Item = (String, &Param, &Tensor)> {
        self.params.iter().flat_map(|AdamParam { param, m, v, average }| {
            let kinds = [("m", Some(m)), ("v", Some(v)), ("average", average.as_ref())];
            kinds
                .into_iter()
                .filter_map(move |(kind, t)| Some((format!("{kind}/{}", param.name()), param, t?)))
        })
    }

    /// The same tensors in the same order.
    fn state_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.params.iter_mut().flat_map(|AdamParam { m, v, average, .. }| {
            [Some(m), Some(v), average.as_mut()].into_iter().flatten()
        })
    }
}

/// A step of parameters by their gradients.
fn step_of(params: &mut [AdamParam], gradients: &[Option<Tensor>], at: &AdamStep) {
    let (mut weights, mut states) = (Vec::with_capacity(params.len()), Vec::with_capacity(params.len()));
    for AdamParam { param, m, v, average } in params {
        weights.push(param.write());
        states.push((m, v, average.as_mut()));
    }
    let slots = weights.iter_mut().zip(gradients).zip(states);
    let slots = slots.map(|((p, g), (m, v, average))| optim::Slot { p, g: g.as_ref(), m, v, average });
    no_grad(|| adam(slots.collect(), at));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::nn::{Initializer, Source, Store};
    use crate::engine::ops::pointwise::mul;
    use crate::engine::ops::reduce::sum;
    use crate::engine::tensor::Rng;

    fn weight(seed: u64) -> (Param, Adam) {
        let rng = Rng::new(seed, 0);
        let make = |scope: &crate::engine::nn::Scope| scope.param("w", &[5], 1, Initializer::Uniform(1.0));
        let (param, store) = Store::build(Source::Init(rng), make).unwrap();
        let config = AdamConfig { lr: 0.1, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
        (param, Adam::new(store.params(), config).averaging(0.9))
    }

    fn descend(param: &Param, adam: &mut Adam, steps: usize) {
        for _ in 0..steps {
            let w = param.tensor();
            let loss = sum(&mul(&w, &w));
            drop(w);
            adam.minimize(&loss);
        }
    }

    #[test]
    fn a_restored_state_continues_bit_for_bit() {
        let (param, mut adam) = weight(1);
        descend(&param, &mut adam, 3);
        let (other, mut resumed) = weight(2);
        other.update(|w| w.assign(&param.tensor()));
        resumed.load(adam.archive()).unwrap();
        descend(&param, &mut adam, 4);
        descend(&other, &mut resumed, 4);
        assert_eq!(param.tensor().to_vec(), other.tensor().to_vec());
        adam.swap_averages();
        resumed.swap_averages();
        assert_eq!(param.tensor().to_vec(), other.tensor().to_vec());
    }

    /// Files of versions before 0.3.0 have filters as they lie in memory.
    #[test]
    fn the_state_is_in_the_layout_of_the_weights_now_and_before() {
        let make =
            |scope: &crate::engine::nn::Scope| scope.filter("w", [2, 3, 3, 3], Initializer::Uniform(1.0));
        let build = |seed| Store::build(Source::Init(Rng::new(seed, 0)), make).unwrap();
        let config = AdamConfig { lr: 0.1, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
        let (param, store) = build(1);
        let mut adam = Adam::new(store.params(), config);
        descend(&param, &mut adam, 2);
        let (published, memory) = (adam.archive().get("m/w").unwrap().to_f32(), adam.params[0].m.to_vec());
        assert_ne!(published, memory);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        adam.archive().write(&path).unwrap();
        let (_, store) = build(2);
        let mut now = Adam::new(store.params(), config);
        now.load(Archive::read(&path).unwrap()).unwrap();
        assert_eq!(now.params[0].m.to_vec(), memory);

        let views = adam.params.iter().flat_map(|p| [("m/w", Array::from(&p.m)), ("v/w", Array::from(&p.v))]);
        let mut old = Archive::default();
        views.for_each(|(name, array)| old.insert(name, array));
        old.insert("steps", Array::count(2));
        old.write_without_metadata(&path);
        let mut before = Adam::new(store.params(), config);
        before.load(Archive::read(&path).unwrap()).unwrap();
        assert_eq!(before.params[0].m.to_vec(), memory);
    }

    /// One parameter is used twice, one lies in between, one not at all.
    #[test]
    fn a_step_while_gradients_come_gives_the_bits_of_one_after_them() {
        let run = |at_once: bool| {
            let make = |scope: &crate::engine::nn::Scope| {
                ["a", "b", "c"].map(|name| scope.param(name, &[5], 1, Initializer::Uniform(1.0)))
            };
            let (params, store) = Store::build(Source::Init(Rng::new(7, 0)), make).unwrap();
            let config = AdamConfig { lr: 0.1, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
            let mut adam = Adam::new(store.params(), config).averaging(0.9);
            let places = |params: &[Param; 3]| params.each_ref().map(|p| p.tensor().as_slice().as_ptr());
            let (mut lie, mut norms) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                let loss = {
                    let [a, b, _] = params.each_ref().map(Param::tensor);
                    sum(&mul(&mul(&a, &mul(&b, &a)), &a))
                };
                norms.push(if at_once {
                    adam.minimize_with_norm(&loss)
                } else {
                    let mut grads = adam.gradients(&loss);
                    let norm = adam.norm(&grads);
                    adam.step(&mut grads);
                    norm
                });
                lie.push(places(&params));
            }
            // In the first step the averages still are the parameters.
            assert_eq!(lie[2], lie[0], "parameters change where they lie");
            let state: Vec<Vec<f32>> = adam.state().map(|(_, _, tensor)| tensor.to_vec()).collect();
            (params.map(|p| p.tensor().to_vec()), state, norms)
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn averages_are_swapped_in_and_back() {
        let (param, mut adam) = weight(1);
        descend(&param, &mut adam, 3);
        let trained = param.tensor().to_vec();
        adam.swap_averages();
        assert_ne!(param.tensor().to_vec(), trained);
        adam.swap_averages();
        assert_eq!(param.tensor().to_vec(), trained);
    }

    #[test]
    fn clipping_bounds_the_norm_over_all_parameters() {
        let (param, mut adam) = weight(1);
        let w = param.tensor();
        let expected = 2.0 * w.as_slice().iter().map(|x| x * x).sum::<f32>().sqrt();
        let loss = sum(&mul(&w, &w));
        let mut grads = adam.gradients(&loss);
        let norm = adam.step_clipped(&mut grads, 0.25);
        assert!((norm - expected).abs() < 1e-5);
        // m after the first step is (1 - beta1) times the clipped gradient.
        let m = adam.archive().take("m/w").unwrap().to_f32();
        let found = m.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((found - 0.5 * 0.25).abs() < 1e-5, "{found}");
    }
}
