//! How weights are stored.

use clap::ValueEnum;

/// Weights as everyone stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// 32 bits a weight, of which only f16's are used: the same numbers. Everyone's arithmetic is f32.
    F32,
    /// 16 bits a weight. syn1 multiplies by f32 activations, llama.cpp rounds the activations of a product to f16, candle
    /// computes everything but attention in f16.
    F16,
    /// 8 bits and an f16 scale for 32 weights: syn1's int8 and GGUF's Q8_0.
    Int8,
    /// 4 bits and an f16 scale for 32 weights, to which syn1's int4 adds an f16 low; GGUF's is Q4_0, the fastest of its
    /// formats with 4 bits. The embedding, which is the head as well, is in 8 bits for everyone.
    Int4,
}

impl Form {
    /// The largest first.
    pub(crate) const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// syn1's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// GGUF's name for it.
    pub(crate) fn gguf_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Int8 => "Q8_0",
            Self::Int4 => "Q4_0",
        }
    }

    /// Whether it holds f16 weights as they are, so that everyone's ids can be the same.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }

    /// Bits of a weight in a GGUF, its share of the scale included; candle stores as many.
    pub(crate) fn bits(self) -> f64 {
        match self {
            Self::F32 => 32.0,
            Self::F16 => 16.0,
            Self::Int8 => 8.5,
            Self::Int4 => 4.5,
        }
    }

    /// The form of the embedding and the head.
    pub(crate) fn of_head(self) -> Self {
        if self == Self::Int4 { Self::Int8 } else { self }
    }
}
