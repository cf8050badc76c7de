//! Python's pickles without execution, protocols 0 to 5: lists, dictionaries, strings and numbers, numpy's arrays of them, and
//! PyTorch's tensors as descriptions. Every other class is only named.

mod build;
mod machine;
mod numpy;
mod torch;

use std::rc::Rc;

use self::numpy::ElementType;

pub use self::machine::{Pickle, read};
pub use self::torch::{Storage, Tensor};

/// The number of a node.
pub type Id = usize;

/// A value of a pickle.
#[derive(Debug, Clone)]
pub enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(String),
    Bytes(Vec<u8>),
    /// A list, tuple or set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Type(ElementType),
    /// An array of numpy whose content is yet to come.
    Array,
    /// A class, by its module and name.
    Class(Rc<str>),
    /// The numbers of a tensor of PyTorch, which lie elsewhere in the file.
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
    /// Something of a class that is not known here.
    Instance(Rc<str>),
    /// Something else that is only named.
    Object(&'static str),
}

impl Node {
    /// What it takes of a file's allowance.
    fn weight(&self) -> usize {
        1 + match self {
            Node::Text(text) => text.len(),
            Node::Bytes(bytes) => bytes.len(),
            Node::List(items) => items.len(),
            Node::Dict(entries) => entries.len(),
            Node::Class(name) => name.len(),
            Node::Storage(storage) => {
                let part = storage.part.as_ref().map_or(0, |(key, ..)| key.len());
                storage.class.len() + storage.key.len() + part
            }
            Node::Tensor(tensor) => 2 * tensor.shape.len(),
            _ => 0,
        }
    }

    /// What it takes each time that it is recalled: who reads the values copies texts.
    fn weight_of_recall(&self) -> usize {
        if matches!(self, Node::Text(_) | Node::Bytes(_)) { self.weight() } else { 0 }
    }
}

impl Pickle {
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// A string, or a byte string of Python 2 in UTF-8 or else Latin-1.
    pub fn text(&self, id: Id) -> Option<String> {
        match self.node(id) {
            Node::Text(text) => Some(text.clone()),
            Node::Bytes(bytes) => Some(
                String::from_utf8(bytes.clone())
                    .unwrap_or_else(|_| bytes.iter().copied().map(char::from).collect()),
            ),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// What a value is, for a message.
    pub fn describe(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".into(),
            Node::Bool(_) => "a truth value".into(),
            Node::Int(_) | Node::Float => "a number".into(),
            Node::Text(_) | Node::Bytes(_) => "a string".into(),
            Node::List(_) => "a list".into(),
            Node::Dict(_) => "a dictionary".into(),
            Node::Type(_) => "a type of numpy".into(),
            Node::Array => "an empty array of numpy".into(),
            Node::Storage(_) => "numbers of PyTorch".into(),
            Node::Tensor(_) => "a tensor".into(),
            Node::Class(name) => format!("the class {name}"),
            Node::Instance(class) => format!("an object of the class {class}"),
            Node::Object(what) => (*what).into(),
        }
    }
}
