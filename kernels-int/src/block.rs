//! One transformer block over its packed bytes, a position at a time.

use core::fmt;

#[cfg(feature = "rope")]
use crate::attend::rotate;
use crate::attend::{append, attend};
use crate::dot::{Row, arrange, dot_rows};
use crate::layout::{BlockLayout, Product, padded};
use crate::norm::normalise;
use crate::row::quantise;
use crate::{GROUP, NotFinite, Shape, ShapeError};

/// A block's weights, checked.
#[derive(Clone, Copy, Debug)]
pub struct Block<'w> {
    shape: Shape,
    layout: BlockLayout,
    bytes: &'w [u8],
}

/// Room for what a step computes: a block after the other can use the same.
#[derive(Debug)]
pub struct Scratch<'s> {
    normed: &'s mut [f32],
    qkv: &'s mut [f32],
    attended: &'s mut [f32],
    hidden: &'s mut [f32],
    /// A row as a product takes it.
    row: &'s mut [i16],
    /// A word a position.
    weights: &'s mut [i32],
}

/// Why a block's bytes cannot be used.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// A shape that the kernels cannot run.
    Shape(ShapeError),
    /// Another length than the shape's.
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes that the shape has.
        want: usize,
    },
    /// A group's scale that is no positive number below 2: weights are beyond 254, or the bytes are none.
    Scale {
        /// Which matrix: queries, keys and values; attention's output; the MLP's two.
        matrix: &'static str,
        /// Its row.
        row: usize,
    },
    /// A norm or bias that is an infinity or a NaN.
    NotFinite,
}

/// Why a step cannot be computed. The cache then holds what it held for the positions before.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepError {
    /// A row became infinite or NaN.
    NotFinite,
    /// A buffer is too short for the shape or the position.
    Buffer,
}

impl<'w> Block<'w> {
    /// The block of `shape` in `bytes`, an int8 piece as `syn1 split` makes it.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub fn new(shape: Shape, bytes: &'w [u8]) -> Result<Self, BlockError> {
        let block = Self::trusted(shape, bytes)?;
        let layout = block.layout;
        let named = [("qkv", layout.qkv), ("out", layout.out), ("up", layout.up), ("down", layout.down)];
        for (matrix, product) in named {
            let groups = padded(product.cols) / GROUP;
            for row in 0..product.rows {
                if !block.row(&product, row, groups).is_some_and(|row| row.is_sound()) {
                    return Err(BlockError::Scale { matrix, row });
                }
            }
            let gamma = product.gamma.into_iter().flat_map(|gamma| block.floats(gamma, product.cols));
            if !gamma.chain(block.floats(product.aux, 2 * product.rows)).all(f32::is_finite) {
                return Err(BlockError::NotFinite);
            }
        }
        Ok(block)
    }

    /// As [`Block::new`] for bytes that it has taken before: the weights are not looked at again. Other bytes give rows of no
    /// meaning, and nothing worse.
    ///
    /// # Errors
    /// A shape that cannot be run, or another length than its own.
    pub fn trusted(shape: Shape, bytes: &'w [u8]) -> Result<Self, BlockError> {
        shape.check().map_err(BlockError::Shape)?;
        let layout = BlockLayout::new(&shape).ok_or(BlockError::Length { got: bytes.len(), want: usize::MAX })?;
        let (got, want) = (bytes.len(), layout.bytes());
        if got != want {
            return Err(BlockError::Length { got, want });
        }
        Ok(Self { shape, layout, bytes })
    }

    /// The shape.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// `x += attention(norm(x))` for the row at `position`, whose keys and values go into `cache`
    /// ([`Shape::kv_words`] words a position, of which those before `position` were written).
    ///
    /// # Errors
    /// [`StepError`].
    pub fn attention(
        &self,
        x: &mut [f32],
        position: usize,
        cache: &mut [i16],
        scratch: &mut Scratch<'_>,
    ) -> Result<(), StepError> {
        let (shape, layout) = (&self.shape, &self.layout);
        let Scratch { normed, qkv, attended, row, weights, .. } = scratch;
        self.norm(&layout.qkv, x, normed);
        self.product(&layout.qkv, normed, row, |index, value| put(qkv, index, value))?;
        let (queries, values) = qkv.split_at_mut_checked(shape.attention_width()).ok_or(StepError::Buffer)?;
        #[cfg(feature = "rope")]
        if let Some(rope) = &shape.rope {
            let keys = values.chunks_exact_mut(shape.head_dim).take(shape.kv_heads);
            queries.chunks_exact_mut(shape.head_dim).chain(keys).for_each(|head| rotate(head, rope, position));
        }
        let words = shape.kv_words();
        let begin = position.checked_mul(words).ok_or(StepError::Buffer)?;
        let end = begin.checked_add(words).ok_or(StepError::Buffer)?;
        append(shape, values, cache.get_mut(begin..end).ok_or(StepError::Buffer)?)?;
        let weights = weights.get_mut(..=position).ok_or(StepError::Buffer)?;
        attend(shape, queries, cache.get(..end).ok_or(StepError::Buffer)?, weights, attended)?;
        self.product(&layout.out, attended, row, |index, value| add(x, index, value))
    }

    /// `x += down(activation(up(norm(x))))` for one row.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn mlp(&self, x: &mut [f32], scratch: &mut Scratch<'_>) -> Result<(), StepError> {
        let (shape, layout) = (&self.shape, &self.layout);
        let Scratch { normed, hidden, row, .. } = scratch;
        self.norm(&layout.up, x, normed);
        let mut gate = 0.0;
        self.product(&layout.up, normed, row, |index, value| match (shape.gated, index % 2) {
            (false, _) => put(hidden, index, shape.activation.of(value)),
            (true, 0) => gate = shape.activation.of(value),
            (true, _) => put(hidden, index / 2, gate * value),
        })?;
        self.product(&layout.down, hidden, row, |index, value| add(x, index, value))
    }

    fn norm(&self, product: &Product, x: &[f32], out: &mut [f32]) {
        let gamma = product.gamma.into_iter().flat_map(|gamma| self.floats(gamma, product.cols));
        normalise(self.shape.norm, self.shape.eps, x, gamma, out);
    }

    /// Calls `out` with each row's index and its value, in order. `row` is where the quantised input goes.
    fn product(
        &self,
        product: &Product,
        input: &[f32],
        row: &mut [i16],
        mut out: impl FnMut(usize, f32),
    ) -> Result<(), StepError> {
        let stride = padded(product.cols);
        let row = row.get_mut(..stride).ok_or(StepError::Buffer)?;
        let exponent = quantise(input.get(..product.cols).ok_or(StepError::Buffer)?, row)?;
        arrange(row);
        let inputs: &[[i16; GROUP]] = row.as_chunks().0;
        let mut biases = self.floats(product.aux, 2 * product.rows).skip(1).step_by(2);
        let mut index = 0;
        let mut finish = |sum: i64| {
            // A sum counts in 2^-24 times the input's step.
            let value = libm::scalbnf(sum as f32, exponent - 24) + biases.next().unwrap_or(0.0);
            out(index, value);
            index += 1;
        };
        let matrix = self.bytes.get(product.matrix..).ok_or(StepError::Buffer)?;
        let rows = matrix.chunks(ROWS * product.row_bytes).take(product.rows / ROWS);
        rows.flat_map(|rows| dot_rows(rows, product.row_bytes, inputs)).for_each(&mut finish);
        // Fewer than four: one at a time, as if it stood there four times.
        for row in product.rows / ROWS * ROWS..product.rows {
            let row = matrix.get(row * product.row_bytes..).ok_or(StepError::Buffer)?;
            dot_rows(row, 0, inputs).into_iter().take(1).for_each(&mut finish);
        }
        Ok(())
    }

    fn row(&self, product: &Product, row: usize, groups: usize) -> Option<Row<'w>> {
        Row::new(self.bytes.get(product.matrix + row * product.row_bytes..)?, groups)
    }

    /// `count` f32 from `offset` on.
    fn floats(&self, offset: usize, count: usize) -> impl Iterator<Item = f32> + use<'w> {
        let bytes = self.bytes.get(offset..).unwrap_or_default();
        bytes.as_chunks().0.iter().take(count).map(|bytes| f32::from_le_bytes(*bytes))
    }
}

impl<'s> Scratch<'s> {
    /// Words of 32 bits that a shape's rows need, and words of 16.
    #[must_use]
    pub fn words(shape: &Shape) -> (usize, usize) {
        let floats = [shape.width, shape.qkv_rows(), shape.attention_width(), shape.ffn];
        (floats.into_iter().fold(0, usize::saturating_add), shape.longest_row())
    }

    /// Room in buffers of yours: as many words as [`Scratch::words`] says, and `weights` one for each position of a cache.
    ///
    /// # Errors
    /// [`StepError::Buffer`].
    pub fn new(
        shape: &Shape,
        floats: &'s mut [f32],
        row: &'s mut [i16],
        weights: &'s mut [i32],
    ) -> Result<Self, StepError> {
        if row.len() < shape.longest_row() {
            return Err(StepError::Buffer);
        }
        let (normed, floats) = floats.split_at_mut_checked(shape.width).ok_or(StepError::Buffer)?;
        let (qkv, floats) = floats.split_at_mut_checked(shape.qkv_rows()).ok_or(StepError::Buffer)?;
        let (attended, floats) = floats.split_at_mut_checked(shape.attention_width()).ok_or(StepError::Buffer)?;
        let hidden = floats.get_mut(..shape.ffn).ok_or(StepError::Buffer)?;
        Ok(Self { normed, qkv, attended, hidden, row, weights })
    }
}

impl From<NotFinite> for StepError {
    fn from(_: NotFinite) -> Self {
        Self::NotFinite
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Length { got, want } => write!(f, "a block of {got} bytes, its shape says {want}"),
            Self::Scale { matrix, row } => {
                write!(f, "row {row} of {matrix} has a scale that is not between 0 and 2, more than int8 weights need")
            }
            Self::NotFinite => f.write_str("a norm or a bias is infinite or NaN"),
        }
    }
}

impl core::error::Error for BlockError {}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "a row became infinite or NaN",
            Self::Buffer => "a buffer is too short for the model's shape or the position",
        })
    }
}

impl core::error::Error for StepError {}

/// Writes an element that has a place.
fn put(out: &mut [f32], index: usize, value: f32) {
    if let Some(out) = out.get_mut(index) {
        *out = value;
    }
}

/// Adds to an element that has a place.
fn add(out: &mut [f32], index: usize, value: f32) {
    if let Some(out) = out.get_mut(index) {
        *out += value;
    }
}

/// Rows of a matrix at a time.
const ROWS: usize = 4;
