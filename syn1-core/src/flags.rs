//! The flag byte of a header.

use core::fmt;

/// What a frame says about its payload. Bits without a name are reserved and refused.
///
/// ```
/// use syn1_core::Flags;
///
/// let both = Flags::DELTA.union(Flags::COMPRESSED);
/// assert!(both.contains(Flags::DELTA) && !both.contains(Flags::PREDICTED));
/// assert_eq!(both.without(Flags::DELTA), Flags::COMPRESSED);
/// assert_eq!(Flags::from_bits(both.bits()), Some(both));
/// assert_eq!(Flags::from_bits(0x80), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The codec is lossy by quantization; always equal to [`Codec::is_quantized`](crate::Codec::is_quantized).
    pub const QUANTIZED: Self = Self(1);
    /// The int8 body is entropy coded. Only where both ends negotiated it.
    pub const COMPRESSED: Self = Self(2);
    /// The rows are residuals against the previous position's rows. Only where both ends negotiated it.
    pub const DELTA: Self = Self(4);
    /// The rows come from tokens that are not accepted yet. Only where both ends negotiated it.
    pub const PREDICTED: Self = Self(8);
    /// The flags that need negotiation.
    pub const NEGOTIABLE: Self = Self(2 | 4 | 8);

    /// The flags of a header byte, or `None` when a reserved bit is set.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !(Self::NEGOTIABLE.0 | Self::QUANTIZED.0) == 0 { Some(Self(bits)) } else { None }
    }

    /// The negotiable flags of a Hello, leaving out bits that this version does not know.
    #[must_use]
    pub const fn from_offer(bits: u8) -> Self {
        Self(bits & Self::NEGOTIABLE.0)
    }

    /// The header byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags set in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags set in both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags set here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for (flag, name) in NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = "+";
            }
        }
        Ok(())
    }
}

const NAMES: [(Flags, &str); 4] = [
    (Flags::QUANTIZED, "quantized"),
    (Flags::COMPRESSED, "compressed"),
    (Flags::DELTA, "delta"),
    (Flags::PREDICTED, "predicted"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_are_refused_in_a_header_and_ignored_in_an_offer() {
        for bits in 0..=255u8 {
            assert_eq!(Flags::from_bits(bits).is_some(), bits < 16);
            assert_eq!(Flags::from_offer(bits).bits(), bits & 14);
        }
    }

    #[test]
    fn display_names_every_flag() {
        assert_eq!(Flags::NONE.to_string(), "none");
        assert_eq!(Flags::from_bits(15).unwrap().to_string(), "quantized+compressed+delta+predicted");
    }
}
