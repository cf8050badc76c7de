//! Zip files with stored entries, as PyTorch writes them, whose every field may be wrong.

/// An entry as its tables describe it.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub content: Vec<u8>,
    pub crc: u32,
    /// In the local header and in the directory: bytes with and without compression.
    pub sizes: [u64; 2],
    pub method: u16,
    pub flags: u16,
    /// Where the directory says that the local header is; none for where it is.
    pub offset: Option<u64>,
    pub zip64: bool,
}

impl Entry {
    pub fn new(name: impl AsRef<[u8]>, content: impl Into<Vec<u8>>) -> Entry {
        let content = content.into();
        let size = content.len() as u64;
        let name = name.as_ref().to_vec();
        Entry {
            name,
            crc: crc32(&content),
            sizes: [size; 2],
            content,
            method: 0,
            flags: 0,
            offset: None,
            zip64: false,
        }
    }
}

pub fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// A file of these entries; `tail` says how the end record differs from the truth: entries, size and start of the directory.
pub fn zip(entries: &[Entry], tail: [u64; 3]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = entry.offset.unwrap_or(file.len() as u64);
        file.extend(b"PK\x03\x04");
        file.extend(fields(entry, None));
        file.extend(&entry.content);
        directory.extend(b"PK\x01\x02\x2d\0");
        directory.extend(fields(entry, Some(at)));
    }
    let zip64 = entries.iter().any(|entry| entry.zip64);
    let count = (entries.len() as u64).wrapping_add(tail[0]);
    let size = (directory.len() as u64).wrapping_add(tail[1]);
    let start = (file.len() as u64).wrapping_add(tail[2]);
    file.extend(directory);
    if zip64 {
        let at = file.len() as u64;
        file.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
        [count, count, size, start].iter().for_each(|field| file.extend(field.to_le_bytes()));
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(at.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
    }
    let small = |field: u64| if zip64 { u32::MAX } else { field as u32 };
    file.extend(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|field| file.extend((small(*field) as u16).to_le_bytes()));
    [size, start].iter().for_each(|field| file.extend(small(*field).to_le_bytes()));
    file.extend([0, 0]);
    file
}

/// The fields that both headers share, and those of the directory where `at` is given.
fn fields(entry: &Entry, at: Option<u64>) -> Vec<u8> {
    let mut out = vec![0x2d, 0];
    [entry.flags, entry.method, 0, 0x21].iter().for_each(|field| out.extend(field.to_le_bytes()));
    out.extend(entry.crc.to_le_bytes());
    let mut extra = Vec::new();
    let mut wide = entry.sizes.to_vec();
    wide.extend(at);
    if entry.zip64 {
        extra.extend([1, 0]);
        extra.extend((8 * wide.len() as u16).to_le_bytes());
        wide.iter().for_each(|field| extra.extend(field.to_le_bytes()));
    }
    let small = |field: u64| if entry.zip64 { u32::MAX } else { field as u32 }.to_le_bytes();
    entry.sizes.iter().for_each(|size| out.extend(small(*size)));
    out.extend((entry.name.len() as u16).to_le_bytes());
    out.extend((extra.len() as u16).to_le_bytes());
    if let Some(at) = at {
        // No comment, the first disk, no attributes.
        out.extend([0; 10]);
        out.extend(small(at));
    }
    out.extend(&entry.name);
    out.extend(extra);
    out
}

/// The entries of a whole file, read by its local headers.
pub fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    (0..zip.len())
        .map(|at| {
            let mut file = zip.by_index(at).unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut content).unwrap();
            Entry::new(file.name().unwrap().as_bytes(), content)
        })
        .collect()
}
