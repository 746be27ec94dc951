//! What a block is made of.

use core::fmt;

use crate::layout::padded;

/// The sizes and choices of a model's blocks, all of which are alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Elements of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of the MLP's hidden row.
    pub ffn: usize,
    /// The norm in front of attention and MLP.
    pub norm: Norm,
    /// Added to the variance (or mean square) before the root.
    pub eps: f32,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether the activated gate is multiplied with a second projection.
    pub gated: bool,
    /// The rotation of queries and keys; none for models with learned positions.
    pub rope: Option<Rope>,
}

/// A normalisation over a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `(x - mean) / sqrt(var + eps) * gamma + beta`.
    Layer,
    /// `x / sqrt(mean(x^2) + eps) * gamma`.
    Rms,
}

/// The MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// A rotary embedding without stretching: pair `i` turns by `theta^(-2i / dims)` a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f32,
    /// Leading elements of each head that are rotated; even.
    pub dims: usize,
}

/// Why a shape cannot be run.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// A size is zero.
    Zero(&'static str),
    /// A size is beyond what the kernels' fixed buffers or sums hold.
    TooLarge {
        /// The size.
        what: &'static str,
        /// What it is.
        got: usize,
        /// The most.
        max: usize,
    },
    /// Query heads that do not share key heads evenly.
    Heads {
        /// Query heads.
        heads: usize,
        /// Key heads.
        kv_heads: usize,
    },
    /// A rotation, in kernels that were built without the feature `rope`.
    Rotation,
    /// A rotation of an odd number of elements, or of more than a head has.
    Rotated {
        /// Elements to rotate.
        dims: usize,
        /// Elements of a head.
        head_dim: usize,
    },
}

impl Shape {
    /// Whether these kernels rotate queries and keys (the feature `rope`).
    pub const ROTATES: bool = cfg!(feature = "rope");

    /// Whether the kernels can run it.
    ///
    /// # Errors
    /// The first thing that they cannot.
    pub fn check(&self) -> Result<(), ShapeError> {
        let &Self { width, heads, kv_heads, head_dim, ffn, rope, .. } = self;
        let sizes = [("width", width, MAX_ROW), ("heads", heads, MAX_ROW), ("key heads", kv_heads, MAX_ROW)];
        let more = [("head size", head_dim, MAX_HEAD_DIM), ("hidden size", ffn, MAX_ROW)];
        for (what, got, max) in sizes.into_iter().chain(more) {
            if got == 0 {
                return Err(ShapeError::Zero(what));
            }
            if got > max {
                return Err(ShapeError::TooLarge { what, got, max });
            }
        }
        let attended = heads.saturating_mul(head_dim);
        if attended > MAX_ROW {
            return Err(ShapeError::TooLarge { what: "attention width", got: attended, max: MAX_ROW });
        }
        if kv_heads > heads || heads % kv_heads != 0 {
            return Err(ShapeError::Heads { heads, kv_heads });
        }
        match rope {
            Some(Rope { dims, .. }) if dims % 2 != 0 || dims > head_dim => Err(ShapeError::Rotated { dims, head_dim }),
            Some(_) if !Self::ROTATES => Err(ShapeError::Rotation),
            _ => Ok(()),
        }
    }

    /// Rows of the fused query, key and value product.
    #[must_use]
    pub const fn qkv_rows(&self) -> usize {
        self.heads.saturating_add(2 * self.kv_heads).saturating_mul(self.head_dim)
    }

    /// Elements of the attention output.
    #[must_use]
    pub const fn attention_width(&self) -> usize {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Rows of the MLP's first product.
    #[must_use]
    pub const fn up_rows(&self) -> usize {
        if self.gated { 2 * self.ffn } else { self.ffn }
    }

    /// 16-bit words of one position's keys and values: every head with the power of two that it counts in.
    #[must_use]
    pub const fn kv_words(&self) -> usize {
        (2 * self.kv_heads).saturating_mul(self.head_dim + 1)
    }

    /// The longest row that is quantised, padding included.
    pub(crate) fn longest_row(&self) -> usize {
        padded(self.width).max(padded(self.attention_width())).max(padded(self.ffn))
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(what) => write!(f, "a model of {what} 0"),
            Self::TooLarge { what, got, max } => write!(f, "a {what} of {got}, the integer kernels hold {max}"),
            Self::Heads { heads, kv_heads } => {
                write!(f, "{heads} query heads do not share {kv_heads} key heads evenly")
            }
            Self::Rotation => f.write_str("queries and keys are rotated, which these kernels were built without"),
            Self::Rotated { dims, head_dim } => {
                write!(f, "{dims} elements of heads of {head_dim} cannot be rotated in pairs")
            }
        }
    }
}

impl core::error::Error for ShapeError {}

/// The longest row: sums of as many groups fit their integers (`dot.rs`).
pub(crate) const MAX_ROW: usize = 1 << 15;

/// The largest head: a query's is quantised into a buffer of so many, on the stack.
pub(crate) const MAX_HEAD_DIM: usize = 256;
