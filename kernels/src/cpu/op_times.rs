//! Where a token's time goes: a clock is read behind every op of real tokens.

use std::time::Duration;

use syn1_model::plan::Op;
use web_time::Instant;

use super::engine::CpuEngine;
use crate::engine::{Engine, EngineError, Input, Slot, Step};
use crate::group::Group;
use crate::sampling::Sampler;
use crate::token_times::{OpTime, TokenTimes, median};

impl CpuEngine {
    /// Measures `samples` tokens of the loop at `position`: medians. The time of an op ends when the calling thread sees that all
    /// of it is done, so waiting for another thread counts; on a machine that does something else meanwhile, the calling thread
    /// may see the ends of several at once. A turn (`step`) is the choice of the likeliest token, the next one's embedding, and what it
    /// takes the threads to begin and to end.
    ///
    /// # Errors
    /// [`EngineError::NotWhole`] for a part of a model, [`EngineError::Context`] where `position` is not one of the engine's,
    /// and what its steps say.
    pub fn op_times(&mut self, position: usize, samples: usize) -> Result<TokenTimes, EngineError> {
        if !(self.plan.embeds() && self.plan.heads()) {
            return Err(EngineError::NotWhole(self.plan.layers.clone()));
        }
        let (end, max) = (position.saturating_add(1), self.config.max_positions);
        if end > max {
            return Err(EngineError::Context { end, max });
        }
        let slot = self.open()?;
        let mut logits = std::mem::take(&mut self.buffers.logits);
        let mut group = std::mem::take(&mut self.group);
        let stages = self.stages.stages.len();
        self.ends = vec![Instant::now(); stages + 1];
        let measured = self.measured(slot, position, samples.max(1), &mut group, &mut logits);
        self.ends.clear();
        self.group = group;
        self.buffers.logits = logits;
        self.close(slot);
        measured
    }

    fn measured(
        &mut self,
        slot: Slot,
        position: usize,
        samples: usize,
        group: &mut Group,
        logits: &mut [f32],
    ) -> Result<TokenTimes, EngineError> {
        let sampler = Sampler::Greedy;
        let mut token = 0;
        for position in 0..position {
            self.one(group, &Step { slot, position, input: Input::Tokens(&[token]), wanted: 0 }, logits)?;
            token = self.chooser.choose(logits, &sampler, position);
        }
        let mut kinds = self.kinds(position);
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); kinds.len()];
        let mut tokens = Vec::new();
        for _ in 0..samples {
            let begun = Instant::now();
            self.one(group, &Step { slot, position, input: Input::Tokens(&[token]), wanted: 0 }, logits)?;
            token = self.chooser.choose(logits, &sampler, position);
            let whole = begun.elapsed();
            let mut of_kind = vec![Duration::ZERO; kinds.len()];
            let ops = self.plan.ops.iter().filter(|op| is_stage(op));
            for (op, ends) in ops.zip(self.ends.windows(2)) {
                if let Some(at) = kinds.iter().position(|kind| kind.op == op.name()) {
                    of_kind[at] += ends[1].saturating_duration_since(ends[0]);
                }
            }
            let stages: Duration = of_kind.iter().sum();
            for (kind, time) in kinds.iter().zip(&mut of_kind) {
                match kind.op {
                    "embed" => *time = self.ends[0].saturating_duration_since(begun),
                    "step" => *time = whole.saturating_sub(stages),
                    _ => {}
                }
            }
            times.iter_mut().zip(of_kind).for_each(|(times, time)| times.push(time));
            tokens.push(whole);
        }
        kinds.iter_mut().zip(times).for_each(|(kind, times)| kind.time = median(times));
        Ok(TokenTimes { ops: kinds, token: median(tokens) })
    }

    /// A step of one row.
    fn one(&mut self, group: &mut Group, step: &Step<'_>, logits: &mut [f32]) -> Result<(), EngineError> {
        group.alone(&self.plan, step, 1);
        self.compute(group, std::slice::from_ref(step), logits, None)
    }

    /// The plan's kinds of ops, unmeasured.
    fn kinds(&self, position: usize) -> Vec<OpTime> {
        let mut kinds: Vec<OpTime> = Vec::new();
        for op in &self.plan.ops {
            let (name, bytes, dispatches) = (op.name(), self.plan.bytes_read(op, position), phases(op));
            match kinds.iter_mut().find(|kind| kind.op == name) {
                Some(kind) => {
                    kind.ops += 1;
                    kind.bytes += bytes;
                    kind.dispatches += dispatches;
                }
                None => kinds.push(OpTime { op: name, ops: 1, dispatches, bytes, time: Duration::ZERO }),
            }
        }
        kinds
    }
}

/// Embeddings are made by the calling thread, in front of all stages.
fn is_stage(op: &Op) -> bool {
    !matches!(op, Op::Embed { .. } | Op::Step { .. })
}

/// How often the threads wait for each other in an op of one row: once, and behind norms of a product once more.
fn phases(op: &Op) -> usize {
    match op {
        Op::Embed { .. } | Op::Step { .. } => 0,
        Op::Qkv { qk_norm: Some(_), .. } | Op::Out { post: Some(_), .. } | Op::Down { post: Some(_), .. } => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use syn1_model::plan::{Plan, WeightFormat};
    use syn1_model::{Spec, random_piece};

    use super::*;
    use crate::engine::EngineConfig;

    #[test]
    fn the_ops_are_those_of_the_plan_with_its_bytes_and_a_token_after_a_look_is_the_same() {
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, layers: 3, ..Spec::gpt2_124m() };
        let spec = Spec { vocab: 500, max_positions: 40, ..spec };
        for format in [WeightFormat::F16, WeightFormat::Int8] {
            let plan = Plan::new(&spec, format, 0..3);
            let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(&spec, format, *piece, 3)).collect();
            let config = EngineConfig { max_positions: 40, slots: 1, max_rows: 1 };
            let mut engine = CpuEngine::new(plan.clone(), &pieces, config, Some(2)).unwrap();
            let logits = |engine: &mut CpuEngine| {
                let (slot, mut out) = (engine.open().unwrap(), Vec::new());
                let step = Step { slot, position: 0, input: Input::Tokens(&[7]), wanted: 0 };
                pollster::block_on(engine.run(step, &mut out)).unwrap();
                engine.close(slot);
                out
            };
            let before = logits(&mut engine);
            let TokenTimes { ops, token } = engine.op_times(20, 3).unwrap();
            assert_eq!(logits(&mut engine), before);
            let lines: Vec<_> = ops.iter().map(|op| (op.op, op.ops, op.dispatches)).collect();
            let block = ["qkv", "attend", "out", "up", "down"].map(|op| (op, 3, 3));
            assert_eq!(lines, [&[("embed", 1, 0)], &block[..], &[("head", 1, 1), ("step", 1, 0)]].concat());
            for op in &ops {
                let of_kind = plan.ops.iter().filter(|other| other.name() == op.op);
                assert_eq!(op.bytes, of_kind.map(|other| plan.bytes_read(other, 20)).sum::<u64>());
                assert!(op.time > Duration::ZERO, "{}", op.op);
            }
            assert!(token > Duration::ZERO);
            let late = engine.op_times(40, 1);
            assert!(matches!(late, Err(EngineError::Context { end: 41, max: 40 })), "{late:?}");
        }
        let plan = Plan::new(&spec, WeightFormat::F32, 0..2);
        let pieces: Vec<_> =
            plan.pieces.iter().map(|piece| random_piece(&spec, WeightFormat::F32, *piece, 3)).collect();
        let config = EngineConfig { max_positions: 40, slots: 1, max_rows: 1 };
        let part = CpuEngine::new(plan, &pieces, config, Some(1)).unwrap().op_times(0, 1);
        assert!(matches!(part, Err(EngineError::NotWhole(_))), "{part:?}");
    }
}
