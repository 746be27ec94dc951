//! How large a model may claim to be, with the reason for each limit, and the check of a [`Spec`] against them.
//!
//! A `Spec` comes from a file or from another machine. After [`Spec::check`] the plan's arithmetic cannot overflow and no
//! plan can be empty.

use crate::layout::padded;
use crate::spec::{Activation, Attention, Family, NormKind, Position, Rope, RopeScaling, Spec};

/// Layers travel as `u16`; no published decoder has more than a few hundred.
pub const MAX_LAYERS: usize = 4096;

/// A row's element count travels as `u16`.
pub const MAX_WIDTH: usize = 65_535;

/// Sixteen times the widest row: published models use 2 to 8 times.
pub const MAX_FFN: usize = 1 << 20;

/// About ten times the largest published vocabulary.
pub const MAX_VOCAB: usize = 1 << 22;

/// About the longest published context; positions travel as `u32`.
pub const MAX_POSITIONS: usize = 1 << 24;

/// A list of end tokens longer than this is a damaged file.
pub const MAX_EOS: usize = 64;

/// Bytes of `config.json` and `generation_config.json`: the longest published ones, which name labels, have some hundred
/// thousand.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Bytes of `model.safetensors.index.json`: a model of [`MAX_LAYERS`] layers with a hundred tensors each has half of this.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Bytes of a chat template: the longest published ones, with their tools, have some thirty thousand.
pub const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Steps of a chat template's evaluation: a message takes some hundred, so this is ten thousand messages and more, or a
/// second or two of one CPU core.
pub const MAX_TEMPLATE_STEPS: u64 = 10_000_000;

/// How deep a chat template's macros and blocks may nest; published ones stay below twenty, and each level takes a few
/// kilobytes of stack.
pub const MAX_TEMPLATE_DEPTH: usize = 100;

/// Bytes of a rendered chat: [`MAX_POSITIONS`] tokens of the usual four bytes.
pub const MAX_CHAT_BYTES: usize = 4 * MAX_POSITIONS;

/// Bytes of a role's name: it is a word, and no template knows a long one.
pub const MAX_ROLE_BYTES: usize = 64;

/// A [`Spec`] that no model can have, or that this version has no kernels for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// A number outside its limits.
    #[error("{field} is {value}; between {min} and {max} are allowed")]
    Range {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: usize,
        /// The least that is allowed.
        min: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// Two fields that contradict each other, or a combination that this version does not run.
    #[error("{0}")]
    Contradiction(String),
}

impl Spec {
    /// Checks every number against its limit and the fields against each other.
    ///
    /// # Errors
    /// The first field that is out of its limits or does not fit the others.
    pub fn check(&self) -> Result<(), SpecError> {
        for (field, value, max) in [
            ("layers", self.layers, MAX_LAYERS),
            ("width", self.width, MAX_WIDTH),
            ("heads", self.heads, self.width),
            ("kv_heads", self.kv_heads, self.heads),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("ffn", self.ffn, MAX_FFN),
            ("vocab", self.vocab, MAX_VOCAB),
            ("max_positions", self.max_positions, MAX_POSITIONS),
        ] {
            if value == 0 || value > max {
                return Err(SpecError::Range { field, value, min: 1, max });
            }
        }
        let contradiction = |text: String| Err(SpecError::Contradiction(text));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return contradiction(format!("{} heads cannot share {} kv_heads evenly", self.heads, self.kv_heads));
        }
        if !(self.norm.eps > 0.0 && self.norm.eps < 1.0) {
            return contradiction(format!("the norm's eps is {}; it must lie between 0 and 1", self.norm.eps));
        }
        if self.eos.len() > MAX_EOS {
            return contradiction(format!("{} end tokens; at most {MAX_EOS} are allowed", self.eos.len()));
        }
        if let Some(id) = self.eos.iter().find(|id| **id as usize >= self.vocab) {
            return contradiction(format!("end token {id} lies outside the vocabulary of {}", self.vocab));
        }
        // On a 32-bit target a matrix may exceed the address space; there the plan's usize products would overflow.
        let qkv_rows = (self.heads as u64 + 2 * self.kv_heads as u64) * self.head_dim as u64;
        let rows = qkv_rows.max([self.vocab, self.max_positions, 2 * self.ffn].into_iter().max().unwrap_or(0) as u64);
        let cols = (self.heads as u64 * self.head_dim as u64).max(padded(self.width.max(self.ffn)) as u64);
        let bytes = u128::from(rows) * u128::from(cols) * 4;
        if bytes > isize::MAX as u128 {
            return contradiction(format!("a matrix of {bytes} bytes does not fit this machine's address space"));
        }
        self.check_attention()?;
        match self.family {
            Family::Gpt2 => self.check_gpt2(),
            _ => self.check_decoder(),
        }
    }

    /// Factors, windows and rotations.
    fn check_attention(&self) -> Result<(), SpecError> {
        let contradiction = |text: String| Err(SpecError::Contradiction(text));
        for (field, factor) in [
            ("attention.scale", self.attention.scale),
            ("attention.softcap", self.attention.softcap),
            ("logit_softcap", self.logit_softcap),
            ("embed_scale", self.embed_scale),
        ] {
            if factor.is_some_and(|factor| !positive(factor)) {
                return contradiction(format!("{field} is {factor:?}; a number above 0 is needed"));
            }
        }
        if self.attention.rotated.len() > MAX_LAYERS {
            let (field, value) = ("attention.rotated's length", self.attention.rotated.len());
            return Err(SpecError::Range { field, value, min: 0, max: MAX_LAYERS });
        }
        if let Some(local) = &self.attention.local {
            for (field, value, max) in [
                ("attention.local.window", local.window, MAX_POSITIONS),
                ("attention.local.layers' length", local.layers.len(), MAX_LAYERS),
            ] {
                if value == 0 || value > max {
                    return Err(SpecError::Range { field, value, min: 1, max });
                }
            }
            if local.rope.is_some() && self.position == Position::Learned {
                return contradiction("local layers have a rotation, but positions are learned".into());
            }
        }
        self.ropes().iter().try_for_each(|rope| rope.check(self.head_dim))
    }

    /// What all families but GPT-2 have in common.
    fn check_decoder(&self) -> Result<(), SpecError> {
        let contradiction = |text: String| Err(SpecError::Contradiction(text));
        let gemma = matches!(self.family, Family::Gemma2 | Family::Gemma3);
        let qk_norm = matches!(self.family, Family::Qwen3 | Family::Gemma3);
        let activation = if gemma { Activation::GeluTanh } else { Activation::Silu };
        let is_decoder = self.norm.kind == NormKind::Rms
            && self.position != Position::Learned
            && self.gated
            && self.activation == activation
            && self.attention.qk_norm == qk_norm
            && (self.attention.rotated.is_empty() || self.family == Family::Smollm3)
            && self.post_norms == gemma
            && self.embed_scale.is_some() == gemma;
        if !is_decoder {
            return contradiction(format!(
                "a {:?} has RMSNorm, rotated positions (in every layer unless it is a Smollm3), a gated {activation:?}; norms of q and k: {qk_norm}; norms \
                 behind attention and MLP and a scaled embedding: {gemma}",
                self.family
            ));
        }
        let partial = self.ropes().into_iter().find(|rope| rope.dims != self.head_dim);
        match partial {
            Some(rope) if self.family != Family::Phi3 => contradiction(format!(
                "{} of {} elements of a head are rotated (partial_rotary_factor); in a {:?} all are",
                rope.dims, self.head_dim, self.family
            )),
            _ => Ok(()),
        }
    }

    /// What every GPT-2 has in common.
    fn check_gpt2(&self) -> Result<(), SpecError> {
        let is_gpt2 = self.heads * self.head_dim == self.width
            && self.kv_heads == self.heads
            && self.norm.kind == NormKind::Layer
            && self.position == Position::Learned
            && self.activation == Activation::GeluTanh
            && !self.gated
            && self.attention == Attention::default()
            && !self.post_norms
            && self.embed_scale.is_none()
            && self.logit_softcap.is_none();
        if is_gpt2 {
            return Ok(());
        }
        Err(SpecError::Contradiction(
            "a GPT-2 has heads * head_dim == width, kv_heads == heads, LayerNorm, learned positions, an ungated GELU, \
             plain attention over all positions, and neither post_norms nor a scaled embedding nor capped logits"
                .into(),
        ))
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<(), SpecError> {
        let contradiction = |text: String| Err(SpecError::Contradiction(text));
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > head_dim {
            return contradiction(format!("{} of {head_dim} elements of a head cannot be rotated in pairs", self.dims));
        }
        let (factors, in_order) = match self.scaling {
            RopeScaling::None => ([1.0; 3], true),
            RopeScaling::Linear { factor } => ([factor, 1.0, 1.0], true),
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_positions } => {
                let known = (1..=MAX_POSITIONS).contains(&original_positions);
                ([factor, low, high], low < high && known)
            }
        };
        if !positive(self.theta) || !factors.into_iter().all(positive) || !in_order {
            return contradiction(format!("no frequencies follow from {self:?}"));
        }
        Ok(())
    }
}

fn positive(value: f32) -> bool {
    value > 0.0 && value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Local;

    #[test]
    fn gpt2_passes() {
        assert_eq!(Spec::gpt2_124m().check(), Ok(()));
    }

    /// A field by name.
    type Field = (&'static str, fn(&mut Spec) -> &mut usize);

    /// A change, and a part of the message that it must cause.
    type Change = (&'static str, fn(&mut Spec));

    #[test]
    fn every_number_is_checked_at_both_ends() {
        let fields: [Field; 8] = [
            ("layers", |s| &mut s.layers),
            ("width", |s| &mut s.width),
            ("heads", |s| &mut s.heads),
            ("kv_heads", |s| &mut s.kv_heads),
            ("head_dim", |s| &mut s.head_dim),
            ("ffn", |s| &mut s.ffn),
            ("vocab", |s| &mut s.vocab),
            ("max_positions", |s| &mut s.max_positions),
        ];
        for (name, field) in fields {
            for value in [0, usize::MAX] {
                let mut spec = Spec::gpt2_124m();
                *field(&mut spec) = value;
                match spec.check() {
                    Err(SpecError::Range { field, value: found, .. }) => {
                        assert_eq!((field, found), (name, value));
                    }
                    other => panic!("{name} = {value}: {other:?}"),
                }
            }
        }
    }

    /// A model of a family that rotates, with all that Gemma 3 adds.
    fn gemma3() -> Spec {
        crate::fixture::Model::of("gemma3").spec()
    }

    fn local(spec: &mut Spec) -> &mut Local {
        spec.attention.local.as_mut().expect("local layers")
    }

    #[test]
    fn what_attention_cannot_be_is_named() {
        let wrong: [Change; 16] = [
            ("attention.scale", |s| s.attention.scale = Some(0.0)),
            ("attention.softcap", |s| s.attention.softcap = Some(f32::NAN)),
            ("logit_softcap", |s| s.logit_softcap = Some(f32::INFINITY)),
            ("embed_scale", |s| s.embed_scale = Some(-1.0)),
            ("window is 0", |s| local(s).window = 0),
            ("window is", |s| local(s).window = usize::MAX),
            ("layers' length is 0", |s| local(s).layers.clear()),
            ("25 of 24", |s| local(s).rope.as_mut().expect("rope").dims = 25),
            ("26 of 24", |s| local(s).rope.as_mut().expect("rope").dims = 26),
            ("partial_rotary_factor", |s| local(s).rope.as_mut().expect("rope").dims = 12),
            ("frequencies", |s| local(s).rope.as_mut().expect("rope").theta = f32::NAN),
            ("frequencies", |s| local(s).rope.as_mut().expect("rope").scaling = RopeScaling::Linear { factor: 0.0 }),
            ("positions are learned", |s| s.position = Position::Learned),
            ("RMSNorm", |s| s.attention.qk_norm = false),
            ("in every layer", |s| s.attention.rotated = vec![true, false]),
            ("rotated's length", |s| s.attention.rotated = vec![true; MAX_LAYERS + 1]),
        ];
        assert_eq!(gemma3().check(), Ok(()));
        for (part, change) in wrong {
            let mut spec = gemma3();
            change(&mut spec);
            let text = spec.check().expect_err(part).to_string();
            assert!(text.contains(part), "{part}: {text}");
        }
        for (low_freq_factor, high_freq_factor, original_positions) in [(4.0, 4.0, 32), (1.0, 4.0, 0), (-1.0, 4.0, 32)]
        {
            let mut spec = gemma3();
            let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_positions };
            local(&mut spec).rope.as_mut().expect("rope").scaling = scaling;
            assert!(spec.check().expect_err("llama3").to_string().contains("frequencies"));
        }
    }

    #[test]
    fn a_gpt2_with_another_family_s_traits_is_refused() {
        let changes: [fn(&mut Spec); 4] = [
            |s| s.attention.softcap = Some(30.0),
            |s| s.post_norms = true,
            |s| s.embed_scale = Some(2.0),
            |s| s.logit_softcap = Some(30.0),
        ];
        for change in changes {
            let mut spec = Spec::gpt2_124m();
            change(&mut spec);
            assert!(spec.check().expect_err("GPT-2").to_string().contains("a GPT-2 has"));
        }
    }

    #[test]
    fn contradictions_are_named() {
        let wrong: [Change; 4] = [
            ("50257", |s| s.eos = vec![50_257]),
            ("eps", |s| s.norm.eps = f32::NAN),
            ("end tokens", |s| s.eos = vec![0; MAX_EOS + 1]),
            ("kv_heads == heads", |s| s.kv_heads = 3),
        ];
        for (part, change) in wrong {
            let mut spec = Spec::gpt2_124m();
            change(&mut spec);
            let text = spec.check().expect_err(part).to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
