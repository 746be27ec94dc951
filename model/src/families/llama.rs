//! Llama 2 and 3 (Touvron et al. 2023, Dubey et al. 2024), and those that share its names: Mistral (Jiang et al. 2023),
//! Qwen 2 (Yang et al. 2024) and Qwen 3 (Yang et al. 2025).

use super::decoder::{self, Defaults};
use super::tensors::{Block, Names};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::{MAX_LAYERS, MAX_POSITIONS};
use crate::spec::{Family, Local, Position, Spec};

/// The families' keys.
pub(super) fn spec(object: &Object<'_>, family: Family) -> Result<Spec, ConfigError> {
    let head_dim = (family == Family::Qwen3).then_some(128);
    let mut spec = decoder::spec(object, family, &Defaults { eps: 1e-6, head_dim, tied: false })?;
    object.must_say("hidden_act", "\"silu\"")?;
    spec.position = Position::Rope(decoder::rope(object, spec.head_dim)?);
    spec.attention.qk_norm = family == Family::Qwen3;
    spec.attention.local = match family {
        Family::Mistral => mistral_window(object)?,
        Family::Qwen2 | Family::Qwen3 => qwen_window(object, spec.layers)?,
        _ => None,
    };
    Ok(spec)
}

/// All layers have the window, unless it is `null`.
fn mistral_window(object: &Object<'_>) -> Result<Option<Local>, ConfigError> {
    if object.value("sliding_window").is_none() && object.names("sliding_window") {
        return Ok(None);
    }
    let window = object.number_or("sliding_window", DEFAULT_WINDOW, MAX_POSITIONS)?;
    Ok(Some(Local { window, layers: vec![true], rope: None }))
}

/// With `use_sliding_window`, the layers from `max_window_layers` on have a window.
fn qwen_window(object: &Object<'_>, layers: usize) -> Result<Option<Local>, ConfigError> {
    if object.flag("use_sliding_window")?.unwrap_or(false) {
        let window = object.number_or("sliding_window", DEFAULT_WINDOW, MAX_POSITIONS)?;
        let full = object.number_or("max_window_layers", 28, MAX_LAYERS)?;
        return decoder::local(object, layers, window, |index| index >= full);
    }
    object.pass_over(&["sliding_window", "max_window_layers"]);
    match decoder::local(object, layers, DEFAULT_WINDOW, |_| false)? {
        None => Ok(None),
        Some(_) => Err(object.unsupported("layer_types", "\"full_attention\" without use_sliding_window")),
    }
}

/// A block's tensors.
pub(super) fn block(names: &Names<'_>, index: usize) -> Block {
    let linears = [
        decoder::separate_qkv(names, index, names.spec.family == Family::Qwen2),
        decoder::out(names, index),
        decoder::separate_up(names, index, "post_attention_layernorm"),
        decoder::down(names, index),
    ];
    let norm = |which: &str| names.norm(&format!("layers.{index}.self_attn.{which}"));
    let qk_norm = (names.spec.family == Family::Qwen3).then(|| ["q_norm", "k_norm"].map(norm));
    Block { linears, qk_norm, post_norms: None }
}

/// Of `sliding_window`, where the key is absent.
const DEFAULT_WINDOW: usize = 4096;
