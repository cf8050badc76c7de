//! Elements of numpy's arrays.

use super::Node;

/// numpy's dtype: a letter for the kind, as in `<U12`, and the bytes of an element.
#[derive(Debug, Clone, Copy)]
pub struct ElementType {
    kind: u8,
    pub size: usize,
    big: bool,
}

impl ElementType {
    pub fn parse(name: &str) -> ElementType {
        let big = name.starts_with('>');
        let name = name.trim_start_matches(['<', '>', '=', '|']);
        let kind = name.bytes().next().unwrap_or(b'V');
        let count = name.get(1..).unwrap_or_default().parse().unwrap_or(0_usize);
        let size = if kind == b'U' { count.saturating_mul(4) } else { count };
        ElementType { kind, size, big }
    }

    /// This type as its state completes it.
    pub fn with(self, big: bool, size: Option<usize>) -> ElementType {
        // Types of a fixed size have −1 there.
        ElementType { big, size: size.filter(|size| *size > 0).unwrap_or(self.size), ..self }
    }

    /// An element; kinds other than strings and numbers are only named.
    pub fn read(self, bytes: &[u8]) -> Node {
        let value = || {
            let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
            if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
        };
        let unused = 64_u32.saturating_sub(8 * bytes.len().min(8) as u32);
        match (self.kind, bytes.len()) {
            (b'U', _) => {
                let code = |four: &[u8]| {
                    let four = [four[0], four[1], four[2], four[3]];
                    if self.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
                };
                let chars =
                    bytes.chunks_exact(4).map(|four| char::from_u32(code(four)).unwrap_or('\u{fffd}'));
                Node::Text(chars.collect::<String>().trim_end_matches('\0').to_string())
            }
            (b'S' | b'a', _) => {
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                Node::Bytes(bytes[..end].to_vec())
            }
            (b'i', 1 | 2 | 4 | 8) => Node::Int((value() << unused) as i64 >> unused),
            (b'u', 1 | 2 | 4 | 8) => i64::try_from(value()).map_or(Node::None, Node::Int),
            (b'b', 1) => Node::Bool(bytes[0] != 0),
            (b'f', 2 | 4 | 8) => Node::Float,
            _ => Node::Object("an element of a type of numpy that is not read here"),
        }
    }
}
