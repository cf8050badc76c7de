//! PyTorch's `.pth` files: the zip format of today, and the legacy format from before PyTorch 1.6. Nothing in them is executed.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::rc::Rc;

use bytemuck::pod_collect_to_vec;
use half::{bf16, f16};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::safetensors::Contents;
use super::{Array, Values};
use crate::error::{Error, Result};
use crate::files::pickle::{self, Id, Node, Pickle, Storage, Tensor};

/// Why a file cannot be read.
type Reading<T> = std::result::Result<T, String>;

/// Whether a file begins as one of both formats does.
pub fn is_pth(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, 0x8a, 0x0a, ..])
}

/// The tensors in `bytes`, which are those of the file `path`. Several dictionaries of tensors, each under its name, become one.
///
/// # Errors
/// `Data` when the file is damaged, holds no dictionary of tensors, or wants to call what is no tensor.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let found = if bytes.starts_with(b"PK") { read_zip(bytes) } else { read_legacy(bytes) };
    found.map_err(|why| Error::data(path, format!("a PyTorch file that cannot be read: {why}")))
}

// ---------------------------------------------------------------- containers

/// The numbers of a storage.
struct Numbers<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

/// `NAME/data.pkl`, `NAME/data/KEY` and `NAME/byteorder`, stored without compression.
fn read_zip(bytes: &[u8]) -> Reading<Contents> {
    let damaged = |e: &dyn std::fmt::Display| format!("its zip is damaged ({e}); copy it again");
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let names: Vec<String> = zip.file_names().flatten().map(|name| name.into_owned()).collect();
    let Some(object) = names.iter().find(|name| name.ends_with("/data.pkl")).cloned() else {
        return Err("there is no data.pkl in it; is it TorchScript, or another zip?".to_string());
    };
    let folder = object.trim_end_matches("data.pkl").to_string();
    // Entries that overlap would unfold to more than the file.
    let mut left = bytes.len() as u64;
    let mut entry = |name: &str| -> Reading<Vec<u8>> {
        let mut file = zip.by_name(name).map_err(|e| format!("{name}: {}", damaged(&e)))?;
        let size = file.size();
        left = left.checked_sub(size).ok_or("its parts are larger than the file; copy it again")?;
        let mut content = Vec::with_capacity(size as usize);
        file.by_ref().take(size).read_to_end(&mut content).map_err(|e| format!("{name}: {}", damaged(&e)))?;
        // The checksum is compared at the end of the entry.
        if file.read(&mut [0]).map_err(|e| format!("{name}: {}", damaged(&e)))? > 0 {
            return Err(format!("{name}: {}", damaged(&"a wrong size")));
        }
        Ok(content)
    };
    let pickle = pickle::read(&entry(&object)?)?;
    let order = format!("{folder}byteorder");
    let big_endian = match names.contains(&order).then(|| entry(&order)).transpose()?.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => return Err("its byte order is neither little nor big; copy it again".to_string()),
    };
    let mut kept: BTreeMap<String, Rc<Vec<u8>>> = BTreeMap::new();
    tensors(&pickle, bytes.len(), |storage, decode| {
        if !kept.contains_key(&storage.key) {
            kept.insert(storage.key.clone(), Rc::new(entry(&format!("{folder}data/{}", storage.key))?));
        }
        decode(Numbers { bytes: &kept[&storage.key], big_endian })
    })
}

/// The first pickle of the legacy format. Source: `MAGIC_NUMBER` of `torch/serialization.py`, as its pickle has it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Five pickles (magic, protocol, system, object, keys of storages), then of each storage its count and its numbers, the
/// lowest byte first: PyTorch writes them so on every machine, and reads them so whatever `system` says of the writer's.
fn read_legacy(bytes: &[u8]) -> Reading<Contents> {
    if !bytes.get(2..).is_some_and(|rest| rest.starts_with(MAGIC)) {
        return Err("its magic number is wrong; copy it again".to_string());
    }
    let mut at = 0;
    let mut next = || -> Reading<Pickle> {
        let pickle = pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    let (_magic, _protocol, _system, object, keys) = (next()?, next()?, next()?, next()?, next()?);
    let keys = keys.list(keys.root).unwrap_or_default().iter().filter_map(|key| keys.text(*key));
    let keys: Vec<String> = keys.collect();
    let sizes = storages(&object);
    let mut places: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for key in &keys {
        let cut = || format!("it is cut off at the numbers of storage {key}; copy it again");
        let storage = sizes.get(key.as_str()).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        let width = width(&storage.class).ok_or_else(|| not_read(&storage.class))?;
        let head: [u8; 8] = bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or_else(cut)?;
        let length =
            usize::try_from(u64::from_le_bytes(head)).ok().and_then(|count| count.checked_mul(width));
        let end = length.and_then(|length| (at + 8).checked_add(length));
        let numbers = end.and_then(|end| bytes.get(at + 8..end)).ok_or_else(cut)?;
        places.insert(key, numbers);
        at += 8 + numbers.len();
    }
    tensors(&object, bytes.len(), |storage, decode| {
        let bytes = places.get(storage.key.as_str());
        let mut bytes =
            *bytes.ok_or_else(|| format!("the numbers of storage {} are missing", storage.key))?;
        if let Some((_, first, count)) = &storage.part {
            let width = width(&storage.class).unwrap_or(1);
            let range = first.checked_mul(width).zip(count.checked_mul(width));
            let range = range.and_then(|(first, count)| Some(first..first.checked_add(count)?));
            bytes = range.and_then(|range| bytes.get(range)).ok_or("a part lies outside of its storage")?;
        }
        decode(Numbers { bytes, big_endian: false })
    })
}

/// The storages of all tensors, by key.
fn storages(pickle: &Pickle) -> BTreeMap<&str, &Storage> {
    let mut storages = BTreeMap::new();
    for node in pickle.nodes() {
        // Of several descriptions the first counts, as in PyTorch.
        if let Node::Storage(storage) = node {
            storages.entry(storage.key.as_str()).or_insert(storage.as_ref());
        }
    }
    storages
}

// ---------------------------------------------------------------- what they hold

/// A dictionary's entries whose keys are strings.
fn entries(pickle: &Pickle, id: Id) -> impl Iterator<Item = (String, Id)> {
    let entries = if let Node::Dict(entries) = pickle.node(id) { entries.as_slice() } else { &[] };
    entries.iter().filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
}

/// The tensors of a dictionary.
fn state(pickle: &Pickle, id: Id) -> impl Iterator<Item = (String, &Rc<Tensor>)> {
    entries(pickle, id).filter_map(|(key, id)| match pickle.node(id) {
        Node::Tensor(tensor) => Some((key, tensor)),
        _ => None,
    })
}

/// Dictionaries of tensors, each with what its names begin with, and the file's metadata.
type Networks = (Vec<(String, Id)>, BTreeMap<String, String>);

/// The dictionaries of tensors, each with what its names begin with: the root; or those in it, of which one alone needs no
/// prefix.
fn networks(pickle: &Pickle) -> Reading<Networks> {
    let (root, mut metadata) = (pickle.root, BTreeMap::new());
    // One dictionary may stand under many names.
    let mut known = BTreeMap::new();
    let mut is_network = |id: Id| *known.entry(id).or_insert_with(|| state(pickle, id).next().is_some());
    let mut inner: Vec<(String, Id)> = entries(pickle, root).filter(|(_, id)| is_network(*id)).collect();
    let networks = match (is_network(root), &mut inner[..]) {
        (false, []) => return Err(format!("it holds {}, no tensors by name", pickle.describe(root))),
        (true, []) => vec![(String::new(), root)],
        (false, [(key, id)]) => {
            metadata.insert("wrapped".to_string(), std::mem::take(key));
            vec![(String::new(), *id)]
        }
        (root_too, several) => {
            let keys: Vec<&str> = several.iter().map(|(key, _)| key.as_str()).collect();
            metadata.insert(super::NETWORKS.to_string(), keys.join(", "));
            let root = root_too.then(|| (String::new(), root));
            root.into_iter().chain(several.iter().map(|(key, id)| (format!("{key}."), *id))).collect()
        }
    };
    Ok((networks, metadata))
}

/// Room for numbers that a tensor takes beside its own.
const A_TENSOR: usize = 16;

/// Finds the dictionary of tensors and decodes it; `numbers` gives those of a storage to its second argument.
fn tensors(
    pickle: &Pickle,
    file_size: usize,
    mut numbers: impl FnMut(&Storage, &mut dyn FnMut(Numbers) -> Reading<Array>) -> Reading<Array>,
) -> Reading<Contents> {
    if let Some(call) = pickle.unknown_calls.first() {
        return Err(format!(
            "it wants to call {call}, which makes no tensor; save the model's state_dict() alone, and do not load this file \
             with PyTorch unless you trust it"
        ));
    }
    let (networks, metadata) = networks(pickle)?;
    const PARALLEL: &str = "module.";
    // Views that repeat numbers may be larger than the file, within reason.
    let mut left = file_size.saturating_mul(2).saturating_add(1 << 14);
    let mut arrays = BTreeMap::new();
    for (prefix, id) in networks {
        let is_parallel = state(pickle, id).all(|(name, _)| name.starts_with(PARALLEL));
        for (name, tensor) in state(pickle, id) {
            let count = tensor.shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
            let beside = A_TENSOR + tensor.shape.len() + prefix.len() / 4;
            left = count.and_then(|count| left.checked_sub(count)?.checked_sub(beside)).ok_or_else(|| {
                format!("'{name}' is of {:?}, far more than the file can hold", tensor.shape)
            })?;
            let array = numbers(&tensor.storage, &mut |numbers| decode(tensor, &numbers));
            let array = array.map_err(|why| format!("'{name}': {why}"))?;
            let name = if is_parallel { &name[PARALLEL.len()..] } else { &name };
            let name = format!("{prefix}{name}");
            if arrays.contains_key(&name) {
                return Err(format!("'{name}' is in it twice"));
            }
            arrays.insert(name, array);
        }
    }
    Ok((arrays, metadata))
}

/// Bytes of a number; none for a class that is not read here.
fn width(class: &str) -> Option<usize> {
    Some(match class {
        "DoubleStorage" | "LongStorage" => 8,
        "FloatStorage" | "IntStorage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
        _ => return None,
    })
}

fn not_read(class: &str) -> String {
    format!("{class} is not read here; save it as float32")
}

fn decode(tensor: &Tensor, numbers: &Numbers) -> Reading<Array> {
    let class = tensor.storage.class.as_str();
    let width = width(class).ok_or_else(|| not_read(class))?;
    let there = numbers.bytes.len() / width;
    let places = places(tensor, there).ok_or_else(|| {
        let Tensor { shape, stride, offset, .. } = tensor;
        format!("a view of {shape:?} with strides {stride:?} from {offset} leaves its {there} numbers; copy the file again")
    })?;
    if let ("FloatStorage", false, true) = (class, numbers.big_endian, is_contiguous(tensor)) {
        let count: usize = tensor.shape.iter().product();
        let values = pod_collect_to_vec(&numbers.bytes[tensor.offset * width..][..count * width]);
        return Ok(Array { shape: tensor.shape.clone(), values: Values::F32(values) });
    }
    let number = |place: usize| {
        let mut eight = [0; 8];
        eight[..width].copy_from_slice(&numbers.bytes[place * width..][..width]);
        if numbers.big_endian {
            eight[..width].reverse();
        }
        eight
    };
    let bits = places.map(|place| u64::from_le_bytes(number(place)));
    let values = match class {
        "FloatStorage" => Values::F32(bits.map(|b| f32::from_bits(b as u32)).collect()),
        "DoubleStorage" => Values::F32(bits.map(|b| f64::from_bits(b) as f32).collect()),
        "HalfStorage" => Values::F32(bits.map(|b| f16::from_bits(b as u16).to_f32()).collect()),
        "BFloat16Storage" => Values::F32(bits.map(|b| bf16::from_bits(b as u16).to_f32()).collect()),
        "LongStorage" => Values::I64(bits.map(|b| b as i64).collect()),
        "IntStorage" => Values::I64(bits.map(|b| i64::from(b as u32 as i32)).collect()),
        "ShortStorage" => Values::I64(bits.map(|b| i64::from(b as u16 as i16)).collect()),
        "CharStorage" => Values::I64(bits.map(|b| i64::from(b as u8 as i8)).collect()),
        _ => Values::I64(bits.map(|b| b as i64).collect()),
    };
    Ok(Array { shape: tensor.shape.clone(), values })
}

/// Whether the numbers of a tensor that is not empty lie one behind the other; sides of one number move nothing.
fn is_contiguous(Tensor { shape, stride, .. }: &Tensor) -> bool {
    let mut next = 1;
    !shape.contains(&0)
        && shape.iter().zip(stride).rev().all(|(side, stride)| {
            let fits = *side == 1 || *stride == next;
            next *= side;
            fits
        })
}

/// Where each number of a tensor lies among `there` numbers, in row-major order; none where one lies outside.
fn places(tensor: &Tensor, there: usize) -> Option<impl Iterator<Item = usize>> {
    let Tensor { offset, shape, stride, .. } = tensor;
    let is_empty = shape.contains(&0);
    let reach = shape.iter().zip(stride).try_fold(*offset, |reach, (side, stride)| {
        side.saturating_sub(1).checked_mul(*stride).and_then(|more| reach.checked_add(more))
    });
    if !is_empty && reach.is_none_or(|last| last >= there) {
        return None;
    }
    // Sides of one number move nothing.
    let axes: Vec<(usize, usize)> =
        shape.iter().copied().zip(stride.iter().copied()).filter(|(side, _)| *side != 1).collect();
    let count = if is_empty { 0 } else { axes.iter().map(|(side, _)| side).product() };
    let (mut index, mut place) = (vec![0; axes.len()], *offset);
    Some((0..count).map(move |_| {
        let here = place;
        for (at, (side, stride)) in index.iter_mut().zip(&axes).rev() {
            *at += 1;
            place = place.wrapping_add(*stride);
            if *at < *side {
                break;
            }
            place = place.wrapping_sub(stride.wrapping_mul(*side));
            *at = 0;
        }
        here
    }))
}

// ---------------------------------------------------------------- writing

/// The bytes of a file in the zip format that holds `arrays`, as `torch.save` of a state dict would write them.
pub fn bytes(arrays: &BTreeMap<String, Array>) -> std::io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    let mut put = |name: &str, content: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored)?;
        zip.write_all(content)
    };
    put("data.pkl", &state_dict(arrays))?;
    put("byteorder", b"little")?;
    for (key, array) in arrays.values().enumerate() {
        let content: Vec<u8> = match &array.values {
            Values::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        put(&format!("data/{key}"), &content)?;
    }
    put("version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

/// The pickle of an OrderedDict of tensors, protocol 2.
fn state_dict(arrays: &BTreeMap<String, Array>) -> Vec<u8> {
    const ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";
    let mut out = b"\x80\x02".to_vec();
    out.extend(ORDERED_DICT);
    out.push(b'(');
    for (key, (name, array)) in arrays.iter().enumerate() {
        let class = match &array.values {
            Values::F32(_) => "FloatStorage",
            Values::I64(_) => "LongStorage",
        };
        let count: usize = array.shape.iter().product();
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{class}\n").as_bytes());
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        integer(&mut out, count);
        out.extend(b"tQ");
        integer(&mut out, 0);
        let stride = (0..array.shape.len()).map(|axis| array.shape[axis + 1..].iter().product());
        for sizes in [array.shape.clone(), stride.collect::<Vec<usize>>()] {
            out.push(b'(');
            sizes.into_iter().for_each(|size| integer(&mut out, size));
            out.push(b't');
        }
        // It needs no gradient and has no hooks.
        out.push(0x89);
        out.extend(ORDERED_DICT);
        out.extend(b"tR");
    }
    out.extend(b"u.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    out.extend([0x8a, 8]);
    out.extend((value as u64).to_le_bytes());
}
