//! Named parameters. A network has one constructor; the [`Source`] that its store is built from decides whether that
//! constructor initializes the parameters, loads them or fills them by a formula.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};

use super::archive::{Archive, Array, Values};
use super::init::{Initializer, Policy};
use crate::engine::device::range::{Open, enter};
use crate::engine::tensor::{Rng, Tensor};
use crate::error::{Error, Result};

/// Gives the values of a parameter by its name and its shape in PyTorch.
pub type Fill = Box<dyn Fn(&str, &[usize]) -> Vec<f32> + Send>;

/// Where the values of a network's parameters come from.
pub enum Source {
    Init(Rng),
    Archive(Archive),
    Fill(Fill),
    /// None: the names and shapes alone count.
    Shapes,
}

/// How a parameter's layout in a file differs from that in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileLayout {
    Same,
    /// [Cout,R,S,Cin] in memory, [Cout,Cin,R,S] in a file.
    Filter,
    /// [C,R,S] in memory, [C,1,R,S] in a file.
    Depthwise,
    /// One float in memory, one integer in a file.
    Count,
}

/// A handle on a named tensor of a network.
#[derive(Clone)]
pub struct Param(Arc<Entry>);

struct Entry {
    name: String,
    layout: FileLayout,
    trainable: AtomicBool,
    /// An operator that throws while this is locked poisons the lock, but leaves a whole tensor.
    value: RwLock<Tensor>,
}

impl Param {
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Opens a profiler range under the layer's name, which is this parameter's name without its last part.
    pub(super) fn enter(&self) -> Open {
        enter(self.name().rsplit_once('.').map_or("", |(layer, _)| layer).to_owned())
    }

    /// The current value; a leaf if the parameter is trained.
    pub fn tensor(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Changes the value in place.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> R) -> R {
        f(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The value for an optimizer, which changes several at once.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Tensor> {
        self.0.value.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files from before PyTorch 0.4.1 have no num_batches_tracked.
    fn is_counter(&self) -> bool {
        self.0.layout == FileLayout::Count
    }

    fn freeze(&self) {
        self.0.trainable.store(false, Ordering::Relaxed);
        self.update(|value| *value = value.detach());
    }

    /// The shape in a weight file.
    pub(super) fn published_shape(&self) -> Vec<usize> {
        let shape = self.0.value.read().unwrap_or_else(PoisonError::into_inner).shape();
        match (self.0.layout, &*shape) {
            (FileLayout::Filter, &[o, r, s, i]) => vec![o, i, r, s],
            (FileLayout::Depthwise, &[c, r, s]) => vec![c, 1, r, s],
            (_, dims) => dims.to_vec(),
        }
    }

    /// A tensor of this parameter's shape (its value, its gradient) in the layout of a weight file.
    #[track_caller]
    pub fn published(&self, tensor: &Tensor) -> Array {
        match self.0.layout {
            FileLayout::Same => Array::from(tensor),
            FileLayout::Depthwise => {
                let [c, r, s] = tensor.dims();
                Array::f32(&[c, 1, r, s], tensor.to_vec())
            }
            FileLayout::Count => Array::count(tensor.item() as u64),
            FileLayout::Filter => {
                let [o, r, s, i] = tensor.dims();
                Array::f32(&[o, i, r, s], swap_last_two(&tensor.to_vec(), r * s, i))
            }
        }
    }

    /// Sets the value from one in the layout of a weight file.
    fn set_published(&self, values: Vec<f32>) {
        let value = self.tensor_of_published(values);
        self.update(|old| old.assign(&value));
    }

    /// A tensor of this parameter's shape from values in the layout of a weight file.
    pub(super) fn tensor_of_published(&self, values: Vec<f32>) -> Tensor {
        let shape = self.0.value.read().unwrap_or_else(PoisonError::into_inner).shape();
        let values = match (self.0.layout, &*shape) {
            (FileLayout::Filter, &[_, r, s, i]) => swap_last_two(&values, i, r * s),
            _ => values,
        };
        Tensor::from_vec(values, shape)
    }
}

/// [n,a,b] -> [n,b,a]
fn swap_last_two(values: &[f32], a: usize, b: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for matrix in values.chunks(a * b) {
        out.extend((0..a * b).map(|i| matrix[i % a * b + i / a]));
    }
    out
}

/// The parameters and buffers of a network, in the order of its construction.
pub struct Store {
    entries: Vec<Param>,
}

impl Store {
    /// Builds a network with values from `source`.
    ///
    /// # Errors
    /// `Weights` with all names that are missing, unexpected or of another shape.
    pub fn build<N>(source: Source, network: impl FnOnce(&Scope) -> N) -> Result<(N, Store)> {
        let builder = Builder { source: Mutex::new(source), entries: Mutex::default() };
        let scope =
            Scope { builder: &builder, prefix: String::new(), policy: Policy::default(), frozen: false };
        let network = network(&scope);
        let store = Store { entries: builder.entries.into_inner().unwrap_or_else(PoisonError::into_inner) };
        if let Source::Archive(archive) = builder.source.into_inner().unwrap_or_else(PoisonError::into_inner)
        {
            store.load(archive)?;
        }
        Ok((network, store))
    }

    /// Parameters and buffers.
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    /// The parameters that are trained.
    pub fn params(&self) -> Vec<Param> {
        self.entries.iter().filter(|p| p.is_trainable()).cloned().collect()
    }

    /// How many numbers are trained.
    pub fn parameter_count(&self) -> usize {
        self.params().iter().map(|p| p.tensor().len()).sum()
    }

    /// Ends training of these parameters: operators on them are no longer recorded for their sake.
    pub fn freeze(&self) {
        self.entries.iter().for_each(Param::freeze);
    }

    /// The current values under the published names, in the published layouts.
    pub fn archive(&self) -> Archive {
        let mut archive = Archive::default();
        for param in &self.entries {
            archive.insert(param.name(), param.published(&param.tensor()));
        }
        archive
    }

    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.archive().write(path)
    }

    /// Compares names and shapes with those of an archive.
    ///
    /// # Errors
    /// `Weights` with all names that are missing, unexpected or of another shape.
    pub fn require_fit(&self, archive: &Archive) -> Result<()> {
        let (mut missing, mut misshaped) = (Vec::new(), Vec::new());
        let mut unexpected: BTreeSet<&str> = archive.names().collect();
        for param in &self.entries {
            let wanted = param.published_shape();
            unexpected.remove(param.name());
            match archive.get(param.name()) {
                Some(array) if array.shape == wanted => {}
                Some(array) => {
                    misshaped.push(format!("{} is {:?}, wanted {wanted:?}", param.name(), array.shape))
                }
                None if param.is_counter() => {}
                None => missing.push(param.name().to_owned()),
            }
        }
        if missing.is_empty() && unexpected.is_empty() && misshaped.is_empty() {
            return Ok(());
        }
        let unexpected = unexpected.into_iter().map(str::to_owned).collect();
        Err(Error::Weights { file: archive.file().to_owned(), missing, unexpected, misshaped })
    }

    /// Adds the counters that an archive lacks.
    pub fn add_counters(&self, archive: &mut Archive) {
        for param in self.entries.iter().filter(|param| param.is_counter()) {
            if archive.get(param.name()).is_none() {
                archive.insert(param.name(), Array::count(0));
            }
        }
    }

    /// Loads all values from an archive that fits exactly and holds finite numbers; changes nothing if it does not.
    pub fn load(&self, mut archive: Archive) -> Result<()> {
        archive.require_finite()?;
        self.require_fit(&archive)?;
        for param in &self.entries {
            if let Some(array) = archive.take(param.name()) {
                param.set_published(into_f32(array));
            }
        }
        Ok(())
    }
}

fn into_f32(array: Array) -> Vec<f32> {
    match array.values {
        Values::F32(values) => values,
        Values::I64(_) => array.to_f32(),
    }
}

/// A store under construction.
struct Builder {
    source: Mutex<Source>,
    entries: Mutex<Vec<Param>>,
}

impl Builder {
    fn add(
        &self,
        name: String,
        layout: FileLayout,
        trainable: bool,
        published: &[usize],
        init: Draw,
    ) -> Param {
        let shape: Vec<usize> = match (layout, published) {
            (FileLayout::Filter, &[o, i, r, s]) => vec![o, r, s, i],
            (FileLayout::Depthwise, &[c, _, r, s]) => vec![c, r, s],
            _ => published.to_vec(),
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(entries.iter().all(|p| p.name() != name), "two parameters are called '{name}'");
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match *source {
            Source::Shapes => Tensor::uninit(shape.as_slice()),
            _ => Tensor::zeros(shape.as_slice()),
        };
        let value = if trainable { value.leaf() } else { value };
        let entry = Entry { name, layout, trainable: AtomicBool::new(trainable), value: RwLock::new(value) };
        let param = Param(Arc::new(entry));
        match &mut *source {
            Source::Init(rng) => param.set_published(init.how.draw(published, init.fan_in, rng)),
            Source::Fill(fill) => param.set_published(fill(param.name(), published)),
            Source::Archive(_) | Source::Shapes => {}
        }
        entries.push(param.clone());
        param
    }
}

struct Draw {
    how: Initializer,
    fan_in: usize,
}

/// A prefix of names in a store under construction, and the initial values there.
#[derive(Clone)]
pub struct Scope<'a> {
    builder: &'a Builder,
    prefix: String,
    policy: Policy,
    frozen: bool,
}

impl Scope<'_> {
    /// The scope one name deeper.
    pub fn at(&self, name: impl Display) -> Self {
        Scope { prefix: self.name(name), ..self.clone() }
    }

    /// The same scope with other initial values.
    pub fn with(&self, policy: Policy) -> Self {
        Scope { policy, ..self.clone() }
    }

    /// The same scope with parameters that are not trained. Their batch norms may still be in [`Mode::Train`]: the
    /// published system adapts the statistics of a frozen network.
    ///
    /// [`Mode::Train`]: super::Mode::Train
    pub fn frozen(&self) -> Self {
        Scope { frozen: true, ..self.clone() }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// A parameter. The first dimension counts outputs; each sums `fan_in` inputs.
    pub fn param(&self, name: impl Display, shape: &[usize], fan_in: usize, how: Initializer) -> Param {
        self.add(name, FileLayout::Same, !self.frozen, shape, Draw { how, fan_in })
    }

    /// The filters of a convolution, [Cout,R,S,Cin] in memory.
    pub fn filter(&self, name: impl Display, [o, r, s, i]: [usize; 4], how: Initializer) -> Param {
        self.add(name, FileLayout::Filter, !self.frozen, &[o, i, r, s], Draw { how, fan_in: i * r * s })
    }

    /// The filters of a depthwise convolution, [C,R,S] in memory.
    pub fn depthwise_filter(&self, name: impl Display, [c, r, s]: [usize; 3], how: Initializer) -> Param {
        self.add(name, FileLayout::Depthwise, !self.frozen, &[c, 1, r, s], Draw { how, fan_in: r * s })
    }

    /// A buffer: saved, not trained.
    pub fn buffer(&self, name: impl Display, shape: &[usize], value: f32) -> Param {
        self.add(name, FileLayout::Same, false, shape, Draw { how: Initializer::Constant(value), fan_in: 1 })
    }

    /// A counter from 0: saved, not trained.
    pub fn counter(&self, name: impl Display) -> Param {
        self.add(name, FileLayout::Count, false, &[], Draw { how: Initializer::Constant(0.0), fan_in: 1 })
    }

    fn add(
        &self,
        name: impl Display,
        layout: FileLayout,
        trainable: bool,
        shape: &[usize],
        draw: Draw,
    ) -> Param {
        self.builder.add(self.name(name), layout, trainable, shape, draw)
    }

    fn name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{caught, throw};

    #[test]
    fn a_parameter_outlives_an_error_thrown_while_it_changed() {
        let make = |scope: &Scope| scope.param("w", &[2], 2, Initializer::Constant(1.0));
        let (param, store) = Store::build(Source::Init(Rng::new(1, 0)), make).unwrap();
        assert!(caught(|| param.update(|_| throw(Error::data("w", "thrown")))).is_err());
        param.update(|w| w.as_mut_slice()[0] = 3.0);
        assert_eq!(store.entries()[0].tensor().to_vec(), [3.0, 1.0]);
    }
}
