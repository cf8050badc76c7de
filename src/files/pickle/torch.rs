//! Tensors of PyTorch in its pickles: where their numbers lie, and how they are arranged.

use std::rc::Rc;

use super::machine::Machine;
use super::{Id, Node};

/// A run of numbers in the file, which several tensors may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// PyTorch's class, such as `FloatStorage`.
    pub class: String,
    pub key: String,
    /// Numbers in it.
    pub count: usize,
    /// It is a part of a larger storage: the key, the first number and the count of the part.
    pub part: Option<(String, usize, usize)>,
}

/// PyTorch allows no more.
const MOST_DIMENSIONS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub storage: Rc<Storage>,
    /// The first number.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Numbers from one index to the next, of each dimension.
    pub stride: Vec<usize>,
}

impl Machine<'_> {
    /// The persistent id ("storage", class, key, device, count[, part]).
    pub fn storage(&self, id: Id) -> Option<Node> {
        let Node::List(parts) = &self.nodes[id] else { return None };
        let text = |at: usize| self.text_of(*parts.get(at)?);
        let Node::Class(class) = &self.nodes[*parts.get(1)?] else { return None };
        if text(0)? != "storage" {
            return None;
        }
        let part = match parts.get(5).map(|id| &self.nodes[*id]) {
            Some(Node::List(part)) => {
                let [key, first, count] = part[..] else { return None };
                Some((self.text_of(key)?, self.count(first)?, self.count(count)?))
            }
            _ => None,
        };
        let class = class.rsplit('.').next()?.to_string();
        let count = self.count(*parts.get(4)?)?;
        Some(Node::Storage(Rc::new(Storage { class, key: text(2)?, count, part })))
    }

    /// What a call of PyTorch's makes; none where it is not known here.
    pub fn build_torch(&mut self, class: &str, args: &[Id]) -> Result<Option<Node>, String> {
        let node = |at: usize| args.get(at).map(|id| self.nodes[*id].clone());
        Ok(match class {
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => {
                let tensor = self.tensor(args);
                Some(Node::Tensor(Rc::new(tensor.ok_or_else(|| self.damaged("a tensor without numbers"))?)))
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => node(0),
            "torch.Size" => node(0),
            _ => None,
        })
    }

    /// (storage, offset, shape, stride, ..)
    fn tensor(&self, args: &[Id]) -> Option<Tensor> {
        let Node::Storage(storage) = &self.nodes[*args.first()?] else { return None };
        let sizes = |at: usize| -> Option<Vec<usize>> {
            let Node::List(sizes) = &self.nodes[*args.get(at)?] else { return None };
            sizes.iter().map(|id| self.count(*id)).collect()
        };
        let (shape, stride) = (sizes(2)?, sizes(3)?);
        let offset = self.count(*args.get(1)?)?;
        (shape.len() == stride.len() && shape.len() <= MOST_DIMENSIONS).then(|| Tensor {
            storage: storage.clone(),
            offset,
            shape,
            stride,
        })
    }

    fn text_of(&self, id: Id) -> Option<String> {
        match &self.nodes[id] {
            Node::Text(text) => Some(text.clone()),
            Node::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        }
    }

    fn count(&self, id: Id) -> Option<usize> {
        match self.nodes[id] {
            Node::Int(count) => usize::try_from(count).ok(),
            _ => None,
        }
    }
}
