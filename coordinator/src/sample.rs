//! From logits to the next token. Sampling happens here and nowhere else, so a node cannot forge a token.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// How the next token is chosen, and what is told of the choice.
///
/// Applied in this order, as transformers does: repetition penalty, temperature, top-k, top-p, min-p. OpenAI's bias and
/// penalties come first of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the most likely token.
    pub temperature: f32,
    /// Only the `k` most likely tokens; 0 for all.
    pub top_k: u32,
    /// Only the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before (Keskar et al. 2019); 1 for none.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens that were generated before, once; 0 for none.
    pub presence_penalty: f32,
    /// Taken off the logits of tokens that were generated before, for each time; 0 for none.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Tells each token's log-probability, and those of so many of the likeliest tokens: by the model alone, before anything
    /// here changes a logit.
    #[serde(skip)]
    pub logprobs: Option<u8>,
    /// Seed of the random numbers: the same seed, prompt and model give the same text. By default another one each time.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        let seed = fresh_seed();
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            logprobs: None,
            seed,
        }
    }
}

impl Sampling {
    /// Checks every parameter's range.
    ///
    /// # Errors
    /// Names the parameter, its value and the range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
        ];
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(*bias)) {
            return Err(format!("logit_bias of token {id} is {bias}: it must lie in -100 to 100"));
        }
        match ranges.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((name, value, low, high)) => Err(format!("{name} is {value}: it must lie in {low} to {high}")),
            None => Ok(()),
        }
    }

    /// What has to be known of each distribution.
    pub fn need(&self) -> Need {
        let likeliest = match self.top_k {
            _ if self.changes_logits() => return Need::Full,
            _ if self.temperature == 0.0 => 1,
            1..=MAX_TOP => self.top_k as u16,
            _ => return Need::Full,
        };
        Need::Top(likeliest.max(self.logprobs.unwrap_or(0).into()))
    }

    /// Whether another token than the model's likeliest may become the likeliest.
    fn changes_logits(&self) -> bool {
        let penalties = [self.presence_penalty, self.frequency_penalty];
        self.repetition_penalty != 1.0 || penalties != [0.0; 2] || !self.logit_bias.is_empty()
    }
}

/// A seed that differs from call to call; short enough to type again.
pub fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 40
}

/// What a sampler has to see of a distribution to choose from it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The most likely tokens.
    Top(u16),
    /// Every logit.
    Full,
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// Chooses the tokens of one request.
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64Mcg,
    seen: BTreeSet<u32>,
    /// How often each token was chosen.
    chosen: BTreeMap<u32, u32>,
}

impl Sampler {
    /// A sampler that has seen the prompt.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let random = Pcg64Mcg::seed_from_u64(sampling.seed);
        Self { sampling, random, seen: prompt.iter().copied().collect(), chosen: BTreeMap::new() }
    }

    /// The next token, from the candidates that [`Sampling::need`] asked for, in any order.
    ///
    /// # Errors
    /// When there is no candidate or a logit is not a number: the node that computed them is broken.
    pub fn choose(&mut self, candidates: &mut Vec<Candidate>) -> Result<u32, &'static str> {
        if candidates.iter().any(|c| c.logit.is_nan() || c.logit == f32::INFINITY) {
            return Err("a logit is not a finite number");
        }
        self.bias(candidates);
        self.penalise(candidates);
        let chosen = if self.sampling.temperature == 0.0 { best(candidates) } else { self.draw(candidates) };
        let id = chosen.ok_or("no candidate token")?;
        self.note(id);
        Ok(id)
    }

    /// Takes note of a token that it has chosen before, in a run whose distributions are not known any more.
    pub(crate) fn recall(&mut self, id: u32) {
        if self.sampling.temperature != 0.0 {
            uniform(&mut self.random);
        }
        self.note(id);
    }

    fn note(&mut self, id: u32) {
        self.seen.insert(id);
        *self.chosen.entry(id).or_default() += 1;
    }

    /// `logit + bias - count * frequency_penalty - (count > 0) * presence_penalty`, as OpenAI's reference gives it.
    fn bias(&self, candidates: &mut [Candidate]) {
        let Sampling { presence_penalty, frequency_penalty, logit_bias, .. } = &self.sampling;
        if (*presence_penalty, *frequency_penalty) == (0.0, 0.0) && logit_bias.is_empty() {
            return;
        }
        for c in candidates {
            c.logit += logit_bias.get(&c.id).copied().unwrap_or(0.0);
            if let Some(count) = self.chosen.get(&c.id) {
                c.logit -= *count as f32 * frequency_penalty + presence_penalty;
            }
        }
    }

    fn penalise(&self, candidates: &mut [Candidate]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for c in candidates.iter_mut().filter(|c| self.seen.contains(&c.id)) {
            c.logit = if c.logit > 0.0 { c.logit / penalty } else { c.logit * penalty };
        }
    }

    fn draw(&mut self, candidates: &mut Vec<Candidate>) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
        if top_k > 0 {
            candidates.truncate(top_k as usize);
        }
        let top = candidates.first()?.logit;
        let mut weights: Vec<f64> =
            candidates.iter().map(|c| (f64::from(c.logit - top) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.truncate(nucleus(&weights, f64::from(top_p) * total));
        // Weights are relative to the most likely token's, which is 1.
        let kept = weights.partition_point(|w| *w >= f64::from(min_p)).max(1);
        weights.truncate(kept);
        let mut left = uniform(&mut self.random) * weights.iter().sum::<f64>();
        let index = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        Some(candidates[index.unwrap_or(weights.len() - 1)].id)
    }
}

/// The most likely token, the lowest id among equals.
fn best(candidates: &[Candidate]) -> Option<u32> {
    let better = |a: &Candidate, b: &Candidate| a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    candidates.iter().copied().reduce(|best, c| if better(&c, &best) { c } else { best }).map(|c| c.id)
}

/// How many of the falling `weights` reach `mass` together; at least one.
fn nucleus(weights: &[f64], mass: f64) -> usize {
    let mut sum = 0.0;
    let reached = weights.iter().position(|w| {
        sum += w;
        sum >= mass
    });
    reached.map_or(weights.len(), |index| index + 1)
}

/// A number in `[0, 1)` with 53 random bits.
fn uniform(random: &mut Pcg64Mcg) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Longer top-k lists cost more bytes than they save; the full logits are asked for instead.
const MAX_TOP: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        logits.iter().enumerate().map(|(id, &logit)| Candidate { id: id as u32, logit }).collect()
    }

    fn frequencies(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling, &[]);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(&mut candidates(logits)).unwrap() as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn plain(temperature: f32) -> Sampling {
        Sampling { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7, ..Sampling::default() }
    }

    #[test]
    fn temperature_zero_takes_the_lowest_id_of_the_best() {
        let mut sampler = Sampler::new(plain(0.0), &[]);
        assert_eq!(sampler.choose(&mut candidates(&[1.0, 3.0, 3.0, 2.0])), Ok(1));
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0];
        let frequencies = frequencies(plain(1.0), &logits, 20_000);
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (got, logit) in frequencies.iter().zip(logits) {
            assert!((got - f64::from(logit).exp() / total).abs() < 0.015, "{frequencies:?}");
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = [3.0, 2.0, 1.0, -5.0];
        let top_k = frequencies(Sampling { top_k: 2, ..plain(1.0) }, &logits, 2_000);
        assert!(top_k[2] == 0.0 && top_k[3] == 0.0 && top_k[1] > 0.0);
        // The first alone has 0.665 of the mass, the first two 0.909.
        let top_p = frequencies(Sampling { top_p: 0.7, ..plain(1.0) }, &logits, 2_000);
        assert!(top_p[2] == 0.0 && top_p[1] > 0.0);
        // The third is exp(-2) = 0.135 times as likely as the first.
        let min_p = frequencies(Sampling { min_p: 0.2, ..plain(1.0) }, &logits, 2_000);
        assert!(min_p[2] == 0.0 && min_p[1] > 0.0);
    }

    #[test]
    fn the_penalty_lowers_seen_tokens_of_either_sign() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..plain(0.0) }, &[1]);
        assert_eq!(sampler.choose(&mut candidates(&[1.0, 1.5])), Ok(0));
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..plain(0.0) }, &[1]);
        assert_eq!(sampler.choose(&mut candidates(&[-1.5, -1.0])), Ok(0));
    }

    #[test]
    fn penalties_count_what_was_generated_and_not_the_prompt() {
        let chosen = |sampling: Sampling, logits: &[f32], count: usize| {
            let mut sampler = Sampler::new(sampling, &[0]);
            (0..count).map(|_| sampler.choose(&mut candidates(logits)).unwrap()).collect::<Vec<_>>()
        };
        // Once for however often: the first falls behind the second by 0.5, and stays ahead of the third.
        let presence = Sampling { presence_penalty: 1.5, ..plain(0.0) };
        assert_eq!(chosen(presence, &[2.0, 1.0, 0.2], 5), [0, 1, 0, 0, 0]);
        // Once for each time: they take turns.
        let frequency = Sampling { frequency_penalty: 0.75, ..plain(0.0) };
        assert_eq!(chosen(frequency, &[2.0, 1.0], 5), [0, 0, 1, 0, 1]);
    }

    #[test]
    fn a_bias_bans_and_forces() {
        let forced = Sampling { logit_bias: BTreeMap::from([(2, 100.0)]), ..plain(1.0) };
        assert_eq!(frequencies(forced, &[3.0, 2.0, 1.0], 100), frequencies(plain(0.0), &[0.0, 0.0, 1.0], 100));
        let banned = Sampling { logit_bias: BTreeMap::from([(0, -100.0)]), ..plain(1.0) };
        assert_eq!(frequencies(banned, &[3.0, 2.0, 1.0], 1_000)[0], 0.0);
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..plain(1.0) }, &[]);
            (0..32).map(|_| sampler.choose(&mut candidates(&[0.0; 64])).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn broken_logits_and_parameters_are_named() {
        assert!(Sampler::new(plain(1.0), &[]).choose(&mut candidates(&[f32::NAN])).is_err());
        assert!(Sampler::new(plain(0.0), &[]).choose(&mut Vec::new()).is_err());
        assert!(Sampling { top_p: 1.5, ..plain(1.0) }.check().unwrap_err().contains("top_p is 1.5"));
        assert!(Sampling { temperature: f32::NAN, ..plain(1.0) }.check().is_err());
        let bias = Sampling { logit_bias: BTreeMap::from([(5, 101.0)]), ..plain(1.0) };
        assert!(bias.check().unwrap_err().contains("token 5 is 101"));
    }

    #[test]
    fn only_what_is_needed_is_asked_for() {
        assert_eq!(plain(0.0).need(), Need::Top(1));
        assert_eq!(Sampling { top_k: 40, ..plain(1.0) }.need(), Need::Top(40));
        assert_eq!(plain(1.0).need(), Need::Full);
        assert_eq!(Sampling { repetition_penalty: 1.1, ..plain(0.0) }.need(), Need::Full);
        assert_eq!(Sampling { presence_penalty: 0.1, ..plain(0.0) }.need(), Need::Full);
        assert_eq!(Sampling { logprobs: Some(5), ..plain(0.0) }.need(), Need::Top(5));
        assert_eq!(Sampling { logprobs: Some(0), ..plain(0.0) }.need(), Need::Top(1));
        assert_eq!(Sampling { logprobs: Some(5), top_k: 40, ..plain(1.0) }.need(), Need::Top(40));
    }
}
