//! What is known of each picture, kept on the disk as an evaluation goes on, so that an interrupted one is not begun again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::nn::{Archive, Array, Values};
use crate::error::{Error, Result};
use crate::eval::{Collector, Features};

/// How long an evaluation may be set back by a power cut.
const DUE: Duration = Duration::from_secs(20);
const NUMBERS: &str = "numbers";

/// Columns of rows, a row for each picture by its number, ascending.
pub(super) struct Table {
    /// None: nothing is kept on the disk.
    folder: Option<PathBuf>,
    part: &'static str,
    columns: BTreeMap<String, Collector>,
    next: usize,
    /// What is not on the disk yet.
    pending: BTreeMap<String, Vec<f32>>,
    pending_numbers: Vec<i64>,
    saved: Instant,
}

impl Table {
    /// With what an interrupted evaluation left in `folder` under the name `part`.
    pub(super) fn open(folder: Option<&Path>, part: &'static str) -> Result<Table> {
        let mut table = Table {
            folder: folder.map(Path::to_path_buf),
            part,
            columns: BTreeMap::new(),
            next: 0,
            pending: BTreeMap::new(),
            pending_numbers: Vec::new(),
            saved: Instant::now(),
        };
        for file in table.files() {
            let archive = Archive::read(&file)?;
            let numbers = archive.get(NUMBERS).map(Array::to_i64).unwrap_or_default();
            if numbers.first().is_none_or(|first| *first < table.next as i64) {
                return Err(Error::data(
                    &file,
                    "not a part of an evaluation; remove its folder and evaluate again",
                ));
            }
            for name in archive.names().filter(|name| *name != NUMBERS) {
                let Some(array) = archive.get(name) else { continue };
                let width = array.shape.last().copied().unwrap_or(0).max(1);
                let values = array.to_f32();
                for (number, row) in numbers.iter().zip(values.chunks_exact(width)) {
                    table.collect(name, *number as u64, row)?;
                }
            }
            table.next = numbers.last().map_or(table.next, |last| *last as usize + 1);
        }
        Ok(table)
    }

    /// The files of this part, by rising numbers.
    fn files(&self) -> Vec<PathBuf> {
        let entries = self.folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let begin = format!("{}-", self.part);
        let is_own = |name: &str| name.starts_with(&begin) && name.ends_with(".safetensors");
        let own = entries.filter(|entry| is_own(&entry.file_name().to_string_lossy()));
        let mut files: Vec<PathBuf> = own.map(|entry| entry.path()).collect();
        files.sort();
        files
    }

    pub(super) fn len(&self) -> usize {
        self.columns.values().next().map_or(0, Collector::len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number after that of the last picture.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    fn collect(&mut self, column: &str, number: u64, row: &[f32]) -> Result<()> {
        if !self.columns.contains_key(column) {
            self.columns.insert(column.to_string(), Collector::new(row.len()));
        }
        self.columns.get_mut(column).map_or(Ok(()), |collector| collector.push(number, row))
    }

    /// Takes what is known of the picture of this number.
    ///
    /// # Errors
    /// `Features` where a row is not finite.
    pub(super) fn push(&mut self, number: usize, columns: &[(&str, Vec<f32>)]) -> Result<()> {
        for (column, row) in columns {
            self.collect(column, number as u64, row)?;
            if self.folder.is_some() {
                self.pending.entry(column.to_string()).or_default().extend(row);
            }
        }
        if self.folder.is_some() {
            self.pending_numbers.push(number as i64);
        }
        self.next = number + 1;
        Ok(())
    }

    pub(super) fn save_if_due(&mut self) -> Result<()> {
        if self.saved.elapsed() >= DUE { self.save() } else { Ok(()) }
    }

    /// Writes what is not on the disk yet.
    pub(super) fn save(&mut self) -> Result<()> {
        let (Some(folder), Some(first)) = (&self.folder, self.pending_numbers.first()) else { return Ok(()) };
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let file = folder.join(format!("{}-{first:09}.safetensors", self.part));
        let numbers = std::mem::take(&mut self.pending_numbers);
        let rows = numbers.len();
        let mut archive = Archive::default();
        archive.insert(NUMBERS, Array { shape: vec![rows], values: Values::I64(numbers) });
        for (column, values) in std::mem::take(&mut self.pending) {
            let shape = [rows, values.len() / rows];
            archive.insert(column, Array::f32(&shape, values));
        }
        archive.write(&file)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// A column, all of whose rows are there; none where there is no such column.
    pub(super) fn take(&mut self, column: &str) -> Result<Option<Features>> {
        self.columns.remove(column).map(Collector::finish).transpose()
    }
}
