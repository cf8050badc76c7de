//! Moments of features in a file: `.npz` with `mu` and `sigma`, as pytorch-fid and clean-fid write and read them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use npyz::{NpyFile, Order, WriteOptions, WriterBuilder};
use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::moments::Moments;
use crate::error::{Error, Result};
use crate::files::{atomic, kind};

const MEAN: &str = "mu.npy";
const COVARIANCE: &str = "sigma.npy";
/// What only files of this program have. numpy gives it as bytes; pytorch-fid and clean-fid do not look at it.
const OWN: &str = "statistics.json";
/// A header of numpy is a description of 128 bytes.
const LONGEST_HEADER: usize = 1024;

/// Moments, and the protocol that their features were computed by.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    pub moments: Moments,
    /// None in the files of other programs.
    pub protocol: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Own {
    images: Option<usize>,
    protocol: Option<serde_json::Value>,
}

impl Statistics {
    /// Reads a file, stored or deflated, of f64 or f32, in C's or Fortran's order. Of `width` dimensions, where that is known.
    ///
    /// # Errors
    /// `Io` where there is no such file; `Data` where it is no such archive, cut off, of another width, lacks a member or
    /// holds what is no mean and covariance.
    pub fn read(path: &Path, width: Option<usize>) -> Result<Statistics> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let data = |why| Error::data(path, why);
        let mut archive =
            ZipArchive::new(BufReader::new(file)).map_err(|e| data(not_an_archive(path, &e)))?;
        let mean = array(&mut archive, MEAN, width.map(|width| vec![width])).map_err(data)?;
        let side = mean.len();
        let covariance = array(&mut archive, COVARIANCE, Some(vec![side, side])).map_err(data)?;
        check(&covariance, side).map_err(data)?;
        let own = own(&mut archive).map_err(data)?;
        let moments = Moments { mean, covariance, images: own.images };
        Ok(Statistics { moments, protocol: own.protocol })
    }

    /// Writes a file that pytorch-fid and clean-fid read too, whole or not at all.
    ///
    /// # Errors
    /// `Io` where the folder does not exist or cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write_with(path, |file| self.fill(file).map(Some).map_err(|source| Error::io(path, source)))
            .map(drop)
    }

    fn fill(&self, file: &mut File) -> std::io::Result<()> {
        let mut zip = ZipWriter::new(BufWriter::new(file));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let width = self.moments.width();
        let arrays = [
            (MEAN, &self.moments.mean, vec![width as u64]),
            (COVARIANCE, &self.moments.covariance, vec![width as u64; 2]),
        ];
        for (name, values, shape) in arrays {
            zip.start_file(name, options.large_file(true))?;
            let array = WriteOptions::new().default_dtype().shape(&shape).writer(&mut zip);
            let mut array = array.begin_nd()?;
            array.extend(values.iter().copied())?;
            array.finish()?;
        }
        zip.start_file(OWN, options)?;
        let own = Own { images: self.moments.images, protocol: self.protocol.clone() };
        zip.write_all(&serde_json::to_vec_pretty(&own)?)?;
        zip.finish()?.flush()
    }
}

type Archive = ZipArchive<BufReader<File>>;
type Reading<T> = std::result::Result<T, String>;

fn not_an_archive(path: &Path, error: &zip::result::ZipError) -> String {
    let whole = "a NumPy archive (.npz) with mu and sigma is needed, as `engine eval stats` writes it";
    match kind::of(path) {
        Some(kind) if kind.contains("ZIP") || kind.contains(".npz") => {
            format!("its zip is damaged ({error}); it may be cut off: copy it again")
        }
        Some(kind) => format!("it is {kind}; {whole}"),
        None => format!("it is no zip; {whole}"),
    }
}

/// An array of f64 or f32, of this shape or, where none is given, of one dimension; row by row.
fn array(archive: &mut Archive, name: &str, shape: Option<Vec<usize>>) -> Reading<Vec<f64>> {
    let short = name.trim_end_matches(".npy");
    if archive.index_for_name(name).is_none() {
        let names: Vec<String> = archive.file_names().flatten().map(|name| name.into_owned()).collect();
        let there: Vec<&str> = names.iter().map(|name| name.trim_end_matches(".npy")).collect();
        return Err(format!(
            "there is no '{short}' in it, but {}; statistics have mu and sigma",
            if there.is_empty() { "nothing".to_string() } else { there.join(", ") }
        ));
    }
    let damaged = |e: &dyn std::fmt::Display| format!("{short} is damaged ({e}); copy the file again");
    let mut member = archive.by_name(name).map_err(|e| damaged(&e))?;
    let header = header(&mut member).map_err(|e| damaged(&e))?;
    let file = NpyFile::new(header.as_slice().chain(&mut member)).map_err(|e| damaged(&e))?;
    let (found, order) = (file.shape().to_vec(), file.order());
    let fits = match &shape {
        Some(shape) => found.iter().map(|&side| side as usize).eq(shape.iter().copied()),
        None => found.len() == 1 && found[0] > 0,
    };
    if !fits {
        let needed = shape.map_or("a vector".to_string(), |shape| format!("{shape:?}"));
        return Err(format!(
            "{short} has the shape {found:?} where {needed} is needed; were its features computed by another network?"
        ));
    }
    let values = numbers(file, short)?;
    // The checksum is compared at the end of the member.
    if member.read(&mut [0]).map_err(|e| damaged(&e))? > 0 {
        return Err(damaged(&"numbers follow its last"));
    }
    match (order, found.as_slice()) {
        (Order::Fortran, &[rows, columns]) => {
            let (rows, columns) = (rows as usize, columns as usize);
            Ok((0..rows * columns).map(|at| values[at % columns * rows + at / columns]).collect())
        }
        _ => Ok(values),
    }
}

/// The bytes up to the numbers. The parser that they go to neither bounds its recursion nor the product of a shape.
fn header(member: &mut impl Read) -> Reading<Vec<u8>> {
    let mut bytes = vec![0; 10];
    member.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("it is no array".to_string());
    }
    let mut length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    if bytes[6] > 1 {
        let mut high = [0; 2];
        member.read_exact(&mut high).map_err(|e| e.to_string())?;
        bytes.extend(high);
        length |= usize::from(u16::from_le_bytes(high)) << 16;
    }
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let begin = bytes.len();
    bytes.resize(begin + length, 0);
    member.read_exact(&mut bytes[begin..]).map_err(|e| e.to_string())?;
    let count = |is: fn(&u8) -> bool| bytes[begin..].iter().filter(|&b| is(b)).count();
    match count(u8::is_ascii_digit) < 20 && count(|b| b"([{-".contains(b)) < 5 {
        true => Ok(bytes),
        false => Err("its header describes no array of numbers".to_string()),
    }
}

fn numbers(file: NpyFile<impl Read>, name: &str) -> Reading<Vec<f64>> {
    let cut = |e: std::io::Error| format!("{name} is cut off or damaged ({e}); copy the file again");
    let dtype = file.dtype().descr();
    let values = match file.try_data::<f64>() {
        Ok(values) => values.collect::<std::io::Result<Vec<f64>>>().map_err(cut)?,
        Err(file) => {
            let values =
                file.try_data::<f32>().map_err(|_| format!("{name} holds {dtype}; f64 or f32 is read"))?;
            values.map(|x| x.map(f64::from)).collect::<std::io::Result<Vec<f64>>>().map_err(cut)?
        }
    };
    match values.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(format!("{name} holds {} at place {at}; compute the statistics again", values[at])),
        None => Ok(values),
    }
}

/// A covariance is symmetric, and variances are not negative.
fn check(covariance: &[f64], side: usize) -> Reading<()> {
    let variances: Vec<f64> = covariance.iter().step_by(side + 1).copied().collect();
    let largest = variances.iter().copied().fold(0.0, f64::max);
    let again = "it is no covariance; compute the statistics again";
    if let Some(at) = variances.iter().position(|&variance| variance < 0.0) {
        return Err(format!("sigma has the variance {} at place {at}: {again}", variances[at]));
    }
    for i in 0..side {
        for j in 0..i {
            let (lower, upper) = (covariance[i * side + j], covariance[j * side + i]);
            if (lower - upper).abs() > 1e-5 * largest {
                return Err(format!("sigma is not symmetric ({lower} and {upper} at {i}, {j}): {again}"));
            }
        }
    }
    Ok(())
}

fn own(archive: &mut Archive) -> Reading<Own> {
    if archive.index_for_name(OWN).is_none() {
        return Ok(Own { images: None, protocol: None });
    }
    let damaged = |e: &dyn std::fmt::Display| format!("{OWN} is damaged ({e}); copy the file again");
    let mut text = String::new();
    let member = archive.by_name(OWN).map_err(|e| damaged(&e))?;
    member.take(1 << 20).read_to_string(&mut text).map_err(|e| damaged(&e))?;
    serde_json::from_str(&text).map_err(|e| damaged(&e))
}
