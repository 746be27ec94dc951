//! Whether two nodes computed the same: how far apart two answers may lie, and how far they do.
//!
//! Two honest nodes differ by what the wire rounds, and by what their kernels add up in another order or round on their way. A
//! value is therefore measured by its own size and its row's usual one, whichever is more: a few columns of a residual stream
//! are hundreds of times as large as the others, and would hide them.

use syn1_core::output::{full_decode, top_decode};
use syn1_core::{Codec, Form, Frame, Header, Inbound, Kind, codec};
use syn1_model::plan::WeightFormat;

/// What a node answers for one position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    /// Behind its last layer.
    Hidden(Vec<f32>),
    /// The likeliest tokens, the first of them first, and the logarithm of the sum over all.
    Likely(Vec<(u32, f32)>, f32),
    /// Every logit.
    Logits(Vec<f32>),
}

/// How far two answers lie apart, and how far they may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distance {
    pub(crate) error: f32,
    pub(crate) allowed: f32,
}

/// How far answers may lie apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    /// Of a value's measure.
    share: f32,
    /// How the checked node's rows travel.
    codec: Codec,
}

impl Row {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Hidden(values) | Self::Logits(values) => 4 * values.len(),
            Self::Likely(entries, _) => 8 * entries.len(),
        }
    }
}

/// The rows of an answer with their positions; none of an acknowledgement.
///
/// # Errors
/// The answer cannot be read by itself.
pub(crate) fn rows(
    inbound: &mut Inbound<Vec<f32>>,
    vocab: usize,
    header: &Header,
    payload: &[u8],
) -> Result<Vec<(u32, Row)>, String> {
    let (positions, cols) = (header.position.., usize::from(header.cols));
    let rows: Vec<Row> = match (header.kind, header.codec) {
        (Kind::Activation, _) => {
            let mut values = vec![0.0; usize::from(header.rows) * cols];
            inbound.decode(&Frame { header: *header, payload }, &mut values).map_err(|error| error.to_string())?;
            values.chunks_exact(cols.max(1)).map(|row| Row::Hidden(row.to_vec())).collect()
        }
        _ if header.rows == 0 => Vec::new(),
        (Kind::Output, Codec::Top) => {
            let rows = top_decode(payload, header.cols, vocab as u32).map_err(|error| error.to_string())?;
            rows.map(|row| Row::Likely(row.entries().collect(), row.log_sum_exp())).collect()
        }
        (Kind::Output, Codec::F32) => {
            let mut logits = vec![0.0; vocab];
            full_decode(payload, &mut logits).map_err(|error| error.to_string())?;
            vec![Row::Logits(logits)]
        }
        (kind, codec) => return Err(format!("{kind:?} in {codec} is no answer")),
    };
    Ok(positions.zip(rows).collect())
}

impl Tolerance {
    /// For rows that travel in `form`, computed with weights in `format`.
    pub(crate) fn new(format: WeightFormat, form: Form) -> Self {
        let share = match format {
            WeightFormat::F32 => EXACT,
            // Matrix units take 16 bits of an input that another kernel takes whole.
            _ => ROUNDED,
        };
        Self { share, codec: form.codec() }
    }

    /// How far `row` of the node that is checked lies from `reference`, another node's for the same input.
    pub(crate) fn distance(&self, row: &Row, reference: &Row) -> Distance {
        match (row, reference) {
            (Row::Hidden(row), Row::Hidden(reference)) if row.len() == reference.len() => self.hidden(row, reference),
            (Row::Likely(entries, sum), Row::Likely(reference, own)) => {
                let find = |id: u32| entries.iter().find(|entry| entry.0 == id).map(|entry| entry.1);
                // One that is not told of is below the last that is.
                let least = entries.last().map_or(f32::NEG_INFINITY, |entry| entry.1);
                let apart = |&(id, logit): &(u32, f32)| find(id).map_or((logit - least).max(0.0), |own| own - logit);
                let known = |id: u32| reference.iter().any(|entry| entry.0 == id);
                let end = reference.last().map_or(f32::INFINITY, |entry| entry.1);
                let unknown = entries.iter().filter(|entry| !known(entry.0)).map(|entry| (entry.1 - end).max(0.0));
                self.logits(reference, reference.iter().map(apart).chain(unknown).chain([sum - own]))
            }
            (Row::Logits(logits), Row::Likely(reference, own)) => {
                let apart = |&(id, logit): &(u32, f32)| logits.get(id as usize).map_or(f32::NAN, |own| own - logit);
                self.logits(reference, reference.iter().map(apart).chain([log_sum_exp(logits) - own]))
            }
            _ => Distance { error: f32::INFINITY, allowed: 0.0 },
        }
    }

    fn hidden(&self, row: &[f32], reference: &[f32]) -> Distance {
        let mut sizes: Vec<f32> = reference.iter().map(|value| value.abs()).collect();
        let middle = sizes.len() / 2;
        let (_, usual, _) = sizes.select_nth_unstable_by(middle, f32::total_cmp);
        let usual = usual.max(f32::MIN_POSITIVE);
        let rounded = self.rounded(reference);
        let (mut apart, mut rounding) = (0.0_f64, 0.0_f64);
        for ((value, reference), rounded) in row.iter().zip(reference).zip(&rounded) {
            let measure = usual.max(reference.abs());
            apart += f64::from((value - reference) / measure).powi(2);
            rounding += f64::from((rounded - reference) / measure).powi(2);
        }
        let mean = |sum: f64| (sum / row.len() as f64).sqrt() as f32;
        Distance { error: mean(apart), allowed: self.share + ROUNDINGS * mean(rounding) }
    }

    /// What is left of `row` when it has travelled.
    fn rounded(&self, row: &[f32]) -> Vec<f32> {
        let travel = || {
            let cols = u16::try_from(row.len()).ok()?;
            let codec = codec::choose(self.codec, row).ok()?;
            let mut payload = vec![0; syn1_core::encoded_len(codec, 1, cols)? as usize];
            let mut rounded = vec![0.0; row.len()];
            codec::encode(codec, row, cols, &mut payload).ok()?;
            codec::decode(codec, &payload, 1, cols, &mut rounded).ok()?;
            Some(rounded)
        };
        // What cannot travel was not sent by anybody.
        travel().unwrap_or_else(|| row.to_vec())
    }

    /// Logits are measured by how far the likeliest ones reach, or by 1, which is a factor of e between two probabilities.
    fn logits(&self, reference: &[(u32, f32)], apart: impl Iterator<Item = f32>) -> Distance {
        let reach = reference.first().zip(reference.last()).map_or(0.0, |(first, last)| first.1 - last.1);
        // Not the largest by `max`, which passes over what is no number.
        let error = apart.map(f32::abs).fold(0.0, |most: f32, apart| if apart <= most { most } else { apart });
        let reach = if reach.is_finite() { reach.max(1.0) } else { 1.0 };
        Distance { error, allowed: self.share * LOGITS * reach }
    }
}

impl Distance {
    /// Whether both may be right.
    pub(crate) fn agrees(self) -> bool {
        self.error <= self.allowed
    }

    /// The error in parts of what is allowed.
    pub(crate) fn ratio(self) -> f32 {
        if self.allowed > 0.0 { self.error / self.allowed } else { f32::INFINITY }
    }
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    most + logits.iter().map(|logit| (logit - most).exp()).sum::<f32>().ln()
}

/// Kernels that compute in 32 bits differ in the order of their sums. 27 times the farthest that 207 rows of the bundled model
/// were apart on a CPU and on lavapipe (`syn1 bench checks --device cpu --checker-device 0 --weights f32 --rows 400`, wire f32).
const EXACT: f32 = 5e-3;

/// Where inputs of products, or the KV cache, may be rounded to 16 bits on one of the two. 105 times the farthest in the same
/// measurement with f16 weights.
const ROUNDED: f32 = 2e-2;

/// Of the wire's rounding, which the rows that are compared need not share: each may be rounded the other way, and a delta form
/// rounds the step from the row before.
const ROUNDINGS: f32 = 3.0;

/// Of the residual stream's tolerance: the head adds up the row's errors.
const LOGITS: f32 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Values like those of a residual stream: a hump about 0, and one column that is far larger.
    fn row(seed: u32) -> Vec<f32> {
        let value =
            |at: u32| ((at.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 8) as f32 / 8_388_608.0) - 1.0;
        let mut row: Vec<f32> = (0..768).map(|at| value(at) + value(at + 1000) + value(at + 5000)).collect();
        row[17] = 300.0;
        row
    }

    fn tolerance(form: &str) -> Tolerance {
        Tolerance::new(WeightFormat::F16, Form::from_name(form).unwrap())
    }

    #[test]
    fn what_the_wire_rounds_is_no_difference_in_any_form() {
        for form in Form::ALL {
            let tolerance = Tolerance::new(WeightFormat::F32, form);
            for seed in 0..50 {
                let reference = row(seed);
                let sent = tolerance.rounded(&reference);
                let distance = tolerance.distance(&Row::Hidden(sent), &Row::Hidden(reference));
                assert!(distance.agrees() && distance.ratio() < 0.6, "{form}: {distance:?}");
            }
        }
    }

    #[test]
    fn a_large_column_hides_nothing_that_happens_to_the_others() {
        let (reference, noise) = (row(1), row(2));
        for (form, share) in [("f32", 0.05), ("f16", 0.05), ("q8", 0.5)] {
            let noisy = reference.iter().zip(&noise).map(|(value, noise)| value + share * noise.clamp(-1.0, 1.0));
            let distance = tolerance(form).distance(&Row::Hidden(noisy.collect()), &Row::Hidden(reference.clone()));
            assert!(!distance.agrees(), "{form}: {distance:?}");
        }
    }

    #[test]
    fn what_is_no_number_and_what_is_another_shape_never_agree() {
        let reference = row(1);
        let mut broken = reference.clone();
        broken[3] = f32::NAN;
        let tolerance = tolerance("f16");
        let hidden = Row::Hidden(reference.clone());
        assert!(!tolerance.distance(&Row::Hidden(broken), &hidden).agrees());
        assert!(!tolerance.distance(&Row::Hidden(reference[1..].to_vec()), &hidden).agrees());
        assert!(!tolerance.distance(&Row::Logits(vec![0.0; 9]), &hidden).agrees());
        let likely = Row::Likely(vec![(1, 2.0), (2, 1.0)], 2.5);
        assert!(!tolerance.distance(&Row::Likely(vec![(1, 2.0)], f32::NAN), &likely).agrees());
        assert!(!tolerance.distance(&Row::Logits(vec![0.0]), &likely).agrees(), "ids beyond its end");
    }

    #[test]
    fn tokens_may_change_places_within_the_tolerance_and_not_beyond_it() {
        let tolerance = tolerance("f16");
        let reference = Row::Likely(vec![(5, 8.0), (6, 7.99), (7, 4.0), (8, 2.0)], 9.0);
        let agrees = |row: Row| tolerance.distance(&row, &reference).agrees();
        // The last place is taken by another token that is about as likely.
        assert!(agrees(Row::Likely(vec![(6, 8.0), (5, 7.98), (7, 4.0), (9, 2.01)], 9.0)));
        assert!(agrees(Row::Likely(vec![(6, 8.0)], 9.0)), "fewer are told of");
        assert!(!agrees(Row::Likely(vec![(7, 8.0)], 9.0)));
        assert!(!agrees(Row::Likely(vec![(9, 8.0)], 9.0)));
        assert!(!agrees(Row::Likely(vec![(5, 8.0), (6, 7.99), (7, 4.0), (8, 2.0)], 8.0)));
        let mut logits = vec![1.0; 10];
        for (id, logit) in [(5, 8.0), (6, 7.99), (7, 4.0), (8, 2.0)] {
            logits[id] = logit;
        }
        let own = log_sum_exp(&logits);
        let reference = Row::Likely(vec![(5, 8.0), (6, 7.99), (7, 4.0), (8, 2.0)], own);
        assert!(tolerance.distance(&Row::Logits(logits.clone()), &reference).agrees());
        logits[8] = 1.0;
        assert!(!tolerance.distance(&Row::Logits(logits), &reference).agrees());
    }
}
