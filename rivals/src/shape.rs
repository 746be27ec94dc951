//! Llamas of public models' shapes, with random weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use half::f16;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::form::Form;

/// A public model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// SmolLM 135M: 30 layers, width 576, vocabulary 49,152.
    #[value(name = "llama-135m")]
    Llama135m,
    /// Llama 3.2 1B, but for the scaling of its RoPE: 16 layers, width 2048, vocabulary 128,256.
    #[value(name = "llama-1b")]
    Llama1b,
}

/// A Llama's dimensions; its head is its embedding.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) theta: f32,
}

impl Size {
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Llama135m => Shape {
                name: "llama-135m",
                layers: 30,
                width: 576,
                heads: 9,
                kv_heads: 3,
                ffn: 1536,
                vocab: 49_152,
                theta: 10_000.0,
            },
            Self::Llama1b => Shape {
                name: "llama-1b",
                layers: 16,
                width: 2048,
                heads: 32,
                kv_heads: 8,
                ffn: 8192,
                vocab: 128_256,
                theta: 500_000.0,
            },
        }
    }
}

impl Shape {
    /// Names and rows and columns of the matrices, by the checkpoint's names; a norm's gains are one row.
    pub(crate) fn tensors(&self) -> Vec<(String, usize, usize)> {
        let (width, q, kv) = (self.width, self.heads * HEAD_DIM, self.kv_heads * HEAD_DIM);
        let mut tensors = vec![(EMBEDDING.into(), self.vocab, width), ("model.norm.weight".into(), 1, width)];
        for layer in 0..self.layers {
            let of_layer = [
                ("self_attn.q_proj", q, width),
                ("self_attn.k_proj", kv, width),
                ("self_attn.v_proj", kv, width),
                ("self_attn.o_proj", width, q),
                ("mlp.gate_proj", self.ffn, width),
                ("mlp.up_proj", self.ffn, width),
                ("mlp.down_proj", width, self.ffn),
                ("input_layernorm", 1, width),
                ("post_attention_layernorm", 1, width),
            ];
            let named = |(name, rows, cols)| (format!("model.layers.{layer}.{name}.weight"), rows, cols);
            tensors.extend(of_layer.map(named));
        }
        tensors
    }

    /// Bytes of matrices that a token reads; of the embedding as an embedding it is one row, which is not counted.
    pub(crate) fn bytes_per_token(&self, form: Form) -> f64 {
        let bytes = |(name, rows, cols): (String, usize, usize)| match rows {
            1 => 0.0,
            _ => (rows * cols) as f64 * if name == EMBEDDING { form.of_head() } else { form }.bits() / 8.0,
        };
        self.tensors().into_iter().map(bytes).sum()
    }

    /// The `config.json`.
    pub(crate) fn config(&self) -> serde_json::Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": HEAD_DIM,
            "vocab_size": self.vocab,
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": EPS,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float16",
        })
    }

    /// Writes a Hugging Face folder with random f16 weights, the same each time.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn = BTreeMap::new();
        for (name, rows, cols) in self.tensors() {
            // Large enough that no layer hides behind the residual stream.
            let (mean, deviation) = match rows {
                1 => (1.0, 0.1),
                _ if name == EMBEDDING => (0.0, 0.05),
                _ => (0.0, 0.03),
            };
            let normal = Normal::new(mean, deviation)?;
            let weights = (0..rows * cols).flat_map(|_| f16::from_f32(normal.sample(&mut random)).to_le_bytes());
            let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
            drawn.insert(name, (shape, weights.collect::<Vec<u8>>()));
        }
        let mut views = Vec::new();
        for (name, (shape, bytes)) in &drawn {
            views.push((name, TensorView::new(Dtype::F16, shape.clone(), bytes)?));
        }
        safetensors::serialize_to_file(views, None, &folder.join(WEIGHTS))?;
        let config = serde_json::to_vec_pretty(&self.config())?;
        fs::write(folder.join("config.json"), config).context("cannot write config.json")
    }
}

/// The matrix that is embedding and head.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The file of weights in a folder.
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const HEAD_DIM: usize = 64;
pub(crate) const EPS: f32 = 1e-5;
/// Positions that the model is said to know.
pub(crate) const POSITIONS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_weights_of_the_models_they_are_named_for() {
        for (size, weights) in [(Size::Llama135m, 134_515_008), (Size::Llama1b, 1_235_814_400)] {
            let shape = size.shape();
            assert_eq!(shape.tensors().iter().map(|(_, rows, cols)| rows * cols).sum::<usize>(), weights);
        }
    }

    #[test]
    fn a_token_reads_every_matrix_once() {
        let shape = Size::Llama135m.shape();
        let norms = (2 * shape.layers + 1) * shape.width;
        assert_eq!(shape.bytes_per_token(Form::F16), (134_515_008 - norms) as f64 * 2.0);
        let (head, others) = (49_152.0 * 576.0, 134_515_008.0 - norms as f64 - 49_152.0 * 576.0);
        assert_eq!(shape.bytes_per_token(Form::Int4), head * 8.5 / 8.0 + others * 4.5 / 8.0);
    }
}
