//! Where a token's time goes: every op of the plan by itself, and all of them together.

use std::time::Duration;

use web_time::Instant;
use wgpu::ComputePass;

use super::activations::{RING, StepState};
use super::engine::GpuEngine;
use super::launch::{Extent, Launch};
use super::memory::View;
use super::rounds::Rounds;
use crate::engine::{Engine, EngineError, Slot};
use crate::sampling::{Draw, Rule};
use crate::token_times::{OpTime, TokenTimes, median};

impl GpuEngine {
    /// Measures a token at `position`, with the kernels of the token loop that are dispatched op by op: medians of `samples`.
    ///
    /// An op's dispatches run again and again in one submit, as in a token each behind the one before it, and in front of
    /// every round as many bytes are read as the token's other ops read: caches hold what they hold in a token. The embedding
    /// stands at the token loop's beginning only and is no part of its tokens.
    ///
    /// # Errors
    /// [`EngineError::NotWhole`] for a part of a model, [`EngineError::Context`] where fewer than 16 positions are left behind
    /// `position`, and what the device says.
    pub fn op_times(&mut self, position: usize, samples: usize) -> Result<TokenTimes, EngineError> {
        if !(self.plan.embeds() && self.plan.heads()) {
            return Err(EngineError::NotWhole(self.plan.layers.clone()));
        }
        let (end, max) = (position.saturating_add(RING), self.config.max_positions);
        if end > max {
            return Err(EngineError::Context { end, max });
        }
        let slot = self.open()?;
        let aside = self.persist.take();
        let measured = self.measured(slot, position, samples);
        self.persist = aside;
        self.close(slot);
        measured
    }

    fn measured(&mut self, slot: Slot, position: usize, samples: usize) -> Result<TokenTimes, EngineError> {
        self.device.queue.write_buffer(&self.activations.draw, 0, bytemuck::bytes_of(&Draw::default()));
        let mut kinds = self.kinds(position);
        let all: u64 = kinds.iter().filter(|kind| kind.op != "embed").map(|kind| kind.bytes).sum();
        let (shared, request) = (View::whole(&self.activations.state), self.request(slot)?);
        let extent = Extent::new(position, 1);
        // Turns move on; every submit begins where the first did.
        let state = StepState { position: position as u32, rows: 1, wanted: 0, made: 0 };
        let words: Vec<u32> = bytemuck::cast_slice(&[state]).iter().copied().chain([0]).collect();
        let reset = || self.device.queue.write_buffer(&self.activations.state, 0, bytemuck::cast_slice(&words));
        let bare = Rounds::new(&self.device, 0, &shared)?;
        let turns = |count: usize| -> Result<Duration, EngineError> {
            reset();
            bare.submit(1, &mut |pass| self.record_turns(pass, request, position..position + count, false, &Rule::Best))
        };
        let mut arms = Vec::new();
        for kind in &kinds {
            let launches: Vec<&Launch> = self.launches(kind.op).collect();
            let rounds = Rounds::new(&self.device, all.saturating_sub(kind.bytes), &shared)?;
            let record = move |pass: &mut ComputePass<'_>| {
                launches.iter().for_each(|launch| launch.record(pass, &request.binds, extent));
            };
            arms.push((rounds, record, Vec::new()));
        }
        // A device that had nothing to do has lowered its clock.
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP && !self.device.is_software() {
            turns(RING)?;
        }
        let mut counts = Vec::new();
        for (rounds, record, _) in &mut arms {
            reset();
            counts.push(rounds.enough(record)?);
        }
        let mut tokens = Vec::new();
        // In turns, so that all have the machine as it is at the same time.
        for _ in 0..samples.max(1) {
            for ((rounds, record, times), count) in arms.iter_mut().zip(&counts) {
                times.push(rounds.sample(*count, &reset, record)?);
            }
            let (short, long) = (turns(1)?, turns(RING)?);
            tokens.push(long.saturating_sub(short) / (RING as u32 - 1));
        }
        for (kind, (_, _, times)) in kinds.iter_mut().zip(arms) {
            kind.time = median(times);
        }
        Ok(TokenTimes { ops: kinds, token: median(tokens) })
    }

    /// The plan's kinds of ops, unmeasured.
    fn kinds(&self, position: usize) -> Vec<OpTime> {
        let extent = Extent::new(position, 1);
        let mut kinds: Vec<OpTime> = Vec::new();
        for op in &self.plan.ops {
            let (name, bytes) = (op.name(), self.plan.bytes_read(op, position));
            match kinds.iter_mut().find(|kind| kind.op == name) {
                Some(kind) => (kind.ops, kind.bytes) = (kind.ops + 1, kind.bytes + bytes),
                None => {
                    let dispatches = self.launches(name).filter(|launch| launch.runs(extent)).count();
                    kinds.push(OpTime { op: name, ops: 1, dispatches, bytes, time: Duration::ZERO });
                }
            }
        }
        kinds
    }

    /// The dispatches of all ops of a kind, for a token of the loop.
    fn launches<'a>(&'a self, name: &'static str) -> Box<dyn Iterator<Item = &'a Launch> + 'a> {
        let program = &self.program;
        match name {
            "embed" => Box::new(program.embed.iter()),
            "head" => Box::new(program.best.iter()),
            "step" => Box::new(program.turn.iter()),
            _ => {
                let spans = program.spans.iter().filter(move |(op, _)| *op == name);
                Box::new(spans.flat_map(|(_, span)| &program.body[span.clone()]))
            }
        }
    }
}

/// How long a device is kept busy before it is measured.
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use syn1_model::plan::{Plan, WeightFormat};
    use syn1_model::{Spec, random_piece};

    use super::*;
    use crate::engine::EngineConfig;
    use crate::gpu::GpuDevice;

    #[test]
    fn the_ops_are_those_of_the_plan_with_its_bytes_and_every_dispatch_of_a_token() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, layers: 3, ..Spec::gpt2_124m() };
        let spec = Spec { vocab: 500, max_positions: 600, ..spec };
        for format in [WeightFormat::F16, WeightFormat::Int4] {
            let plan = Plan::new(&spec, format, 0..3);
            let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(&spec, format, *piece, 3)).collect();
            let config = EngineConfig { max_positions: 600, slots: 1, max_rows: 1 };
            let mut engine = GpuEngine::new(&device, plan.clone(), &pieces, config).unwrap();
            // From 384 positions on the context is split, and each attention has a second dispatch.
            for (position, attend) in [(20, 3), (500, 6)] {
                let TokenTimes { ops, token } = engine.op_times(position, 1).unwrap();
                let lines: Vec<_> = ops.iter().map(|op| (op.op, op.ops, op.dispatches)).collect();
                let want = [
                    ("embed", 1, 1),
                    ("qkv", 3, 3),
                    ("attend", 3, attend),
                    ("out", 3, 3),
                    ("up", 3, 3),
                    ("down", 3, 3),
                    ("head", 1, 1),
                    ("step", 1, 1),
                ];
                assert_eq!(lines, want);
                for op in &ops {
                    let of_kind = plan.ops.iter().filter(|other| other.name() == op.op);
                    assert_eq!(op.bytes, of_kind.map(|other| plan.bytes_read(other, position)).sum::<u64>());
                }
                let products = ops.iter().filter(|op| !["embed", "attend", "step"].contains(&op.op));
                let weights: u64 = plan.ops.iter().filter_map(|op| op.gemv()).map(|gemv| gemv.bytes()).sum();
                assert_eq!(products.map(|op| op.bytes).sum::<u64>(), weights);
                assert!(token > Duration::ZERO);
            }
            let late = engine.op_times(590, 1);
            assert!(matches!(late, Err(EngineError::Context { end: 606, max: 600 })), "{late:?}");
        }
    }
}
