//! Values as protocol 2 of Python writes them.
#![allow(dead_code)] // Each test file uses a part.

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A string of Python 2.
pub fn bytes(text: &str) -> Vec<u8> {
    [b"U", &[text.len() as u8][..], text.as_bytes()].concat()
}

pub fn number(number: u8) -> Vec<u8> {
    vec![b'K', number]
}

pub fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    [&b"]("[..], &items.into_iter().flatten().collect::<Vec<u8>>(), b"e"].concat()
}

pub fn dictionary(entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let entries = entries.into_iter().flat_map(|(key, value)| [key, value].concat());
    [&b"}("[..], &entries.collect::<Vec<u8>>(), b"u"].concat()
}

/// A file of a value.
pub fn file(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}
