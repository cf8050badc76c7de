//! What a file was from which a run took something.

use std::io::BufReader;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    pub file: String,
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

impl Origin {
    /// Of a file whose bytes are at hand.
    pub fn of_bytes(path: &Path, bytes: &[u8]) -> Origin {
        Origin::new(path, bytes.len() as u64, Sha256::digest(bytes).into())
    }

    pub fn read(path: &Path) -> Result<Origin> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let mut hash = Sha256::new();
        let bytes = std::io::copy(&mut BufReader::new(file), &mut hash).map_err(|e| Error::io(path, e))?;
        Ok(Origin::new(path, bytes, hash.finalize().into()))
    }

    fn new(path: &Path, bytes: u64, hash: [u8; 32]) -> Origin {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Origin { file, bytes, sha256 }
    }
}
