//! The forward pass in f64 on the CPU: what every arm must equal before its time counts.

use crate::model::{Layer, Model};
use crate::shape::{EPS, TOKENS};

/// The rows behind the last layer, `[TOKENS][width]`.
pub(crate) fn forward(model: &Model) -> Vec<f64> {
    let shape = model.shape;
    let mut caches = vec![Cache::default(); shape.layers];
    let mut results = Vec::with_capacity(TOKENS * shape.width);
    for row in model.rows.chunks_exact(shape.width) {
        let mut x: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        for (layer, cache) in model.layers.iter().zip(&mut caches) {
            block(layer, cache, shape.heads, &mut x);
        }
        results.extend(x);
    }
    results
}

/// The largest difference from the reference, relative to the reference's largest value; infinite if a value is no number.
pub(crate) fn error(reference: &[f64], found: &[f32]) -> f64 {
    let scale = reference.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let worst = reference.iter().zip(found).fold(0.0, |worst: f64, (want, &got)| {
        let off = (want - f64::from(got)).abs();
        if off.is_finite() { worst.max(off) } else { f64::INFINITY }
    });
    if found.len() == reference.len() { worst / scale } else { f64::INFINITY }
}

/// Keys and values of the positions so far.
#[derive(Clone, Default)]
pub(crate) struct Cache {
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

fn block(layer: &Layer, cache: &mut Cache, heads: usize, x: &mut [f64]) {
    let qkv = times(&layer.qkv, &normed(x));
    add(x, &times(&layer.out, &attended(&qkv, cache, heads)));
    let hidden: Vec<f64> = times(&layer.up, &normed(x)).into_iter().map(gelu).collect();
    add(x, &times(&layer.down, &hidden));
}

/// Attention of a token with its queries, keys and values, which become part of the cache.
pub(crate) fn attended(qkv: &[f64], cache: &mut Cache, heads: usize) -> Vec<f64> {
    let width = qkv.len() / 3;
    cache.keys.push(qkv[width..2 * width].to_vec());
    cache.values.push(qkv[2 * width..].to_vec());
    (0..heads).flat_map(|head| attend(&qkv[..width], cache, head, width / heads)).collect()
}

fn attend(queries: &[f64], cache: &Cache, head: usize, dim: usize) -> Vec<f64> {
    let part = head * dim..(head + 1) * dim;
    let dot = |key: &Vec<f64>| {
        queries[part.clone()].iter().zip(&key[part.clone()]).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()
    };
    let scores: Vec<f64> = cache.keys.iter().map(dot).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = shares.iter().sum();
    part.map(|i| cache.values.iter().zip(&shares).map(|(value, share)| share * value[i]).sum::<f64>() / total).collect()
}

pub(crate) fn times(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
}

pub(crate) fn normed(x: &[f64]) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    x.iter().map(|x| (x - mean) / (variance + EPS).sqrt()).collect()
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

pub(crate) fn add(x: &mut [f64], more: &[f64]) {
    x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn a_row_depends_on_the_rows_before_it_and_on_no_later_one() {
        let mut model = Model::random(Shape::new(32, 2).unwrap());
        let before = forward(&model);
        model.rows[10 * 32] += 0.01;
        let after = forward(&model);
        assert_eq!(before[..10 * 32], after[..10 * 32]);
        let changed = before.chunks(32).zip(after.chunks(32)).skip(10).filter(|(before, after)| before != after);
        assert_eq!(changed.count(), TOKENS - 10);
    }

    #[test]
    fn the_error_is_relative_to_the_largest_value_and_sees_what_is_no_number() {
        assert_eq!(error(&[1.0, -4.0], &[1.5, -4.0]), 0.125);
        assert_eq!(error(&[1.0, 2.0], &[1.0, f32::NAN]), f64::INFINITY);
        assert_eq!(error(&[1.0, 2.0], &[1.0]), f64::INFINITY);
    }
}
