//! Named parameters. One constructor of a network initializes it, loads it or fills it by a formula:
//! the store that it is built in decides which.

use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};

use super::archive::{Archive, Array, Values};
use super::init::{Initializer, Policy};
use crate::engine::device::range::{Open, enter};
use crate::engine::tensor::{Rng, Tensor};
use crate::error::{Error, Result};

/// Values by name and shape (as PyTorch has it).
pub type Fill = Box<dyn Fn(&str, &[usize]) -> Vec<f32> + Send>;

/// Where the values of a network come from.
pub enum Source {
    Init(Rng),
    Archive(Archive),
    Fill(Fill),
}

/// How a parameter's place in memory relates to its place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Same,
    /// [Cout,R,S,Cin] here, OIHW there.
    Filter,
    /// One whole number there.
    Count,
}

/// A handle on a named tensor of a network.
#[derive(Clone)]
pub struct Param(Arc<Entry>);

struct Entry {
    name: String,
    layout: Layout,
    trainable: AtomicBool,
    value: RwLock<Tensor>,
}

impl Param {
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value now; a leaf where the parameter is trained.
    /// A range of the profiler under the layer's name: this one's without its last part.
    pub(super) fn enter(&self) -> Open {
        enter(self.name().rsplit_once('.').map_or("", |(layer, _)| layer).to_owned())
    }

    pub fn tensor(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Changes the value in its place.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> R) -> R {
        f(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The value, for whoever changes several at once.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Tensor> {
        self.0.value.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn freeze(&self) {
        self.0.trainable.store(false, Ordering::Relaxed);
        self.update(|value| *value = value.detach());
    }

    /// The shape in a file.
    fn published_shape(&self) -> Vec<usize> {
        let shape = self.0.value.read().unwrap_or_else(PoisonError::into_inner).shape();
        match (self.0.layout, &*shape) {
            (Layout::Filter, &[o, r, s, i]) => vec![o, i, r, s],
            (_, dims) => dims.to_vec(),
        }
    }

    /// A tensor like this one (its value, its gradient) as a file holds it.
    #[track_caller]
    pub fn published(&self, tensor: &Tensor) -> Array {
        match self.0.layout {
            Layout::Same => Array::from(tensor),
            Layout::Count => Array::count(tensor.item() as u64),
            Layout::Filter => {
                let [o, r, s, i] = tensor.dims();
                Array::f32(&[o, i, r, s], swap_last_two(&tensor.to_vec(), r * s, i))
            }
        }
    }

    /// Takes values in the order of a file.
    fn set_published(&self, values: Vec<f32>) {
        let shape = self.0.value.read().unwrap_or_else(PoisonError::into_inner).shape();
        let values = match (self.0.layout, &*shape) {
            (Layout::Filter, &[_, r, s, i]) => swap_last_two(&values, i, r * s),
            _ => values,
        };
        self.update(|value| value.assign(&Tensor::from_vec(values, shape)));
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

/// The named tensors of a network, in the order of its construction.
pub struct Store {
    entries: Vec<Param>,
}

impl Store {
    /// Constructs a network with values from `source`. All names that are missing, unexpected or of another
    /// shape are told at once.
    pub fn build<N>(source: Source, network: impl FnOnce(&Scope) -> N) -> Result<(N, Store)> {
        let builder = Builder { source: Mutex::new(source), entries: Mutex::default() };
        let scope =
            Scope { builder: &builder, prefix: String::new(), policy: Policy::default(), frozen: false };
        let network = network(&scope);
        let store = Store { entries: builder.entries.into_inner().unwrap() };
        if let Source::Archive(archive) = builder.source.into_inner().unwrap() {
            store.load(archive)?;
        }
        Ok((network, store))
    }

    /// Everything, running statistics included.
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    /// What is trained.
    pub fn params(&self) -> Vec<Param> {
        self.entries.iter().filter(|p| p.is_trainable()).cloned().collect()
    }

    /// Numbers that are trained.
    pub fn parameter_count(&self) -> usize {
        self.params().iter().map(|p| p.tensor().len()).sum()
    }

    /// From now on nothing is recorded for the sake of these parameters.
    pub fn freeze(&self) {
        self.entries.iter().for_each(Param::freeze);
    }

    /// The published names and shapes with the values now.
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

    /// Takes all values from an archive that fits exactly; changes nothing where it does not.
    pub fn load(&self, mut archive: Archive) -> Result<()> {
        let (mut found, mut missing, mut misshaped) = (Vec::new(), Vec::new(), Vec::new());
        for param in &self.entries {
            let wanted = param.published_shape();
            match archive.take(param.name()) {
                Some(array) if array.shape == wanted => found.push((param, array)),
                Some(array) => {
                    misshaped.push(format!("{} is {:?}, wanted {wanted:?}", param.name(), array.shape))
                }
                // Files from before PyTorch 0.4.1 do not count batches.
                None if param.0.layout == Layout::Count => {}
                None => missing.push(param.name().to_owned()),
            }
        }
        let unexpected: Vec<String> = archive.names().map(str::to_owned).collect();
        if !(missing.is_empty() && unexpected.is_empty() && misshaped.is_empty()) {
            return Err(Error::Weights { file: archive.file().to_owned(), missing, unexpected, misshaped });
        }
        found.into_iter().for_each(|(param, array)| param.set_published(into_f32(array)));
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
    fn add(&self, name: String, layout: Layout, trainable: bool, published: &[usize], init: Draw) -> Param {
        let shape: Vec<usize> = match (layout, published) {
            (Layout::Filter, &[o, i, r, s]) => vec![o, r, s, i],
            _ => published.to_vec(),
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(entries.iter().all(|p| p.name() != name), "two parameters are called '{name}'");
        let value = Tensor::zeros(shape.as_slice());
        let value = if trainable { value.leaf() } else { value };
        let entry = Entry { name, layout, trainable: AtomicBool::new(trainable), value: RwLock::new(value) };
        let param = Param(Arc::new(entry));
        match &mut *self.source.lock().unwrap_or_else(PoisonError::into_inner) {
            Source::Init(rng) => param.set_published(init.how.draw(published, init.fan_in, rng)),
            Source::Fill(fill) => param.set_published(fill(param.name(), published)),
            Source::Archive(_) => {}
        }
        entries.push(param.clone());
        param
    }
}

struct Draw {
    how: Initializer,
    fan_in: usize,
}

/// A place in a store under construction: the prefix of names, and how values are drawn.
#[derive(Clone)]
pub struct Scope<'a> {
    builder: &'a Builder,
    prefix: String,
    policy: Policy,
    frozen: bool,
}

impl Scope<'_> {
    /// The place one name deeper.
    pub fn at(&self, name: impl Display) -> Self {
        Scope { prefix: self.name(name), ..self.clone() }
    }

    /// The same place, drawing by another policy.
    pub fn with(&self, policy: Policy) -> Self {
        Scope { policy, ..self.clone() }
    }

    /// The same place, where parameters are not trained.
    pub fn frozen(&self) -> Self {
        Scope { frozen: true, ..self.clone() }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// A parameter; the first dimension counts outputs, of which each sums `fan_in` inputs.
    pub fn param(&self, name: impl Display, shape: &[usize], fan_in: usize, how: Initializer) -> Param {
        self.add(name, Layout::Same, !self.frozen, shape, Draw { how, fan_in })
    }

    /// The filters of a convolution, [Cout,R,S,Cin] in memory.
    pub fn filter(&self, name: impl Display, [o, r, s, i]: [usize; 4], how: Initializer) -> Param {
        self.add(name, Layout::Filter, !self.frozen, &[o, i, r, s], Draw { how, fan_in: i * r * s })
    }

    /// What is kept and not trained.
    pub fn buffer(&self, name: impl Display, shape: &[usize], value: f32) -> Param {
        self.add(name, Layout::Same, false, shape, Draw { how: Initializer::Constant(value), fan_in: 1 })
    }

    /// A counter that begins at 0.
    pub fn counter(&self, name: impl Display) -> Param {
        self.add(name, Layout::Count, false, &[], Draw { how: Initializer::Constant(0.0), fan_in: 1 })
    }

    fn add(&self, name: impl Display, layout: Layout, trainable: bool, shape: &[usize], draw: Draw) -> Param {
        self.builder.add(self.name(name), layout, trainable, shape, draw)
    }

    fn name(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
