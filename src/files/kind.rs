//! What a file is by its first bytes, for messages: a name says little.

use std::path::Path;

/// Bytes that tell every kind below from the others.
const HEAD: u64 = 512;

/// What the file is, where its first bytes are those of a known format; none for plain text and for what cannot be
/// read.
pub fn of(path: &Path) -> Option<&'static str> {
    of_bytes(&super::head(path, HEAD).ok()?)
}

/// As [`of`], from the file's first bytes.
pub fn of_bytes(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let holds = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    Some(match head {
        // Eight bytes of the header's length, which may look like any other magic number, then the header.
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => "a safetensors file",
        _ if at(0, b"PK\x03\x04") && holds(b"data.pkl") => "a PyTorch file",
        _ if at(0, b"PK\x03\x04") && holds(b".npy") => "a NumPy archive (.npz)",
        _ if at(0, b"PK\x03\x04") => "a ZIP file",
        // The magic number of torch.save before PyTorch 1.6 follows the pickle's first bytes.
        [0x80, 2..=5, 0x8a, 0x0a, ..] => "a PyTorch file",
        _ if at(257, b"ustar") => "a tar archive",
        [0x80, 2..=5, ..] => "a Python pickle",
        _ if at(0, b"\x93NUMPY") => "a NumPy array (.npy)",
        _ if at(0, b"\x89HDF\r\n\x1a\n") => "an HDF5 file",
        _ if at(0, b"\xff\xd8\xff") => "a JPEG image",
        _ if at(0, b"\x89PNG\r\n\x1a\n") => "a PNG image",
        _ if at(0, b"RIFF") && at(8, b"WEBP") => "a WebP image",
        _ if at(0, b"GIF8") => "a GIF image",
        _ if at(0, b"II*\0") || at(0, b"MM\0*") => "a TIFF image",
        _ if at(4, b"ftypavif") || at(4, b"ftypavis") => "an AVIF image",
        _ if at(4, b"ftyp") && (at(8, b"hei") || at(8, b"mif1")) => "a HEIF image",
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => "a BMP image",
        _ if at(0, b"\x1f\x8b") => "a gzip file",
        _ if at(0, b"%PDF") => "a PDF file",
        _ if at(0, b"\x7fELF") => "a program",
        _ if at(0, b"\xff\xfe") || at(0, b"\xfe\xff") => "UTF-16 text",
        _ if at(0, b"version https://git-lfs") => "a Git LFS pointer, not the file itself",
        _ if at(0, b"<!DOCTYPE") || at(0, b"<!doctype") || at(0, b"<html") => "a web page",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_first_bytes() {
        for (head, kind) in [
            (&b"PK\x03\x04\x14\0netG/data.pkl"[..], "a PyTorch file"),
            (b"PK\x03\x04\x14\0arr_0.npy", "a NumPy archive (.npz)"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
            (b"\x80\x02]q\0(", "a Python pickle"),
            (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
            (b"\x40\0\0\0\0\0\0\0{\"x\":", "a safetensors file"),
            (b"\x80\x02\0\0\0\0\0\0{\"x\":", "a safetensors file"),
            (b"\xff\xfe\0\0\0\0\0\0{\"x\":", "a safetensors file"),
            (b"\xff\xfea\0", "UTF-16 text"),
            (b"\x80\x02\0\0\0\0\0\0{\"x\":", "a safetensors file"),
            (b"\x1f\x8b\0\0\0\0\0\0{\"x\":", "a safetensors file"),
        ] {
            assert_eq!(of_bytes(head), Some(kind));
        }
        assert_eq!(of_bytes(b"a red bird"), None);
        assert_eq!(of_bytes(b""), None);
    }
}
