//! Weights in groups: [`GROUP`] neighbouring inputs of a row share a scale, so that one large weight spoils no more than
//! its neighbours.
//!
//! int8 is symmetric, `weight = scale * q` with `q` in -127..=127; int4 is affine, `weight = scale * q + low` with `q` in
//! 0..=15, because fifteen steps are too few to waste half of them on a side that a group does not use.

use half::f16;

/// Inputs that share a scale.
pub const GROUP: usize = 32;

/// A group of int8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Int8Group {
    pub(crate) scale: f16,
    pub(crate) steps: [i8; GROUP],
}

impl Int8Group {
    /// The nearest to `values`, none of which is beyond what f16 holds.
    ///
    /// The scale is the least f16 at which the largest value needs no more than 127 steps; among the tiniest f16, which
    /// are far apart, the nearest one would cut values off.
    pub(crate) fn nearest(values: &[f32; GROUP]) -> Self {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let near = f16::from_f32(largest / 127.0);
        let scale = if near.to_f32() * 127.0 < largest { f16::from_bits(near.to_bits() + 1) } else { near };
        let inverse = inverse(scale);
        Self { scale, steps: values.map(|value| nearest_integer(value * inverse).clamp(-127.0, 127.0) as i8) }
    }

    /// The weights that it stands for; exact in f32.
    pub(crate) fn values(&self) -> [f32; GROUP] {
        let scale = self.scale.to_f32();
        self.steps.map(|step| scale * f32::from(step))
    }
}

/// A group of int4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Int4Group {
    pub(crate) line: Line,
    pub(crate) steps: [u8; GROUP],
}

/// The weight that each step stands for: `scale * step + low`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) scale: f16,
    pub(crate) low: f16,
}

impl Int4Group {
    /// Near `values`, none of which is beyond what f16 holds, in the sense of least squares.
    ///
    /// The line through the least and the largest value is rarely the best: a step that is a little smaller serves the many
    /// in the middle at the cost of the two at the ends. So several steps are tried; for each the best line follows from
    /// the assignment of values to steps by linear regression, and the line with the least error is taken.
    pub(crate) fn nearest(values: &[f32; GROUP]) -> Self {
        let line = Line::best(values, &[1.0; GROUP], |line| line.error(values));
        Self { line, steps: line.steps(values).map(|step| step as u8) }
    }

    /// Near `values` by the line through the least and the largest: twenty times as fast, for weights that mean nothing.
    pub(crate) fn through_ends(values: &[f32; GROUP]) -> Self {
        let (least, span) = extent(values);
        let line = Line::new(span / LAST, least);
        Self { line, steps: line.steps(values).map(|step| step as u8) }
    }

    /// Near `values` one after the other, each with what the errors before it ask of it; also what it stands for. An error is
    /// the distance to `exact`. Values beyond what f16 holds are cut off.
    pub(crate) fn with_feedback(values: &[f32; GROUP], exact: &[f32; GROUP], known: &Known) -> (Self, [f32; GROUP]) {
        let values = values.map(|value| value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
        let line = Line::best(&values, &known.spread, |line| line.follow(&values, exact, known).error);
        let Followed { steps, stored, .. } = line.follow(&values, exact, known);
        (Self { line, steps: steps.map(|step| step as u8) }, stored)
    }

    /// The weights that it stands for, in f32 (rounded once).
    pub(crate) fn values(&self) -> [f32; GROUP] {
        self.steps.map(|step| self.line.at(f32::from(step)))
    }
}

/// What rounding with feedback knows of a group's inputs; see [`Feedback`](crate::feedback::Feedback).
pub(crate) struct Known {
    /// How much the square of an error counts.
    pub(crate) spread: [f32; GROUP],
    /// `[of][to]`: what an error asks of the later ones; zero elsewhere.
    pub(crate) factor: [[f32; GROUP]; GROUP],
}

/// A group that was rounded with feedback.
struct Followed {
    steps: [f32; GROUP],
    stored: [f32; GROUP],
    /// The weighted sum of squared differences.
    error: f32,
}

impl Line {
    /// The line of least `error` among those that are tried. Weighted regression proposes them.
    fn best(values: &[f32; GROUP], weights: &[f32; GROUP], error: impl Fn(&Self) -> f32) -> Self {
        let (least, span) = extent(values);
        let mut best = Self::new(span / LAST, least);
        let mut best_error = error(&best);
        if span > 0.0 {
            for trial in 0..TRIALS {
                let steps = LAST + TRIAL_STEP * (trial as f32 - TRIALS as f32 / 2.0);
                let Some(line) = Self::regression(values, weights, least, steps / span) else { continue };
                let error = error(&line);
                if error < best_error {
                    (best, best_error) = (line, error);
                }
            }
        }
        best
    }

    /// Rounds `values` one after the other, feeding every error on.
    fn follow(&self, values: &[f32; GROUP], exact: &[f32; GROUP], known: &Known) -> Followed {
        let (inverse, low) = (inverse(self.scale), self.low.to_f32());
        let mut values = *values;
        let mut followed = Followed { steps: [0.0; GROUP], stored: [0.0; GROUP], error: 0.0 };
        for k in 0..GROUP {
            let step = nearest_integer(((values[k] - low) * inverse).clamp(0.0, LAST));
            let stored = self.at(step);
            (followed.steps[k], followed.stored[k]) = (step, stored);
            followed.error += known.spread[k] * (values[k] - stored).powi(2);
            let error = exact[k] - stored;
            values.iter_mut().zip(&known.factor[k]).for_each(|(value, factor)| *value += error * factor);
        }
        followed
    }

    fn new(scale: f32, low: f32) -> Self {
        Self { scale: f16::from_f32(scale), low: f16::from_f32(low) }
    }

    /// The weight of a step. `scale * step` has 15 bits at most, so it is exact and the sum is rounded once, with a fused
    /// multiply-add or without.
    fn at(&self, step: f32) -> f32 {
        self.scale.to_f32() * step + self.low.to_f32()
    }

    /// The line that fits best when every value goes to the step nearest to `(value - least) * inverse`; none if all go to
    /// the same one, or it is beyond f16.
    fn regression(values: &[f32; GROUP], weights: &[f32; GROUP], least: f32, inverse: f32) -> Option<Self> {
        let steps = values.map(|value| nearest_integer((value - least) * inverse).clamp(0.0, LAST));
        let (mut count, mut sum, mut squares, mut total, mut products) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for ((step, value), weight) in steps.iter().zip(values).zip(weights) {
            count += weight;
            sum += weight * step;
            squares += weight * step * step;
            total += weight * value;
            products += weight * step * value;
        }
        let determinant = count * squares - sum * sum;
        let line = (determinant > 0.0).then(|| {
            let scale = (count * products - sum * total) / determinant;
            Self::new(scale, (total - scale * sum) / count)
        });
        line.filter(|line| line.scale.is_finite() && line.low.is_finite())
    }

    /// The nearest steps.
    fn steps(&self, values: &[f32; GROUP]) -> [f32; GROUP] {
        let (inverse, low) = (inverse(self.scale), self.low.to_f32());
        values.map(|value| nearest_integer((value - low) * inverse).clamp(0.0, LAST))
    }

    /// The sum of squared differences.
    fn error(&self, values: &[f32; GROUP]) -> f32 {
        let steps = self.steps(values);
        values.iter().zip(steps).map(|(value, step)| (value - self.at(step)).powi(2)).sum()
    }
}

/// The least value, and how far the largest lies above it.
fn extent(values: &[f32; GROUP]) -> (f32, f32) {
    let (least, largest) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    (least, largest - least)
}

/// `1 / scale`, 0 for 0: there is only one step then.
fn inverse(scale: f16) -> f32 {
    if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
}

/// The nearest integer, ties to even, of a number well within 2^22: one addition and one subtraction, which every
/// instruction set has for whole registers.
fn nearest_integer(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The last of int4's steps.
const LAST: f32 = 15.0;

/// Lines tried for a group of int4, and by how many steps they differ: from two steps too few to two too many.
const TRIALS: usize = 20;
const TRIAL_STEP: f32 = 0.2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(values: &[f32; GROUP], stored: &[f32; GROUP]) -> f32 {
        values.iter().zip(stored).map(|(a, b)| (a - b).powi(2)).sum()
    }

    /// Values of any size that f16 can hold, also all tiny or all alike.
    fn values() -> impl Strategy<Value = [f32; GROUP]> {
        (prop::array::uniform32(-1.0_f32..1.0), -30..16_i32, prop::bool::ANY).prop_map(|(values, exponent, offset)| {
            let size = 2.0_f32.powi(exponent);
            values.map(|value| ((if offset { value + 3.0 } else { value }) * size).clamp(-65504.0, 65504.0))
        })
    }

    proptest! {
        #[test]
        fn int8_is_within_half_a_step_of_every_value(values in values()) {
            let group = Int8Group::nearest(&values);
            let step = group.scale.to_f32();
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            // No coarser than it must be: a f16's spacing is a 1024th, or 2^-24.
            prop_assert!(step <= largest / 127.0 * (1.0 + 1.0 / 1024.0) + 2.0_f32.powi(-24));
            for (value, stored) in values.iter().zip(group.values()) {
                prop_assert!((value - stored).abs() <= step * 0.5001, "{value} {stored} {step}");
            }
        }

        #[test]
        fn int4_is_no_worse_than_the_line_through_both_ends(values in values()) {
            let group = Int4Group::nearest(&values);
            prop_assert!(group.steps.iter().all(|step| *step < 16));
            let (least, largest) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            let line = Line::new((largest - least) / 15.0, least);
            let plain = line.steps(&values).map(|step| line.at(step));
            prop_assert!(error(&values, &group.values()) <= error(&values, &plain));
        }
    }

    #[test]
    fn zeros_and_constants_stay_what_they_are() {
        assert_eq!(Int8Group::nearest(&[0.0; GROUP]).values(), [0.0; GROUP]);
        assert_eq!(Int4Group::nearest(&[0.0; GROUP]).values(), [0.0; GROUP]);
        assert_eq!(Int4Group::nearest(&[-0.75; GROUP]).values(), [-0.75; GROUP]);
        assert_eq!(Int8Group::nearest(&[f16::MAX.to_f32(); GROUP]).steps, [127; GROUP]);
        assert_eq!(Int4Group::nearest(&[f16::MAX.to_f32(); GROUP]).values(), [f16::MAX.to_f32(); GROUP]);
    }

    #[test]
    fn a_line_that_is_there_is_found_exactly() {
        let mut values = [0.0; GROUP];
        values.iter_mut().enumerate().for_each(|(index, value)| *value = (index % 16) as f32 * 0.25 - 1.0);
        let group = Int4Group::nearest(&values);
        assert_eq!((group.line.scale.to_f32(), group.line.low.to_f32()), (0.25, -1.0));
        assert_eq!(group.values(), values);
    }

    #[test]
    fn the_search_lowers_the_error_of_bell_shaped_weights_by_a_tenth() {
        // Sums of uniform numbers from a multiplicative generator.
        let mut state = 1_u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        let (mut found, mut plain) = (0.0, 0.0);
        for _ in 0..200 {
            let values: [f32; GROUP] = std::array::from_fn(|_| (0..6).map(|_| uniform()).sum());
            let (least, largest) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            plain += Line::new((largest - least) / LAST, least).error(&values);
            found += error(&values, &Int4Group::nearest(&values).values());
        }
        assert!(found < 0.9 * plain, "{found} {plain}");
    }
}
