//! The generator as a library: word features and noise in, three images and two attention maps out.
//!
//!     cargo run --release --example 04_generate

use mirrorgan_engine::engine::nn::{Mode, Source, Store};
use mirrorgan_engine::engine::tensor::{IntTensor, Rng, no_grad};
use mirrorgan_engine::mirrorgan::generator::{Generator, GeneratorConfig};
use mirrorgan_engine::mirrorgan::stem::TextEmbedding;

fn main() {
    let config = GeneratorConfig {
        width: 8,
        noise: 16,
        condition: 16,
        stages: 3,
        first_ups: 2,
        residual_blocks: 1,
        sentence_attention: true,
        single_head: false,
    };
    let (features, words) = (32, 6);
    let source = Source::Init(Rng::new(1, 0));
    let (generator, store) = Store::build(source, |scope| Generator::new(scope, features, &config)).unwrap();
    println!("a generator of {} parameters, untrained", store.parameter_count());

    // In place of a text encoder's output.
    let mut rng = Rng::new(2, 0);
    let text = TextEmbedding { words: rng.normal([1, words, features]), sentence: rng.normal([1, features]) };
    let lengths = IntTensor::new(vec![words as i32], [1]);
    let (noise, eps) = (rng.normal([1, config.noise]), rng.normal([1, config.condition]));

    let generated = no_grad(|| generator.forward(&noise, &text, &lengths, &eps, Mode::Eval));
    for (image, side) in generated.images.iter().zip(config.image_sides()) {
        assert_eq!(*image.shape(), [1, side, side, 3]);
        println!("image {:?} in [-1, 1]", image.shape());
    }
    for map in &generated.attention {
        println!("attention {:?}: each pixel's weights over the words", map.shape());
    }
}
