//! The data floor from the outside: captions, pictures, CUB's layout, the demo and the loader.

mod damage;
mod pickled;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirrorgan_engine::data::captions::{Encoded, fit_eval, fit_train};
use mirrorgan_engine::data::{
    Batch, Dataset, DecodeConfig, EvalBatches, Format, Item, Loader, LoaderConfig, OpenConfig, Picture,
    Region, Tokenizer, Vocabulary, bbox_crop, captions, check, decode, demo, margin_side, save_png,
};
use mirrorgan_engine::error::Result;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

const SPARROW: &str = "002.Sparrow/Sparrow_1";
const FINCH: &str = "001.Finch/Finch_1";

/// As the published presets do.
fn open(format: Format, dir: impl AsRef<Path>) -> Result<Dataset> {
    mirrorgan_engine::data::open(format, dir, &OpenConfig::default())
}

fn encode(text: &str, vocabulary: &Vocabulary) -> Encoded {
    captions::encode(text, vocabulary, Tokenizer::AttnGan)
}

// Captions

#[test]
fn tokens_are_those_of_attngan() {
    let tokenize = |caption| Tokenizer::AttnGan.words(caption);
    let words = tokenize("The bird's 2 wings\u{fffd}\u{fffd}are blue_gray, n\u{e9}at; \u{e9} END.");
    assert_eq!(words, ["the", "bird", "s", "2", "wings", "are", "blue_gray", "nat", "end"]);
    assert!(tokenize(" ... \u{e9} ").is_empty());
}

#[test]
fn a_vocabulary_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.txt");
    let (vocabulary, _) = Vocabulary::build(&["a red bird", "a blue bird"], 1);
    vocabulary.save(&file).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "<end>\na\nred\nbird\nblue\n");
    assert_eq!(Vocabulary::load(&file).unwrap(), vocabulary);
    assert_eq!((vocabulary.id("bird"), vocabulary.word(4), vocabulary.len()), (Some(3), Some("blue"), 5));
    assert_eq!((vocabulary.word(-1), vocabulary.word(5)), (None, None));
}

#[test]
fn a_bad_vocabulary_file_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.txt");
    for (text, expected) in [
        ("<end>\nred\nred\n", "words.txt:3: 'red' has the id 1 already"),
        ("<end>\n\nred\n", "words.txt:2: the word of id 1 is empty"),
        ("red\n", "words.txt:1: the first word must be '<end>'"),
        ("", "words.txt: empty"),
    ] {
        fs::write(&file, text).unwrap();
        let message = Vocabulary::load(&file).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn unknown_words_are_named_once_and_near_ones_found() {
    let (vocabulary, _) = Vocabulary::build(&["a yellow bird with wings"], 1);
    let encoded = encode("A yelow bird, yelow and shy", &vocabulary);
    assert_eq!(encoded.ids, [1, 3]);
    assert_eq!(encoded.unknown, ["yelow", "and", "shy"]);
    assert_eq!(vocabulary.near("yelow", 1), ["yellow"]);
    assert!(vocabulary.near("zzz", 3).is_empty());
}

#[test]
fn long_captions_are_cut_in_order() {
    let ids: Vec<i32> = (1..=30).collect();
    let fitted = fit_train(&ids, 18, &mut Xoshiro256PlusPlus::seed_from_u64(1));
    assert_eq!(fitted.len(), 18);
    assert!(fitted.windows(2).all(|pair| pair[0] < pair[1]));
    assert_ne!(fitted, ids[..18]);
    assert_eq!(fit_eval(&ids, 18), ids[..18]);
    assert_eq!(fit_eval(&ids[..3], 18), [1, 2, 3]);
}

// Pictures

#[test]
fn boxes_are_cropped_as_published() {
    let region = |left, top, right, bottom| Ok(Region { left, top, right, bottom });
    // Albatross 1 of CUB: center (222, 179), half-side int(325 · 0.75) = 243, clipped to 500×335.
    assert_eq!(bbox_crop(500, 335, [60.0, 27.0, 325.0, 304.0]), region(0, 0, 465, 335));
    assert_eq!(bbox_crop(200, 200, [90.0, 95.0, 21.0, 10.0]), region(85, 85, 115, 115));
    for outside in
        [[200.0, 10.0, 5.0, 5.0], [-9.0, 0.0, 4.0, 4.0], [5.0, 5.0, 0.0, 9.0], [5.0, f32::NAN, 1.0, 9.0]]
    {
        assert!(bbox_crop(200, 200, outside).unwrap_err().contains("outside the image"));
    }
}

#[test]
fn resizing_is_antialiased() {
    let row = |values: &[u8]| Picture {
        width: values.len(),
        height: 1,
        pixels: values.iter().flat_map(|v| [*v, 0, 255 - *v]).collect(),
    };
    let red = |picture: Picture| picture.pixels.iter().step_by(3).copied().collect::<Vec<u8>>();
    // Halving: a triangle two pixels either side; weights at the left edge 3, 3, 1 of 7, inside 1, 3, 3, 1 of 8.
    assert_eq!(red(row(&[0, 70, 140, 210]).resized(2, 1)), [50, 160]);
    // Doubling: a quarter and three quarters, the edges repeated.
    assert_eq!(red(row(&[0, 100]).resized(4, 1)), [0, 25, 75, 100]);
    assert_eq!(row(&[9, 9, 9]).resized(7, 5).pixels[..3], [9, 0, 246]);
    let tall = Picture { width: 10, height: 25, pixels: vec![0; 750] }.shorter_side(margin_side(64));
    assert_eq!((tall.width, tall.height), (76, 190));
}

#[test]
fn a_mirrored_picture_exchanges_columns_only() {
    let picture = Picture { width: 2, height: 2, pixels: (0..12).collect() };
    assert_eq!(picture.mirrored().pixels, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
    let mut values = Vec::new();
    Picture { width: 1, height: 1, pixels: vec![0, 255, 51] }.normalize_into(&mut values);
    assert_eq!(values, [-1.0, 1.0, 51.0 / 127.5 - 1.0]);
}

#[test]
fn a_png_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.png");
    let pixels: Vec<u8> = (0..3 * 5 * 3).map(|v| v as u8 * 5).collect();
    save_png(&file, 5, 3, &pixels).unwrap();
    assert_eq!(
        decode(&file, &DecodeConfig::default()).unwrap().picture,
        Picture { width: 5, height: 3, pixels }
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn truncated_jpegs_are_refused_wherever_they_end() {
    let folder = tempfile::tempdir().unwrap();
    demo::write(folder.path().join("demo"), 1, 3).unwrap();
    let whole = fs::read(&first_item(&folder.path().join("demo")).image).unwrap();
    let file = folder.path().join("cut.jpg");
    for length in [whole.len() / 4, whole.len() / 2, whole.len() - 2] {
        fs::write(&file, &whole[..length]).unwrap();
        let message = decode(&file, &DecodeConfig::default()).unwrap_err().to_string();
        assert!(message.contains("cut.jpg: a truncated JPEG"), "{message}");
    }
    fs::write(&file, [&whole[..], b"bytes after the end are harmless"].concat()).unwrap();
    decode(&file, &DecodeConfig::default()).unwrap();
    fs::write(&file, "not a picture").unwrap();
    assert!(
        decode(&file, &DecodeConfig::default())
            .unwrap_err()
            .to_string()
            .contains("neither JPEG, PNG nor WebP")
    );
}

fn first_item(dir: &Path) -> Item {
    let set = open(Format::Cub, dir).unwrap();
    set.train.into_iter().chain(set.test).next().unwrap()
}

// CUB on disk

/// A folder in CUB's layout that a test then spoils.
struct Folder {
    keep: tempfile::TempDir,
}

impl Folder {
    /// One finch (class 1, a test class) and one sparrow (class 2, a training class).
    fn new() -> Folder {
        let folder = Folder { keep: tempfile::tempdir().unwrap() };
        folder.put("CUB_200_2011/images.txt", format!("1 {FINCH}.jpg\n2 {SPARROW}.jpg\n"));
        folder.put("CUB_200_2011/bounding_boxes.txt", "1 2.0 2.0 20.0 16.0\n2 4.0 4.0 16.0 16.0\n");
        for key in [FINCH, SPARROW] {
            folder.picture(key);
        }
        folder.put(&caption_file(FINCH), "a red finch\n\nThe finch is red.\n");
        folder.put(&caption_file(SPARROW), "a brown sparrow\n");
        folder
    }

    fn root(&self) -> &Path {
        self.keep.path()
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let file = self.root().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    /// A PNG under a JPEG's name: what counts is the content.
    fn picture(&self, key: &str) {
        let pixels: Vec<u8> = (0..32 * 24 * 3).map(|v| (v % 251) as u8).collect();
        self.put(&image_file(key), "");
        save_png(self.root().join(image_file(key)), 32, 24, &pixels).unwrap();
    }

    fn pickle(&self, path: &str, value: &[u8]) {
        self.put(path, pickled::file(value));
    }

    fn names(&self, train: &[&str], test: &[&str]) {
        let list = |keys: &[&str]| pickled::list(keys.iter().map(|key| pickled::text(key)));
        self.pickle("train/filenames.pickle", &list(train));
        self.pickle("test/filenames.pickle", &list(test));
    }

    fn reasons(&self) -> Vec<String> {
        check(open(Format::Cub, self.root()).unwrap(), &DecodeConfig::default())
            .skipped
            .into_iter()
            .map(|skip| skip.why)
            .collect()
    }
}

fn image_file(key: &str) -> String {
    format!("CUB_200_2011/images/{key}.jpg")
}

fn caption_file(key: &str) -> String {
    format!("text/{key}.txt")
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

#[test]
fn without_pickles_the_official_test_classes_split() {
    let folder = Folder::new();
    let set = open(Format::Cub, folder.root()).unwrap();
    assert_eq!((ids(&set.train), ids(&set.test)), (vec![SPARROW], vec![FINCH]));
    assert_eq!(set.vocabulary.words(), ["<end>", "a", "brown", "sparrow", "red", "finch", "the", "is"]);
    assert_eq!(set.test[0].captions, [vec![1, 4, 5], vec![6, 5, 7, 4]]);
    assert_eq!((set.test[0].class, set.test[0].bbox), (1, Some([2.0, 2.0, 20.0, 16.0])));
    assert!(set.notices[0].contains("official test classes"));
    assert!(
        check(open(Format::Cub, folder.root()).unwrap(), &DecodeConfig::default())
            .to_string()
            .contains("nothing will be skipped")
    );
}

#[test]
fn pickles_split_and_may_name_absent_pictures() {
    let folder = Folder::new();
    folder.names(&[FINCH, "007.Auk/Auk_1"], &[SPARROW]);
    let set = open(Format::Cub, folder.root()).unwrap();
    assert_eq!((ids(&set.train), ids(&set.test)), (vec![FINCH], vec![SPARROW]));
    assert_eq!(set.skipped.len(), 1);
    assert!(set.skipped[0].why.contains("not in images.txt"));
}

#[test]
fn a_protocol_0_pickle_of_python_2_is_read() {
    let folder = Folder::new();
    folder.put("train/filenames.pickle", format!("(lp0\nS'{FINCH}'\np1\na."));
    folder.put("test/filenames.pickle", format!("(lp0\nV{SPARROW}\np1\na."));
    assert_eq!(ids(&open(Format::Cub, folder.root()).unwrap().train), [FINCH]);
}

/// captions.pickle with words in an order of its own, as byte strings of Python 2.
fn captions_pickle(train: usize, test: usize) -> Vec<u8> {
    let words = ["<end>", "finch", "red", "sparrow"];
    let captions =
        |count, id| pickled::list(vec![pickled::list([pickled::number(id), pickled::number(2)]); count]);
    let by_index = (0..).zip(words).map(|(at, word)| (pickled::number(at), pickled::bytes(word)));
    let by_word = (0..).zip(words).map(|(at, word)| (pickled::bytes(word), pickled::number(at)));
    let dictionaries = [pickled::dictionary(by_index), pickled::dictionary(by_word)];
    pickled::list([captions(train, 1), captions(test, 3)].into_iter().chain(dictionaries))
}

#[test]
fn captions_pickle_fixes_words_and_ids() {
    let folder = Folder::new();
    folder.put(&caption_file(SPARROW), "a sparrow, red\n");
    folder.names(&[FINCH], &[SPARROW]);
    folder.pickle("captions.pickle", &captions_pickle(10, 10));
    let set = open(Format::Cub, folder.root()).unwrap();
    assert_eq!(set.vocabulary.words(), ["<end>", "finch", "red", "sparrow"]);
    assert_eq!(set.train[0].captions, vec![vec![1, 2]; 10]);
    assert_eq!(set.test[0].captions, vec![vec![3, 2]; 10]);
}

#[test]
fn a_captions_pickle_of_another_split_lends_its_words_only() {
    let folder = Folder::new();
    folder.pickle("captions.pickle", &captions_pickle(30, 10));
    let set = open(Format::Cub, folder.root()).unwrap();
    assert_eq!(set.test[0].captions, [vec![2, 1], vec![1, 2]]);
    assert_eq!(set.train[0].captions, [vec![3]]);
    assert!(set.notices.iter().any(|notice| notice.contains("its words are kept")));
    assert!(set.notices.iter().any(|notice| notice.contains("left out")), "{:?}", set.notices);
}

#[test]
fn broken_pickles_say_what_was_expected() {
    let folder = Folder::new();
    folder.names(&[FINCH], &[SPARROW]);
    folder.put("captions.pickle", "nonsense");
    let message = open(Format::Cub, folder.root()).unwrap_err().to_string();
    assert!(message.contains("captions.pickle: not a pickle"), "{message}");
    folder.pickle("captions.pickle", &pickled::list([pickled::list([])]));
    let message = open(Format::Cub, folder.root()).unwrap_err().to_string();
    assert!(message.contains("the test captions missing; expected ["), "{message}");
    folder.pickle("train/filenames.pickle", &pickled::number(3));
    assert!(open(Format::Cub, folder.root()).unwrap_err().to_string().contains("list of file names"));
}

#[test]
fn what_cannot_be_used_is_skipped_with_a_reason() {
    for (file, content, expected) in [
        (caption_file(FINCH), Some(&b""[..]), "the captions file is empty"),
        (caption_file(FINCH), Some(b"a finch\n\xff\xfe\n"), "the captions are not UTF-8 (line 2)"),
        (caption_file(FINCH), None, "the captions cannot be read"),
        (image_file(FINCH), None, "the image is missing"),
        (image_file(FINCH), Some(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "a truncated JPEG"),
        ("CUB_200_2011/bounding_boxes.txt".into(), Some(b"1 90 2 20 16\n"), "outside the image"),
    ] {
        let folder = Folder::new();
        match content {
            Some(bytes) => folder.put(&file, bytes),
            None => fs::remove_file(folder.root().join(&file)).unwrap(),
        }
        let reasons = folder.reasons();
        assert!(reasons.len() == 1 && reasons[0].contains(expected), "{file}: {reasons:?}");
    }
}

#[test]
fn gray_pictures_are_counted_and_used() {
    let folder = Folder::new();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_pixel(32, 24, image::Luma([77]))
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    folder.put(&image_file(FINCH), bytes.into_inner());
    let report = check(open(Format::Cub, folder.root()).unwrap(), &DecodeConfig::default());
    assert_eq!((report.gray, report.test, report.is_clean()), (1, 1, true));
    let picture = decode(&folder.root().join(image_file(FINCH)), &DecodeConfig::default()).unwrap().picture;
    assert_eq!(picture.pixels.len(), 32 * 24 * 3);
}

#[test]
fn lists_that_are_missing_or_malformed_are_errors() {
    let message = |root: &Path| open(Format::Cub, root).unwrap_err().to_string();
    let folder = Folder::new();
    assert!(message(&folder.root().join("nowhere")).contains("no such folder; the folder must hold"));
    for (file, content, expected) in [
        ("images.txt", "1 001.A/a.jpg\nrubbish\n", "images.txt:2: 'rubbish' is not"),
        ("images.txt", "1 birds/a.jpg\n", "images.txt:1: 'birds/a.jpg': a class folder is named"),
        ("images.txt", "", "images.txt names no image"),
        ("bounding_boxes.txt", "1 2 3 4\n", "bounding_boxes.txt:1: '1 2 3 4' is not"),
    ] {
        let folder = Folder::new();
        folder.put(&format!("CUB_200_2011/{file}"), content);
        assert!(message(folder.root()).contains(expected), "{}", message(folder.root()));
    }
    fs::remove_file(folder.root().join("CUB_200_2011/images.txt")).unwrap();
    assert!(message(folder.root()).contains("images.txt: CUB's list of images cannot be read"));
}

#[test]
fn a_folder_without_anything_usable_lists_the_first_reasons() {
    let folder = Folder::new();
    fs::remove_dir_all(folder.root().join("text")).unwrap();
    let message = open(Format::Cub, folder.root()).unwrap_err().to_string();
    assert!(message.contains("nothing is left to learn from, 2 files were skipped"), "{message}");
    assert!(message.contains("Finch_1.txt: the captions cannot be read"), "{message}");
}

// The demo

fn demo_in(folder: &tempfile::TempDir, count: usize, seed: u64) -> PathBuf {
    let dir = folder.path().join(format!("demo-{count}-{seed}"));
    demo::write(&dir, count, seed).unwrap();
    dir
}

#[test]
fn demo_captions_are_ten_different_ones_that_agree() {
    let folder = tempfile::tempdir().unwrap();
    let set = open(Format::Cub, demo_in(&folder, 162, 1)).unwrap();
    assert!(set.skipped.is_empty());
    assert_eq!(set.train.len() + set.test.len(), 162);
    assert!(set.vocabulary.len() <= 45, "{} words", set.vocabulary.len());
    for item in set.train.iter().chain(&set.test) {
        assert_eq!(item.captions.iter().collect::<BTreeSet<_>>().len(), demo::CAPTIONS);
        assert!(item.captions.iter().all(|caption| caption.len() <= 18));
        let mut stated: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for caption in &item.captions {
            for (part, color) in colors_of(&set.vocabulary.sentence(caption)) {
                stated.entry(part).or_default().insert(color);
            }
        }
        assert!(stated.values().all(|colors| colors.len() == 1), "{}: {stated:?}", item.id);
        // The species, in the folder's name, is what was drawn: captions must tell the same.
        let species = item.id.to_lowercase();
        for (part, name) in [("body", "_winged_{}_bird"), ("wings", ".{}_winged")] {
            let color = stated[part].first().unwrap();
            assert!(species.contains(&name.replace("{}", color)), "{species}: {part} {color}");
        }
    }
}

const COLORS: [&str; 9] = ["red", "blue", "yellow", "green", "brown", "black", "white", "grey", "orange"];

/// What a caption says of each part: every color belongs to the part that is nearest in its phrase.
fn colors_of(caption: &str) -> Vec<(&'static str, String)> {
    let words: Vec<&str> = caption.split(' ').collect();
    let part_of = |word: &str| match word {
        "bird" | "body" => Some("body"),
        "wings" | "tail" => Some("wings"),
        "belly" => Some("belly"),
        "crown" => Some("crown"),
        _ => None,
    };
    let owner = |at: usize| {
        let next = words.get(at + 1).and_then(|word| part_of(word));
        let on_its =
            (words.get(at + 1) == Some(&"on")).then(|| words.get(at + 3).and_then(|word| part_of(word)));
        let subject = || {
            let of_this =
                words[..at].windows(4).any(|w| w[0] == "crown" && w[1] == "of") && words[at - 1] == "is";
            let first = words[..at].iter().rev().find_map(|word| part_of(word));
            if of_this && !words[..at].contains(&"belly") { Some("crown") } else { first }
        };
        next.or(on_its.flatten()).or_else(subject)
    };
    let colored = words.iter().enumerate().filter(|(_, word)| COLORS.contains(word));
    colored.map(|(at, word)| (owner(at).expect("every color has an owner"), word.to_string())).collect()
}

#[test]
fn the_demo_is_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let files = |dir: &Path| {
        let set = open(Format::Cub, dir).unwrap();
        let item = set.train[1].clone();
        (item.id, item.bbox, item.captions, fs::read(item.image).unwrap())
    };
    let first = demo_in(&folder, 12, 5);
    let again = folder.path().join("again");
    demo::write(&again, 12, 5).unwrap();
    assert_eq!(files(&first), files(&again));
    assert_ne!(files(&first), files(&demo_in(&folder, 12, 6)));
    let refusal = demo::write(&again, 12, 5).unwrap_err().to_string();
    assert!(refusal.contains("holds files already"), "{refusal}");
}

#[test]
fn the_demo_holds_species_out_but_no_color() {
    let folder = tempfile::tempdir().unwrap();
    let set = open(Format::Cub, demo_in(&folder, 243, 2)).unwrap();
    let classes = |items: &[Item]| items.iter().map(|item| item.class).collect::<BTreeSet<_>>();
    assert!(classes(&set.train).is_disjoint(&classes(&set.test)));
    assert_eq!((classes(&set.train).len(), classes(&set.test).len()), (69, 12));
    let mut stated = BTreeSet::new();
    for caption in set.train.iter().flat_map(|item| &item.captions) {
        stated.extend(colors_of(&set.vocabulary.sentence(caption)));
    }
    assert_eq!(stated.len(), 4 * COLORS.len(), "nine colors of body, wings, belly and crown are trained");
    assert!(set.vocabulary.words().iter().all(|word| word.is_ascii()));
    assert!(encode("a small red bird with black wings", &set.vocabulary).unknown.is_empty());
}

#[test]
fn demo_birds_fill_their_crops() {
    let folder = tempfile::tempdir().unwrap();
    let set = open(Format::Cub, demo_in(&folder, 81, 4)).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 81);
    for item in set.train.iter().chain(&set.test) {
        let picture = decode(&item.image, &DecodeConfig::default()).unwrap().picture;
        let region = bbox_crop(picture.width, picture.height, item.bbox.unwrap()).unwrap();
        let (width, height) = (region.right - region.left, region.bottom - region.top);
        assert!(width.min(height) >= 76, "{}: {width}×{height}", item.id);
    }
    assert!(check(open(Format::Cub, &set.root).unwrap(), &DecodeConfig::default()).is_clean());
}

// The loader

fn config(batch: usize) -> LoaderConfig {
    LoaderConfig {
        batch,
        sizes: vec![16, 32],
        words: 8,
        train: true,
        augment: true,
        workers: 2,
        seed: 11,
        cache_bytes: 1 << 20,
        decode: DecodeConfig::default(),
    }
}

fn items(folder: &tempfile::TempDir, count: usize) -> Arc<Vec<Item>> {
    let set = open(Format::Cub, demo_in(folder, count, 9)).unwrap();
    Arc::new(set.train.into_iter().chain(set.test).collect())
}

fn batches(items: &Arc<Vec<Item>>, config: LoaderConfig, start: u64, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(Arc::clone(items), config, start).unwrap();
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

#[test]
fn batches_depend_on_seed_and_step_alone() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(&folder, 10);
    let one = batches(&items, LoaderConfig { workers: 1, cache_bytes: 0, ..config(3) }, 0, 8);
    assert_eq!(one, batches(&items, LoaderConfig { workers: 3, ..config(3) }, 0, 8));
    assert_eq!(one[5..], batches(&items, config(3), 5, 3));
    assert_ne!(one[0], one[3], "another epoch has another order");
    assert_ne!(one[0], batches(&items, LoaderConfig { seed: 12, ..config(3) }, 0, 1)[0]);
    assert_eq!(one.iter().map(|batch| batch.epoch).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 2, 2]);
    let seen: BTreeSet<&String> = one[..3].iter().flat_map(|batch| &batch.keys).collect();
    assert_eq!(seen.len(), 9, "within an epoch no item comes twice");
}

#[test]
fn a_batch_is_sorted_and_padded() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(&folder, 6);
    let batch = &batches(&items, config(6), 0, 1)[0];
    assert_eq!(batch.images.iter().map(Vec::len).collect::<Vec<_>>(), [6 * 16 * 16 * 3, 6 * 32 * 32 * 3]);
    assert!(batch.images.iter().flatten().all(|value| (-1.0..=1.0).contains(value)));
    assert_eq!((batch.captions.len(), batch.lengths.len(), batch.keys.len()), (6 * 8, 6, 6));
    assert!(batch.lengths.windows(2).all(|pair| pair[0] >= pair[1]));
    for (row, length) in batch.captions.chunks(8).zip(&batch.lengths) {
        assert!(row.iter().take(*length as usize).all(|id| *id > 0));
        assert!(row.iter().skip(*length as usize).all(|id| *id == 0));
    }
    let class = |key: &String| items.iter().find(|item| item.id == *key).unwrap().class;
    assert_eq!(batch.classes, batch.keys.iter().map(class).collect::<Vec<_>>());
}

#[test]
fn a_batch_larger_than_the_data_set_is_a_configuration_error() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |config| Loader::new(items(&folder, 3), config, 0).err().unwrap().to_string();
    let message = refused(config(4));
    assert!(
        message.contains("a batch of 4 is larger than the data set of 3 images; set it to 3"),
        "{message}"
    );
    fs::remove_dir_all(folder.path().join("demo-3-9")).unwrap();
    assert!(
        refused(LoaderConfig { sizes: vec![64, 32], ..config(1) }).contains("[64, 32] must be ascending")
    );
}

#[test]
fn a_picture_that_breaks_is_replaced_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(&folder, 5);
    fs::write(&items[2].image, "broken").unwrap();
    let drawn = batches(&items, config(5), 0, 1);
    assert_eq!(drawn[0].skipped.len(), 1);
    assert_eq!(drawn[0].skipped[0].file, items[2].image);
    assert!(!drawn[0].keys.contains(&items[2].id));
    assert_eq!(drawn[0].keys.iter().filter(|key| **key == items[3].id).count(), 2);
    assert_eq!(drawn, batches(&items, LoaderConfig { workers: 1, ..config(5) }, 0, 1));

    let mut loader = Loader::new(Arc::clone(&items), config(5), 0).unwrap();
    loader.next_batch().unwrap();
    assert_eq!(loader.skipped().len(), 1);
    for item in items.iter() {
        fs::write(&item.image, "broken").unwrap();
    }
    let message = Loader::new(items, config(5), 0).unwrap().next_batch().unwrap_err().to_string();
    assert!(message.contains("none of the other images can be used"), "{message}");
}

#[test]
fn evaluation_takes_every_item_once() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(&folder, 7);
    let pass = |caption| -> Vec<Batch> {
        EvalBatches::new(Arc::clone(&items), config(3), caption).unwrap().map(Result::unwrap).collect()
    };
    let first = pass(0);
    assert_eq!(first.iter().map(Batch::len).collect::<Vec<_>>(), [3, 3, 1]);
    let keys: BTreeSet<&String> = first.iter().flat_map(|batch| &batch.keys).collect();
    assert_eq!(keys.len(), 7);
    assert_eq!(first, pass(10), "an item of ten captions begins again at the eleventh");
    assert_ne!(first, pass(1));
    fs::write(&items[6].image, "broken").unwrap();
    let broken = pass(0);
    assert_eq!((broken[2].len(), broken[2].skipped.len()), (0, 1));
}

// The real thing

/// Runs where `CUB10` names a folder with classes 1 to 10 of CUB.
#[test]
fn a_piece_of_cub_reads_whole() {
    let Ok(root) = std::env::var("CUB10") else {
        eprintln!("CUB10 is not set: the test on real pictures was left out");
        return;
    };
    let report = check(open(Format::Cub, &root).unwrap(), &DecodeConfig::default());
    eprintln!("{report}");
    assert_eq!((report.train, report.test, report.captions), (275, 268, 5430));
    assert!(report.is_clean());
    let set = open(Format::Cub, &root).unwrap();
    let config = LoaderConfig { sizes: vec![64, 128, 256], words: 18, ..config(20) };
    let drawn = batches(&Arc::new(set.train), config, 13, 2);
    assert_eq!(drawn.iter().map(|batch| batch.epoch).collect::<Vec<_>>(), [1, 1]);
    assert!(drawn.iter().all(|batch| batch.skipped.is_empty()));
}
