//! GPT-2 (Radford et al. 2019).

use super::tensors::{Block, Linear, Names, Part, RowOrder};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::{MAX_FFN, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH};
use crate::spec::{Activation, Attention, Family, Norm, NormKind, Position, Spec};

/// The family's keys.
pub(super) fn spec(object: &Object<'_>) -> Result<Spec, ConfigError> {
    let width = object.number("n_embd", MAX_WIDTH)?;
    let heads = object.number("n_head", MAX_WIDTH)?;
    if !width.is_multiple_of(heads) {
        return Err(ConfigError::Heads { keys: ["n_embd", "n_head"], width, heads });
    }
    let max_positions = object.number("n_positions", MAX_POSITIONS)?;
    // An old name of the same number; another value would mean a mask that this version does not have.
    if object.number_or("n_ctx", max_positions, MAX_POSITIONS)? != max_positions {
        return Err(object.unsupported("n_ctx", "the value of n_positions"));
    }
    object.must_say("activation_function", "\"gelu_new\"")?;
    object.must_be("scale_attn_weights", true)?;
    for key in [
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
        "add_cross_attention",
        "is_encoder_decoder",
        "cross_attention_hidden_size",
    ] {
        object.must_be(key, false)?;
    }
    if object.value("pruned_heads").is_some_and(|heads| heads.as_object().is_none_or(|heads| !heads.is_empty())) {
        return Err(object.unsupported("pruned_heads", "an empty object"));
    }
    Ok(Spec {
        family: Family::Gpt2,
        layers: object.number("n_layer", MAX_LAYERS)?,
        width,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        ffn: object.number_or("n_inner", 4 * width, MAX_FFN)?,
        vocab: object.number("vocab_size", MAX_VOCAB)?,
        max_positions,
        norm: Norm { kind: NormKind::Layer, eps: object.epsilon("layer_norm_epsilon", 1e-5)? },
        position: Position::Learned,
        activation: Activation::GeluTanh,
        gated: false,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: object.flag("tie_word_embeddings")?.unwrap_or(true),
        eos: object.token_ids("eos_token_id")?,
    })
}

/// A block's tensors.
///
/// They are `Conv1D` layers, hence transposed; `c_attn` has queries, keys and values one behind the other, each
/// head-major, which is the plan's order too.
pub(super) fn block(names: &Names<'_>, index: usize) -> Block {
    let spec = names.spec;
    let linear = |layer: &str, rows: usize, norm: Option<&str>| {
        let at = |part: &str| names.name(&format!("h.{index}.{layer}.{part}"));
        Linear {
            parts: vec![Part { weight: at("weight"), bias: Some(at("bias")), rows }],
            order: RowOrder::Stored,
            transposed: true,
            norm: norm.map(|norm| names.norm(&format!("h.{index}.{norm}"))),
        }
    };
    let linears = [
        linear("attn.c_attn", spec.qkv_rows(), Some("ln_1")),
        linear("attn.c_proj", spec.width, None),
        linear("mlp.c_fc", spec.ffn, Some("ln_2")),
        linear("mlp.c_proj", spec.width, None),
    ];
    Block { linears, qk_norm: None, post_norms: None }
}
