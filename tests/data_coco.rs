//! COCO on disk, in both layouts: what is read, what is skipped, what is refused; and a training on it.

mod album;
mod binary;
mod pickled;

use std::fs;
use std::path::Path;

use album::{Album, classes, ids, says, sentences};
use binary::{TINY, assert_says, command, refused, succeeds};
use mirrorgan_engine::data::{Fingerprint, Format, OpenConfig, Tokenizer, open};
use serde_json::{Value, json};

const TRAIN: &str = "annotations/captions_train2014.json";
const VAL: &str = "annotations/captions_val2014.json";

fn name(split: &str, id: i64) -> String {
    format!("COCO_{split}2014_{id:012}")
}

/// A captions file as COCO's, with fields that nobody reads.
fn captions(split: &str, images: &[i64], captions: &[(i64, &str)]) -> Value {
    let image = |id: &i64| json!({"license": 3, "file_name": format!("{}.jpg", name(split, *id)), "height": 16, "id": id});
    let annotation = |(number, (id, caption)): (usize, &(i64, &str))| json!({"image_id": id, "id": number, "caption": caption});
    json!({
        "info": {"year": 2014, "description": "a test"},
        "images": images.iter().map(image).collect::<Vec<_>>(),
        "licenses": [{"url": "http://somewhere", "id": 1}],
        "annotations": captions.iter().enumerate().map(annotation).collect::<Vec<_>>(),
    })
}

/// Two training images, 9 and 25, and a validation image, 42.
fn official() -> Album {
    let album = Album::new(Format::Coco);
    let list =
        captions("train", &[9, 25], &[(25, "A giraffe."), (9, "Two red birds"), (25, "a tall giraffe\n")]);
    album.put(TRAIN, list.to_string());
    album.put(VAL, captions("val", &[42], &[(42, "A surfer, a bird.")]).to_string());
    album.pictures(
        &[9, 25].map(|id| format!("train2014/{}.jpg", name("train", id))).each_ref().map(String::as_str),
    );
    album.pictures(&[&format!("val2014/{}.jpg", name("val", 42))]);
    album
}

#[test]
fn the_published_annotations_are_read() {
    let album = official();
    let set = album.open();
    let id = |split: &str, id| format!("{split}2014/{}", name(split, id));
    assert_eq!(ids(&set.train), [id("train", 9), id("train", 25)]);
    assert_eq!(ids(&set.test), [id("val", 42)]);
    assert_eq!(sentences(&set, &set.train[1]), ["a giraffe", "a tall giraffe"]);
    assert_eq!(set.vocabulary.words()[..5], ["<end>", "two", "red", "birds", "a"]);
    assert_eq!([classes(&set.train), classes(&set.test)].concat(), [0, 1, 2], "each picture is a class");
    assert!(set.train.iter().chain(&set.test).all(|item| item.bbox.is_none() && item.image.is_file()));
    assert_eq!((set.skipped.len(), set.notices.len()), (0, 0), "{:?}", set.notices);
    let report = album.report();
    assert_eq!((report.train, report.test, report.captions, report.is_clean()), (2, 1, 4, true));
}

#[test]
fn images_and_annotations_may_lie_elsewhere() {
    let whole = Fingerprint::of(&official().open());
    let moves: [&[(&str, &str)]; 3] = [
        &[(TRAIN, "captions_train2014.json"), (VAL, "captions_val2014.json")],
        &[("train2014", "images/train2014"), ("val2014", "images/val2014")],
        &[
            ("train2014", "images"),
            ("val2014/COCO_val2014_000000000042.jpg", "images/COCO_val2014_000000000042.jpg"),
        ],
    ];
    for moves in moves {
        let album = official();
        for (from, to) in moves {
            let to = album.root().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(album.root().join(from), to).unwrap();
        }
        if album.root().join("images/COCO_val2014_000000000042.jpg").exists() {
            album.remove("val2014");
        }
        assert_eq!(Fingerprint::of(&album.open()), whole, "{moves:?}");
    }
}

#[test]
fn another_year_is_read_and_said_to_be_there() {
    let album = official();
    album.put("annotations/captions_train2017.json", captions("train", &[9], &[(9, "a bird")]).to_string());
    says(
        &album.notices(),
        &["captions of train2014 and of train2017 are here; those of train2014 are taken"],
    );
    album.remove("train2014").pictures(&["train2017/COCO_train2014_000000000009.jpg"]);
    let set = album.open();
    assert_eq!(ids(&set.train), ["train2017/COCO_train2014_000000000009"]);
    says(
        &set.notices.join("\n"),
        &["those of train2017 are taken", "no held-out images (there is no validation image)"],
    );
}

#[test]
fn images_of_one_split_are_enough_if_they_train() {
    let album = official();
    album.remove("val2014");
    let set = album.open();
    assert_eq!((set.train.len(), set.test.len()), (2, 0));
    says(&set.notices.join("\n"), &["nothing is held out: the images of captions_val2014.json are not here"]);
    album.remove("train2014");
    let expected =
        ["the images of captions_train2014.json are not here", "the folder train2014, or images/train2014"];
    says(&album.refusal(), &expected);
    // Validation alone can be read, but not trained on.
    let album = official();
    album.remove(TRAIN);
    let message = album.open().require_trainable("damsm.schedule.batch", 2).unwrap_err().to_string();
    says(&message, &["no image is left for training: only validation images are there"]);
}

#[test]
fn what_is_no_captions_file_says_what_is_wanted() {
    let whole = captions("train", &[9, 25], &[(25, "a giraffe"), (9, "two birds")]);
    let without = |key: &str| {
        let mut list = whole.clone();
        list.as_object_mut().unwrap().remove(key);
        list.to_string()
    };
    let instances = json!({
        "images": whole["images"],
        "annotations": [{"image_id": 9, "id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1.5, 2.5]], "category_id": 4}],
    });
    let text = whole.to_string();
    let cut = &text[..text.len() - 20];
    for (content, expected) in [
        (
            instances.to_string(),
            &["its annotations have no captions", "captions_train2014.json", "is wanted"][..],
        ),
        (without("annotations"), &["it has no list 'annotations'", "annotations_trainval2014.zip"]),
        (without("images"), &["it has no list 'images'"]),
        ("[1, 2]".into(), &["not COCO's captions: invalid type"]),
        (
            text.replace("\"image_id\":9", "\"image_id\":\"nine\""),
            &["not COCO's captions", "expected i64 at line 1 column"],
        ),
        (cut.to_string(), &["captions_train2014.json:1: cut off at column ", "fetch the file again"]),
        (text.replacen("}", "}]", 1), &["captions_train2014.json:1: not JSON (", "column"]),
        (String::new(), &["an empty file; fetch it again"]),
        ("PK\x03\x04annotations".into(), &["it is a ZIP file"]),
        ("<!DOCTYPE html>".into(), &["it is a web page"]),
    ] {
        let album = official();
        album.put(TRAIN, content);
        says(&album.refusal(), expected);
    }
    let marked = official();
    marked.put(TRAIN, format!("\u{feff}{text}"));
    assert_eq!(marked.open().train.len(), 2);
}

#[test]
fn ids_and_names_that_clash_are_named() {
    let album = official();
    album.put(TRAIN, captions("train", &[9, 25, 9], &[(9, "a bird")]).to_string());
    says(&album.refusal(), &["captions_train2014.json: ", "have one name without the ending"]);
    let twice = captions("train", &[9, 25], &[(9, "a bird")]).to_string();
    album.put(TRAIN, twice.replace("\"id\":25", "\"id\":9"));
    let expected = [
        "the image id 9 occurs twice, of 'COCO_train2014_000000000009.jpg' and of 'COCO_train2014_000000000025.jpg'",
    ];
    says(&album.refusal(), &expected);
    album.put(TRAIN, twice.replace("COCO_train2014_000000000025.jpg", "COCO_train2014_000000000009.png"));
    says(
        &album.refusal(),
        &["'COCO_train2014_000000000009.jpg' (id 9) and 'COCO_train2014_000000000009.png' (id 25)"],
    );
}

#[test]
fn captions_of_unknown_images_are_left_out_and_counted() {
    let album = official();
    album.put(TRAIN, captions("train", &[9], &[(9, "a bird"), (7, "a dog"), (8, "a cat")]).to_string());
    let set = album.open();
    assert_eq!(set.train[0].captions.len(), 1);
    says(
        &set.notices.join("\n"),
        &["captions_train2014.json: 2 captions name an image id that 'images' lacks, such as 7"],
    );
    album.put(TRAIN, captions("train", &[9], &[(7, "a dog")]).to_string());
    says(
        &album.refusal(),
        &["1 caption names an image id that 'images' lacks, such as 7", "belong to different files"],
    );
}

#[test]
fn images_that_are_missing_or_without_words_are_skipped_and_named() {
    let album = official();
    let list = [(9, "a bird"), (30, "..."), (31, "\u{7ea2}\u{9e1f}")];
    album.put(TRAIN, captions("train", &[9, 25, 30, 31], &list).to_string());
    album.remove("train2014/COCO_train2014_000000000009.jpg");
    album.pictures(
        &[30, 31].map(|id| format!("train2014/{}.jpg", name("train", id))).each_ref().map(String::as_str),
    );
    assert_eq!(
        album.skips(),
        [
            "train2014/COCO_train2014_000000000009.jpg: the image is missing",
            "train2014/COCO_train2014_000000000025.jpg: no caption of it in captions_train2014.json",
            "train2014/COCO_train2014_000000000030.jpg: 1 caption in captions_train2014.json without a word",
            "train2014/COCO_train2014_000000000031.jpg: none of its captions has an ASCII word: this tokenizer (AttnGAN's) reads ASCII words only",
        ]
    );
    let unicode = OpenConfig { tokenizer: Tokenizer::Unicode, ..OpenConfig::default() };
    assert_eq!(ids(&album.open_with(&unicode).train), ["train2014/COCO_train2014_000000000031"]);
    // Many are one line.
    let many: Vec<i64> = (100..140).collect();
    let list: Vec<(i64, &str)> = many.iter().map(|id| (*id, "a bird")).collect();
    album.put(TRAIN, captions("train", &many, &list).to_string());
    let skips = album.skips();
    assert_eq!(skips.len(), 1, "{skips:?}");
    says(
        &skips[0],
        &[
            "40 of 41 files are missing, such as 'COCO_train2014_000000000100.jpg'; there is 'COCO_train2014_0",
        ],
    );
}

#[test]
fn neither_layout_lists_both() {
    let album = Album::new(Format::Coco);
    album.put("annotations/instances_train2014.json", "{}");
    let both =
        ["annotations/captions_train2014.json", "train2014/*.jpg", "text/*.txt", "train/filenames.pickle"];
    says(&album.refusal(), &both);
    says(&album.refusal(), &["neither of COCO's layouts is here; there is instances_train2014.json"]);
    let nowhere =
        open(Format::Coco, album.root().join("none"), &OpenConfig::default()).unwrap_err().to_string();
    says(&nowhere, &["none: no such folder; ", both[0]]);
}

#[test]
fn rare_words_are_left_out_and_counted() {
    let album = official();
    let set = album.open_with(&OpenConfig { min_count: 2, ..OpenConfig::default() });
    assert_eq!(set.vocabulary.words(), ["<end>", "a", "giraffe"]);
    let notice = "6 words occur fewer than 2 times (data.min_count), and the vocabulary has 3 without";
    says(&set.notices.join("\n"), &[notice]);
    says(&set.skipped[0].why, &["none of its captions has a word of the vocabulary"]);
}

/// Whatever is in the annotations, they are read or refused.
#[test]
fn no_bytes_make_the_annotations_panic() {
    let album = official();
    let whole = captions("train", &[9, 25], &[(25, "a giraffe"), (9, "two birds")]).to_string();
    let mut opened = 0;
    for seed in 0..1500 {
        album.put(TRAIN, album::damaged(whole.as_bytes(), seed));
        opened += usize::from(open(Format::Coco, album.root(), &OpenConfig::default()).is_ok());
    }
    assert!((20..1400).contains(&opened), "{opened}");
}

// AttnGAN's folder

fn filenames(names: &[String]) -> Vec<u8> {
    pickled::file(&pickled::list(names.iter().map(|name| pickled::text(name))))
}

/// [train captions, test captions, ixtoword, wordtoix], five captions an image, each one word and `bird`.
fn captions_pickle(train: u8, test: u8) -> Vec<u8> {
    let words = ["<end>", "bird", "red", "blue", "green"];
    let captions = |images: std::ops::Range<u8>| {
        let caption = |image: u8| pickled::list([2 + image % 3, 1].map(pickled::number));
        pickled::list(images.flat_map(|image| (0..5).map(move |_| caption(image))))
    };
    let numbered = || (0..).zip(words);
    let by_index =
        pickled::dictionary(numbered().map(|(at, word)| (pickled::number(at), pickled::text(word))));
    let by_word =
        pickled::dictionary(numbered().map(|(at, word)| (pickled::text(word), pickled::number(at))));
    pickled::file(&pickled::list([captions(0..train), captions(train..train + test), by_index, by_word]))
}

/// Three images, two of which train.
fn published() -> Album {
    let album = Album::new(Format::Coco);
    for (stem, word) in [(name("train", 9), "red"), (name("train", 25), "blue"), (name("val", 42), "green")] {
        album.pictures(&[&format!("images/{stem}.jpg")]);
        album.put(&format!("text/{stem}.txt"), format!("{word} bird\n").repeat(5));
    }
    album.put("train/filenames.pickle", filenames(&[name("train", 9), name("train", 25)]));
    album.put("test/filenames.pickle", filenames(&[name("val", 42)]));
    album
}

#[test]
fn the_folder_of_attngan_is_read() {
    let album = published();
    let set = album.open();
    assert_eq!(
        (ids(&set.train), ids(&set.test)),
        (vec![&*name("train", 9), &*name("train", 25)], vec![&*name("val", 42)])
    );
    assert_eq!(set.vocabulary.words(), ["<end>", "red", "bird", "blue", "green"]);
    assert_eq!([classes(&set.train), classes(&set.test)].concat(), [0, 1, 2]);
    assert_eq!(
        (set.train[0].captions.len(), set.skipped.len(), set.notices.len()),
        (5, 0, 0),
        "{:?}",
        set.notices
    );

    album.put("captions.pickle", captions_pickle(2, 1));
    let set = album.open();
    assert_eq!(set.vocabulary.words(), ["<end>", "bird", "red", "blue", "green"]);
    assert_eq!(sentences(&set, &set.test[0]), vec!["green bird"; 5]);
    album.remove("text");
    assert_eq!(Fingerprint::of(&album.open()), Fingerprint::of(&set));

    let album = published();
    album.put("captions.pickle", captions_pickle(1, 1));
    says(&album.notices(), &["captions.pickle does not hold 5 captions for each name"]);
    album.put("captions.pickle", captions_pickle(2, 1));
    album.put("train/filenames.pickle", filenames(&[name("train", 25), name("train", 9)]));
    says(&album.refusal(), &["captions.pickle: the captions of 2 of 3 images", "another order"]);
}

#[test]
fn texts_and_images_may_lie_in_folders_of_their_split() {
    let whole = Fingerprint::of(&published().open());
    let album = published();
    for (folder, ending) in [("images", "jpg"), ("text", "txt")] {
        for (split, id) in [("train", 9), ("train", 25), ("val", 42)] {
            let file = format!("{}.{ending}", name(split, id));
            let from = album.root().join(folder).join(&file);
            let to = album.root().join(folder).join(format!("{split}2014"));
            fs::create_dir_all(&to).unwrap();
            fs::rename(from, to.join(file)).unwrap();
        }
    }
    assert_eq!(Fingerprint::of(&album.open()), whole);
    // Without the pickles the names split.
    album.remove("train").remove("test");
    assert_eq!(Fingerprint::of(&album.open()), whole);
    says(&album.notices(), &["split: train2014 and val2014 in the names"]);
    album.pictures(&["images/mine.jpg"]);
    says(&album.refusal(), &["the name 'mine.jpg' does not say train2014 or val2014"]);
}

#[test]
fn what_attngans_folder_lacks_is_named() {
    let album = published();
    album.put("images/COCO_train2014_000000000009.png", "");
    says(
        &album.refusal(),
        &["'COCO_train2014_000000000009.jpg' and 'COCO_train2014_000000000009.png' have one name"],
    );
    let album = published();
    album.remove("images");
    says(&album.refusal(), &["images: no such folder", "the images are expected in it"]);
    let album = published();
    album.remove("text/COCO_train2014_000000000009.txt").remove("images/COCO_train2014_000000000025.jpg");
    let skips = album.skips().join("\n");
    says(&skips, &["text/COCO_train2014_000000000009.txt: the captions cannot be read"]);
    says(&skips, &["COCO_train2014_000000000025.jpg: named in filenames.pickle, but not in images/"]);
    let album = published();
    album.put("train/filenames.pickle", filenames(&["bird_1".into()]));
    album.put("test/filenames.pickle", filenames(&["bird_2".into()]));
    says(
        &album.refusal(),
        &["none of the 2 names in the filenames.pickle files is in images/", "remove train/"],
    );
    let album = published();
    album.put(TRAIN, captions("train", &[9], &[(9, "a bird")]).to_string());
    says(&album.notices(), &["AttnGAN's text/ or pickles are here too; COCO's own captions are taken"]);
}

// From the command line

#[test]
fn coco_trains_and_generates() {
    let album = Album::new(Format::Coco);
    let images: Vec<i64> = (0..12).collect();
    for split in ["train", "val"] {
        let list: Vec<(i64, &str)> = images
            .iter()
            .map(|id| (*id, ["a red bus", "two dogs", "a tall giraffe"][*id as usize % 3]))
            .collect();
        album.put(
            &format!("annotations/captions_{split}2014.json"),
            captions(split, &images, &list).to_string(),
        );
        for id in &images {
            album.pictures(&[&format!("{split}2014/{}.jpg", name(split, *id))]);
        }
    }
    let data = album.root().to_str().unwrap();
    let checked = succeeds(command().args(["data", "check", data, "--dataset", "coco"]));
    assert_says(&checked.out, &["12 images of 12 classes", "nothing will be skipped"]);
    let run = album.root().join("run");
    let mut train = command();
    train.args(["train", "--dataset", "coco", "--data", data, "--out"]).arg(&run);
    let small = ["damsm.backbone.kind=small", "captioner.backbone.kind=small", "captioner.resize=none"];
    TINY.iter().chain(&small).for_each(|setting| drop(train.args(["--set", setting]).get_args()));
    let output = succeeds(&mut train);
    assert_says(&output.err, &["damsm 2/2", "gan 2/2"]);
    assert_says(&output.out, &["is ready", "\"a red bus\""]);
    let run = run.to_str().unwrap();
    let infer = succeeds(command().args(["infer", "--run", run, "a tall red giraffe"]));
    assert!(infer.out.lines().count() >= 3, "{}", infer.out);
    // The run knows that it was trained on COCO.
    assert_says(
        &succeeds(command().args(["train", "--resume", run])).err,
        &["gan: finished at step 2, kept"],
    );
    let refusal = refused(&["train", "--resume", run, "--dataset", "cub"]);
    assert_says(&refusal, &["begun with --dataset coco, not cub"]);
    let image = album.root().join("val2014").join(format!("{}.jpg", name("val", 3)));
    let caption = succeeds(command().args(["caption", "--run", run]).arg(&image));
    assert!(!caption.err.contains("box"), "{}", caption.err);
    let boxes = refused(&["caption", "--run", run, "--data", data, image.to_str().unwrap()]);
    assert_says(&boxes, &["this run's has none"]);
}

/// Two million captions; says how long it took, and how much memory. `cargo test --release --test data_coco -- --ignored
/// --nocapture`.
#[test]
#[ignore = "writes 300 MB, and is to be measured alone"]
fn two_million_captions_are_read_in_seconds() {
    use std::fmt::Write;
    const IMAGES: usize = 400_000;
    let album = Album::new(Format::Coco);
    let words = "a an the two three red blue green small large bird dog cat man woman standing sitting on in near street \
                 field beach holding riding surf board train table with of and his her white black";
    let words: Vec<&str> = words.split_whitespace().collect();
    let (mut images, mut captions) = (String::new(), String::new());
    let mut state = 1_u64;
    fs::create_dir_all(album.root().join("train2014")).unwrap();
    for id in 0..IMAGES {
        let comma = if id == 0 { "" } else { "," };
        write!(images, "{comma}{{\"license\":5,\"file_name\":\"{}.jpg\",\"coco_url\":\"http://images.cocodataset.org/train2014/{0}.jpg\",\"height\":480,\"width\":640,\"date_captured\":\"2013-11-14 16:28:13\",\"id\":{id}}}", name("train", id as i64)).unwrap();
        fs::write(album.root().join("train2014").join(format!("{}.jpg", name("train", id as i64))), "")
            .unwrap();
        for number in 0..5 {
            let comma = if id + number == 0 { "" } else { "," };
            write!(captions, "{comma}{{\"image_id\":{id},\"id\":{},\"caption\":\"A", id * 5 + number)
                .unwrap();
            for _ in 0..10 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let word = (state >> 33) as usize % (words.len() * 500);
                match words.get(word % 600) {
                    Some(word) => write!(captions, " {word}").unwrap(),
                    None => write!(captions, " word{}", word % 27_000).unwrap(),
                }
            }
            captions.push_str(".\"}");
        }
    }
    let file =
        format!("{{\"info\":{{}},\"images\":[{images}],\"licenses\":[],\"annotations\":[{captions}]}}");
    drop((images, captions));
    let bytes = file.len();
    album.put(TRAIN, &file);
    drop(file);
    let before = peak();
    let begin = std::time::Instant::now();
    let set = album.open();
    let count: usize = set.train.iter().map(|item| item.captions.len()).sum();
    eprintln!(
        "{count} captions, {} words, {} MB of JSON: {:.1} s; peak RSS {} MB, before it {before} MB",
        set.vocabulary.len(),
        bytes >> 20,
        begin.elapsed().as_secs_f64(),
        peak()
    );
    assert_eq!(count, 5 * IMAGES);
}

/// The most memory that was resident since this was called last, in MB.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let peak = line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).unwrap_or(0) >> 10;
    let _ = fs::write(Path::new("/proc/self/clear_refs"), "5");
    peak
}
