//! The same vectors on every machine: what a kernel makes of them, in one number.

use crate::{GROUP, arrange};

/// Groups of the longest row.
const MOST: usize = 33;

/// Bytes from a row to the next: whole words, as packed matrices have it.
const ROW_BYTES: usize = (MOST * (GROUP + 2)).next_multiple_of(4);

/// Rows at whole words, with room to begin beside one.
#[repr(C, align(4))]
struct Rows([u8; 4 * ROW_BYTES + 4]);

#[repr(C, align(4))]
struct Inputs([[i16; GROUP]; MOST]);

/// Has `dot` ([`crate::dot_rows`], or what is to equal it) compute rows of many lengths, at whole words and beside them,
/// with steps, scales and inputs from one end of what they can be to the other, and mixes all sums into one number.
pub fn checksum(mut dot: impl FnMut(&[u8], usize, &[[i16; GROUP]]) -> [i64; 4]) -> u64 {
    let mut random = Random(0x5117);
    let (mut rows, mut inputs) = (Rows([0; _]), Inputs([[0; GROUP]; MOST]));
    let mut mixed = 0xcbf2_9ce4_8422_2325_u64;
    for case in 0..CASES {
        let (groups, kind) = (1 + case % MOST, case % 4);
        let offset = if case % 5 == 4 { 2 } else { 0 };
        let rows = &mut rows.0[offset..];
        for row in rows.chunks_exact_mut(ROW_BYTES) {
            let (steps, scales) = row.split_at_mut(groups * GROUP);
            for step in steps {
                *step = if kind == 0 { 0x80 } else { random.next() as u8 };
            }
            for scale in scales.as_chunks_mut().0.iter_mut().take(groups) {
                // The largest, any, and those without a leading bit.
                let bits = match kind {
                    0 => 0x3fff,
                    1 => random.next() as u16 & 0x03ff,
                    _ => random.next() as u16 & 0x3fff,
                };
                *scale = bits.to_le_bytes();
            }
        }
        let inputs = &mut inputs.0[..groups];
        for input in inputs.as_flattened_mut() {
            *input = if kind == 0 { i16::MIN } else { random.next() as i16 };
        }
        arrange(inputs.as_flattened_mut());
        let sums = dot(rows, ROW_BYTES, inputs);
        for byte in sums.into_iter().flat_map(i64::to_le_bytes) {
            // FNV-1a.
            mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mixed
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Every length with every kind, at whole words and beside them.
const CASES: usize = 5 * 4 * MOST;
