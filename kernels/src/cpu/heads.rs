//! What happens head by head: queries and keys normed and rotated, keys and values into the KV cache, attention over it.

use syn1_model::plan::padded;

use super::attend::Score;
use super::kernels::Compiled;
use super::math::normalise;
use super::pool::Poisoned;
use super::rotate::{Rotations, rotate};
use super::step::{Pass, Scratch, Task};
use super::weights::{HeadNorms, Product};
use crate::group::GroupRow;

impl<W: Compiled> Pass<'_, W> {
    /// Stores outputs `first..` of the fused projection: queries beside, keys and values into the KV cache, queries and
    /// keys rotated. Blocks are whole pairs.
    ///
    /// # Safety
    /// While it runs, nobody else refers to these outputs of `row`: they are of an item of the caller's.
    unsafe fn scatter(&self, layer: usize, rope: Option<&Rotations>, row: usize, first: usize, values: &mut [f32]) {
        let dim = self.spec.head_dim;
        let turns = self.turns(rope, row);
        let (mut at, mut rest) = (first, values);
        while !rest.is_empty() {
            let (head, offset) = (at / dim, at % dim);
            let (part, behind) = rest.split_at_mut((dim - offset).min(rest.len()));
            if head < self.spec.heads + self.spec.kv_heads {
                rotate(part, turns.get(offset / 2..).unwrap_or_default());
            }
            // SAFETY: nobody else refers to these outputs, as the caller promises.
            unsafe { self.place(layer, row, head, offset, part) };
            at += part.len();
            rest = behind;
        }
    }

    /// The turns of a head in `row`; none where nothing is rotated.
    fn turns<'r>(&self, rope: Option<&'r Rotations>, row: usize) -> &'r [[f32; 2]] {
        rope.map_or(&[], |rotations| rotations.at(self.places[row].position))
    }

    /// Stores elements `offset..` of a head, counted over queries, keys and values.
    ///
    /// # Safety
    /// As for [`Self::scatter`].
    unsafe fn place(&self, layer: usize, row: usize, head: usize, offset: usize, part: &[f32]) {
        let (heads, kv_heads) = (self.spec.heads, self.spec.kv_heads);
        if head < heads {
            let begin = (row * heads + head) * padded(self.spec.head_dim) + offset;
            // SAFETY: nobody else refers to these queries, as the caller promises.
            unsafe { self.q.at_mut(begin..begin + part.len()) }.copy_from_slice(part);
        } else {
            let (kind, head) = ((head - heads) / kv_heads, (head - heads) % kv_heads);
            let GroupRow { member, position, .. } = self.places[row];
            let begin = self.cached(layer, kind, head, position) + offset;
            // SAFETY: nobody else refers to these keys or values, as the caller promises.
            let cache = unsafe { self.caches[member].at_mut(begin..begin + part.len()) };
            W::put(self.kernels, part, cache);
        }
    }

    /// Where the key (kind 0) or value (kind 1) of a position begins.
    fn cached(&self, layer: usize, kind: usize, head: usize, position: usize) -> usize {
        let line = ((layer * 2 + kind) * self.spec.kv_heads + head) * self.max_positions + position;
        line * padded(self.spec.head_dim)
    }
}

impl<W: Compiled> Task<'_, W> {
    /// The fused projection. Heads that are normed need all their elements, so these are gathered first.
    pub(super) fn project(
        &self,
        layer: usize,
        product: &Product,
        norms: Option<&HeadNorms>,
        rope: Option<&Rotations>,
        scratch: &mut Scratch,
    ) -> Result<(), Poisoned> {
        let pass = self.pass;
        let Some(norms) = norms else {
            return self.normed_multiply(product, 0..pass.rows(), scratch, |row, first, values| {
                // SAFETY: the outputs are of the item that this thread is finishing.
                unsafe { pass.scatter(layer, rope, row, first, values) };
            });
        };
        let stride = padded(pass.spec.qkv_rows());
        self.normed_multiply(product, 0..pass.rows(), scratch, |row, first, values| {
            let begin = row * stride + first;
            // SAFETY: the outputs are of the item that this thread is finishing.
            unsafe { pass.projected.at_mut(begin..begin + values.len()) }.copy_from_slice(values);
        })?;
        let (dim, heads, kv_heads) = (pass.spec.head_dim, pass.spec.heads, pass.spec.kv_heads);
        let all_heads = heads + 2 * kv_heads;
        pass.dealer.phase(self.last_phase(), self.worker, pass.rows() * all_heads, |item| {
            let (row, head) = (item / all_heads, item % all_heads);
            let begin = row * stride + head * dim;
            // SAFETY: the projection was written in an earlier phase.
            let from = unsafe { pass.projected.at(begin..begin + dim) };
            let to = &mut scratch.row.of_mut::<f32>()[..dim];
            if head < heads + kv_heads {
                let gamma = if head < heads { &norms.q } else { &norms.k };
                normalise(from, norms.norm, &gamma.elements::<f32>()[..dim], to);
                rotate(to, pass.turns(rope, row));
            } else {
                to.copy_from_slice(from);
            }
            // SAFETY: the head is this item's.
            unsafe { pass.place(layer, row, head, 0, to) };
        })
    }

    /// Attention over the last `window` positions: an item is one head of one row, so that neighbours share keys and
    /// values.
    pub(super) fn attend(
        &self,
        layer: usize,
        score: Score,
        window: Option<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), Poisoned> {
        let pass = self.pass;
        let (dim, stride, heads) = (pass.spec.head_dim, padded(pass.spec.head_dim), pass.spec.heads);
        let rows = pass.rows();
        pass.dealer.phase(self.phase, self.worker, heads * rows, |item| {
            let (head, row) = (item / rows, item % rows);
            let GroupRow { member, position, .. } = pass.places[row];
            let end = position + 1;
            let positions = window.map_or(end, |window| window.min(end));
            let cache = |kind| {
                let begin = pass.cached(layer, kind, head * pass.spec.kv_heads / heads, end - positions);
                // SAFETY: the layer's keys and values were written in an earlier phase.
                unsafe { pass.caches[member].at(begin..begin + positions * stride) }
            };
            let query = (row * heads + head) * stride;
            let out = row * padded(pass.spec.attention_width()) + head * dim;
            // SAFETY: queries were written in an earlier phase; the head's output is this item's.
            let (query, out) = unsafe { (pass.q.at(query..query + stride), pass.a.at_mut(out..out + dim)) };
            let scores = &mut scratch.scores.of_mut()[..positions];
            pass.kernels.attend(query, (cache(0), cache(1)), score, scores, out);
        })
    }
}
