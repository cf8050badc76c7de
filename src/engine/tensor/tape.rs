//! Reverse-mode differentiation: nodes in creation order, gradients for whoever asks.
//!
//! A leaf is a tensor that gradients may be asked for; what is computed from leaves is recorded, all
//! else is not. [`backward`] runs only the nodes on a path to a target, each once, and frees what they saved.

use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Tensor, run};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};

type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &[bool]) -> Vec<Option<Tensor>> + Send>;

/// One recorded operation.
struct Node {
    id: u64,
    outputs: usize,
    parents: Vec<Option<Edge>>,
    backward: Mutex<Option<Backward>>,
}

/// A tensor's place on the tape: an output of a node.
#[derive(Clone)]
pub(super) struct Edge {
    node: Arc<Node>,
    output: usize,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

impl Node {
    fn new(outputs: usize, parents: Vec<Option<Edge>>, backward: Option<Backward>) -> Arc<Node> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Node { id, outputs, parents, backward: Mutex::new(backward) })
    }

    /// Adds to `grads` what the gradients of the outputs give for the parents that are wanted.
    #[track_caller]
    fn run_back(&self, dys: Vec<Option<Tensor>>, wanted: &HashMap<u64, bool>, grads: &mut Grads) {
        let asked: Vec<bool> =
            self.parents.iter().map(|p| p.as_ref().is_some_and(|e| wanted[&e.node.id])).collect();
        if dys.iter().all(Option::is_none) || !asked.contains(&true) {
            return;
        }
        let Some(back) = self.backward.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            panic!("backward through a graph whose saved tensors were freed by an earlier backward")
        };
        for ((parent, gradient), asked) in self.parents.iter().zip(back(dys, &asked)).zip(asked) {
            if let (Some(edge), Some(gradient), true) = (parent, gradient, asked) {
                grads.add(edge, gradient);
            }
        }
    }
}

impl Edge {
    pub(super) fn leaf() -> Edge {
        Edge { node: Node::new(1, Vec::new(), None), output: 0 }
    }

    fn key(&self) -> Key {
        Key { node: self.node.id, output: self.output }
    }
}

/// Runs `f` without recording: for inference and for what happens between steps.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    recording(false, f)
}

/// Runs `f` with recording on or off. Backward runs with it off; a function that computes its forward again there (a
/// checkpoint) turns it on, and calls [`backward_from`] itself.
pub fn recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Whether an operation on these inputs will be recorded: if not, nothing need be saved for backward.
pub fn is_recorded<'a>(ins: impl IntoIterator<Item = impl Into<Option<&'a Tensor>>>) -> bool {
    RECORDING.get() && ins.into_iter().filter_map(Into::into).any(|x| x.edge.is_some())
}

/// Puts an operation on the tape and returns its outputs, now recorded.
///
/// `back(gradients of the outputs, which inputs are wanted)` returns the gradients of the inputs; an output that
/// nothing depends on has no gradient, and an input that is not wanted needs none. An input that may be absent is an
/// `Option`; an absent one is never wanted.
pub fn record<'a, const O: usize, const I: usize>(
    outs: [Tensor; O],
    ins: [impl Into<Option<&'a Tensor>>; I],
    back: impl FnOnce([Option<Tensor>; O], [bool; I]) -> [Option<Tensor>; I] + Send + 'static,
) -> [Tensor; O] {
    let outs = record_many(outs.into(), ins, move |dys, wanted| {
        let dys: [Option<Tensor>; O] = dys.try_into().unwrap_or_else(|_| unreachable!());
        back(dys, wanted.try_into().unwrap()).into()
    });
    outs.try_into().unwrap_or_else(|_| unreachable!())
}

/// [`record`] for one output that always has a gradient when backward reaches it.
pub fn record1<'a, const I: usize>(
    out: Tensor,
    ins: [impl Into<Option<&'a Tensor>>; I],
    back: impl FnOnce(Tensor, [bool; I]) -> [Option<Tensor>; I] + Send + 'static,
) -> Tensor {
    let [out] = record([out], ins, move |[dy], wanted| match dy {
        Some(dy) => back(dy, wanted),
        None => std::array::from_fn(|_| None),
    });
    out
}

/// [`record`] for a number of inputs known only at run time.
pub fn record_many<'a>(
    mut outs: Vec<Tensor>,
    ins: impl IntoIterator<Item = impl Into<Option<&'a Tensor>>>,
    back: impl FnOnce(Vec<Option<Tensor>>, &[bool]) -> Vec<Option<Tensor>> + Send + 'static,
) -> Vec<Tensor> {
    let parents: Vec<Option<Edge>> = ins.into_iter().map(|x| x.into()?.edge.clone()).collect();
    if !RECORDING.get() || parents.iter().all(Option::is_none) {
        return outs;
    }
    let node = Node::new(outs.len(), parents, Some(Box::new(back)));
    for (output, out) in outs.iter_mut().enumerate() {
        out.edge = Some(Edge { node: node.clone(), output });
    }
    outs
}

/// The gradients that were asked for.
#[derive(Default)]
pub struct Grads(BTreeMap<Key, Tensor>);

/// What a gradient belongs to: a node and which of its outputs. Keys are ordered by the time their targets were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    node: u64,
    output: usize,
}

impl Tensor {
    /// Its key in [`Grads`]; none where it depends on no leaf and is none.
    pub fn key(&self) -> Option<Key> {
        self.edge.as_ref().map(Edge::key)
    }
}

impl Grads {
    /// The gradient of a target; none where the loss does not depend on it.
    pub fn get(&self, target: &Tensor) -> Option<&Tensor> {
        self.0.get(&target.key()?)
    }

    pub fn take(&mut self, target: &Tensor) -> Option<Tensor> {
        self.0.remove(&target.key()?)
    }

    /// All gradients, in the order in which their targets were made.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Tensor)> {
        self.0.iter().map(|(key, gradient)| (*key, gradient))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Tensor)> {
        self.0.iter_mut().map(|(key, gradient)| (*key, gradient))
    }

    fn add(&mut self, edge: &Edge, gradient: Tensor) {
        match self.0.entry(edge.key()) {
            Entry::Vacant(slot) => {
                slot.insert(gradient);
            }
            Entry::Occupied(mut slot) => accumulate(slot.get_mut(), &gradient),
        }
    }
}

/// sum += x
#[track_caller]
fn accumulate(sum: &mut Tensor, x: &Tensor) {
    super::same_shape("gradient accumulation", sum, x);
    let cuda = |g: &Gpu, [sum]: [Out; 1], [x]: [In; 1]| {
        k::accumulate(g, Grid::packs(x.len()), sum, x, x.len() as i32);
    };
    let cpu = |[sum]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        crate::engine::device::cpu::for_chunks(sum, 16 * 1024, |i, sum| {
            let x = &x[i * 16 * 1024..];
            sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
        });
    };
    run("accumulate", [sum], [x], cpu, cuda);
}

/// The gradients of the scalar `loss` with respect to `targets` (leaves, or anything on the way).
#[track_caller]
pub fn backward(loss: &Tensor, targets: &[&Tensor]) -> Grads {
    backward_from([(loss, seed(loss))], targets)
}

/// [`backward`] that hands over each gradient as soon as it is complete, when the last operation that its target went into is
/// behind: they need not lie beside each other, and a leaf may change then.
#[track_caller]
pub fn backward_each(loss: &Tensor, targets: impl IntoIterator<Item = Key>, take: impl FnMut(Key, Tensor)) {
    run_back([(loss, seed(loss))], targets.into_iter().collect(), take);
}

/// The gradient of a loss with respect to itself.
#[track_caller]
fn seed(loss: &Tensor) -> Tensor {
    assert_eq!(loss.len(), 1, "backward starts from one number, not from {:?}", loss.shape);
    assert!(loss.edge.is_some(), "backward from a tensor that does not depend on any leaf");
    let mut one = loss.new_empty(loss.shape);
    one.fill(1.0);
    one
}

/// The gradients of Σ <y, dy> over the ends (y, dy); an end that depends on no leaf adds nothing.
#[track_caller]
pub fn backward_from<'a>(ends: impl IntoIterator<Item = (&'a Tensor, Tensor)>, targets: &[&Tensor]) -> Grads {
    let mut grads = Grads::default();
    run_back(ends, targets.iter().filter_map(|t| t.key()).collect(), |key, gradient| {
        grads.0.insert(key, gradient);
    });
    grads
}

/// Runs the nodes between the ends and the targets back, and hands over the targets' gradients.
#[track_caller]
fn run_back<'a>(
    ends: impl IntoIterator<Item = (&'a Tensor, Tensor)>,
    targets: HashSet<Key>,
    mut take: impl FnMut(Key, Tensor),
) {
    let ends: Vec<(&Edge, Tensor)> =
        ends.into_iter().filter_map(|(y, dy)| Some((y.edge.as_ref()?, dy))).collect();
    let nodes = reachable(ends.iter().map(|(end, _)| end.node.clone()).collect());
    let wanted = on_a_path(&nodes, &targets);
    let on_the_way: Vec<&Node> = nodes.iter().rev().map(|n| &**n).filter(|n| wanted[&n.id]).collect();
    // Into how many operations each target goes that are still to be run back.
    let mut uses: HashMap<Key, usize> = targets.into_iter().map(|key| (key, 0)).collect();
    for edge in on_the_way.iter().flat_map(|n| n.parents.iter().flatten()) {
        uses.entry(edge.key()).and_modify(|uses| *uses += 1);
    }
    let mut grads = Grads::default();
    no_grad(|| {
        ends.into_iter().for_each(|(end, dy)| grads.add(end, dy));
        for node in on_the_way {
            let gradient = |output| {
                let key = Key { node: node.id, output };
                let dy = grads.0.remove(&key)?;
                if uses.contains_key(&key) {
                    take(key, dy.clone());
                }
                Some(dy)
            };
            let dys = (0..node.outputs).map(gradient).collect();
            node.run_back(dys, &wanted, &mut grads);
            // A leaf is older than all that it goes into: the last of them completes it.
            for edge in node.parents.iter().flatten().filter(|edge| edge.node.parents.is_empty()) {
                let Some(uses) = uses.get_mut(&edge.key()) else { continue };
                *uses -= 1;
                if *uses == 0 {
                    grads.0.remove(&edge.key()).into_iter().for_each(|gradient| take(edge.key(), gradient));
                }
            }
        }
    });
}

/// All nodes that these depend on, and themselves, oldest first.
fn reachable(mut open: Vec<Arc<Node>>) -> Vec<Arc<Node>> {
    let mut seen = HashMap::new();
    while let Some(node) = open.pop() {
        if seen.insert(node.id, node.clone()).is_none() {
            open.extend(node.parents.iter().flatten().map(|e| e.node.clone()));
        }
    }
    let mut nodes: Vec<_> = seen.into_values().collect();
    nodes.sort_by_key(|n| n.id);
    nodes
}

/// Which nodes are targets or lead to one.
fn on_a_path(nodes: &[Arc<Node>], targets: &HashSet<Key>) -> HashMap<u64, bool> {
    let mut wanted: HashMap<u64, bool> = HashMap::new();
    for node in nodes {
        let target = (0..node.outputs).any(|output| targets.contains(&Key { node: node.id, output }));
        let leads = node.parents.iter().flatten().any(|e| wanted[&e.node.id]);
        wanted.insert(node.id, target || leads);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x·x + x, one number at a time.
    fn f(x: &Tensor) -> Tensor {
        let saved = x.detach();
        let values = x.as_slice().iter().map(|x| x * x + x).collect();
        record1(Tensor::from_vec(values, x.shape()), [x], move |dy, _| {
            let slopes =
                saved.as_slice().iter().zip(dy.as_slice()).map(|(x, dy)| (2.0 * x + 1.0) * dy).collect();
            [Some(Tensor::from_vec(slopes, dy.shape()))]
        })
    }

    /// Keeps x alone; its backward computes `f` again and goes back through it.
    fn checkpoint(x: &Tensor) -> Tensor {
        let y = no_grad(|| f(&f(x)));
        let saved = x.detach();
        record1(y, [x], move |dy, _| {
            let x = saved.leaf();
            let y = recording(true, || f(&f(&x)));
            [backward_from([(&y, dy)], &[&x]).take(&x)]
        })
    }

    #[test]
    fn a_checkpoint_inside_backward_gives_the_same_bits() {
        let x = Tensor::from_vec((0..50).map(|i| (i as f32 * 0.37).sin()).collect(), [50]).leaf();
        let gradients = |y: &Tensor| backward_from([(y, x.detach())], &[&x]).take(&x).unwrap().to_vec();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(gradients(&f(&checkpoint(&f(&x))))), bits(gradients(&f(&f(&f(&f(&x)))))));
    }

    #[test]
    fn gradients_come_in_the_order_of_their_targets() {
        let [a, b, c] = [1.0, 2.0, 3.0].map(|v| Tensor::from_vec(vec![v], [1]).leaf());
        let y = record1(Tensor::from_vec(vec![0.0], [1]), [&c, &a, &b], |dy, _| {
            [1.0, 2.0, 3.0].map(|by| Some(Tensor::from_vec(vec![by * dy.item()], [1])))
        });
        let mut grads = backward(&y, &[&c, &b, &a]);
        let keys: Vec<_> = grads.iter().map(|(key, _)| Some(key)).collect();
        assert_eq!(keys, [a.key(), b.key(), c.key()]);
        grads.iter_mut().for_each(|(_, gradient)| gradient.fill(7.0));
        assert_eq!(grads.get(&b).unwrap().item(), 7.0);
    }
}
