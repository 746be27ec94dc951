//! A node's memory, and how an assignment divides it.

use bytemuck::try_cast_slice_mut;
use syn1_kernels_int::{BlockLayout, Scratch, Shape};

/// The memory of a node: weights, KV caches and rows in one slice.
#[derive(Debug)]
pub struct Memory<'m> {
    pub(crate) words: &'m mut [u32],
}

/// What an assignment needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Room {
    pub(crate) shape: Shape,
    pub(crate) layers: usize,
    pub(crate) positions: usize,
    pub(crate) slots: usize,
    pub(crate) max_rows: usize,
}

/// A memory divided.
pub(crate) struct Parts<'m> {
    /// A block behind the other.
    pub(crate) weights: &'m mut [u8],
    /// `[slot][layer][position]`, `kv_words` each.
    pub(crate) caches: &'m mut [i16],
    /// `max_rows` rows of the residual stream.
    pub(crate) rows: &'m mut [f32],
    /// As many, as they travel.
    pub(crate) payload: &'m mut [u8],
    pub(crate) scratch: Scratch<'m>,
}

impl<'m> Memory<'m> {
    /// All of `words`.
    pub fn new(words: &'m mut [u32]) -> Self {
        Self { words }
    }

    /// Bytes for weights and KV caches, as coordinators count them: what is left beside rows of `max_rows`. KV caches take a
    /// word of 16 bits for each head here, which coordinators do not count; so there is less to offer.
    pub(crate) fn offer(&self, shape: &Shape, max_rows: usize, positions: usize) -> u64 {
        let room = Room { shape: *shape, layers: 0, positions, slots: 0, max_rows };
        let all = self.words.len() as u64 * 4;
        let left = all.saturating_sub(room.words().map_or(u64::MAX, |words| words as u64 * 4));
        let counted = shape.head_dim.next_multiple_of(32) as u64;
        left.saturating_mul(counted) / (counted + 1)
    }

    /// The parts of an assignment; none if they do not fit.
    pub(crate) fn divide(&mut self, room: &Room) -> Option<Parts<'_>> {
        let sizes = room.sizes()?;
        let mut rest = self.words.get_mut(..)?;
        let mut cut = |words: usize| {
            let (part, behind) = core::mem::take(&mut rest).split_at_mut_checked(words)?;
            rest = behind;
            Some(part)
        };
        let weights = try_cast_slice_mut(cut(sizes.weights)?).ok()?;
        let caches = try_cast_slice_mut(cut(sizes.caches)?).ok()?;
        let rows = try_cast_slice_mut(cut(sizes.rows)?).ok()?;
        let payload = try_cast_slice_mut(cut(sizes.rows)?).ok()?;
        let floats = try_cast_slice_mut(cut(sizes.floats)?).ok()?;
        let row = try_cast_slice_mut(cut(sizes.row)?).ok()?;
        let scores = try_cast_slice_mut(cut(sizes.scores)?).ok()?;
        let scratch = Scratch::new(&room.shape, floats, row, scores).ok()?;
        Some(Parts { weights, caches, rows, payload, scratch })
    }
}

/// Words of each part.
struct Sizes {
    weights: usize,
    caches: usize,
    rows: usize,
    floats: usize,
    row: usize,
    scores: usize,
}

impl Room {
    fn sizes(&self) -> Option<Sizes> {
        let Self { shape, layers, positions, slots, max_rows } = self;
        let block = BlockLayout::new(shape)?.bytes();
        let cache = shape.kv_words().checked_mul(*positions)?.checked_mul(*slots)?.checked_mul(*layers)?;
        let (floats, row) = Scratch::words(shape);
        Some(Sizes {
            weights: block.checked_mul(*layers)?.div_ceil(4),
            caches: cache.div_ceil(2),
            rows: shape.width.checked_mul(*max_rows)?,
            floats,
            row: row.div_ceil(2),
            scores: *positions,
        })
    }

    /// Words of all parts.
    pub(crate) fn words(&self) -> Option<usize> {
        let sizes = self.sizes()?;
        let parts = [sizes.weights, sizes.caches, sizes.rows, sizes.rows, sizes.floats, sizes.row, sizes.scores];
        parts.into_iter().try_fold(0usize, usize::checked_add)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use syn1_kernels_int::{Activation, Norm};

    use super::*;

    const SHAPE: Shape = Shape {
        width: 256,
        heads: 4,
        kv_heads: 4,
        head_dim: 64,
        ffn: 1024,
        norm: Norm::Layer,
        eps: 1e-5,
        activation: Activation::GeluTanh,
        gated: false,
        rope: None,
    };

    #[test]
    fn what_is_offered_fits() {
        for words in [300_000, 400_000, 800_000] {
            let mut words = vec![0; words];
            let mut memory = Memory::new(&mut words);
            let offered = memory.offer(&SHAPE, 8, 512);
            let block = BlockLayout::new(&SHAPE).unwrap().bytes() as u64;
            // As a coordinator counts: f16 keys and values.
            let cache = |positions: u64| 2 * 2 * 4 * 64 * positions;
            let positions = (offered - block) / cache(1);
            for (layers, slots, positions) in [(1, 1, positions.min(512)), (1, 2, positions / 2)] {
                let room = Room { shape: SHAPE, layers, positions: positions as usize, slots, max_rows: 8 };
                let parts = memory.divide(&room).expect("room");
                assert_eq!(parts.weights.len() as u64, block);
                assert_eq!(parts.caches.len(), SHAPE.kv_words() * positions as usize * slots);
            }
        }
    }

    #[test]
    fn what_does_not_fit_or_overflows_is_refused() {
        let mut words = vec![0; 250_000];
        let mut memory = Memory::new(&mut words);
        let room = Room { shape: SHAPE, layers: 1, positions: 512, slots: 1, max_rows: 8 };
        assert!(memory.divide(&room).is_none());
        assert!(memory.divide(&Room { positions: usize::MAX, ..room }).is_none());
    }
}
