//! A picture of a pack: prepared long ago, read where it lies in the pack's file.
//!
//! It is read at its place into memory of its own, not mapped: see DECISIONS.md.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decode::DecodeConfig;
use super::options::OpenConfig;
use super::picture::Picture;
use crate::error::{Error, Result};

/// What the pictures of a pack were prepared for, and from what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    /// The pack's file.
    #[serde(skip)]
    pub file: PathBuf,
    /// The name of the format that the pictures were packed from.
    pub format: String,
    /// The folder that they were packed from, as it was named.
    pub root: String,
    /// The largest side of the networks' images.
    pub side: usize,
    pub decode: DecodeConfig,
    /// How the data set was opened.
    pub open: OpenConfig,
}

impl Packing {
    /// Refuses networks that want their pictures prepared otherwise.
    ///
    /// # Errors
    /// `Data` with what was packed, what is wanted, and how to pack again.
    pub fn require(&self, side: usize, decode: &DecodeConfig) -> Result<()> {
        if self.side != side {
            let why = format!(
                "packed for images of {0}×{0} pixels, and {side}×{side} are wanted; pack again with --side {side}",
                self.side
            );
            return Err(Error::data(&self.file, why));
        }
        self.require_decode(decode)
    }

    /// Refuses other limits and another orientation than those that the pictures were decoded with.
    ///
    /// # Errors
    /// As [`Packing::require`].
    pub fn require_decode(&self, decode: &DecodeConfig) -> Result<()> {
        self.require_equal(&self.decode.keys(), &decode.keys())
    }

    /// Refuses other words, another split and other classes than those of the pack.
    ///
    /// # Errors
    /// As [`Packing::require`].
    pub fn require_open(&self, open: &OpenConfig) -> Result<()> {
        self.require_equal(&self.open.keys(), &open.keys())
    }

    fn require_equal(&self, packed: &[(&str, String)], wanted: &[(&str, String)]) -> Result<()> {
        let Some(((key, packed), (_, wanted))) =
            packed.iter().zip(wanted).find(|(packed, wanted)| packed != wanted)
        else {
            return Ok(());
        };
        let option = key.replace('_', "-");
        let why = format!(
            "packed with data.{key} = {packed}, and here it is {wanted}; take {packed} here too, or pack again with \
             --{option}={wanted}"
        );
        Err(Error::data(&self.file, why))
    }
}

/// A pack that is open; its pictures share it.
#[derive(Debug)]
pub(super) struct PackFile {
    pub packing: Packing,
    pub file: File,
}

impl PackFile {
    /// `length` bytes from `offset` on; the error says why there are none.
    pub fn read(&self, offset: u64, length: usize) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| format!("out of memory for {} MiB", length >> 20))?;
        bytes.resize(length, 0);
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err("the file was cut off while in use".into()),
            Err(e) => Err(format!("cannot be read: {e}")),
        }
    }

    /// The command that makes this pack anew, as a message ends with it.
    pub fn pack_again(&self) -> String {
        pack_again(&self.packing.file)
    }
}

/// The command that makes a pack anew, as a message ends with it.
pub(super) fn pack_again(file: &Path) -> String {
    format!("copy it again, or pack again: engine data pack DIR --dataset FORMAT --out {}", file.display())
}

/// Where a picture's pixels lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub offset: u64,
    pub width: u32,
    pub height: u32,
    pub crc: u32,
}

impl Place {
    /// Bytes of the pixels.
    pub fn bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * 3
    }
}

/// A prepared picture in a pack.
#[derive(Debug, Clone)]
pub struct Packed {
    pub(super) pack: Arc<PackFile>,
    /// Why there are no pixels, where the file could not be used when it was packed.
    pub(super) place: std::result::Result<Place, Arc<str>>,
    /// The file held gray values only.
    pub(super) gray: bool,
    /// The file's EXIF data asked to turn or mirror the image.
    pub(super) oriented: bool,
}

impl PartialEq for Packed {
    fn eq(&self, other: &Packed) -> bool {
        let kept = |packed: &Packed| (packed.place.clone(), packed.gray, packed.oriented);
        self.pack.packing == other.pack.packing && kept(self) == kept(other)
    }
}

impl Packed {
    pub fn packing(&self) -> &Packing {
        &self.pack.packing
    }

    /// The pixels of the picture `id`, or why its file could not be used when it was packed.
    ///
    /// # Errors
    /// `Data` when they are not what was packed: training on them, or without them, would be another training.
    pub fn picture(&self, id: &str) -> Result<std::result::Result<Picture, String>> {
        let Place { offset, width, height, crc } = match &self.place {
            Ok(place) => *place,
            Err(why) => return Ok(Err(why.to_string())),
        };
        let (width, height) = (width as usize, height as usize);
        let refused = |why: String| {
            let why = format!("the picture {id}: {why}; {}", self.pack.pack_again());
            Error::data(&self.pack.packing.file, why)
        };
        let pixels = self.pack.read(offset, width * height * 3).map_err(refused)?;
        if crc32c::crc32c(&pixels) != crc {
            return Err(refused("damaged: its checksum is wrong".to_string()));
        }
        Ok(Ok(Picture { width, height, pixels }))
    }
}
