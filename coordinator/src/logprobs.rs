//! Log-probabilities of tokens, as the model alone has them: taken before a sampler changes any logit.

use crate::sample::Candidate;
use crate::update::Logprobs;

/// A distribution before a token is chosen from it.
pub(crate) struct Likely {
    candidates: Vec<Candidate>,
    log_sum_exp: f64,
    count: usize,
}

impl Likely {
    /// Of `candidates`, to tell of `count` of them. `log_sum_exp` is that over the whole vocabulary; without it the
    /// candidates are all there are.
    pub(crate) fn of(candidates: &[Candidate], log_sum_exp: Option<f32>, count: u8) -> Self {
        let log_sum_exp = log_sum_exp.map_or_else(|| total(candidates), f64::from);
        Self { candidates: candidates.to_vec(), log_sum_exp, count: count.into() }
    }

    /// What is told now that `id` is chosen.
    pub(crate) fn chosen(mut self, id: u32) -> Logprobs {
        let of = |c: &Candidate| (f64::from(c.logit) - self.log_sum_exp) as f32;
        let chosen = self.candidates.iter().find(|c| c.id == id).map_or(f32::NEG_INFINITY, of);
        let falling = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
        // Of a whole vocabulary only a few are to be in order.
        if (1..self.candidates.len()).contains(&self.count) {
            self.candidates.select_nth_unstable_by(self.count - 1, falling);
        }
        self.candidates.truncate(self.count);
        self.candidates.sort_unstable_by(falling);
        Logprobs { chosen, likeliest: self.candidates.iter().map(|c| (c.id, of(c))).collect() }
    }
}

/// `ln(sum(exp(logit)))`.
fn total(candidates: &[Candidate]) -> f64 {
    let highest = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = candidates.iter().map(|c| f64::from(c.logit - highest).exp()).sum();
    f64::from(highest) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        (0..).zip(logits).map(|(id, logit)| Candidate { id, logit: *logit }).collect()
    }

    #[test]
    fn all_logits_and_the_likeliest_with_their_sum_tell_the_same() {
        let logits = [1.0, 3.0, -2.0, 3.0, 0.5];
        let all = candidates(&logits);
        let sum = logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
        let top: Vec<Candidate> = [1, 3, 0].map(|id: usize| all[id]).into();
        let whole = Likely::of(&all, None, 3).chosen(3);
        for told in [whole, Likely::of(&top, Some(sum as f32), 3).chosen(3)] {
            assert!((f64::from(told.chosen) - (3.0 - sum)).abs() < 1e-6, "{told:?}");
            for ((id, logprob), wanted) in told.likeliest.iter().zip([1, 3, 0]) {
                let exact = f64::from(logits[wanted]) - sum;
                assert!(*id as usize == wanted && (f64::from(*logprob) - exact).abs() < 1e-6, "{told:?}");
            }
            assert_eq!(told.likeliest.len(), 3);
        }
    }

    #[test]
    fn probabilities_sum_to_one_and_as_many_are_told_as_asked_for() {
        let all = candidates(&[300.0, 301.0, -300.0]);
        let told = Likely::of(&all, None, 20).chosen(0);
        let sum: f64 = told.likeliest.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{told:?}");
        assert_eq!(told.likeliest.len(), 3);
        assert_eq!(Likely::of(&all, None, 0).chosen(0).likeliest, []);
    }
}
