//! Ids: token ids as u32.

/// Writes `ids`, four bytes each, and says how many bytes they took; what does not fit in `out` is left out.
///
/// ```
/// let mut payload = [0; 8];
/// assert_eq!(syn1_core::codec::encode_ids(&[1, 50_256], &mut payload), 8);
/// assert_eq!(payload, [1, 0, 0, 0, 0x50, 0xc4, 0, 0]);
/// ```
pub fn encode_ids(ids: &[u32], out: &mut [u8]) -> usize {
    let mut written = 0;
    for (bytes, id) in out.as_chunks_mut::<4>().0.iter_mut().zip(ids) {
        // SPEC 3.19
        *bytes = id.to_le_bytes();
        written += 4;
    }
    written
}

/// The ids of a Tokens payload, in order.
///
/// ```
/// let payload = [1, 0, 0, 0, 0x50, 0xc4, 0, 0];
/// assert!(syn1_core::codec::ids(&payload).eq([1, 50_256]));
/// ```
pub fn ids(payload: &[u8]) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
    payload.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_in_order() {
        let mut out = [0; 12];
        assert_eq!(encode_ids(&[1, u32::MAX, 50256], &mut out), 12);
        assert_eq!(ids(&out).collect::<Vec<_>>(), [1, u32::MAX, 50256]);
    }

    #[test]
    fn a_short_output_takes_whole_ids_only() {
        assert_eq!(encode_ids(&[1, 2, 3], &mut [0; 11]), 8);
    }
}
