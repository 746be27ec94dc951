//! Where a block's tensors lie in its piece: the rules of `syn1-model`'s plan, once more, for processors that cannot carry
//! that crate. A test holds the two together.

use crate::shape::Shape;
use crate::{GROUP, Norm};

/// The tensors of an int8 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLayout {
    pub(crate) qkv: Product,
    pub(crate) out: Product,
    pub(crate) up: Product,
    pub(crate) down: Product,
    bytes: usize,
}

/// A matrix with what stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// Offset of `padded(cols)` f32, where a norm precedes the product.
    pub(crate) gamma: Option<usize>,
    /// Offset of `rows` pairs of f32, of which the second is added to the product.
    pub(crate) aux: usize,
    /// Offset of the rows.
    pub(crate) matrix: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_bytes: usize,
}

impl BlockLayout {
    /// The layout of a block; none for one that no memory holds.
    #[must_use]
    pub fn new(shape: &Shape) -> Option<Self> {
        let mut cursor = Cursor(Some(0));
        let norm = Some(shape.norm);
        let qkv = cursor.product(shape.qkv_rows(), shape.width, norm);
        let out = cursor.product(shape.width, shape.attention_width(), None);
        let up = cursor.product(shape.up_rows(), shape.width, norm);
        let down = cursor.product(shape.width, shape.ffn, None);
        Some(Self { qkv: qkv?, out: out?, up: up?, down: down?, bytes: cursor.0? })
    }

    /// Bytes of the piece.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the matrices begin and what their rows take: queries, keys and values; attention's output; the MLP's two.
    #[must_use]
    pub fn matrices(&self) -> [(usize, usize); 4] {
        [self.qkv, self.out, self.up, self.down].map(|product| (product.matrix, product.row_bytes))
    }
}

/// Lays tensors one after another; nothing once they are beyond what can be addressed.
struct Cursor(Option<usize>);

impl Cursor {
    fn product(&mut self, rows: usize, cols: usize, norm: Option<Norm>) -> Option<Product> {
        let gamma = match norm {
            Some(_) => Some(self.tensor(padded(cols).checked_mul(4)?)?),
            None => None,
        };
        let aux = self.tensor(rows.checked_mul(8)?)?;
        let stride = padded(cols);
        let row_bytes = (stride + 2 * (stride / GROUP)).next_multiple_of(ROW_BYTES_ALIGN);
        let matrix = self.tensor(rows.checked_mul(row_bytes)?)?;
        Some(Product { gamma, aux, matrix, rows, cols, row_bytes })
    }

    fn tensor(&mut self, bytes: usize) -> Option<usize> {
        let at = self.0?;
        self.0 = at.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(TENSOR_ALIGN));
        Some(at)
    }
}

/// `elements` rounded up to whole groups.
pub(crate) const fn padded(elements: usize) -> usize {
    elements.next_multiple_of(GROUP)
}

const TENSOR_ALIGN: usize = 256;
const ROW_BYTES_ALIGN: usize = 16;
