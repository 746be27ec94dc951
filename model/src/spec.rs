//! What a model is: the numbers and choices that its `config.json` fixes.

use serde::{Deserialize, Serialize};

/// The architecture of a decoder-only language model.
///
/// One `Spec` describes every family; a family is a mapping from its `config.json` to these fields. A setting that no
/// field can express is refused by name when the configuration is read, never ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Which naming scheme the weights follow.
    pub family: Family,
    /// Transformer blocks.
    pub layers: usize,
    /// Elements of the residual stream (`d_model`).
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; fewer than `heads` in grouped-query attention.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Elements of the MLP's hidden layer.
    pub ffn: usize,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub max_positions: usize,
    /// The normalisation in front of attention, MLP and head.
    pub norm: Norm,
    /// How a token's position enters.
    pub position: Position,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether the MLP multiplies the activated gate with a second projection (SwiGLU and its kin).
    pub gated: bool,
    /// Whether the head's matrix is the token embedding.
    pub tied_head: bool,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// A family of models that share names and wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `GPT2LMHeadModel`.
    Gpt2,
}

/// A normalisation over a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Which statistic is taken out.
    pub kind: NormKind,
    /// Added to the variance (or mean square) before the root.
    pub eps: f32,
}

/// The two normalisations that decoder models use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps) * gamma + beta` (Ba, Kiros and Hinton 2016).
    Layer,
    /// `x / sqrt(mean(x^2) + eps) * gamma` (Zhang and Sennrich 2019).
    Rms,
}

/// How a token's position enters the computation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// A learned row per position, added to the embedding.
    Learned,
    /// Rotary embedding of queries and keys (Su et al. 2021).
    Rope(Rope),
}

/// Parameters of the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f32,
    /// Leading elements of each head that are rotated.
    pub dims: usize,
}

/// The MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016, the tanh form).
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
}

impl Spec {
    /// Rows of the fused query, key and value projection.
    pub fn qkv_rows(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of the attention output in front of its projection.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of one position's key (or value) in one layer.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_unknown_field_is_refused_at_every_depth() {
        let mut spec = Spec::gpt2_124m();
        spec.position = Position::Rope(Rope { theta: 1e4, dims: 64 });
        let known = serde_json::to_value(&spec).expect("JSON");
        assert_eq!(serde_json::from_value::<Spec>(known.clone()).expect("known"), spec);
        for place in ["", "/norm", "/position/rope"] {
            let mut more = known.clone();
            let object = more.pointer_mut(place).and_then(Value::as_object_mut).expect(place);
            object.insert("scaling".into(), json!(2));
            let text = serde_json::from_value::<Spec>(more).expect_err(place).to_string();
            assert!(text.contains("scaling"), "{place}: {text}");
        }
    }
}
