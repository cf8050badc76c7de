//! The corners of PyTorch's formats that its files of today do not show, and what adversaries make of them.

#[path = "parsing/zips.rs"]
mod zips;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mirrorgan_engine::engine::nn::{Archive, Array, Values};

use self::zips::{Entry, entries, zip};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// Reads a file with these bytes; the error names the file.
fn read(bytes: &[u8]) -> Result<Archive, String> {
    FOLDER.with(|folder| {
        let path = folder.path().join("netG.pth");
        std::fs::write(&path, bytes).unwrap();
        Archive::read(&path).map_err(|error| {
            let message = error.to_string();
            assert!(message.contains("netG.pth: ") && message.len() < 4000, "{message}");
            message
        })
    })
}

thread_local! {
    static FOLDER: tempfile::TempDir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
}

#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    let message = read(bytes).map(|archive| archive.len()).unwrap_err();
    assert!(message.contains(reason), "'{reason}' is not in: {message}");
}

#[track_caller]
fn same(ours: &Archive, theirs: &Archive) {
    assert!(!ours.is_empty() && ours.names().eq(theirs.names()));
    for name in ours.names() {
        assert_eq!(ours.get(name), theirs.get(name), "{name}");
    }
}

// ---------------------------------------------------------------- what a test writes

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn number(number: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &number.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

fn numbers(of: &[i64]) -> Vec<u8> {
    tuple(&of.iter().map(|size| number(*size)).collect::<Vec<_>>())
}

/// A tensor over storage `key`; `part` is the rest of the storage's description.
fn tensor(class: &str, key: &str, count: i64, part: &[Vec<u8>], place: (i64, &[i64], &[i64])) -> Vec<u8> {
    let described =
        [text("storage"), format!("ctorch\n{class}\n").into_bytes(), text(key), text("cpu"), number(count)];
    let storage = [tuple(&[&described, part].concat()), b"Q".to_vec()].concat();
    let (offset, shape, stride) = place;
    let arguments = tuple(&[storage, number(offset), numbers(shape), numbers(stride)]);
    [b"ctorch._utils\n_rebuild_tensor\n", &arguments[..], b"R"].concat()
}

fn dictionary(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"\x80\x02}(", &entries[..], b"u."].concat()
}

/// A zip with this pickle and these storages.
fn zipped(pickle: &[u8], storages: &[(&str, Vec<u8>)], order: &str) -> Vec<u8> {
    let mut parts = vec![
        Entry::new("x/data.pkl", pickle),
        Entry::new("x/byteorder", order),
        Entry::new("x/version", "3\n"),
    ];
    parts.extend(storages.iter().map(|(key, content)| Entry::new(format!("x/data/{key}"), content.clone())));
    zip(&parts, [0; 3])
}

/// A legacy file: keys and numbers of its storages.
fn legacy(pickle: &[u8], storages: &[(&str, usize, Vec<u8>)]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let mut file = [&head[..], pickle, b"\x80\x02](", &keys, b"e."].concat();
    for (_, count, content) in storages {
        file.extend((*count as u64).to_le_bytes());
        file.extend(content);
    }
    file
}

fn floats(of: &[f32]) -> Vec<u8> {
    of.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// {"w": ..} over four floats, in both formats.
fn one_tensor(offset: i64, shape: &[i64], stride: &[i64]) -> [Vec<u8>; 2] {
    let pickle = |part: &[Vec<u8>]| {
        dictionary(&[("w", tensor("FloatStorage", "0", 4, part, (offset, shape, stride)))])
    };
    let content = floats(&[1.0, 2.0, 3.0, 4.0]);
    [
        zipped(&pickle(&[]), &[("0", content.clone())], "little"),
        legacy(&pickle(&[b"N".to_vec()]), &[("0", 4, content)]),
    ]
}

// ---------------------------------------------------------------- corners

#[test]
fn numbers_of_big_machines_are_read() {
    let of = |class: &str, key: &str, count| tensor(class, key, count, &[], (0, &[count], &[1]));
    let pickle = dictionary(&[
        ("f32", of("FloatStorage", "0", 2)),
        ("f64", of("DoubleStorage", "1", 1)),
        ("f16", of("HalfStorage", "2", 1)),
        ("bf16", of("BFloat16Storage", "3", 1)),
        ("i64", of("LongStorage", "4", 1)),
        ("i32", of("IntStorage", "5", 1)),
        ("i16", of("ShortStorage", "6", 1)),
        ("u8", of("ByteStorage", "7", 2)),
    ]);
    let storages = [
        ("0", [1.5_f32.to_be_bytes(), (-2.0_f32).to_be_bytes()].concat()),
        ("1", 0.25_f64.to_be_bytes().to_vec()),
        ("2", half::f16::from_f32(0.5).to_be_bytes().to_vec()),
        ("3", half::bf16::from_f32(3.0).to_be_bytes().to_vec()),
        ("4", (-7_i64).to_be_bytes().to_vec()),
        ("5", (-8_i32).to_be_bytes().to_vec()),
        ("6", (-9_i16).to_be_bytes().to_vec()),
        ("7", vec![1, 2]),
    ];
    let big = read(&zipped(&pickle, &storages, "big")).unwrap();
    for (name, expected) in [
        ("f32", Array::f32(&[2], vec![1.5, -2.0])),
        ("f64", Array::f32(&[1], vec![0.25])),
        ("f16", Array::f32(&[1], vec![0.5])),
        ("bf16", Array::f32(&[1], vec![3.0])),
        ("i64", Array { shape: vec![1], values: Values::I64(vec![-7]) }),
        ("i32", Array { shape: vec![1], values: Values::I64(vec![-8]) }),
        ("i16", Array { shape: vec![1], values: Values::I64(vec![-9]) }),
        ("u8", Array { shape: vec![2], values: Values::I64(vec![1, 2]) }),
    ] {
        assert_eq!(big.get(name), Some(&expected), "{name}");
    }
    refused(&zipped(&pickle, &storages, "middle"), "its byte order is neither little nor big");
}

/// PyTorch turns the numbers of the legacy format before it writes them, so the machine does not count.
#[test]
fn legacy_files_of_big_machines_hold_little_numbers() {
    let mut bytes = bytes_of("network_legacy.pth");
    let flag = b"little_endian";
    let at = bytes.windows(flag.len()).position(|window| window == flag).unwrap() + flag.len();
    let at = at + bytes[at..].iter().position(|byte| *byte == 0x88).unwrap();
    assert!(at < 100, "the flag follows its name");
    bytes[at] = 0x89;
    same(&read(&bytes).unwrap(), &Archive::read(fixture("network.safetensors")).unwrap());
}

#[test]
fn zips_of_64_bits_are_read() {
    let exact = Archive::read(fixture("network.safetensors")).unwrap();
    same(&read(&bytes_of("network_zip64.pth")).unwrap(), &exact);
    // Local headers, directory and end record.
    let mut parts = entries(&bytes_of("network.pth"));
    parts.iter_mut().for_each(|part| part.zip64 = true);
    let whole = zip(&parts, [0; 3]);
    same(&read(&whole).unwrap(), &exact);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length} bytes");
    }
    let at = parts.iter().position(|part| part.name.ends_with(b"data/0")).unwrap();
    for size in [1 << 40, u64::MAX] {
        let mut wrong = parts.clone();
        wrong[at].sizes = [size; 2];
        assert!(read(&zip(&wrong, [0; 3])).is_err());
        wrong[at].offset = Some(size);
        assert!(read(&zip(&wrong, [0; 3])).is_err());
    }
}

#[test]
fn numpy_beside_a_network_is_no_matter() {
    let archive = read(&bytes_of("numpy.pth")).unwrap();
    same(&archive, &Archive::read(fixture("network.safetensors")).unwrap());
    assert_eq!(archive.metadata("wrapped"), Some("netG"));
}

#[test]
fn legacy_parts_of_storages_are_read() {
    let content = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let with = |first, count, place| {
        let part = tuple(&[text("view"), number(first), number(count)]);
        let pickle = dictionary(&[
            ("part", tensor("FloatStorage", "7", 6, &[part], place)),
            ("whole", tensor("FloatStorage", "7", 6, &[b"N".to_vec()], (1, &[2, 2], &[2, 1]))),
        ]);
        legacy(&pickle, &[("7", 6, content.clone())])
    };
    let read_back = read(&with(2, 3, (1, &[2], &[1]))).unwrap();
    assert_eq!(read_back.get("part"), Some(&Array::f32(&[2], vec![3.0, 4.0])));
    assert_eq!(read_back.get("whole"), Some(&Array::f32(&[2, 2], vec![1.0, 2.0, 3.0, 4.0])));
    refused(&with(2, 3, (0, &[4], &[1])), "leaves its 3 numbers");
    refused(&with(5, 2, (0, &[1], &[1])), "a part lies outside of its storage");
    refused(&with(i64::MAX, i64::MAX, (0, &[1], &[1])), "a part lies outside of its storage");
}

#[test]
fn of_two_types_of_a_storage_the_first_counts() {
    let pickle = dictionary(&[
        ("a", tensor("FloatStorage", "0", 2, &[b"N".to_vec()], (0, &[2], &[1]))),
        ("b", tensor("ByteStorage", "0", 8, &[b"N".to_vec()], (0, &[2], &[1]))),
    ]);
    let read = read(&legacy(&pickle, &[("0", 2, floats(&[1.0, 2.0]))])).unwrap();
    assert_eq!(read.get("a"), Some(&Array::f32(&[2], vec![1.0, 2.0])));
}

// ---------------------------------------------------------------- damage

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    for name in
        ["network.pth", "network_legacy.pth", "arranged.pth", "arranged_legacy.pth", "network_zip64.pth"]
    {
        let whole = bytes_of(name);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{name} of {length} bytes");
        }
    }
}

#[test]
fn a_wrong_checksum_is_found_in_every_entry_that_is_read() {
    let parts = entries(&bytes_of("network.pth"));
    for at in 0..parts.len() {
        let mut wrong = parts.clone();
        wrong[at].crc ^= 1;
        let name = String::from_utf8(wrong[at].name.clone()).unwrap();
        let is_read =
            ["/data.pkl", "/byteorder"].iter().any(|end| name.ends_with(end)) || name.contains("/data/");
        match is_read {
            true => refused(&zip(&wrong, [0; 3]), "checksum"),
            false => drop(read(&zip(&wrong, [0; 3])).unwrap()),
        }
    }
}

#[test]
fn entries_that_overlap_do_not_unfold() {
    let names: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    let of = |name: &String| (name.clone(), tensor("ByteStorage", name, 1 << 16, &[], (0, &[1 << 12], &[1])));
    let tensors: Vec<(String, Vec<u8>)> = names.iter().map(of).collect();
    let tensors: Vec<(&str, Vec<u8>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    let mut parts = vec![Entry::new("x/data.pkl", dictionary(&tensors))];
    let at = parts[0].content.len() as u64 + 30 + 10;
    for name in &names {
        let mut part = Entry::new(format!("x/data/{name}"), vec![7; 1 << 16]);
        part.offset = Some(at);
        if name != "0" {
            part.content.clear();
        }
        parts.push(part);
    }
    refused(&zip(&parts, [0; 3]), "its parts are larger than the file");
    // Two entries of one name: one of them is read, and nothing else happens.
    let mut twice = entries(&bytes_of("network.pth"));
    twice.extend(twice.clone());
    let _ = read(&zip(&twice, [0; 3]));
}

#[test]
fn places_outside_of_a_storage_are_refused() {
    const FAR: i64 = i64::MAX;
    for (offset, shape, stride, reason) in [
        (-1, &[1][..], &[1][..], "a tensor without numbers"),
        (0, &[2], &[-1], "a tensor without numbers"),
        (0, &[-4], &[1], "a tensor without numbers"),
        (0, &[2, 2], &[1], "a tensor without numbers"),
        (FAR, &[1], &[1], "leaves its 4 numbers"),
        (0, &[2], &[FAR], "leaves its 4 numbers"),
        (1, &[2, 2], &[FAR, FAR], "leaves its 4 numbers"),
        (0, &[3, 3], &[FAR, FAR], "leaves its 4 numbers"),
        (4, &[1], &[1], "leaves its 4 numbers"),
        (0, &[1 << 60], &[0], "far more than the file can hold"),
        (0, &[1 << 40, 1 << 40], &[0, 0], "far more than the file can hold"),
        (0, &[1 << 40, 1 << 40, 0], &[0, 0, 0], "far more than the file can hold"),
        (0, &[1 << 17], &[0], "far more than the file can hold"),
    ] {
        for bytes in one_tensor(offset, shape, stride) {
            refused(&bytes, reason);
        }
    }
    for bytes in one_tensor(3, &[1, 2], &[FAR, 0]) {
        assert_eq!(read(&bytes).unwrap().get("w"), Some(&Array::f32(&[1, 2], vec![4.0, 4.0])));
    }
    for bytes in one_tensor(FAR, &[0, 5], &[1, 1]) {
        assert_eq!(read(&bytes).unwrap().get("w"), Some(&Array::f32(&[0, 5], vec![])));
    }
}

#[test]
fn whatever_a_file_wants_to_call_is_named() {
    let argument = [text("true"), vec![0x85]].concat();
    for (name, call) in [
        ("os.system", [b"cos\nsystem\n", &argument[..], b"R"].concat()),
        ("posix.system", [&text("posix")[..], &text("system"), b"\x93", &argument, b"R"].concat()),
        ("builtins.eval", [b"c__builtin__\neval\n", &argument[..], b"R"].concat()),
        ("builtins.exec", [b"cbuiltins\nexec\n", &argument[..], b"\x81"].concat()),
        ("subprocess.Popen", [b"(", &argument[..], b"isubprocess\nPopen\n"].concat()),
        ("builtins.getattr", [b"(cbuiltins\ngetattr\n", &argument[..], b"o"].concat()),
        (
            "torch.jit._pickle.build_intlist",
            [b"ctorch.jit._pickle\nbuild_intlist\n", &argument[..], b"R"].concat(),
        ),
        ("torch.load", [b"ctorch\nload\n", &argument[..], b"R"].concat()),
        (
            "torch._utils._rebuild_sparse_tensor",
            [b"ctorch._utils\n_rebuild_sparse_tensor\n", &argument[..], b"R"].concat(),
        ),
        ("numpy.load", [b"cnumpy\nload\n", &argument[..], b"}\x92"].concat()),
    ] {
        let beside = [tensor("FloatStorage", "0", 1, &[], (0, &[1], &[1])), call].map(|value| value);
        let [good, bad] = beside;
        let pickle = dictionary(&[("w", good), ("deep", tuple(&[tuple(&[bad])]))]);
        let content = floats(&[1.0]);
        for bytes in
            [zipped(&pickle, &[("0", content.clone())], "little"), legacy(&pickle, &[("0", 1, content)])]
        {
            refused(&bytes, &format!("it wants to call {name}, which makes no tensor"));
        }
    }
}

#[test]
fn a_million_levels_are_no_danger() {
    const DEEP: usize = 1_000_000;
    let from = Instant::now();
    for pickle in [
        [vec![b']'; DEEP], vec![b'a'; DEEP - 1], b".".to_vec()].concat(),
        [vec![b'('; DEEP], vec![b't'; DEEP], b".".to_vec()].concat(),
        [b")".to_vec(), vec![0x85; DEEP], b".".to_vec()].concat(),
        [b"N".to_vec(), b"}X\x01\0\0\0a".repeat(DEEP / 8), vec![b'N'], vec![b's'; DEEP / 8], b".".to_vec()]
            .concat(),
    ] {
        refused(&zipped(&pickle, &[], "little"), "a PyTorch file that cannot be read");
        refused(&legacy(&pickle, &[]), "a PyTorch file that cannot be read");
    }
    assert!(from.elapsed() < Duration::from_secs(20), "{:?}", from.elapsed());
}

/// A header of 640 bytes begins as a pickle does.
#[test]
fn safetensors_are_not_taken_for_pickles_or_utf16() {
    for length in [0x280_usize, 0x380, 0x480, 0x580, 0xfeff, 0xfffe, 0x4d42] {
        let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let header = format!("{header:<length$}");
        let bytes = [&(length as u64).to_le_bytes()[..], header.as_bytes(), &2.5_f32.to_le_bytes()].concat();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Archive::read(&path).unwrap().get("w"), Some(&Array::f32(&[1], vec![2.5])), "{length}");
    }
}
