//! Checkpoints of the published code and its forks as a run folder that is complete.

mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use self::network::{Kind, Network, take_networks};
use crate::config::{Config, PRESETS};
use crate::data::{Vocabulary, read_vocabulary};
use crate::engine::nn::archive::{self, Archive};
use crate::error::{Error, Result};
use crate::files::{Origin, atomic};
use crate::infer::frozen::weight_file;
use crate::run::{Checkpoints, Phase, RunFolder, State};

/// The files to import, and the run to make of them.
pub struct ImportJob {
    pub files: Vec<PathBuf>,
    /// captions.pickle, or a text file with one word a line.
    pub vocabulary: PathBuf,
    /// The preset that the weights were trained with; none takes the only one that fits.
    pub preset: Option<String>,
    pub settings: Vec<String>,
    /// A new or empty folder.
    pub out: PathBuf,
    /// Comment lines on top of the written configuration.
    pub header: String,
}

/// What was imported.
pub struct Imported {
    pub preset: String,
    /// A line for each network: what it is and where it comes from.
    pub networks: Vec<String>,
    /// What cannot be done with these networks alone.
    pub notes: Vec<String>,
}

/// A network of one of the files.
struct Found {
    file: PathBuf,
    origin: Origin,
    kind: Kind,
    archive: Archive,
}

/// Reads the files, finds out which network each holds, compares them with the preset and writes the run.
///
/// # Errors
/// `Io` and `Data` where a file cannot be read, holds no network, or holds one that another file holds too; `Data` with
/// every key that does not fit and the presets that would; nothing is written then.
pub fn import(job: &ImportJob) -> Result<Imported> {
    let vocabulary = read_vocabulary(&job.vocabulary)?;
    let (found, mut notes) = read(&job.files)?;
    let (preset, Fit { config, networks: fitted, .. }) = choose(job, &found, &vocabulary)?;
    let (mut networks, mut record) = (BTreeMap::new(), Vec::new());
    for (network, Found { file, origin, mut archive, .. }) in fitted.into_iter().zip(found) {
        network.shapes(vocabulary.len(), &config)?.add_counters(&mut archive);
        archive.set_metadata("preset", &preset);
        let Origin { file: name, bytes, sha256 } = origin;
        record.push(json!({ "network": network.name(), "file": name, "bytes": bytes, "sha256": sha256 }));
        networks.insert(network, (file, archive));
    }
    let line = |(network, (file, archive)): (&Network, &(PathBuf, Archive))| {
        let (tensors, millions) = (archive.len(), archive.numbers() as f64 / 1e6);
        format!("{:<13} {}: {tensors} tensors, {millions:.1} million numbers", network.name(), file.display())
    };
    let lines = networks.iter().map(line).collect();
    let record = json!({ "preset": preset, "engine": env!("CARGO_PKG_VERSION"), "files": record });
    RunFolder::create(&job.out, &config, &vocabulary, &job.header, |folder| {
        write(folder, &networks, &config)?;
        let text = serde_json::to_string_pretty(&record).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(folder.join("import.json"), text.as_bytes())
    })?;
    notes.extend(missing(&networks.keys().copied().collect::<Vec<_>>(), &config));
    Ok(Imported { preset, networks: lines, notes })
}

/// Every network of the files, and notes on what was left.
fn read(files: &[PathBuf]) -> Result<(Vec<Found>, Vec<String>)> {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for file in files {
        let bytes = archive::file_bytes(file)?;
        let (archive, origin) =
            rayon::join(|| Archive::parse(file, &bytes), || Origin::of_bytes(file, &bytes));
        let mut archive = archive?;
        drop(bytes);
        archive.require_finite()?;
        let networks = take_networks(&mut archive);
        if networks.is_empty() {
            return Err(Error::data(file, no_network(&archive)));
        }
        if let Some(first) = archive.names().next() {
            let count = archive.len();
            notes.push(format!("{}: {count} tensors are left out, such as '{first}'", file.display()));
        }
        let named = |(kind, archive)| Found { file: file.clone(), origin: origin.clone(), kind, archive };
        found.extend(networks.into_iter().map(named));
    }
    Ok((found, notes))
}

fn no_network(archive: &Archive) -> String {
    let has = |end: &str| archive.names().any(|name| name == end || name.ends_with(&format!(".{end}")));
    let names: Vec<&str> = archive.names().take(3).collect();
    let is_imagenet = ["Conv2d_1a_3x3.conv.weight", "layer1.0.conv1.weight", "_conv_stem.weight"];
    if is_imagenet.into_iter().any(has) {
        return "ImageNet's weights of an encoder, no trained network; give them to a training: --set \
                damsm.backbone.weights=FILE or --set captioner.backbone.weights=FILE"
            .to_string();
    }
    let known: Vec<String> =
        Kind::ALL.iter().map(|kind| format!("{} by {}", kind.name(), kind.keys().join(" and "))).collect();
    format!(
        "none of the networks is in it; its first keys are {}; they are known by their keys: {}",
        names.join(", "),
        known.join(", ")
    )
}

/// How the networks of the files fit a configuration.
struct Fit {
    config: Config,
    /// Which of its networks each is.
    networks: Vec<Network>,
    /// All that does not fit; the number of words aside.
    problems: Vec<Error>,
}

impl Fit {
    fn new(preset: &str, job: &ImportJob, found: &[Found]) -> Result<Fit> {
        let config = Config::load(preset, &job.settings)?;
        let (mut networks, mut problems, mut taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        for found in found {
            let network = Network::of(found.kind, &found.archive, &config)?;
            let words = words_of(found).unwrap_or(1);
            problems.extend(network.shapes(words, &config)?.require_fit(&found.archive).err());
            if let Some(other) = taken.insert(network, &found.file) {
                let (file, other, name) = (found.file.display(), other.display(), network.name());
                let why = format!("{file} as well as {other} holds {name}; give one of them");
                problems.push(Error::data(&found.file, why));
            }
            networks.push(network);
        }
        Ok(Fit { config, networks, problems })
    }
}

/// The preset that was named, if everything fits it; without a name, the only one that fits.
fn choose(job: &ImportJob, found: &[Found], vocabulary: &Vocabulary) -> Result<(String, Fit)> {
    let named = job.preset.as_deref().map(|name| Fit::new(name, job, found)).transpose()?;
    let wrong_words = word_counts(found, vocabulary);
    let problems = match (&job.preset, named) {
        (Some(name), Some(fit)) if fit.problems.is_empty() && wrong_words.is_empty() => {
            return Ok((name.clone(), fit));
        }
        (_, named) => named.map_or(Vec::new(), |fit| fit.problems),
    };
    if let [wrong, ..] = &wrong_words[..]
        && problems.is_empty()
    {
        return Err(Error::data(&job.vocabulary, wrong.clone()));
    }
    let fit = |name: &'static str| {
        let fit = Fit::new(name, job, found).ok().filter(|fit| fit.problems.is_empty());
        fit.map(|fit| (name, fit))
    };
    let mut fitting: Vec<(&str, Fit)> = PRESETS.iter().filter_map(|preset| fit(preset.name)).collect();
    let names: Vec<&str> = fitting.iter().map(|(name, _)| *name).collect();
    if let (None, [name]) = (&job.preset, &names[..]) {
        return Ok((name.to_string(), fitting.remove(0).1));
    }
    let others = match &names[..] {
        [] => {
            "no preset fits all of these files: take the nearest, and give its widths with --set".to_string()
        }
        names => format!("these fit the files: {}", names.join(", ")),
    };
    let why = match &job.preset {
        None => format!("it is missing; {others}"),
        Some(name) => format!("{name} does not fit; {others}"),
    };
    let lines: Vec<String> = problems.iter().map(ToString::to_string).chain(wrong_words).collect();
    Err(Error::config("--preset", [vec![why], lines].concat().join("\n")))
}

/// What is wrong with the number of words.
fn word_counts(found: &[Found], vocabulary: &Vocabulary) -> Vec<String> {
    let wrong = |found: &Found| {
        let words = words_of(found)?;
        (words != vocabulary.len()).then(|| {
            format!(
                "{} words, and {} was trained with {words}: take the file of words that belongs to the weights",
                vocabulary.len(),
                found.file.display(),
            )
        })
    };
    found.iter().filter_map(wrong).collect()
}

/// The size of the vocabulary that a network was trained with.
fn words_of(found: &Found) -> Option<usize> {
    let table = match found.kind {
        Kind::TextEncoder => "encoder.weight",
        Kind::CaptionRnn => "embed.weight",
        _ => return None,
    };
    found.archive.get(table)?.shape.first().copied()
}

/// Writes the checkpoint of each phase.
fn write(run: &Path, networks: &BTreeMap<Network, (PathBuf, Archive)>, config: &Config) -> Result<()> {
    let mut before: BTreeMap<Phase, u64> = BTreeMap::new();
    for phase in Phase::ALL {
        let of_phase: Vec<_> = networks.iter().filter(|(network, _)| network.phase() == phase).collect();
        if of_phase.is_empty() {
            continue;
        }
        let after = if phase == Phase::Gan { before.clone() } else { BTreeMap::new() };
        let state = State {
            phase,
            step: 0,
            epoch: 0,
            seed: config.run.seed,
            finished: true,
            imported: true,
            after,
            files: Vec::new(),
        };
        Checkpoints::of(run, phase).save(&state, |folder| {
            of_phase
                .iter()
                .try_for_each(|(network, (_, archive))| archive.write(weight_file(folder, &network.name())))
        })?;
        before.insert(phase, 0);
    }
    Ok(())
}

/// What cannot be done, because networks are missing.
fn missing(networks: &[Network], config: &Config) -> Vec<String> {
    use Network::{CaptionCnn, CaptionRnn, Discriminator, Generator, ImageEncoder, TextEncoder};
    let has = |network: Network| networks.contains(&network);
    let any = |phase: Phase| networks.iter().any(|network| network.phase() == phase);
    let discriminators = (0..config.generator.image_sides().len()).map(Discriminator);
    let lacking: Vec<String> = discriminators.filter(|d| !has(*d)).map(Network::name).collect();
    let mut notes = Vec::new();
    let mut note = |missing: bool, line: &str| {
        if missing {
            notes.push(line.to_string());
        }
    };
    note(
        has(Generator) && !has(TextEncoder),
        "there is no text_encoder: `engine infer` needs it beside netG",
    );
    note(
        any(Phase::Damsm) && !has(ImageEncoder),
        "there is no image_encoder: the DAMSM loss and R-precision need it",
    );
    note(
        any(Phase::Captioner) && !(has(CaptionCnn) && has(CaptionRnn)),
        "there is one of caption_cnn and caption_rnn: the captioner needs both",
    );
    note(
        any(Phase::Gan) && !has(Generator),
        "there are discriminators without netG: they serve a training of the GAN phase alone",
    );
    note(
        any(Phase::Gan) && !lacking.is_empty(),
        &format!("there is no {}: a training that goes on begins with new ones", lacking.join(", ")),
    );
    notes
}
