//! The names and shapes of GPT-2's tensors.

use crate::spec::Spec;

/// One matrix product as the checkpoint has it.
pub(crate) struct Linear {
    /// The matrix.
    pub(crate) weight: String,
    /// Whether the matrix is stored `[in][out]` rather than `[out][in]`.
    pub(crate) transposed: bool,
    /// Added to the product, `[out]`.
    pub(crate) bias: Option<String>,
    /// Gamma and beta of the norm in front, `[in]` each.
    pub(crate) norm: Option<(String, String)>,
}

/// GPT-2's names; the prefix is `transformer.` or nothing.
pub(crate) struct Names<'a> {
    pub(crate) prefix: &'a str,
}

impl Names<'_> {
    /// The token embedding.
    pub(crate) fn tokens(&self) -> String {
        format!("{}wte.weight", self.prefix)
    }

    /// The position embedding.
    pub(crate) fn positions(&self) -> String {
        format!("{}wpe.weight", self.prefix)
    }

    /// The products of a block in plan order: qkv, out, up, down.
    ///
    /// They are `Conv1D` layers, hence transposed; `c_attn` has queries, keys and values one behind the other, each
    /// head-major, which is the plan's order too.
    pub(crate) fn block(&self, index: usize) -> [Linear; 4] {
        let linear = |layer: &str, norm: Option<&str>| {
            let at = |part: &str| format!("{}h.{index}.{part}", self.prefix);
            Linear {
                weight: at(&format!("{layer}.weight")),
                transposed: true,
                bias: Some(at(&format!("{layer}.bias"))),
                norm: norm.map(|norm| (at(&format!("{norm}.weight")), at(&format!("{norm}.bias")))),
            }
        };
        [
            linear("attn.c_attn", Some("ln_1")),
            linear("attn.c_proj", None),
            linear("mlp.c_fc", Some("ln_2")),
            linear("mlp.c_proj", None),
        ]
    }

    /// The head's product.
    pub(crate) fn head(&self, tied: bool) -> Linear {
        Linear {
            weight: if tied { self.tokens() } else { HEAD.into() },
            transposed: false,
            bias: None,
            norm: Some((format!("{}ln_f.weight", self.prefix), format!("{}ln_f.bias", self.prefix))),
        }
    }

    /// Every tensor that a model of this shape must have, with its shape in the file.
    pub(crate) fn all(&self, spec: &Spec) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![
            (self.tokens(), vec![spec.vocab, spec.width]),
            (self.positions(), vec![spec.max_positions, spec.width]),
        ];
        let shapes = [
            (spec.qkv_rows(), spec.width),
            (spec.width, spec.attention_width()),
            (spec.ffn, spec.width),
            (spec.width, spec.ffn),
        ];
        for index in 0..spec.layers {
            for (linear, (rows, cols)) in self.block(index).into_iter().zip(shapes) {
                push(&mut all, linear, rows, cols);
            }
        }
        push(&mut all, self.head(spec.tied_head), spec.vocab, spec.width);
        all
    }

    /// Whether a tensor that the model need not have may be passed over: masks that old versions saved as buffers.
    pub(crate) fn is_buffer(name: &str) -> bool {
        name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
    }
}

fn push(all: &mut Vec<(String, Vec<usize>)>, linear: Linear, rows: usize, cols: usize) {
    let shape = if linear.transposed { vec![cols, rows] } else { vec![rows, cols] };
    all.push((linear.weight, shape));
    all.extend(linear.bias.map(|bias| (bias, vec![rows])));
    if let Some((gamma, beta)) = linear.norm {
        all.extend([(gamma, vec![cols]), (beta, vec![cols])]);
    }
}

/// The prefix of a checkpoint that was saved with its head.
pub(crate) const PREFIX: &str = "transformer.";

/// The head's matrix; it never has the prefix.
pub(crate) const HEAD: &str = "lm_head.weight";
