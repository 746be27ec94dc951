//! Gemma 2 (Gemma Team 2024) and the text models of Gemma 3 (Gemma Team 2025).

use super::decoder::{self, Defaults};
use super::tensors::{Block, Names};
use crate::config::ConfigError;
use crate::keys::Object;
use crate::limits::{MAX_LAYERS, MAX_POSITIONS};
use crate::spec::{Activation, Family, Position, Rope, RopeScaling, Spec};

/// The families' keys.
pub(super) fn spec(object: &Object<'_>, family: Family) -> Result<Spec, ConfigError> {
    let defaults = Defaults { theta: 10_000.0, eps: 1e-6, head_dim: Some(256), tied: true };
    let mut spec = decoder::spec(object, family, &defaults)?;
    for key in ["hidden_activation", "hidden_act"] {
        object.must_say(key, "\"gelu_pytorch_tanh\"")?;
    }
    object.must_be("use_bidirectional_attention", false)?;
    spec.activation = Activation::GeluTanh;
    spec.post_norms = true;
    // As the models' own library has it in f32; in bf16 it rounds the factor, too (34 in place of 33.94 for width 1152).
    spec.embed_scale = Some((spec.width as f64).sqrt() as f32);
    let scalar = object.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    spec.attention.scale = Some(scalar.sqrt().recip() as f32);
    spec.attention.qk_norm = family == Family::Gemma3;
    // Absent they are on in Gemma 2; `null` turns them off.
    let cap = |key: &'static str, default: f32| {
        let absent = (family == Family::Gemma2 && !object.names(key)).then_some(default);
        Ok::<_, ConfigError>(object.positive(key)?.map(|cap| cap as f32).or(absent))
    };
    spec.attention.softcap = cap("attn_logit_softcapping", 50.0)?;
    spec.logit_softcap = cap("final_logit_softcapping", 30.0)?;

    let window = object.number_or("sliding_window", 4096, MAX_POSITIONS)?;
    // An older name that some files repeat; the models' own library does not read it.
    if object.number_or("sliding_window_size", window, MAX_POSITIONS)? != window {
        return Err(object.unsupported("sliding_window_size", "the value of sliding_window"));
    }
    let period = match family {
        Family::Gemma3 => {
            let period = object.number_or("sliding_window_pattern", 6, MAX_LAYERS)?;
            object.number_or("_sliding_window_pattern", period, MAX_LAYERS)?
        }
        _ => 2,
    };
    spec.attention.local = decoder::local(object, spec.layers, window, |index| (index + 1) % period != 0)?;
    let (full, local) = match family {
        Family::Gemma3 => gemma3_ropes(object, spec.head_dim)?,
        _ => (decoder::rope(object, spec.head_dim, &defaults)?, None),
    };
    spec.position = Position::Rope(full);
    if let Some(layers) = &mut spec.attention.local {
        layers.rope = local.filter(|local| *local != full);
    }
    Ok(spec)
}

/// The rotations of global and of local layers: `rope_parameters` for each kind, or as transformers 4 wrote it
/// `rope_theta` and `rope_scaling` for global layers and `rope_local_base_freq` for local ones.
fn gemma3_ropes(object: &Object<'_>, head_dim: usize) -> Result<(Rope, Option<Rope>), ConfigError> {
    let plain = |theta: f64| Rope { theta: theta as f32, dims: head_dim, scaling: RopeScaling::None };
    let mut full = plain(object.positive("rope_theta")?.unwrap_or(1_000_000.0));
    let mut local = plain(object.positive("rope_local_base_freq")?.unwrap_or(10_000.0));
    match (object.nested("rope_parameters")?, object.nested("rope_scaling")?) {
        (Some(_), Some(_)) => return Err(decoder::twice(object)),
        (None, Some(scaling)) => full = decoder::rope_of(&scaling, head_dim, full)?,
        (Some(parameters), None) => {
            for (kind, rope) in [("full_attention", &mut full), ("sliding_attention", &mut local)] {
                if let Some(inner) = parameters.nested(kind)? {
                    *rope = decoder::rope_of(&inner, head_dim, *rope)?;
                }
            }
            parameters.finish()?;
        }
        (None, None) => {}
    }
    Ok((full, Some(local)))
}

/// A block's tensors.
pub(super) fn block(names: &Names<'_>, index: usize) -> Block {
    let norm = |which: &str| names.norm(&format!("layers.{index}.{which}"));
    let linears = [
        decoder::separate_qkv(names, index, false),
        decoder::out(names, index),
        decoder::separate_up(names, index, "pre_feedforward_layernorm"),
        decoder::down(names, index),
    ];
    let qk_norm = names.spec.attention.qk_norm.then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(norm));
    let post_norms = Some(["post_attention_layernorm", "post_feedforward_layernorm"].map(norm));
    Block { linears, qk_norm, post_norms }
}
