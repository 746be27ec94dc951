//! The loop that is timed.

use std::time::Instant;

use anyhow::Result;

/// Something that computes logits over a KV cache of its own.
pub(crate) trait Rival {
    /// Forgets all positions.
    fn begin(&mut self) -> Result<()>;

    /// Feeds `ids`, the first at `position`, and gives the logits behind the last.
    fn forward(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>>;
}

/// What a rival made of a prompt.
pub(crate) struct Decoded {
    /// Logits behind the prompt.
    pub(crate) logits: Vec<f32>,
    /// The tokens that follow it: the prompt's, and one for each that was fed.
    pub(crate) ids: Vec<u32>,
    /// How long all but the prompt took.
    pub(crate) seconds: f64,
}

/// Takes the prompt in, then feeds the rival its own choice, `tokens` times.
pub(crate) fn decode(rival: &mut dyn Rival, prompt: &[u32], tokens: usize) -> Result<Decoded> {
    rival.begin()?;
    let logits = rival.forward(prompt, 0)?;
    let mut last = likeliest(&logits);
    let mut ids = vec![last];
    let begun = Instant::now();
    for position in prompt.len()..prompt.len() + tokens {
        last = likeliest(&rival.forward(&[last], position)?);
        ids.push(last);
    }
    Ok(Decoded { logits, ids, seconds: begun.elapsed().as_secs_f64() })
}

/// The lowest id among those with the largest logit.
pub(crate) fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants the token behind the last one, and records what it is fed.
    #[derive(Default)]
    struct Counter {
        fed: Vec<(Vec<u32>, usize)>,
    }

    impl Rival for Counter {
        fn begin(&mut self) -> Result<()> {
            self.fed.clear();
            Ok(())
        }

        fn forward(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>> {
            self.fed.push((ids.to_vec(), position));
            let next = ids[ids.len() - 1] + 1;
            Ok((0..10).map(|id| if id >= next { 1.0 } else { 0.0 }).collect())
        }
    }

    #[test]
    fn every_choice_is_fed_at_the_position_behind_the_last() {
        let mut rival = Counter::default();
        for _ in 0..2 {
            assert_eq!(decode(&mut rival, &[3, 4], 3).unwrap().ids, [5, 6, 7, 8]);
            assert_eq!(rival.fed, [(vec![3, 4], 0), (vec![5], 2), (vec![6], 3), (vec![7], 4)]);
        }
    }
}
