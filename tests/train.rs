//! Training as a whole, on a few birds with narrow networks: every phase, resuming, and what stops it.

mod device;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use mirrorgan_engine::config::Config;
use mirrorgan_engine::data::{self, Dataset, Fingerprint, Format, OpenConfig, demo};
use mirrorgan_engine::engine::device::cpu::set_exact;
use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::error::{Error, Result};
use mirrorgan_engine::mirrorgan::losses::Loss;
use mirrorgan_engine::run::{Call, Checkpoints, Phase, Record, RunFolder};
use mirrorgan_engine::train::{self, Limit, Outcome, Progress, StopReason, TrainJob};

const TINY: [&str; 25] = [
    "text_encoder.embedding=8",
    "text_encoder.features=8",
    "damsm.backbone.widths=[4, 8, 8]",
    "damsm.backbone.map_after=2",
    "damsm.schedule.batch=4",
    "damsm.schedule.steps=4",
    "captioner.backbone.widths=[4, 8]",
    "captioner.backbone.map_after=2",
    "captioner.embedding=8",
    "captioner.hidden=8",
    "captioner.schedule.batch=4",
    "captioner.schedule.steps=3",
    "generator.first_ups=1",
    "generator.width=2",
    "discriminator.width=4",
    "generator.noise=4",
    "generator.condition=4",
    "gan.schedule.batch=4",
    "gan.schedule.steps=4",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "run.sample_every=2",
    "run.sample_rows=3",
    "run.eval_every=2",
    "eval.candidates=3",
];

static BIRDS: LazyLock<Dataset> = LazyLock::new(|| {
    // Images are read as they are needed, so the folder stays.
    // Where the tests were not built, as under tools/gpu, cargo's folder is not there.
    let folder = match std::env::var_os("ENGINE_TESTS") {
        Some(_) => std::env::temp_dir().join("mirrorgan-engine-birds"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("birds"),
    };
    let _ = std::fs::remove_dir_all(&folder);
    demo::write(&folder, 40, 1).unwrap();
    data::open(Format::Cub, &folder, &OpenConfig::default()).unwrap()
});

/// The terms that were shown at one step.
struct Losses {
    phase: Phase,
    terms: Vec<(String, f32)>,
}

/// Remembers all losses, and asks to stop after a step, or in an evaluation.
#[derive(Default)]
struct Watcher {
    phase: Option<Phase>,
    losses: Vec<Losses>,
    notes: Vec<String>,
    evaluated: Vec<usize>,
    stop_at: Option<(Phase, u64)>,
    stop_in_evaluation: Option<Phase>,
    stop: Arc<AtomicBool>,
}

impl Progress for Watcher {
    fn begin(&mut self, phase: Phase, _: u64, _: u64, beyond: f64) {
        assert!(beyond.is_finite() && (beyond > 0.0 || phase == Phase::Gan), "{phase:?} {beyond}");
        self.phase = Some(phase);
    }

    fn step(&mut self, step: u64, _: u64, _: usize, losses: &[Loss]) {
        let phase = self.phase.unwrap();
        let terms = losses.iter().map(|loss| (loss.name.clone(), loss.value)).collect();
        self.losses.push(Losses { phase, terms });
        self.stop.store(self.stop_at == Some((phase, step)), Ordering::Relaxed);
    }

    fn begin_evaluation(&mut self, total: usize) {
        assert!(total > 0);
        self.stop.store(
            self.stop_in_evaluation.is_some() && self.stop_in_evaluation == self.phase,
            Ordering::Relaxed,
        );
    }

    fn evaluated(&mut self, done: usize) {
        self.evaluated.push(done);
    }

    fn end(&mut self) {}

    fn note(&mut self, line: &str) {
        self.notes.push(line.to_string());
    }
}

fn config(more: &[&str]) -> Config {
    let settings: Vec<String> = TINY.iter().chain(more).map(|s| s.to_string()).collect();
    Config::load("demo", &settings).unwrap()
}

/// Trains into `out`, stopping after a step if told to; going on where there is something to go on with.
fn train_to(
    out: &Path,
    config: Config,
    resume: bool,
    stop_at: Option<(Phase, u64)>,
) -> (Result<Outcome>, Watcher) {
    let mut watcher = Watcher { stop_at, ..Watcher::default() };
    (train_watched(out, config, resume, |_| {}, &mut watcher), watcher)
}

fn train_watched(
    out: &Path,
    config: Config,
    resume: bool,
    change: impl FnOnce(&mut TrainJob),
    watcher: &mut Watcher,
) -> Result<Outcome> {
    let run = RunFolder::lock(out)?;
    let mut job = TrainJob {
        phases: train::required_phases(&config),
        record: Record::new(out, "demo", "demo", &BIRDS.root, Fingerprint::of(&BIRDS)),
        from: None,
        dump: None,
        config,
        dataset: BIRDS.clone(),
        run,
        resume,
        limit: None,
        deadline: None,
        header: "# a test\n".to_string(),
        call: Call { command: vec!["engine".to_string(), "train".to_string()], ..Call::default() },
        notes: Vec::new(),
        resume_command: format!("engine train --resume {}", out.display()),
        stop: watcher.stop.clone(),
    };
    change(&mut job);
    train::train(job, watcher)
}

/// Every file of a run but the lock, with its bytes.
fn files(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![run.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.file_name() == ".lock" => {}
                false => {
                    let name = entry.path().strip_prefix(run).unwrap().to_string_lossy().into_owned();
                    found.insert(name, std::fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    found
}

/// The lines of a run's log of calls.
fn calls(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("runs.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bytes of every tensor file of the newest checkpoints, by path within the run.
fn weights(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for phase in Phase::ALL {
        let checkpoint = Checkpoints::of(run, phase).latest().unwrap().unwrap().folder;
        for entry in std::fs::read_dir(checkpoint).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            found.insert(format!("{}/{name}", phase.name()), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn all_phases_train_and_write_what_was_promised() {
    let run = tempfile::tempdir().unwrap();
    let (outcome, watcher) = train_to(run.path(), config(&[]), false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_eq!(watcher.losses.len(), 4 + 3 + 4);
    assert!(watcher.losses.iter().flat_map(|l| &l.terms).all(|(_, value)| value.is_finite()));
    let terms: Vec<&str> = watcher.losses[10].terms.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = ["d0", "d1", "d2", "g0", "g1", "g2", "kl", "caption", "w0", "w1", "s0", "s1"];
    assert_eq!(terms, wanted);
    assert!(watcher.notes.iter().any(|n| n.contains("R-precision") && n.contains("generated")));

    let names: Vec<String> = weights(run.path()).into_keys().collect();
    let wanted = [
        "captioner/caption_cnn.safetensors",
        "captioner/caption_rnn.safetensors",
        "captioner/optimizer.safetensors",
        "captioner/state.json",
        "damsm/image_encoder.safetensors",
        "damsm/optimizer.safetensors",
        "damsm/state.json",
        "damsm/text_encoder.safetensors",
        "gan/netD0.safetensors",
        "gan/netD1.safetensors",
        "gan/netD2.safetensors",
        "gan/netG.safetensors",
        "gan/netG_raw.safetensors",
        "gan/optimizer.safetensors",
        "gan/state.json",
    ];
    assert_eq!(names, wanted);
    for file in [
        "config.toml",
        "run.json",
        "runs.jsonl",
        "vocabulary.txt",
        "samples/captions.txt",
        "samples/step-000002.png",
        "samples/step-000004.png",
    ] {
        assert!(run.path().join(file).is_file(), "{file}");
    }
    let logs = std::fs::read_dir(run.path().join("logs/gan")).unwrap().flatten();
    let logs: Vec<_> = logs.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(logs.iter().any(|name| name.starts_with("events.out.tfevents.")));
    assert!(logs.contains(&"metrics.jsonl".to_string()) && logs.len() > 1, "{logs:?}");

    let (again, watcher) = train_to(run.path(), config(&[]), false, None);
    assert_eq!(again.unwrap(), Outcome::Finished);
    assert!(watcher.losses.is_empty() && !watcher.notes.is_empty());
    assert!(watcher.notes.iter().all(|n| n.contains("finished")));
}

#[test]
fn going_on_equals_never_having_stopped() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (outcome, _) = train_to(whole.path(), config(&[]), false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);

    let mut resume = false;
    for stop in
        [(Phase::Damsm, 1), (Phase::Damsm, 3), (Phase::Captioner, 2), (Phase::Gan, 1), (Phase::Gan, 3)]
    {
        let (outcome, _) = train_to(broken.path(), config(&[]), resume, Some(stop));
        let left = Outcome::Stopped { phase: stop.0, step: stop.1, reason: StopReason::Interrupted };
        assert_eq!(outcome.unwrap(), left);
        resume = true;
    }
    let (outcome, _) = train_to(broken.path(), config(&[]), false, None);
    let message = outcome.unwrap_err().to_string();
    assert!(
        message.contains("the gan phase stopped at step 3 of 4") && message.contains("--resume"),
        "{message}"
    );
    let (outcome, _) = train_to(broken.path(), config(&[]), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);

    let (whole, broken) = (weights(whole.path()), weights(broken.path()));
    assert!(whole.len() >= 9 && whole.keys().eq(broken.keys()), "{:?}", whole.keys());
    for (name, bytes) in &whole {
        assert!(bytes == &broken[name], "{name} differs");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_with_its_name() {
    let run = tempfile::tempdir().unwrap();
    let wild = config(&["gan.generator_adam.lr=1e30", "run.checkpoint_every=1"]);
    let (outcome, _) = train_to(run.path(), wild, false, None);
    let Err(Error::NotFinite { step, term, value, advice }) = outcome else { panic!("{outcome:?}") };
    assert!(!value.is_finite());
    assert_eq!(step, 2);
    assert!(term.starts_with('d') || term.starts_with('g'), "{term}");
    // The weights of step 1 are finite, and lead to a loss that is not: no checkpoint to go on from.
    assert!(advice.contains("There is no good checkpoint") && advice.contains("set aside"), "{advice}");
    assert!(run.path().join("gan/step-000001.diverged/netG.safetensors").is_file());
    assert!(Checkpoints::of(run.path(), Phase::Gan).latest().unwrap().is_none());
    assert_eq!(calls(run.path()).last().unwrap()["outcome"].as_str().unwrap()[..14], *"error: step 2:");
}

/// Good steps, then a rate that ruins the weights: back to the last good checkpoint, and on as the message says.
#[test]
fn a_diverged_training_goes_back_to_the_last_good_checkpoint() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&["run.checkpoint_every=1"]), false, Some((Phase::Gan, 2))).0.unwrap();
    let wild = config(&["run.checkpoint_every=1", "gan.generator_adam.lr=1e30"]);
    let (outcome, watcher) = train_to(run.path(), wild, true, None);
    let Err(Error::NotFinite { step, advice, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(step, 4);
    assert!(
        watcher.notes.iter().any(|n| n.contains("gan.generator_adam.lr is 1") && n.contains("it was 0.002")),
        "{:?}",
        watcher.notes
    );
    assert!(advice.contains("The last good checkpoint is gan/step-000002"), "{advice}");
    let settings =
        advice.split(" --set ").skip(1).map(|rest| rest.split_whitespace().next().unwrap().to_string());
    let settings: Vec<String> = settings.collect();
    assert_eq!(settings.len(), 2, "{advice}");
    assert!(advice.contains(&format!("engine train --resume {} --set", run.path().display())), "{advice}");
    // A tenth of a wild rate is wild as well, so the rates of the preset stand for a reader's next try.
    for setting in &settings {
        RunFolder::open(run.path()).unwrap().config_with(std::slice::from_ref(setting)).unwrap();
    }
    let (outcome, watcher) = train_to(run.path(), config(&[]), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(watcher.notes.contains(&"gan: goes on from step 2".to_string()), "{:?}", watcher.notes);
}

/// A limit belongs to a call: the run goes on to the same end.
#[test]
fn a_call_with_a_limit_is_not_the_end_of_a_run() {
    let (whole, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train_to(whole.path(), config(&[]), false, None).0.unwrap();
    let limited = |resume, steps| {
        let change = |job: &mut TrainJob| job.limit = Some(Limit::Steps(steps));
        train_watched(run.path(), config(&[]), resume, change, &mut Watcher::default())
    };
    let at = |damsm, captioner, gan| {
        Outcome::AtLimit(vec![
            (Phase::Damsm, damsm, 4),
            (Phase::Captioner, captioner, 3),
            (Phase::Gan, gan, 4),
        ])
    };
    assert_eq!(limited(false, 2).unwrap(), at(2, 2, 2));
    assert_eq!(RunFolder::open(run.path()).unwrap().config().unwrap(), config(&[]));
    assert!(!run.path().join("damsm/metrics.json").exists());
    let before = files(run.path());
    assert_eq!(limited(true, 2).unwrap(), at(2, 2, 2));
    assert_eq!(limited(true, 1).unwrap(), at(2, 2, 2));
    assert!(files(run.path()) == before, "nothing is done, nothing is written");
    let message = train_to(run.path(), config(&[]), false, None).0.unwrap_err().to_string();
    assert!(
        message.contains("the damsm phase stopped at step 2 of 4; go on with: engine train --resume"),
        "{message}"
    );

    let (outcome, watcher) = train_to(run.path(), config(&[]), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let again = "gan: begins again: it was trained with damsm at step 2, which is at step 4 now";
    assert!(watcher.notes.contains(&again.to_string()), "{:?}", watcher.notes);
    assert!(weights(whole.path()) == weights(run.path()), "the same bits as without the limit");
    let call = &calls(run.path())[3];
    assert_eq!((&call["event"], &call["outcome"]), (&"end".into(), &"finished".into()));
    assert_eq!(call["trained"], serde_json::json!({ "damsm": [2, 4], "captioner": [2, 3], "gan": [0, 4] }));
}

#[test]
fn a_refused_call_and_one_without_work_write_nothing() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, Some((Phase::Gan, 2))).0.unwrap();
    let before = files(run.path());
    for (settings, resume) in [(&["gan.schedule.steps=2"][..], false), (&["discriminator.width=8"], true)] {
        assert!(train_to(run.path(), config(settings), resume, None).0.is_err());
        assert!(files(run.path()) == before, "{settings:?}");
    }
    train_to(run.path(), config(&[]), true, None).0.unwrap();
    let before = files(run.path());
    for (settings, resume) in
        [(&["gan.schedule.steps=3"][..], false), (&["gan.schedule.steps=9"], false), (&[], true)]
    {
        let (outcome, watcher) = train_to(run.path(), config(settings), resume, None);
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        assert!(watcher.notes.iter().all(|note| note.contains("kept")), "{:?}", watcher.notes);
        assert!(files(run.path()) == before, "{settings:?}");
    }
}

#[test]
fn what_may_change_on_resume_changes_is_said_and_is_recorded() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, Some((Phase::Gan, 1))).0.unwrap();
    let changed =
        ["gan.schedule.batch=6", "gan.generator_adam.lr=0.0001", "run.log_every=2", "loss.lambda_damsm=2"];
    let (outcome, watcher) = train_to(run.path(), config(&changed), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    for line in [
        "note: gan.schedule.batch is 6 now; it was 4",
        "note: gan.generator_adam.lr is 0.0001 now; it was 0.002",
        "note: loss.lambda_damsm is 2.0 now; it was 4.0",
    ] {
        assert!(watcher.notes.contains(&line.to_string()), "{line}: {:?}", watcher.notes);
    }
    assert_eq!(RunFolder::open(run.path()).unwrap().config().unwrap(), config(&changed));
    let begin = &calls(run.path())[2];
    let change = serde_json::json!({ "key": "gan.schedule.batch", "from": "4", "to": "6" });
    assert!(begin["changes"].as_array().unwrap().contains(&change), "{begin}");
}

#[test]
fn a_run_refuses_another_data_set_and_says_how_it_differs() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, Some((Phase::Damsm, 1))).0.unwrap();
    let before = files(run.path());
    let with = |change: &dyn Fn(&mut Dataset)| {
        let change = |job: &mut TrainJob| {
            change(&mut job.dataset);
            job.record.fingerprint = Fingerprint::of(&job.dataset);
        };
        let outcome = train_watched(run.path(), config(&[]), true, change, &mut Watcher::default());
        outcome.unwrap_err().to_string()
    };
    let fewer = with(&|data| drop(data.train.pop()));
    let expected =
        format!("{} training images where there were {}", BIRDS.train.len() - 1, BIRDS.train.len());
    assert!(fewer.contains("another data set") && fewer.contains(&expected), "{fewer}");
    assert!(with(&|data| data.train[0].captions[0].reverse()).contains("other captions"));
    assert!(with(&|data| data.train.swap(0, 1)).contains("other images, classes or bounding boxes"));
    assert!(with(&|data| data.test[0].class += 1).contains("other images, classes"));
    assert!(files(run.path()) == before);
}

#[test]
fn an_interrupted_evaluation_is_made_up_for() {
    let run = tempfile::tempdir().unwrap();
    let mut watcher = Watcher { stop_in_evaluation: Some(Phase::Damsm), ..Watcher::default() };
    let outcome = train_watched(run.path(), config(&[]), false, |_| {}, &mut watcher);
    assert_eq!(
        outcome.unwrap(),
        Outcome::Stopped { phase: Phase::Damsm, step: 4, reason: StopReason::Interrupted }
    );
    assert!(!run.path().join("damsm/metrics.json").exists());
    let (outcome, watcher) = train_to(run.path(), config(&[]), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(watcher.losses.iter().all(|l| l.phase != Phase::Damsm), "no step is taken again");
    assert!(run.path().join("damsm/metrics.json").exists());
    assert!(watcher.evaluated.len() > 3, "{:?}", watcher.evaluated);
}

/// Extending a phase under a finished generator would leave it with another text encoder.
#[test]
fn a_phase_is_not_trained_further_under_a_finished_generator() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, None).0.unwrap();
    let (outcome, _) = train_to(run.path(), config(&["damsm.schedule.steps=6"]), true, None);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("the gan phase is finished and was trained with damsm at step 4"), "{message}");
    std::fs::remove_dir_all(run.path().join("gan")).unwrap();
    let (outcome, _) = train_to(run.path(), config(&["damsm.schedule.steps=6"]), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
}

#[test]
fn a_broken_image_is_named_once_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    demo::write(&data, 40, 1).unwrap();
    let broken = data::open(Format::Cub, &data, &OpenConfig::default()).unwrap();
    std::fs::write(&broken.train[3].image, "no image").unwrap();
    let name = broken.train[3].image.file_name().unwrap().to_string_lossy().into_owned();
    let mut watcher = Watcher::default();
    let longer = ["damsm.schedule.steps=20", "captioner.schedule.steps=20", "gan.schedule.steps=20"];
    let change = |job: &mut TrainJob| job.dataset = broken;
    train_watched(&folder.path().join("run"), config(&longer), false, change, &mut watcher).unwrap();
    let named = watcher.notes.iter().filter(|note| note.contains(&name)).count();
    assert_eq!(named, 1, "{:?}", watcher.notes);
    assert!(
        watcher.notes.last().unwrap().contains("1 image of this data set could not be used"),
        "{:?}",
        watcher.notes
    );
}

#[test]
fn two_trainings_of_one_folder_are_refused() {
    let run = tempfile::tempdir().unwrap();
    let _held = RunFolder::lock(run.path()).unwrap();
    let message = train_to(run.path(), config(&[]), false, None).0.unwrap_err().to_string();
    assert!(message.contains("is at work here"), "{message}");
}

/// Steps that are trained again stand once in TensorBoard: a file begins with the session's start.
#[test]
fn logs_have_readable_tags_and_begin_with_a_session() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, None).0.unwrap();
    let mut log = Vec::new();
    for phase in Phase::ALL {
        for entry in std::fs::read_dir(run.path().join("logs").join(phase.name())).unwrap().flatten() {
            if entry.file_name() == "metrics.jsonl" {
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            // Event { wall_time, step, session_log { status: START } }
            assert!(bytes.windows(4).any(|w| w == [0x3a, 2, 8, 1]), "no session start");
            log.extend(bytes);
        }
    }
    for tag in [
        "loss/D_8",
        "loss/G_32",
        "loss/KL",
        "damsm/words_image_to_text",
        "captioner/caption",
        "weight/damsm/sentence_text_to_image",
        "learning_rate/netG",
        "learning_rate/text_encoder",
        "metric/r_precision",
        "run/configuration",
        "samples/captions",
        "samples/images",
    ] {
        assert!(log.windows(tag.len()).any(|w| w == tag.as_bytes()), "{tag}");
    }
}

/// The lines of a phase's numbers.
fn numbers(run: &Path, phase: Phase) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("logs").join(phase.name()).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each phase is measured as it goes on, and the checkpoint that did best stays beside the last two.
#[test]
fn the_best_checkpoint_is_kept_and_numbers_are_written_for_plots() {
    let run = tempfile::tempdir().unwrap();
    let often =
        ["run.eval_every=1", "eval.follow_images=6", "gan.schedule.steps=9", "gan.generator_adam.lr=0.05"];
    let (outcome, watcher) = train_to(run.path(), config(&often), false, Some((Phase::Gan, 5)));
    assert!(matches!(outcome.unwrap(), Outcome::Stopped { step: 5, .. }));
    let (outcome, _) = train_to(run.path(), config(&often), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    for phase in Phase::ALL {
        let (name, sign) = match phase {
            Phase::Captioner => ("held_out_loss", -1.0),
            Phase::Damsm | Phase::Gan => ("r_precision", 1.0),
        };
        let lines = numbers(run.path(), phase);
        let tag = format!("metric/{name}");
        let measured = lines.iter().filter_map(|line| Some((line["step"].as_u64()?, line[&tag].as_f64()?)));
        // What the finished phase is measured by comes last, and has the step of the last measurement.
        let mut measured: Vec<(u64, f64)> = measured.collect();
        measured.dedup_by_key(|m| m.0);
        let last = phase.schedule(&config(&often)).last_step(40);
        // The measurement in which the call was interrupted is not made up for.
        let steps = (1..=last).filter(|&step| (phase, step) != (Phase::Gan, 5));
        assert!(measured.iter().map(|m| m.0).eq(steps), "{measured:?}");
        let first_best = measured.iter().rev().max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1))).unwrap();
        let checkpoints = Checkpoints::of(run.path(), phase);
        let best = checkpoints.best().unwrap();
        assert_eq!((best.step, best.metric.as_str()), (first_best.0, name), "{measured:?}");
        assert!(phase.folder(run.path()).join(format!("step-{:06}/state.json", best.step)).is_file());
    }
    assert!(
        watcher
            .notes
            .iter()
            .any(|note| note.starts_with("gan step 1: r_precision") && note.ends_with("(the best so far)"))
    );
    let gan = numbers(run.path(), Phase::Gan);
    for tag in [
        "loss/D_8",
        "gradient_norm/netG",
        "gradient_norm/netD2",
        "accuracy/netD0_real",
        "accuracy/netD1_generated",
        "rate/images_per_second",
        "learning_rate/netG",
        "metric/diversity",
    ] {
        let found: Vec<f64> = gan.iter().filter_map(|line| line[tag].as_f64()).collect();
        assert!(
            found.len() >= 8 && found.iter().all(|value| value.is_finite() && *value >= 0.0),
            "{tag}: {found:?}"
        );
    }
    assert!(
        numbers(run.path(), Phase::Damsm).iter().any(|line| line["gradient_norm/text_encoder"].is_number())
    );
}

/// Losses are shown as they were read last, and no checkpoint is written before they are read.
#[test]
fn losses_are_read_when_due_and_before_a_checkpoint() {
    let seldom =
        ["run.log_every=100", "run.checkpoint_every=3", "run.sample_every=100", "run.eval_every=100"];
    let run = tempfile::tempdir().unwrap();
    let (outcome, watcher) = train_to(run.path(), config(&seldom), false, Some((Phase::Gan, 2)));
    let stopped = Outcome::Stopped { phase: Phase::Gan, step: 2, reason: StopReason::Interrupted };
    assert_eq!(outcome.unwrap(), stopped);
    let damsm: Vec<_> = watcher.losses.iter().filter(|l| l.phase == Phase::Damsm).map(|l| &l.terms).collect();
    assert_eq!(damsm[0], damsm[1], "step 2 shows what step 1 read");
    assert!(damsm[1] != damsm[2] && damsm[2] != damsm[3], "a checkpoint, the last step");

    let wild = config(&[&seldom[..], &["gan.generator_adam.lr=1e30", "gan.schedule.steps=9"]].concat());
    let run = tempfile::tempdir().unwrap();
    let (outcome, _) = train_to(run.path(), wild, false, None);
    let Err(Error::NotFinite { step, advice, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(step, 3);
    assert!(advice.contains("There is no good checkpoint"), "{advice}");
    assert!(Checkpoints::of(run.path(), Phase::Gan).latest().unwrap().is_none());
}

/// A run as version 0.1.0 left it: old keys, `stream` folders, `stage` in the state.
#[test]
fn an_old_run_resumes_to_the_same_bits() {
    let of_then = || config(&["gan.lr_tail=0.0", "loss.lambda_kl=1.0"]);
    let (whole, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train_to(whole.path(), of_then(), false, None).0.unwrap();
    train_to(old.path(), of_then(), false, Some((Phase::Captioner, 2))).0.unwrap();
    std::fs::write(old.path().join("config.toml"), include_str!("old/tiny.toml")).unwrap();
    for folder in ["", "logs"] {
        let folder = old.path().join(folder);
        std::fs::rename(folder.join("captioner"), folder.join("stream")).unwrap();
    }
    for (phase, step, name) in [("damsm", 4, "damsm"), ("stream", 2, "stream")] {
        let state = old.path().join(format!("{phase}/step-{step:06}/state.json"));
        let text = std::fs::read_to_string(&state).unwrap();
        let (now, before) = (r#""phase": ""#, r#""stage": ""#);
        assert!(text.contains(now), "{text}");
        let text = text.replace(now, before).replace("captioner", name);
        std::fs::write(&state, text).unwrap();
    }
    std::fs::rename(old.path().join("damsm/metrics.json"), old.path().join("damsm/figures.json")).unwrap();

    assert_eq!(RunFolder::open(old.path()).unwrap().config().unwrap(), of_then());
    let captioner = Checkpoints::of(old.path(), Phase::Captioner).latest().unwrap().unwrap();
    assert_eq!((captioner.state.phase, captioner.state.step), (Phase::Captioner, 2));

    let (outcome, watcher) = train_to(old.path(), of_then(), true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(watcher.notes.contains(&"captioner: goes on from step 2".to_string()), "{:?}", watcher.notes);
    let tensors = |run: &Path| {
        let files = weights(run).into_iter().filter(|(name, _)| name.ends_with(".safetensors"));
        files.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(tensors(whole.path()).len(), 12);
    assert!(tensors(whole.path()) == tensors(old.path()));
    assert!(old.path().join("damsm/metrics.json").is_file() && old.path().join("logs/captioner").is_dir());
    for gone in ["stream", "logs/stream", "damsm/figures.json"] {
        assert!(!old.path().join(gone).exists(), "{gone}");
    }
}

#[test]
fn another_configuration_is_refused_by_name() {
    let run = tempfile::tempdir().unwrap();
    train_to(run.path(), config(&[]), false, Some((Phase::Damsm, 1))).0.unwrap();
    let (outcome, _) =
        train_to(run.path(), config(&["generator.width=3", "gan.schedule.steps=9"]), true, None);
    let message = outcome.unwrap_err().to_string();
    assert!(
        message.contains("generator.width is 2 there and 3 here") && !message.contains("steps"),
        "{message}"
    );
}

#[test]
fn time_that_is_up_is_saved_and_said() {
    let run = tempfile::tempdir().unwrap();
    let change = |job: &mut TrainJob| job.deadline = Some(std::time::Instant::now());
    let outcome = train_watched(run.path(), config(&[]), false, change, &mut Watcher::default()).unwrap();
    assert_eq!(outcome, Outcome::Stopped { phase: Phase::Damsm, step: 1, reason: StopReason::TimeIsUp });
    assert!(run.path().join("damsm/step-000001/state.json").is_file());
}

#[test]
fn a_model_without_a_captioner_trains_none() {
    let run = tempfile::tempdir().unwrap();
    let attngan = config(&[
        "loss.lambda_captioner=0",
        "generator.sentence_attention=false",
        "captioner.backbone.kind=resnet152",
    ]);
    let (outcome, watcher) = train_to(run.path(), attngan, false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(!watcher.losses.is_empty() && watcher.losses.iter().all(|l| l.phase != Phase::Captioner));
}

/// The losses of a training on the CPU and on the device, and the largest relative distance of each step's.
fn distances(settings: &[&str], on_device: &[&str], batch: &[&str]) -> Option<Vec<(Phase, f32)>> {
    let device = device::cuda()?;
    let [here, there] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config = |more: &[&str]| {
        let settings: Vec<String> = settings.iter().chain(batch).chain(more).map(|s| s.to_string()).collect();
        Config::load("demo", &settings).unwrap()
    };
    // Like with like: the device sums convolutions directly, and Adam's first steps magnify the roundings of other sums.
    set_exact(true);
    let (outcome, expected) = train_to(here.path(), config(&[]), false, None);
    set_exact(false);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let (outcome, found) = with(device, || train_to(there.path(), config(on_device), false, None));
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_eq!(weights(here.path()).len(), weights(there.path()).len());
    let pairs = found.losses.iter().zip(&expected.losses);
    let of_step = |(found, expected): (&Losses, &Losses)| {
        assert_eq!(found.terms.len(), expected.terms.len());
        let terms = found.terms.iter().zip(&expected.terms);
        let far = terms.map(|((name, f), (other, e))| {
            assert_eq!(name, other);
            println!("{} {name}: {f} {e}", found.phase.name());
            (f - e).abs() / e.abs().max(0.1)
        });
        (found.phase, far.fold(0.0, f32::max))
    };
    assert_eq!(found.losses.len(), expected.losses.len());
    Some(pairs.map(of_step).collect())
}

/// Each step of a phase may be farther off than the one before: Adam's first steps are little more than the signs of
/// gradients, so that rounding grows.
fn within(found: Option<Vec<(Phase, f32)>>, limits: &[f32]) {
    let mut step = (None, 0);
    for (phase, far) in found.into_iter().flatten() {
        step = if step.0 == Some(phase) { (Some(phase), step.1 + 1) } else { (Some(phase), 0) };
        let limit = limits[step.1.min(limits.len() - 1)];
        assert!(far <= limit, "{} step {}: a loss is off by {far:.1e}", phase.name(), step.1 + 1);
    }
}

#[test]
fn cuda_loses_what_the_cpu_loses() {
    within(distances(&TINY, &[], &[]), &[2e-5, 2e-3, 5e-3, 1e-2]);
}

/// The networks of the demo at their own size, two steps of each phase.
#[test]
fn cuda_trains_the_demo_as_the_cpu_does() {
    let few = [
        "damsm.schedule.steps=2",
        "captioner.schedule.steps=2",
        "gan.schedule.steps=2",
        "eval.candidates=3",
        "run.sample_rows=2",
    ];
    let small = [
        "damsm.schedule.batch=4",
        "captioner.schedule.batch=4",
        "gan.schedule.batch=4",
        "run.sample_every=2",
    ];
    within(distances(&few, &[], &small), &[2e-5, 2e-3]);
}

#[test]
fn coarser_numbers_train_nearly_the_same() {
    within(distances(&TINY, &["run.precision=tf32"], &[]), &[5e-3, 5e-2, 1e-1, 2e-1]);
    within(distances(&TINY, &["run.precision=bf16"], &[]), &[5e-2, 1e-1, 2e-1, 4e-1]);
}

#[test]
fn one_seed_gives_one_answer_on_cuda() {
    let Some(device) = device::cuda() else { return };
    let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for run in [&a, &b] {
        with(device, || train_to(run.path(), config(&[]), false, None)).0.unwrap();
    }
    assert!(weights(a.path()) == weights(b.path()));
}

#[test]
fn the_cpu_refuses_what_it_cannot_compute() {
    let run = tempfile::tempdir().unwrap();
    let message =
        train_to(run.path(), config(&["run.precision=bf16"]), false, None).0.unwrap_err().to_string();
    assert!(message.contains("run.precision") && message.contains("--device cuda:N"), "{message}");
}
