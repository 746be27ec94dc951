//! F16: each value rounded to binary16, ties to even.
//!
//! Written without branches, so that the compiler vectorises it where the processor has no such instruction too.

use super::CodecError;

/// Writes `values`, two bytes each; what does not fit in `out` is left out. Magnitudes above
/// [`F16_MAX`](super::F16_MAX) give unspecified bytes: [`choose`](super::choose) keeps them away.
///
/// The naive code: `out[2 * i..][..2] = half::f16::from_f32(values[i]).to_le_bytes()`.
pub fn encode_f16(values: &[f32], out: &mut [u8]) {
    for (bytes, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *bytes = f16_from_f32(value).to_le_bytes();
    }
}

/// Reads as many values as `payload` and `out` both hold.
///
/// # Errors
/// A value that is not finite.
pub fn decode_f16(payload: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    let cells = payload.as_chunks::<2>().0;
    for (value, bytes) in out.iter_mut().zip(cells) {
        *value = f16_to_f32(u16::from_le_bytes(*bytes));
    }
    // SPEC 3.6
    // Adding the exponent's last bit carries into the sign where all bits of the exponent are set.
    let carry = |seen, bytes: &[u8; 2]| seen | ((u16::from_le_bytes(*bytes) & 0x7fff) + 0x400);
    if cells.iter().fold(0, carry) >> 15 == 0 { Ok(()) } else { Err(CodecError::NotFinite) }
}

/// The binary16 bits of a finite `x` with `|x| <= 65504`, ties to even; other values give unspecified bits.
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
    use crate::codec::F16_MAX;

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
        fn slices_are_converted_value_by_value(values in prop::collection::vec(-F16_MAX..=F16_MAX, 0..70)) {
            let mut bytes = vec![0; 2 * values.len()];
            encode_f16(&values, &mut bytes);
            let naive: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            prop_assert_eq!(bytes, naive);
        }
    }
}
