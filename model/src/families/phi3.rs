//! Phi-3 (Abdin et al. 2024).

use super::decoder::{self, Defaults};
use super::tensors::{Block, Linear, Names, RowOrder};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::MAX_POSITIONS;
use crate::spec::{Family, Local, Position, Spec};

/// The family's keys.
pub(super) fn spec(object: &Object<'_>) -> Result<Spec, ConfigError> {
    let defaults = Defaults { theta: 10_000.0, eps: 1e-5, head_dim: None, tied: false };
    let mut spec = decoder::spec(object, Family::Phi3, &defaults)?;
    object.must_say("hidden_act", "\"silu\"")?;
    spec.position = Position::Rope(decoder::rope(object, spec.head_dim, &defaults)?);
    if object.value("sliding_window").is_some() {
        let window = object.number("sliding_window", MAX_POSITIONS)?;
        spec.attention.local = Some(Local { window, layers: vec![true], rope: None });
    }
    // It says from where on a scaled rotation changes its factors; such a rotation is refused.
    object.pass_over(&["original_max_position_embeddings"]);
    Ok(spec)
}

/// A block's tensors. `qkv_proj` has queries, keys and values one behind the other, `gate_up_proj` the gate and then up.
pub(super) fn block(names: &Names<'_>, index: usize) -> Block {
    let spec = names.spec;
    let fused = |part: &str, rows: usize, norm: &str, order: RowOrder| {
        let norm = names.norm(&format!("layers.{index}.{norm}"));
        Linear { order, ..Linear::plain(decoder::at(names, index, part), rows, Some(norm)) }
    };
    let paired = RowOrder::Paired { half: spec.ffn };
    let linears = [
        fused("self_attn.qkv_proj.weight", spec.qkv_rows(), "input_layernorm", names.qkv_order(index)),
        decoder::out(names, index),
        fused("mlp.gate_up_proj.weight", 2 * spec.ffn, "post_attention_layernorm", paired),
        decoder::down(names, index),
    ];
    Block { linears, qk_norm: None, post_norms: None }
}
