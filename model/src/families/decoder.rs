//! The keys and names that all families but GPT-2 share: RMS norm, rotated heads, a gated MLP.

use serde_json::Value;

use super::tensors::{Linear, Names, Part, RowOrder};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::{MAX_FFN, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH};
use crate::spec::{Activation, Attention, Family, Local, Norm, NormKind, Position, Rope, RopeScaling, Spec};

/// What the files' own library assumes where a file says nothing.
pub(super) struct Defaults {
    /// Of `rope_theta`.
    pub(super) theta: f64,
    /// Of `rms_norm_eps`.
    pub(super) eps: f32,
    /// Of `head_dim`; none: the width divided by the heads.
    pub(super) head_dim: Option<usize>,
    /// Of `tie_word_embeddings`.
    pub(super) tied: bool,
}

/// Reads the shared keys; positions, windows and what else is particular are the caller's.
pub(super) fn spec(object: &Object<'_>, family: Family, defaults: &Defaults) -> Result<Spec, ConfigError> {
    let width = object.number("hidden_size", MAX_WIDTH)?;
    let heads = object.number("num_attention_heads", MAX_WIDTH)?;
    let head_dim = match (object.value("head_dim"), defaults.head_dim) {
        (Some(_), _) => object.number("head_dim", MAX_WIDTH)?,
        (None, Some(head_dim)) => head_dim,
        (None, None) if width.is_multiple_of(heads) => width / heads,
        (None, None) => {
            return Err(ConfigError::Heads { keys: ["hidden_size", "num_attention_heads"], width, heads });
        }
    };
    // Where the key is absent, these two have as many as heads; the others have a number of their first model's.
    let kv_heads = match family {
        Family::Llama | Family::Phi3 => object.number_or("num_key_value_heads", heads, MAX_WIDTH)?,
        _ => object.number("num_key_value_heads", MAX_WIDTH)?,
    };
    for key in
        ["attention_bias", "mlp_bias", "is_encoder_decoder", "add_cross_attention", "rope_interleaved", "use_mrope"]
    {
        object.must_be(key, false)?;
    }
    if object.value("quantization_config").is_some() {
        return Err(object.unsupported("quantization_config", "a checkpoint in f32, f16 or bf16"));
    }
    Ok(Spec {
        family,
        layers: object.number("num_hidden_layers", MAX_LAYERS)?,
        width,
        heads,
        kv_heads,
        head_dim,
        ffn: object.number("intermediate_size", MAX_FFN)?,
        vocab: object.number("vocab_size", MAX_VOCAB)?,
        max_positions: object.number("max_position_embeddings", MAX_POSITIONS)?,
        norm: Norm { kind: NormKind::Rms, eps: object.epsilon("rms_norm_eps", defaults.eps)? },
        position: Position::Learned,
        activation: Activation::Silu,
        gated: true,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: object.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
        eos: object.token_ids("eos_token_id")?,
    })
}

/// The rotation: `rope_parameters`, or `rope_theta` and `rope_scaling` as transformers 4 wrote it.
pub(super) fn rope(object: &Object<'_>, head_dim: usize, defaults: &Defaults) -> Result<Rope, ConfigError> {
    let theta = object.positive("rope_theta")?.unwrap_or(defaults.theta) as f32;
    let share = object.positive("partial_rotary_factor")?.unwrap_or(1.0);
    let plain = Rope { theta, dims: rotated(head_dim, share), scaling: RopeScaling::None };
    match (object.nested("rope_parameters")?, object.nested("rope_scaling")?) {
        (Some(_), Some(_)) => Err(twice(object)),
        (Some(inner), None) | (None, Some(inner)) => rope_of(&inner, head_dim, plain),
        (None, None) => Ok(plain),
    }
}

/// That both forms of the rotation are there: one of them would be ignored.
pub(super) fn twice(object: &Object<'_>) -> ConfigError {
    object.unsupported("rope_scaling", "null (beside rope_parameters)")
}

/// The rotation that the object of its own describes; what it does not say is as in `plain`.
pub(super) fn rope_of(inner: &Object<'_>, head_dim: usize, plain: Rope) -> Result<Rope, ConfigError> {
    let theta = inner.positive("rope_theta")?.map_or(plain.theta, |theta| theta as f32);
    let share = inner.positive("partial_rotary_factor")?;
    let dims = share.map_or(plain.dims, |share| rotated(head_dim, share));
    // The older name of the two.
    let key = if inner.value("rope_type").is_some() { "rope_type" } else { "type" };
    inner.pass_over(&["type"]);
    let needed = |key| inner.positive(key)?.map(|value| value as f32).ok_or_else(|| inner.missing(key));
    let scaling = match inner.value(key).map(Value::as_str) {
        None | Some(Some("default")) => RopeScaling::None,
        Some(Some("linear")) => RopeScaling::Linear { factor: needed("factor")? },
        Some(Some("llama3")) => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_positions: inner.number("original_max_position_embeddings", MAX_POSITIONS)?,
        },
        Some(_) => return Err(inner.unsupported(key, "\"default\", \"linear\" or \"llama3\"")),
    };
    inner.finish()?;
    Ok(Rope { theta, dims, scaling })
}

/// Elements of a head that are rotated.
fn rotated(head_dim: usize, share: f64) -> usize {
    (head_dim as f64 * share) as usize
}

/// Local layers: those that `layer_types` names, or where it is absent those for which `rule` holds.
pub(super) fn local(
    object: &Object<'_>,
    layers: usize,
    window: usize,
    rule: impl Fn(usize) -> bool,
) -> Result<Option<Local>, ConfigError> {
    let kinds = match object.value("layer_types") {
        None => (0..layers).map(rule).collect(),
        Some(listed) => {
            let kind = |value: &Value| match value.as_str() {
                Some("sliding_attention") => Some(true),
                Some("full_attention") => Some(false),
                _ => None,
            };
            let kinds = listed.as_array().and_then(|kinds| kinds.iter().map(kind).collect::<Option<Vec<bool>>>());
            let supported = "a \"full_attention\" or \"sliding_attention\" for each layer";
            let kinds = kinds.filter(|kinds| kinds.len() == layers);
            kinds.ok_or_else(|| object.unsupported("layer_types", supported))?
        }
    };
    let layers = pattern(&kinds);
    Ok(layers.contains(&true).then_some(Local { window, layers, rope: None }))
}

/// The shortest pattern whose repetition gives `all`.
pub(super) fn pattern(all: &[bool]) -> Vec<bool> {
    let repeats = |period: &usize| all.iter().zip(all.iter().skip(*period)).all(|(a, b)| a == b);
    let period = (1..=all.len()).find(repeats).unwrap_or(all.len());
    all[..period].to_vec()
}

/// The `part` of block `index`.
pub(super) fn at(names: &Names<'_>, index: usize, part: &str) -> String {
    names.name(&format!("layers.{index}.{part}"))
}

/// Queries, keys and values in matrices of their own.
pub(super) fn separate_qkv(names: &Names<'_>, index: usize, biased: bool) -> Linear {
    let spec = names.spec;
    let part = |name: &str, rows: usize| Part {
        weight: at(names, index, &format!("self_attn.{name}.weight")),
        bias: biased.then(|| at(names, index, &format!("self_attn.{name}.bias"))),
        rows,
    };
    let parts =
        vec![part("q_proj", spec.attention_width()), part("k_proj", spec.kv_width()), part("v_proj", spec.kv_width())];
    let norm = names.norm(&format!("layers.{index}.input_layernorm"));
    Linear { parts, order: names.qkv_order(index), transposed: false, norm: Some(norm) }
}

/// Gate and up in matrices of their own.
pub(super) fn separate_up(names: &Names<'_>, index: usize, norm: &str) -> Linear {
    let rows = names.spec.ffn;
    let part = |name: &str| Part { weight: at(names, index, &format!("mlp.{name}.weight")), bias: None, rows };
    let parts = vec![part("gate_proj"), part("up_proj")];
    let norm = names.norm(&format!("layers.{index}.{norm}"));
    Linear { parts, order: RowOrder::Paired { half: rows }, transposed: false, norm: Some(norm) }
}

/// Attention's projection.
pub(super) fn out(names: &Names<'_>, index: usize) -> Linear {
    Linear::plain(at(names, index, "self_attn.o_proj.weight"), names.spec.width, None)
}

/// The MLP's last projection.
pub(super) fn down(names: &Names<'_>, index: usize) -> Linear {
    Linear::plain(at(names, index, "mlp.down_proj.weight"), names.spec.width, None)
}
