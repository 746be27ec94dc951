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
    /// What attention does beyond the scaled softmax of grouped heads.
    #[serde(default)]
    pub attention: Attention,
    /// Whether the outputs of attention and MLP are normed, too, before they are added to the residual stream (with
    /// `norm` and gammas of their own).
    #[serde(default)]
    pub post_norms: bool,
    /// What the token embedding is multiplied with.
    #[serde(default)]
    pub embed_scale: Option<f32>,
    /// `c` where logits `l` become `c tanh(l / c)`.
    #[serde(default)]
    pub logit_softcap: Option<f32>,
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
    /// `LlamaForCausalLM`: Llama 2 and 3, TinyLlama, SmolLM2.
    Llama,
    /// `SmolLM3ForCausalLM`.
    Smollm3,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`: Qwen 2 and 2.5.
    Qwen2,
    /// `Qwen3ForCausalLM`.
    Qwen3,
    /// `Phi3ForCausalLM`.
    Phi3,
    /// `Gemma2ForCausalLM`.
    Gemma2,
    /// `Gemma3ForCausalLM`: the text models.
    Gemma3,
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
    /// Leading elements of each head that are rotated; even.
    pub dims: usize,
    /// How the frequencies are stretched for contexts longer than those of the first training.
    #[serde(default)]
    pub scaling: RopeScaling,
}

/// How the rotary embedding's frequencies are stretched; [`Rope::frequencies`] has the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All by the same factor.
    Linear {
        /// What frequencies are divided by.
        factor: f32,
    },
    /// Llama 3's: long wavelengths by a factor, short ones not at all, those between by degrees.
    Llama3 {
        /// What the frequencies of long wavelengths are divided by.
        factor: f32,
        /// Wavelengths beyond `original_positions / low_freq_factor` are long.
        low_freq_factor: f32,
        /// Wavelengths below `original_positions / high_freq_factor` are short.
        high_freq_factor: f32,
        /// The context of the first training.
        original_positions: usize,
    },
}

/// What attention does beyond the scaled softmax of grouped heads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Factor of `q k^T`; without it `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// `c` where scaled scores `s` become `c tanh(s / c)`.
    pub softcap: Option<f32>,
    /// Whether queries and keys are normed head by head (with `norm` and gammas of their own) before they are rotated.
    pub qk_norm: bool,
    /// Which layers rotate their queries and keys: layer `i` if `rotated[i % rotated.len()]`; all if it is empty.
    pub rotated: Vec<bool>,
    /// Layers that see only the latest positions.
    pub local: Option<Local>,
}

/// Layers that see only the latest positions (sliding window attention).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// Positions that a query sees, its own included.
    pub window: usize,
    /// Which layers are local: layer `i` if `layers[i % layers.len()]`.
    pub layers: Vec<bool>,
    /// The rotation of local layers, where it differs from that of the others.
    pub rope: Option<Rope>,
}

/// What one layer does differently from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Positions that a query sees, its own included; none: all before it.
    pub window: Option<usize>,
    /// Its rotation, as an index into [`Spec::ropes`]; none without rotation.
    pub rope: Option<usize>,
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

    /// Factor of `q k^T`.
    pub fn attention_scale(&self) -> f32 {
        self.attention.scale.unwrap_or_else(|| (1.0 / (self.head_dim as f64).sqrt()) as f32)
    }

    /// The distinct rotations of the model: that of the layers that see everything, then that of local ones if it
    /// differs.
    pub fn ropes(&self) -> Vec<Rope> {
        let Position::Rope(rope) = self.position else { return Vec::new() };
        let local = self.attention.local.as_ref().and_then(|local| local.rope);
        std::iter::once(rope).chain(local).collect()
    }

    /// What is particular to a layer, counted from the model's first.
    pub fn layer(&self, index: usize) -> Layer {
        let local = self.attention.local.as_ref();
        let local = local.filter(|local| repeated(&local.layers, index).unwrap_or(false));
        let rope = match self.position {
            Position::Rope(_) if repeated(&self.attention.rotated, index).unwrap_or(true) => {
                Some(usize::from(local.is_some_and(|local| local.rope.is_some())))
            }
            _ => None,
        };
        Layer { window: local.map(|local| local.window), rope }
    }
}

/// The layer's entry in a pattern that repeats; none in an empty one.
fn repeated(pattern: &[bool], layer: usize) -> Option<bool> {
    pattern.get(layer % pattern.len().max(1)).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rope(theta: f32) -> Rope {
        Rope { theta, dims: 64, scaling: RopeScaling::Linear { factor: 2.0 } }
    }

    #[test]
    fn an_unknown_field_is_refused_at_every_depth() {
        let mut spec = Spec::gpt2_124m();
        spec.position = Position::Rope(rope(1e4));
        spec.attention.local = Some(Local { window: 8, layers: vec![true], rope: Some(rope(1e6)) });
        let known = serde_json::to_value(&spec).expect("JSON");
        assert_eq!(serde_json::from_value::<Spec>(known.clone()).expect("known"), spec);
        let places = ["", "/norm", "/position/rope", "/position/rope/scaling/linear", "/attention", "/attention/local"];
        for place in places {
            let mut more = known.clone();
            let object = more.pointer_mut(place).and_then(Value::as_object_mut).expect(place);
            object.insert("bends".into(), json!(2));
            let text = serde_json::from_value::<Spec>(more).expect_err(place).to_string();
            assert!(text.contains("bends"), "{place}: {text}");
        }
    }

    #[test]
    fn a_manifest_written_before_there_were_other_families_is_still_read() {
        let mut old = serde_json::to_value(Spec::gpt2_124m()).expect("JSON");
        for field in ["attention", "post_norms", "embed_scale", "logit_softcap"] {
            old.as_object_mut().and_then(|object| object.remove(field)).expect(field);
        }
        assert_eq!(serde_json::from_value::<Spec>(old).expect("old"), Spec::gpt2_124m());
    }

    #[test]
    fn local_layers_repeat_their_pattern_and_may_have_a_rotation_of_their_own() {
        let mut spec = Spec::gpt2_124m();
        assert_eq!((spec.layer(3), spec.ropes()), (Layer { window: None, rope: None }, vec![]));
        spec.position = Position::Rope(rope(1e6));
        assert_eq!((spec.layer(3), spec.ropes()), (Layer { window: None, rope: Some(0) }, vec![rope(1e6)]));
        let layers = vec![true, true, false];
        spec.attention.local = Some(Local { window: 8, layers, rope: None });
        let local = |spec: &Spec| (0..7).map(|index| spec.layer(index)).collect::<Vec<_>>();
        let (near, far) = (Layer { window: Some(8), rope: Some(0) }, Layer { window: None, rope: Some(0) });
        assert_eq!(local(&spec), [near, near, far, near, near, far, near]);
        spec.attention.local.as_mut().expect("local").rope = Some(rope(1e4));
        assert_eq!((spec.layer(0).rope, spec.layer(2).rope), (Some(1), Some(0)));
        assert_eq!(spec.ropes(), [rope(1e6), rope(1e4)]);
        spec.attention.rotated = vec![true, false];
        let rotations: Vec<_> = (0..6).map(|index| spec.layer(index).rope).collect();
        assert_eq!(rotations, [Some(1), None, Some(0), None, Some(1), None]);
    }
}
