//! Compressed: the upper halves of Q8's bytes in rANS.
//!
//! ```text
//! heads rows x 36 | tables rows x u8 | lower halves rows x ceil(cols / 2) | states 10 bytes | words u8...
//! ```
//! Of `body ^ 0x80` the upper 4 bits are a symbol and the lower ones, which are as good as random, stand as they are. Every
//! row names one of 16 fixed tables of frequencies. Column c of each row belongs to state c % 4, of 20 bits; a state takes a
//! byte when it falls below 2^12. The states must come back to where the sender began, with every byte used, so that
//! nearly all damage shows. What a payload decodes to is fixed by its shape.
//!
//! States of 20 bits and not the usual 32 save 6 bytes a frame, which a frame of one row would have to earn first, and
//! cost less than 0.01 bits a value.
//!
//! rANS: J. Duda, "Asymmetric numeral systems", 2013, <https://arxiv.org/abs/1311.2540>; states side by side: F. Giesen,
//! "Interleaved entropy coders", 2014, <https://arxiv.org/abs/1402.3392>.

use core::num::{NonZeroU8, NonZeroU32};

use super::q8::read_head;
use super::side::read_side;
use super::{CodecError, Q8_OVERHEAD, copy};

/// Bytes of compressed rows without the words.
pub(crate) const fn fixed_len(rows: u16, cols: u16) -> u32 {
    // At most 65535 x 32805 + 10, so no overflow.
    rows as u32 * (Q8_OVERHEAD as u32 + 1 + (cols as u32).div_ceil(2)) + STATES_LEN as u32
}

/// Compresses rows of Q8 into `out` and gives the two parts that the payload is made of, one after the other; `None` when
/// they do not fit. The second is written from the end of `out` forwards, because the last value is coded first.
pub(crate) fn compress<'a>(plain: &[u8], rows: u16, cols: u16, out: &'a mut [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (count, width) = (usize::from(rows), usize::from(cols));
    let (fixed, stream) = out.split_at_mut_checked(usize::try_from(fixed_len(rows, cols)).ok()?)?;
    let mut encoder = Encoder { states: [LOWEST; STATES], start: stream.len(), stream };
    // SPEC 3.31
    let (mut heads, rest) = fixed.split_at_mut_checked(count * Q8_OVERHEAD)?;
    let (tables, rest) = rest.split_at_mut_checked(count)?;
    let (mut lows, states) = rest.split_at_mut_checked(count * width.div_ceil(2))?;
    let states: &mut [u8; STATES_LEN] = states.first_chunk_mut()?;
    let mut plain = plain;
    for table in tables.iter_mut().rev() {
        let (head, body) = pop(&mut plain, Q8_OVERHEAD + width)?.split_at_checked(Q8_OVERHEAD)?;
        copy(head, pop_mut(&mut heads, Q8_OVERHEAD)?);
        pack(body, pop_mut(&mut lows, width.div_ceil(2))?);
        *table = cheapest(body);
        encoder.row(body, TABLES.get(usize::from(*table))?)?;
    }
    for (bytes, [low, high]) in states.as_chunks_mut::<PAIR_LEN>().0.iter_mut().zip(encoder.states.as_chunks().0) {
        copy(&(u64::from(*high) << STATE_BITS | u64::from(*low)).to_le_bytes(), bytes);
    }
    let Encoder { stream, start, .. } = encoder;
    Some((fixed, stream.get(start..)?))
}

/// Reads `rows` x `cols` values from a compressed payload.
///
/// # Errors
/// A length that can't be right, a table that does not exist, a damaged stream, or a row that breaks a rule of Q8.
pub(crate) fn decompress(payload: &[u8], rows: u16, cols: u16, out: &mut [f32]) -> Result<(), CodecError> {
    let (count, width) = (usize::from(rows), usize::from(cols));
    let need = usize::try_from(fixed_len(rows, cols)).unwrap_or(usize::MAX);
    let wrong = CodecError::Length { need, have: payload.len() };
    let (heads, rest) = payload.split_at_checked(count * Q8_OVERHEAD).ok_or(wrong)?;
    let (tables, rest) = rest.split_at_checked(count).ok_or(wrong)?;
    let (mut lows, stream) = rest.split_at_checked(count * width.div_ceil(2)).ok_or(wrong)?;
    let mut decoder = Decoder::new(stream)?;

    let mut out = out;
    for (head, table) in heads.as_chunks().0.iter().zip(tables) {
        let (row, behind) = core::mem::take(&mut out).split_at_mut_checked(width).ok_or(wrong)?;
        let (low, lows_behind) = lows.split_at_checked(width.div_ceil(2)).ok_or(wrong)?;
        (out, lows) = (behind, lows_behind);
        // SPEC 3.34
        decoder.row(TABLES.get(usize::from(*table)).ok_or(CodecError::Table(*table))?, row);
        finish_row(head, low, row)?;
    }
    decoder.finish()
}

/// Values out of the symbols that lie, as bits, in `row`.
fn finish_row(head: &[u8; Q8_OVERHEAD], lows: &[u8], row: &mut [f32]) -> Result<(), CodecError> {
    // SPEC 3.36
    let (scale, side) = read_head(head)?;
    let mut least = u8::MAX;
    let mut value = |symbol: f32, low: u8| {
        let byte = (symbol.to_bits() as u8) << 4 | low;
        least = least.min(byte);
        f32::from((byte ^ 0x80).cast_signed()) * scale
    };
    let (pairs, odd) = row.as_chunks_mut();
    for ([even, odd], low) in pairs.iter_mut().zip(lows) {
        (*even, *odd) = (value(*even, low & 0x0f), value(*odd, low >> 4));
    }
    if let ([x], Some(low)) = (odd, lows.last()) {
        *x = value(*x, low & 0x0f);
        if low >> 4 != 0 {
            return Err(CodecError::Padding);
        }
    }
    if least == 0 {
        return Err(CodecError::Minus128);
    }
    read_side(side, row)
}

/// The four states and the words in front of which the next one goes.
struct Encoder<'a> {
    states: [u32; STATES],
    stream: &'a mut [u8],
    start: usize,
}

impl Encoder<'_> {
    /// Codes a row, from its last value to its first. On its own, as the decoder's: tables take stack.
    #[inline(never)]
    fn row(&mut self, body: &[u8], table: &[u8; SYMBOLS]) -> Option<()> {
        let mut sum = 0;
        let codes = table.map(|frequency| {
            let code = Code::new(frequency, sum);
            sum += u32::from(frequency);
            code
        });
        let (fours, tail) = body.as_chunks::<STATES>();
        for bytes in core::iter::once(tail).chain(fours.iter().rev().map(<[u8; STATES]>::as_slice)) {
            for (state, byte) in self.states.iter_mut().zip(bytes).rev() {
                let code = codes[usize::from((byte ^ 0x80) >> 4)];
                // Written whether it counts or not: whether it does is as good as random, and a branch would be mispredicted.
                let full = *state >= code.frequency << (STATE_BITS - SCALE_BITS);
                let at = self.start.checked_sub(1)?;
                *self.stream.get_mut(at)? = *state as u8;
                self.start = if full { at } else { self.start };
                *state >>= 8 * u32::from(full);
                *state = code.push(*state);
            }
        }
        Some(())
    }
}

/// How to code one symbol.
#[derive(Clone, Copy)]
struct Code {
    frequency: u32,
    sum: u32,
    /// 2^28 / frequency, rounded up: dividing a state below 2^20 is a multiplication, and exact.
    reciprocal: u32,
}

impl Code {
    fn new(frequency: u8, sum: u32) -> Self {
        let divisor = NonZeroU32::from(NonZeroU8::new(frequency).unwrap_or(NonZeroU8::MIN));
        Self { frequency: frequency.into(), sum, reciprocal: ((1 << 28) - 1) / divisor + 1 }
    }

    const fn push(self, state: u32) -> u32 {
        let quotient = ((state as u64 * self.reciprocal as u64) >> 28) as u32;
        // (quotient << 8) + remainder + sum
        quotient.wrapping_mul((1 << SCALE_BITS) - self.frequency).wrapping_add(state).wrapping_add(self.sum)
    }
}

/// The states, and the words with the place of the next one.
struct Decoder<'a> {
    states: [u32; STATES],
    words: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn new(stream: &'a [u8]) -> Result<Self, CodecError> {
        let (bytes, words) = stream.split_first_chunk::<STATES_LEN>().ok_or(CodecError::Entropy)?;
        let mut states = [0; STATES];
        for (bytes, [low, high]) in bytes.as_chunks::<PAIR_LEN>().0.iter().zip(states.as_chunks_mut().0) {
            let mut pair = [0; 8];
            copy(bytes, &mut pair);
            let pair = u64::from_le_bytes(pair);
            (*low, *high) = (pair as u32 & ((1 << STATE_BITS) - 1), (pair >> STATE_BITS) as u32);
        }
        // SPEC 3.35
        let sound = states.iter().all(|state| *state >= LOWEST);
        if sound { Ok(Self { states, words, at: 0 }) } else { Err(CodecError::Entropy) }
    }

    /// Reads a row's symbols and leaves them as bits in `out`.
    #[inline(never)]
    fn row(&mut self, table: &[u8; SYMBOLS], out: &mut [f32]) {
        let mut symbols = [0u8; 1 << SCALE_BITS];
        let mut rest = symbols.as_mut_slice();
        let (mut sum, mut symbol) = (0, 0);
        // Frequency and what stands before it, in one word.
        let codes = table.map(|frequency| {
            let code = u32::from(frequency) | sum << 16;
            if let Some((these, behind)) = core::mem::take(&mut rest).split_at_mut_checked(frequency.into()) {
                these.fill(symbol);
                rest = behind;
            }
            sum += u32::from(frequency);
            symbol += 1;
            code
        });
        for values in out.chunks_mut(STATES) {
            let mut window = self.window();
            for (state, value) in self.states.iter_mut().zip(values) {
                let slot = *state as u8;
                let symbol = symbols[usize::from(slot)];
                let code = codes[usize::from(symbol & 15)];
                let above = (code & 0xffff).wrapping_mul(*state >> SCALE_BITS);
                let next = above.wrapping_add(u32::from(slot)).wrapping_sub(code >> 16);
                // No branch: whether a word is due is as good as random.
                let due = next < LOWEST;
                *state = if due { next << 8 | window & 0xff } else { next };
                window = if due { window >> 8 } else { window };
                self.at += usize::from(due);
                *value = f32::from_bits(symbol.into());
            }
        }
    }

    /// The next words, of which one per state may be due; zeros behind the last, which [`finish`](Self::finish) notices.
    fn window(&self) -> u32 {
        let rest = self.words.get(self.at..).unwrap_or_default();
        if let Some(bytes) = rest.first_chunk() {
            return u32::from_le_bytes(*bytes);
        }
        rest.iter().rev().fold(0, |window, byte| window << 8 | u32::from(*byte))
    }

    fn finish(self) -> Result<(), CodecError> {
        // SPEC 3.35
        let whole = self.at == self.words.len() && self.states == [LOWEST; STATES];
        if whole { Ok(()) } else { Err(CodecError::Entropy) }
    }
}

/// Writes the lower halves of a row's bytes, two in a byte.
fn pack(body: &[u8], lows: &mut [u8]) {
    let (pairs, odd) = body.as_chunks();
    for (low, [even, odd]) in lows.iter_mut().zip(pairs) {
        *low = even & 0x0f | odd << 4;
    }
    if let ([byte], Some(low)) = (odd, lows.last_mut()) {
        *low = byte & 0x0f;
    }
}

/// The table that codes a row in the fewest bits.
#[inline(never)]
fn cheapest(body: &[u8]) -> u8 {
    let mut counts = [[0u32; SYMBOLS]; 2];
    for pair in body.chunks(2) {
        for (counts, byte) in counts.iter_mut().zip(pair) {
            counts[usize::from((byte ^ 0x80) >> 4)] += 1;
        }
    }
    let [first, second] = counts;
    let cost = |costs: &[u8; SYMBOLS]| {
        first.iter().zip(second).zip(costs).map(|((first, second), cost)| (first + second) * u32::from(*cost)).sum()
    };
    let mut best = (u32::MAX, 0);
    for (costs, table) in COSTS.iter().zip(0..) {
        best = best.min((cost(costs), table));
    }
    best.1
}

/// Takes the last `len` bytes.
fn pop<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (rest, last) = bytes.split_at_checked(bytes.len().checked_sub(len)?)?;
    *bytes = rest;
    Some(last)
}

/// Takes the last `len` bytes.
fn pop_mut<'a>(bytes: &mut &'a mut [u8], len: usize) -> Option<&'a mut [u8]> {
    let at = bytes.len().checked_sub(len)?;
    let (rest, last) = core::mem::take(bytes).split_at_mut_checked(at)?;
    *bytes = rest;
    Some(last)
}

/// Frequencies of the symbols in 256, the steepest first: bells exp(-(|x| / w)^p), chosen one after another so that they save
/// most on rows of a small GPT-2 and on normal, Laplace and Student-t rows of 256 to 4096 columns.
#[rustfmt::skip]
const TABLES: [[u8; SYMBOLS]; 16] = [
    [1, 1, 1, 1, 1, 1, 1, 121, 121, 1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 3, 15, 105, 105, 15, 3, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 2, 6, 19, 97, 97, 19, 6, 2, 1, 1, 1, 1],
    [1, 1, 1, 2, 4, 11, 30, 78, 78, 30, 11, 4, 2, 1, 1, 1],
    [1, 1, 1, 3, 7, 15, 32, 68, 68, 32, 15, 7, 3, 1, 1, 1],
    [1, 2, 3, 5, 10, 17, 32, 58, 58, 32, 17, 10, 5, 3, 2, 1],
    [1, 1, 2, 4, 10, 21, 36, 53, 53, 36, 21, 10, 4, 2, 1, 1],
    [2, 3, 5, 7, 12, 19, 31, 49, 49, 31, 19, 12, 7, 5, 3, 2],
    [1, 2, 4, 8, 14, 22, 33, 44, 44, 33, 22, 14, 8, 4, 2, 1],
    [3, 4, 7, 9, 14, 20, 29, 42, 42, 29, 20, 14, 9, 7, 4, 3],
    [1, 2, 5, 10, 16, 25, 32, 37, 37, 32, 25, 16, 10, 5, 2, 1],
    [3, 5, 8, 12, 17, 22, 28, 33, 33, 28, 22, 17, 12, 8, 5, 3],
    [2, 4, 7, 11, 17, 24, 30, 33, 33, 30, 24, 17, 11, 7, 4, 2],
    [4, 7, 9, 13, 17, 22, 26, 30, 30, 26, 22, 17, 13, 9, 7, 4],
    [6, 8, 10, 13, 17, 21, 25, 28, 28, 25, 21, 17, 13, 10, 8, 6],
    [16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16],
];

/// Bits that a symbol takes under each table, in sixteenths, rounded down.
const COSTS: [[u8; SYMBOLS]; 16] = {
    let mut costs = [[0; SYMBOLS]; 16];
    let mut table = 0;
    while table < costs.len() {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            costs[table][symbol] = cost(TABLES[table][symbol]);
            symbol += 1;
        }
        table += 1;
    }
    costs
};

/// 16 log2(256 / frequency): the logarithm of the 16th power.
const fn cost(frequency: u8) -> u8 {
    let square = frequency as u128 * frequency as u128;
    let fourth = square * square;
    let eighth = fourth * fourth;
    128 - (eighth * eighth).ilog2() as u8
}

const _: () = {
    let mut table = 0;
    while table < TABLES.len() {
        let (mut sum, mut symbol) = (0, 0);
        while symbol < SYMBOLS {
            assert!(TABLES[table][symbol] > 0, "every symbol can be coded");
            sum += TABLES[table][symbol] as u32;
            symbol += 1;
        }
        assert!(sum == 1 << SCALE_BITS);
        table += 1;
    }
};

const SYMBOLS: usize = 16;

/// Bits of the sum of a table's frequencies.
const SCALE_BITS: u32 = 8;

/// States side by side, so that a processor has four chains of dependent steps to work on.
const STATES: usize = 4;

/// States lie from here to below 2^20, between one byte's reading and the next.
const LOWEST: u32 = 1 << 12;

/// Bits of a state.
const STATE_BITS: u32 = 20;

/// Bytes of two states.
const PAIR_LEN: usize = 2 * STATE_BITS as usize / 8;

const STATES_LEN: usize = STATES / 2 * PAIR_LEN;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{Codec, decode, encode};

    fn plain(values: &[f32], cols: u16) -> Vec<u8> {
        let mut out = vec![0; 36 * values.len() / usize::from(cols) + values.len()];
        encode(Codec::Q8, values, cols, &mut out).unwrap();
        out
    }

    /// Compressed with room to spare, so that what gets longer is coded too.
    fn compressed(plain: &[u8], rows: u16, cols: u16) -> Vec<u8> {
        let mut out = vec![0xee; 2 * plain.len() + 100 * usize::from(rows)];
        let (fixed, stream) = compress(plain, rows, cols, &mut out).unwrap();
        [fixed, stream].concat()
    }

    fn decompressed(payload: &[u8], rows: u16, cols: u16) -> Result<Vec<u32>, CodecError> {
        let mut out = vec![f32::NAN; usize::from(rows) * usize::from(cols)];
        decompress(payload, rows, cols, &mut out)?;
        Ok(out.iter().map(|x| x.to_bits()).collect())
    }

    /// A sum of twelve uniform numbers is near to normal.
    fn bell(count: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut uniform = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    proptest! {
        #[test]
        fn what_comes_back_is_what_plain_gives(
            values in prop::collection::vec(prop_oneof![9 => -3.0..3.0f32, 1 => -6e4..6e4f32, 1 => Just(0.0f32)], 1..600),
            cols in 1..80u16,
        ) {
            let cols = cols.min(values.len() as u16);
            let rows = values.len() as u16 / cols;
            let values = &values[..usize::from(rows * cols)];
            let plain = plain(values, cols);
            let payload = compressed(&plain, rows, cols);
            prop_assert!(payload.len() as u32 >= fixed_len(rows, cols));
            let mut expected = vec![0.0; values.len()];
            decode(Codec::Q8, &plain, rows, cols, &mut expected).unwrap();
            let expected: Vec<u32> = expected.iter().map(|x| x.to_bits()).collect();
            prop_assert_eq!(decompressed(&payload, rows, cols), Ok(expected));
        }

        #[test]
        fn a_stream_of_another_length_is_refused(cut in 1..20usize) {
            let payload = compressed(&plain(&bell(512), 512), 1, 512);
            prop_assert_eq!(decompressed(&payload[..payload.len() - cut], 1, 512), Err(CodecError::Entropy));
            let longer = [&payload[..], &vec![0; cut]].concat();
            prop_assert_eq!(decompressed(&longer, 1, 512), Err(CodecError::Entropy));
        }

        #[test]
        fn garbage_never_panics(payload in prop::collection::vec(any::<u8>(), 0..300), rows in 0..4u16, cols in 0..70u16) {
            if let Ok(values) = decompressed(&payload, rows, cols) {
                prop_assert!(values.iter().all(|bits| f32::from_bits(*bits).is_finite()));
            }
        }
    }

    #[test]
    fn normal_rows_get_shorter_and_what_does_not_is_left_alone() {
        let rows = plain(&bell(8 * 768), 768);
        let payload = compressed(&rows, 8, 768);
        // Bits of a row's upper halves; their entropy is about 3.6 of 4.
        let upper = (payload.len() as u32 - fixed_len(8, 768)) * 8;
        assert!((f64::from(upper) / (8.0 * 768.0) - 3.62).abs() < 0.03, "{upper} bits");
        let noise: Vec<f32> = (0..768u32).map(|at| (at * 1_327 % 255) as f32 - 127.0).collect();
        let noise = plain(&noise, 768);
        assert_eq!(compress(&noise, 1, 768, &mut vec![0; noise.len() - 1]), None);
    }

    /// A stream that ends as it must is one of other symbols, so some damage is left: at the end, where little follows.
    #[test]
    fn nearly_all_damage_to_a_stream_is_refused() {
        let payload = compressed(&plain(&bell(512), 512), 1, 512);
        let stream = fixed_len(1, 512) as usize - STATES_LEN;
        let mut missed = 0;
        for (at, bit) in (stream..payload.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut spoilt = payload.clone();
            spoilt[at] ^= 1 << bit;
            missed += usize::from(decompressed(&spoilt, 1, 512).is_ok());
        }
        let flips = 8 * (payload.len() - stream);
        assert!(100 * missed < flips, "{missed} of {flips}");
    }

    #[test]
    fn every_table_codes_every_symbol() {
        for table in &TABLES {
            let body: Vec<u8> = (0..=255u8).chain((0..=255).rev()).chain([7; 3]).collect();
            let mut stream = vec![0; 2000];
            let start = stream.len();
            let mut encoder = Encoder { states: [LOWEST; STATES], stream: &mut stream, start };
            encoder.row(&body, table).unwrap();
            let Encoder { states, start, .. } = encoder;
            let mut decoder = Decoder { states, words: &stream[start..], at: 0 };
            let mut out = vec![0.0; body.len()];
            decoder.row(table, &mut out);
            assert!(out.iter().zip(&body).all(|(x, byte)| x.to_bits() == u32::from((byte ^ 0x80) >> 4)));
            assert_eq!(decoder.finish(), Ok(()));
        }
    }

    #[test]
    fn division_by_a_frequency_is_exact() {
        for frequency in 1..=255u8 {
            let code = Code::new(frequency, 0);
            let f = u32::from(frequency);
            let edges = (1..1 << 12).flat_map(|quotient| [quotient * f - 1, quotient * f]);
            for state in edges.filter(|state| *state < f << 12) {
                assert_eq!(code.push(state), ((state / f) << 8) + state % f);
            }
        }
    }

    #[test]
    fn rules_of_q8_hold_for_what_is_compressed() {
        let payload = compressed(&plain(&bell(65), 65), 1, 65);
        let with = |at: usize, bytes: &[u8]| {
            let mut spoilt = payload.clone();
            spoilt[at..at + bytes.len()].copy_from_slice(bytes);
            decompressed(&spoilt, 1, 65).err()
        };
        assert_eq!(with(0, &[]), None);
        assert_eq!(with(0, &(-0.0f32).to_le_bytes()), Some(CodecError::Scale(-0.0)));
        assert_eq!(with(4, &[70]), Some(CodecError::SideIndex { slot: 0, index: 70 }));
        assert_eq!(with(36, &[16]), Some(CodecError::Table(16)));
        assert_eq!(with(37 + 32, &[0xf0]), Some(CodecError::Padding));
        assert_eq!(with(37 + 33, &[0; 3]), Some(CodecError::Entropy));
        // A symbol of 0 with a lower half of 0 is -128.
        let mut bytes = plain(&bell(65), 65);
        bytes[36 + 9] = 0x80;
        assert_eq!(decompressed(&compressed(&bytes, 1, 65), 1, 65), Err(CodecError::Minus128));
    }
}
