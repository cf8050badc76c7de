//! Networks of the demo's size, where no golden speaks: shapes, gradients that reach every parameter, captions that
//! end.

use mirrorgan_engine::engine::nn::{CellKind, Mode, Scope, Source, Store};
use mirrorgan_engine::engine::ops::pointwise::add;
use mirrorgan_engine::engine::tensor::{IntTensor, Rng, Tensor, backward};
use mirrorgan_engine::mirrorgan::backbone::BackboneConfig;
use mirrorgan_engine::mirrorgan::captioner::{Captioner, CaptionerConfig};
use mirrorgan_engine::mirrorgan::damsm::{Gammas, ImageEncoder, damsm_loss};
use mirrorgan_engine::mirrorgan::discriminator::{Discriminator, DiscriminatorConfig, DiscriminatorNorm};
use mirrorgan_engine::mirrorgan::generator::{Generated, Generator, GeneratorConfig};
use mirrorgan_engine::mirrorgan::losses::{Adversarial, Objective, discriminator_loss, generator_loss};
use mirrorgan_engine::mirrorgan::stem::{TextEmbedding, TextEncoder, TextEncoderConfig};

const FEATURES: usize = 16;
const VOCABULARY: usize = 39;

fn build<N>(make: impl FnOnce(&Scope) -> N) -> (N, Store) {
    Store::build(Source::Init(Rng::new(5, 0)), make).unwrap()
}

fn captions() -> (IntTensor, IntTensor) {
    let ids = vec![3, 9, 4, 1, 7, 7, 0, 0, 38, 2, 5, 0];
    (IntTensor::new(ids, [3, 4]), IntTensor::new(vec![4, 2, 3], [3]))
}

fn meaning() -> TextEmbedding {
    let config = TextEncoderConfig { cell: CellKind::Lstm, embedding: 12, features: FEATURES, dropout: 0.5 };
    let (ids, lengths) = captions();
    let (encoder, _) = build(|scope| TextEncoder::new(scope, VOCABULARY, &config));
    let said = encoder.forward(&ids, &lengths, Some(&mut Rng::new(1, 1)));
    TextEmbedding { words: said.words.detach(), sentence: said.sentence.detach() }
}

fn small() -> BackboneConfig {
    BackboneConfig::small(vec![4, 8, 16, 16, 16], 3)
}

/// Every parameter gets a finite gradient that is not all zero.
fn all_learn(store: &Store, loss: &Tensor) {
    let params = store.params();
    assert!(!params.is_empty());
    let targets: Vec<Tensor> = params.iter().map(|p| p.tensor()).collect();
    let grads = backward(loss, &targets.iter().collect::<Vec<_>>());
    for (param, target) in params.iter().zip(&targets) {
        let gradient = grads.get(target).unwrap_or_else(|| panic!("{} has no gradient", param.name()));
        let moved = gradient.as_slice().iter().any(|&g| g != 0.0);
        assert!(gradient.all_finite() && moved, "the gradient of {} is nothing to learn from", param.name());
    }
}

#[test]
fn a_small_cascade_learns_with_its_discriminators() {
    let config = GeneratorConfig {
        width: 4,
        noise: 6,
        condition: 5,
        stages: 3,
        first_ups: 2,
        residual_blocks: 1,
        sentence_attention: true,
        single_head: false,
    };
    assert_eq!(config.image_sides(), [16, 32, 64]);
    let (generator, store) = build(|scope| Generator::new(scope, FEATURES, &config));
    let (said, (_, lengths)) = (meaning(), captions());
    let mut rng = Rng::new(2, 0);
    let (z, eps) = (rng.normal([3, 6]), rng.normal([3, 5]));
    let made = generator.forward(&z, &said, &lengths, &eps, Mode::Train);
    let shapes: Vec<_> = made.images.iter().map(|x| x.shape().to_vec()).collect();
    assert_eq!(shapes, [[3, 16, 16, 3], [3, 32, 32, 3], [3, 64, 64, 3]]);
    assert_eq!(*made.attention[1].shape(), [3, 32, 32, 4]);

    let new = Objective { adversarial: Adversarial::Hinge, lambda_kl: 0.5, lambda_consistency: 2.0 };
    for (norm, objective) in
        [(DiscriminatorNorm::Batch, Objective::PUBLISHED), (DiscriminatorNorm::Spectral, new)]
    {
        let judge = DiscriminatorConfig { width: 4, unconditional: true, norm };
        let judges = config.image_sides().into_iter().map(|side| {
            let (d, judged) = build(|scope| Discriminator::new(scope, side, FEATURES, &judge));
            let real = Rng::new(3, 0).uniform([3, side, side, 3], -1.0, 1.0);
            let loss = discriminator_loss(objective.adversarial, &d, &real, &real, &said.sentence).loss;
            all_learn(&judged, &loss);
            d
        });
        let judges: Vec<Discriminator> = judges.collect();
        let made = generator.forward(&z, &said, &lengths, &eps, Mode::Train);
        let terms = generator_loss(objective, &judges, &made, &said.sentence);
        let names: Vec<&str> = terms.iter().map(|(name, _)| name).collect();
        let wanted = ["g0", "g1", "g2", "kl", "consistency"];
        assert_eq!(names, wanted[..if objective.lambda_consistency > 0.0 { 5 } else { 4 }]);
        all_learn(&store, &terms.total());
    }
}

/// Stages whose images are halves of the next are consistent; others are not, by the mean of squares.
#[test]
fn the_consistency_of_stages_is_their_distance_at_the_smaller_size() {
    let objective = Objective { adversarial: Adversarial::Bce, lambda_kl: 0.0, lambda_consistency: 1.0 };
    let large = Rng::new(3, 0).uniform([2, 8, 8, 3], -1.0, 1.0);
    let values = large.to_vec();
    let at = |b: usize, i: usize, j: usize, c: usize| values[((b * 8 + i) * 8 + j) * 3 + c];
    let half = |b: usize, i: usize, j: usize, c: usize| {
        (0..2).flat_map(|p| (0..2).map(move |q| at(b, 2 * i + p, 2 * j + q, c))).sum::<f32>() / 4.0
    };
    for off in [0.0f32, 0.25] {
        let small: Vec<f32> = (0..96).map(|n| half(n / 48, n / 12 % 4, n / 3 % 4, n % 3) + off).collect();
        let image = Tensor::from_vec(small, [2, 4, 4, 3]);
        let zeros = || Tensor::zeros([2, 5]);
        let made =
            Generated { images: vec![image, large.clone()], attention: vec![], mu: zeros(), logvar: zeros() };
        let terms = generator_loss(objective, &[], &made, &Tensor::zeros([2, FEATURES]));
        assert!((terms.total().item() - off * off).abs() < 1e-6, "off by {off}: {}", terms.total().item());
    }
}

/// Whether each stage has an image or the last alone.
#[test]
fn stages_are_seen_as_they_are_made_and_are_those_of_forward() {
    for single_head in [false, true] {
        let config = GeneratorConfig {
            width: 4,
            noise: 6,
            condition: 5,
            stages: 3,
            first_ups: 1,
            residual_blocks: 1,
            sentence_attention: true,
            single_head,
        };
        let (generator, _) = build(|scope| Generator::new(scope, FEATURES, &config));
        let (said, (_, lengths)) = (meaning(), captions());
        let mut rng = Rng::new(2, 0);
        let (z, eps) = (rng.normal([3, 6]), rng.normal([3, 5]));
        let mut seen = Vec::new();
        let by_stage = generator.forward_by_stage(&z, &said, &lengths, &eps, |stage| {
            let attention = stage.attention.map(|map| map.shape().to_vec());
            seen.push((stage.number, stage.image.to_vec(), attention));
        });
        let whole = generator.forward(&z, &said, &lengths, &eps, Mode::Eval);
        let bits = |tensors: &[Tensor]| tensors.iter().map(Tensor::to_vec).collect::<Vec<_>>();
        assert!(bits(&by_stage.images) == bits(&whole.images));
        assert!(bits(&by_stage.attention) == bits(&whole.attention));
        assert_eq!(
            seen.iter().map(|(number, ..)| *number).collect::<Vec<_>>(),
            Vec::from_iter(0..whole.images.len())
        );
        assert!(seen.iter().zip(bits(&whole.images)).all(|((_, image, _), of_forward)| *image == of_forward));
        let maps: Vec<_> = seen.into_iter().map(|(.., attention)| attention).collect();
        match single_head {
            true => assert_eq!(maps, [Some(vec![3, 16, 16, 4])]),
            false => assert_eq!(maps, [None, Some(vec![3, 8, 8, 4]), Some(vec![3, 16, 16, 4])]),
        }
    }
}

#[test]
fn a_small_image_encoder_learns_to_match() {
    let (encoder, store) = build(|scope| ImageEncoder::new(scope, FEATURES, &small()));
    let images = Rng::new(4, 0).uniform([3, 64, 64, 3], -1.0, 1.0);
    let seen = encoder.forward(&images, Mode::Train);
    assert_eq!(*seen.regions.shape(), [3, 64, FEATURES]);
    let gammas = Gammas { gamma1: 4.0, gamma2: 5.0, gamma3: 10.0 };
    all_learn(&store, &damsm_loss(&seen, &meaning(), &captions().1, None, gammas).total());
}

#[test]
fn stream_learns_and_its_captions_end() {
    let config = CaptionerConfig {
        backbone: small(),
        resize: Some(64),
        imagenet_normalization: true,
        embedding: 8,
        hidden: 10,
        learn_end: true,
    };
    let make = |scope: &Scope| Captioner::new(&scope.at("cnn"), &scope.at("rnn"), VOCABULARY, &config);
    let (stream, store) = build(make);
    let images = Rng::new(4, 0).uniform([3, 32, 32, 3], -1.0, 1.0);
    let (ids, lengths) = captions();
    let loss = stream.loss(&images, &ids, &lengths, Mode::Train);
    assert!(
        (loss.item() - (VOCABULARY as f32).ln()).abs() < 0.5,
        "an untrained model guesses: {}",
        loss.item()
    );
    // The bias before the batch norm moves nothing.
    let bias = store.params().into_iter().find(|p| p.name() == "cnn.linear.bias").unwrap();
    let again = stream.loss(&images, &ids, &lengths, Mode::Train);
    bias.update(|b| b.as_mut_slice().fill(3.0));
    assert!((stream.loss(&images, &ids, &lengths, Mode::Train).item() - again.item()).abs() < 1e-4);
    all_learn(&store, &add(&loss, &again));
    let written = stream.describe(&images, 6);
    let scored = stream.describe_with_probabilities(&images, 6);
    assert_eq!((written.len(), scored.len()), (3, 3));
    for (caption, scored) in written.iter().zip(scored) {
        assert_eq!(*caption, scored.iter().map(|(word, _)| *word).collect::<Vec<_>>());
        // The most likely of V words has at least an even share.
        assert!(scored.iter().all(|(_, p)| (1.0 / VOCABULARY as f32..=1.0).contains(p)), "{scored:?}");
    }
    for caption in written {
        assert!(caption.len() <= 6 && !caption.contains(&0), "{caption:?}");
    }
}

#[test]
fn what_is_frozen_is_neither_recorded_nor_trained() {
    let make = |scope: &Scope| ImageEncoder::new(&scope.frozen(), FEATURES, &small());
    let (encoder, store) = build(make);
    assert!(store.params().is_empty());
    let images = Rng::new(4, 0).uniform([2, 64, 64, 3], -1.0, 1.0).leaf();
    let seen = encoder.forward(&images, Mode::Eval);
    let loss = mirrorgan_engine::engine::ops::reduce::sum(&seen.global);
    assert!(backward(&loss, &[&images]).get(&images).is_some(), "gradients pass through to the image");
}
