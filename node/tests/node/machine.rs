//! The machine under the node: a clock that only the test moves, and a tiny model of random weights.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use syn1_core::Millis;
use syn1_core::identity::{Anonymous, Identity};
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step, StepResult};
use syn1_model::{Plan, Spec, WeightFormat, random_piece};
use syn1_node::{Assignment, Host, Loaded, ModelInfo, NodeEvent, ProfileFigures, Progress};

/// A machine that does what its fields say.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) clock: Cell<u64>,
    pub(crate) wakers: RefCell<Vec<Waker>>,
    pub(crate) stop: Cell<bool>,
    /// Milliseconds that a load takes.
    pub(crate) load_ms: u64,
    /// What profiling says instead of figures.
    pub(crate) profile_error: Option<&'static str>,
    /// The layers that are loaded whatever is assigned.
    pub(crate) wrong_layers: Option<Range<usize>>,
    /// Loads that were begun, by generation, and whether they ended.
    pub(crate) loads: RefCell<Vec<(u32, bool)>>,
    pub(crate) events: RefCell<Vec<NodeEvent>>,
    /// The rows of each step of each pass of the engine.
    pub(crate) passes: Rc<RefCell<Vec<Vec<usize>>>>,
}

impl Machine {
    /// Moves the clock.
    pub(crate) fn advance(&self, ms: u64) {
        self.clock.set(self.clock.get() + ms);
        self.wakers.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Asks the node to leave.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
        self.advance(0);
    }

    fn wait(&self, cx: &Context<'_>, ready: bool) -> Poll<()> {
        if ready {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Host for Machine {
    type Engine = Counted;

    fn now(&self) -> Millis {
        Millis(self.clock.get())
    }

    fn elapsed_us(&self) -> u64 {
        self.clock.get() * 1000
    }

    async fn sleep_until(&self, time: Millis) {
        poll_fn(|cx| self.wait(cx, self.clock.get() >= time.0)).await;
    }

    async fn stopped(&self) {
        poll_fn(|cx| self.wait(cx, self.stop.get())).await;
    }

    fn identity(&self) -> &dyn Identity {
        &Anonymous
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        Ok([7; 32])
    }

    async fn profile(&self, _: &ModelInfo) -> Result<ProfileFigures, String> {
        match self.profile_error {
            Some(cause) => Err(cause.to_owned()),
            None => Ok(ProfileFigures { device: "test".into(), memory_bytes: 1, read_bytes_per_s: 2, layer_ns: 3 }),
        }
    }

    async fn load(
        &self,
        _: &ModelInfo,
        assignment: &Assignment,
        progress: &dyn Fn(Progress),
    ) -> Result<Loaded<Counted>, String> {
        let index = self.loads.borrow().len();
        self.loads.borrow_mut().push((assignment.generation, false));
        progress(Progress { done_bytes: 10, total_bytes: 20 });
        self.sleep_until(self.now().plus(self.load_ms)).await;
        let layers = self.wrong_layers.clone().unwrap_or(assignment.layers.clone());
        let engine = Counted { engine: engine(layers, assignment.engine), passes: self.passes.clone() };
        self.loads.borrow_mut()[index].1 = true;
        Ok(Loaded { engine, fetched_bytes: 20, layer_ns: 5 })
    }

    fn event(&self, event: NodeEvent) {
        self.events.borrow_mut().push(event);
    }
}

/// An engine that notes its passes.
pub(crate) struct Counted {
    engine: CpuEngine,
    passes: Rc<RefCell<Vec<Vec<usize>>>>,
}

impl Counted {
    fn note(&self, steps: &[Step<'_>]) {
        let rows = |step: &Step<'_>| step.rows(self.engine.plan()).unwrap();
        // Whoever counts allocations runs one step at a time.
        if steps.len() > 1 || !self.passes.borrow().is_empty() {
            self.passes.borrow_mut().push(steps.iter().map(rows).collect());
        }
    }
}

impl Engine for Counted {
    fn plan(&self) -> &Plan {
        self.engine.plan()
    }

    fn device(&self) -> &str {
        self.engine.device()
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        self.engine.open()
    }

    fn close(&mut self, slot: Slot) {
        self.engine.close(slot);
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.note(&[step]);
        self.engine.run(step, out).await
    }

    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        self.note(steps);
        self.engine.run_many(steps, out, results).await;
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        self.engine.decode(decode, sink).await
    }
}

/// A model that a test computes in no time.
pub(crate) fn spec() -> Spec {
    Spec {
        layers: LAYERS,
        width: WIDTH.into(),
        heads: 2,
        kv_heads: 2,
        head_dim: 16,
        ffn: 64,
        vocab: VOCAB as usize,
        max_positions: 32,
        eos: vec![0],
        ..Spec::gpt2_124m()
    }
}

/// The same random weights for every test.
pub(crate) fn engine(layers: Range<usize>, config: EngineConfig) -> CpuEngine {
    let plan = Plan::new(&spec(), WeightFormat::F32, layers);
    let pieces: Vec<_> =
        plan.pieces.iter().map(|&piece| random_piece(&plan.spec, WeightFormat::F32, piece, 7)).collect();
    CpuEngine::new(plan, &pieces, config, Some(1)).unwrap()
}

pub(crate) const LAYERS: usize = 4;
pub(crate) const WIDTH: u16 = 32;
pub(crate) const VOCAB: u32 = 97;
