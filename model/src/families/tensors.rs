//! What a checkpoint calls its tensors, and how their rows become those of the plan's products.

use std::ops::Range;

use crate::layout::rotary_row;
use crate::spec::{Family, NormKind, Position, Spec};

use super::{gemma, gpt2, llama, phi3};

/// One of the plan's products as the checkpoint has it.
pub(crate) struct Linear {
    /// The matrices whose rows, one matrix behind the other, are the product's.
    pub(crate) parts: Vec<Part>,
    /// How the product orders these rows.
    pub(crate) order: RowOrder,
    /// Whether the matrix (then a single one) is stored `[in][out]` rather than `[out][in]`.
    pub(crate) transposed: bool,
    /// The norm in front, over `[in]`.
    pub(crate) norm: Option<NormNames>,
}

/// A matrix of a product.
pub(crate) struct Part {
    /// The matrix.
    pub(crate) weight: String,
    /// Added to its outputs, `[out]`.
    pub(crate) bias: Option<String>,
    /// Its outputs.
    pub(crate) rows: usize,
}

/// The order of a product's rows.
pub(crate) enum RowOrder {
    /// As they are stored.
    Stored,
    /// The first `heads` heads of `head_dim` rows each in the order of [`rotary_row`], the others as they are stored.
    Rotary { heads: usize, head_dim: usize, dims: usize },
    /// Rows of the first half and of the second half, `half` of each, in turn.
    Paired { half: usize },
}

/// The vectors of a norm.
pub(crate) struct NormNames {
    /// Gamma, or gamma - 1.
    pub(crate) gamma: String,
    /// Beta, of a LayerNorm.
    pub(crate) beta: Option<String>,
    /// What is added to the first vector to give gamma: 0 or 1.
    pub(crate) offset: f32,
}

/// A block's tensors, as in the plan.
pub(crate) struct Block {
    /// Queries, keys and values; attention's projection; gate and up; down.
    pub(crate) linears: [Linear; 4],
    /// Of queries and keys.
    pub(crate) qk_norm: Option<[NormNames; 2]>,
    /// Behind attention and behind the MLP.
    pub(crate) post_norms: Option<[NormNames; 2]>,
}

/// The names of a model's tensors.
pub(crate) struct Names<'a> {
    pub(crate) spec: &'a Spec,
    /// What all names but the head's begin with: [`Names::prefix_of`] the family, or nothing.
    pub(crate) prefix: &'static str,
}

impl Linear {
    /// A matrix that is stored as the plan has it.
    pub(crate) fn plain(weight: String, rows: usize, norm: Option<NormNames>) -> Self {
        let parts = vec![Part { weight, bias: None, rows }];
        Self { parts, order: RowOrder::Stored, transposed: false, norm }
    }

    /// Which part holds the product's row `row`, and where in it.
    pub(crate) fn stored(&self, row: usize) -> (usize, usize) {
        let mut at = self.order.stored(row);
        let mut index = 0;
        while index + 1 < self.parts.len() && at >= self.parts[index].rows {
            at -= self.parts[index].rows;
            index += 1;
        }
        (index, at)
    }
}

impl RowOrder {
    fn stored(&self, row: usize) -> usize {
        match *self {
            Self::Stored => row,
            Self::Rotary { heads, head_dim, dims } => {
                let element = row % head_dim;
                if row / head_dim < heads { row - element + rotary_row(element, dims) } else { row }
            }
            Self::Paired { half } => row / 2 + row % 2 * half,
        }
    }
}

impl Names<'_> {
    /// What tensors begin with in a checkpoint that was saved with its head.
    pub(crate) fn prefix_of(family: Family) -> &'static str {
        if family == Family::Gpt2 { "transformer." } else { "model." }
    }

    /// The token embedding.
    pub(crate) fn tokens(&self) -> String {
        self.name(if self.spec.family == Family::Gpt2 { "wte.weight" } else { "embed_tokens.weight" })
    }

    /// The position embedding, where positions are learned.
    pub(crate) fn positions(&self) -> String {
        self.name("wpe.weight")
    }

    /// A block's tensors.
    pub(crate) fn block(&self, index: usize) -> Block {
        match self.spec.family {
            Family::Gpt2 => gpt2::block(self, index),
            Family::Phi3 => phi3::block(self, index),
            Family::Gemma2 | Family::Gemma3 => gemma::block(self, index),
            _ => llama::block(self, index),
        }
    }

    /// The head's product.
    pub(crate) fn head(&self) -> Linear {
        let norm = self.norm(if self.spec.family == Family::Gpt2 { "ln_f" } else { "norm" });
        let weight = if self.spec.tied_head { self.tokens() } else { HEAD.into() };
        Linear::plain(weight, self.spec.vocab, Some(norm))
    }

    /// A norm's vectors.
    pub(crate) fn norm(&self, norm: &str) -> NormNames {
        let beta = (self.spec.norm.kind == NormKind::Layer).then(|| self.name(&format!("{norm}.bias")));
        let offset = if matches!(self.spec.family, Family::Gemma2 | Family::Gemma3) { 1.0 } else { 0.0 };
        NormNames { gamma: self.name(&format!("{norm}.weight")), beta, offset }
    }

    /// A name with the prefix in front.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// How a block's queries, keys and values are ordered.
    pub(super) fn qkv_order(&self, index: usize) -> RowOrder {
        let Some(rope) = self.spec.layer(index).rope else { return RowOrder::Stored };
        let (heads, head_dim) = (self.spec.heads + self.spec.kv_heads, self.spec.head_dim);
        RowOrder::Rotary { heads, head_dim, dims: self.spec.ropes()[rope].dims }
    }

    /// Every tensor that a model of this shape must have, with its shape in the file.
    pub(crate) fn all(&self) -> Vec<(String, Vec<usize>)> {
        self.of_layers(0..self.spec.layers)
    }

    /// The tensors behind the pieces that [`Plan`](crate::plan::Plan) lists for `layers`, each once, with its shape.
    pub(crate) fn of_layers(&self, layers: Range<usize>) -> Vec<(String, Vec<usize>)> {
        let spec = self.spec;
        let (embeds, heads) = (layers.start == 0, layers.end == spec.layers);
        let mut all = Vec::new();
        if embeds || (heads && spec.tied_head) {
            all.push((self.tokens(), vec![spec.vocab, spec.width]));
        }
        if embeds && spec.position == Position::Learned {
            all.push((self.positions(), vec![spec.max_positions, spec.width]));
        }
        let cols = [spec.width, spec.attention_width(), spec.width, spec.ffn];
        for index in layers {
            let block = self.block(index);
            for (linear, cols) in block.linears.into_iter().zip(cols) {
                push_linear(&mut all, linear, cols);
            }
            for norm in block.qk_norm.into_iter().flatten() {
                push_norm(&mut all, norm, spec.head_dim);
            }
            for norm in block.post_norms.into_iter().flatten() {
                push_norm(&mut all, norm, spec.width);
            }
        }
        if heads {
            let mut head = self.head();
            // A tied head's matrix is the embedding, which is listed already.
            head.parts.retain(|_| !spec.tied_head);
            push_linear(&mut all, head, spec.width);
        }
        all
    }

    /// Whether a tensor that the model need not have may be passed over: masks and frequencies that old versions saved.
    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        let buffers: &[&str] = match self.spec.family {
            Family::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
            _ => &[".rotary_emb.inv_freq"],
        };
        buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}

fn push_linear(all: &mut Vec<(String, Vec<usize>)>, linear: Linear, cols: usize) {
    for part in linear.parts {
        let shape = if linear.transposed { vec![cols, part.rows] } else { vec![part.rows, cols] };
        all.push((part.weight, shape));
        all.extend(part.bias.map(|bias| (bias, vec![part.rows])));
    }
    if let Some(norm) = linear.norm {
        push_norm(all, norm, cols);
    }
}

fn push_norm(all: &mut Vec<(String, Vec<usize>)>, norm: NormNames, elements: usize) {
    all.extend([Some(norm.gamma), norm.beta].into_iter().flatten().map(|name| (name, vec![elements])));
}

/// The head's matrix; it never has the prefix.
pub(crate) const HEAD: &str = "lm_head.weight";

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(rows: &[usize], order: RowOrder) -> Linear {
        let part = |rows: &usize| Part { weight: String::new(), bias: None, rows: *rows };
        Linear { parts: rows.iter().map(part).collect(), order, transposed: false, norm: None }
    }

    fn stored(linear: &Linear) -> Vec<(usize, usize)> {
        (0..linear.parts.iter().map(|part| part.rows).sum()).map(|row| linear.stored(row)).collect()
    }

    #[test]
    fn rotated_heads_pair_their_halves_and_values_stay() {
        // Two query heads, one key head, one value head, of four elements each, all rotated.
        let order = || RowOrder::Rotary { heads: 3, head_dim: 4, dims: 4 };
        let fused: Vec<usize> = stored(&linear(&[16], order())).into_iter().map(|(_, row)| row).collect();
        assert_eq!(fused, [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 13, 14, 15]);
        let apart = stored(&linear(&[8, 4, 4], order()));
        assert_eq!(apart[7..10], [(0, 7), (1, 0), (1, 2)]);
        assert_eq!(apart[12..], [(2, 0), (2, 1), (2, 2), (2, 3)]);
    }

    #[test]
    fn gate_and_up_alternate_whether_they_are_fused_or_not() {
        let fused = stored(&linear(&[6], RowOrder::Paired { half: 3 }));
        assert_eq!(fused, [(0, 0), (0, 3), (0, 1), (0, 4), (0, 2), (0, 5)]);
        let apart = stored(&linear(&[3, 3], RowOrder::Paired { half: 3 }));
        assert_eq!(apart, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]);
    }
}
