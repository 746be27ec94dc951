//! What a layer range does: the packed bytes it needs and the fused ops that run over them.
//!
//! A model is cut into *pieces*, each one content-addressed file: the token embedding, the position embedding, every
//! block, and the head. A shard is the list of pieces of a layer range, so moving a boundary never moves a byte that a
//! node already has. Where each tensor lies inside its piece follows from the [`Spec`] and the [`WeightFormat`] alone;
//! no file carries offsets that could lie.
//!
//! Layout rules: tensors start at multiples of [`TENSOR_ALIGN`] bytes; a matrix is row-major, one row per *output*,
//! with rows padded by zeros to a multiple of [`ROW_ALIGN`] elements; vectors are f32. Weights are stored as the model
//! has them: the norm's gamma stays a vector of its own, because folding it into f16 weights would round them a second
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

use crate::spec::{Activation, Layer, Norm, Position, Spec};

/// Every tensor of a piece starts at a multiple of this many bytes (WebGPU's storage offset alignment).
pub const TENSOR_ALIGN: u64 = 256;

/// Matrix rows are padded with zeros to a multiple of this many elements (32 bytes of f16: one AVX-512 conversion).
pub const ROW_ALIGN: usize = 16;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
}

impl WeightFormat {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// The name used on command lines and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
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
    /// The elements, `rows * stride` of them.
    pub data: Tensor,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Elements from one row to the next; those from `cols` on are zero.
    pub stride: usize,
    /// How the elements are stored.
    pub format: WeightFormat,
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

/// Everything an engine needs to run a layer range.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model.
    pub spec: Spec,
    /// How its matrices are stored.
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

    /// Bytes of one position's keys and values over the range's layers, in f16 beside f16 weights and f32 beside f32.
    pub fn kv_bytes_per_position(&self) -> u64 {
        (2 * self.layers.len() * self.spec.kv_width() * self.format.bytes()) as u64
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

/// Every piece of the model, in file order.
pub fn all_pieces(spec: &Spec, format: WeightFormat) -> Vec<Piece> {
    Plan::new(spec, format, 0..spec.layers).pieces
}

/// The token embedding's piece.
pub(crate) struct TokensLayout {
    pub(crate) matrix: Matrix,
    pub(crate) bytes: u64,
}

impl TokensLayout {
    pub(crate) fn new(spec: &Spec, format: WeightFormat) -> Self {
        let mut cursor = Cursor::new(Piece::Tokens, format);
        Self { matrix: cursor.matrix(spec.vocab, spec.width), bytes: cursor.at }
    }
}

/// The position embedding's piece.
pub(crate) struct PositionsLayout {
    pub(crate) matrix: Matrix,
    pub(crate) bytes: u64,
}

impl PositionsLayout {
    pub(crate) fn new(spec: &Spec, format: WeightFormat) -> Self {
        let mut cursor = Cursor::new(Piece::Positions, format);
        Self { matrix: cursor.matrix(spec.max_positions, spec.width), bytes: cursor.at }
    }
}

/// A block's piece.
pub(crate) struct BlockLayout {
    pub(crate) qkv: Gemv,
    pub(crate) out: Gemv,
    pub(crate) up: Gemv,
    pub(crate) down: Gemv,
    pub(crate) qk_norm: Option<QkNorm>,
    /// Behind attention and behind the MLP.
    pub(crate) post_norms: Option<[FoldedNorm; 2]>,
    pub(crate) bytes: u64,
}

impl BlockLayout {
    pub(crate) fn new(spec: &Spec, format: WeightFormat, index: usize) -> Self {
        let mut cursor = Cursor::new(Piece::Block(index), format);
        let up_rows = if spec.gated { 2 * spec.ffn } else { spec.ffn };
        let qkv = cursor.gemv(spec.qkv_rows(), spec.width, Some(spec.norm));
        let out = cursor.gemv(spec.width, spec.attention_width(), None);
        let up = cursor.gemv(up_rows, spec.width, Some(spec.norm));
        let down = cursor.gemv(spec.width, spec.ffn, None);
        let head = padded(spec.head_dim);
        let qk_norm = spec.attention.qk_norm;
        let qk_norm = qk_norm.then(|| QkNorm { norm: spec.norm, q: cursor.vector(head), k: cursor.vector(head) });
        let post_norms = spec.post_norms.then(|| [(); 2].map(|()| cursor.norm(spec.norm, spec.width)));
        Self { qkv, out, up, down, qk_norm, post_norms, bytes: cursor.at }
    }
}

/// The head's piece.
pub(crate) struct HeadLayout {
    pub(crate) gemv: Gemv,
    pub(crate) bytes: u64,
}

impl HeadLayout {
    pub(crate) fn new(spec: &Spec, format: WeightFormat) -> Self {
        let mut cursor = Cursor::new(Piece::Head, format);
        let norm = Some(cursor.norm(spec.norm, spec.width));
        let aux = cursor.vector(2 * spec.vocab);
        let matrix =
            if spec.tied_head { TokensLayout::new(spec, format).matrix } else { cursor.matrix(spec.vocab, spec.width) };
        Self { gemv: Gemv { matrix, aux, norm }, bytes: cursor.at }
    }
}

/// Where element `element` of a packed query or key head stands in the checkpoint's head, of which the first `dims`
/// elements are rotated.
///
/// Checkpoints turn element `i` with `i + dims / 2` (the `rotate_half` of the models' own library); packed they are
/// neighbours, `2i` and `2i + 1`. A score does not depend on the order of a head's elements as long as queries and keys
/// have the same.
pub fn rotary_row(element: usize, dims: usize) -> usize {
    if element < dims { element / 2 + element % 2 * (dims / 2) } else { element }
}

/// `elements` rounded up to whole [`ROW_ALIGN`] groups.
pub fn padded(elements: usize) -> usize {
    elements.next_multiple_of(ROW_ALIGN)
}

/// Lays tensors one after another into a piece.
struct Cursor {
    piece: Piece,
    format: WeightFormat,
    at: u64,
}

impl Cursor {
    fn new(piece: Piece, format: WeightFormat) -> Self {
        Self { piece, format, at: 0 }
    }

    fn gemv(&mut self, rows: usize, cols: usize, norm: Option<Norm>) -> Gemv {
        let norm = norm.map(|norm| self.norm(norm, cols));
        let aux = self.vector(2 * rows);
        Gemv { matrix: self.matrix(rows, cols), aux, norm }
    }

    fn norm(&mut self, norm: Norm, elements: usize) -> FoldedNorm {
        FoldedNorm { norm, gamma: self.vector(padded(elements)) }
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let stride = padded(cols);
        let data = self.tensor(rows * stride * self.format.bytes());
        Matrix { data, rows, cols, stride, format: self.format }
    }

    fn vector(&mut self, elements: usize) -> Tensor {
        self.tensor(elements * 4)
    }

    fn tensor(&mut self, bytes: usize) -> Tensor {
        let tensor = Tensor { piece: self.piece, offset: self.at, bytes: bytes as u64 };
        self.at = (self.at + tensor.bytes).next_multiple_of(TENSOR_ALIGN);
        tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Attention, Family, NormKind};

    fn spec() -> Spec {
        Spec {
            family: Family::Gpt2,
            layers: 4,
            width: 96,
            heads: 6,
            kv_heads: 6,
            head_dim: 16,
            ffn: 200,
            vocab: 1000,
            max_positions: 256,
            norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
            position: Position::Learned,
            activation: Activation::GeluTanh,
            gated: false,
            attention: Attention::default(),
            post_norms: false,
            embed_scale: None,
            logit_softcap: None,
            tied_head: true,
            eos: vec![1],
        }
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
    fn five_ops_a_block_and_three_around() {
        let plan = Plan::new(&spec(), WeightFormat::F16, 0..4);
        assert_eq!(plan.ops.len(), 5 * 4 + 3);
        assert_eq!(Plan::new(&spec(), WeightFormat::F16, 1..3).ops.len(), 5 * 2);
    }

    #[test]
    fn rotated_pairs_are_neighbours_and_the_rest_stays() {
        let rows: Vec<usize> = (0..8).map(|element| rotary_row(element, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 7]);
    }

    #[test]
    fn tensors_are_aligned_disjoint_and_inside_their_piece() {
        let attention = Attention { qk_norm: true, ..Attention::default() };
        let spec = Spec { attention, post_norms: true, ..spec() };
        for format in [WeightFormat::F32, WeightFormat::F16] {
            let block = BlockLayout::new(&spec, format, 2);
            let qk_norm = block.qk_norm.expect("qk_norm");
            let mut tensors = vec![qk_norm.q, qk_norm.k];
            tensors.extend(block.post_norms.expect("post_norms").map(|norm| norm.gamma));
            for gemv in [block.qkv, block.out, block.up, block.down] {
                tensors.extend([gemv.matrix.data, gemv.aux]);
                tensors.extend(gemv.norm.map(|norm| norm.gamma));
                assert_eq!(gemv.matrix.stride % ROW_ALIGN, 0);
            }
            tensors.sort_by_key(|tensor| tensor.offset);
            for pair in tensors.windows(2) {
                assert!(pair[0].offset + pair[0].bytes <= pair[1].offset);
            }
            assert!(tensors.iter().all(|t| t.offset % TENSOR_ALIGN == 0 && t.offset + t.bytes <= block.bytes));
        }
    }
}
