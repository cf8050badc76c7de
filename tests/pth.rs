//! PyTorch's files in both of its formats, as real PyTorch wrote them (`tools/reference/make_pth_fixtures.py`), and damaged.

mod binary;

use std::path::{Path, PathBuf};

use binary::{assert_says, command, shared_run, succeeds};
use mirrorgan_engine::engine::nn::{Archive, Array, Values};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const NAMES: [&str; 5] = ["network", "parameters", "parallel", "wrapped", "arranged"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth").join(name)
}

fn files(name: &str) -> [PathBuf; 2] {
    [fixture(&format!("{name}.pth")), fixture(&format!("{name}_legacy.pth"))]
}

/// The error of a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netG.pth");
    std::fs::write(&path, bytes).unwrap();
    let message = Archive::read(&path).unwrap_err().to_string();
    assert!(message.contains("netG.pth: "), "{message}");
    message
}

fn same(ours: &Archive, theirs: &Archive) {
    assert!(ours.names().eq(theirs.names()), "{:?}", ours.names().collect::<Vec<_>>());
    for name in ours.names() {
        assert_eq!(ours.get(name), theirs.get(name), "{name}");
    }
}

#[test]
fn both_formats_hold_what_pytorch_put_in() {
    for name in NAMES {
        let exact = Archive::read(fixture(&format!("{name}.safetensors"))).unwrap();
        for file in files(name) {
            let read = Archive::read(&file).unwrap();
            same(&read, &exact);
            assert_eq!(read.metadata("wrapped"), (name == "wrapped").then_some("netG"), "{}", file.display());
        }
    }
    let arranged = Archive::read(fixture("arranged.pth")).unwrap();
    let of = |name: &str| arranged.get(name).unwrap().clone();
    assert_eq!(of("column"), Array::f32(&[4], vec![-0.5, 1.0, 2.5, 4.0]));
    assert_eq!((of("zero_d").shape, of("empty").shape), (vec![], vec![0, 3]));
    assert_eq!(of("uint8").values, Values::I64(vec![250, 251, 252, 253, 254]));
}

#[test]
fn what_is_no_state_dict_says_what_it_is() {
    let read = |name: &str| Archive::read(fixture(name)).unwrap_err().to_string();
    assert!(read("several.pth").contains("several networks (a, b); save one of them"));
    let message = read("model.pth");
    assert!(
        message.contains("it wants to call __main__.Network") && message.contains("state_dict()"),
        "{message}"
    );
}

/// The object of a legacy file, between its head and the list of its storages.
fn legacy(object: &[u8], storages: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";
    [&head[..], b"\x80\x02", object, storages].concat()
}

/// {"w": a tensor of `shape` with `stride` from `offset`} over four floats.
fn one_tensor(offset: &[u8], shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let object = [
        b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04NtQ",
        offset,
        b"(",
        shape,
        b"t(",
        stride,
        b"ttRs.",
    ]
    .concat();
    let numbers: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    legacy(&object, &[b"\x80\x02]X\x01\0\0\x000a.\x04\0\0\0\0\0\0\0", &numbers[..]].concat())
}

#[test]
fn no_file_runs_anything_or_takes_more_than_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    std::fs::write(&path, one_tensor(b"K\x01", b"K\x03", b"K\x01")).unwrap();
    assert_eq!(Archive::read(&path).unwrap().get("w"), Some(&Array::f32(&[3], vec![2.0, 3.0, 4.0])));

    let system = legacy(b"cos\nsystem\nX\x04\0\0\0true\x85R.", b"\x80\x02].");
    assert!(refusal(&system).contains("it wants to call os.system, which makes no tensor"));
    let huge = one_tensor(b"K\0", b"\x8a\x08\0\0\0\0\0\0\0\x10", b"K\0");
    assert!(refusal(&huge).contains("'w' is of [1152921504606846976], far more than the file can hold"));
    let outside = one_tensor(b"K\x02", b"K\x03", b"K\x01");
    assert!(refusal(&outside).contains("a view of [3] with strides [1] from 2 leaves its 4 numbers"));
    let unknown = one_tensor(b"K\0", b"K\x01", b"K\x01");
    let unknown = String::from_utf8_lossy(&unknown).contains("FloatStorage").then_some(unknown).unwrap();
    let at = unknown.windows(12).position(|w| w == b"FloatStorage").unwrap();
    let mut strange = unknown.clone();
    strange[at..at + 5].copy_from_slice(b"Quant");
    assert!(refusal(&strange).contains("QuantStorage"), "{}", refusal(&strange));
    let sides = [b'K', 1].repeat(65);
    assert!(refusal(&one_tensor(b"K\0", &sides, &sides)).contains("a tensor without numbers"));
    // Lists that hold each other without end, and a bomb of references.
    assert!(refusal(&legacy(b"]q\0h\0a.", b"\x80\x02].")).contains("it holds a list, no tensors by name"));
    let deep = [&b"("[..], &[b']'; 50_000], &[b'a'; 40_000], b"t."].concat();
    assert!(refusal(&legacy(&deep, b"\x80\x02].")).contains("cannot be read"));
}

#[test]
fn a_number_that_is_damaged_is_refused() {
    // Of a zip's storage, which its checksum protects.
    let mut bytes = std::fs::read(fixture("network.pth")).unwrap();
    let weights = Archive::read(fixture("network.pth")).unwrap().get("conv.weight").unwrap().to_f32();
    let first: Vec<u8> = weights[..4].iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = bytes.windows(16).position(|window| window == first).unwrap();
    bytes[at] ^= 1;
    let message = refusal(&bytes);
    assert!(message.contains("checksum") && message.contains("copy it again"), "{message}");
}

#[test]
fn damage_of_any_kind_is_an_error_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let whole: Vec<Vec<u8>> =
        NAMES.iter().flat_map(|name| files(name)).map(|file| std::fs::read(file).unwrap()).collect();
    for seed in 0..20_000 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut bytes = whole[random.random_range(0..whole.len())].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            let end = (at + random.random_range(0..32)).min(bytes.len());
            match random.random_range(0..5) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes[at] = random.random(),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                _ => bytes[at..end].fill(if random.random() { 0 } else { 0xff }),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = Archive::read(&path) {
            assert!(error.to_string().contains("x.pth"), "{seed}: {error}");
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pth");
    for name in ["network", "arranged"] {
        let exact = Archive::read(fixture(&format!("{name}.safetensors"))).unwrap();
        exact.write_pth(&path).unwrap();
        same(&Archive::read(&path).unwrap(), &exact);
        let bytes = std::fs::read(&path).unwrap();
        exact.write_pth(&path).unwrap();
        assert!(bytes == std::fs::read(&path).unwrap(), "equal contents are equal bytes");
    }
}

#[test]
fn a_run_is_exported_under_the_published_names() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let export = |format: &str| {
        succeeds(command().args(["export", "--run", shared_run(), "--format", format, "--out"]).arg(&out))
    };
    let list = export("pth").out;
    export("safetensors");
    assert_says(&list, &["netG.pth  gan at step 2", "text_encoder.pth  damsm at step 2", "vocabulary.txt  "]);
    for name in ["text_encoder", "image_encoder", "caption_cnn", "caption_rnn", "netG", "netG_raw", "netD0"] {
        let [ours, theirs] =
            ["pth", "safetensors"].map(|e| Archive::read(out.join(name).with_extension(e)).unwrap());
        same(&ours, &theirs);
    }
    assert!(!out.join("optimizer.pth").exists());
    // What is exported is read by those who load weights.
    let read = Archive::read(out.join("netG.pth")).unwrap();
    assert!(read.get("h_net1.fc.0.weight").is_some() && read.get("ca_net.fc.weight").is_some());
}
