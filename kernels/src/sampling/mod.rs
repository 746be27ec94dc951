//! How the token loop chooses a token from its logits: the definition that both engines follow, and its plain form.
//!
//! **Noise.** The token drawn is the one with the largest `logit / temperature + noise`, the lowest id among equals, where
//! the noise of each is drawn from Gumbel's distribution (Gumbel 1954; "Gumbel-max"): this is a draw from the softmax
//! without a sum over the vocabulary, so it fits into the head's arg max. The noise is a function of seed, position and id
//! (see [`gumbel`]), so a seed gives the same draws whatever the submits, the workgroups and the threads.
//!
//! **Top-k and top-p** leave tokens out before the draw. Both go by a token's *step*, its distance below the most likely
//! token in units of 2^-17 nats, `floor(2^17 (max - logit) / temperature)`: tokens of one step stay or go together, as
//! those of equal logits have to. Top-k keeps the lowest step up to which there are `top_k` tokens, and everything below
//! it. Top-p then keeps the lowest step up to which the tokens have `top_p` of the probability of what top-k left. A token
//! 32 nats below the most likely one, with less than 10^-13.9 of its probability, has no step and goes in either case.
//!
//! A step is far below the error of a logit, and integers that are counted or added up do not depend on the order. So the
//! engines agree but for what differs between them already: logits by the order of sums, the noise by a few units in the
//! last place where a device contracts or divides in another way.

mod noise;
mod sieve;

pub use noise::gumbel;

use crate::cpu::{arg_max, exp};
use crate::engine::EngineError;
use sieve::Sieve;

/// How the token loop chooses tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampler {
    /// The most likely token, the lowest id among equals.
    #[default]
    Greedy,
    /// A token drawn from what is left of the distribution: see [the module](self).
    Sampled {
        /// Logits are divided by this, 0.001 to 100.
        temperature: f32,
        /// Only this many of the most likely tokens (and their equals); 0 for all.
        top_k: u32,
        /// Only the most likely tokens that together have this much of the probability, 0 to 1; 1 for all.
        top_p: f32,
        /// The same seed draws the same tokens from the same logits.
        seed: u64,
    },
}

impl Sampler {
    /// Checks every number's range.
    ///
    /// # Errors
    /// [`EngineError::Sampler`] names the number and the range.
    pub fn check(&self) -> Result<(), EngineError> {
        let Self::Sampled { temperature, top_p, .. } = *self else { return Ok(()) };
        let (coldest, hottest) = TEMPERATURES;
        let ranges = [("temperature", temperature, coldest, hottest), ("top_p", top_p, 0.0, 1.0)];
        match ranges.into_iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((name, value, low, high)) => Err(EngineError::Sampler { name, value, low, high }),
            None => Ok(()),
        }
    }

    /// What it comes to for a vocabulary of `vocab` tokens.
    pub(crate) fn rule(&self, vocab: usize) -> Rule {
        let Self::Sampled { temperature, top_k, top_p, seed } = *self else { return Rule::Best };
        if top_k == 1 || top_p < SURELY_ONE {
            return Rule::Best;
        }
        let top_k = if top_k as usize >= vocab { 0 } else { top_k };
        let inverse_temperature = 1.0 / temperature;
        let draw = Draw {
            seed: [seed as u32, (seed >> 32) as u32],
            inverse_temperature,
            steps: inverse_temperature * sieve::STEPS_PER_NAT,
            top_k,
            top_p,
            noisy_head: 0,
            pad: 0,
        };
        if top_k == 0 && top_p >= 1.0 { Rule::Noisy(Draw { noisy_head: 1, ..draw }) } else { Rule::Sieved(draw) }
    }
}

/// A sampler as the loop uses it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// The largest logit.
    Best,
    /// The largest logit with noise.
    Noisy(Draw),
    /// The same among the tokens that top-k and top-p leave.
    Sieved(Draw),
}

/// The numbers of a draw: `Draw` in noise.wgsl.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Draw {
    /// Low word first.
    pub(crate) seed: [u32; 2],
    /// 1 / temperature.
    pub(crate) inverse_temperature: f32,
    /// Steps for each unit of a logit.
    pub(crate) steps: f32,
    /// 0 for all.
    pub(crate) top_k: u32,
    /// 1 for all.
    pub(crate) top_p: f32,
    /// 1: the head adds noise to its logits.
    pub(crate) noisy_head: u32,
    pub(crate) pad: u32,
}

const _: () = assert!(size_of::<Draw>() == 32);

/// Chooses tokens from logits as the token loops of both engines do.
#[derive(Default)]
pub struct Chooser {
    sieve: Sieve,
}

impl Chooser {
    /// The token that `sampler` chooses from `logits`, those behind the token at `position`; 0 when none is a number.
    pub fn choose(&mut self, logits: &[f32], sampler: &Sampler, position: usize) -> u32 {
        match sampler.rule(logits.len()) {
            Rule::Best => arg_max(logits) as u32,
            Rule::Noisy(draw) => noise::draw(logits, &draw, position),
            Rule::Sieved(draw) => {
                let kept = self.sieve.kept(logits, &draw);
                kept.draw(logits, &draw, position)
            }
        }
    }
}

/// Temperatures outside are either greedy or noise alone, and their scores soon beyond f32.
const TEMPERATURES: (f32, f32) = (1e-3, 100.0);

/// The most likely token alone has more than this: vocabularies have fewer than a million tokens.
const SURELY_ONE: f32 = 1e-6;
