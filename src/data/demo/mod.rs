//! The demo data set: little rendered birds with ten true captions each, in CUB's layout on disk.
//!
//! It stands in for CUB when a model must learn in minutes and nothing can be downloaded. A class is a species:
//! one color of body with one of wings; 12 of the 81 species are held out for testing, each body and each wing
//! color among them, so a test asks for combinations that training never showed. Belly, crown, bill, build and
//! scene vary within a species.

mod birds;
mod drawing;
mod scenes;

use std::fs;
use std::path::Path;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use rayon::prelude::*;

use self::birds::{Bird, ColorName};
use self::scenes::Scene;
use super::codec::jpeg;
use super::dataset::TEST_CLASSES;
use super::rng::rng_for;
use crate::error::{Error, Result};
use crate::files::atomic;

/// The default number of images.
pub const DEFAULT_COUNT: usize = 1500;

/// More would fill a disk, and are a slip of the finger.
pub const MOST: usize = 1_000_000;

/// Captions of every image, as in CUB.
pub const CAPTIONS: usize = 10;

const JPEG_QUALITY: u8 = 95;
const COLORS: usize = ColorName::ALL.len();

/// Sentences about a bird; every name in braces is replaced by the truth.
const TEMPLATES: [&str; 14] = [
    "this is a {size} {body} bird with {wings} wings and a {bill} bill",
    "a {size} {body} bird with {wings} wings",
    "this bird has a {body} body, {wings} wings and a {belly} belly",
    "a {body} bird with a {crown} crown and a {bill} bill",
    "the {size} bird has {wings} wings, a {belly} belly and a {crown} crown",
    "a {size} bird {scene}, its body is {body} and its wings are {wings}",
    "this {size} {body} bird has a {belly} belly and {wings} wings",
    "a bird with a {bill} bill, a {crown} crown and a {body} body",
    "a {body} bird {scene} with {wings} wings and a {crown} crown",
    "this bird is {body} with {belly} on its belly and {crown} on its crown",
    "the crown of this {body} bird is {crown} and its belly is {belly}",
    "a {body} bird {scene} with a {belly} belly",
    "the {size} bird is {body} and its wings and tail are {wings}",
    "there is a {body} bird with {wings} wings {scene}",
];

/// Draws `count` birds into `dir` in the layout of [`super::Format::Cub`]; equal seeds give equal files.
///
/// The folder appears whole or not at all. It must not exist yet, or be empty.
///
/// # Errors
/// `Config` when `count` is 0 or above [`MOST`], `Data` when `dir` holds something, `Io` when it cannot be written.
pub fn write(dir: impl AsRef<Path>, count: usize, seed: u64) -> Result<()> {
    let dir = dir.as_ref();
    if !(1..=MOST).contains(&count) {
        let why = format!(
            "{count} is not a number of birds to render (1 to {MOST}); take --set data.images={DEFAULT_COUNT}, or \
             --count {DEFAULT_COUNT} with `engine data demo`"
        );
        return Err(Error::config("data.images", why));
    }
    refuse_full(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create(parent)?;
    }
    let temporary = atomic::beside(dir);
    let written = write_all(&temporary, count, seed)
        .and_then(|()| fs::rename(&temporary, dir).map_err(|source| Error::io(dir, source)));
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn refuse_full(dir: &Path) -> Result<()> {
    let Ok(mut entries) = fs::read_dir(dir) else { return Ok(()) };
    match entries.next() {
        Some(_) => Err(Error::data(dir, "holds files already; name an empty or a new folder, or remove it")),
        None => Ok(()),
    }
}

fn write_all(root: &Path, count: usize, seed: u64) -> Result<()> {
    let drawn: Vec<Drawn> = (0..count).map(|number| Drawn::plan(number, seed)).collect();
    let images = root.join("CUB_200_2011").join("images");
    for species in 0..count.min(COLORS * COLORS) {
        let folder = Species::nth(species).folder();
        create(&images.join(&folder))?;
        create(&root.join("text").join(folder))?;
    }
    let boxes = drawn.par_iter().map(|drawn| drawn.write(root, &images, seed)).collect::<Result<Vec<_>>>()?;
    write_lists(root, &drawn, &boxes)
}

fn write_lists(root: &Path, drawn: &[Drawn], boxes: &[[f32; 4]]) -> Result<()> {
    let (mut names, mut places) = (String::new(), String::new());
    for ((number, drawn), [x, y, width, height]) in (1..).zip(drawn).zip(boxes) {
        names += &format!("{number} {}.jpg\n", drawn.key);
        places += &format!("{number} {x:.1} {y:.1} {width:.1} {height:.1}\n");
    }
    let cub = root.join("CUB_200_2011");
    put(&cub.join("images.txt"), names.as_bytes())?;
    put(&cub.join("bounding_boxes.txt"), places.as_bytes())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::io(path, source))
}

/// A bird of the data set and the key of its files.
struct Drawn {
    number: usize,
    key: String,
    bird: Bird,
}

impl Drawn {
    /// Species take turns, so that even a small data set has every color; everything else is random.
    fn plan(number: usize, seed: u64) -> Drawn {
        let species = Species::nth(number);
        let mut rng = rng_for(seed, 0, number as u64);
        let mut color = || *ColorName::ALL.choose(&mut rng).expect("there are colors");
        let (belly, crown) = (color(), color());
        let bird = Bird {
            body: species.body,
            wings: species.wings,
            belly,
            crown,
            large: rng.random_bool(0.5),
            long_bill: rng.random_bool(0.5),
            scene: *Scene::ALL.choose(&mut rng).expect("there are scenes"),
        };
        let turn = number / (COLORS * COLORS) + 1;
        let key = format!("{}/{}_{turn:04}", species.folder(), species.name());
        Drawn { number, key, bird }
    }

    /// Writes the image file and its captions; returns the bounding box.
    fn write(&self, root: &Path, images: &Path, seed: u64) -> Result<[f32; 4]> {
        let (picture, bbox) = birds::draw(&self.bird, &mut rng_for(seed, 1, self.number as u64));
        put(&images.join(format!("{}.jpg", self.key)), &jpeg(&picture, JPEG_QUALITY))?;
        let captions = describe(&self.bird, &mut rng_for(seed, 2, self.number as u64));
        let text = root.join("text").join(format!("{}.txt", self.key));
        put(&text, (captions.join("\n") + "\n").as_bytes())?;
        Ok(bbox)
    }
}

/// A color of body with one of wings.
struct Species {
    /// The class number, by which the official list of test classes splits the demo too.
    class: i32,
    body: ColorName,
    wings: ColorName,
}

impl Species {
    /// The species of image `number`: each run of nine has every body and every wing color once.
    fn nth(number: usize) -> Species {
        let place = number % (COLORS * COLORS);
        let (body, shift) = (place % COLORS, (place / COLORS + 4) % COLORS);
        let wings = (body + shift) % COLORS;
        Species { class: class_number(place), body: ColorName::ALL[body], wings: ColorName::ALL[wings] }
    }

    fn name(&self) -> String {
        format!("{}_winged_{}_Bird", capital(self.wings.word()), capital(self.body.word()))
    }

    fn folder(&self) -> String {
        format!("{:03}.{}", self.class, self.name())
    }
}

/// Held-out species take the numbers of the official test classes in turn, the others those of training classes.
fn class_number(place: usize) -> i32 {
    let earlier = (0..place).filter(|other| is_held_out(*other) == is_held_out(place)).count();
    let numbers = (1..=200).filter(|class| TEST_CLASSES.contains(class) == is_held_out(place));
    numbers.into_iter().nth(earlier).expect("200 classes hold 81 species")
}

/// One species of each run of nine, each with another body and another pair of wings, and three more.
fn is_held_out(place: usize) -> bool {
    let (body, run) = (place % COLORS, place / COLORS);
    let first = (run * 4 + 5) % COLORS;
    body == first || (run % 3 == 2 && body == (first + 3) % COLORS)
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// Ten different true sentences about `bird`, in random order.
fn describe(bird: &Bird, rng: &mut impl Rng) -> Vec<String> {
    let mut templates = TEMPLATES;
    templates.shuffle(rng);
    templates[..CAPTIONS].iter().map(|template| fill_in(template, bird)).collect()
}

fn fill_in(template: &str, bird: &Bird) -> String {
    let scene = match bird.scene {
        Scene::Sky => "in the sky",
        Scene::Leaves => "in the leaves",
        Scene::Branch => "on a branch",
        Scene::Water => "in the water",
    };
    template
        .replace("{size}", if bird.large { "large" } else { "small" })
        .replace("{bill}", if bird.long_bill { "long" } else { "short" })
        .replace("{body}", bird.body.word())
        .replace("{wings}", bird.wings.word())
        .replace("{belly}", bird.belly.word())
        .replace("{crown}", bird.crown.word())
        .replace("{scene}", scene)
        .replace("a orange", "an orange")
}
