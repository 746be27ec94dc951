//! How far answers are from the exact ones, and from the text.

/// The comparison of many positions.
#[derive(Default)]
pub(super) struct Quality {
    same: usize,
    divergences: Vec<f64>,
}

impl Quality {
    /// Compares every position of a pass: `logits` with the `exact` ones.
    pub(super) fn compare(&mut self, vocab: usize, exact: &[f32], logits: &[f32]) {
        for (exact, logits) in exact.chunks_exact(vocab).zip(logits.chunks_exact(vocab)) {
            self.same += usize::from(best(exact) == best(logits));
            self.divergences.push(divergence(exact, logits));
        }
    }

    /// The part of the positions at which the most likely next token is the same.
    pub(super) fn agreement(&self) -> f64 {
        self.same as f64 / self.divergences.len() as f64
    }

    /// Nats per position.
    pub(super) fn mean_kl(&self) -> f64 {
        self.divergences.iter().sum::<f64>() / self.divergences.len() as f64
    }

    /// Nats at the worst position.
    pub(super) fn worst_kl(&self) -> f64 {
        self.divergences.iter().copied().fold(0.0, f64::max)
    }
}

/// How well a text is predicted.
#[derive(Default)]
pub(super) struct Perplexity {
    surprise: f64,
    tokens: usize,
}

impl Perplexity {
    /// Adds what every position of a pass says of the token that follows it in `ids`.
    pub(super) fn add(&mut self, vocab: usize, ids: &[u32], logits: &[f32]) {
        for (logits, next) in logits.chunks_exact(vocab).zip(ids.iter().skip(1)) {
            self.surprise += normaliser(logits) - f64::from(logits[*next as usize]);
            self.tokens += 1;
        }
    }

    /// The exponential of the mean negative log-likelihood, in nats, of a token.
    pub(super) fn value(&self) -> f64 {
        (self.surprise / self.tokens as f64).exp()
    }
}

/// Index of the largest logit, the lowest among equals.
fn best(logits: &[f32]) -> usize {
    let better = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, better)
}

/// Kullback-Leibler divergence of the softmax of `coded` from that of `exact`, in nats.
fn divergence(exact: &[f32], coded: &[f32]) -> f64 {
    let (p, q) = (normaliser(exact), normaliser(coded));
    let terms = exact.iter().zip(coded).map(|(exact, coded)| {
        let (p, q) = (f64::from(*exact) - p, f64::from(*coded) - q);
        p.exp() * (p - q)
    });
    terms.sum::<f64>().max(0.0)
}

/// The logarithm of the sum of the exponentials.
fn normaliser(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - top).exp()).sum();
    f64::from(top) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_its_definition() {
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let kl = divergence(&[0.0, 0.0], &[0.0, 3f32.ln()]);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl - expected).abs() < 1e-6, "{kl}");
        assert_eq!(divergence(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 0.0);
    }

    #[test]
    fn perplexity_is_the_number_of_tokens_that_are_as_likely() {
        let mut perplexity = Perplexity::default();
        perplexity.add(4, &[0, 3, 1], &[1.0, 1.0, 1.0, 1.0, -2.0, -2.0, -2.0, -2.0, 9.0, 0.0, 0.0, 0.0]);
        assert!((perplexity.value() - 4.0).abs() < 1e-9);
        assert_eq!(perplexity.tokens, 2);
    }
}
