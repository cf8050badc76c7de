//! Python's pickle machine, protocols 0 to 5, without execution: values are built, classes are only named.
//!
//! Every value is a node, and lists hold the numbers of nodes, since Python fills a list after others refer to it. What
//! nodes hold is paid for from an allowance in proportion to the file, so no file takes more memory than it should.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::{Id, Node};

/// Everything that a file holds.
pub struct Pickle {
    nodes: Vec<Node>,
    pub root: Id,
    /// Bytes that it took.
    pub length: usize,
    /// Functions and classes that it wants to call and that are not known here, each once.
    pub unknown_calls: BTreeSet<Rc<str>>,
}

impl Pickle {
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }
}

type Step<T> = Result<T, String>;

pub struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    pub nodes: Vec<Node>,
    pub unknown_calls: BTreeSet<Rc<str>>,
    allowance: usize,
}

/// Reads a pickle; the error says why it cannot be read.
pub fn read(bytes: &[u8]) -> Step<Pickle> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        unknown_calls: BTreeSet::new(),
        allowance: bytes.len().saturating_mul(8).saturating_add(4096),
    };
    loop {
        let code = machine.byte()?;
        if code == b'.' {
            let root = machine.pop()?;
            let Machine { at: length, nodes, unknown_calls, .. } = machine;
            return Ok(Pickle { nodes, root, length, unknown_calls });
        }
        machine.step(code)?;
    }
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Step<()> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let top = self.top()?;
                self.recall(top)?;
            }
            // Protocol and frame: nothing to do but to pass their arguments.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'R' | 0x81 | 0x92 | b'i' | b'o' | b'b' | b'c' | 0x93 | b'P' | b'Q' | 0x82..=0x84 => {
                self.class_step(code)?;
            }
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memo_step(code)?,
            b']'
            | b'l'
            | b'a'
            | b'e'
            | b'}'
            | b'd'
            | b's'
            | b'u'
            | b')'
            | b't'
            | 0x85..=0x87
            | 0x8f..=0x91 => {
                self.collection_step(code)?;
            }
            _ => {
                let node = self.scalar(code)?;
                self.push(node)?;
            }
        }
        Ok(())
    }

    /// Numbers and strings.
    fn scalar(&mut self, code: u8) -> Step<Node> {
        let little =
            |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        Ok(match code {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'K' => Node::Int(i64::from(self.byte()?)),
            b'M' => Node::Int(little(self.take(2)?) as i64),
            b'J' => Node::Int(i64::from(little(self.take(4)?) as u32 as i32)),
            b'G' => self.take(8).map(|_| Node::Float)?,
            b'I' | b'L' => decimal(self.line()?)?,
            b'F' => number::<f64>(self.line()?).map(|_| Node::Float)?,
            0x8a | 0x8b => {
                let length = self.length(if code == 0x8a { 1 } else { 4 })?;
                integer(self.take(length)?)
            }
            b'S' => Node::Bytes(unquoted(self.line()?)?),
            b'V' => Node::Text(unescaped(self.line()?)),
            b'X' | 0x8c | 0x8d => {
                let length = self.length(width_of(code))?;
                let text = std::str::from_utf8(self.take(length)?);
                Node::Text(text.map_err(|_| self.damaged("a string is not UTF-8"))?.to_string())
            }
            b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.length(width_of(code))?;
                Node::Bytes(self.take(length)?.to_vec())
            }
            _ => return Err(format!("byte {} is no instruction of a pickle", self.at - 1)),
        })
    }

    fn collection_step(&mut self, code: u8) -> Step<()> {
        match code {
            b']' | b')' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Node::List(items))?;
            }
            0x85..=0x87 => {
                let mut items: Vec<Id> = (0x85..=code).map(|_| self.pop()).collect::<Step<_>>()?;
                items.reverse();
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.since_mark()?;
                self.push(Node::Dict(pairs(&items)))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend(vec![key, value])?;
            }
            // b'e', b'u' and 0x90 add what follows a mark.
            _ => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
        }
        Ok(())
    }

    /// Adds to the collection on top; what is added to an object of an unknown class is dropped with it.
    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        self.pay(items.len())?;
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(list) => list.extend(items),
            Node::Dict(entries) => entries.extend(pairs(&items)),
            Node::Instance(_) | Node::Object(_) => {}
            _ => return Err(self.damaged("it adds to what is no collection")),
        }
        Ok(())
    }

    fn memo_step(&mut self, code: u8) -> Step<()> {
        let slot = match code {
            b'g' | b'p' => number(self.line()?)?,
            b'h' | b'q' => u64::from(self.byte()?),
            0x94 => self.memo.len() as u64,
            _ => self.length(4)? as u64,
        };
        if matches!(code, b'g' | b'h' | b'j') {
            let Some(id) = self.memo.get(&slot).copied() else {
                return Err(self.damaged("it recalls what it never stored"));
            };
            self.recall(id)?;
        } else {
            let top = self.top()?;
            self.memo.insert(slot, top);
        }
        Ok(())
    }

    /// Classes, calls and states, all of which [`Machine::build`] and [`Machine::set_state`] interpret.
    fn class_step(&mut self, code: u8) -> Step<()> {
        match code {
            b'c' => {
                let class = self.named_class()?;
                self.push(Node::Class(class))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                    return Err(self.damaged("a class has no name"));
                };
                let class = class_name(module, name)?;
                self.push(Node::Class(class))?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                self.set_state(object, state)?;
            }
            b'P' => {
                self.line()?;
                self.push(Node::Object(PERSISTENT))?;
            }
            b'Q' => {
                let id = self.pop()?;
                let node = self.storage(id).unwrap_or(Node::Object(PERSISTENT));
                self.push(node)?;
            }
            b'i' | b'o' | b'R' | 0x81 | 0x92 => self.call_step(code)?,
            _ => return Err("it uses Python's registry of extensions; save plain lists".into()),
        }
        Ok(())
    }

    /// Calls with the arguments after a mark, and `R`, `NEWOBJ` and `NEWOBJ_EX` with a tuple of them.
    fn call_step(&mut self, code: u8) -> Step<()> {
        match code {
            b'i' => {
                let class = self.named_class()?;
                let args = self.since_mark()?;
                self.call(&class, &args)?;
            }
            b'o' => {
                let items = self.since_mark()?;
                let Some((class, args)) = items.split_first() else {
                    return Err(self.damaged("a call of nothing"));
                };
                self.call_node(*class, args)?;
            }
            _ => {
                if code == 0x92 {
                    self.pop()?;
                }
                let (args, class) = (self.pop()?, self.pop()?);
                let Node::List(args) = &self.nodes[args] else {
                    return Err(self.damaged("a call without arguments"));
                };
                let args = args.clone();
                self.call_node(class, &args)?;
            }
        }
        Ok(())
    }

    fn call_node(&mut self, class: Id, args: &[Id]) -> Step<()> {
        match &self.nodes[class] {
            Node::Class(name) => self.call(&name.clone(), args),
            object @ (Node::Instance(_) | Node::Object(_)) => self.push(object.clone()),
            _ => Err(self.damaged("a call of what is no class")),
        }
    }

    fn call(&mut self, name: &Rc<str>, args: &[Id]) -> Step<()> {
        // Arguments may be shared, and what is made of them holds them once more.
        self.pay(args.iter().map(|id| self.nodes[*id].weight()).sum())?;
        let node = self.build(name, args)?;
        self.push(node)
    }

    // What the instructions are made of.

    pub fn damaged(&self, what: &str) -> String {
        format!("it is damaged at byte {}: {what}", self.at)
    }

    /// Takes from what the file may hold in all.
    pub fn pay(&mut self, amount: usize) -> Step<()> {
        let left = self.allowance.checked_sub(amount);
        self.allowance = left.ok_or("it unfolds to far more than its size")?;
        Ok(())
    }

    /// A new node, for what it holds.
    pub fn add(&mut self, node: Node) -> Step<Id> {
        self.pay(node.weight())?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// Puts a value on the stack once more.
    fn recall(&mut self, id: Id) -> Step<()> {
        self.pay(self.nodes[id].weight_of_recall())?;
        self.stack.push(id);
        Ok(())
    }

    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn since_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("it ends in the middle; copy it again")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A length of `width` bytes.
    fn length(&mut self, width: usize) -> Step<usize> {
        let bytes = self.take(width)?;
        let value = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).map_err(|_| self.damaged("a length"))
    }

    /// An argument of protocol 0, up to the end of its line, which Windows may have made a CRLF.
    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length =
            rest.iter().position(|byte| *byte == b'\n').ok_or("it ends in the middle; copy it again")?;
        let line = self.take(length + 1)?;
        let line = &line[..length];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// The class that two lines name.
    fn named_class(&mut self) -> Step<Rc<str>> {
        let (module, name) = (self.line()?, self.line()?);
        class_name(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))
    }
}

const PERSISTENT: &str = "a persistent id";

/// No class of Python has a longer name; each call compares it.
const LONGEST_NAME: usize = 500;

/// The full name of a class as Python 3 and numpy 1 have it.
fn class_name(module: &str, name: &str) -> Step<Rc<str>> {
    let length = module.len() + name.len();
    if length > LONGEST_NAME {
        return Err(format!("it is damaged: a class with a name of {length} bytes"));
    }
    let class = format!("{module}.{name}").replace("numpy._core.", "numpy.core.");
    Ok(class.replace("__builtin__.", "builtins.").replace("copy_reg.", "copyreg.").into())
}

/// Bytes of a string's length.
fn width_of(code: u8) -> usize {
    match code {
        0x8c | b'U' | b'C' => 1,
        b'X' | b'T' | b'B' => 4,
        _ => 8,
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

fn number<T: std::str::FromStr>(line: &[u8]) -> Step<T> {
    let text = String::from_utf8_lossy(line);
    text.trim().parse().map_err(|_| format!("'{}' is no number", text.chars().take(20).collect::<String>()))
}

fn decimal(line: &[u8]) -> Step<Node> {
    Ok(match line {
        b"00" => Node::Bool(false),
        b"01" => Node::Bool(true),
        _ => match number(line.strip_suffix(b"L").unwrap_or(line)) {
            Ok(value) => Node::Int(value),
            Err(_) if line.len() > 18 && is_whole(line) => long(),
            Err(why) => return Err(why),
        },
    })
}

/// Two's complement of any length, the lowest byte first.
fn integer(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return long();
    }
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut all = [fill; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(all))
}

fn long() -> Node {
    Node::Object("an integer of more than 64 bits")
}

fn is_whole(line: &[u8]) -> bool {
    line.strip_prefix(b"-").unwrap_or(line).iter().all(u8::is_ascii_alphanumeric)
}

/// A string of protocol 0 as Python's `repr` writes it.
fn unquoted(line: &[u8]) -> Step<Vec<u8>> {
    let line = line.trim_ascii();
    let inner = match line {
        [quote @ (b'\'' | b'"'), inner @ .., last] if quote == last => inner,
        _ => return Err("a string without quotes".into()),
    };
    let (mut text, mut rest) = (Vec::new(), inner);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        let Some((kind, after)) = rest.split_first() else { return Err("a string ends in \\".into()) };
        rest = after;
        text.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
                rest = rest.get(2..).unwrap_or_default();
                value.ok_or("a string has a bad \\x")?
            }
            other => *other,
        });
    }
    Ok(text)
}

/// A string of protocol 0 in Python's raw-unicode-escape: Latin-1, `\uXXXX` and `\UXXXXXXXX`.
fn unescaped(line: &[u8]) -> String {
    let (mut text, mut rest) = (String::new(), line);
    while let Some((byte, after)) = rest.split_first() {
        let width = match rest {
            [b'\\', b'u', ..] => 4,
            [b'\\', b'U', ..] => 8,
            _ => 0,
        };
        let digits = rest.get(2..2 + width).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| width > 0).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match escaped.and_then(char::from_u32) {
            Some(c) => {
                text.push(c);
                rest = &rest[2 + width..];
            }
            None => {
                text.push(char::from(*byte));
                rest = after;
            }
        }
    }
    text
}
