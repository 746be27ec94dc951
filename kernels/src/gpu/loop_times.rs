//! Where the time of the token loop in one dispatch goes.
//!
//! Inside a dispatch there is no clock, so the kernel is made again without parts of its work, and the difference is what
//! they take: first without the weights of one kind of op, then without those of one more, and so on. What is left in the
//! end is the exchange between workgroups: an input is waited for, brought in and normed, and a result of nothing handed on.
//! The kernels read and compute nonsense then, in as many steps.

use std::time::Duration;

use web_time::Instant;

use super::activations::{RING, StepState};
use super::engine::GpuEngine;
use super::memory::View;
use super::op_times::WARM_UP;
use super::persist::Persist;
use super::rounds::Rounds;
use super::shader::Kernel;
use crate::engine::{Engine, EngineError, Slot};
use crate::token_times::median;

/// What one kind of op adds to a token of the loop in one dispatch, over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartTime {
    /// Its name in the plan.
    pub op: &'static str,
    /// Ops of this kind.
    pub ops: usize,
    /// Bytes that all of them read, as the plan has it.
    pub bytes: u64,
    /// How much shorter a token is without reading and computing it.
    pub time: Duration,
}

/// A token of the loop in one dispatch, by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopTimes {
    /// The ops in their order; each time is taken without those before it, so that all times and `exchanged` sum up to
    /// `token`.
    pub parts: Vec<PartTime>,
    /// How often workgroups wait for results of others in a token.
    pub exchanges: usize,
    /// A token in which nothing is read or computed but what workgroups hand to each other.
    pub exchanged: Duration,
    /// The same where nobody waits for it.
    pub unwaited_exchanged: Duration,
    /// A token with all its work where nobody waits.
    pub unwaited: Duration,
    /// A token as it is.
    pub token: Duration,
}

impl GpuEngine {
    /// Measures tokens from `position` on in one dispatch: medians of `samples`. Nothing where the loop runs otherwise.
    ///
    /// Makes nine kernels, which takes seconds.
    ///
    /// # Errors
    /// [`EngineError::Context`] where fewer than 16 positions are left behind `position`, and what the device says.
    pub fn loop_times(&mut self, position: usize, samples: usize) -> Result<Option<LoopTimes>, EngineError> {
        let (end, max) = (position.saturating_add(RING), self.config.max_positions);
        if end > max {
            return Err(EngineError::Context { end, max });
        }
        let slot = self.open()?;
        let measured = match &self.persist {
            Some(persist) => self.loop_parts(persist, slot, position, samples).map(Some),
            None => Ok(None),
        };
        self.close(slot);
        measured
    }

    fn loop_parts(
        &self,
        persist: &Persist,
        slot: Slot,
        position: usize,
        samples: usize,
    ) -> Result<LoopTimes, EngineError> {
        let Some(binds) = &self.request(slot)?.persist else { return Err(EngineError::NoSlot(slot.0)) };
        let state = StepState { position: position as u32, rows: 1, wanted: 0, made: 0 };
        let words: Vec<u32> = bytemuck::cast_slice(&[state]).iter().copied().chain([0]).collect();
        let bare = Rounds::new(&self.device, 0, &View::whole(&self.activations.state))?;
        let turns = |kernel: &Kernel, turns: usize| -> Result<Duration, EngineError> {
            self.device.queue.write_buffer(&self.activations.state, 0, bytemuck::cast_slice(&words));
            bare.submit(1, &mut |pass| persist.record_as(kernel, pass, binds, turns as u32))
        };
        let mut arms = Vec::new();
        let mut left_out = 0;
        for bits in [0].into_iter().chain(PARTS.map(|(_, bit)| bit)) {
            left_out |= bits;
            arms.push((persist.without(left_out)?, Vec::new()));
        }
        for bits in [left_out | LEFT_WAITS, LEFT_WAITS] {
            arms.push((persist.without(bits)?, Vec::new()));
        }
        // A device that had nothing to do has lowered its clock.
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP && !self.device.is_software() {
            turns(&arms[0].0, RING)?;
        }
        for sample in 0..=samples.max(1) {
            for (kernel, times) in &mut arms {
                let (short, long) = (turns(kernel, 1)?, turns(kernel, RING)?);
                // The first ones warm up.
                if sample > 0 {
                    times.push(long.saturating_sub(short) / (RING as u32 - 1));
                }
            }
        }
        let times: Vec<Duration> = arms.into_iter().map(|(_, times)| median(times)).collect();
        let parts = PARTS.iter().zip(times.windows(2)).map(|(&(op, _), pair)| {
            let ops = self.plan.ops.iter().filter(|other| other.name() == op);
            let bytes = ops.clone().map(|op| self.plan.bytes_read(op, position)).sum();
            PartTime { op, ops: ops.count(), bytes, time: pair[0].saturating_sub(pair[1]) }
        });
        Ok(LoopTimes {
            parts: parts.collect(),
            // Five in a layer: its ops' inputs; then the head's, and everybody's likeliest token.
            exchanges: 5 * self.plan.layers.len() + 2,
            exchanged: times[PARTS.len()],
            unwaited_exchanged: times[PARTS.len() + 1],
            unwaited: times[PARTS.len() + 2],
            token: times[0],
        })
    }
}

/// In `LEFT_OUT` of persist.wgsl: flags are not looked at.
const LEFT_WAITS: u32 = 1;

/// Ops, and the bit in `LEFT_OUT` that leaves out what they read and compute.
const PARTS: [(&str, u32); 6] = [("qkv", 2), ("attend", 4), ("out", 8), ("up", 16), ("down", 32), ("head", 64)];

#[cfg(test)]
mod tests {
    use syn1_model::plan::{Plan, WeightFormat};
    use syn1_model::{Spec, random_piece};

    use super::*;
    use crate::engine::EngineConfig;
    use crate::gpu::{GpuDevice, GpuOptions, Persistence};

    fn engine(persist: Persistence) -> GpuEngine {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, layers: 2, ..Spec::gpt2_124m() };
        let spec = Spec { vocab: 500, ..spec };
        let plan = Plan::new(&spec, WeightFormat::F16, 0..2);
        let pieces: Vec<_> =
            plan.pieces.iter().map(|piece| random_piece(&spec, WeightFormat::F16, *piece, 3)).collect();
        let config = EngineConfig { max_positions: 64, slots: 1, max_rows: 1 };
        GpuEngine::with_options(&device, plan, &pieces, config, GpuOptions { persist, ..GpuOptions::default() })
            .unwrap()
    }

    #[test]
    fn the_parts_are_the_ops_with_their_bytes_and_the_kernel_is_as_before_afterwards() {
        let mut engine = engine(Persistence::Sized { groups: 1, threads: 64 });
        let times = engine.loop_times(20, 1).unwrap().unwrap();
        let parts: Vec<_> = times.parts.iter().map(|part| (part.op, part.ops)).collect();
        assert_eq!(parts, [("qkv", 2), ("attend", 2), ("out", 2), ("up", 2), ("down", 2), ("head", 1)]);
        let read: u64 = times.parts.iter().map(|part| part.bytes).sum();
        let ops = engine.plan.ops.iter().filter(|op| !["embed", "step"].contains(&op.name()));
        assert_eq!(read, ops.map(|op| engine.plan.bytes_read(op, 20)).sum::<u64>());
        assert_eq!(times.exchanges, 12);
        assert!(times.token > Duration::ZERO && times.exchanged > Duration::ZERO);
        assert!(engine.in_one_dispatch());
        let late = engine.loop_times(60, 1);
        assert!(matches!(late, Err(EngineError::Context { end: 76, max: 64 })), "{late:?}");
    }

    #[test]
    fn a_loop_of_many_dispatches_has_no_such_parts() {
        assert_eq!(engine(Persistence::Off).loop_times(0, 1).unwrap(), None);
    }
}
