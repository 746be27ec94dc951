//! What the last node of a route answers: the most likely tokens of each position, or all logits of one.
//!
//! ```text
//! codec Top, k columns, each row:   0 log_sum_exp f32 | 4 zero u32 | 8 k x (id u32 | logit f32)
//! codec F32, one position:          vocab x f32, padded by -inf to the cells of logits_grid(vocab)
//! ```
//! Entries go by falling logit, equal ones by rising id. `logit - log_sum_exp` is the token's log-probability over the
//! whole vocabulary, so a sampler needs no other number.

use core::fmt;

use crate::codec::wide::wide;
use crate::exp::log_sum_exp;

/// Rows and columns that `vocab` logits are laid out in, because a frame has at most 65,535 columns.
///
/// `rows = ceil(vocab / 65535)`, `cols = ceil(vocab / rows)`; (0, 0) for an empty vocabulary. Rows are cut at 65,535,
/// which no payload length can hold anyway.
///
/// ```
/// assert_eq!(syn1_core::logits_grid(50_257), (1, 50_257));
/// assert_eq!(syn1_core::logits_grid(100_001), (2, 50_001));
/// ```
#[must_use]
pub fn logits_grid(vocab: u32) -> (u16, u16) {
    let rows = u16::try_from(vocab.div_ceil(u32::from(u16::MAX))).unwrap_or(u16::MAX);
    let cols = vocab.checked_div(u32::from(rows)).map_or(0, |_| vocab.div_ceil(u32::from(rows.max(1))));
    (rows, u16::try_from(cols).unwrap_or(u16::MAX))
}

/// Writes the row of the `k` largest of `logits` (their index is the token id) and says how many bytes it took.
///
/// ```
/// use syn1_core::output::top_encode;
///
/// let mut payload = [0; 100];
/// assert_eq!(top_encode(&[0.5, 2.0, -1.0], 2, &mut payload)?, 8 + 2 * 8);
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
///
/// # Errors
/// `k` is 0 or more than there are logits, `out` is too short, or a logit is NaN or +inf, or all are -inf.
pub fn top_encode(logits: &[f32], k: u16, out: &mut [u8]) -> Result<usize, OutputError> {
    let vocab = u32::try_from(logits.len()).unwrap_or(u32::MAX);
    let entries = usize::from(k);
    if k == 0 || entries > logits.len() {
        return Err(OutputError::Top { k, vocab });
    }
    let (need, have) = (8 + 8 * entries, out.len());
    let short = OutputError::Buffer { need, have };
    let (head, body) = out.get_mut(..need).and_then(<[u8]>::split_first_chunk_mut).ok_or(short)?;
    // SPEC 4.4
    let total = log_sum_exp(logits).ok_or(OutputError::NotFinite)?;
    // SPEC 4.1
    *head = u64::from(total.to_bits()).to_le_bytes();
    select(logits, body.as_chunks_mut().0);
    Ok(need)
}

/// The rows of a Top payload.
///
/// ```
/// # let mut buffer = [0; 24];
/// # syn1_core::output::top_encode(&[0.5, 2.0, -1.0], 2, &mut buffer)?;
/// # let payload = &buffer;
/// use syn1_core::output::top_decode;
///
/// let row = top_decode(payload, 2, 3)?.next().expect("one row");
/// assert!(row.entries().eq([(1, 2.0), (0, 0.5)]));
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
///
/// # Errors
/// A length that does not fit the shape, an id outside the vocabulary, entries out of order, or a number that is not
/// finite (a logit may be -inf).
pub fn top_decode(payload: &[u8], k: u16, vocab: u32) -> Result<TopRows<'_>, OutputError> {
    let row = 8 + 8 * usize::from(k);
    if k == 0 || !payload.len().is_multiple_of(row) {
        return Err(OutputError::Length { have: payload.len(), row });
    }
    let rows = TopRows(payload.chunks_exact(row));
    rows.clone().try_for_each(|row| row.check(vocab))?;
    Ok(rows)
}

/// Iterator over the rows of a Top payload, the first of which is the distribution after the frame's position.
///
/// ```
/// # let mut buffer = [0; 24];
/// # syn1_core::output::top_encode(&[0.5, 2.0, -1.0], 2, &mut buffer)?;
/// # let payload = &buffer;
/// use syn1_core::output::top_decode;
///
/// assert_eq!(top_decode(payload, 2, 3)?.count(), 1);
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TopRows<'a>(core::slice::ChunksExact<'a, u8>);

impl<'a> Iterator for TopRows<'a> {
    type Item = TopRow<'a>;

    fn next(&mut self) -> Option<TopRow<'a>> {
        self.0.next().map(TopRow)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for TopRows<'_> {}

/// The most likely tokens after one position.
///
/// ```
/// # let mut buffer = [0; 24];
/// # syn1_core::output::top_encode(&[0.5, 2.0, -1.0], 2, &mut buffer)?;
/// # let payload = &buffer;
/// use syn1_core::output::top_decode;
///
/// let row = top_decode(payload, 2, 3)?.next().expect("one row");
/// let (id, logit) = row.entries().next().expect("k is at least 1");
/// let probability = (logit - row.log_sum_exp()).exp();
/// assert!(id == 1 && (probability - 0.786).abs() < 0.001);
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TopRow<'a>(&'a [u8]);

impl<'a> TopRow<'a> {
    /// The natural logarithm of the sum of `exp(logit)` over the whole vocabulary.
    ///
    /// ```
    /// # let mut buffer = [0; 24];
    /// # syn1_core::output::top_encode(&[0.5, 2.0, -1.0], 2, &mut buffer)?;
    /// # let payload = &buffer;
    /// # let row = syn1_core::output::top_decode(payload, 2, 3)?.next().expect("one row");
    /// let naive = (0.5f32.exp() + 2.0f32.exp() + (-1.0f32).exp()).ln();
    /// assert!((row.log_sum_exp() - naive).abs() < 1e-6);
    /// # Ok::<(), syn1_core::OutputError>(())
    /// ```
    #[must_use]
    pub fn log_sum_exp(&self) -> f32 {
        self.0.first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes))
    }

    /// Token ids and their logits, the most likely first.
    ///
    /// ```
    /// # let mut buffer = [0; 24];
    /// # syn1_core::output::top_encode(&[0.5, 2.0, -1.0], 2, &mut buffer)?;
    /// # let payload = &buffer;
    /// # let row = syn1_core::output::top_decode(payload, 2, 3)?.next().expect("one row");
    /// assert!(row.entries().eq([(1, 2.0), (0, 0.5)]));
    /// # Ok::<(), syn1_core::OutputError>(())
    /// ```
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u32, f32)> + Clone + use<'a> {
        self.0.as_chunks::<8>().0.get(1..).unwrap_or_default().iter().map(split_entry)
    }

    fn check(self, vocab: u32) -> Result<(), OutputError> {
        let reserved = self.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head) >> 32);
        // SPEC 4.3
        if !self.log_sum_exp().is_finite() || reserved != 0 {
            return Err(OutputError::Head);
        }
        let mut before: Option<(u32, f32)> = None;
        for (id, logit) in self.entries() {
            if id >= vocab {
                return Err(OutputError::Id { id, vocab });
            }
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(OutputError::NotFinite);
            }
            if before.is_some_and(|(last, least)| logit > least || (logit == least && id <= last)) {
                return Err(OutputError::Order { id });
            }
            before = Some((id, logit));
        }
        Ok(())
    }
}

/// Writes all `logits` of one position and the padding to their grid, and says how many bytes that took.
///
/// ```
/// use syn1_core::output::full_encode;
///
/// let mut payload = [0; 12];
/// assert_eq!(full_encode(&[0.5, 2.0, -1.0], &mut payload)?, 12);
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
///
/// # Errors
/// `out` is too short, or a logit is NaN or +inf, or all are -inf.
pub fn full_encode(logits: &[f32], out: &mut [u8]) -> Result<usize, OutputError> {
    let (rows, cols) = logits_grid(u32::try_from(logits.len()).unwrap_or(u32::MAX));
    let cells = usize::from(rows) * usize::from(cols);
    let (need, have) = (4 * cells, out.len());
    let out = out.get_mut(..need).ok_or(OutputError::Buffer { need, have })?;
    // SPEC 4.4
    log_sum_exp(logits).ok_or(OutputError::NotFinite)?;
    // SPEC 4.5
    let padded = logits.iter().chain(core::iter::repeat(&f32::NEG_INFINITY));
    for (bytes, logit) in out.as_chunks_mut().0.iter_mut().zip(padded) {
        *bytes = logit.to_le_bytes();
    }
    Ok(need)
}

/// Reads all logits of one position; `out` has as many entries as the vocabulary.
///
/// ```
/// use syn1_core::output::{full_decode, full_encode};
///
/// let (mut payload, mut logits) = ([0; 12], [0.0; 3]);
/// full_encode(&[0.5, 2.0, -1.0], &mut payload)?;
/// full_decode(&payload, &mut logits)?;
/// assert_eq!(logits, [0.5, 2.0, -1.0]);
/// # Ok::<(), syn1_core::OutputError>(())
/// ```
///
/// # Errors
/// A length that does not fit the vocabulary, a NaN or +inf, or padding that is not -inf.
pub fn full_decode(payload: &[u8], out: &mut [f32]) -> Result<(), OutputError> {
    let (rows, cols) = logits_grid(u32::try_from(out.len()).unwrap_or(u32::MAX));
    let row = 4 * usize::from(rows) * usize::from(cols);
    if payload.len() != row {
        return Err(OutputError::Length { have: payload.len(), row });
    }
    let mut cells = payload.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut sound = true;
    for (logit, cell) in out.iter_mut().zip(&mut cells) {
        *logit = cell;
        sound &= cell < f32::INFINITY;
    }
    // SPEC 4.6
    sound &= cells.all(|cell| cell == f32::NEG_INFINITY);
    if sound { Ok(()) } else { Err(OutputError::NotFinite) }
}

/// Why an output payload could not be written or read.
///
/// ```
/// use syn1_core::OutputError;
/// use syn1_core::output::top_encode;
///
/// let error = top_encode(&[0.5, f32::NAN], 1, &mut [0; 100]).unwrap_err();
/// assert_eq!(error, OutputError::NotFinite);
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum OutputError {
    /// More or fewer tokens asked for than there are.
    Top {
        /// Tokens asked for.
        k: u16,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// The caller's output is too short.
    Buffer {
        /// Bytes needed.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// The payload is not whole rows.
    Length {
        /// Bytes of the payload.
        have: usize,
        /// Bytes of a row.
        row: usize,
    },
    /// A row's log-sum-exp is not finite, or its reserved word is not 0.
    Head,
    /// A logit is NaN or +inf, all are -inf, or padding is not.
    NotFinite,
    /// A token id outside the vocabulary.
    Id {
        /// The id.
        id: u32,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// An entry that belongs in front of the one before it.
    Order {
        /// Its token id.
        id: u32,
    },
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Top { k, vocab } => write!(f, "the top {k} of {vocab} tokens were asked for: ask for 1 to {vocab}"),
            Self::Buffer { need, have } => write!(f, "the output takes {need} bytes and {have} were given"),
            Self::Length { have, row } => write!(f, "{have} bytes of output are not whole rows of {row}"),
            Self::Head => f.write_str("an output row's log-sum-exp is not finite or its reserved word is not 0"),
            Self::NotFinite => f.write_str("a logit is NaN or infinite: a layer before it computed garbage"),
            Self::Id { id, vocab } => write!(f, "token id {id} is outside the vocabulary of {vocab}"),
            Self::Order { id } => write!(f, "the output's token {id} is out of order"),
        }
    }
}

impl core::error::Error for OutputError {}

/// Fills `best` with the entries of the largest logits. Nearly every logit fails the comparison with the least entry, so
/// this is one scan of the logits with a few insertions. Sorting is done by the heap itself: the standard library's sort
/// takes 4 KiB of code and may panic, which firmware must not.
fn select(logits: &[f32], best: &mut [[u8; 8]]) {
    let mut next = 0u32;
    for (slot, logit) in best.iter_mut().zip(logits) {
        *slot = entry(next, *logit);
        next += 1;
    }
    for at in (0..best.len() / 2).rev() {
        sink(best, at);
    }
    let least = |best: &[[u8; 8]]| best.first().map_or(f32::INFINITY, |root| split_entry(root).1);
    let mut bar = least(best);
    let mut rest = logits.get(best.len()..).unwrap_or_default();
    loop {
        let skipped = wide!(passed(rest, bar));
        let Some((&logit, behind)) = rest.get(skipped..).and_then(<[f32]>::split_first) else { break };
        next = next.wrapping_add(skipped as u32);
        if let Some(root) = best.first_mut() {
            *root = entry(next, logit);
        }
        sink(best, 0);
        bar = least(best);
        (rest, next) = (behind, next.wrapping_add(1));
    }
    // The last of those that are left goes behind the others, until one is left.
    let mut heap = best;
    while let [root, .., end] = heap {
        core::mem::swap(root, end);
        let [shorter @ .., _] = heap else { return };
        sink(shorter, 0);
        heap = shorter;
    }
}

/// Logits in front of the first above `bar`: all of them where there is none.
#[inline(always)]
fn passed(logits: &[f32], bar: f32) -> usize {
    let mut passed = 0;
    for stripe in logits.chunks(STRIPE) {
        if stripe.iter().fold(0, |above, &logit| above | u32::from(logit > bar)) != 0 {
            return passed + stripe.iter().take_while(|&&logit| logit <= bar).count();
        }
        passed += stripe.len();
    }
    passed
}

/// Logits that are compared before it matters which of them is above the bar.
const STRIPE: usize = 64;

/// Lets the entry at `at` sink in a heap that has, at each place, an entry which comes behind those below it.
fn sink(heap: &mut [[u8; 8]], mut at: usize) {
    let Some(&sinking) = heap.get(at) else { return };
    loop {
        let (mut last, mut place) = (sinking, at);
        for child in [2 * at + 1, 2 * at + 2] {
            if let Some(entry) = heap.get(child).filter(|entry| comes_behind(entry, &last)) {
                (last, place) = (*entry, child);
            }
        }
        if let Some(entry) = heap.get_mut(at) {
            *entry = last;
        }
        if place == at {
            return;
        }
        at = place;
    }
}

/// Whether entry `a` stands behind `b` in a row.
fn comes_behind(a: &[u8; 8], b: &[u8; 8]) -> bool {
    let ((a_id, a), (b_id, b)) = (split_entry(a), split_entry(b));
    // SPEC 4.2
    a < b || (a == b && a_id > b_id)
}

fn entry(id: u32, logit: f32) -> [u8; 8] {
    (u64::from(logit.to_bits()) << 32 | u64::from(id)).to_le_bytes()
}

fn split_entry(bytes: &[u8; 8]) -> (u32, f32) {
    let bits = u64::from_le_bytes(*bytes);
    (bits as u32, f32::from_bits((bits >> 32) as u32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Codec, encoded_len};

    fn top(logits: &[f32], k: u16) -> Vec<u8> {
        let mut out = vec![0xee; 8 + 8 * usize::from(k)];
        assert_eq!(top_encode(logits, k, &mut out), Ok(out.len()));
        out
    }

    #[test]
    fn golden_row() {
        let mut golden = 0.0f32.to_le_bytes().to_vec();
        golden.extend([0; 4]);
        golden.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([0, 0, 0, 0, 0, 0, 0x80, 0xff]);
        assert_eq!(top(&[f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0], 2), golden);
    }

    proptest! {
        #[test]
        fn entries_are_those_of_a_sort(
            logits in prop::collection::vec(prop_oneof![-9.0..9f32, (-2..3i8).prop_map(f32::from), Just(-0.0)], 1..400),
            k in prop_oneof![1..40u16, 1..400u16],
        ) {
            let k = k.min(logits.len() as u16);
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
            sorted.truncate(k.into());
            let payload = [top(&logits, k), top(&logits, k)].concat();
            prop_assert_eq!(Some(payload.len() as u32), encoded_len(Codec::Top, 2, k));
            let rows = top_decode(&payload, k, logits.len() as u32).unwrap();
            prop_assert_eq!(rows.len(), 2);
            for row in rows {
                prop_assert_eq!(Some(row.log_sum_exp()), log_sum_exp(&logits));
                prop_assert_eq!(row.entries().collect::<Vec<_>>(), sorted.clone());
            }
        }

        #[test]
        fn garbage_never_panics(payload: Vec<u8>, k: u16, vocab: u32) {
            for k in [k, k % 4] {
                let _any = top_decode(&payload, k, vocab);
            }
        }

        #[test]
        fn a_grid_holds_the_vocabulary_with_less_than_a_row_to_spare(vocab in prop_oneof![1..400_000u32, Just(65_535), Just(65_536)]) {
            let (rows, cols) = logits_grid(vocab);
            let cells = u32::from(rows) * u32::from(cols);
            prop_assert!(cells >= vocab && cells - vocab < u32::from(rows));
            prop_assert_eq!(rows > 1, vocab > 65_535);
        }
    }

    #[test]
    fn vocabularies_at_the_edges_have_a_grid_without_panic() {
        assert_eq!(logits_grid(0), (0, 0));
        assert_eq!(logits_grid(1), (1, 1));
        assert_eq!(logits_grid(50_257), (1, 50_257));
        assert_eq!(logits_grid(65_536), (2, 32_768));
        assert_eq!(logits_grid(u32::MAX), (u16::MAX, u16::MAX));
    }

    #[test]
    fn full_logits_come_back_and_padding_is_checked() {
        let logits: Vec<f32> = (0..65_537u32).map(|i| i as f32 / 7.0).collect();
        let mut payload = vec![0; 4 * 2 * 32_769];
        assert_eq!(full_encode(&logits, &mut payload), Ok(payload.len()));
        let mut back = vec![0.0; logits.len()];
        full_decode(&payload, &mut back).unwrap();
        assert_eq!(back, logits);
        assert!(matches!(full_decode(&payload[4..], &mut back), Err(OutputError::Length { .. })));
        let last = payload.len() - 4;
        payload[last..].copy_from_slice(&0.0f32.to_le_bytes());
        assert_eq!(full_decode(&payload, &mut back), Err(OutputError::NotFinite));
        payload[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(full_decode(&payload, &mut back), Err(OutputError::NotFinite));
    }

    #[test]
    fn every_rule_of_a_row_is_checked() {
        let row = top(&[3.0, 2.0, 2.0, 1.0], 3);
        let with = |at: usize, bytes: &[u8]| {
            let mut spoilt = row.clone();
            spoilt[at..at + bytes.len()].copy_from_slice(bytes);
            top_decode(&spoilt, 3, 4).err()
        };
        assert_eq!(with(0, &[]), None);
        assert_eq!(with(0, &f32::INFINITY.to_le_bytes()), Some(OutputError::Head));
        assert_eq!(with(4, &[1]), Some(OutputError::Head));
        assert_eq!(with(8, &[4]), Some(OutputError::Id { id: 4, vocab: 4 }));
        assert_eq!(with(12, &f32::NAN.to_le_bytes()), Some(OutputError::NotFinite));
        assert_eq!(with(20, &4.0f32.to_le_bytes()), Some(OutputError::Order { id: 1 }));
        assert_eq!(with(24, &[0]), Some(OutputError::Order { id: 0 }));
        assert!(matches!(top_decode(&row[1..], 3, 4), Err(OutputError::Length { .. })));
        assert!(top_decode(&[], 0, 4).is_err());
    }

    #[test]
    fn what_can_not_be_written_is_refused() {
        assert_eq!(top_encode(&[1.0], 2, &mut [0; 99]), Err(OutputError::Top { k: 2, vocab: 1 }));
        assert_eq!(top_encode(&[1.0], 0, &mut [0; 99]), Err(OutputError::Top { k: 0, vocab: 1 }));
        assert_eq!(top_encode(&[1.0], 1, &mut [0; 15]), Err(OutputError::Buffer { need: 16, have: 15 }));
        assert_eq!(top_encode(&[1.0, f32::NAN], 1, &mut [0; 99]), Err(OutputError::NotFinite));
        assert_eq!(full_encode(&[1.0, f32::NAN], &mut [0; 99]), Err(OutputError::NotFinite));
    }
}
