//! Causal attention of one query over its KV cache.

use super::dot::{Element, gemv};
use super::lanes::Lanes;
use super::math::{exp, max_of, soft_cap, sum_of};

/// What becomes of the dot product of a query and a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Score {
    /// Multiplied with it.
    pub(super) scale: f32,
    /// Keeps the scaled score within this bound, as `soft_cap`.
    pub(super) cap: Option<f32>,
}

/// `out = softmax(score(q k^T)) v` over the first `scores.len()` positions of `k` and `v`, whose rows have `q.len()`
/// elements; `out` may be shorter than a row (the rest is padding).
///
/// Scores are dot products as in [`gemv`]; values are summed in rising order of positions. So the bits depend on the
/// query and the positions alone.
///
/// # Safety
/// As for [`Lanes`]. `q.len()` is whole groups; `k` and `v` have `scores.len()` rows of that length, `scores` is not
/// empty.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes, W: Element>(
    q: &[f32],
    k: &[W],
    v: &[W],
    score: Score,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let stride = q.len();
    // SAFETY: `k` has a row of `stride` elements per score.
    unsafe { gemv::<L, W::Row, KEYS>(bytemuck::cast_slice(k), q, scores) };
    let scale = match score.cap {
        None => score.scale,
        Some(cap) => {
            scores.iter_mut().for_each(|value| *value *= score.scale);
            soft_cap(scores, cap);
            1.0
        }
    };
    let max = max_of(scores);
    scores.iter_mut().for_each(|score| *score = exp((*score - max) * scale));
    let norm = 1.0 / sum_of(scores, |score| score);
    let mut column = 0;
    while column < stride {
        // SAFETY: `v` has a row of `stride` elements per score, of which `4 * N` or `N` from `column` on are read.
        unsafe {
            if column + 4 * L::N <= stride {
                weighted::<L, W, 4>(v.as_ptr().add(column), stride, norm, scores, out, column);
                column += 4 * L::N;
            } else {
                weighted::<L, W, 1>(v.as_ptr().add(column), stride, norm, scores, out, column);
                column += L::N;
            }
        }
    }
}

/// `out[column..] = norm * sum_p scores[p] v[p]` for `G` registers' worth of columns.
#[inline(always)]
unsafe fn weighted<L: Lanes, W: Element, const G: usize>(
    v: *const W,
    stride: usize,
    norm: f32,
    scores: &[f32],
    out: &mut [f32],
    column: usize,
) {
    let mut columns = [[0.0f32; MAX_LANES]; G];
    // SAFETY: `G * N` elements of every row of `v` are valid to read; a group of `columns` holds any register.
    unsafe {
        let mut sums = [L::zero(); G];
        for (position, &score) in scores.iter().enumerate() {
            let score = L::splat(score);
            for (g, sum) in sums.iter_mut().enumerate() {
                *sum = L::fma(W::load::<L>(v.add(position * stride + g * L::N)), score, *sum);
            }
        }
        for (columns, sum) in columns.iter_mut().zip(sums) {
            L::store(columns.as_mut_ptr(), sum);
        }
    }
    let sums = columns.iter().flat_map(|group| &group[..L::N]);
    for (out, sum) in out.iter_mut().skip(column).zip(sums) {
        *out = sum * norm;
    }
}

/// Keys side by side: they are short, so several hide what it costs to begin and end a sum.
const KEYS: usize = 4;

/// Elements of the widest register.
const MAX_LANES: usize = 16;
