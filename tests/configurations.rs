//! Whatever a configuration holds, it is built, or refused with the key that is wrong; nothing panics.

use mirrorgan_engine::config::Config;
use mirrorgan_engine::engine::nn::{Mode, Scope, Source, Store};
use mirrorgan_engine::engine::tensor::{Rng, no_grad};
use mirrorgan_engine::engine::{IntTensor, Tensor};
use mirrorgan_engine::error::Result;
use mirrorgan_engine::infer::frozen::build_captioner;
use mirrorgan_engine::mirrorgan::damsm::{ImageEncoder, damsm_loss};
use mirrorgan_engine::mirrorgan::discriminator::Discriminator;
use mirrorgan_engine::mirrorgan::generator::Generator;
use mirrorgan_engine::mirrorgan::losses::{Adversarial, Objective, discriminator_loss, generator_loss};
use mirrorgan_engine::mirrorgan::stem::TextEncoder;

/// Networks of any configuration that is accepted, and a step's losses on a batch of two.
fn build(config: &Config) -> Result<()> {
    let source = || Source::Init(Rng::new(1, 0));
    let (words, features) = (7, config.text_encoder.features);
    let (text, _) = Store::build(source(), |scope| TextEncoder::new(scope, words, &config.text_encoder))?;
    let (image, _) =
        Store::build(source(), |scope| ImageEncoder::new(scope, features, &config.damsm.backbone))?;
    let (generator, _) = Store::build(source(), |scope| Generator::new(scope, features, &config.generator))?;
    let discriminator = |&side: &usize| {
        let build = |scope: &Scope| Discriminator::new(scope, side, features, &config.discriminator);
        Ok(Store::build(source(), build)?.0)
    };
    let discriminators =
        config.generator.image_sides().iter().map(discriminator).collect::<Result<Vec<_>>>()?;
    let captioner = match config.loss.lambda_captioner > 0.0 {
        true => Some(build_captioner([source(), source()], words, config)?.0),
        false => None,
    };

    let captions = IntTensor::new(vec![1, 2, 3, 4, 5, 0], [2, 3]);
    let (lengths, classes) = (IntTensor::new(vec![3, 2], [2]), IntTensor::new(vec![0, 1], [2]));
    no_grad(|| {
        let text = text.forward(&captions, &lengths, Some(&mut Rng::new(2, 0)));
        let z = Tensor::full([2, config.generator.noise], 0.5);
        let eps = Tensor::full([2, config.generator.condition], 0.5);
        let generated = generator.forward(&z, &text, &lengths, &eps, Mode::Train);
        for (d, fake) in discriminators.iter().zip(&generated.images) {
            discriminator_loss(Adversarial::Bce, d, fake, fake, &text.sentence).loss.item();
        }
        generator_loss(Objective::PUBLISHED, &discriminators, &generated, &text.sentence).values();
        let largest = &generated.images[generated.images.len() - 1];
        damsm_loss(
            &image.forward(largest, Mode::Train),
            &text,
            &lengths,
            Some(&classes),
            config.damsm.gammas,
        )
        .values();
        if let Some(captioner) = &captioner {
            captioner.loss(largest, &captions, &lengths, Mode::Train).item();
        }
    });
    Ok(())
}

/// Keys, and values that are mostly small, so that a network that is accepted is built in a millisecond.
const SIZES: [(&str, &[&str]); 15] = [
    ("text_encoder.embedding", &["0", "1", "3", "8"]),
    ("text_encoder.features", &["0", "1", "2", "7", "8"]),
    ("text_encoder.cell", &["lstm", "gru", "rnn"]),
    (
        "damsm.backbone.widths",
        &["[]", "[0]", "[4]", "[4, 4]", "[2, 3, 4, 5]", "[1,1,1,1,1,1,1,1,1]", "[-1]", "4"],
    ),
    ("damsm.backbone.map_after", &["0", "1", "2", "9"]),
    ("captioner.backbone.widths", &["[]", "[4]", "[4, 4]", "[2, 3, 4, 5]", "[2,2,2,2,2,2]"]),
    ("captioner.backbone.map_after", &["0", "1", "2"]),
    ("captioner.resize", &["none", "0", "1", "2", "7", "12"]),
    ("captioner.hidden", &["0", "1", "5"]),
    ("generator.width", &["0", "1", "2", "5"]),
    ("generator.noise", &["0", "1", "4"]),
    ("generator.condition", &["0", "1", "3"]),
    ("generator.stages", &["0", "1", "2", "3", "4"]),
    ("generator.first_ups", &["0", "1", "2", "3", "5"]),
    ("discriminator.width", &["0", "1", "2", "3"]),
];

const SWITCHES: [(&str, &[&str]); 8] = [
    ("generator.residual_blocks", &["0", "1", "2"]),
    ("generator.single_head", &["true", "false"]),
    ("generator.sentence_attention", &["true", "false"]),
    ("discriminator.unconditional", &["true", "false"]),
    ("loss.lambda_captioner", &["0", "1"]),
    ("captioner.learn_end", &["true", "false"]),
    ("captioner.imagenet_normalization", &["true", "false"]),
    ("captioner.embedding", &["1", "4"]),
];

/// What the smallest networks begin with.
const SMALL: [&str; 12] = [
    "text_encoder.embedding=4",
    "text_encoder.features=4",
    "damsm.backbone.widths=[2, 2]",
    "damsm.backbone.map_after=1",
    "captioner.backbone.widths=[2, 2]",
    "captioner.backbone.map_after=2",
    "captioner.embedding=4",
    "captioner.hidden=4",
    "generator.width=2",
    "generator.noise=3",
    "generator.condition=3",
    "discriminator.width=2",
];

struct Dice(Rng);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        let mut all: Vec<usize> = (0..count).collect();
        self.0.shuffle(&mut all);
        all[0]
    }
}

#[test]
fn random_sizes_are_built_or_refused_by_key() {
    let (mut built, mut refused) = (0, 0);
    for seed in 0..600 {
        let mut dice = Dice(Rng::new(seed, 3));
        let mut settings: Vec<String> = SMALL.map(String::from).to_vec();
        for _ in 0..1 + dice.below(4) {
            let (key, values) = SIZES[dice.below(SIZES.len())];
            settings.push(format!("{key}={}", values[dice.below(values.len())]));
            let (key, values) = SWITCHES[dice.below(SWITCHES.len())];
            settings.push(format!("{key}={}", values[dice.below(values.len())]));
        }
        match Config::load("demo", &settings).and_then(|config| build(&config)) {
            Ok(()) => built += 1,
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                let named = SIZES.iter().chain(&SWITCHES).any(|(key, _)| text.contains(key));
                assert!(named, "{settings:?}: {text}");
            }
        }
    }
    assert!(built > 150 && refused > 150, "{built} built, {refused} refused");
}

/// Every number at the edges: what is accepted has a range that says so, what is not names its key and its help.
#[test]
fn every_key_is_safe_at_its_edges() {
    let edges = [
        "0",
        "1",
        "-1",
        "1e308",
        "nan",
        "inf",
        "-0.0",
        "99999999999",
        "18446744073709551616",
        "none",
        "",
        "[1]",
        "true",
    ];
    for key in Config::load("demo", &[]).unwrap().keys() {
        for edge in edges {
            let setting = format!("{}={edge}", key.key);
            if let Err(error) = Config::load("demo", std::slice::from_ref(&setting)) {
                let (text, section) = (error.to_string(), key.key.split('.').next().unwrap());
                // A side of the images may be too small for the backbones.
                assert!(text.contains(section) || text.contains(".backbone.widths"), "{setting}: {text}");
            }
        }
    }
    let error = |setting: &str| Config::load("demo", &[setting.to_string()]).unwrap_err().to_string();
    for (setting, parts) in [
        ("gan.schedule.steps=0", ["gan.schedule.steps", "1 or more, or none"]),
        ("eval.images=0", ["eval.images", "0 is too small: 1 is the least"]),
        ("text_encoder.features=7", ["text_encoder.features", "7 is odd"]),
        ("generator.noise=0", ["generator.noise", "0 is too small"]),
        ("generator.width=2000", ["generator.width", "2000 is too large: 1024 is the most"]),
        ("text_encoder.dropout=1", ["text_encoder.dropout", "it must be less than 1"]),
        ("damsm.backbone.widths=[]", ["damsm.backbone.widths", "0 layers"]),
        (
            "damsm.backbone.widths=[1,1,1,1,1,1,1]",
            ["damsm.backbone.widths", "64x64 can be halved 1 to 6 times"],
        ),
        ("gan.generator_adam.lr=-1", ["gan.generator_adam.lr", "-1.0 is too small"]),
        ("data.words_eval=0", ["data.words_eval", "words of a caption"]),
    ] {
        let message = error(setting);
        assert!(parts.iter().all(|part| message.contains(part)), "{setting}: {message}");
    }
}

#[test]
fn one_stage_of_three_doublings_is_built() {
    for (stages, ups, single) in [(1, 3, false), (1, 3, true), (1, 1, false), (3, 4, true), (2, 1, true)] {
        let more = [
            format!("generator.stages={stages}"),
            format!("generator.first_ups={ups}"),
            format!("generator.single_head={single}"),
        ];
        let settings: Vec<String> = SMALL.map(String::from).into_iter().chain(more).collect();
        build(&Config::load("demo", &settings).unwrap()).unwrap();
    }
}
