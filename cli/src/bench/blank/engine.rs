//! An engine whose every result is zero, and the machine under it.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use syn1_core::identity::Anonymous;
use syn1_core::{Identity, Millis};
use syn1_identity::nonce;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::Spec;
use syn1_node::{Assignment, Host, Loaded, ModelInfo, NodeEvent, ProfileFigures, Progress};
use tokio::sync::OwnedSemaphorePermit;

/// Rows and logits of zeros, at once.
pub(super) struct Blank {
    plan: Plan,
    config: EngineConfig,
    /// Positions of each open slot.
    slots: Vec<Option<usize>>,
}

impl Blank {
    fn new(model: &ModelInfo, assignment: &Assignment) -> Self {
        let width = usize::from(model.width);
        let spec = Spec {
            layers: model.layers.into(),
            width,
            heads: 1,
            kv_heads: 1,
            head_dim: width,
            vocab: model.vocab as usize,
            ..Spec::gpt2_124m()
        };
        let plan = Plan::new(&spec, WeightFormat::F16, assignment.layers.clone());
        Self { plan, config: assignment.engine, slots: vec![None; assignment.engine.slots] }
    }
}

impl Engine for Blank {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn device(&self) -> &str {
        "nothing"
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        let free = self.slots.iter().position(Option::is_none).ok_or(EngineError::Slots(self.slots.len()))?;
        self.slots[free] = Some(0);
        Ok(Slot(free))
    }

    fn close(&mut self, slot: Slot) {
        if let Some(have) = self.slots.get_mut(slot.0) {
            *have = None;
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        let have = self.slots.get_mut(step.slot.0).and_then(Option::as_mut).ok_or(EngineError::NoSlot(step.slot.0))?;
        let rows = step.check(&self.plan, &self.config, *have)?;
        *have = step.position + rows;
        let heads = self.plan.heads();
        let spec = &self.plan.spec;
        let values = if heads { rows.saturating_sub(step.wanted) * spec.vocab } else { rows * spec.width };
        // What is there already is zero, too.
        out.resize(values, 0.0);
        Ok(())
    }

    async fn decode(&mut self, _: Decode<'_>, _: impl FnMut(u32) -> ControlFlow<()> + Send) -> Result<(), EngineError> {
        Err(EngineError::NotWhole(self.plan.layers.clone()))
    }
}

/// The machine under a node.
pub(super) struct Machine {
    begin: Instant,
    memory_bytes: u64,
    /// Given back when the coordinator knows the node.
    turn: Cell<Option<OwnedSemaphorePermit>>,
}

impl Machine {
    /// One that offers so much memory; `turn` is held until the coordinator knows it.
    pub(super) fn new(begin: Instant, memory_bytes: u64, turn: OwnedSemaphorePermit) -> Self {
        Self { begin, memory_bytes, turn: Cell::new(Some(turn)) }
    }
}

impl Host for Machine {
    type Engine = Blank;

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, time: Millis) {
        match self.begin.checked_add(Duration::from_millis(time.0)) {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }

    async fn stopped(&self) {
        std::future::pending().await
    }

    fn identity(&self) -> &dyn Identity {
        &Anonymous
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        nonce().map_err(|error| error.to_string())
    }

    async fn profile(&self, _: &ModelInfo) -> Result<ProfileFigures, String> {
        let memory_bytes = self.memory_bytes;
        Ok(ProfileFigures { device: "nothing".into(), memory_bytes, read_bytes_per_s: 1, layer_ns: 1000 })
    }

    async fn load(
        &self,
        model: &ModelInfo,
        assignment: &Assignment,
        _: &dyn Fn(Progress),
    ) -> Result<Loaded<Blank>, String> {
        Ok(Loaded { engine: Blank::new(model, assignment), fetched_bytes: 0, layer_ns: 1000 })
    }

    fn event(&self, event: NodeEvent) {
        if let NodeEvent::Profiled(_) = event {
            drop(self.turn.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use syn1_kernels::engine::Input;

    use super::super::super::block_on;
    use super::*;

    #[test]
    fn a_result_has_the_shape_of_a_real_one_and_steps_are_checked() {
        let model =
            ModelInfo { name: "m".into(), manifest_sha256: [0; 32], http_port: 1, width: 64, vocab: 10, layers: 4 };
        let engine = EngineConfig { max_positions: 8, slots: 1, max_rows: 4 };
        let of = |layers| Blank::new(&model, &Assignment { generation: 1, layers, engine });
        let (mut first, mut last, mut out) = (of(0..2), of(2..4), Vec::new());
        let (slot, other) = (first.open().unwrap(), last.open().unwrap());
        assert_eq!(first.open(), Err(EngineError::Slots(1)));
        let tokens = |position| Step { slot, position, input: Input::Tokens(&[1, 2, 3]), wanted: 2 };
        block_on(first.run(tokens(0), &mut out)).unwrap();
        assert_eq!(out, [0.0; 3 * 64]);
        assert!(matches!(block_on(first.run(tokens(6), &mut out)), Err(EngineError::Gap { .. })));
        let rows = [0.0; 3 * 64];
        let step = Step { slot: other, position: 0, input: Input::Rows(&rows), wanted: 2 };
        block_on(last.run(step, &mut out)).unwrap();
        assert_eq!(out, [0.0; 10]);
        first.close(slot);
        assert_eq!(first.open(), Ok(slot));
    }
}
