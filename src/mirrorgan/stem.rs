//! STEM: the semantic text embedding module, w, s = RNN(T) (MirrorGAN, equation 1; AttnGAN, section 3.2).

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
    /// The share of the embeddings' elements that training drops.
    pub dropout: f32,
}

/// What a caption says: word features w [B,T,D], zero beyond each length, and the sentence vector s [B,D].
#[derive(Clone)]
pub struct TextEmbedding {
    pub words: Tensor,
    pub sentence: Tensor,
}

pub struct TextEncoder {
    embedding: Embedding,
    rnn: Bidirectional,
    dropout: f32,
}

/// Embeddings begin uniform in ±0.1, as published.
const EMBEDDING: Initializer = Initializer::Uniform(0.1);

impl TextEncoder {
    pub fn new(scope: &Scope, vocabulary: usize, config: &TextEncoderConfig) -> TextEncoder {
        TextEncoder {
            embedding: Embedding::new(&scope.at("encoder"), vocabulary, config.embedding, EMBEDDING),
            rnn: Bidirectional::new(&scope.at("rnn"), config.cell, config.embedding, config.features / 2),
            dropout: config.dropout,
        }
    }

    /// Captions [B,T] as word indices, 0 beyond each length. With `rng` embeddings are dropped, as in training.
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
