//! F32: each value as its four bytes.

use super::wide::wide;
use super::{CodecError, exceeds};

/// Writes `values`, four bytes each; what does not fit in `out` is left out.
///
/// The naive code: `out[4 * i..][..4] = values[i].to_le_bytes()`.
///
/// ```
/// let mut payload = [0; 8];
/// syn1_core::codec::encode_f32(&[1.0, -2.0], &mut payload);
/// assert_eq!(payload[..4], 1.0f32.to_le_bytes());
/// ```
pub fn encode_f32(values: &[f32], out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// Reads as many values as `payload` and `out` both hold.
///
/// ```
/// use syn1_core::codec::decode_f32;
/// use syn1_core::CodecError;
///
/// let mut values = [0.0];
/// decode_f32(&1.5f32.to_le_bytes(), &mut values)?;
/// assert_eq!(values, [1.5]);
/// assert_eq!(decode_f32(&f32::NAN.to_le_bytes(), &mut values), Err(CodecError::NotFinite));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// A value that is not finite.
pub fn decode_f32(payload: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    // SPEC 3.4
    if wide!(read(payload.as_chunks().0, out)) { Ok(()) } else { Err(CodecError::NotFinite) }
}

/// Reads the values and says whether all are finite.
#[inline(always)]
fn read(cells: &[[u8; 4]], out: &mut [f32]) -> bool {
    let values = out.iter_mut().zip(cells).map(|(value, bytes)| {
        *value = f32::from_le_bytes(*bytes);
        value.to_bits()
    });
    !exceeds(values, f32::MAX)
}

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
