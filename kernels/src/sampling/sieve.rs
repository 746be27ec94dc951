//! Which tokens top-k and top-p leave: the plain form of sieve.wgsl.

use super::noise::{Best, score};
use super::{Draw, exp};

/// Counts or weighs tokens by their steps, in two rounds of [`BINS`]; kept to be filled again.
pub(super) struct Sieve {
    bins: Vec<u64>,
}

/// The tokens that are left.
pub(super) struct Kept {
    max: f32,
    last: u32,
}

impl Default for Sieve {
    fn default() -> Self {
        Self { bins: vec![0; BINS] }
    }
}

impl Sieve {
    /// What `draw` keeps of `logits`.
    pub(super) fn kept(&mut self, logits: &[f32], draw: &Draw) -> Kept {
        let max = logits.iter().fold(f32::MIN, |max, &logit| if logit > max { logit } else { max });
        let steps = logits.iter().filter_map(|&logit| step(max, logit, draw));
        let mut last = u32::MAX;
        if draw.top_k > 0 {
            let enough = u64::from(draw.top_k);
            last = self.last(steps.clone(), |_| 1, |count, _| count >= enough);
        }
        if draw.top_p < 1.0 {
            let steps = steps.filter(|step| *step <= last);
            last = last.min(self.last(steps, weight, |some, all| wide(some) >= draw.top_p * wide(all)));
        }
        Kept { max, last }
    }

    /// The lowest step up to which the tokens have enough of what `of` gives each; no limit where they never have.
    fn last(
        &mut self,
        steps: impl Iterator<Item = u32> + Clone,
        of: impl Fn(u32) -> u64,
        enough: impl Fn(u64, u64) -> bool,
    ) -> u32 {
        let mut total = 0;
        self.bins.fill(0);
        for step in steps.clone() {
            self.bins[step as usize / BINS] += of(step);
            total += of(step);
        }
        let mut before = 0;
        let mut find = |bins: &[u64]| {
            bins.iter().position(|bin| {
                let reached = enough(before + bin, total);
                before += if reached { 0 } else { *bin };
                reached
            })
        };
        let Some(upper) = find(&self.bins) else { return u32::MAX };
        self.bins.fill(0);
        for step in steps.filter(|step| *step as usize / BINS == upper) {
            self.bins[step as usize % BINS] += of(step);
        }
        find(&self.bins).map_or(u32::MAX, |lower| (upper * BINS + lower) as u32)
    }
}

impl Kept {
    /// The token drawn from those that are left; 0 when there is none.
    pub(super) fn draw(&self, logits: &[f32], draw: &Draw, position: usize) -> u32 {
        let mut best = Best::default();
        for (&logit, id) in logits.iter().zip(0..) {
            if step(self.max, logit, draw).is_some_and(|step| step <= self.last) {
                best.see(score(logit, draw, position, id), id);
            }
        }
        best.id
    }
}

/// The step of a token; none far below the most likely one, or where the logit is no number.
#[inline(always)]
fn step(max: f32, logit: f32, draw: &Draw) -> Option<u32> {
    let steps = (max - logit) * draw.steps;
    (steps < STEPS).then_some(steps as u32)
}

/// The probability of a token, as a part of the most likely one's, in units of 2^-31.
fn weight(step: u32) -> u64 {
    u64::from((exp(step as f32 * (-1.0 / STEPS_PER_NAT)) * 2_147_483_648.0) as u32)
}

/// A sum of weights, rounded as a device without 64-bit integers rounds it.
fn wide(sum: u64) -> f32 {
    (sum >> 32) as f32 * 4_294_967_296.0 + sum as u32 as f32
}

/// Bins of a round: half of a step's bits.
const BINS: usize = 2048;

/// Steps to a nat.
pub(super) const STEPS_PER_NAT: f32 = 131_072.0;

/// Steps: those of 32 nats.
const STEPS: f32 = (BINS * BINS) as f32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Chooser, Rule, Sampler};

    fn logits(vocab: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        (0..vocab).map(|_| 9.0 * next() * next() - 4.0).collect()
    }

    /// The definition, by sorting.
    fn plainly(logits: &[f32], draw: &Draw) -> Vec<usize> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<(u32, usize)> =
            logits.iter().zip(0..).filter_map(|(&logit, id)| step(max, logit, draw).map(|step| (step, id))).collect();
        all.sort_unstable();
        let upto = |all: &mut Vec<(u32, usize)>, count: usize| {
            if let Some(&(last, _)) = all.get(count.wrapping_sub(1)) {
                all.retain(|(step, _)| *step <= last);
            }
        };
        upto(&mut all, draw.top_k as usize);
        if draw.top_p < 1.0 {
            let total = all.iter().map(|(step, _)| weight(*step)).sum();
            let mut sum = 0;
            let reached = all.iter().position(|(step, _)| {
                sum += weight(*step);
                wide(sum) >= draw.top_p * wide(total)
            });
            upto(&mut all, reached.map_or(0, |index| index + 1));
        }
        let mut ids: Vec<usize> = all.into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }

    fn rule(temperature: f32, top_k: u32, top_p: f32, seed: u64, vocab: usize) -> Rule {
        Sampler::Sampled { temperature, top_k, top_p, seed }.rule(vocab)
    }

    #[test]
    fn what_is_left_is_what_sorting_leaves() {
        let mut sieve = Sieve::default();
        for vocab in [2, 7, 300, 5000] {
            for (number, temperature) in [0.01, 0.3, 1.0, 20.0].into_iter().enumerate() {
                let mut logits = logits(vocab, number as u32 + 1);
                // Equals, far and near.
                logits[vocab / 2] = logits[0];
                logits[vocab - 1] = logits[0];
                for (top_k, top_p) in [(2, 1.0), (5, 1.0), (40, 0.95), (0, 0.5), (0, 0.999), (3, 0.3), (4999, 1.0)] {
                    let Rule::Sieved(draw) = rule(temperature, top_k, top_p, 1, vocab) else { continue };
                    let kept = sieve.kept(&logits, &draw);
                    let ids: Vec<usize> = (0..vocab)
                        .filter(|id| step(kept.max, logits[*id], &draw).is_some_and(|step| step <= kept.last))
                        .collect();
                    assert_eq!(ids, plainly(&logits, &draw), "{vocab} {temperature} {top_k} {top_p}");
                }
            }
        }
    }

    #[test]
    fn equals_stay_or_go_together() {
        let draw = |top_k, top_p| match rule(1.0, top_k, top_p, 1, 6) {
            Rule::Sieved(draw) => draw,
            other => panic!("{other:?}"),
        };
        let logits = [1.0, 3.0, 1.0, 3.0, 1.0, -40.0];
        assert_eq!(plainly(&logits, &draw(2, 1.0)), [1, 3]);
        assert_eq!(plainly(&logits, &draw(3, 1.0)), [0, 1, 2, 3, 4]);
        assert_eq!(plainly(&logits, &draw(0, 0.4)), [1, 3]);
        assert_eq!(plainly(&logits, &draw(5, 1.0)), [0, 1, 2, 3, 4], "the last is too far away to count");
    }

    #[test]
    fn one_token_is_the_most_likely_one() {
        let mut chooser = Chooser::default();
        let logits = logits(500, 3);
        let best = chooser.choose(&logits, &Sampler::Greedy, 0);
        for position in 0..200 {
            for (top_k, top_p) in [(1, 1.0), (0, 0.0), (0, 1e-4), (2, 1e-3)] {
                let sampler = Sampler::Sampled { temperature: 1.5, top_k, top_p, seed: 8 };
                assert_eq!(chooser.choose(&logits, &sampler, position), best, "{top_k} {top_p}");
            }
        }
    }

    /// Whether `draws` of `sampler` from `logits` have the probabilities `want`, by the chi-square bound of one in a
    /// million.
    fn follow(logits: &[f32], sampler: impl Fn(u64) -> Sampler, want: &[f64]) {
        let mut chooser = Chooser::default();
        let draws = 60_000;
        let mut counts = vec![0.0_f64; logits.len()];
        for draw in 0..draws {
            counts[chooser.choose(logits, &sampler(draw % 17), draw as usize / 17) as usize] += 1.0;
        }
        let total: f64 = want.iter().sum();
        let mut chi_square = 0.0;
        for (count, want) in counts.iter().zip(want) {
            let expected = want / total * draws as f64;
            if expected == 0.0 {
                assert_eq!(*count, 0.0, "a token that was left out is drawn");
            } else {
                chi_square += (count - expected).powi(2) / expected;
            }
        }
        // For 5 to 7 degrees of freedom.
        assert!(chi_square < 40.0, "{chi_square}: {counts:?}");
    }

    #[test]
    fn draws_follow_the_softmax_of_what_is_left() {
        let logits = [0.0, 1.0, 2.0, -1.0, 0.5, 2.0, 1.5, -0.5];
        for temperature in [0.7_f32, 1.0, 3.0] {
            let softmax: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / f64::from(temperature)).exp()).collect();
            let sampler = |top_k, top_p| move |seed| Sampler::Sampled { temperature, top_k, top_p, seed };
            follow(&logits, sampler(0, 1.0), &softmax);
            // The six most likely: all but -1 and -0.5.
            let six: Vec<f64> =
                softmax.iter().enumerate().map(|(id, p)| if [3, 7].contains(&id) { 0.0 } else { *p }).collect();
            follow(&logits, sampler(6, 1.0), &six);
            // What reaches the share, from the most likely token down.
            let total: f64 = softmax.iter().sum();
            let share = (total - softmax[3] - 0.5 * softmax[7]) / total;
            let without_last: Vec<f64> =
                softmax.iter().enumerate().map(|(id, p)| if id == 3 { 0.0 } else { *p }).collect();
            follow(&logits, sampler(0, share as f32), &without_last);
            // A share of what top-k left: the two at 2.0, and not the one at 1.5 beyond it.
            let left: f64 = six.iter().sum();
            let both = 2.0 * softmax[2] / left;
            let pair: Vec<f64> =
                softmax.iter().enumerate().map(|(id, p)| if [2, 5].contains(&id) { *p } else { 0.0 }).collect();
            follow(&logits, sampler(6, both as f32 * 0.99), &pair);
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let sampled = |temperature, top_p| Sampler::Sampled { temperature, top_k: 0, top_p, seed: 0 }.check();
        for (temperature, top_p, name) in [
            (0.0, 1.0, "temperature"),
            (f32::NAN, 1.0, "temperature"),
            (101.0, 1.0, "temperature"),
            (1.0, 1.1, "top_p"),
        ] {
            assert!(sampled(temperature, top_p).unwrap_err().to_string().contains(name), "{temperature} {top_p}");
        }
        assert_eq!(sampled(1.0, 0.0), Ok(()));
        assert_eq!(Sampler::Greedy.check(), Ok(()));
    }
}
