//! Where the tensors of a piece lie, by the rules that [`plan`](crate::plan) states.

use crate::plan::{FoldedNorm, Gemv, Matrix, Piece, QkNorm, ROW_ALIGN, TENSOR_ALIGN, Tensor, WeightFormat};
use crate::spec::{Norm, Spec};

/// The token embedding's piece.
pub(crate) struct TokensLayout {
    pub(crate) matrix: Matrix,
    pub(crate) bytes: u64,
}

impl TokensLayout {
    pub(crate) fn new(spec: &Spec, format: WeightFormat) -> Self {
        let mut cursor = Cursor::new(Piece::Tokens, format.tables());
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
        let mut cursor = Cursor::new(Piece::Positions, format.positions());
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
        let mut cursor = Cursor::new(Piece::Head, format.tables());
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
        let data = self.tensor(rows * self.format.row_bytes(stride));
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

    #[test]
    fn rotated_pairs_are_neighbours_and_the_rest_stays() {
        let rows: Vec<usize> = (0..8).map(|element| rotary_row(element, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 7]);
    }

    #[test]
    fn tensors_are_aligned_disjoint_and_inside_their_piece() {
        let mut spec = Spec::gpt2_124m();
        (spec.attention.qk_norm, spec.post_norms) = (true, true);
        for format in WeightFormat::ALL {
            let block = BlockLayout::new(&spec, format, 2);
            let qk_norm = block.qk_norm.expect("qk_norm");
            let mut tensors = vec![qk_norm.q, qk_norm.k];
            tensors.extend(block.post_norms.expect("post_norms").map(|norm| norm.gamma));
            for gemv in [block.qkv, block.out, block.up, block.down] {
                tensors.extend([gemv.matrix.data, gemv.aux]);
                tensors.extend(gemv.norm.map(|norm| norm.gamma));
                assert_eq!(gemv.matrix.stride % ROW_ALIGN, 0);
                assert_eq!(gemv.matrix.data.bytes, (gemv.matrix.rows * gemv.matrix.row_bytes()) as u64);
            }
            tensors.sort_by_key(|tensor| tensor.offset);
            for pair in tensors.windows(2) {
                assert!(pair[0].offset + pair[0].bytes <= pair[1].offset);
            }
            assert!(tensors.iter().all(|t| t.offset % TENSOR_ALIGN == 0 && t.offset + t.bytes <= block.bytes));
        }
    }
}
