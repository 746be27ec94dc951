//! F16: each value rounded to binary16, ties to even.
//!
//! Written without branches, so that the compiler vectorises it where the processor has no such instruction too. With
//! feature `std` an x86-64 that has one is used: the bytes are the same.

use super::CodecError;
use super::wide::wide;

/// Writes `values`, two bytes each; what does not fit in `out` is left out. Magnitudes above
/// [`F16_MAX`](super::F16_MAX) give unspecified bytes: [`choose`](super::choose) keeps them away.
///
/// The naive code: `out[2 * i..][..2] = half::f16::from_f32(values[i]).to_le_bytes()`.
///
/// ```
/// let mut payload = [0; 4];
/// syn1_core::codec::encode_f16(&[1.0, -2.0], &mut payload);
/// assert_eq!(payload, [0x00, 0x3c, 0x00, 0xc0]);
/// ```
pub fn encode_f16(values: &[f32], out: &mut [u8]) {
    encode_seeing(values, out);
}

/// Does what [`encode_f16`] does, and says whether it saw that no magnitude is above [`F16_MAX`](super::F16_MAX): where
/// that costs another pass it does not look.
pub(super) fn encode_seeing(values: &[f32], out: &mut [u8]) -> bool {
    let cells = out.as_chunks_mut().0;
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    if let Some(fits) = super::f16c::encode(values, cells) {
        return fits;
    }
    wide!(narrow(values, cells));
    false
}

/// Reads as many values as `payload` and `out` both hold.
///
/// ```
/// let mut values = [0.0; 2];
/// syn1_core::codec::decode_f16(&[0x00, 0x3c, 0x00, 0xc0], &mut values)?;
/// assert_eq!(values, [1.0, -2.0]);
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// A value that is not finite.
pub fn decode_f16(payload: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    let cells = payload.as_chunks().0;
    let cells = cells.get(..out.len()).unwrap_or(cells);
    // SPEC 3.6
    if decode_checked(cells, out) { Ok(()) } else { Err(CodecError::NotFinite) }
}

/// Reads the values and says whether all `cells` are finite.
fn decode_checked(cells: &[[u8; 2]], out: &mut [f32]) -> bool {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    if let Some(finite) = super::f16c::decode(cells, out) {
        return finite;
    }
    wide!(widen(cells, out))
}

#[inline(always)]
fn narrow(values: &[f32], cells: &mut [[u8; 2]]) {
    for (bytes, &value) in cells.iter_mut().zip(values) {
        *bytes = f16_from_f32(value).to_le_bytes();
    }
}

#[inline(always)]
fn widen(cells: &[[u8; 2]], out: &mut [f32]) -> bool {
    for (value, bytes) in out.iter_mut().zip(cells) {
        *value = f16_to_f32(u16::from_le_bytes(*bytes));
    }
    // Adding the exponent's last bit carries into the sign where all bits of the exponent are set.
    let carry = |seen, bytes: &[u8; 2]| seen | ((u16::from_le_bytes(*bytes) & 0x7fff) + 0x400);
    cells.iter().fold(0, carry) >> 15 == 0
}

/// The binary16 bits of a finite `x` with `|x| <= 65504`, ties to even; other values give unspecified bits.
///
/// ```
/// assert_eq!(syn1_core::codec::f16_from_f32(1.0), 0x3c00);
/// ```
#[must_use]
pub const fn f16_from_f32(x: f32) -> u16 {
    // SPEC 3.5
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Drop 13 bits of mantissa, rounding to even, and move the exponent's bias from 127 to 15.
    let normal = ((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13).wrapping_sub(112 << 10);
    // A binary16 subnormal counts units of 2^-24, which is the last bit of floats in [0.5, 1): the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let bits = if magnitude < MIN_NORMAL { subnormal } else { normal };
    (bits | x.to_bits() >> 16 & 0x8000) as u16
}

/// The value of binary16 `bits`; those of infinities and NaN give unspecified values.
///
/// ```
/// assert_eq!(syn1_core::codec::f16_to_f32(0x3c00), 1.0);
/// ```
#[must_use]
pub const fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = bits as u32 & 0x7fff;
    let normal = (magnitude << 13) + (112 << 23);
    let subnormal = (magnitude as i32 as f32 * UNIT).to_bits();
    let value = if magnitude < 0x400 { subnormal } else { normal };
    f32::from_bits(value | (bits as u32 & 0x8000) << 16)
}

/// Bits of 2^-14, the smallest normal binary16.
const MIN_NORMAL: u32 = 113 << 23;
/// 2^-24, the unit of binary16 subnormals.
const UNIT: f32 = f32::from_bits(103 << 23);

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{Codec, F16_MAX, encode};

    #[test]
    fn every_finite_binary16_has_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let mut out = [0.0];
            let result = decode_f16(&bits.to_le_bytes(), &mut out);
            assert_eq!(result.is_ok(), value.is_finite());
            if value.is_finite() {
                assert_eq!(out[0].to_bits(), value.to_f32().to_bits());
                assert_eq!(f16_from_f32(out[0]), bits);
            }
        }
    }

    #[test]
    fn halfway_between_two_neighbours_goes_to_the_even_one() {
        for bits in 0..0x7bffu16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(f16_from_f32(middle), bits + (bits & 1));
            assert_eq!(f16_from_f32(middle.next_down()), bits);
            assert_eq!(f16_from_f32(middle.next_up()), bits + 1);
        }
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_definition(x in -F16_MAX..=F16_MAX, tiny in any::<u32>()) {
            for x in [x, x * 1e-6, f32::from_bits(tiny & 0x8fff_ffff)] {
                prop_assert_eq!(f16_from_f32(x), f16::from_f32(x).to_bits());
            }
        }

        #[test]
        fn slices_are_converted_value_by_value(
            values in prop::collection::vec(prop_oneof![-F16_MAX..=F16_MAX, -1e-4..1e-4f32], 0..90),
            start in 0..16usize,
        ) {
            let mut bytes = vec![0; 2 * values.len()];
            encode_f16(&values, &mut bytes);
            let naive: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            prop_assert_eq!(&bytes, &naive);
            // The code that every target has, wherever another one is taken.
            let mut software = vec![[0; 2]; values.len()];
            narrow(&values, &mut software);
            prop_assert_eq!(software.as_flattened(), &naive);

            let mut back = vec![f32::NAN; start + values.len()];
            decode_f16(&bytes, &mut back[start..]).unwrap();
            let mut slow = vec![f32::NAN; values.len()];
            prop_assert!(widen(&software, &mut slow));
            for ((a, b), bytes) in back[start..].iter().zip(slow).zip(software) {
                prop_assert_eq!((a.to_bits(), b.to_bits()), (b.to_bits(), f16::from_le_bytes(bytes).to_f32().to_bits()));
            }
        }

        #[test]
        fn one_bad_value_anywhere_is_noticed(len in 1..90usize, at in any::<prop::sample::Index>(), negative: bool) {
            let at = at.index(len);
            let sign = if negative { -1.0 } else { 1.0 };
            for bad in [F16_MAX.next_up(), 1e9, f32::INFINITY, f32::NAN] {
                let mut values = vec![F16_MAX; len];
                values[at] = bad * sign;
                let result = encode(Codec::F16, &values, 1, &mut vec![0; 2 * len]);
                prop_assert!(result.is_err());
            }
            for bad in [0x7c00u16, 0x7c01, 0x7fff, 0xfc00, 0xffff] {
                let mut cells = vec![[0xff, 0x7b]; len];
                cells[at] = bad.to_le_bytes();
                prop_assert_eq!(decode_f16(cells.as_flattened(), &mut vec![0.0; len]), Err(CodecError::NotFinite));
            }
        }
    }
}
