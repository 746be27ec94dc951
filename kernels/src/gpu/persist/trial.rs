//! What is gained by one dispatch, measured when an engine is made: a kernel that gains too little is not kept, nor one that
//! gives something else than the other kernels.

use std::ops::ControlFlow;
use std::time::Duration;

use web_time::Instant;

use super::super::engine::GpuEngine;
use super::Persist;
use crate::engine::{Decode, Engine, EngineError, Input, Slot, Step};

impl GpuEngine {
    /// Keeps the kernel of the loop only if it gives the same tokens as the other kernels, and at least [`GAIN`] times as
    /// many a second.
    ///
    /// # Errors
    /// What the device says.
    pub(in super::super) fn admit(&mut self) -> Result<(), EngineError> {
        let count = TOKENS.min(self.config.max_positions);
        let (texts, times) = self.trials(
            |engine| &mut engine.persist,
            |engine, slot| {
                let mut ids = Vec::with_capacity(count);
                let sink = |id| {
                    ids.push(id);
                    ControlFlow::Continue(())
                };
                pollster::block_on(engine.token_loop(Decode::greedy(slot, 0, 0, count), sink))?;
                Ok(ids)
            },
        )?;
        if !self.is_worth_it("the token loop", "tokens", texts[0] == texts[1], times) {
            self.persist = None;
        }
        Ok(())
    }

    /// Keeps the kernel of a step only if it gives the same rows or logits as the other kernels but for rounding, and steps
    /// are at least [`GAIN`] times as fast.
    ///
    /// # Errors
    /// What the device says.
    pub(in super::super) fn admit_steps(&mut self) -> Result<(), EngineError> {
        let (width, vocab) = (self.plan.spec.width, self.plan.spec.vocab);
        let count = STEPS.min(self.config.max_positions);
        let values: Vec<f32> = (0..count * width).map(|i| (i as f32 * 0.37).sin()).collect();
        let ids: Vec<u32> = (0..count).map(|i| (i * 7 % vocab) as u32).collect();
        let embeds = self.plan.embeds();
        let (results, times) = self.trials(
            |engine| &mut engine.steps,
            |engine, slot| {
                let (mut all, mut out) = (Vec::new(), Vec::new());
                for position in 0..count {
                    let input = match embeds {
                        true => Input::Tokens(&ids[position..=position]),
                        false => Input::Rows(&values[position * width..(position + 1) * width]),
                    };
                    pollster::block_on(engine.run(Step { slot, position, input, wanted: 0 }, &mut out))?;
                    all.extend_from_slice(&out);
                }
                Ok(all)
            },
        )?;
        if !self.is_worth_it("a step", "results", are_close(&results[0], &results[1]), times) {
            self.steps = None;
        }
        Ok(())
    }

    /// Runs `trial` without the kernel that `taken` names and with it, in turns: what each gave in the end, and the shortest
    /// time that it took.
    fn trials<T: Default>(
        &mut self,
        taken: fn(&mut Self) -> &mut Option<Persist>,
        mut trial: impl FnMut(&mut Self, Slot) -> Result<T, EngineError>,
    ) -> Result<([T; 2], [Duration; 2]), EngineError> {
        let mut results = [T::default(), T::default()];
        let mut times = [Duration::MAX; 2];
        let slot = self.open()?;
        for _ in 0..=TRIALS {
            for (arm, (time, result)) in times.iter_mut().zip(&mut results).enumerate() {
                let aside = if arm == 0 { taken(self).take() } else { None };
                self.forget_prepared();
                let begun = Instant::now();
                let tried = trial(self, slot);
                let took = begun.elapsed();
                if arm == 0 {
                    *taken(self) = aside;
                }
                (*result, *time) = (tried?, took.min(*time));
            }
        }
        self.close(slot);
        Ok((results, times))
    }

    fn is_worth_it(&self, what: &str, results: &str, is_same: bool, times: [Duration; 2]) -> bool {
        let gain = times[0].as_secs_f64() / times[1].as_secs_f64();
        let name = self.device.name();
        tracing::debug!("{name}: {what} in one dispatch: {gain:.2} times as fast, same {results}: {is_same}");
        is_same && gain >= GAIN
    }
}

/// Whether no two values are further apart than rounding brings them.
fn are_close(a: &[f32], b: &[f32]) -> bool {
    let largest = a.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= ROUNDING * largest)
}

/// Tokens of a trial of the loop.
const TOKENS: usize = 48;

/// Steps of a trial of steps.
const STEPS: usize = 24;

/// Trials of each arm behind a first one that warms up.
const TRIALS: usize = 2;

/// How much faster one dispatch must be.
const GAIN: f64 = 1.15;

/// Of the largest value: f16 weights alone are rounded by half of it.
const ROUNDING: f32 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_close_within_rounding_of_the_largest_and_never_where_one_is_no_number() {
        assert!(are_close(&[2000.0, 0.0], &[2001.9, -1.9]));
        assert!(!are_close(&[2000.0, 0.0], &[2000.0, 2.1]));
        assert!(!are_close(&[1.0], &[1.0, 1.0]));
        assert!(!are_close(&[1.0, 1.0], &[1.0, f32::NAN]) && !are_close(&[f32::NAN], &[f32::NAN]));
    }
}
