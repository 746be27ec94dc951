//! Gumbel noise from a counter: the plain form of noise.wgsl, operation by operation.

use super::Draw;

/// The noise of token `id` behind the token at `position`.
///
/// Bits come from Threefry-2x32 with 20 rounds (Salmon et al. 2011), the key being the seed and the counter position and
/// half the id, whose last bit takes one of the two words. The 24 leading bits `n` of a word stand for
/// `u = 1 - (n + 1/2) / 2^24`, or all 32 do where the first or the last of these cells is to be divided further; so `u` is
/// never 0 or 1. The noise is `-ln(-ln(u))`, between -3.1 and 22.9, exact to about two units in the last place. It is so also
/// near 1, where it decides who wins: there `1 - u` is what is kept.
pub fn gumbel(seed: u64, position: u32, id: u32) -> f32 {
    let words = threefry([seed as u32, (seed >> 32) as u32], [position, id / 2]);
    noise(words[(id % 2) as usize])
}

/// The id with the largest noisy logit, the lowest among equals; 0 when none is a number.
pub(super) fn draw(logits: &[f32], draw: &Draw, position: usize) -> u32 {
    let mut best = Best::default();
    for (block, logits) in logits.chunks(2 * PAIRS).enumerate() {
        let first = block * PAIRS;
        let mut noises = [0.0; 2 * PAIRS];
        // Plain loops over arrays: they become vector instructions.
        for pair in 0..PAIRS {
            let words = threefry(draw.seed, [position as u32, (first + pair) as u32]);
            (noises[2 * pair], noises[2 * pair + 1]) = (noise(words[0]), noise(words[1]));
        }
        for (index, (logit, noise)) in logits.iter().zip(noises).enumerate() {
            best.see(logit * draw.inverse_temperature + noise, (2 * first + index) as u32);
        }
    }
    best.id
}

/// The score of token `id`, as [`draw`] has it.
pub(super) fn score(logit: f32, draw: &Draw, position: usize, id: u32) -> f32 {
    let words = threefry(draw.seed, [position as u32, id / 2]);
    logit * draw.inverse_temperature + noise(words[(id % 2) as usize])
}

/// The largest score so far.
pub(super) struct Best {
    score: f32,
    pub(super) id: u32,
}

impl Default for Best {
    fn default() -> Self {
        Self { score: f32::MIN, id: 0 }
    }
}

impl Best {
    /// Ids come in rising order, so the first of equals stays.
    #[inline(always)]
    pub(super) fn see(&mut self, score: f32, id: u32) {
        if score > self.score {
            *self = Self { score, id };
        }
    }
}

/// Threefry-2x32, 20 rounds.
#[inline(always)]
fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let (mut a, mut b) = (counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1]));
    for group in 0..5 {
        for turn in TURNS[group % 2] {
            a = a.wrapping_add(b);
            b = b.rotate_left(turn) ^ a;
        }
        a = a.wrapping_add(keys[(group + 1) % 3]);
        b = b.wrapping_add(keys[(group + 2) % 3]).wrapping_add(group as u32 + 1);
    }
    [a, b]
}

/// The noise of a random word.
#[inline(always)]
fn noise(word: u32) -> f32 {
    // Both from no more bits than an f32 holds, so that no conversion rounds.
    let (rest, u) = (fraction(word), fraction(!word));
    let mut parts = Parts::of(u);
    if u > ROOT_HALF {
        parts = Parts { exponent: 0.0, below: -rest, above: 2.0 - rest };
    }
    -Parts::of(-parts.ln()).ln()
}

/// The middle of the cell of 24 leading bits; of the cell of 32 bits where the first eight are zero.
#[inline(always)]
fn fraction(word: u32) -> f32 {
    let fine = word < 1 << 24;
    let (bits, cell) = if fine { (word, 1.0 / 4_294_967_296.0) } else { (word >> 8, 1.0 / 16_777_216.0) };
    (bits as f32 + 0.5) * cell
}

/// A number as `2^exponent m`, with `m - 1` and `m + 1` for an m between the roots of 1/2 and 2.
struct Parts {
    exponent: f32,
    below: f32,
    above: f32,
}

impl Parts {
    #[inline(always)]
    fn of(x: f32) -> Self {
        let exponent = (x.to_bits().wrapping_sub(ROOT_HALF.to_bits()) as i32) >> 23;
        let m = f32::from_bits(x.to_bits().wrapping_sub((exponent as u32) << 23));
        Self { exponent: exponent as f32, below: m - 1.0, above: m + 1.0 }
    }

    /// The natural logarithm, by the series of the inverse hyperbolic tangent of `(m - 1) / (m + 1)`.
    #[inline(always)]
    fn ln(&self) -> f32 {
        let s = self.below / self.above;
        let z = s * s;
        let series = 1.0 + z * (0.333_333_33 + z * (0.2 + z * (0.142_857_15 + z * 0.111_111_11)));
        self.exponent * std::f32::consts::LN_2 + 2.0 * s * series
    }
}

/// Pairs of ids at a time.
const PAIRS: usize = 16;

/// The nearest below the root of 1/2.
const ROOT_HALF: f32 = 0.707_106_77;

/// Threefry's constant, so that no key is all zeros.
const PARITY: u32 = 0x1bd1_1bda;

/// Threefry-2x32's rotations.
const TURNS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_of_threefrys_published_vectors() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry([pi[2], pi[3]], [pi[0], pi[1]]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn the_noise_is_that_of_its_formula_for_every_kind_of_word() {
        let near = (0..32).flat_map(|shift| [1_u32 << shift, (1 << shift) - 1, !(1 << shift), 3 << shift >> 1]);
        let spread = (0..200_000).map(|index: u32| index.wrapping_mul(2_654_435_761));
        for word in near.chain(spread).chain([0, u32::MAX]) {
            let cell = |word: u32| match word >> 24 {
                0 => (f64::from(word) + 0.5) / 4_294_967_296.0,
                _ => (f64::from(word >> 8) + 0.5) / 16_777_216.0,
            };
            let want = if word >> 31 == 0 { -(-(-cell(word)).ln_1p()).ln() } else { -(-cell(!word).ln()).ln() };
            let got = f64::from(noise(word));
            assert!((got - want).abs() < 2.5e-7 + 2.5e-7 * want.abs(), "{word:#x}: {got}, not {want}");
        }
    }

    #[test]
    fn the_noise_has_the_mean_and_the_variance_of_gumbels_distribution() {
        let count = 400_000;
        let noises: Vec<f64> = (0..count).map(|id| f64::from(gumbel(9, id / 1000, id % 1000))).collect();
        let mean = noises.iter().sum::<f64>() / f64::from(count);
        let variance = noises.iter().map(|noise| (noise - mean).powi(2)).sum::<f64>() / f64::from(count);
        assert!((mean - 0.577_215_7).abs() < 0.008, "mean {mean}");
        assert!((variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.03, "variance {variance}");
    }

    #[test]
    fn a_draw_is_the_largest_of_the_scores_of_all_ids() {
        let draw_of = |seed| Draw { seed: [seed, 3], inverse_temperature: 0.7, ..Draw::default() };
        for vocab in [1, 2, 31, 32, 33, 1001] {
            let logits: Vec<f32> = (0..vocab).map(|id| (id as f32 * 0.37).sin()).collect();
            for seed in 0..20 {
                let draw_it = draw_of(seed);
                let scores = (0..vocab).map(|id| score(logits[id as usize], &draw_it, 5, id));
                let seed = u64::from(seed) | 3 << 32;
                assert!(
                    scores.clone().zip(0..).all(|(got, id)| got == logits[id as usize] * 0.7 + gumbel(seed, 5, id))
                );
                let best = scores.clone().fold(f32::MIN, f32::max);
                let first = scores.clone().position(|score| score == best);
                assert_eq!(Some(draw(&logits, &draw_it, 5) as usize), first, "{vocab} {seed}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_drawn() {
        let draw_it = Draw { inverse_temperature: 1.0, ..Draw::default() };
        for position in 0..50 {
            let id = draw(&[f32::NAN, 1.0, f32::NEG_INFINITY, 1.0], &draw_it, position);
            assert!(id == 1 || id == 3, "{id}");
        }
        assert_eq!(draw(&[f32::NAN; 3], &draw_it, 0), 0);
    }
}
