//! A hundred thousand damaged command lines, settings and files: each works, or is refused with the key or the file.
//! A failure names its number, from which the same input is made again.

mod binary;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mirrorgan_engine::cli::command_line;
use mirrorgan_engine::config::{Config, PRESETS, Preset};
use mirrorgan_engine::engine::nn::Archive;
use mirrorgan_engine::error::{Error, Result, chain};
use mirrorgan_engine::infer::{Sampler, Weights};
use mirrorgan_engine::run::{Checkpoints, Phase, RunFolder};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rayon::prelude::*;

use self::binary::{RUN, command, copy, run};

type Random = Xoshiro256PlusPlus;

/// Runs `case` with `count` seeds, on all cores, each thread with a state of its own from `init`.
fn fuzz<S>(count: u64, init: impl Fn() -> S + Sync + Send, case: impl Fn(&mut S, &mut Random) + Sync) {
    (0..count).into_par_iter().for_each_init(init, |state, seed| {
        let done = catch_unwind(AssertUnwindSafe(|| case(state, &mut Random::seed_from_u64(seed))));
        assert!(done.is_ok(), "input number {seed}");
    });
}

/// Numbers and words that are at the edge of something, or beyond it.
const EDGES: [&str; 56] = [
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "8",
    "65536",
    "65537",
    "4294967295",
    "4294967296",
    "1000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "0.0",
    "-0.0",
    "0.5",
    "1.0",
    "1.0000001",
    "1e-400",
    "1e38",
    "1e39",
    "1e308",
    "1e309",
    "-1e309",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "0x10",
    "1_000",
    "007",
    "true",
    "false",
    "none",
    "\"none\"",
    "null",
    "[]",
    "{}",
    "[1]",
    "[0, 0]",
    "[1, [2]]",
    "{a = 1}",
    "\"",
    "'''",
    "#",
    "",
    " ",
    "1979-05-27",
    "\u{0}",
    "é",
    "💥",
];

fn edge(random: &mut impl Rng) -> &'static str {
    EDGES.choose(random).unwrap()
}

/// Text as nobody means it: bytes of all kinds.
fn garbage(random: &mut impl Rng) -> Vec<u8> {
    let length = random.random_range(0..24);
    (0..length)
        .map(|_| if random.random_bool(0.7) { random.random_range(32..127) } else { random.random() })
        .collect()
}

/// Damages a file as disks, editors and people do.
fn damage(bytes: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len() + 1);
        let end = (at + random.random_range(0..64)).min(bytes.len());
        match random.random_range(0..10) {
            0 => bytes.truncate(at),
            1 | 2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 => drop(bytes.splice(at..at, garbage(random))),
            4 => drop(bytes.drain(at..end)),
            5 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            6 => bytes[at..end].fill(0),
            7 => {
                let deep = [b'[', b'{', b'"', b' ', b'\n', 0xff].choose(random).unwrap();
                drop(bytes.splice(at..at, vec![*deep; random.random_range(1..2000)]));
            }
            // Another value in the place of one.
            _ => {
                let is_part = |b: &u8| b.is_ascii_alphanumeric() || b".-_\"".contains(b);
                let from = (at..bytes.len()).find(|&i| is_part(&bytes[i])).unwrap_or(bytes.len());
                let to = (from..bytes.len()).find(|&i| !is_part(&bytes[i])).unwrap_or(bytes.len());
                drop(bytes.splice(from..to, edge(random).bytes()));
            }
        }
    }
    bytes
}

/// What an error says; `part` must be in it.
#[track_caller]
fn require_names<T>(result: Result<T>, part: &str) {
    let Err(error) = result else { return };
    let message = chain(&error, ": ");
    assert!(message.contains(part), "'{part}' is not named: {message}");
    assert!(message.len() < 4000, "a message of {} bytes: {message}", message.len());
}

#[test]
fn settings() {
    let presets: Vec<(&str, Vec<String>)> = PRESETS
        .iter()
        .map(|Preset { name, .. }| {
            (*name, Config::load(name, &[]).unwrap().keys().into_iter().map(|k| k.key).collect())
        })
        .collect();
    fuzz(
        32_000,
        || (),
        |(), random| {
            let (preset, keys) = presets.choose(random).unwrap();
            let settings: Vec<String> =
                (0..random.random_range(1..4)).map(|_| setting(keys, random)).collect();
            match Config::load(preset, &settings) {
                Ok(config) => {
                    // What is accepted can be written, and is read as the same again.
                    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
                    fs::write(file.path(), config.to_toml()).unwrap();
                    assert!(Config::read(file.path()).unwrap() == config, "{settings:?}");
                }
                Err(error) => {
                    let message = error.to_string();
                    let named = keys.iter().any(|key| message.contains(key.as_str()));
                    let written = settings.iter().map(|s| s.split('=').next().unwrap().trim());
                    assert!(
                        named || written.into_iter().any(|key| message.contains(key)),
                        "{settings:?}: {message}"
                    );
                }
            }
        },
    );
}

fn setting(keys: &[String], random: &mut impl Rng) -> String {
    let key = keys.choose(random).unwrap().clone();
    let value = match random.random_range(0..4) {
        0 => String::from_utf8_lossy(&garbage(random)).into_owned(),
        1 => random.random_range(-3..70_000i64).to_string(),
        _ => edge(random).to_string(),
    };
    match random.random_range(0..20) {
        0 => String::from_utf8_lossy(&damage(key.as_bytes(), random)).into_owned(),
        1 => format!("{}={value}", String::from_utf8_lossy(&damage(key.as_bytes(), random))),
        2 => format!("{}={value}", key.rsplit_once('.').map_or(key.as_str(), |(section, _)| section)),
        3 => format!("{key}.more={value}"),
        _ => format!("{key}={value}"),
    }
}

#[test]
fn command_lines() {
    let command = command_line();
    let commands: Vec<(Vec<String>, Vec<String>)> = command
        .get_subcommands()
        .flat_map(|c| {
            let inner: Vec<_> = c.get_subcommands().collect();
            let path = |more: Option<&str>| {
                [c.get_name()].into_iter().chain(more).map(str::to_string).collect::<Vec<_>>()
            };
            match inner.is_empty() {
                true => vec![(path(None), options(c))],
                false => inner.into_iter().map(|i| (path(Some(i.get_name())), options(i))).collect(),
            }
        })
        .collect();
    fuzz(24_000, command_line, |command, random| {
        let (path, options) = commands.choose(random).unwrap();
        let mut words: Vec<OsString> = vec!["engine".into()];
        words.extend(path.iter().map(OsString::from));
        for _ in 0..random.random_range(0..6) {
            words.push(match random.random_range(0..4) {
                0 | 1 => options.choose(random).unwrap().into(),
                2 => edge(random).into(),
                _ => OsString::from_vec(garbage(random)),
            });
        }
        if let Err(error) = command.try_get_matches_from_mut(&words) {
            assert!(!error.to_string().trim().is_empty());
        }
    });
}

fn options(command: &clap::Command) -> Vec<String> {
    let mut options = vec!["--help".to_string(), "--".to_string(), "a bird".to_string()];
    options.extend(command.get_arguments().filter_map(|a| a.get_long()).map(|long| format!("--{long}")));
    options
}

/// A folder like the finished run, with no images, whose files a case damages and mends again.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().unwrap();
        for phase in Phase::ALL {
            copy(&RUN.join(phase.name()), &folder.path().join(phase.name()));
        }
        for name in ["config.toml", "run.json", "vocabulary.txt"] {
            fs::copy(RUN.join(name), folder.path().join(name)).unwrap();
        }
        Folder { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Reads the folder with another content of `file`.
    fn with(&self, file: &Path, random: &mut Random, read: impl FnOnce(&Path)) {
        let path = self.path().join(file);
        let whole = fs::read(RUN.join(file)).unwrap();
        fs::write(&path, damage(&whole, random)).unwrap();
        read(&path);
        fs::write(&path, whole).unwrap();
    }
}

/// The newest checkpoint of a phase, within the run.
fn newest(phase: Phase) -> PathBuf {
    let checkpoint = Checkpoints::of(&RUN, phase).latest().unwrap().unwrap();
    checkpoint.folder.strip_prefix(&*RUN).unwrap().to_path_buf()
}

#[test]
fn files_of_a_run() {
    let states = Phase::ALL.map(|phase| newest(phase).join("state.json"));
    let named = ["config.toml", "run.json", "vocabulary.txt"].map(PathBuf::from);
    fuzz(24_000, Folder::new, |folder, random| {
        let file = named.iter().chain(&states).collect::<Vec<_>>().choose(random).copied().unwrap();
        folder.with(file, random, |path| {
            let run = RunFolder::open(folder.path()).unwrap();
            match file.to_str().unwrap() {
                // A key that is wrong is named by itself.
                "config.toml" => match run.config() {
                    Err(Error::Config { key, .. }) => assert!(!key.is_empty()),
                    config => require_names(config, path.to_str().unwrap()),
                },
                "run.json" => require_names(run.record(), path.to_str().unwrap()),
                "vocabulary.txt" => require_names(run.vocabulary(), path.to_str().unwrap()),
                _ => {
                    for phase in Phase::ALL {
                        require_names(Checkpoints::of(folder.path(), phase).latest(), path.to_str().unwrap());
                    }
                }
            }
        });
    });
}

#[test]
fn weight_files() {
    let weights: Vec<PathBuf> = Phase::ALL
        .into_iter()
        .map(newest)
        .flat_map(|folder| {
            let entries = fs::read_dir(RUN.join(&folder)).unwrap().flatten();
            let names = entries.map(|entry| folder.join(entry.file_name()));
            names.filter(|name| name.extension().is_some_and(|e| e == "safetensors")).collect::<Vec<_>>()
        })
        .collect();
    assert!(weights.len() > 4, "{weights:?}");
    fuzz(20_000, Folder::new, |folder, random| {
        let file = weights.choose(random).unwrap();
        folder.with(file, random, |path| require_names(Archive::read(path), path.to_str().unwrap()));
    });
    // The header in whole, with names and shapes that are not the network's.
    let used: Vec<&PathBuf> = weights.iter().filter(|w| w.to_str().unwrap().contains("netG")).collect();
    fuzz(3_000, Folder::new, |folder, random| {
        let file = used.choose(random).unwrap();
        let path = folder.path().join(file);
        let whole = fs::read(RUN.join(file)).unwrap();
        let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let header = damage(&whole[8..8 + length], random);
        let numbers = &whole[8 + length..];
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header, numbers].concat()).unwrap();
        require_names(
            Sampler::open(&RunFolder::open(folder.path()).unwrap(), Weights::Newest),
            path.to_str().unwrap(),
        );
        fs::write(&path, whole).unwrap();
    });
}

/// The program itself, from the damaged file to its exit code.
#[test]
fn the_program() {
    let weights = newest(Phase::Gan).join("netG.safetensors");
    let state = newest(Phase::Damsm).join("state.json");
    let metrics = PathBuf::from("gan/metrics.json");
    let files = ["config.toml", "run.json", "vocabulary.txt"].map(PathBuf::from);
    let files: Vec<&PathBuf> = files.iter().chain([&weights, &state, &metrics]).collect();
    fuzz(
        300,
        || (),
        |(), random| {
            let folder = tempfile::tempdir().unwrap();
            copy(&RUN, folder.path());
            let file = folder.path().join(files.choose(random).unwrap());
            fs::write(&file, damage(&fs::read(&file).unwrap(), random)).unwrap();
            let mut command = command();
            match random.random_bool(0.3) {
                true => command.arg("train").arg("--resume").arg(folder.path()),
                false => command.args(["infer", "a small red bird", "--run"]).arg(folder.path()),
            };
            let output = run(&mut command);
            assert!(matches!(output.code, 0 | 1), "{}: {}", output.code, output.err);
            let error = output.err.split("error: ").nth(1);
            assert!(output.code == 0 || error.is_some_and(|e| e.contains(':')), "{}", output.err);
        },
    );
}
