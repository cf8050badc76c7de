//! What calls in a pickle make, for the few classes that hold names and numbers; nothing is executed.

use std::rc::Rc;

use super::machine::Machine;
use super::numpy::ElementType;
use super::{Id, Node};

type Step<T> = Result<T, String>;

impl Machine<'_> {
    /// What a call of `class` makes: a plain value, or an object that is only named.
    pub fn build(&mut self, class: &Rc<str>, args: &[Id]) -> Step<Node> {
        let node = self.build_known(class, args)?;
        if matches!(node, Node::Instance(_) | Node::Object(_)) {
            self.unknown_calls.insert(class.clone());
        }
        Ok(node)
    }

    fn build_known(&mut self, class: &Rc<str>, args: &[Id]) -> Step<Node> {
        let node = |at: usize| args.get(at).map(|id| self.nodes[*id].clone());
        let unknown = || Node::Instance(class.clone());
        Ok(match &**class {
            "collections.defaultdict" => match node(1) {
                Some(entries @ Node::Dict(_)) => entries,
                _ => Node::Dict(Vec::new()),
            },
            "collections.OrderedDict" | "collections.Counter" | "builtins.dict" => match node(0) {
                Some(Node::List(pairs)) => Node::Dict(self.entries(&pairs)),
                Some(entries @ Node::Dict(_)) => entries,
                _ => Node::Dict(Vec::new()),
            },
            "builtins.list" | "builtins.tuple" | "builtins.set" | "builtins.frozenset"
            | "collections.deque" => match node(0) {
                Some(items @ Node::List(_)) => items,
                _ => Node::List(Vec::new()),
            },
            "builtins.str" | "builtins.unicode" | "builtins.int" | "builtins.long" | "builtins.float"
            | "numpy.str_" | "numpy.bytes_" => node(0).unwrap_or_else(unknown),
            "builtins.bytes" | "builtins.bytearray" | "_codecs.encode" => match node(0) {
                Some(Node::Text(text)) => latin1(&text).map_or_else(unknown, Node::Bytes),
                Some(bytes @ Node::Bytes(_)) => bytes,
                _ => Node::Bytes(Vec::new()),
            },
            "copyreg._reconstructor" => match (node(0), node(2)) {
                (Some(Node::Class(name)), Some(Node::None) | None) => Node::Instance(name),
                (_, Some(state)) => state,
                _ => unknown(),
            },
            "pathlib.PosixPath"
            | "pathlib.PurePosixPath"
            | "pathlib.WindowsPath"
            | "pathlib.PureWindowsPath" => {
                let parts = args.iter().map(|id| match &self.nodes[*id] {
                    Node::Text(part) => Some(part.as_str()),
                    _ => None,
                });
                parts.collect::<Option<Vec<_>>>().map_or_else(unknown, |parts| Node::Text(parts.join("/")))
            }
            name if name.starts_with("numpy.") => self.build_numpy(class, args)?,
            name if name.starts_with("torch.") => self.build_torch(name, args)?.unwrap_or_else(unknown),
            _ => unknown(),
        })
    }

    fn build_numpy(&mut self, class: &Rc<str>, args: &[Id]) -> Step<Node> {
        let node = |at: usize| args.get(at).map(|id| self.nodes[*id].clone());
        let unknown = || Node::Instance(class.clone());
        Ok(match &**class {
            "numpy.dtype" => match node(0) {
                Some(Node::Text(name)) => Node::Type(ElementType::parse(&name)),
                Some(Node::Bytes(name)) => Node::Type(ElementType::parse(&String::from_utf8_lossy(&name))),
                _ => unknown(),
            },
            "numpy.core.multiarray._reconstruct" => Node::Array,
            "numpy.core.multiarray.scalar" => match (node(0), node(1)) {
                (Some(Node::Type(element)), Some(Node::Bytes(bytes))) => element.read(&bytes),
                (Some(Node::Type(_)), Some(value)) => value,
                _ => unknown(),
            },
            "numpy.core.numeric._frombuffer" => {
                let [Some(data), Some(element), Some(shape)] = [0, 1, 2].map(|at| args.get(at)) else {
                    return Ok(unknown());
                };
                let columns = matches!(node(3), Some(Node::Text(order)) if order == "F");
                self.array(*shape, *element, columns, *data)?
            }
            _ => unknown(),
        })
    }

    /// Gives an object its state: an array its content, a type its order of bytes.
    pub fn set_state(&mut self, object: Id, state: Id) -> Step<()> {
        let part = |at: usize| match &self.nodes[state] {
            Node::List(parts) => parts.get(at).copied(),
            _ => None,
        };
        let node = |at: usize| part(at).map(|id| &self.nodes[id]);
        let filled = match &self.nodes[object] {
            Node::Array => {
                let [Some(shape), Some(element), Some(data)] = [1, 2, 4].map(part) else {
                    return Err(self.damaged("an array without content"));
                };
                let columns = matches!(node(3), Some(Node::Bool(true) | Node::Int(1)));
                self.array(shape, element, columns, data)?
            }
            Node::Type(element) => {
                let big = match node(1) {
                    Some(Node::Text(order)) => order == ">",
                    Some(Node::Bytes(order)) => order == b">",
                    _ => false,
                };
                let size = match node(5) {
                    Some(Node::Int(size)) => usize::try_from(*size).ok(),
                    _ => None,
                };
                Node::Type(element.with(big, size))
            }
            _ => return Ok(()),
        };
        self.nodes[object] = filled;
        Ok(())
    }

    fn entries(&self, pairs: &[Id]) -> Vec<(Id, Id)> {
        let pair = |id: &Id| match &self.nodes[*id] {
            Node::List(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
            _ => None,
        };
        pairs.iter().filter_map(pair).collect()
    }

    /// The content of an array as a list, or a list of rows.
    fn array(&mut self, shape: Id, element: Id, columns: bool, data: Id) -> Step<Node> {
        let (Node::List(sides), Node::Type(element)) = (&self.nodes[shape], &self.nodes[element]) else {
            return Err(self.damaged("an array without a shape"));
        };
        let element = *element;
        let side = |id: &Id| match self.nodes[*id] {
            Node::Int(side) => usize::try_from(side).ok(),
            _ => None,
        };
        let sides: Option<Vec<usize>> = sides.iter().map(side).collect();
        let (rows, length) = match sides.as_deref() {
            Some([]) => (None, 1),
            Some([length]) => (None, *length),
            Some([rows, length]) => (Some(*rows), *length),
            _ => return Ok(Node::Object("an array of numpy with more than two dimensions")),
        };
        let count = rows.unwrap_or(1).checked_mul(length).ok_or("an array is too large")?;
        self.pay(count)?;
        let items = self.elements(element, count, data)?;
        let Some(rows) = rows else { return Ok(Node::List(items)) };
        let row = |row: usize| {
            let at = |column: usize| if columns { column * rows + row } else { row * length + column };
            Node::List((0..length).map(|column| items[at(column)]).collect())
        };
        self.pay(rows)?;
        let rows = (0..rows).map(|at| self.add(row(at))).collect::<Step<Vec<Id>>>()?;
        Ok(Node::List(rows))
    }

    fn elements(&mut self, element: ElementType, count: usize, data: Id) -> Step<Vec<Id>> {
        self.pay(self.nodes[data].weight())?;
        let bytes = match &self.nodes[data] {
            Node::List(items) if items.len() == count => return Ok(items.clone()),
            Node::Bytes(bytes) => bytes.clone(),
            Node::Text(text) => latin1(text).unwrap_or_default(),
            _ => return Err(self.damaged("an array without content")),
        };
        if count == 0 {
            return Ok(Vec::new());
        }
        let size = element.size;
        if size == 0 || count.checked_mul(size) != Some(bytes.len()) {
            return Err(self.damaged("the size of an array"));
        }
        bytes.chunks_exact(size).map(|bytes| self.add(element.read(bytes))).collect()
    }
}

/// The bytes that Python 3 writes as text for Python 2.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
