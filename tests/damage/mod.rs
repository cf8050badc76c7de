//! Data sets that other systems wrote, or that something happened to.

mod pickles;

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use mirrorgan_engine::data::{DecodeConfig, Skip, decode_bytes, prepare};
use mirrorgan_engine::error::Error;
use rand::{Rng, RngExt};

use super::*;

const DECODE: DecodeConfig =
    DecodeConfig { max_pixels: 100_000_000, max_side: 65_535, exif_orientation: false };

fn message(folder: &Folder) -> String {
    open(Format::Cub, folder.root()).unwrap_err().to_string()
}

fn notices(folder: &Folder) -> String {
    open(Format::Cub, folder.root()).unwrap().notices.join("\n")
}

// Names

#[test]
fn names_of_any_system_find_their_files() {
    let folder = Folder::new();
    for name in [
        format!("{FINCH}\r"),
        format!("{FINCH}.jpg"),
        format!("./{FINCH}.PNG \n"),
        FINCH.replace('/', "\\"),
        format!("\u{feff}{FINCH}"),
        format!("/home/someone/CUB_200_2011/images/{FINCH}.jpg"),
    ] {
        folder.names(&[&name], &[SPARROW]);
        let set = open(Format::Cub, folder.root()).unwrap();
        assert_eq!((ids(&set.train), set.skipped.len()), (vec![FINCH], 0), "{name:?}");
    }
}

#[test]
fn lists_of_any_system_are_read() {
    let windows = |text: String| text.replace('/', "\\").replace('\n', "\r\n");
    let images = format!("1 {FINCH}.jpg\n2 {SPARROW}.jpg\n");
    let boxes = "1 2.0 2.0 20.0 16.0\n2 4.0 4.0 16.0 16.0\n".to_string();
    for (images, boxes) in [
        (format!("\u{feff}{images}"), format!("\u{feff}{boxes}")),
        (windows(images.clone()), windows(boxes.clone())),
        (images.replace('\n', "\r"), boxes.replace('\n', "\r")),
        (images.replace(".jpg", ".jpg\t \r"), boxes.replace(' ', "\t")),
        (images.replace(" 0", " ./0"), format!("{boxes}\u{1a}")),
        (images.replace(".jpg", ".JPG"), boxes.clone()),
        (images.replace(".jpg", ""), boxes),
    ] {
        let folder = Folder::new();
        folder.put("CUB_200_2011/images.txt", &images);
        folder.put("CUB_200_2011/bounding_boxes.txt", boxes);
        let set = open(Format::Cub, folder.root()).unwrap();
        assert_eq!((ids(&set.train), ids(&set.test)), (vec![SPARROW], vec![FINCH]), "{images:?}");
        assert_eq!(set.train[0].bbox, Some([4.0, 4.0, 16.0, 16.0]));
        assert_eq!(set.skipped, []);
    }
}

#[test]
fn composed_and_decomposed_names_are_one() {
    let (composed, decomposed) = ("002.Caf\u{e9}/B\u{e9}_1", "002.Cafe\u{301}/Be\u{301}_1");
    for (listed, stored, pickled) in
        [(composed, decomposed, composed), (decomposed, composed, composed), (composed, composed, decomposed)]
    {
        let folder = Folder::new();
        folder.put("CUB_200_2011/images.txt", format!("1 {FINCH}.jpg\n2 {listed}.jpg\n"));
        folder.picture(stored);
        folder.put(&caption_file(stored), "a small bird\n");
        folder.names(&[pickled], &[FINCH]);
        let set = open(Format::Cub, folder.root()).unwrap();
        assert_eq!((ids(&set.train), set.skipped.len()), (vec![composed], 0));
        decode(&set.train[0].image, &DECODE).unwrap();
    }
}

#[test]
fn names_that_match_nothing_are_explained_once() {
    let folder = Folder::new();
    for (name, reason) in [
        (FINCH.to_lowercase(), "upper and lower case"),
        (FINCH.replace('_', " "), "spaces or punctuation"),
        ("Finch_1".to_string(), "the class folder"),
        ("someone/else".to_string(), "lists of different data"),
    ] {
        folder.names(&[&name], &["002.Sparrow/Sparrow_9"]);
        let message = message(&folder);
        let expected = [name.as_str(), FINCH, reason, "none of the 2 names", "train/filenames.pickle"];
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    }
    folder.names(&[FINCH, "003.A/a", "003.A/b", "003.A/c"], &[SPARROW]);
    let set = open(Format::Cub, folder.root()).unwrap();
    assert_eq!((ids(&set.train), set.skipped.len()), (vec![FINCH], 0));
    assert!(set.notices[0].contains("3 of the 5 names"), "{:?}", set.notices);
}

#[test]
fn pictures_that_are_all_missing_are_one_line() {
    let folder = Folder::new();
    let list: String = (0..40).map(|i| format!("{i} 002.Sparrow/S_{i}.jpg\n")).collect();
    folder.put("CUB_200_2011/images.txt", list);
    let message = message(&folder);
    assert!(message.contains("40 of 40 files are missing, such as '002.Sparrow/S_0.jpg'"), "{message}");
    assert!(message.contains("there is '001.Finch/Finch_1.jpg'"), "{message}");
    let folder = Folder::new();
    folder.put("CUB_200_2011/images.txt", format!("1 {FINCH}.jpg\n2 {SPARROW}.bmp\n"));
    let skipped = open(Format::Cub, folder.root()).unwrap().skipped;
    assert!(skipped[0].why.contains("Sparrow_1.jpg is there"), "{skipped:?}");
}

#[test]
fn numbers_and_keys_that_clash_are_named() {
    for (file, content, expected) in [
        (
            "images.txt",
            format!("1 {FINCH}.jpg\n2 {SPARROW}.jpg\n\n1 002.Sparrow/x.jpg\n"),
            "images.txt:4: the number 1 stands in line 1",
        ),
        (
            "images.txt",
            format!("1 {FINCH}.jpg\n2 {FINCH}.png\n"),
            "images.txt:2: '001.Finch/Finch_1.png' and",
        ),
        (
            "images.txt",
            "1 001.A/\u{e9}.jpg\n2 001.A/e\u{301}.jpg\n".into(),
            "of line 1 have one key, '001.A/\u{e9}'",
        ),
        (
            "bounding_boxes.txt",
            "1 2 2 20 16\n1 4 4 16 16\n".into(),
            "bounding_boxes.txt:2: the number 1 stands in line 1",
        ),
    ] {
        let folder = Folder::new();
        folder.put(&format!("CUB_200_2011/{file}"), content);
        assert!(message(&folder).contains(expected), "{}", message(&folder));
    }
    let folder = Folder::new();
    folder.names(&[FINCH, SPARROW, &format!("{FINCH}.jpg")], &[]);
    assert!(message(&folder).contains("is in it as number 3 as number 1 too"), "{}", message(&folder));
    folder.names(&[FINCH], &[SPARROW, FINCH]);
    assert!(message(&folder).contains("what trains cannot test"), "{}", message(&folder));
    let folder = Folder::new();
    folder.put("CUB_200_2011/images.txt", format!("1 {FINCH}.jpg\n2 002.A/a.jpg\n3 002.B/b.jpg\n"));
    assert!(notices(&folder).contains("002.A, 002.B all count as class 2"), "{}", notices(&folder));
}

// Pickles

#[test]
fn pickles_of_numpy_and_of_collections_are_read() {
    let folder = Folder::new();
    folder.names(&[], &[SPARROW]);
    for (what, bytes) in pickles::NAMES {
        folder.put("train/filenames.pickle", bytes);
        assert_eq!(ids(&open(Format::Cub, folder.root()).unwrap().train), [FINCH], "{what}");
    }
    // Python 2 wrote Latin-1, and copying as text gave protocol 0 the line ends of Windows.
    let latin = "002.Caf\u{e9}/C\u{e9}_1";
    folder.put("CUB_200_2011/images.txt", format!("1 {latin}.jpg\n2 {SPARROW}.jpg\n"));
    folder.picture(latin);
    folder.put(&caption_file(latin), "a bird\n");
    for bytes in
        [&b"(lp0\r\nS'002.Caf\\xe9/C\\xe9_1'\r\np1\r\na."[..], b"\x80\x02]q\0U\x0d002.Caf\xe9/C\xe9_1q\x01a."]
    {
        folder.put("train/filenames.pickle", bytes);
        assert_eq!(ids(&open(Format::Cub, folder.root()).unwrap().train), [latin]);
    }
}

#[test]
fn captions_in_arrays_and_default_dictionaries_are_read() {
    let folder = Folder::new();
    folder.put(&caption_file(SPARROW), "a sparrow, red\n");
    folder.names(&[FINCH], &[SPARROW]);
    for bytes in pickles::CAPTIONS {
        folder.put("captions.pickle", bytes);
        let set = open(Format::Cub, folder.root()).unwrap();
        assert_eq!(set.vocabulary.words(), ["<end>", "finch", "red", "sparrow"]);
        assert_eq!(set.train[0].captions, vec![vec![2, 1]; 10]);
        assert_eq!(set.test[0].captions, vec![vec![3, 2]; 10]);
    }
}

#[test]
fn pickles_that_cannot_be_used_say_what_they_hold() {
    let folder = Folder::new();
    folder.names(&[], &[SPARROW]);
    for (bytes, expected) in [
        (pickles::UNKNOWN, "it holds an object of the class fork.Names; save a plain list"),
        (b"\x80\x02}q\0.", "it holds a dictionary"),
        (b"\x80\x02]q\0K\x05a.", "it holds a number as name 1"),
        (b"", "an empty file"),
        (b"GIF89a", "not a pickle but a GIF image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x80\x02]q\0(X\xff\0\0\0abc", "it ends in the middle"),
        (b"\x80\x02]q\0h\x07a.", "it recalls what it never stored"),
        (b"\x1f\x8b\x08\0", "a gzip file"),
    ] {
        folder.put("train/filenames.pickle", bytes);
        assert!(message(&folder).contains(expected), "{}", message(&folder));
    }
}

#[test]
fn shared_lists_do_not_unfold_without_end() {
    let folder = Folder::new();
    folder.names(&[FINCH], &[SPARROW]);
    // A list of a thousand times one list, 30 deep.
    let mut bytes = b"\x80\x02K\0q\x00".to_vec();
    for depth in 1..30 {
        bytes.extend([b']', b'q', depth, b'(']);
        (0..1000).for_each(|_| bytes.extend([b'h', depth - 1]));
        bytes.push(b'e');
    }
    bytes.push(b'.');
    folder.put("captions.pickle", &bytes);
    assert!(message(&folder).contains("captions.pickle"), "{}", message(&folder));
    // An array that claims 2^60 elements.
    let huge =
        b"cnumpy.core.multiarray\n_reconstruct\n(NNNtR(K\x01\x8a\x08\0\0\0\0\0\0\0\x10\x85cnumpy\ndtype\n\
                 (X\x02\0\0\0u1NNtRNC\x01atb.";
    folder.put("train/filenames.pickle", huge);
    assert!(message(&folder).contains("unfolds to far more than its size"), "{}", message(&folder));
}

#[test]
fn captions_of_another_order_are_refused() {
    let folder = Folder::new();
    folder.put(&caption_file(SPARROW), "a sparrow, red\n");
    folder.pickle("captions.pickle", &captions_pickle(10, 10));
    folder.names(&[SPARROW], &[FINCH]);
    let message = message(&folder);
    for part in
        ["captions.pickle", "2 of 2 images", "'finch red' here and 'a sparrow red' there", "another order"]
    {
        assert!(message.contains(part), "{message}");
    }
    fs::remove_dir_all(folder.root().join("text")).unwrap();
    assert_eq!(open(Format::Cub, folder.root()).unwrap().train[0].captions[0], [1, 2]);
}

// Captions

#[test]
fn captions_that_cannot_be_read_say_why() {
    let utf16: Vec<u8> = "a red bird\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, expected) in [
        ("\u{4e00}\u{53ea}\u{7ea2}\u{9e1f}\n".as_bytes(), "none of its captions has an ASCII word"),
        ("\u{43a}\u{440}\u{430}\u{441}\u{43d}\u{430}\u{44f}\n".as_bytes(), "reads ASCII words only"),
        (&utf16, "the captions are UTF-16 text"),
        (&[&b"\xff\xfe"[..], &utf16].concat(), "the captions are UTF-16 text"),
        (b"\xef\xbb\xbf \r\n", "the captions file is empty"),
        (b"...\n", "the captions file has no word"),
        (b"\x89PNG\r\n\x1a\n\xff", "a PNG image, not text"),
    ] {
        let folder = Folder::new();
        folder.put(&caption_file(FINCH), content);
        let reasons = folder.reasons();
        assert!(reasons.len() == 1 && reasons[0].contains(expected), "{reasons:?}");
    }
    let folder = Folder::new();
    folder.put(&caption_file(FINCH), "a finch\n\u{7ea2}\u{9e1f}\n");
    assert!(notices(&folder).contains("1 caption has no ASCII word"), "{}", notices(&folder));
}

#[test]
fn lone_carriage_returns_end_captions() {
    let folder = Folder::new();
    for (text, count) in [
        ("a red bird\ra blue bird\ra bird\r", 3),
        ("a red bird\ra blue\rbird\n", 3),
        ("a red\rbird\nit\n", 2),
    ] {
        folder.put(&caption_file(FINCH), text);
        assert_eq!(open(Format::Cub, folder.root()).unwrap().test[0].captions.len(), count, "{text:?}");
    }
}

#[test]
fn unknown_words_are_one_notice() {
    let folder = Folder::new();
    folder.pickle("captions.pickle", &captions_pickle(30, 10));
    let words: String = (0..20_000).map(|i| format!("red w{i}\n")).collect();
    folder.put(&caption_file(FINCH), words);
    let set = open(Format::Cub, folder.root()).unwrap();
    assert!(set.notices.len() < 6, "{:?}", set.notices);
    assert!(
        notices(&folder).contains("20002 words of the captions are not in captions.pickle"),
        "{}",
        notices(&folder)
    );
}

// Splits that cannot train

/// `count` birds in the layout of CUB, all listed in the class folder that `class` gives.
fn classed(count: usize, class: impl Fn(usize) -> usize) -> Folder {
    let folder = Folder::new();
    let key = |i: usize| format!("{:03}.Bird/B_{i}", class(i));
    let list: String = (0..count).map(|i| format!("{i} {}.jpg\n", key(i))).collect();
    folder.put("CUB_200_2011/images.txt", list);
    folder.put("CUB_200_2011/bounding_boxes.txt", "");
    for i in 0..count {
        folder.picture(&key(i));
        folder.put(&caption_file(&key(i)), "a bird\n");
    }
    folder
}

#[test]
fn splits_that_cannot_train_are_explained() {
    let refusal = |folder: &Folder, batch| {
        open(Format::Cub, folder.root())
            .unwrap()
            .require_trainable("damsm.schedule.batch", batch)
            .unwrap_err()
            .to_string()
    };
    let one = classed(6, |_| 2);
    assert!(refusal(&one, 2).contains("all 6 training images are of class 2"), "{}", refusal(&one, 2));
    assert!(notices(&one).contains("no held-out images"), "{}", notices(&one));
    let held_out = classed(6, |_| 1);
    let message = refusal(&held_out, 2);
    let expected =
        "all 6 images are of class 1, which is an official test class of CUB; give the class folders other";
    assert!(message.contains(expected), "{message}");
    let few = classed(6, |i| i + 10);
    open(Format::Cub, few.root()).unwrap().require_trainable("damsm.schedule.batch", 4).unwrap();
    assert!(refusal(&few, 9).contains("training images are fewer than a batch of 9"), "{}", refusal(&few, 9));
    let metric = open(Format::Cub, few.root()).unwrap().metric_notice(10).unwrap();
    assert!(metric.contains("no R-precision: it chooses among 10 captions"), "{metric}");
    let lopsided = classed(9, |i| if i < 7 { 2 } else { 3 });
    assert!(notices(&lopsided).contains("7 of 9 training images are of class 2"), "{}", notices(&lopsided));
}

#[test]
fn a_check_that_finds_nothing_usable_says_so() {
    let one = classed(3, |_| 2);
    let report = check(open(Format::Cub, one.root()).unwrap(), &DECODE);
    assert!(report.unusable.as_ref().unwrap().contains("all 3 training images are of class 2"));
    assert!(report.to_string().contains("3 images of 1 class\n"), "{report}");
    let broken = classed(4, |i| i + 2);
    for item in open(Format::Cub, broken.root()).unwrap().train {
        fs::write(item.image, b"GIF89a").unwrap();
    }
    let why = check(open(Format::Cub, broken.root()).unwrap(), &DECODE).unusable.unwrap();
    assert!(
        why.contains("no image is left for training") && why.contains("a GIF image; convert it"),
        "{why}"
    );
}

// Images

/// A PNG of 8-bit gray with this size in its header and hardly any data.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    };
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    for (kind, data) in [(b"IHDR", [&size[..], &[8, 0, 0, 0, 0]].concat()), (b"IDAT", vec![0x78, 0x9c, 3, 0])]
    {
        let chunk = [&kind[..], &data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&chunk);
        png.extend(crc(&chunk).to_be_bytes());
    }
    png
}

#[test]
fn sizes_are_bounded_before_memory_is_taken() {
    for (width, height, key) in
        [(30_000, 30_000, "data.max_pixels = 100000000"), (70_000, 1, "data.max_side = 65535")]
    {
        let why = decode_bytes(&png_header(width, height), &DECODE).unwrap_err();
        assert!(why.contains(&format!("{width}×{height} pixels, over {key}")), "{why}");
    }
    let why = decode_bytes(&png_header(u32::MAX >> 1, u32::MAX >> 1), &DECODE).unwrap_err();
    assert!(why.contains("far over data.max_side = 65535"), "{why}");
    let why = decode_bytes(&png_header(30, 30), &DecodeConfig { max_pixels: 899, ..DECODE }).unwrap_err();
    assert!(why.contains("max_pixels = 899"), "{why}");
}

#[test]
fn extreme_shapes_are_refused_before_they_are_scaled() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.png");
    save_png(&file, 1, 20_000, &[7; 60_000]).unwrap();
    let message = prepare(&file, None, 256, &DECODE).unwrap_err().to_string();
    let expected =
        "p.png: 1×20000 pixels, scaled so that the shorter side has 304, are 304×6080000 pixels, over";
    assert!(message.contains(expected), "{message}");
    save_png(&file, 2_000, 30, &[7; 180_000]).unwrap();
    // The box leaves a strip of 2000×2.
    let strip = Some([0.0, 29.0, 4_000.0, 0.0 + 1.0]);
    prepare(&file, strip, 64, &DECODE).unwrap();
    let narrow = DecodeConfig { max_pixels: 100_000, ..DECODE };
    assert!(prepare(&file, strip, 64, &narrow).unwrap_err().to_string().contains("max_pixels = 100000"));
    for bbox in [[-3e38, 0.0, 3e38, 9.0], [-1e38, -1e38, 3e38, 3e38], [f32::MIN_POSITIVE; 4]] {
        let _ = bbox_crop(9, 9, bbox);
    }
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let at = |x: u32, y: u32| image::Rgb([x as u8 * 9, y as u8 * 8, 40]);
    RgbImage::from_fn(24, 16, at).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn webp_is_read_and_other_kinds_are_named() {
    let decoded = decode_bytes(&encoded(ImageFormat::WebP), &DECODE).unwrap();
    assert_eq!(decoded, decode_bytes(&encoded(ImageFormat::Png), &DECODE).unwrap());
    for (bytes, expected) in [
        (&b"GIF89a"[..], "a GIF image; convert it to JPEG or PNG"),
        (b"II*\0", "a TIFF image"),
        (b"<!DOCTYPE html>", "a web page, neither JPEG"),
        (b"", "an empty file"),
        (b"bird", "neither JPEG, PNG nor WebP"),
    ] {
        let why = decode_bytes(bytes, &DECODE).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
}

/// A JPEG whose EXIF data say that it lies on its side (6: turn clockwise).
fn turned_jpeg() -> Vec<u8> {
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let whole = encoded(ImageFormat::Jpeg);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&whole[..2], b"\xff\xe1", &length, exif, &whole[2..]].concat()
}

#[test]
fn exif_orientation_is_ignored_unless_asked_for() {
    let stored = decode_bytes(&turned_jpeg(), &DECODE).unwrap();
    assert_eq!((stored.picture.width, stored.picture.height, stored.oriented), (24, 16, true));
    let turned =
        decode_bytes(&turned_jpeg(), &DecodeConfig { exif_orientation: true, ..DECODE }).unwrap().picture;
    assert_eq!((turned.width, turned.height), (16, 24));
    assert_eq!(
        turned.pixels[15 * 3..16 * 3],
        stored.picture.pixels[..3],
        "the upper left goes to the upper right"
    );

    let folder = Folder::new();
    folder.put(&image_file(SPARROW), turned_jpeg());
    let report = check(open(Format::Cub, folder.root()).unwrap(), &DECODE).to_string();
    assert!(report.contains("1 image carries an EXIF orientation, which is ignored"), "{report}");
    assert!(report.contains("data.exif_orientation = false"), "{report}");
}

#[test]
fn a_cause_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let why = decode(&folder.path().join("none.jpg"), &DECODE).unwrap_err().reason();
    assert_eq!(why.matches("No such file").count(), 1, "{why}");
    let why = decode(folder.path(), &DECODE).unwrap_err().reason();
    assert_eq!(why, "not a file");
}

#[cfg(target_os = "linux")]
#[test]
fn folders_whose_names_are_not_unicode_are_read() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    demo::write(&dir, 12, 1).unwrap();
    fs::write(dir.join("CUB_200_2011/images").join(std::ffi::OsStr::from_bytes(b"\xe9")), "").unwrap();
    let set = open(Format::Cub, &dir).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 12);
    assert!(check(set, &DECODE).to_string().contains("caf\u{fffd}"));
}

// The loader

#[test]
fn a_broken_picture_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let items = items(&folder, 6);
    fs::write(&items[2].image, "broken").unwrap();
    for workers in [1, 3] {
        let drawn = batches(&items, LoaderConfig { workers, cache_bytes: 0, ..config(3) }, 0, 10);
        let named: Vec<&Skip> = drawn.iter().flat_map(|batch| &batch.skipped).collect();
        assert_eq!(named.len(), 1, "{named:?}");
    }
}

#[test]
fn a_demo_of_no_birds_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let message = demo::write(folder.path().join("none"), 0, 1).unwrap_err().to_string();
    assert!(message.contains("data.images") && message.contains("--count 1500"), "{message}");
}

// Any bytes

/// Some of the bytes flipped, cut out, doubled or replaced by what parsers take notice of.
fn mutated(bytes: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    const TELLING: [&[u8]; 12] = [
        b"\r",
        b"\n",
        b"\0",
        b"\xff\xfe",
        b"(",
        b"R",
        b"\x85",
        b"999999999999",
        b"-1 ",
        b"/",
        b"\xff\xff\xff\x7f",
        b".",
    ];
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..bytes.len() + 1);
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, TELLING[rng.random_range(0..TELLING.len())].iter().copied())),
            3 => {
                let end = (at + rng.random_range(0..16)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            _ => {
                let part = bytes[..at].iter().rev().take(9).copied().collect::<Vec<u8>>();
                drop(bytes.splice(at..at, part));
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_make_the_lists_panic() {
    let folder = Folder::new();
    folder.put(&caption_file(SPARROW), "a sparrow, red\n");
    folder.names(&[FINCH], &[SPARROW]);
    folder.pickle("captions.pickle", &captions_pickle(10, 10));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(8);
    let mut files: Vec<(String, Vec<Vec<u8>>)> = ["images.txt", "bounding_boxes.txt"]
        .map(|file| format!("CUB_200_2011/{file}"))
        .into_iter()
        .chain([caption_file(FINCH), "train/filenames.pickle".into(), "captions.pickle".into()])
        .map(|file| (file.clone(), vec![fs::read(folder.root().join(file)).unwrap()]))
        .collect();
    files[3].1.extend(pickles::NAMES.iter().map(|(_, bytes)| bytes.to_vec()));
    files[4].1.extend(pickles::CAPTIONS.iter().map(|bytes| bytes.to_vec()));
    let (mut read, mut refused) = (0, 0);
    for (file, wholes) in &files {
        for _ in 0..2_500 {
            let whole = &wholes[rng.random_range(0..wholes.len())];
            folder.put(file, mutated(whole, &mut rng));
            match open(Format::Cub, folder.root()) {
                Ok(set) => read += usize::from(set.train.len() + set.test.len() > 0),
                Err(Error::Data { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        folder.put(file, &wholes[0]);
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
}

#[test]
fn no_bytes_make_the_decoders_panic() {
    let wholes = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(encoded);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(9);
    let small = DecodeConfig { max_pixels: 1 << 20, max_side: 4_096, exif_orientation: true };
    let (mut read, mut failed) = (0, Vec::new());
    for round in 0..9_000 {
        let whole = if round % 4 == 3 { turned_jpeg() } else { wholes[round % 3].clone() };
        match decode_bytes(&mutated(&whole, &mut rng), &small) {
            Ok(decoded) => {
                read += 1;
                assert!(decoded.picture.width * decoded.picture.height <= small.max_pixels);
            }
            Err(why) if why.contains("its decoder failed") => failed.push(why),
            Err(_) => {}
        }
    }
    assert!(read > 100 && failed.is_empty(), "{read} read, {} failed", failed.len());
}
