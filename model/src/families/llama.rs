//! Llama 2 and 3 (Touvron et al. 2023, Dubey et al. 2024), and those that share its names: SmolLM3 (Hugging Face 2025),
//! Mistral (Jiang et al. 2023), Qwen 2 (Yang et al. 2024) and Qwen 3 (Yang et al. 2025).

use serde_json::Value;

use super::decoder::{self, Defaults};
use super::tensors::{Block, Names};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::{MAX_LAYERS, MAX_POSITIONS};
use crate::spec::{Family, Local, Position, Spec};

/// The families' keys.
pub(super) fn spec(object: &Object<'_>, family: Family) -> Result<Spec, ConfigError> {
    let plain = Defaults { theta: 10_000.0, eps: 1e-6, head_dim: None, tied: false };
    let defaults = match family {
        Family::Smollm3 => Defaults { theta: 2_000_000.0, tied: true, ..plain },
        Family::Qwen3 => Defaults { head_dim: Some(128), ..plain },
        _ => plain,
    };
    let mut spec = decoder::spec(object, family, &defaults)?;
    object.must_say("hidden_act", "\"silu\"")?;
    spec.position = Position::Rope(decoder::rope(object, spec.head_dim, &defaults)?);
    spec.attention.qk_norm = family == Family::Qwen3;
    if family == Family::Smollm3 {
        object.must_be("use_sliding_window", false)?;
        spec.attention.rotated = rotated(object, spec.layers)?;
    }
    spec.attention.local = match family {
        Family::Mistral => mistral_window(object)?,
        Family::Smollm3 | Family::Qwen2 | Family::Qwen3 => qwen_window(object, spec.layers)?,
        _ => None,
    };
    Ok(spec)
}

/// Layers that rotate: those with a 1 in `no_rope_layers` (it has the opposite of its name), or where that is absent all
/// but each `no_rope_layer_interval`th.
fn rotated(object: &Object<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let interval = object.number_or("no_rope_layer_interval", 4, MAX_LAYERS)?;
    let Some(listed) = object.value("no_rope_layers") else {
        return Ok(decoder::pattern(&(1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect::<Vec<_>>()));
    };
    let flag = |value: &Value| value.as_u64().filter(|flag| *flag <= 1).map(|flag| flag == 1);
    let flags = listed.as_array().and_then(|flags| flags.iter().map(flag).collect::<Option<Vec<bool>>>());
    let flags = flags.filter(|flags| flags.len() == layers);
    let flags = flags.ok_or_else(|| object.unsupported("no_rope_layers", "a 0 or 1 for each layer"))?;
    Ok(decoder::pattern(&flags))
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
