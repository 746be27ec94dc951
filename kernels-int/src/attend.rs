//! Causal attention of one position over a KV cache of integers.

use crate::row::quantise;
use crate::shape::{MAX_HEAD_DIM, Rope, Shape};
use crate::{NotFinite, StepError};

/// Turns the leading pairs of a head by the angles of `position`.
pub(crate) fn rotate(head: &mut [f32], rope: &Rope, position: usize) {
    let pairs = head.as_chunks_mut::<2>().0.iter_mut().take(rope.dims / 2);
    for (pair, [a, b]) in pairs.enumerate() {
        let frequency = libm::pow(f64::from(rope.theta), -(2.0 * pair as f64) / rope.dims as f64);
        let (sin, cos) = libm::sincos(position as f64 * frequency);
        let (sin, cos) = (sin as f32, cos as f32);
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Writes a position's keys and values, which follow each other in `values`, into its place of the cache: head by head, the
/// power of two and then the integers.
pub(crate) fn append(shape: &Shape, values: &[f32], place: &mut [i16]) -> Result<(), NotFinite> {
    let heads = values.chunks_exact(shape.head_dim);
    for (head, place) in heads.zip(place.chunks_exact_mut(shape.head_dim + 1)) {
        if let Some((exponent, steps)) = place.split_first_mut() {
            *exponent = quantise(head, steps)? as i16;
        }
    }
    Ok(())
}

/// `out = softmax(scale * q k^T) v` over the positions of `cache`, which holds `kv_words` words for each. `weights` has room
/// for a word a position.
pub(crate) fn attend(
    shape: &Shape,
    queries: &[f32],
    cache: &[i16],
    weights: &mut [i32],
    out: &mut [f32],
) -> Result<(), StepError> {
    let sharing = shape.heads / shape.kv_heads.max(1);
    let scale = 1.0 / libm::sqrtf(shape.head_dim as f32);
    let heads = queries.chunks_exact(shape.head_dim).zip(out.chunks_exact_mut(shape.head_dim));
    for (index, (query, out)) in heads.enumerate() {
        let key = index / sharing.max(1);
        let cached = |which: usize| {
            let begin = which * (shape.head_dim + 1);
            let positions = cache.chunks_exact(shape.kv_words());
            positions.filter_map(move |place| place.get(begin..begin + shape.head_dim + 1)?.split_first())
        };
        score(query, cached(key), scale, weights)?;
        mix(cached(key + shape.kv_heads), weights, out)?;
    }
    Ok(())
}

/// The softmax's numerators of all positions, as integers in units of 2^-30 of the largest.
fn score<'c>(
    query: &[f32],
    keys: impl Iterator<Item = (&'c i16, &'c [i16])>,
    scale: f32,
    weights: &mut [i32],
) -> Result<(), StepError> {
    let mut steps = [0; MAX_HEAD_DIM];
    let steps = steps.get_mut(..query.len()).ok_or(StepError::Buffer)?;
    let exponent = quantise(query, steps)?;
    let mut largest = f32::NEG_INFINITY;
    for (weight, (key_exponent, key)) in weights.iter_mut().zip(keys) {
        let dot: i64 = key.iter().zip(&*steps).map(|(k, q)| i64::from(i32::from(*k) * i32::from(*q))).sum();
        let score = libm::scalbnf(dot as f32, exponent + i32::from(*key_exponent)) * scale;
        largest = largest.max(score);
        // The score's place until the largest is known.
        *weight = score.to_bits().cast_signed();
    }
    for weight in weights.iter_mut() {
        let score = f32::from_bits(weight.cast_unsigned());
        *weight = (libm::expf(score - largest) * UNIT) as i32;
    }
    Ok(())
}

/// The values of all positions, weighed.
fn mix<'c>(
    values: impl Iterator<Item = (&'c i16, &'c [i16])> + Clone,
    weights: &mut [i32],
    out: &mut [f32],
) -> Result<(), StepError> {
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let top = values.clone().map(|(exponent, _)| *exponent).max().unwrap_or(0);
    // All values in steps of the coarsest: what is finer gives its weight the bits.
    for (weight, (exponent, _)) in weights.iter_mut().zip(values.clone()) {
        let finer = u32::from(top.abs_diff(*exponent));
        *weight = weight.checked_shr(finer).unwrap_or(0);
    }
    let inverse = 1.0 / total as f32;
    for (element, out) in out.iter_mut().enumerate() {
        let column = values.clone().map(|(_, steps)| steps.get(element).copied().unwrap_or(0));
        let sum: i64 = weights.iter().zip(column).map(|(weight, step)| i64::from(*weight) * i64::from(step)).sum();
        *out = libm::scalbnf(sum as f32 * inverse, top.into());
    }
    Ok(())
}

/// The largest weight of a softmax.
const UNIT: f32 = (1 << 30) as f32;

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{Activation, Norm};

    fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> Shape {
        let (norm, activation) = (Norm::Rms, Activation::Silu);
        let width = heads * head_dim;
        Shape { width, heads, kv_heads, head_dim, ffn: 1, norm, eps: 0.0, activation, gated: false, rope: None }
    }

    /// The formula in f64.
    fn exact(shape: &Shape, queries: &[f32], rows: &[Vec<f32>]) -> Vec<f64> {
        let Shape { heads, kv_heads, head_dim, .. } = *shape;
        let mut out = Vec::new();
        for head in 0..heads {
            let key = head / (heads / kv_heads);
            let query = &queries[head * head_dim..][..head_dim];
            let part = |row: &[f32], which: usize| -> Vec<f64> {
                row[which * head_dim..][..head_dim].iter().map(|value| f64::from(*value)).collect()
            };
            let scores: Vec<f64> = rows
                .iter()
                .map(|row| {
                    let dot: f64 = part(row, key).iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum();
                    dot / (head_dim as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for element in 0..head_dim {
                let sum: f64 = rows.iter().zip(&weights).map(|(row, w)| w * part(row, key + kv_heads)[element]).sum();
                out.push(sum / total);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn it_is_the_formula_but_for_16_bits(
            seed in prop::collection::vec(-4.0f32..4.0, 64),
            positions in 1usize..40,
        ) {
            let shape = shape(4, 2, 16);
            let value = |at: usize| seed[at % 64] * ((at / 64) as f32 * 0.37).cos();
            let rows: Vec<Vec<f32>> = (0..positions).map(|p| (0..64).map(|k| value(p * 64 + k)).collect()).collect();
            let queries: Vec<f32> = (0..64).map(|k| value(7919 + k)).collect();
            let mut cache = vec![0i16; positions * shape.kv_words()];
            for (row, place) in rows.iter().zip(cache.chunks_exact_mut(shape.kv_words())) {
                append(&shape, row, place).unwrap();
            }
            let (mut weights, mut out) = (vec![0; positions], vec![0.0; 64]);
            attend(&shape, &queries, &cache, &mut weights, &mut out).unwrap();
            for (got, want) in out.iter().zip(exact(&shape, &queries, &rows)) {
                prop_assert!((f64::from(*got) - want).abs() < 4e-3, "{got}, not {want}");
            }
        }
    }

    #[test]
    fn values_of_very_different_sizes_are_weighed_by_their_size() {
        let shape = shape(1, 1, 2);
        let mut cache = [0i16; 12];
        append(&shape, &[0.0, 0.0, 1000.0, -1000.0], &mut cache[..6]).unwrap();
        append(&shape, &[0.0, 0.0, 1e-6, 1e-6], &mut cache[6..]).unwrap();
        let mut out = [0.0; 2];
        attend(&shape, &[1.0, 1.0], &cache, &mut [0; 2], &mut out).unwrap();
        assert_eq!(out, [500.0, -500.0]);
    }

    #[test]
    fn pairs_turn_by_their_angles_and_the_rest_stays() {
        let mut head = [1.0, 0.0, 1.0, 0.0, 5.0, 6.0];
        rotate(&mut head, &Rope { theta: 10_000.0, dims: 4 }, 3);
        let (slow, fast) = (0.03f32.sin_cos(), 3f32.sin_cos());
        let wanted = [fast.1, fast.0, slow.1, slow.0, 5.0, 6.0];
        assert!(head.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }
}
