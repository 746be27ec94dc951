//! The forms in which activations travel: a codec, and what is done to its rows.

use core::fmt;

use crate::codec::{self, Codec, entropy};
use crate::{Flags, encoded_len};

/// How activations are written: their codec, and what is done to its rows.
///
/// | form | a row of 768 values |
/// |---|---|
/// | `f32` | 3072 bytes, exact |
/// | `f16` | 1536 bytes |
/// | `q8`, `q8+delta` | 804 bytes; a delta frame has 4 bytes and one per row more |
/// | `q8+compressed`, `q8+delta+compressed` | never more than without |
/// | `q4`, `q4+delta` | 464 bytes |
///
/// *Delta* sends what a row adds to the row before it, *compressed* entropy-codes the upper halves of Q8's bytes. Which of
/// them pays depends on the model and is measured, not guessed.
///
/// ```
/// use syn1_core::{Codec, Flags, Form};
///
/// let form = Form::new(Codec::Q8, Flags::DELTA).expect("q8 knows delta");
/// assert_eq!(form.name(), "q8+delta");
/// assert_eq!(Form::from_name("q8+delta"), Some(form));
/// assert_eq!(form.max_len(1, 768), Some(809));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Form {
    codec: Codec,
    flags: Flags,
}

impl Form {
    /// Every form of activations.
    pub const ALL: [Self; 8] = [
        Self::plain(Codec::F32),
        Self::plain(Codec::F16),
        Self::plain(Codec::Q8),
        Self { codec: Codec::Q8, flags: Flags::DELTA },
        Self { codec: Codec::Q8, flags: Flags::COMPRESSED },
        Self { codec: Codec::Q8, flags: BOTH },
        Self::plain(Codec::Q4),
        Self { codec: Codec::Q4, flags: Flags::DELTA },
    ];

    /// The rows of `codec` as they are.
    #[must_use]
    pub const fn plain(codec: Codec) -> Self {
        Self { codec, flags: Flags::NONE }
    }

    /// The rows of `codec` with `flags` applied, of which none but [`Flags::DELTA`] and [`Flags::COMPRESSED`] may be set;
    /// `None` for what does not exist: delta is for Q8 and Q4, compressed for Q8.
    #[must_use]
    pub const fn new(codec: Codec, flags: Flags) -> Option<Self> {
        // SPEC 2.6
        let possible = match codec {
            Codec::Q8 => BOTH,
            Codec::Q4 => Flags::DELTA,
            _ => Flags::NONE,
        };
        if codec.is_activation() && possible.contains(flags) { Some(Self { codec, flags }) } else { None }
    }

    /// The codec of the rows.
    #[must_use]
    pub const fn codec(self) -> Codec {
        self.codec
    }

    /// [`Flags::DELTA`], [`Flags::COMPRESSED`], both or none.
    #[must_use]
    pub const fn flags(self) -> Flags {
        self.flags
    }

    /// The form called `name`, as [`name`](Self::name) writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// The codec's name and those of the flags: `q8+delta+compressed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.codec, self.flags) {
            (Codec::Q8, BOTH) => "q8+delta+compressed",
            (Codec::Q8, Flags::DELTA) => "q8+delta",
            (Codec::Q8, Flags::COMPRESSED) => "q8+compressed",
            (Codec::Q4, Flags::DELTA) => "q4+delta",
            (codec, _) => codec.name(),
        }
    }

    /// Bytes of `rows` rows of `cols` columns, for a compressed form the most that it may take; `None` when that passes
    /// `u32`.
    #[must_use]
    pub fn max_len(self, rows: u16, cols: u16) -> Option<u32> {
        encoded_len(self.codec, rows, cols)?.checked_add(self.prefix(rows))
    }

    /// The least and the most bytes that a payload of this form may have.
    pub(crate) fn lengths(self, rows: u16, cols: u16) -> Option<(u32, u32)> {
        let plain = self.max_len(rows, cols)?;
        if !self.flags.contains(Flags::COMPRESSED) {
            return Some((plain, plain));
        }
        // SPEC 3.32
        Some((entropy::fixed_len(rows, cols) + self.prefix(rows), plain.saturating_sub(1)))
    }

    /// Bytes of a delta payload in front of its rows.
    fn prefix(self, rows: u16) -> u32 {
        if self.flags.contains(Flags::DELTA) { codec::delta::prefix_len(rows) } else { 0 }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const BOTH: Flags = Flags::DELTA.union(Flags::COMPRESSED);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_holds_every_combination_that_exists() {
        let mut found = Vec::new();
        for codec in (0..=255).filter_map(Codec::from_byte) {
            for flags in (0..16).filter_map(Flags::from_bits) {
                found.extend(Form::new(codec, flags));
            }
        }
        assert_eq!(found.len(), Form::ALL.len());
        for form in Form::ALL {
            assert!(found.contains(&form));
            assert_eq!(Form::new(form.codec(), form.flags()), Some(form));
        }
    }

    #[test]
    fn names_lead_back_to_their_form() {
        for form in Form::ALL {
            assert_eq!(Form::from_name(&form.to_string()), Some(form));
        }
        let names = Form::ALL.map(Form::name);
        let known = ["f32", "f16", "q8", "q8+delta", "q8+compressed", "q8+delta+compressed", "q4", "q4+delta"];
        assert_eq!(names, known);
        for wrong in ["", "ids", "q8+", "q8+predicted", "q8+compressed+delta", "f16+delta"] {
            assert_eq!(Form::from_name(wrong), None);
        }
    }

    #[test]
    fn lengths_are_those_of_the_shape() {
        let of = |name| Form::from_name(name).unwrap();
        assert_eq!(of("q8").lengths(2, 768), Some((1608, 1608)));
        assert_eq!(of("q8+delta").lengths(2, 768), Some((1614, 1614)));
        assert_eq!(of("q4+delta").lengths(2, 768), Some((934, 934)));
        assert_eq!(of("q8+compressed").lengths(2, 768), Some((72 + 2 + 768 + 10, 1607)));
        assert_eq!(of("q8+delta+compressed").lengths(2, 768), Some((6 + 72 + 2 + 768 + 10, 1613)));
        assert_eq!(of("q8+delta").max_len(u16::MAX, u16::MAX - 36), Some(u32::MAX - 65_531));
        assert_eq!(of("q8+delta").max_len(u16::MAX, u16::MAX), None);
    }
}
