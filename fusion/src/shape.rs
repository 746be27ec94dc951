//! The sizes that are measured.

use serde::Serialize;

/// The sizes of a toy transformer: pre-norm blocks with causal attention and a GELU MLP of four times the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Elements of an activation.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
}

impl Shape {
    /// A width of the public experiments, with their number of heads.
    ///
    /// # Errors
    /// [`ShapeError`] for a width that is none of [`WIDTHS`], or a number of layers outside 1 to [`MOST_LAYERS`].
    pub fn new(width: usize, layers: usize) -> Result<Self, ShapeError> {
        let heads = match width {
            32 | 64 | 128 => 2,
            256 => 4,
            512 => 8,
            _ => return Err(ShapeError::Width(width)),
        };
        if !(1..=MOST_LAYERS).contains(&layers) {
            return Err(ShapeError::Layers(layers));
        }
        Ok(Self { width, heads, layers })
    }

    /// Bytes of the weights, all of which a token reads: 12 `width`^2 a layer, f32.
    pub fn weight_bytes(&self) -> u64 {
        (12 * self.width * self.width * self.layers * size_of::<f32>()) as u64
    }

    /// A quarter of the width.
    pub(crate) fn quads(&self) -> usize {
        self.width / 4
    }

    /// Elements of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.width / self.heads
    }
}

/// A size that the experiment does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The width is none of [`WIDTHS`].
    #[error("a width of {0}: the experiment has 32, 64, 128, 256 and 512")]
    Width(usize),
    /// The number of layers is outside 1 to [`MOST_LAYERS`].
    #[error("{0} layers: the experiment has 1 to {MOST_LAYERS}")]
    Layers(usize),
}

/// The widths of the public experiments.
pub const WIDTHS: [usize; 5] = [32, 64, 128, 256, 512];

/// Layers at most: the weights of a single dispatch must fit the smallest binding that WebGPU promises, 128 MiB.
pub const MOST_LAYERS: usize = 8;

/// Tokens of a run.
pub const TOKENS: usize = 64;

/// What a layer norm adds to the variance.
pub(crate) const EPS: f64 = 1e-5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_shape_fits_the_smallest_binding() {
        let largest = Shape::new(512, MOST_LAYERS).unwrap();
        assert!(largest.weight_bytes() < 128 << 20);
        assert_eq!(Shape::new(512, MOST_LAYERS + 1), Err(ShapeError::Layers(MOST_LAYERS + 1)));
        assert_eq!(Shape::new(48, 1), Err(ShapeError::Width(48)));
    }
}
