//! Every parser against damaged inputs: none panics, and none takes memory beyond a small multiple of its input.
//!
//! A target is a folder of small files and a function of bytes. `ENGINE_FUZZ=1000000` takes as many inputs of each; a
//! failure keeps its input. What was found once stands in `tests/corpus/` or as a test below.

mod parsing;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mirrorgan_engine::data::{Format, OpenConfig, Vocabulary, open};
use mirrorgan_engine::engine::nn::Archive;
use mirrorgan_engine::files::pickle;
use rand::RngExt;
use rand::seq::IndexedRandom;

use self::parsing::programs::{CODES, TOKENS, program};
use self::parsing::zips::{Entry, crc32, entries, zip};
use self::parsing::{Generate, LONGEST_MESSAGE, Random, Target, corpus, damaged, peak_of};

const KIB: usize = 1 << 10;

// ---------------------------------------------------------------- the targets

#[test]
fn pickles() {
    let generate = |random: &mut Random| program(random);
    target("pickle", corpus("corpus/pickle", ""), &TOKENS, PICKLE, Some(&generate)).fuzz(read_pickle);
}

#[test]
fn pytorch_files() {
    let whole = corpus("fixtures/pth", ".pth");
    let generate = |random: &mut Random| container(&whole, random);
    let file = Input::file("x.pth");
    target("pth", whole.clone(), &TOKENS, WEIGHTS, Some(&generate)).fuzz(|bytes| read_weights(&file, bytes));
}

#[test]
fn safetensors_files() {
    let whole = corpus("fixtures/pth", ".safetensors");
    let generate = |random: &mut Random| with_header(&whole, random);
    let file = Input::file("x.safetensors");
    target("safetensors", whole.clone(), &JSON, WEIGHTS, Some(&generate))
        .fuzz(|bytes| read_weights(&file, bytes));
}

#[test]
fn image_lists() {
    let file = Input::in_cub("CUB_200_2011/images.txt");
    target("lists", corpus("corpus/lists", ""), &WORDS, TEXT, None).fuzz(|bytes| read_cub(&file, bytes));
}

#[test]
fn box_lists() {
    let file = Input::in_cub("CUB_200_2011/bounding_boxes.txt");
    target("boxes", corpus("corpus/lists", ""), &WORDS, TEXT, None).fuzz(|bytes| read_cub(&file, bytes));
}

#[test]
fn splits() {
    let file = Input::in_cub("train/filenames.pickle");
    target("splits", corpus("corpus/pickle", ""), &TOKENS, PICKLE, None).fuzz(|bytes| read_cub(&file, bytes));
}

#[test]
fn pickled_captions() {
    let file = Input::in_cub("captions.pickle");
    target("captions-pickle", corpus("corpus/pickle", ""), &TOKENS, PICKLE, None)
        .fuzz(|bytes| read_cub(&file, bytes));
}

#[test]
fn captions() {
    let file = Input::in_cub("text/001.Finch/Finch_1.txt");
    target("captions", corpus("corpus/captions", ""), &WORDS, TEXT, None)
        .fuzz(|bytes| read_cub(&file, bytes));
}

#[test]
fn annotations_of_coco() {
    let file =
        Input::in_folder("annotations/captions_train2014.json", &["train2014/a.jpg", "train2014/b.jpg"]);
    target("coco", corpus("corpus/coco", ""), &ANNOTATIONS, STREAMED, None)
        .fuzz(|bytes| read_data(&file, Format::Coco, bytes));
}

#[test]
fn tables_of_captions() {
    for name in ["captions.csv", "metadata.jsonl"] {
        let file = Input::in_folder(name, &["a.jpg", "b.jpg"]);
        target(name, corpus("corpus/tables", ""), &TABLES, STREAMED, None)
            .fuzz(|bytes| read_data(&file, Format::Folder, bytes));
    }
}

#[test]
fn vocabularies() {
    let file = Input::file("vocabulary.txt");
    target("vocabulary", corpus("corpus/captions", ""), &WORDS, TEXT, None)
        .fuzz(|bytes| read_vocabulary(&file, bytes));
}

// What a parser may take: bytes for any input, bytes for each byte of input.
const PICKLE: (usize, usize) = (64 * KIB, 128);
const WEIGHTS: (usize, usize) = (256 * KIB, 128);
const TEXT: (usize, usize) = (64 * KIB, 64);

/// Of parsers that read through a buffer.
const STREAMED: (usize, usize) = (2 << 20, 128);

const ANNOTATIONS: [&[u8]; 9] = [
    b"{\"id\":9,\"file_name\":\"a.jpg\"},",
    b"{\"image_id\":9,\"caption\":\"a\"},",
    b"\"images\":[",
    b"\"annotations\":[",
    b"\\ud800\\u0000",
    b"18446744073709551616",
    b"null",
    b"[[[[",
    b"../../x",
];

const TABLES: [&[u8]; 9] = [
    b"a.jpg,a red bird\n",
    b"\"",
    b"\"\"",
    b"\r\n",
    b"\t",
    b";",
    b"{\"file_name\":\"a.jpg\",\"text\":\"a\"}\n",
    b"../a.jpg,",
    b"\xef\xbb\xbf",
];

const JSON: [&[u8]; 12] = [
    b"\"data_offsets\":[0,18446744073709551615]",
    b"\"shape\":[1152921504606846976]",
    b"\"dtype\":\"F32\"",
    b"\"dtype\":\"F4\"",
    b"\"__metadata__\":{\"a\":\"b\"},",
    b"{\"\":0},",
    b"[[",
    b"1e999",
    b"-1",
    b"null",
    b"\\ud800",
    b"\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
];

const WORDS: [&[u8]; 14] = [
    b"1 001.Finch/Finch_1.jpg\n",
    b"1 2.0 2.0 20.0 16.0\n",
    b"001.A/",
    b"\r\n",
    b"\r",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    "\u{e9}e\u{301}\u{fffd}\u{fffd}\u{1d160}\u{130}".as_bytes(),
    b"a\n",
    b"nan",
    b"18446744073709551616",
    b"<end>\n",
    b"\\",
    b"/",
];

fn target<'a>(
    name: &'a str,
    corpus: Vec<Vec<u8>>,
    tokens: &'a [&'a [u8]],
    bound: (usize, usize),
    generate: Option<Generate<'a>>,
) -> Target<'a> {
    Target { name, corpus, tokens, bound, generate }
}

// ---------------------------------------------------------------- parsers

fn read_pickle(bytes: &[u8]) -> Result<(), String> {
    let pickle = pickle::read(bytes)?;
    assert!(!pickle.describe(pickle.root).is_empty() && pickle.length <= bytes.len());
    Ok(())
}

/// The file that a parser reads, in memory where the system has such a folder.
struct Input {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Input {
    fn file(name: &str) -> Input {
        let memory = Path::new("/dev/shm");
        let folder = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join(name);
        Input { folder, path }
    }

    /// A file of a data set of two images in CUB's layout.
    fn in_cub(name: &str) -> Input {
        let input = Input::file(name);
        let put = |path: &str, content: &[u8]| {
            let file = input.folder.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        };
        put("CUB_200_2011/images.txt", b"1 001.Finch/Finch_1.jpg\n2 002.Sparrow/Sparrow_1.jpg\n");
        put("CUB_200_2011/bounding_boxes.txt", b"1 2.0 2.0 20.0 16.0\n2 4.0 4.0 16.0 16.0\n");
        for key in ["001.Finch/Finch_1", "002.Sparrow/Sparrow_1"] {
            put(&format!("CUB_200_2011/images/{key}.jpg"), b"");
            put(
                &format!("text/{key}.txt"),
                if key.contains("Finch") { &b"red finch\n"[..] } else { b"sparrow red\n" },
            );
        }
        if name.ends_with(".pickle") {
            put("train/filenames.pickle", b"(lp0\nS'001.Finch/Finch_1'\np1\na.");
            put("test/filenames.pickle", b"(lp0\nV002.Sparrow/Sparrow_1\np1\na.");
        }
        input
    }

    /// A file of a folder that has these pictures, which are empty.
    fn in_folder(name: &str, pictures: &[&str]) -> Input {
        let input = Input::file(name);
        for path in pictures.iter().copied().chain([name]) {
            let file = input.folder.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, b"").unwrap();
        }
        input
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).unwrap();
    }
}

fn read_weights(file: &Input, bytes: &[u8]) -> Result<(), String> {
    file.put(bytes);
    let read = Archive::read(&file.path).map(drop).map_err(|e| e.to_string());
    if let Err(message) = &read {
        assert!(message.contains(file.path.to_str().unwrap()), "the file is not named: {message}");
    }
    read
}

fn read_vocabulary(file: &Input, bytes: &[u8]) -> Result<(), String> {
    file.put(bytes);
    Vocabulary::load(&file.path).map(drop).map_err(|e| e.to_string())
}

fn read_cub(file: &Input, bytes: &[u8]) -> Result<(), String> {
    read_data(file, Format::Cub, bytes)
}

fn read_data(file: &Input, format: Format, bytes: &[u8]) -> Result<(), String> {
    file.put(bytes);
    let read =
        || open(format, file.folder.path(), &OpenConfig::default()).map(drop).map_err(|e| e.to_string());
    // In a pool of this thread alone, whose memory is counted.
    POOL.with(|pool| pool.install(read))
}

thread_local! {
    static POOL: rayon::ThreadPool =
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
}

// ---------------------------------------------------------------- inputs

/// A `.pth` file whose zip is in order, or wrong in its tables alone, around a damaged pickle.
fn container(whole: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let zips: Vec<&Vec<u8>> = whole.iter().filter(|file| file.starts_with(b"PK")).collect();
    let mut parts = entries(zips.choose(random).unwrap());
    let object = parts.iter().position(|part| part.name.ends_with(b"data.pkl")).unwrap();
    let pickles = [parts[object].content.clone()];
    let content = match random.random_range(0..8) {
        0 => program(random),
        1 => pickles[0].clone(),
        _ => damaged(pickles[0].clone(), &pickles, &TOKENS, random),
    };
    let name = parts[object].name.clone();
    parts[object] = Entry::new(name, content);
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..parts.len());
        let edge = *[0, 1, 64, 0xffff, u64::from(u32::MAX), 1 << 40, u64::MAX].choose(random).unwrap();
        let copy = parts[random.random_range(0..parts.len())].clone();
        let part = &mut parts[at];
        match random.random_range(0..10) {
            0 => part.sizes[random.random_range(0..2)] = edge,
            1 => part.offset = Some(edge),
            2 => part.crc ^= 1,
            3 => part.method = random.random_range(0..20),
            4 => part.flags = random.random(),
            5 => part.zip64 = !part.zip64,
            6 => part.name = copy.name,
            7 => parts.push(copy),
            8 => drop(parts.swap_remove(at)),
            _ => {
                part.content.truncate(random.random_range(0..part.content.len() + 1));
                part.crc = crc32(&part.content);
            }
        }
        if parts.is_empty() {
            break;
        }
    }
    let tail = if random.random_bool(0.1) { [random.random_range(0..3), random.random(), 1] } else { [0; 3] };
    zip(&parts, tail)
}

/// A safetensors file with a damaged header, of a length that is true.
fn with_header(whole: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let file = whole.choose(random).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let headers = [file[8..8 + length].to_vec()];
    let header = damaged(headers[0].clone(), &headers, &JSON, random);
    [&(header.len() as u64).to_le_bytes()[..], &header, &file[8 + length..]].concat()
}

// ---------------------------------------------------------------- large inputs

/// Bytes of an input that shows whether time or memory grows faster than the input.
const LARGE: usize = 1 << 20;
/// As many times [`pace`] a parser may take; one that takes time in proportion takes a tenth.
const PATIENCE: u32 = 300;

/// How long a hundred thousand names in a map take on this machine, as busy as it is now.
fn pace() -> Duration {
    let from = Instant::now();
    let names: HashMap<String, u32> = (0..100_000).map(|n| (n.to_string(), n)).collect();
    assert_eq!(names.len(), 100_000);
    from.elapsed()
}

/// Parses a large input within the bounds of time, memory and message.
#[track_caller]
fn is_linear(what: &str, bound: (usize, usize), input: &[u8], parse: impl Fn(&[u8]) -> Result<(), String>) {
    let timed = || {
        let (before, from) = (pace(), Instant::now());
        let (result, peak) = peak_of(|| parse(input));
        let taken = from.elapsed();
        (taken, taken <= PATIENCE * before.max(pace()), peak, result.err().unwrap_or_default())
    };
    let (taken, mut in_time, peak, message) = timed();
    for _ in 0..2 {
        in_time = in_time || timed().1;
    }
    let each = peak.saturating_sub(bound.0) as f64 / input.len() as f64;
    eprintln!("{what}: {each:.0} bytes a byte, {taken:?} {}", message.replace('\n', " "));
    assert!(in_time, "{what}: {} bytes take {taken:?}", input.len());
    assert!(message.len() < LONGEST_MESSAGE, "{what}: a message of {} bytes", message.len());
    assert!(peak <= bound.0 + bound.1 * input.len(), "{what}: {each:.0} bytes for each of {}", input.len());
}

/// `piece` again and again.
fn filled(before: &[u8], piece: &[u8], after: &[u8]) -> Vec<u8> {
    [before, &piece.repeat((LARGE - before.len()) / piece.len()), after].concat()
}

/// Half of it one long name in slot 0, then `piece` again and again.
fn with_name(piece: &[u8], after: &[u8]) -> Vec<u8> {
    let length = LARGE / 2;
    let mut name = b"(X".to_vec();
    name.extend((length as u32).to_le_bytes());
    name.extend(vec![b'n'; length]);
    name.extend(b"q\0");
    filled(&name, piece, after)
}

#[test]
fn pickles_that_unfold_are_stopped() {
    let class = [&b"c"[..], &vec![b'a'; LARGE / 2], b"\nb\nq\0"].concat();
    let storage = [
        &with_name(b"0", b"")[..LARGE / 2 + 8],
        b"0(X\x07\0\0\0storagectorch\nFloatStorage\nh\0X\x03\0\0\0cpuK\x04tq\x01",
    ]
    .concat();
    let tensor = b"ctorch._utils\n_rebuild_tensor\nq\0((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04NtQK\0(KKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKt(KKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKttq\x01";
    let buffer = [
        &b"cnumpy._core.numeric\n_frombuffer\nq\0(C\xff"[..],
        &[b'x'; 255],
        b"cnumpy\ndtype\nX\x02\0\0\0S1\x89\x88\x87RK\xff\x85X\x01\0\0\0Ctq\x01",
    ]
    .concat();
    for (what, input) in [
        ("objects of a class with a long name", filled(&class, b"h\0)R", b".")),
        ("classes of long names", with_name(b"h\0h\0\x93", b".")),
        ("storages with long keys", filled(&storage, b"h\x01Q", b".")),
        ("tensors of many sides", filled(tensor, b"h\0h\x01R", b".")),
        ("a list of one long name", with_name(b"h\0", b"l.")),
        ("copies of one long name", with_name(b"2", b".")),
        ("paths of long parts", with_name(b"cpathlib\nPosixPath\nh\0\x85R", b".")),
        ("numbers in many digits", filled(b"I", b"1", b"\n.")),
        ("a mark for each byte", filled(b"", b"(", b".")),
        ("nested lists", [vec![b']'; LARGE / 2], vec![b'a'; LARGE / 2 - 1], b".".to_vec()].concat()),
        ("nested tuples", filled(b")", b"\x85", b".")),
        ("lists of lists", filled(b"(", b"(l", b"l.")),
        ("lists that hold themselves", filled(b"]q\0", b"h\0a", b".")),
        ("memory of one value", filled(b"N", b"\x94", b".")),
        ("calls of objects", filled(b"cx\ny\n)Rq\0", b"h\0)R", b".")),
        ("arrays of one buffer", filled(&buffer, b"h\0h\x01R", b".")),
    ] {
        is_linear(what, PICKLE, &input, read_pickle);
    }
}

/// A zip around one pickle, with four floats.
fn around(pickle: Vec<u8>) -> Vec<u8> {
    zip(&[Entry::new("x/data.pkl", pickle), Entry::new("x/data/0", [0; 16])], [0; 3])
}

#[test]
fn pytorch_files_that_unfold_are_stopped() {
    let file = Input::file("x.pth");
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let scalar = [&b"ctorch._utils\n_rebuild_tensor\n("[..], storage, b"K\0(t(ttRq\x02"].concat();
    let inner = [&scalar[..], b"X\x01\0\0\0kq\x01}q\0("].concat();
    let shared =
        [filled(&inner, b"h\x01h\x02", b"u0")[..].to_vec(), filled(b"}(", b"h\x01h\0", b"u.")].concat();
    let hollow =
        [filled(b"X\x01\0\0\0kq\x01}q\0(", b"h\x01N", b"u0").to_vec(), filled(b"}(", b"h\x01h\0", b"u.")]
            .concat();
    let mut distinct = scalar.clone();
    distinct.extend(b"0}(");
    (0..200_000_u32).for_each(|n| {
        distinct.extend([&[0x8c, 3][..], &n.to_le_bytes()[..2], &[(n >> 16) as u8], b"h\x02"].concat())
    });
    distinct.extend(b"u.");
    let ascii = |n: u32| [n & 0x7f, n >> 7 & 0x7f, n >> 14 & 0x7f].map(|b| b as u8);
    let mut many = scalar.clone();
    many.extend(b"0}(");
    (0..150_000_u32).for_each(|n| many.extend([&[0x8c, 3][..], &ascii(n), b"h\x02"].concat()));
    many.extend(b"u.");
    let mut networks = [&scalar[..], b"X\x01\0\0\0kq\x01}h\x01h\x02sq\0}("].concat();
    (0..150_000_u32).for_each(|n| networks.extend([&[0x8c, 3][..], &ascii(n), b"h\0"].concat()));
    networks.extend(b"u.");
    let fake_ends: Vec<u8> =
        [&b"PK\x03\x04"[..], &b"PK\x05\x06\0\0\0\0\xff\0\xff\0\0\x10\0\0\0\0\0\0\0\0".repeat(LARGE / 22)]
            .concat();
    let directory = b"PK\x01\x02\x2d\0\x2d\0\0\0\0\0\0\0\x21\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a";
    let half = directory.repeat(LARGE / 2 / directory.len());
    let mut ends = b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff".to_vec();
    ends.extend((half.len() as u32).to_le_bytes());
    ends.extend(b"\x04\0\0\0\0\0");
    let fake_directories = [&b"PK\x03\x04"[..], &half, &ends.repeat(LARGE / 2 / ends.len())].concat();
    let entries: Vec<Entry> = (0..12_000)
        .map(|n| Entry::new(format!("x/{n}"), ""))
        .chain([Entry::new("x/data.pkl", &b"N."[..])])
        .collect();
    for (what, input) in [
        ("one network under many names", around(shared)),
        ("one dictionary under many names", around(hollow)),
        ("tensors under many names", around(many)),
        ("networks under many names", around(networks)),
        ("a call of a long name", around([&b"c"[..], &vec![b'a'; LARGE], b"\nb\n)R."].concat())),
        ("a name that is long", around(with_name(b"N", b"."))),
        ("ends of zips", fake_ends),
        ("ends of zips that share a directory", fake_directories),
        ("many entries", zip(&entries, [0; 3])),
    ] {
        is_linear(what, WEIGHTS, &input, |bytes| read_weights(&file, bytes));
    }
}

#[test]
fn safetensors_headers_that_unfold_are_stopped() {
    let file = Input::file("x.safetensors");
    for (what, header) in [
        ("empty names", filled(b"{\"a\":[", b"{\"\":0},", b"0]}")),
        ("lists", filled(b"{\"a\":[", b"[],", b"0]}")),
        ("numbers", filled(b"{\"a\":[", b"0,", b"0]}")),
        ("sides", filled(b"{\"a\":{\"dtype\":\"F32\",\"shape\":[", b"0,", b"0],\"data_offsets\":[0,0]}}")),
        ("deep lists", filled(b"{\"a\":", b"[", b"")),
        (
            "one name again",
            filled(b"{", b"\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", b"\"b\":0}"),
        ),
        ("a long name", filled(b"{\"", b"a", b"\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}}")),
        ("a long type", filled(b"{\"a\":{\"dtype\":\"", b"F", b"\",\"shape\":[0],\"data_offsets\":[0,0]}}")),
        ("metadata", {
            let entries: String = (0..LARGE / 10).map(|n| format!("\"{n:x}\":\"\",")).collect();
            format!("{{\"__metadata__\":{{{entries}\"a\":\"\"}}}}").into_bytes()
        }),
        ("tensors", {
            let entries: String = (0..LARGE / 50)
                .map(|n| format!("\"{n:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"))
                .collect();
            format!("{{{entries}\"z\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}}}")
                .into_bytes()
        }),
    ] {
        let input = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        is_linear(what, WEIGHTS, &input, |bytes| read_weights(&file, bytes));
    }
}

#[test]
fn lists_that_unfold_are_stopped() {
    let many = |line: &dyn Fn(usize) -> String| (0..LARGE / 12).map(line).collect::<String>().into_bytes();
    for (name, what, input) in [
        ("CUB_200_2011/images.txt", "images", many(&|n| format!("{n} 1.a/{n}\n"))),
        ("CUB_200_2011/images.txt", "folders", many(&|n| format!("{n} {n}.a/b\n"))),
        ("CUB_200_2011/images.txt", "folders of one class", many(&|n| format!("{n} 1.{n:x}/b\n"))),
        ("CUB_200_2011/images.txt", "a long line", filled(b"1 1.a/", b"x", b"\n1 1.a")),
        (
            "CUB_200_2011/images.txt",
            "a long class",
            [filled(b"1 1.", b"x", b"/a\n"), filled(b"2 1.", b"y", b"/a\n")].concat(),
        ),
        ("CUB_200_2011/images.txt", "many folders", filled(b"1 ", b"1.a/", b"a\n2 1.a/b")),
        (
            "CUB_200_2011/images.txt",
            "one key in two lines",
            [filled(b"1 1.a/", b"x", b"\n"), filled(b"2 1.a/", b"x", b"\n")].concat(),
        ),
        ("CUB_200_2011/images.txt", "empty lines", filled(b"1 1.a/b", b"\r", b"")),
        ("CUB_200_2011/bounding_boxes.txt", "boxes", many(&|n| format!("{n} 1 1 9 9\n"))),
        ("CUB_200_2011/bounding_boxes.txt", "sides", filled(b"1", b" 1", b"\n")),
        ("text/001.Finch/Finch_1.txt", "captions of a letter", filled(b"", b"a\n", b"")),
        ("text/001.Finch/Finch_1.txt", "words of a letter", filled(b"", b"a ", b"")),
        ("text/001.Finch/Finch_1.txt", "words", many(&|n| format!("{n:x} "))),
        ("text/001.Finch/Finch_1.txt", "letters that grow", filled(b"a ", "\u{130}".as_bytes(), b"")),
        ("text/001.Finch/Finch_1.txt", "lost spaces", filled(b"a ", "\u{fffd}".as_bytes(), b"")),
        ("train/filenames.pickle", "one long name", with_name(b"h\0", b"l.")),
        ("train/filenames.pickle", "an empty name", filled(b"(X\0\0\0\0q\0", b"h\0", b"l.")),
        (
            "train/filenames.pickle",
            "two long names",
            [&b"("[..], &with_name(b"0", b"")[..LARGE / 2 + 8], b"2l."].concat(),
        ),
        ("train/filenames.pickle", "names", [&b"("[..], &many(&|n| format!("V1.a/{n}\n")), b"l."].concat()),
        (
            "captions.pickle",
            "one caption in many places",
            filled(
                b"(](U\x05<end>U\x01aeq\x010](K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01eq\0((",
                b"h\0",
                b"l2h\x01l.",
            ),
        ),
        (
            "captions.pickle",
            "a long caption in many places",
            [
                &b"(U\x05<end>U\x01alq\x010(K\x01q\x02"[..],
                &b"h\x02".repeat(LARGE / 4),
                b"lq\0((",
                &b"h\0".repeat(LARGE / 4),
                b"l2h\x01l.",
            ]
            .concat(),
        ),
        (
            "captions.pickle",
            "words",
            [&b"(]](U\x05<end>"[..], &many(&|n| format!("V{n}\n")), b"e]l."].concat(),
        ),
    ] {
        let file = Input::in_cub(name);
        if name == "captions.pickle" {
            fs::write(file.folder.path().join("train/filenames.pickle"), b"(l.").unwrap();
        }
        is_linear(what, TEXT, &input, |bytes| read_cub(&file, bytes));
    }
}

#[test]
fn a_long_word_makes_no_long_message() {
    let file = Input::file("vocabulary.txt");
    for input in
        [filled(b"", b"x", b"\n"), filled(b"<end>\n", b"x", b"\n\n"), filled(b"<end>\na\n", b"\x1b", b"\na")]
    {
        is_linear("vocabulary", TEXT, &input, |bytes| read_vocabulary(&file, bytes));
    }
}

#[test]
fn whole_numbers_of_any_length_are_read() {
    for line in [
        "I99999999999999999999",
        "I-99999999999999999999",
        "L-99999999999999999999L",
        "I-9223372036854775808",
    ] {
        let pickle = pickle::read(format!("{line}\n.").as_bytes()).unwrap();
        let small = (line.len() == 21 && line.ends_with('8')).then_some(i64::MIN);
        assert_eq!(pickle.int(pickle.root), small, "{line}");
    }
    assert!(pickle::read(b"I9999999999-9999999999\n.").is_err());
}

/// Every pair of instructions, again and again: what one makes, the other may multiply.
#[test]
fn no_two_instructions_grow_faster_than_the_input() {
    const LENGTH: usize = 20_000;
    let argument = |code: u8| -> &[u8] {
        match code {
            b'K' | b'h' | b'q' | 0x80 => b"\0",
            b'M' => b"\0\0",
            b'J' | b'j' | b'r' => b"\0\0\0\0",
            b'I' | b'L' | b'F' | b'g' | b'p' => b"0\n",
            b'S' => b"''\n",
            b'V' | b'P' => b"\n",
            b'c' | b'i' => b"a\nb\n",
            b'X' | b'T' | b'B' | 0x8b => b"\0\0\0\0",
            0x8d | 0x8e | 0x96 | 0x95 | b'G' => b"\0\0\0\0\0\0\0\0",
            0x8c | b'U' | b'C' | 0x8a => b"\0",
            _ => b"",
        }
    };
    let mut worst = (0.0_f64, String::new());
    for before in [&b"]q\0"[..], b")q\0", b"cbuiltins\nlist\nq\0(h\0)", b"}q\0"] {
        for &first in CODES {
            for &second in CODES {
                let piece = [&[first][..], argument(first), &[second], argument(second)].concat();
                let input = [before, &piece.repeat(LENGTH / piece.len())].concat();
                let (_, peak) = peak_of(|| read_pickle(&input));
                let ratio = peak as f64 / input.len() as f64;
                if ratio > worst.0 {
                    worst = (ratio, format!("{}{}", before.escape_ascii(), piece.escape_ascii()));
                }
            }
        }
    }
    eprintln!("the worst pair: {} with {:.0} bytes a byte", worst.1, worst.0);
    assert!(worst.0 < PICKLE.1 as f64, "{worst:?}");
}
