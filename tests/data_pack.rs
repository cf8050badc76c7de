//! Packs: a data set in one file gives the batches and the weights that its folder gives, and every damage is named.

mod binary;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use binary::{TINY, assert_says, command, engine, files, read, refused, succeeds};
use mirrorgan_engine::data::{
    self, Batch, Dataset, DecodeConfig, EvalBatches, Fingerprint, Format, Item, Loader, LoaderConfig,
    OpenConfig, PackSummary, Packing, check, demo,
};
use mirrorgan_engine::error::Result;

/// The side of the tiny networks' images.
const SIDE: usize = 32;

/// Thirty birds, one of them broken, one gone after the lists were written, one gray, and their pack.
struct Birds {
    folder: PathBuf,
    pack: PathBuf,
}

static BIRDS: LazyLock<Birds> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data_pack");
    let _ = fs::remove_dir_all(&root);
    let (folder, pack) = (root.join("birds"), root.join("birds.pack"));
    demo::write(&folder, 30, 3).unwrap();
    let set = open(Format::Cub, &folder).unwrap();
    fs::write(&set.train[4].image, "broken").unwrap();
    fs::remove_file(&set.train[9].image).unwrap();
    let gray = image::open(&set.train[1].image).unwrap().into_luma8();
    gray.save(&set.train[1].image).unwrap();
    write(&folder, SIDE, &pack).unwrap();
    Birds { folder, pack }
});

fn open(format: Format, path: impl AsRef<Path>) -> Result<Dataset> {
    data::open(format, path, &OpenConfig::default())
}

fn packing(side: usize, out: &Path) -> Packing {
    let (decode, open) = (DecodeConfig::default(), OpenConfig::default());
    Packing { file: out.into(), format: "cub".into(), root: String::new(), side, decode, open }
}

fn write(folder: &Path, side: usize, out: &Path) -> Result<PackSummary> {
    let dataset = open(Format::Cub, folder)?;
    Ok(data::pack(&dataset, packing(side, out), &mut |_| true)?.expect("nobody stopped it"))
}

/// The data set as the folder gives it and as the pack does.
fn both() -> [Dataset; 2] {
    [&BIRDS.folder, &BIRDS.pack].map(|path| open(Format::Cub, path).unwrap())
}

fn config(batch: usize) -> LoaderConfig {
    LoaderConfig {
        batch,
        sizes: vec![8, 16, SIDE],
        words: 8,
        train: true,
        augment: true,
        workers: 2,
        seed: 11,
        cache_bytes: 1 << 20,
        decode: DecodeConfig::default(),
    }
}

fn batches(items: &[Item], config: LoaderConfig, start: u64, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(Arc::new(items.to_vec()), config, start).unwrap();
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

fn message(path: &Path) -> String {
    open(Format::Cub, path).unwrap_err().to_string()
}

// What a pack gives

#[test]
fn a_pack_holds_all_that_the_folder_holds() {
    let [folder, pack] = both();
    assert_eq!(Fingerprint::of(&folder), Fingerprint::of(&pack));
    let plain = |items: &[Item]| -> Vec<Item> {
        items.iter().map(|item| Item { packed: None, ..item.clone() }).collect()
    };
    assert_eq!((plain(&pack.train), plain(&pack.test)), (folder.train, folder.test));
    assert_eq!((pack.split, pack.vocabulary), (folder.split, folder.vocabulary));
    assert_eq!((pack.skipped.len(), &pack.skipped), (1, &folder.skipped));
    assert_eq!(pack.notices, folder.notices);
    assert_eq!(pack.root, BIRDS.pack);
}

#[test]
fn batches_from_a_pack_are_those_from_the_files() {
    let [folder, pack] = both();
    for augment in [true, false] {
        let config = |workers| LoaderConfig { augment, workers, ..config(5) };
        let from_files = batches(&folder.train, config(2), 3, 12);
        assert!(from_files == batches(&pack.train, config(3), 3, 12));
        assert_eq!(from_files.iter().map(|batch| batch.skipped.len()).sum::<usize>(), 1);
    }
    let pass = |items: &[Item]| -> Vec<Batch> {
        EvalBatches::new(Arc::new(items.to_vec()), config(4), 2).unwrap().map(Result::unwrap).collect()
    };
    assert!(pass(&folder.train) == pass(&pack.train));
    assert!(pass(&folder.test) == pass(&pack.test));
}

#[test]
fn packing_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again");
    let summary = write(&BIRDS.folder, SIDE, &again).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&BIRDS.pack).unwrap());
    assert_eq!((summary.pictures, summary.skipped.len()), (28, 1));
    assert_eq!(summary.bytes, fs::metadata(&again).unwrap().len());
    assert!(summary.skipped[0].why.contains("neither JPEG"), "{:?}", summary.skipped);
}

#[test]
fn a_check_of_a_pack_reports_what_that_of_the_folder_does() {
    let report = |path: &Path| check(open(Format::Cub, path).unwrap(), &DecodeConfig::default());
    let (folder, pack) = (report(&BIRDS.folder), report(&BIRDS.pack));
    let lines = |text: String, from: usize| text.lines().skip(from).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(lines(folder.to_string(), 1), lines(pack.to_string(), 2), "{folder}{pack}");
    assert_eq!((pack.gray, pack.skipped.len(), pack.unusable.clone()), (1, 2, None));
    assert_says(&pack.to_string(), &["packed         32 pixels", "(cub)"]);
}

// What is refused

#[test]
fn another_side_or_other_limits_are_refused() {
    let [_, pack] = both();
    let decode = DecodeConfig::default();
    let refusal = |side, decode| {
        let message = pack.require_prepared(side, &decode).unwrap_err().to_string();
        let config = LoaderConfig { sizes: vec![side], decode, ..config(2) };
        let loader = Loader::new(Arc::new(pack.train.clone()), config, 0).err().unwrap().to_string();
        assert_eq!(message, loader);
        message
    };
    pack.require_prepared(SIDE, &decode).unwrap();
    assert_says(
        &refusal(64, decode),
        &["birds.pack: packed for images of 32×32", "64×64", "pack again with --side 64"],
    );
    assert_says(
        &refusal(SIDE, DecodeConfig { max_pixels: 5, ..decode }),
        &["data.max_pixels = 100000000, and here it is 5", "--max-pixels=5"],
    );
    assert_says(&refusal(SIDE, DecodeConfig { max_side: 7, ..decode }), &["data.max_side", "--max-side=7"]);
    let turned = DecodeConfig { exif_orientation: true, ..decode };
    assert_says(
        &refusal(SIDE, turned),
        &["data.exif_orientation = false, and here it is true", "with --exif-orientation=true"],
    );
}

#[test]
fn files_that_are_no_pack_are_called_by_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    for (bytes, expected) in [
        (&b""[..], "an empty file, neither a folder with a data set nor a pack"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image, neither"),
        (b"PK\x03\x04 zip", "a ZIP file, neither"),
        (b"a red bird", "a file, neither"),
        (
            b"\x89MGPACK\n\x01\0\0\0",
            "cut off within its head; copy it again, or pack again: engine data pack",
        ),
    ] {
        fs::write(&file, bytes).unwrap();
        assert_says(&message(&file), &[expected]);
    }
}

#[test]
fn a_pack_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.pack");
    let mut bytes = fs::read(&BIRDS.pack).unwrap();
    bytes[8] = 2;
    fs::write(&file, bytes).unwrap();
    let message = message(&file);
    assert_says(
        &message,
        &["new.pack: a pack of format 2", "reads format 1", "pack again: engine data pack"],
    );
}

#[test]
fn a_pack_that_is_cut_off_is_refused_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.pack");
    let bytes = fs::read(&BIRDS.pack).unwrap();
    for length in [20, 64, 65, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).unwrap();
        assert_says(&message(&file), &["cut.pack: cut off", "pack again"]);
    }
    // While it is in use.
    fs::write(&file, &bytes).unwrap();
    let set = open(Format::Cub, &file).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(100).unwrap();
    let mut loader = Loader::new(Arc::new(set.train), config(5), 0).unwrap();
    let message = loader.next_batch().unwrap_err().to_string();
    assert_says(&message, &["cut.pack: the picture ", "cut off while in use", "pack again"]);
}

/// Every byte outside the pictures is under a checksum, and every picture under its own.
#[test]
fn every_damaged_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.pack");
    let whole = fs::read(&BIRDS.pack).unwrap();
    let pictures = whole.len() - tables(&whole);
    let step = |from: usize, to: usize, step| (from..to).step_by(step);
    for at in step(0, 64, 1).chain(step(pictures, whole.len(), 97)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        let message = message(&file);
        let named = message.contains("pack again") || at < 8 && message.contains("neither a folder");
        assert!(named && message.starts_with(file.to_str().unwrap()), "{at}: {message}");
    }
}

/// Bytes behind the pictures.
fn tables(pack: &[u8]) -> usize {
    pack.len() - u64::from_le_bytes(pack[16..24].try_into().unwrap()) as usize
}

#[test]
fn a_damaged_picture_ends_a_training_and_a_check_names_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spots.pack");
    let mut bytes = fs::read(&BIRDS.pack).unwrap();
    let side = data::margin_side(SIDE);
    bytes[64 + 5] ^= 1;
    bytes[64 + side * side * 3 * 3 + 1000] ^= 0x80;
    fs::write(&file, &bytes).unwrap();
    let set = open(Format::Cub, &file).unwrap();
    let first = set.train[0].id.clone();
    let order = LoaderConfig { train: false, ..config(2) };
    let message =
        Loader::new(Arc::new(set.train.clone()), order, 0).unwrap().next_batch().unwrap_err().to_string();
    assert_says(&message, &["spots.pack: the picture ", &first, "its checksum is wrong", "pack again"]);
    let error = EvalBatches::new(Arc::new(set.train), config(2), 0).unwrap().next().unwrap().unwrap_err();
    assert_says(&error.to_string(), &[&first, "its checksum is wrong"]);

    let output = engine(&["data", "check", file.to_str().unwrap(), "--dataset", "cub"]);
    assert_eq!(output.code, 1, "{}", output.err);
    assert_says(&output.out, &["2 pictures are damaged, and a training that comes to one stops:", &first]);
    assert_says(&output.err, &["its checksum is wrong", "pack again"]);
}

#[test]
fn what_cannot_be_written_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refusal = |from: &Path, out: &Path| write(from, SIDE, out).unwrap_err().to_string();
    assert_says(&refusal(&BIRDS.folder, &path("none/birds.pack")), &["none/birds.pack"]);
    assert_says(&refusal(&BIRDS.folder, folder.path()), &["a folder; --out names the file"]);
    fs::write(path("notes.txt"), "mine").unwrap();
    assert_says(&refusal(&BIRDS.folder, &path("notes.txt")), &["a file that is no pack already"]);
    fs::write(path("image"), b"\xff\xd8\xff").unwrap();
    assert_says(&refusal(&BIRDS.folder, &path("image")), &["a JPEG image already"]);
    assert_says(&refusal(&BIRDS.pack, &path("again")), &["birds.pack: a pack already"]);
    let set = open(Format::Cub, &BIRDS.folder).unwrap();
    let stopped = data::pack(&set, packing(SIDE, &path("stopped")), &mut |_| false);
    assert_eq!(stopped.unwrap(), None);

    let broken = path("broken");
    demo::write(&broken, 3, 1).unwrap();
    let set = open(Format::Cub, &broken).unwrap();
    set.train.iter().chain(&set.test).for_each(|item| fs::write(&item.image, "broken").unwrap());
    assert_says(&refusal(&broken, &path("empty")), &["none of the other images can be used either"]);
    fs::remove_dir_all(broken).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["image", "notes.txt"]);
}

// Training

/// `engine train` of the tiny networks on these data.
fn train(out: &Path, data: &Path, more: &[&str]) -> binary::Output {
    let mut command = command();
    command.args(["train", "--dataset", "demo", "--device", "cpu"]);
    command.arg("--out").arg(out).arg("--data").arg(data);
    command.args(TINY.iter().flat_map(|setting| ["--set", setting]));
    succeeds(command.args(more))
}

/// The checkpoints of a run.
fn weights(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(run);
    found.retain(|path, _| path.extension().is_some_and(|ending| ending == "safetensors"));
    found.into_iter().map(|(path, bytes)| (path.strip_prefix(run).unwrap().to_path_buf(), bytes)).collect()
}

/// A run in two calls keeps the checkpoints between them too.
fn assert_same(weights: &BTreeMap<PathBuf, Vec<u8>>, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in expected {
        assert!(weights.get(path) == Some(bytes), "{} differs", path.display());
    }
}

/// Two steps of every phase: from files, from a pack, and half from each, in both orders.
#[test]
fn training_from_a_pack_is_training_from_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| folder.path().join(name);
    let from_files = train(&run("files"), &BIRDS.folder, &[]);
    let from_pack = train(&run("pack"), &BIRDS.pack, &[]);
    let expected = weights(&run("files"));
    assert!(expected.len() > 10, "{:?}", expected.keys());
    assert!(weights(&run("pack")) == expected, "weights from a pack differ");
    let noted = |output: &binary::Output| {
        output.err.lines().filter(|line| line.contains("skip") || line.contains("not be used")).count()
    };
    assert!(noted(&from_files) > 0);
    assert_eq!(noted(&from_files), noted(&from_pack), "{}{}", from_files.err, from_pack.err);

    for (begun, then) in [(&BIRDS.folder, &BIRDS.pack), (&BIRDS.pack, &BIRDS.folder)] {
        let out = run("both");
        train(&out, begun, &["--steps", "1"]);
        let arguments = ["train", "--device", "cpu", "--resume"];
        succeeds(command().args(arguments).arg(&out).arg("--data").arg(then));
        assert_same(&weights(&out), &expected);
        assert!(read(out.join("run.json")).contains(then.to_str().unwrap()));
        fs::remove_dir_all(out).unwrap();
    }
    // The run knows its pack.
    train(&run("knows"), &BIRDS.pack, &["--steps", "1"]);
    succeeds(command().args(["train", "--device", "cpu", "--resume"]).arg(run("knows")));
    assert_same(&weights(&run("knows")), &expected);
}

#[test]
fn a_pack_that_does_not_suit_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (out, pack) = (folder.path().join("run"), BIRDS.pack.to_str().unwrap());
    let arguments = ["train", "--dataset", "demo", "--out", out.to_str().unwrap(), "--data", pack];
    let message = refused(&arguments);
    assert_says(&message, &["birds.pack: packed for images of 32×32", "64×64 are wanted"]);
    let more = ["--set", "generator.first_ups=1", "--set", "data.max_side=900"];
    assert_says(&refused(&[&arguments[..], &more].concat()), &["data.max_side = 65535", "here it is 900"]);
    let text = folder.path().join("text");
    fs::write(&text, "text").unwrap();
    let arguments = ["train", "--dataset", "cub", "--data", text.to_str().unwrap()];
    assert_says(&refused(&arguments), &["text: a file, neither a folder with a data set nor a pack"]);
    assert!(!out.exists());
}

#[test]
fn caption_finds_the_boxes_of_a_packed_image() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &BIRDS.pack, &["--phase", "captioner", "--steps", "1"]);
    let image = open(Format::Cub, &BIRDS.folder).unwrap().train[2].image.clone();
    let (run, image, pack) =
        (run.to_str().unwrap(), image.to_str().unwrap(), BIRDS.pack.to_str().unwrap().to_string());
    let caption = ["caption", "--device", "cpu", "--run", run, image];
    let (own, named) = (engine(&caption), engine(&[&caption[..], &["--data", &pack]].concat()));
    assert_eq!((own.code, own.err.as_str()), (0, ""), "no note that the whole image is taken");
    assert_eq!((own.out, own.err), (named.out, named.err));
}

/// Runs where `CUB10` names a folder with classes 1 to 10 of CUB.
/// Pictures with a table of captions, packed and not.
#[test]
fn a_folder_of_pictures_is_packed_too() {
    let root = tempfile::tempdir().unwrap();
    let (pictures, file) = (root.path().join("pictures"), root.path().join("pictures.pack"));
    fs::create_dir(&pictures).unwrap();
    let mut table = "file_name,caption\n".to_string();
    for (number, item) in open(Format::Cub, &BIRDS.folder).unwrap().train.iter().take(12).enumerate() {
        fs::copy(&item.image, pictures.join(format!("{number}.png"))).ok();
        table += &format!("{number}.png,bird number {number}\n");
    }
    fs::write(pictures.join("captions.csv"), table).unwrap();
    let set = open(Format::Folder, &pictures).unwrap();
    let packing = Packing { format: "folder".into(), ..packing(SIDE, &file) };
    data::pack(&set, packing, &mut |_| true).unwrap();
    let pack = open(Format::Folder, &file).unwrap();
    assert_eq!(Fingerprint::of(&set), Fingerprint::of(&pack));
    assert!(batches(&set.train, config(4), 0, 6) == batches(&pack.train, config(4), 0, 6));
}

/// A pack holds words, split and classes too.
#[test]
fn a_pack_of_other_words_is_refused() {
    let config = OpenConfig { min_count: 2, ..OpenConfig::default() };
    let message = data::open(Format::Cub, &BIRDS.pack, &config).unwrap_err().to_string();
    assert_says(&message, &["birds.pack: packed with data.min_count = 1, and here it is 2", "--min-count=2"]);
}

// The commands

#[test]
fn pack_check_and_speed_speak_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("birds.pack");
    let (out, data) = (out.to_str().unwrap(), BIRDS.folder.to_str().unwrap());
    let pack = ["data", "pack", data, "--dataset", "cub", "--out", out, "--side", "32", "--exif-orientation"];
    let output = engine(&pack);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(
        &output.out,
        &["28 images for networks of 32×32 pixels in ", "birds.pack (", " MiB); train with --data "],
    );
    assert_says(&output.err, &["neither JPEG", "training will take another in its place"]);
    let check = ["data", "check", out, "--dataset", "cub"];
    assert_says(&refused(&check), &["data.exif_orientation = true, and here it is false"]);
    let turned = ["--exif-orientation"];
    assert_says(
        &engine(&[&check[..], &turned].concat()).out,
        &["packed         32 pixels", "2 will be skipped"],
    );
    let speed = ["data", "speed", out, "--dataset", "cub", "--side", "32", "--seconds", "1"];
    let output = engine(&[&speed[..], &turned].concat());
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &["images/s (", "from a pack, 2 workers, batches of ", "[8, 16, 32] pixels"]);
    assert_says(&refused(&["data", "speed", out, "--dataset", "cub"]), &["packed for images of 32×32"]);
}
