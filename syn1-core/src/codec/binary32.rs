//! F32: each value as its four bytes.

use super::CodecError;

/// Writes `values`, four bytes each; what does not fit in `out` is left out.
///
/// The naive code: `out[4 * i..][..4] = values[i].to_le_bytes()`.
pub fn encode_f32(values: &[f32], out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// Reads as many values as `payload` and `out` both hold.
///
/// # Errors
/// A value that is not finite.
pub fn decode_f32(payload: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    let mut max = 0;
    for (value, bytes) in out.iter_mut().zip(payload.as_chunks::<4>().0) {
        let bits = u32::from_le_bytes(*bytes);
        max = max.max((bits & 0x7fff_ffff).cast_signed());
        *value = f32::from_bits(bits);
    }
    if max < INFINITY { Ok(()) } else { Err(CodecError::NotFinite) }
}

const INFINITY: i32 = 0x7f80_0000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finite_values_come_back_bit_by_bit(values: Vec<f32>) {
            let mut bytes = vec![0; 4 * values.len()];
            encode_f32(&values, &mut bytes);
            let mut back = vec![0.0; values.len()];
            let result = decode_f32(&bytes, &mut back);
            let naive: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            prop_assert_eq!(bytes, naive);
            prop_assert_eq!(result.is_ok(), values.iter().all(|value| value.is_finite()));
            prop_assert!(back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
