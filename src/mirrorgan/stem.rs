//! STEM, the semantic text embedding module: w, s = RNN(T) (MirrorGAN, section 3.1; AttnGAN, section 3.2).

use serde::{Deserialize, Serialize};

use crate::engine::nn::{Bidirectional, CellKind, Embedding, Initializer, Scope};
use crate::engine::ops::random::dropout;
use crate::engine::tensor::{IntTensor, Rng, Tensor};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    pub cell: CellKind,
    /// Width of a word's embedding.
    pub embedding: usize,
    /// D: width of a word feature and of the sentence vector, half of it for each direction.
    pub features: usize,
    /// The probability with which training drops an element of an embedding.
    pub dropout: f32,
}

/// Captions as vectors.
#[derive(Clone)]
pub struct TextEmbedding {
    /// Word features w [B,T,D], zero beyond each length.
    pub words: Tensor,
    /// Sentence vectors s [B,D].
    pub sentence: Tensor,
}

pub struct TextEncoder {
    embedding: Embedding,
    rnn: Bidirectional,
    dropout: f32,
}

/// Initial embeddings. Source: `RNN_ENCODER.init_weights` of AttnGAN's code.
const EMBEDDING: Initializer = Initializer::Uniform(0.1);

impl TextEncoder {
    pub fn new(scope: &Scope, vocabulary: usize, config: &TextEncoderConfig) -> TextEncoder {
        TextEncoder {
            embedding: Embedding::new(&scope.at("encoder"), vocabulary, config.embedding, EMBEDDING),
            rnn: Bidirectional::new(&scope.at("rnn"), config.cell, config.embedding, config.features / 2),
            dropout: config.dropout,
        }
    }

    /// Captions [B,T] are word ids, 0 beyond each length. Training gives an `rng` for the dropout.
    pub fn forward(&self, captions: &IntTensor, lengths: &IntTensor, rng: Option<&mut Rng>) -> TextEmbedding {
        let embedded = self.embedding.forward(captions);
        let embedded = match rng {
            Some(rng) => dropout(&embedded, self.dropout, rng),
            None => embedded,
        };
        let (words, sentence) = self.rnn.forward(&embedded, lengths);
        TextEmbedding { words, sentence }
    }
}
