//! Rotary positions: tables made once, and the rotation by them.

/// The turns of every position for one rotary embedding: `(cos, sin)` for every pair of elements of a head.
///
/// The plan packs the two elements of a pair as neighbours, so a rotation touches what lies side by side.
pub(super) struct Rotations {
    /// Pairs of a head that are rotated; the elements behind them are not.
    pairs: usize,
    /// `[position][pair]`.
    turns: Vec<[f32; 2]>,
}

impl Rotations {
    /// From a table of `(cos, sin)`, `pairs` of them a position.
    pub(super) fn new(pairs: usize, table: &[f32]) -> Self {
        Self { pairs, turns: bytemuck::cast_slice(table).to_vec() }
    }

    /// The turns of a head's pairs at `position`.
    pub(super) fn at(&self, position: usize) -> &[[f32; 2]] {
        &self.turns[position * self.pairs..(position + 1) * self.pairs]
    }
}

/// Turns `(a, b)` into `(a cos - b sin, b cos + a sin)`, for every pair of neighbours in `values` that has a turn.
pub(super) fn rotate(values: &mut [f32], turns: &[[f32; 2]]) {
    for (pair, [cos, sin]) in values.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, b * cos + a * sin];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_turns_the_pairs_it_has_turns_for_and_no_others() {
        let (sin, cos) = 0.5f32.sin_cos();
        let rotations = Rotations::new(2, &[1.0, 0.0, 1.0, 0.0, cos, sin, 0.0, 1.0]);
        let mut values = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rotate(&mut values, rotations.at(0));
        assert_eq!(values, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        rotate(&mut values, rotations.at(1));
        assert_eq!(values, [3.0 * cos - 4.0 * sin, 4.0 * cos + 3.0 * sin, -6.0, 5.0, 7.0, 8.0]);
    }
}
