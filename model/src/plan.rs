//! What a layer range does: the packed bytes it needs and the fused ops that run over them.
//!
//! A model is cut into *pieces*, each one content-addressed file: the token embedding, the position embedding, every
//! block, and the head. A shard is the list of pieces of a layer range, so moving a boundary never moves a byte that a
//! node already has. Where each tensor lies inside its piece follows from the [`Spec`] and the [`WeightFormat`] alone;
//! no file carries offsets that could lie.
//!
//! Layout rules: tensors start at multiples of [`TENSOR_ALIGN`] bytes; a matrix is row-major, one row per *output*,
//! with rows padded to a multiple of [`ROW_ALIGN`] elements; vectors are f32. f16 weights are stored as the model has
//! them: the norm's gamma stays a vector of its own, because folding it into f16 weights would round them a second
//! time. Beta and bias are folded (in f32) into `aux`: per output row the pair `(c1, c2)` with `c1 = sum_k W[k] gamma[k]`
//! and `c2 = sum_k W[k] beta[k] + bias`, so that a kernel can norm after its product:
//! `y = rs * (sum_k W[k] gamma[k] x[k] - mu * c1) + c2`, with `mu = 0` for RMS norm and, where no norm precedes the
//! product, `y = sum_k W[k] x[k] + c2` (then `c1 = 0`). A family whose norms multiply with `1 + w` has `gamma = 1 + w`
//! here.
//!
//! Two products have their rows in another order than the checkpoint, so that what belongs together is computed
//! together: gate and up alternate, and so do the two elements of a rotated pair (see [`rotary_row`]).

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use crate::groups::GROUP;
use crate::layout::{BlockLayout, HeadLayout, PositionsLayout, TokensLayout};
pub use crate::layout::{padded, rotary_row};
use crate::spec::{Activation, Layer, Norm, Position, Spec};

/// Every tensor of a piece starts at a multiple of this many bytes (WebGPU's storage offset alignment).
pub const TENSOR_ALIGN: u64 = 256;

/// Matrix rows are padded to a multiple of this many elements: whole groups, whole registers.
pub const ROW_ALIGN: usize = 32;

const _: () = assert!(ROW_ALIGN.is_multiple_of(GROUP));

/// Rows in groups are padded to a multiple of this many bytes: a kernel's widest load.
pub const GROUPED_ROW_ALIGN: usize = 16;

/// How matrices are stored.
///
/// A row in groups holds its steps first and then, group by group, what they count in; it is padded to
/// [`GROUPED_ROW_ALIGN`] bytes. Numbers are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Groups of [`GROUP`] signed bytes `q`, and an f16 `scale` for each: `weight = scale * q`. 8.5 bits a weight.
    Int8,
    /// Groups of [`GROUP`] half bytes `q`, and for each an f16 `scale` and an f16 `low`: `weight = scale * q + low`. 5 bits a
    /// weight. Of four bytes with eight elements, byte `j` has element `j` in its lower and element `j + 4` in its upper
    /// half. Token embedding and head are int8: every logit is a sum of one row's errors.
    Int4,
}

impl WeightFormat {
    /// All of them, the most exact first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// The name used on command lines and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bytes of a row of `stride` elements, a multiple of [`ROW_ALIGN`].
    pub fn row_bytes(self, stride: usize) -> usize {
        match self {
            Self::F32 => 4 * stride,
            Self::F16 => 2 * stride,
            Self::Int8 => (stride + 2 * (stride / GROUP)).next_multiple_of(GROUPED_ROW_ALIGN),
            Self::Int4 => (stride / 2 + 4 * (stride / GROUP)).next_multiple_of(GROUPED_ROW_ALIGN),
        }
    }

    /// How the token embedding and the head are stored in a model of this format.
    pub fn tables(self) -> Self {
        if self == Self::Int4 { Self::Int8 } else { self }
    }

    /// How learned positions are stored in a model of this format: they are few.
    pub fn positions(self) -> Self {
        self.kv()
    }

    /// How keys and values are kept beside weights of this format: [`F32`](Self::F32) or [`F16`](Self::F16).
    pub fn kv(self) -> Self {
        if self == Self::F32 { Self::F32 } else { Self::F16 }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One content-addressed part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// The token embedding, `[vocab][width]`; also the head's matrix where the head is tied.
    Tokens,
    /// The learned position embedding, `[max_positions][width]`.
    Positions,
    /// One transformer block.
    Block(usize),
    /// The final norm, the head's `aux`, and the head's matrix where it is not tied.
    Head,
}

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tokens => f.write_str("tokens"),
            Self::Positions => f.write_str("positions"),
            Self::Block(i) => write!(f, "block.{i}"),
            Self::Head => f.write_str("head"),
        }
    }
}

/// Where a tensor lies: a byte range inside one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The piece that holds it.
    pub piece: Piece,
    /// First byte, a multiple of [`TENSOR_ALIGN`].
    pub offset: u64,
    /// Length, padding of rows included.
    pub bytes: u64,
}

/// A matrix in kernel layout: `rows` outputs of `cols` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The rows.
    pub data: Tensor,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Elements of a row, padding included. Those from `cols` on meet inputs that are zero; they are zero themselves but in
    /// int4.
    pub stride: usize,
    /// How the elements are stored.
    pub format: WeightFormat,
}

impl Matrix {
    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.stride)
    }
}

/// A matrix-vector product with what is fused in front of and behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemv {
    /// The weights.
    pub matrix: Matrix,
    /// `rows` pairs `(c1, c2)` of f32.
    pub aux: Tensor,
    /// The norm of the input row, if one is folded in.
    pub norm: Option<FoldedNorm>,
}

/// A norm in front of a product or behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldedNorm {
    /// Which norm.
    pub norm: Norm,
    /// An f32 value for each element of the row, padded with zeros as matrix rows are.
    pub gamma: Tensor,
}

/// The norms of queries and keys, head by head, in front of the rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// Which norm.
    pub norm: Norm,
    /// `padded(head_dim)` f32 values for every query head, in the order of the packed rows; zero from `head_dim` on.
    pub q: Tensor,
    /// The same for every key head.
    pub k: Tensor,
}

/// One fused operation. `x` is the residual row, `q` the queries, `a` the attention output, `h` the MLP's hidden row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// `x = scale * tokens[id] (+ positions[position])`.
    Embed {
        /// `[vocab][width]`.
        tokens: Matrix,
        /// `[max_positions][width]`, for learned positions.
        positions: Option<Matrix>,
        /// Factor of the token's row; 1 for most models.
        scale: f32,
    },
    /// `(q, k, v) = gemv(x)`; norms q and k; rotates them; appends k and v to the layer's KV cache.
    Qkv {
        /// Index of the layer's KV cache, counted from the start of the range.
        layer: usize,
        /// Rows are queries, then keys, then values, each head-major. With `rope`, elements `2i` and `2i + 1` of a query
        /// or key head turn together, for `i < dims / 2`; see [`rotary_row`].
        gemv: Gemv,
        /// Norms of q and k.
        qk_norm: Option<QkNorm>,
        /// Rotation of q and k: an index into [`Spec::ropes`].
        rope: Option<usize>,
    },
    /// `a = softmax(cap(scale * q k^T)) v` over the layer's KV cache, causal, where `cap(s) = softcap * tanh(s / softcap)`.
    Attend {
        /// Index of the layer's KV cache, counted from the start of the range.
        layer: usize,
        /// Factor of the scores.
        scale: f32,
        /// Bound of the scaled scores; none: `cap(s) = s`.
        softcap: Option<f32>,
        /// Positions that a query sees: of the query at `p` those from `p + 1 - window` on. None: all.
        window: Option<usize>,
    },
    /// `x += post(gemv(a))`.
    Out {
        /// `[width][heads * head_dim]`.
        gemv: Gemv,
        /// The norm of the product, over the whole row.
        post: Option<FoldedNorm>,
    },
    /// `h = act(gemv(x))`; gated: rows `2i` (gate) and `2i + 1` (up) give `h[i] = act(gate) * up`.
    Up {
        /// `[ffn][width]`, or `[2 * ffn][width]` when gated.
        gemv: Gemv,
        /// The nonlinearity.
        activation: Activation,
        /// Whether rows come in pairs.
        gated: bool,
    },
    /// `x += post(gemv(h))`.
    Down {
        /// `[width][ffn]`.
        gemv: Gemv,
        /// The norm of the product, over the whole row.
        post: Option<FoldedNorm>,
    },
    /// `logits = cap(gemv(x))`, where `cap(l) = softcap * tanh(l / softcap)`.
    Head {
        /// `[vocab][width]`.
        gemv: Gemv,
        /// Bound of the logits; none: `cap(l) = l`.
        softcap: Option<f32>,
    },
    /// `id = argmax(logits)`, position + 1, and `x = embedding of id`: the token loop without leaving the device. Only in
    /// a plan that holds the whole model.
    Step {
        /// `[vocab][width]`.
        tokens: Matrix,
        /// `[max_positions][width]`, for learned positions.
        positions: Option<Matrix>,
        /// Factor of the token's row; 1 for most models.
        scale: f32,
    },
}

impl Op {
    /// Its name: `qkv`, `attend` and so on.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::Qkv { .. } => "qkv",
            Self::Attend { .. } => "attend",
            Self::Out { .. } => "out",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
            Self::Head { .. } => "head",
            Self::Step { .. } => "step",
        }
    }

    /// Its product, if it has one.
    pub fn gemv(&self) -> Option<&Gemv> {
        match self {
            Self::Qkv { gemv, .. }
            | Self::Out { gemv, .. }
            | Self::Up { gemv, .. }
            | Self::Down { gemv, .. }
            | Self::Head { gemv, .. } => Some(gemv),
            Self::Embed { .. } | Self::Attend { .. } | Self::Step { .. } => None,
        }
    }
}

impl Gemv {
    /// Bytes that one token row's product reads: weights, `aux`, and the gamma of the norm in front.
    pub fn bytes(&self) -> u64 {
        self.matrix.data.bytes + self.aux.bytes + self.norm.map_or(0, |folded| folded.gamma.bytes)
    }
}

/// Everything an engine needs to run a layer range.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model.
    pub spec: Spec,
    /// How its matrices are stored: a block's; see [`WeightFormat::tables`] for the others.
    pub format: WeightFormat,
    /// The layers, counted from the model's first.
    pub layers: Range<usize>,
    /// The pieces that the ops refer to.
    pub pieces: Vec<Piece>,
    /// The ops in order; [`Op::Step`] (whole models only) is last and runs only in the on-device token loop.
    pub ops: Vec<Op>,
}

impl Plan {
    /// The plan of `layers` of the model. The first layer brings the embedding with it, the last one the head.
    ///
    /// # Panics
    /// If the range is empty or reaches beyond the model: ranges come from the placement, which counts layers.
    pub fn new(spec: &Spec, format: WeightFormat, layers: Range<usize>) -> Self {
        assert!(layers.start < layers.end && layers.end <= spec.layers, "layers {layers:?} of {}", spec.layers);
        let (embeds, heads) = (layers.start == 0, layers.end == spec.layers);
        let learned = spec.position == Position::Learned;
        let mut pieces = Vec::new();
        if embeds || (heads && spec.tied_head) {
            pieces.push(Piece::Tokens);
        }
        if embeds && learned {
            pieces.push(Piece::Positions);
        }
        pieces.extend(layers.clone().map(Piece::Block));
        if heads {
            pieces.push(Piece::Head);
        }

        let tokens = TokensLayout::new(spec, format).matrix;
        let positions = learned.then(|| PositionsLayout::new(spec, format).matrix);
        let scale = spec.embed_scale.unwrap_or(1.0);
        let mut ops = Vec::new();
        if embeds {
            ops.push(Op::Embed { tokens, positions, scale });
        }
        for (layer, index) in layers.clone().enumerate() {
            let block = BlockLayout::new(spec, format, index);
            let Layer { window, rope } = spec.layer(index);
            let (attention, scale) = (&spec.attention, spec.attention_scale());
            ops.push(Op::Qkv { layer, gemv: block.qkv, qk_norm: block.qk_norm, rope });
            ops.push(Op::Attend { layer, scale, softcap: attention.softcap, window });
            let [post_attention, post_mlp] = block.post_norms.map_or([None; 2], |norms| norms.map(Some));
            ops.push(Op::Out { gemv: block.out, post: post_attention });
            ops.push(Op::Up { gemv: block.up, activation: spec.activation, gated: spec.gated });
            ops.push(Op::Down { gemv: block.down, post: post_mlp });
        }
        if heads {
            ops.push(Op::Head { gemv: HeadLayout::new(spec, format).gemv, softcap: spec.logit_softcap });
        }
        if embeds && heads {
            ops.push(Op::Step { tokens, positions, scale });
        }
        Self { spec: spec.clone(), format, layers, pieces, ops }
    }

    /// Whether the range takes token ids (its first layer is the model's first).
    pub fn embeds(&self) -> bool {
        self.layers.start == 0
    }

    /// Whether the range gives logits (its last layer is the model's last).
    pub fn heads(&self) -> bool {
        self.layers.end == self.spec.layers
    }

    /// Bytes of all pieces.
    pub fn weight_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece_bytes(&self.spec, self.format, *piece)).sum()
    }

    /// Bytes of weights that one token reads; embeddings are one row each and not counted.
    pub fn bytes_per_token(&self) -> u64 {
        self.ops.iter().filter_map(Op::gemv).map(Gemv::bytes).sum()
    }

    /// Bytes that `op` reads for the token at `position`: its weights with what is folded into them; for attention the keys
    /// and values that the token sees; for embeddings a row of each table.
    pub fn bytes_read(&self, op: &Op, position: usize) -> u64 {
        let norms = |norm: &Option<FoldedNorm>| norm.map_or(0, |folded| folded.gamma.bytes);
        let rows = |tokens: &Matrix, positions: &Option<Matrix>| {
            (tokens.row_bytes() + positions.map_or(0, |positions| positions.row_bytes())) as u64
        };
        match op {
            Op::Embed { tokens, positions, .. } | Op::Step { tokens, positions, .. } => rows(tokens, positions),
            Op::Attend { window, .. } => {
                let seen = (position + 1).min(window.unwrap_or(usize::MAX));
                self.kv_bytes_per_position() / self.layers.len() as u64 * seen as u64
            }
            Op::Qkv { gemv, qk_norm, .. } => gemv.bytes() + qk_norm.map_or(0, |norms| norms.q.bytes + norms.k.bytes),
            Op::Out { gemv, post } | Op::Down { gemv, post } => gemv.bytes() + norms(post),
            Op::Up { gemv, .. } | Op::Head { gemv, .. } => gemv.bytes(),
        }
    }

    /// Bytes of one position's keys and values over the range's layers, in [`WeightFormat::kv`] and with heads padded as the
    /// CPU engine has them.
    pub fn kv_bytes_per_position(&self) -> u64 {
        let head_bytes = self.format.kv().row_bytes(padded(self.spec.head_dim));
        (2 * self.layers.len() * self.spec.kv_heads * head_bytes) as u64
    }

    /// Bytes of `caches` KV caches of `positions` each; as many as fit a `u64` where they are more.
    pub fn kv_bytes(&self, positions: usize, caches: usize) -> u64 {
        self.kv_bytes_per_position().saturating_mul(positions as u64).saturating_mul(caches as u64)
    }
}

/// The bytes of a piece.
pub fn piece_bytes(spec: &Spec, format: WeightFormat, piece: Piece) -> u64 {
    match piece {
        Piece::Tokens => TokensLayout::new(spec, format).bytes,
        Piece::Positions => PositionsLayout::new(spec, format).bytes,
        Piece::Block(index) => BlockLayout::new(spec, format, index).bytes,
        Piece::Head => HeadLayout::new(spec, format).bytes,
    }
}

/// Elements of a piece's matrices; norms and biases, which are few, are not counted.
pub fn piece_weights(spec: &Spec, format: WeightFormat, piece: Piece) -> u64 {
    let matrices = match piece {
        Piece::Tokens => vec![TokensLayout::new(spec, format).matrix],
        Piece::Positions => vec![PositionsLayout::new(spec, format).matrix],
        Piece::Block(index) => {
            let BlockLayout { qkv, out, up, down, .. } = BlockLayout::new(spec, format, index);
            [qkv, out, up, down].map(|gemv| gemv.matrix).to_vec()
        }
        Piece::Head => vec![HeadLayout::new(spec, format).gemv.matrix],
    };
    let own = matrices.iter().filter(|matrix| matrix.data.piece == piece);
    own.map(|matrix| matrix.rows as u64 * matrix.cols as u64).sum()
}

/// Every piece of the model, in file order.
pub fn all_pieces(spec: &Spec, format: WeightFormat) -> Vec<Piece> {
    Plan::new(spec, format, 0..spec.layers).pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;

    fn spec() -> Spec {
        Spec { layers: 4, ..Spec::gpt2_124m() }
    }

    #[test]
    fn ranges_share_pieces_and_lose_none() {
        let spec = spec();
        let whole = Plan::new(&spec, WeightFormat::F16, 0..4);
        let mut union: Vec<Piece> = [0..1, 1..3, 3..4]
            .into_iter()
            .flat_map(|range| Plan::new(&spec, WeightFormat::F16, range).pieces)
            .collect();
        union.sort();
        union.dedup();
        let mut pieces = whole.pieces.clone();
        pieces.sort();
        assert_eq!(union, pieces);
    }

    #[test]
    fn every_weight_is_counted_once() {
        let spec = Spec::gpt2_124m();
        let count = |spec: &Spec| -> u64 {
            let pieces = all_pieces(spec, WeightFormat::Int4);
            pieces.iter().map(|piece| piece_weights(spec, WeightFormat::Int4, *piece)).sum()
        };
        let (width, vocab) = (768, 50_257);
        assert_eq!(count(&spec), (vocab + 1024) * width + 12 * 12 * width * width);
        assert_eq!(count(&Spec { tied_head: false, ..spec.clone() }) - count(&spec), vocab * width);
    }

    #[test]
    fn five_ops_a_block_and_three_around() {
        let plan = Plan::new(&spec(), WeightFormat::F16, 0..4);
        assert_eq!(plan.ops.len(), 5 * 4 + 3);
        assert_eq!(Plan::new(&spec(), WeightFormat::F16, 1..3).ops.len(), 5 * 2);
    }

    #[test]
    fn layers_keep_their_windows_and_rotations_wherever_the_range_begins() {
        let spec = Model::of("gemma3").spec();
        for start in 0..spec.layers {
            let plan = Plan::new(&spec, WeightFormat::F16, start..spec.layers);
            let window =
                |op: &Op| if let Op::Attend { layer, window, .. } = op { Some((*layer, *window)) } else { None };
            let rope = |op: &Op| if let Op::Qkv { rope, .. } = op { *rope } else { None };
            let windows: Vec<_> = plan.ops.iter().filter_map(window).collect();
            let ropes: Vec<_> = plan.ops.iter().filter_map(rope).collect();
            let global = |place: usize| start + place == 5;
            let wanted = (0..spec.layers - start).map(|place| (place, (!global(place)).then_some(8)));
            assert_eq!(windows, wanted.collect::<Vec<_>>());
            assert_eq!(ropes, (0..spec.layers - start).map(|place| usize::from(!global(place))).collect::<Vec<_>>());
        }
    }
}
