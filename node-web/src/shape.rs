//! Models for benchmarks that only need a shape.

use serde::Deserialize;
use syn1_model::Spec;

/// A public model's shape, named as `syn1 bench decode --shape` names it, or a small one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// 4 layers, width 256, vocabulary 4,096: done in a second on anything.
    Tiny,
    /// SmolLM 135M: 30 layers, width 576, vocabulary 49,152.
    Llama135m,
    /// GPT-2 124M: 12 layers, width 768, vocabulary 50,257.
    #[default]
    Gpt2,
    /// Llama 3.2 1B: 16 layers, width 2048, vocabulary 128,256.
    Llama1b,
}

impl Shape {
    /// The architecture.
    pub fn spec(self) -> Spec {
        match self {
            Self::Tiny => Spec {
                layers: 4,
                width: 256,
                heads: 4,
                kv_heads: 2,
                head_dim: 64,
                ffn: 768,
                vocab: 4096,
                ..Spec::llama_1b()
            },
            Self::Llama135m => Spec::llama_135m(),
            Self::Gpt2 => Spec::gpt2_124m(),
            Self::Llama1b => Spec::llama_1b(),
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny (random weights)",
            Self::Llama135m => "llama-135m (random weights)",
            Self::Gpt2 => "gpt2-124m (random weights)",
            Self::Llama1b => "llama-1b (random weights)",
        }
    }
}
