//! The forms in which numbers travel, one file per codec.
//!
//! A *row* is one position's values. Every codec encodes each row by itself, so the bytes of a frame are the rows' bytes
//! one after another and their number is a pure function of the shape: [`encoded_len`].

mod binary16;
mod binary32;
pub(crate) mod delta;
pub(crate) mod entropy;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod f16c;
mod ids;
mod q4;
mod q8;
mod side;
pub(crate) mod wide;

use core::fmt;

use wide::wide;

pub use binary16::{decode_f16, encode_f16, f16_from_f32, f16_to_f32};
pub use binary32::{decode_f32, encode_f32};
pub use ids::{encode_ids, ids};
pub use q4::{Q4_GROUP, decode_q4_row, encode_q4_row, q4_row_len};
pub use q8::{Q8_OVERHEAD, decode_q8_row, encode_q8_row};
pub use side::SIDE;

/// How a payload's numbers are written.
///
/// ```
/// use syn1_core::{Codec, encoded_len};
///
/// let bytes = [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4].map(|codec| encoded_len(codec, 1, 768));
/// assert_eq!(bytes, [Some(3072), Some(1536), Some(804), Some(464)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Codec {
    /// No numbers: the postcard bytes of a control message.
    Bytes = 0,
    /// IEEE 754 binary32.
    F32 = 1,
    /// IEEE 754 binary16.
    F16 = 2,
    /// int8 with one scale per row, and the row's 8 largest magnitudes beside it in binary16.
    Q8 = 3,
    /// int4 with one scale per 32 columns, and the row's 8 largest magnitudes beside it in binary16.
    Q4 = 4,
    /// Token ids, u32.
    Ids = 8,
    /// The k most likely tokens of each row: see [`output`](crate::output).
    Top = 9,
}

impl Codec {
    /// The codec of a header byte.
    ///
    /// ```
    /// use syn1_core::Codec;
    ///
    /// assert_eq!(Codec::from_byte(3), Some(Codec::Q8));
    /// assert_eq!(Codec::from_byte(99), None);
    /// ```
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Bytes,
            1 => Self::F32,
            2 => Self::F16,
            3 => Self::Q8,
            4 => Self::Q4,
            8 => Self::Ids,
            9 => Self::Top,
            _ => return None,
        })
    }

    /// The codec called `name`, as [`Codec::name`] writes it.
    ///
    /// ```
    /// use syn1_core::Codec;
    ///
    /// assert_eq!(Codec::from_name("q8"), Some(Codec::Q8));
    /// assert_eq!(Codec::from_name("Q8"), None);
    /// ```
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Bytes, Self::F32, Self::F16, Self::Q8, Self::Q4, Self::Ids, Self::Top]
            .into_iter()
            .find(|codec| codec.name() == name)
    }

    /// A lower-case name: `f32`, `f16`, `q8`, `q4`, `ids`, `top`, `bytes`.
    ///
    /// ```
    /// assert_eq!(syn1_core::Codec::F16.name(), "f16");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Ids => "ids",
            Self::Top => "top",
        }
    }

    /// Whether values lose precision to integers: what the header's quantized flag must say.
    ///
    /// ```
    /// use syn1_core::Codec;
    ///
    /// assert!(Codec::Q4.is_quantized() && !Codec::F16.is_quantized());
    /// ```
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }

    /// Whether activations may travel in this codec.
    ///
    /// ```
    /// use syn1_core::Codec;
    ///
    /// assert!(Codec::Q4.is_activation() && !Codec::Top.is_activation());
    /// ```
    #[must_use]
    pub const fn is_activation(self) -> bool {
        CodecSet::ACTIVATIONS.contains(self)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of codecs, as a Hello carries it: bit n stands for the codec with header byte n.
///
/// ```
/// use syn1_core::{Codec, CodecSet};
///
/// let small = CodecSet::of(&[Codec::F32, Codec::Q8]);
/// assert_eq!(small, CodecSet(1 << 1 | 1 << 3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CodecSet(pub u32);

impl CodecSet {
    /// What activations may travel in: F32, F16, Q8 and Q4.
    pub const ACTIVATIONS: Self = Self::of(&[Codec::F32, Codec::F16, Codec::Q8, Codec::Q4]);

    /// The set of the given codecs.
    ///
    /// ```
    /// use syn1_core::{Codec, CodecSet};
    ///
    /// assert_eq!(CodecSet::of(&[]), CodecSet::default());
    /// assert_eq!(CodecSet::of(&[Codec::F32]), CodecSet(1 << 1));
    /// ```
    #[must_use]
    pub const fn of(codecs: &[Codec]) -> Self {
        let (mut bits, mut rest) = (0, codecs);
        while let [first, tail @ ..] = rest {
            bits |= 1 << (*first as u8);
            rest = tail;
        }
        Self(bits)
    }

    /// Whether `codec` is in the set.
    ///
    /// ```
    /// use syn1_core::{Codec, CodecSet};
    ///
    /// assert!(CodecSet::ACTIVATIONS.contains(Codec::Q8));
    /// assert!(!CodecSet::ACTIVATIONS.contains(Codec::Ids));
    /// ```
    #[must_use]
    pub const fn contains(self, codec: Codec) -> bool {
        self.0 & (1 << (codec as u8)) != 0
    }

    /// What is in both sets.
    ///
    /// ```
    /// use syn1_core::{Codec, CodecSet};
    ///
    /// let (ours, theirs) = (CodecSet::of(&[Codec::F32, Codec::Q8]), CodecSet::of(&[Codec::F32, Codec::Q4]));
    /// assert_eq!(ours.intersect(theirs), CodecSet::of(&[Codec::F32]));
    /// ```
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Bytes of `rows` rows of `cols` columns, or `None` when that passes `u32` or `codec` is [`Codec::Bytes`], whose length
/// does not follow from a shape.
///
/// ```
/// use syn1_core::{Codec, encoded_len};
///
/// assert_eq!(encoded_len(Codec::Q8, 2, 768), Some(2 * (36 + 768)));
/// assert_eq!(encoded_len(Codec::F32, u16::MAX, u16::MAX), None);
/// ```
#[must_use]
pub const fn encoded_len(codec: Codec, rows: u16, cols: u16) -> Option<u32> {
    let columns = cols as u32;
    let row = match codec {
        Codec::Bytes => return None,
        Codec::F32 | Codec::Ids => 4 * columns,
        Codec::F16 => 2 * columns,
        Codec::Q8 => Q8_OVERHEAD as u32 + columns,
        Codec::Q4 => q4_row_len(cols) as u32,
        Codec::Top => 8 + 8 * columns,
    };
    // SPEC 3.1
    row.checked_mul(rows as u32)
}

/// The codec that `values` can travel in when `wanted` is asked for: `wanted`, or [`Codec::F32`] when binary16 cannot
/// hold one of the values (a magnitude above [`F16_MAX`]).
///
/// ```
/// use syn1_core::codec::choose;
/// use syn1_core::{Codec, CodecError};
///
/// assert_eq!(choose(Codec::Q8, &[1.0, 2.0]), Ok(Codec::Q8));
/// assert_eq!(choose(Codec::Q8, &[1.0, 1e6]), Ok(Codec::F32));
/// assert_eq!(choose(Codec::Q8, &[1.0, f32::NAN]), Err(CodecError::NotFinite));
/// ```
///
/// # Errors
/// A value that is not finite, or a codec that activations cannot travel in.
pub fn choose(wanted: Codec, values: &[f32]) -> Result<Codec, CodecError> {
    match check(wanted, values) {
        // SPEC 3.8
        Err(CodecError::TooLarge { .. }) => Ok(Codec::F32),
        checked => checked.map(|()| wanted),
    }
}

/// Writes rows of `cols` values each into `out` and says how many bytes they took.
///
/// ```
/// use syn1_core::Codec;
/// use syn1_core::codec::encode;
///
/// let mut payload = [0; 100];
/// assert_eq!(encode(Codec::F16, &[1.0, 2.0, 3.0, 4.0], 2, &mut payload)?, 8);
/// assert_eq!(encode(Codec::Q8, &[1.0, 2.0, 3.0, 4.0], 2, &mut payload)?, 2 * (36 + 2));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// `values` is not whole rows, `out` is too short, a value is not finite or (F16, Q8, Q4) above [`F16_MAX`].
pub fn encode(codec: Codec, values: &[f32], cols: u16, out: &mut [u8]) -> Result<usize, CodecError> {
    // F16 is checked while it is written, or after that.
    if codec != Codec::F16 {
        check(codec, values)?;
    }
    let rows = whole_rows(values.len(), cols)?;
    let need = payload_len(codec, rows, cols)?;
    let have = out.len();
    let out = out.get_mut(..need).ok_or(CodecError::Buffer { need, have })?;
    match codec {
        Codec::F16 if binary16::encode_seeing(values, out) => {}
        Codec::F16 => check(codec, values)?,
        Codec::Q8 | Codec::Q4 => {
            let encode_row = if codec == Codec::Q8 { encode_q8_row } else { encode_q4_row };
            encode_rows(values, cols, out, payload_len(codec, 1, cols)?, encode_row)?;
        }
        _ => encode_f32(values, out),
    }
    Ok(need)
}

/// Reads `rows` x `cols` values from `payload` into `out`, which must hold exactly that many.
///
/// ```
/// use syn1_core::codec::decode;
/// use syn1_core::{Codec, CodecError};
///
/// let mut values = [0.0; 2];
/// decode(Codec::F16, &[0x00, 0x3c, 0x00, 0xc0], 1, 2, &mut values)?;
/// assert_eq!(values, [1.0, -2.0]);
/// let short = decode(Codec::F16, &[0x00, 0x3c], 1, 2, &mut values);
/// assert!(matches!(short, Err(CodecError::Length { .. })));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// A length that does not fit the shape, a value that is not finite, or a Q8 or Q4 row that breaks a rule of its
/// layout.
/// `out` then holds unspecified values.
pub fn decode(codec: Codec, payload: &[u8], rows: u16, cols: u16, out: &mut [f32]) -> Result<(), CodecError> {
    if !codec.is_activation() {
        return Err(CodecError::NotActivation(codec));
    }
    let need = payload_len(codec, rows, cols)?;
    if payload.len() != need {
        return Err(CodecError::Length { need, have: payload.len() });
    }
    let values = usize::from(rows) * usize::from(cols);
    if out.len() != values {
        return Err(CodecError::Buffer { need: values, have: out.len() });
    }
    match codec {
        Codec::F16 => decode_f16(payload, out),
        Codec::Q8 | Codec::Q4 if cols > 0 => {
            let decode_row = if codec == Codec::Q8 { decode_q8_row } else { decode_q4_row };
            decode_rows(payload, payload_len(codec, 1, cols)?, cols, out, decode_row)
        }
        _ => decode_f32(payload, out),
    }
}

/// Why values could not be written or read.
///
/// ```
/// use syn1_core::codec::choose;
/// use syn1_core::{Codec, CodecError};
///
/// let error = choose(Codec::Ids, &[1.0]).unwrap_err();
/// assert_eq!(error, CodecError::NotActivation(Codec::Ids));
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CodecError {
    /// Activations do not travel in this codec.
    NotActivation(Codec),
    /// The number of values is not a multiple of the columns.
    Shape {
        /// Values given.
        values: usize,
        /// Columns given.
        cols: u16,
    },
    /// The caller's output is too short (writing: bytes) or not the shape's size (reading: values).
    Buffer {
        /// What is needed.
        need: usize,
        /// What was given.
        have: usize,
    },
    /// The payload's length is not that of the shape.
    Length {
        /// Bytes of the shape.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// The shape needs more than `u32::MAX` bytes.
    TooManyBytes,
    /// A value is NaN or infinite.
    NotFinite,
    /// Binary16 cannot hold a value.
    TooLarge {
        /// The largest magnitude given.
        magnitude: f32,
    },
    /// A scale that no encoder writes: negative, NaN, or above [`F16_MAX`] / 127 (Q8) or [`F16_MAX`] / 7 (Q4).
    Scale(f32),
    /// A row's side list names a column that is out of range or out of order.
    SideIndex {
        /// The place in the side list.
        slot: u8,
        /// The column it names.
        index: u16,
    },
    /// A row's side list repeats a column with another value.
    SideValue {
        /// The place in the side list.
        slot: u8,
    },
    /// A Q8 body holds -128, which no encoder writes.
    Minus128,
    /// A Q4 body holds -8, which no encoder writes.
    Minus8,
    /// The unused half byte of a row with an odd number of columns is not 0.
    Padding,
    /// A delta frame's first row needs another previous row than the one held: a frame was lost or repeated.
    Reference,
    /// A delta row's weight is above 128, which stands for 1.
    Weight(u8),
    /// A compressed row names a table that does not exist.
    Table(u8),
    /// A compressed stream is damaged: it ends early, late, or in another state than it must.
    Entropy,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotActivation(codec) => {
                write!(f, "activations do not travel in codec {codec}: use f32, f16, q8 or q4")
            }
            Self::Shape { values, cols } => write!(f, "{values} values are not whole rows of {cols} columns"),
            Self::Buffer { need, have } => write!(f, "the output holds {have} where the shape needs {need}"),
            Self::Length { need, have } => write!(f, "the payload is {have} bytes where the shape needs {need}"),
            Self::TooManyBytes => f.write_str("the shape needs more than 4 GiB: send fewer rows per frame"),
            Self::NotFinite => f.write_str("a value is NaN or infinite: the layer before it computed garbage"),
            Self::TooLarge { magnitude } => {
                write!(f, "magnitude {magnitude} is above binary16's {F16_MAX}: send this frame as f32")
            }
            Self::Scale(scale) => write!(f, "scale {scale} is negative, no number, or too large"),
            Self::SideIndex { slot, index } => {
                write!(f, "side slot {slot} names column {index}, which is out of range or out of order")
            }
            Self::SideValue { slot } => write!(f, "side slot {slot} repeats a column with another value"),
            Self::Minus128 => f.write_str("q8 body holds -128: values are within -127..=127"),
            Self::Minus8 => f.write_str("q4 body holds -8: values are within -7..=7"),
            Self::Padding => f.write_str("the unused half byte at the end of a row is not 0"),
            Self::Reference => f.write_str("a delta row builds on another row than the last one here: send a key row"),
            Self::Weight(weight) => write!(f, "delta weight {weight} is above {}", delta::ONE),
            Self::Table(table) => write!(f, "table {table} of a compressed row does not exist"),
            Self::Entropy => f.write_str("the compressed stream is damaged"),
        }
    }
}

impl core::error::Error for CodecError {}

/// Whether `codec` can carry `values`.
fn check(codec: Codec, values: &[f32]) -> Result<(), CodecError> {
    let limit = match codec {
        Codec::F32 => f32::MAX,
        Codec::F16 | Codec::Q8 | Codec::Q4 => F16_MAX,
        _ => return Err(CodecError::NotActivation(codec)),
    };
    if !wide!(exceeds(values.iter().map(|x| x.to_bits()), limit)) {
        return Ok(());
    }
    let magnitude = values.iter().fold(0, |max, x| max.max(x.abs().to_bits()));
    let magnitude = f32::from_bits(magnitude);
    // SPEC 3.7
    Err(if magnitude.is_finite() { CodecError::TooLarge { magnitude } } else { CodecError::NotFinite })
}

/// Whether a float among `bits` has a magnitude above `limit` or is NaN.
///
/// The order of magnitudes, with NaN on top, is that of their bit patterns, and none of these has the sign bit: it is in
/// `limit` minus a larger one. That vectorises where a maximum that minds NaN does not.
#[inline(always)]
fn exceeds(bits: impl Iterator<Item = u32>, limit: f32) -> bool {
    bits.fold(0, |seen, bits| seen | limit.to_bits().wrapping_sub(bits & 0x7fff_ffff)) >> 31 != 0
}

/// Encodes row by row. No zip of chunks: it divides by the width, and a compiler that optimises for size then keeps a
/// panic.
fn encode_rows(
    values: &[f32],
    cols: u16,
    out: &mut [u8],
    row_len: usize,
    encode_row: fn(&[f32], &mut [u8]) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let (mut values, mut out) = (values, out);
    while let Some((row, values_behind)) = values.split_at_checked(cols.into())
        && let Some((bytes, behind)) = core::mem::take(&mut out).split_at_mut_checked(row_len)
    {
        encode_row(row, bytes)?;
        (values, out) = (values_behind, behind);
    }
    Ok(())
}

/// Decodes row by row.
fn decode_rows(
    payload: &[u8],
    row_len: usize,
    cols: u16,
    out: &mut [f32],
    decode_row: fn(&[u8], &mut [f32]) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let (mut payload, mut out) = (payload, out);
    while let Some((bytes, behind)) = payload.split_at_checked(row_len)
        && let Some((row, out_behind)) = core::mem::take(&mut out).split_at_mut_checked(cols.into())
    {
        decode_row(bytes, row)?;
        (payload, out) = (behind, out_behind);
    }
    Ok(())
}

/// A copy that has no length to disagree about, so that no panic is left for one.
pub(crate) fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

pub(crate) fn whole_rows(values: usize, cols: u16) -> Result<u16, CodecError> {
    let shape = CodecError::Shape { values, cols };
    let width = usize::from(cols);
    if cols == 0 || !values.is_multiple_of(width) {
        return Err(shape);
    }
    u16::try_from(values / width).map_err(|_| shape)
}

fn payload_len(codec: Codec, rows: u16, cols: u16) -> Result<usize, CodecError> {
    let len = encoded_len(codec, rows, cols).ok_or(CodecError::TooManyBytes)?;
    usize::try_from(len).map_err(|_| CodecError::TooManyBytes)
}

/// The largest magnitude that F16, Q8 and Q4 carry: binary16's largest finite number.
pub const F16_MAX: f32 = 65504.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIVATIONS: [Codec; 4] = [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4];

    #[test]
    fn bytes_and_names_tell_codecs_apart() {
        let known: Vec<Codec> = (0..=255).filter_map(Codec::from_byte).collect();
        assert_eq!(known.len(), 7);
        for codec in known {
            assert_eq!(Codec::from_byte(codec as u8), Some(codec));
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
            assert_eq!(codec.is_activation(), ACTIVATIONS.contains(&codec));
        }
        assert_eq!(Codec::from_name("F32"), None);
    }

    #[test]
    fn a_gpt2_row_has_the_documented_lengths() {
        let lengths = ACTIVATIONS.map(|codec| encoded_len(codec, 1, 768));
        assert_eq!(lengths, [Some(3072), Some(1536), Some(804), Some(464)]);
    }

    #[test]
    fn lengths_are_checked_against_u32() {
        assert_eq!(encoded_len(Codec::F32, u16::MAX, u16::MAX), None);
        assert_eq!(encoded_len(Codec::Q8, u16::MAX, u16::MAX - 36), Some(u32::MAX - 131_070));
        assert_eq!(encoded_len(Codec::Bytes, 0, 0), None);
        assert_eq!(encoded_len(Codec::Top, 0, 0), Some(0));
    }

    #[test]
    fn what_binary16_can_not_hold_goes_as_f32() {
        for codec in ACTIVATIONS {
            assert_eq!(choose(codec, &[1.0, -F16_MAX]), Ok(codec));
            assert_eq!(choose(codec, &[1.0, -F16_MAX.next_up()]), Ok(Codec::F32));
        }
        let too_large = Err(CodecError::TooLarge { magnitude: 65505.0 });
        assert_eq!(encode(Codec::Q8, &[65505.0], 1, &mut [0; 99]), too_large);
        assert_eq!(encode(Codec::F16, &[-65505.0], 1, &mut [0; 99]), too_large);
    }

    #[test]
    fn what_is_not_finite_goes_nowhere() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for codec in ACTIVATIONS {
                assert_eq!(choose(codec, &[1.0, bad]), Err(CodecError::NotFinite));
                assert_eq!(encode(codec, &[1.0, bad], 2, &mut [0; 99]), Err(CodecError::NotFinite));
            }
        }
    }

    #[test]
    fn shapes_and_buffers_that_disagree_are_refused() {
        for codec in ACTIVATIONS {
            assert!(matches!(encode(codec, &[0.0; 5], 2, &mut [0; 99]), Err(CodecError::Shape { .. })));
            assert!(matches!(encode(codec, &[0.0; 5], 0, &mut [0; 99]), Err(CodecError::Shape { .. })));
            assert!(matches!(encode(codec, &[0.0; 4], 2, &mut [0; 3]), Err(CodecError::Buffer { .. })));
            let len = encoded_len(codec, 2, 9).unwrap() as usize;
            assert!(matches!(
                decode(codec, &[0; 1000][..len - 1], 2, 9, &mut [0.0; 18]),
                Err(CodecError::Length { .. })
            ));
            assert!(matches!(decode(codec, &[0; 1000][..len], 2, 9, &mut [0.0; 17]), Err(CodecError::Buffer { .. })));
            assert_eq!(decode(codec, &[], 0, 0, &mut []), Ok(()));
        }
        assert_eq!(choose(Codec::Ids, &[]), Err(CodecError::NotActivation(Codec::Ids)));
        assert_eq!(decode(Codec::Top, &[], 0, 0, &mut []), Err(CodecError::NotActivation(Codec::Top)));
    }

    proptest! {
        #[test]
        fn frames_are_their_rows_one_after_another(
            rows in 1..5u16,
            cols in 1..70u16,
            seed in prop::collection::vec(-1e3..1e3f32, 4 * 69),
        ) {
            let values = &seed[..usize::from(rows * cols)];
            for codec in ACTIVATIONS {
                let mut bytes = vec![0; 5000];
                let len = encode(codec, values, cols, &mut bytes).unwrap();
                prop_assert_eq!(Some(len as u32), encoded_len(codec, rows, cols));
                let mut back = vec![0.0; values.len()];
                decode(codec, &bytes[..len], rows, cols, &mut back).unwrap();
                for (at, row) in values.chunks(usize::from(cols)).enumerate() {
                    let mut alone = vec![0; 5000];
                    let one = encode(codec, row, cols, &mut alone).unwrap();
                    prop_assert_eq!(&alone[..one], &bytes[at * one..][..one]);
                }
                let step = match codec {
                    Codec::F32 => 0.0,
                    Codec::Q4 => 1e3 / 13.9,
                    _ => 1e3 / 250.0,
                };
                prop_assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() <= step));
            }
        }

        #[test]
        fn any_values_and_any_bytes_are_safe(values: Vec<f32>, bytes: Vec<u8>, cols in 0..20u16, rows in 0..4u16) {
            for codec in ACTIVATIONS {
                let sound = values.iter().all(|x| x.is_finite());
                prop_assert_eq!(choose(codec, &values).is_ok(), sound);
                let _any = encode(codec, &values, cols, &mut vec![0; bytes.len()]);
                let len = encoded_len(codec, rows, cols).unwrap() as usize;
                let payload: Vec<u8> = bytes.iter().copied().chain(core::iter::repeat(7)).take(len).collect();
                let mut out = vec![0.0; usize::from(rows * cols)];
                if decode(codec, &payload, rows, cols, &mut out).is_ok() {
                    prop_assert!(out.iter().all(|x| x.is_finite()));
                }
            }
        }
    }
}
