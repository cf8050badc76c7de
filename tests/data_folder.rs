//! A folder of one's own pictures: captions from every source, splits, classes, pictures in every wrapping; and a training.

mod album;
mod binary;

use std::collections::BTreeSet;
use std::fs;

use album::{Album, classes, encoded, ids, says, sentences};
use binary::{TINY, assert_says, command, refused, succeeds};
use image::ImageFormat;
use mirrorgan_engine::data::{
    Classes, Dataset, DecodeConfig, Format, Item, OpenConfig, Tokenizer, check, decode_bytes, open,
};

const CONFIG: OpenConfig = OpenConfig {
    tokenizer: Tokenizer::Unicode,
    min_count: 1,
    test_ratio: 0.1,
    split_seed: 0,
    classes: Classes::Auto,
};

/// Pictures a, b, c and d without captions.
fn four() -> Album {
    let album = Album::new(Format::Folder);
    album.pictures(&["a.jpg", "b.jpg", "c.jpg", "d.jpg"]);
    album
}

fn all(set: &Dataset) -> Vec<&Item> {
    let mut items: Vec<&Item> = set.train.iter().chain(&set.test).collect();
    items.sort_by(|a, b| a.id.cmp(&b.id));
    items
}

/// `id: captions` of all items, sorted. The vocabulary is the training captions', so nothing may be held out.
fn read(album: &Album) -> Vec<String> {
    let set = album.open_with(&OpenConfig { test_ratio: 0.0, ..CONFIG });
    all(&set).iter().map(|item| format!("{}: {}", item.id, sentences(&set, item).join(", "))).collect()
}

// Sources of captions

#[test]
fn texts_beside_the_pictures_are_read() {
    let album = four();
    album
        .put("a.txt", "A red bird.\n\n the bird\r\n")
        .put("b.txt", "\u{feff}the red V\u{f6}gel")
        .put("c.txt", "\n");
    assert_eq!(read(&album), ["a: a red bird, the bird", "b: the red v\u{f6}gel"]);
    let expected =
        ["d.jpg: no .txt file with its captions is beside it", "c.txt: the captions file is empty"];
    let skips: BTreeSet<String> = album.skips().into_iter().collect();
    assert_eq!(skips, expected.map(String::from).into());
    album.put("d.txt", b"a bird\n\xff\n");
    says(&album.skips().join("\n"), &["d.txt: the captions are not UTF-8 (line 2)"]);
}

#[test]
fn names_of_any_system_find_their_texts() {
    let album = Album::new(Format::Folder);
    album.pictures(&["my pictures/a bird.JPG", "Cafe\u{301}/e\u{301}.jpg", "\u{7ea2}/\u{9e1f} 1.jpg"]);
    album
        .put("my pictures/a bird.txt", "one")
        .put("Caf\u{e9}/\u{e9}.txt", "two")
        .put("\u{7ea2}/\u{9e1f} 1.TXT", "three");
    fs::rename(album.root().join("Caf\u{e9}/\u{e9}.txt"), album.root().join("Cafe\u{301}/\u{e9}.txt"))
        .unwrap();
    assert_eq!(
        read(&album),
        ["Caf\u{e9}/\u{e9}: two", "my pictures/a bird: one", "\u{7ea2}/\u{9e1f} 1: three"]
    );
}

#[test]
fn what_systems_leave_behind_is_ignored() {
    let album = four();
    for file in ["._a.jpg", ".DS_Store", "Thumbs.db", ".hidden/x.jpg", "__MACOSX/a.jpg", "run/samples/1.png"]
    {
        album.put(file, "");
    }
    album.put("run/config.toml", "").put("run/run.json", "");
    album.put("a.txt", "a bird").put("b.txt", "a bird").put("c.txt", "a bird").put("d.txt", "a bird");
    assert_eq!((read(&album).len(), album.skips().len()), (4, 0));
}

#[test]
fn tables_of_every_spelling_are_read() {
    let rows = ["a: a red bird, two words", "b: one, two"];
    let plain = "file_name,caption\na.jpg,A red bird\nb.jpg,one\na.jpg,two words\nb.jpg,two\n";
    let others = [
        ("captions.csv", plain.to_string()),
        ("captions.csv", format!("\u{feff}{}", plain.replace('\n', "\r\n"))),
        ("captions.csv", plain.replace(',', ";")),
        ("captions.tsv", plain.replace(',', "\t")),
        ("captions.csv", plain.replace("file_name,caption", "Path , TEXT")),
        ("captions.csv", plain.replace("a.jpg", "\"./a.JPG\"").replace("A red bird", "\"A red,\nbird\"")),
        (
            "captions.csv",
            "n,image,caption_1,caption_2,by\n1,a,a red bird,two words,me\n2,b,one,two,\n".into(),
        ),
        ("captions.csv", plain.replace("two\n", "two\n\n\n")),
        ("metadata.csv", plain.to_string()),
    ];
    for (name, content) in others {
        let album = four();
        album.put(name, &content);
        assert_eq!(read(&album), rows, "{content:?}");
    }
    let objects = "{\"file_name\": \"a.jpg\", \"text\": \"A red bird\", \"n\": 1}\n\n{\"file_name\": \"b.jpg\", \"captions\": \
                   [\"one\", \"two\"]}\n{\"file\": \"a.jpg\", \"caption\": \"two words\"}\n";
    for name in ["metadata.jsonl", "captions.jsonl"] {
        let album = four();
        album.put(name, objects);
        assert_eq!(read(&album), rows, "{name}");
    }
}

#[test]
fn the_first_source_counts_and_the_others_are_named() {
    let album = four();
    album.put("captions.csv", "file,text\na.jpg,from csv\n").put("b.txt", "from text");
    assert_eq!(read(&album), ["a: from csv"]);
    says(
        &album.notices(),
        &["the captions are those of captions.csv; not read: 1 .txt file beside a picture"],
    );
    album.put("metadata.jsonl", "{\"file_name\": \"c.jpg\", \"text\": \"from metadata\"}");
    assert_eq!(read(&album), ["c: from metadata"]);
    says(&album.notices(), &["those of metadata.jsonl; not read: captions.csv, 1 .txt file"]);
}

#[test]
fn malformed_tables_name_the_line() {
    for (name, content, expected) in [
        (
            "captions.csv",
            &b"a.jpg,a red bird\n"[..],
            "captions.csv:1: 'a.jpg,a red bird' is no header; a header such as file_name,caption",
        ),
        ("captions.csv", b"", "captions.csv: an empty file; a header such as"),
        (
            "captions.csv",
            b"file,text\na.jpg,a bird\nb.jpg,red, small\n",
            "captions.csv:3: 3 fields where the header has 2: put",
        ),
        (
            "captions.csv",
            b"file,text\na.jpg,a bird\nb.jpg,caf\xe9\n",
            "captions.csv:3: not UTF-8; save it as UTF-8",
        ),
        (
            "captions.csv",
            b"file,text\na.jpg,\"a bird\nb.jpg,x\nc.jpg,y\n",
            "captions.csv:2: a quote (\") opens a field here",
        ),
        (
            "captions.csv",
            b"file,text,split\na.jpg,x,perhaps\n",
            "captions.csv:2: 'perhaps' is no split; write train or test",
        ),
        (
            "captions.csv",
            b"file,text,split\na.jpg,x,train\na.jpg,y,test\n",
            "captions.csv:3: 'a.jpg' trains in one row and tests in another",
        ),
        (
            "captions.csv",
            b"file,text,class\na.jpg,x,one\na.jpg,y,two\n",
            "captions.csv:3: 'a.jpg' is of class 'two' here and of 'one' above",
        ),
        ("captions.csv", b"file,text\nx.jpg,x\n", "nothing is left to learn from"),
        ("metadata.jsonl", b"{\"file_name\": \"a.jpg\"\n", "metadata.jsonl:1: not JSON ("),
        ("metadata.jsonl", b"\n[1]\n", "metadata.jsonl:2: '[1]' is no object; an object such as"),
        ("metadata.jsonl", b"{\"text\": \"a\"}\n", "metadata.jsonl:1: no 'file_name'"),
        (
            "metadata.jsonl",
            b"{\"file_name\": \"a.jpg\", \"text\": 3}\n",
            "'text' is neither a text nor a list of texts",
        ),
        ("metadata.jsonl", b"PK\x03\x04\xff", "metadata.jsonl: a ZIP file, not text"),
    ] {
        let album = four();
        album.put(name, content);
        says(&album.refusal(), &[expected]);
    }
}

#[test]
fn rows_that_cannot_be_used_are_named_with_their_line() {
    let album = four();
    album.pictures(&["x/e.jpg", "y/e.jpg"]);
    let table = "file,text\na.jpg,a bird\nnone.jpg,x\nnone.jpg,y\nb.jpg,\nb.jpg,  \ne.jpg,which\n,nothing\nc.jpg,...\n";
    album.put("captions.csv", table);
    let skips: BTreeSet<String> = album.skips().into_iter().collect();
    let expected = [
        "none.jpg: the image is missing (captions.csv, line 3)",
        "e.jpg: several pictures have this name (captions.csv, line 7): 'x/e.jpg' and 'y/e.jpg'; write folder and ending too",
        "captions.csv: a row that names no picture (line 8)",
        "b.jpg: its rows in captions.csv have no word",
        "c.jpg: its rows in captions.csv have no word",
        "d.jpg: captions.csv has no row of it",
        "x/e.jpg: captions.csv has no row of it",
        "y/e.jpg: captions.csv has no row of it",
    ];
    assert_eq!(skips, expected.map(String::from).into());
    says(&album.notices(), &["2 rows have no caption in captions.csv, such as line 5"]);
    let many: String = (0..30).map(|i| format!("gone{i}.jpg,x\n")).collect();
    album.put("captions.csv", format!("file,text\na.jpg,a bird\n{many}"));
    says(&album.skips()[0], &["30 of 36 files are missing, such as 'gone0.jpg'; there is 'x/e.jpg'"]);
}

#[test]
fn folders_without_pictures_or_captions_say_what_is_looked_for() {
    let album = Album::new(Format::Folder);
    album.put("notes.txt", "nothing");
    says(&album.refusal(), &["no picture in it or in folders of it", ".jpg"]);
    album.pictures(&["in/a.jpg"]);
    let expected = [
        "1 picture, but no captions: metadata.jsonl, metadata.csv, captions.csv",
        "in/a.txt beside in/a.jpg",
    ];
    says(&album.refusal(), &expected);
    let nowhere = open(Format::Folder, album.root().join("none"), &CONFIG).unwrap_err().to_string();
    says(&nowhere, &["none: no such folder; it must hold pictures"]);
    album.put("in/a.txt", "!");
    says(
        &album.refusal(),
        &["nothing is left to learn from, 1 file was skipped", "a.txt: the captions file has no word"],
    );
}

#[test]
fn two_pictures_of_one_stem_need_a_table() {
    let album = Album::new(Format::Folder);
    album.pictures(&["a.jpg", "a.png", "b.jpg"]).put("a.txt", "a bird").put("b.txt", "a dog");
    says(&album.refusal(), &["'a.jpg' and 'a.png' would both have the captions of 'a.txt'", "captions.csv"]);
    album.put("captions.csv", "file,text\na.jpg,one\na.png,two\nb.jpg,three\n");
    assert_eq!(read(&album), ["a.jpg: one", "a.png: two", "b: three"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_those_that_lead_nowhere_are_named() {
    use std::os::unix::fs::symlink;
    let (album, elsewhere) = (Album::new(Format::Folder), four());
    elsewhere.put("a.txt", "a bird");
    let root = album.root();
    symlink(elsewhere.root(), root.join("linked")).unwrap();
    symlink(root, root.join("circle")).unwrap();
    symlink("nowhere.jpg", root.join("gone.jpg")).unwrap();
    symlink("nobody@nowhere", root.join(".#lock")).unwrap();
    assert_eq!(read(&album), ["linked/a: a bird"]);
    let skips = album.skips().join("\n");
    says(&skips, &["gone.jpg: cannot be read", "circle: cannot be read"]);
    assert!(!skips.contains("lock"), "{skips}");
}

/// Whatever is in the lists, they are read or refused.
#[test]
fn no_bytes_make_the_lists_panic() {
    let lists = [
        ("captions.csv", "file,text,class,split\na.jpg,\"a red,\nbird\",one,train\nb.jpg,x,two,test\nc,,,\n"),
        ("captions.tsv", "path\tcaption\na.jpg\ta \"red\" bird\nb.jpg\tx\n"),
        (
            "metadata.jsonl",
            "{\"file_name\": \"a.jpg\", \"captions\": [\"x\", \"y\"]}\n{\"file\": \"b.jpg\", \"text\": \"z\"}\n",
        ),
        ("train.txt", "a.jpg\n./b\n"),
        ("a.txt", "a bird\n\nv\u{f6}gel\n"),
    ];
    for (at, (name, whole)) in lists.into_iter().enumerate() {
        let album = four();
        album.put("a.txt", "a bird").put("b.txt", "b").put("c.txt", "c").put("test.txt", "c.jpg\n");
        if name != "train.txt" {
            album.remove("test.txt");
        }
        let (mut opened, count) = (0, 400);
        for seed in 0..count {
            album.put(name, album::damaged(whole.as_bytes(), seed + (at as u64) * count));
            opened += usize::from(open(Format::Folder, album.root(), &CONFIG).is_ok());
        }
        assert!(opened > 20, "{name}: {opened}");
    }
}

// Splits

fn captioned(count: usize) -> Album {
    let album = Album::new(Format::Folder);
    for i in 0..count {
        album.pictures(&[&format!("p{i:03}.jpg")]).put(&format!("p{i:03}.txt"), format!("picture {i}"));
    }
    album
}

#[test]
fn a_share_is_held_out_by_name() {
    let album = captioned(40);
    let held_out = |album: &Album, config: &OpenConfig| -> Vec<String> {
        album.open_with(config).test.iter().map(|item| item.id.clone()).collect()
    };
    let config = OpenConfig { test_ratio: 0.25, ..CONFIG };
    let before = held_out(&album, &config);
    assert!((3..20).contains(&before.len()), "{before:?}");
    album.pictures(&["a.jpg", "z.jpg"]).put("a.txt", "more").put("z.txt", "more");
    let after: Vec<String> = held_out(&album, &config).into_iter().filter(|id| id.starts_with('p')).collect();
    assert_eq!(after, before, "a picture more does not move the others");
    assert_ne!(held_out(&album, &OpenConfig { split_seed: 1, ..config }), before);
    assert_eq!(held_out(&album, &OpenConfig { test_ratio: 0.0, ..CONFIG }).len(), 0);
    let set = captioned(2).open_with(&CONFIG);
    assert_eq!((set.train.len(), set.test.len()), (1, 1));
    says(
        &set.notices.join("\n"),
        &["split: by the pictures' names (data.test_ratio = 0.1, data.split_seed = 0)"],
    );
    says(
        &set.notices.join("\n"),
        &["1 word of the held-out captions is not in the vocabulary of the training captions"],
    );
    let one = captioned(1).open_with(&CONFIG);
    says(&one.notices.join("\n"), &["no held-out images (data.test_ratio holds out none that can be used)"]);
}

#[test]
fn lists_split() {
    let album = captioned(5);
    album.put("train.txt", "p000.jpg\r\np001\n\np003.jpg\n").put("test.txt", "./p002.jpg\nnone.jpg\n");
    let set = album.open_with(&CONFIG);
    assert_eq!((ids(&set.train), ids(&set.test)), (vec!["p000", "p001", "p003"], vec!["p002"]));
    says(&set.notices.join("\n"), &["1 picture is in neither train.txt nor test.txt, and left out"]);
    assert_eq!(album.skips(), ["none.jpg: the image is missing (test.txt, line 2)"]);
    album.put("test.txt", "p002\np001.jpg\n");
    says(
        &album.refusal(),
        &["test.txt:2: 'p001.jpg' stands in line 2 of train.txt already; what trains cannot test"],
    );
    album.put("train.txt", "x1\n").put("test.txt", "x2\n");
    says(
        &album.refusal(),
        &["none of the 2 names in train.txt and test.txt is a picture here: the first is 'x1'", "p000.jpg"],
    );
    album.put("test.txt", b"p\n\xff\n");
    says(&album.refusal(), &["test.txt:2: not UTF-8"]);
    album.remove("test.txt");
    says(
        &album.notices(),
        &["train.txt is not read as a list: train.txt and test.txt are not both there", "split: by"],
    );
    // They may be the captions of pictures of these names.
    album.pictures(&["train.jpg", "test.jpg"]).put("train.txt", "a train").put("test.txt", "a test");
    assert_eq!(read(&album).len(), 7);
}

#[test]
fn a_column_or_folders_split() {
    let album = four();
    let table = "file,text,split,class\na.jpg,x,train,one\nb.jpg,x,Train,two\nc.jpg,x,val,one\nd.jpg,x,,\n";
    album.put("captions.csv", table);
    let set = album.open_with(&CONFIG);
    assert_eq!((ids(&set.train), ids(&set.test)), (vec!["a", "b"], vec!["c"]));
    assert_eq!((classes(&set.train), classes(&set.test)), (vec![0, 1], vec![0]));
    assert_eq!(
        album.skips(),
        ["d.jpg: the column split is empty in its rows of captions.csv; write train or test"]
    );
    assert!(!set.notices.iter().any(|notice| notice.contains("too good")), "{:?}", set.notices);
    // As Hugging Face's image folders.
    let album = Album::new(Format::Folder);
    for (split, file) in [("train", "a"), ("train", "b"), ("test", "a")] {
        album.pictures(&[&format!("{split}/{file}.jpg")]);
    }
    let line = |file: &str| format!("{{\"file_name\": \"{file}.jpg\", \"text\": \"picture {file}\"}}\n");
    album.put("train/metadata.jsonl", line("a") + &line("b")).put("test/metadata.jsonl", line("a"));
    let set = album.open_with(&CONFIG);
    assert_eq!((ids(&set.train), ids(&set.test)), (vec!["train/a", "train/b"], vec!["test/a"]));
    assert_eq!([classes(&set.train), classes(&set.test)].concat().iter().collect::<BTreeSet<_>>().len(), 3);
    says(&set.notices.join("\n"), &["split: the folders that are named train and test"]);
}

// Classes and words

#[test]
fn subfolders_are_classes_unless_told_otherwise() {
    let album = Album::new(Format::Folder);
    for path in ["cats/1", "cats/2", "dogs/1", "dogs/2", "dogs/old/3"] {
        album.pictures(&[&format!("{path}.jpg")]).put(&format!("{path}.txt"), "a picture");
    }
    let of = |classes| {
        let set = album.open_with(&OpenConfig { classes, test_ratio: 0.0, ..CONFIG });
        (set.train.iter().map(|item| item.class).collect::<Vec<_>>(), set.notices.join("\n"))
    };
    assert_eq!(of(Classes::Auto).0, [0, 0, 1, 1, 1]);
    says(
        &of(Classes::Auto).1,
        &[
            "2 classes that are subfolders",
            "--set data.classes=none",
            "3 of 5 training images are of one class, that of 'dogs/1'",
        ],
    );
    assert_eq!(of(Classes::None).0, [0, 1, 2, 3, 4]);
    album.pictures(&["top.jpg"]).put("top.txt", "a picture");
    assert_eq!(of(Classes::Auto).0, [0, 1, 2, 3, 4, 5], "not all are in subfolders");
    assert_eq!(of(Classes::Folders).0, [0, 0, 1, 1, 1, 2], "one of its own");
    album.remove("dogs").remove("top.jpg");
    assert_eq!(of(Classes::Auto).0, [0, 1], "one subfolder is no class");
    let one = album.open_with(&OpenConfig { classes: Classes::Folders, test_ratio: 0.0, ..CONFIG });
    let message = one.require_trainable("damsm.schedule.batch", 2).unwrap_err().to_string();
    says(&message, &["all 2 training images are of one class, that of 'cats/1'", "--set data.classes=none"]);
}

#[test]
fn words_are_those_of_the_training_captions() {
    let album = four();
    album.put("train.txt", "a\nb\nc\n").put("test.txt", "d\n");
    for (stem, caption) in [("a", "red bird"), ("b", "red dog"), ("c", "red bird"), ("d", "a blue bird")] {
        album.put(&format!("{stem}.txt"), caption);
    }
    let set = album.open_with(&CONFIG);
    assert_eq!(set.vocabulary.words(), ["<end>", "red", "bird", "dog"]);
    let notice = "2 words of the held-out captions are not in the vocabulary of the training captions and are left out, such as a, blue";
    says(&set.notices.join("\n"), &[notice]);
    let set = album.open_with(&OpenConfig { min_count: 2, ..CONFIG });
    assert_eq!(set.vocabulary.words(), ["<end>", "red", "bird"]);
    says(&set.notices.join("\n"), &["1 word occurs fewer than 2 times (data.min_count)"]);
    album.put("d.txt", "something else");
    let set = album.open_with(&CONFIG);
    says(
        &set.skipped[0].why,
        &["none of its captions has a word of the vocabulary of the training captions"],
    );
    // Where a tokenizer reads no word of a caption, that is said.
    album.put("d.txt", "\u{7ea2}\u{9e1f}");
    says(&album.skips().join("\n"), &["d.txt: none of its captions has an ASCII word"]);
}

// Pictures

/// An 8×8 JPEG of one color in the four inks of print, which Adobe's programs store inverted.
fn cmyk_jpeg(inks: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00".to_vec();
    // Quantization by 8, so that a constant block of value v has the coefficient v - 128.
    bytes.extend(b"\xff\xdb\x00\x43\x00".iter().chain(&[8; 64]));
    bytes.extend(b"\xff\xc0\x00\x14\x08\x00\x08\x00\x08\x04\x01\x11\x00\x02\x11\x00\x03\x11\x00\x04\x11\x00");
    // Sizes 0 to 8 of a first coefficient in codes of four bits; the one code of the others ends a block.
    bytes.extend(
        b"\xff\xc4\x00\x1c\x00\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\x00\x01\x02\x03\x04\x05\x06\x07\x08",
    );
    bytes.extend(b"\xff\xc4\x00\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00");
    bytes.extend(b"\xff\xda\x00\x0e\x04\x01\x00\x02\x00\x03\x00\x04\x00\x00\x3f\x00");
    let mut bits = String::new();
    for ink in inks {
        let value = i32::from(255 - ink) - 128;
        let size = 32 - value.unsigned_abs().leading_zeros() as usize;
        let coded = if value < 0 { value + (1 << size) - 1 } else { value };
        bits += &format!("{size:04b}");
        if size > 0 {
            bits += &format!("{coded:0size$b}");
        }
        bits += "0";
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    for byte in bits.as_bytes().chunks(8) {
        let byte = u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap();
        bytes.extend(if byte == 0xff { vec![0xff, 0] } else { vec![byte] });
    }
    bytes.extend(b"\xff\xd9");
    bytes
}

fn png(color: png::ColorType, depth: png::BitDepth, pixel: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 8, 8);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 200, 30, 20]);
        encoder.set_trns(vec![0, 255]);
    }
    encoder.write_header().unwrap().write_image_data(&pixel.repeat(64)).unwrap();
    bytes
}

#[test]
fn pictures_in_every_wrapping_are_of_their_color() {
    use png::BitDepth::{Eight, Sixteen};
    use png::ColorType::{GrayscaleAlpha, Indexed, Rgb, Rgba};
    let album = Album::new(Format::Folder);
    let red = [200, 30, 20];
    let wrapped: [(&str, Vec<u8>, [u8; 3]); 9] = [
        ("cmyk.jpg", cmyk_jpeg([55, 225, 235, 0]), red),
        ("key.jpg", cmyk_jpeg([0, 0, 0, 255]), [0, 0, 0]),
        ("palette.png", png(Indexed, Eight, &[1]), red),
        ("deep.png", png(Rgb, Sixteen, &[200, 0, 30, 0, 20, 0]), red),
        ("alpha.png", png(Rgba, Eight, &[200, 30, 20, 128]), red),
        ("gray.png", png(GrayscaleAlpha, Eight, &[77, 0]), [77; 3]),
        ("webp.jpg", encoded(ImageFormat::WebP, red), red),
        ("png.jpeg", encoded(ImageFormat::Png, red), red),
        ("jpeg.PNG", encoded(ImageFormat::Jpeg, red), red),
    ];
    for (name, bytes, color) in &wrapped {
        let found =
            decode_bytes(bytes, &DecodeConfig::default()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let near =
            found.picture.pixels.chunks(3).all(|p| p.iter().zip(color).all(|(a, b)| a.abs_diff(*b) <= 4));
        assert!(near, "{name}: {:?}", &found.picture.pixels[..3]);
        let stem = name.split('.').next().unwrap();
        album.put(name, bytes).put(&format!("{stem}.txt"), "a picture");
    }
    assert!(album.report().is_clean());
    album
        .put("empty.jpg", "")
        .put("empty.txt", "nothing")
        .put("photo.heic", b"\0\0\0\x18ftypheic")
        .put("photo.txt", "x");
    let report = check(album.open_with(&CONFIG), &DecodeConfig::default());
    let skips: Vec<String> = report.skipped.iter().map(|skip| skip.why.clone()).collect();
    assert_eq!((report.train + report.test, report.skipped.len()), (9, 2), "{skips:?}");
    says(&skips.join("\n"), &["an empty file; fetch it again", "a HEIF image; convert it to JPEG or PNG"]);
}

// From the command line

#[test]
fn a_folder_trains_and_generates() {
    let album = Album::new(Format::Folder);
    let mut table = "file_name,caption,note\n".to_string();
    for i in 0..14 {
        album.pictures(&[&format!("bilder/bild {i}.jpg")]);
        let caption = ["ein roter V\u{f6}gel", "\u{4e00}\u{53ea}\u{7ea2}\u{9e1f}", "красная птица"][i % 3];
        table += &format!("bilder/bild {i}.jpg,\"{caption}\",x\n");
    }
    album.put("captions.csv", table);
    let data = album.root().to_str().unwrap();
    let checked = succeeds(command().args(["data", "check", data, "--dataset", "folder"]));
    assert_says(&checked.out, &["nothing will be skipped", "10 in the vocabulary"]);
    let ascii =
        succeeds(command().args(["data", "check", data, "--dataset", "folder", "--tokenizer", "attngan"]));
    assert_says(&ascii.out, &["none of its captions has an ASCII word"]);
    let run = album.root().join("run");
    let mut train = command();
    train.args(["train", "--dataset", "folder", "--data", data, "--out"]).arg(&run);
    let more = ["captioner.resize=none", "data.test_ratio=0.2", "data.classes=none"];
    TINY.iter().chain(&more).for_each(|setting| drop(train.args(["--set", setting]).get_args()));
    let output = succeeds(&mut train);
    assert_says(&output.err, &["damsm 2/2", "captioner 2/2", "gan 2/2", "data.test_ratio = 0.2"]);
    let run = run.to_str().unwrap();
    let config = binary::read(format!("{run}/config.toml"));
    assert_says(
        &config,
        &["tokenizer = \"unicode\"", "test_ratio = 0.2", "classes = \"none\"", "exif_orientation = true"],
    );
    // The prompt is read as the captions were.
    let infer = succeeds(command().args(["infer", "--run", run, "Ein roter VO\u{308}GEL, \u{7ea2}\u{9e1f}"]));
    assert!(infer.out.lines().count() >= 3 && !infer.err.contains("vocabulary"), "{}", infer.err);
    let samples = binary::read(format!("{run}/infer/captions.jsonl"));
    assert_says(
        &samples,
        &["\"words\":[\"ein\",\"roter\",\"v\u{f6}gel\",\"\u{7ea2}\",\"\u{9e1f}\"]", "\"left_out\":[]"],
    );
    // What makes the words or the split stays.
    for (setting, said) in
        [("data.tokenizer=attngan", "data.tokenizer"), ("data.split_seed=4", "data.split_seed")]
    {
        let more = ["--set", setting, "--set", "gan.schedule.steps=4"];
        assert_says(&refused(&[&["train", "--resume", run][..], &more].concat()), &[said]);
    }
    // The run's own samples, below its data, are no pictures of it.
    assert_says(
        &succeeds(command().args(["train", "--resume", run])).err,
        &["gan: finished at step 2, kept"],
    );
    let caption =
        succeeds(command().args(["caption", "--run", run]).arg(album.root().join("bilder/bild 1.jpg")));
    assert!(!caption.err.contains("box"), "{}", caption.err);
}

#[test]
fn a_missing_data_set_lists_all_four() {
    assert_says(&refused(&["train"]), &["--dataset is missing: demo, cub, coco or folder"]);
    let output = binary::engine(&["train", "--dataset", "flickr"]);
    assert_says(&output.err, &["demo", "cub", "coco", "folder"]);
    assert_says(
        &refused(&["train", "--dataset", "folder"]),
        &["--data is missing: name the folder that holds the pictures"],
    );
    assert_says(
        &refused(&["train", "--dataset", "coco"]),
        &["--data is missing: name the folder that holds annotations"],
    );
    let output = binary::engine(&["data", "check", ".", "--dataset", "folder", "--test-ratio", "1.5"]);
    assert_eq!(output.code, 2, "{}", output.err);
    assert_says(&output.err, &["'1.5' is not a share"]);
}
