//! A real node with a stopwatch: what a coordinator would send is handed to it in memory, on one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use syn1_core::control::{Assign, Hello, Model, Open, Output};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Anonymous, CodecSet, Control, Flags, Form, Header, Identity, Kind, Millis, Role};
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step};
use syn1_kernels::gpu::StepTimes;
use syn1_model::plan::Plan;
use syn1_node::{Assignment, Ended, Host, Loaded, ModelInfo, NodeConfig, NodeError, NodeEvent, ProfileFigures, run};
use syn1_node_host::AnyEngine;

use crate::bench::handed::{self, InMemory};

/// When a hop passed where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    /// The node was handed the frame.
    pub(super) frame_in: Instant,
    pub(super) engine_begun: Instant,
    pub(super) engine_done: Instant,
    /// The node handed its answer to the link.
    pub(super) frame_out: Instant,
    /// Where the engine's time went, on a GPU.
    pub(super) step: Option<StepTimes>,
}

/// A node that serves one shard and one request.
pub(super) struct Node {
    desk: Rc<Desk>,
    conversation: Pin<Box<dyn Future<Output = Result<Ended, NodeError>>>>,
}

/// What link, host and engine of the node share with whoever measures.
struct Desk {
    /// Frames for the node.
    inbox: RefCell<VecDeque<(Header, Vec<u8>)>>,
    stamps: Cell<Stamps>,
    /// The answer to the last data frame.
    answer: RefCell<Option<(Header, Vec<u8>)>>,
    /// The first thing that went wrong.
    trouble: RefCell<Option<String>>,
    ready: Cell<bool>,
    /// Where the node gets its engine from.
    engine: Cell<Option<AnyEngine>>,
    begin: Instant,
}

impl Node {
    /// Has `engine`, whose plan is `plan` and size `config`, served; the answers travel in `form`.
    pub(super) fn new(engine: AnyEngine, plan: &Plan, config: EngineConfig, form: Form) -> Result<Self> {
        let now = Instant::now();
        let stamps = Stamps { frame_in: now, engine_begun: now, engine_done: now, frame_out: now, step: None };
        let desk = Rc::new(Desk {
            inbox: RefCell::default(),
            stamps: Cell::new(stamps),
            answer: RefCell::default(),
            trouble: RefCell::default(),
            ready: Cell::new(false),
            engine: Cell::new(Some(engine)),
            begin: now,
        });
        let (link, host) = (InMemory(desk.clone()), Bench(desk.clone()));
        let max_rows = u16::try_from(config.max_rows)?;
        let node = NodeConfig {
            name: "bench".to_owned(),
            agent: "syn1 bench hop",
            max_payload: MAX_PAYLOAD,
            max_rows,
            credit: CREDIT,
            expect: None,
        };
        let conversation = Box::pin(async move { run(link, &host, &node).await });
        let mut node = Self { desk, conversation };
        node.greet(plan, config, max_rows, form)?;
        Ok(node)
    }

    fn greet(&mut self, plan: &Plan, config: EngineConfig, max_rows: u16, form: Form) -> Result<()> {
        let spec = &plan.spec;
        let Range { start, end } = plan.layers;
        let hello = Hello {
            minor_min: 0,
            minor_max: 0,
            role: Role::Coordinator,
            flags: Flags::NEGOTIABLE.bits(),
            codecs: CodecSet::ACTIVATIONS.0,
            max_payload: MAX_PAYLOAD,
            max_rows,
            credit: 0,
            model: [0; 32],
            key: [0; 32],
            nonce: [0; 32],
            agent: "syn1 bench hop",
        };
        let model = Model {
            name: "bench",
            manifest_sha256: [0; 32],
            http_port: 0,
            width: u16::try_from(spec.width)?,
            vocab: u32::try_from(spec.vocab)?,
            layers: u16::try_from(spec.layers)?,
        };
        let assign = Assign {
            generation: 1,
            first_layer: u16::try_from(start)?,
            end_layer: u16::try_from(end)?,
            max_positions: u32::try_from(config.max_positions)?,
            slots: u16::try_from(config.slots)?,
            max_rows,
        };
        let open = Open {
            request: REQUEST,
            epoch: 0,
            codec: form.codec() as u8,
            flags: form.flags().bits(),
            output: Output::Top(TOP),
            wanted_from: 0,
        };
        for control in [Control::Hello(hello), Control::Model(model), Control::Assign(assign)] {
            self.tell(&control)?;
        }
        if !self.desk.ready.get() {
            bail!("the node did not take its shard");
        }
        self.tell(&Control::Open(open))
    }

    /// Hands the node a data frame of [`REQUEST`]; gives when it passed where. Its answer goes into `answer`.
    pub(super) fn hop(&mut self, header: Header, payload: &[u8], answer: &mut Vec<u8>) -> Result<Stamps> {
        self.give(header, payload)?;
        let Some((header, payload)) = self.desk.answer.take() else { bail!("the node did not answer a frame") };
        answer.clear();
        answer.extend_from_slice(&header.emit());
        answer.extend_from_slice(&payload);
        Ok(self.desk.stamps.get())
    }

    fn tell(&mut self, control: &Control<'_>) -> Result<()> {
        let mut payload = [0; MAX_CONTROL as usize];
        let len = control.encode(&mut payload).map_err(|error| anyhow!("{error}"))?;
        self.give(Header::control(u32::try_from(len)?), &payload[..len])
    }

    /// Lets the node work until it waits for the next frame.
    fn give(&mut self, header: Header, payload: &[u8]) -> Result<()> {
        self.desk.inbox.borrow_mut().push_back((header, payload.to_vec()));
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(ended) = self.conversation.as_mut().poll(&mut context) {
            bail!("the node ended: {ended:?}");
        }
        match self.desk.trouble.take() {
            Some(trouble) => bail!("{trouble}"),
            None => Ok(()),
        }
    }
}

impl handed::Desk for Desk {
    fn take(&self) -> Option<(Header, Vec<u8>)> {
        let frame = self.inbox.borrow_mut().pop_front()?;
        self.stamps.set(Stamps { frame_in: Instant::now(), ..self.stamps.get() });
        Some(frame)
    }

    fn give(&self, header: &Header, payload: &[u8]) {
        let now = Instant::now();
        if header.kind == Kind::Control {
            if let Ok(Control::Unable(_) | Control::Failed(_) | Control::Bye(_)) = Control::decode(payload) {
                let said = format!("the node said {:?}", Control::decode(payload));
                self.trouble.borrow_mut().get_or_insert(said);
            }
        } else {
            self.stamps.set(Stamps { frame_out: now, ..self.stamps.get() });
            *self.answer.borrow_mut() = Some((*header, payload.to_vec()));
        }
    }
}

/// The machine under the node.
struct Bench(Rc<Desk>);

impl Host for Bench {
    type Engine = Timed;

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.0.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, _: Millis) {
        // Whoever measures is never silent.
        std::future::pending().await
    }

    async fn stopped(&self) {
        std::future::pending().await
    }

    fn identity(&self) -> &dyn Identity {
        &Anonymous
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        // Nobody proves anything here.
        Ok([0; 32])
    }

    async fn profile(&self, _: &ModelInfo) -> Result<ProfileFigures, String> {
        Ok(ProfileFigures { device: String::new(), memory_bytes: u64::MAX, read_bytes_per_s: 1, layer_ns: 1 })
    }

    async fn load(
        &self,
        _: &ModelInfo,
        _: &Assignment,
        _: &dyn Fn(syn1_node::Progress),
    ) -> Result<Loaded<Timed>, String> {
        let engine = self.0.engine.take().ok_or("the engine was taken before")?;
        Ok(Loaded { engine: Timed { engine, desk: self.0.clone() }, fetched_bytes: 0, layer_ns: 1 })
    }

    fn event(&self, event: NodeEvent) {
        if matches!(event, NodeEvent::Ready { .. }) {
            self.0.ready.set(true);
        }
    }
}

/// An engine that notes when it begins and ends.
struct Timed {
    engine: AnyEngine,
    desk: Rc<Desk>,
}

impl Engine for Timed {
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
        let engine_begun = Instant::now();
        let ran = self.engine.run(step, out).await;
        let engine_done = Instant::now();
        let step = match &self.engine {
            AnyEngine::Gpu(engine) => Some(engine.last_step()),
            AnyEngine::Cpu(_) => None,
        };
        self.desk.stamps.set(Stamps { engine_begun, engine_done, step, ..self.desk.stamps.get() });
        ran
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        self.engine.decode(decode, sink).await
    }
}

impl Stamps {
    /// From frame in to frame out.
    pub(super) fn hop(&self) -> Duration {
        self.frame_out - self.frame_in
    }
}

/// The request that is measured.
pub(super) const REQUEST: u32 = 1;

/// Bytes of a frame that either end takes.
const MAX_PAYLOAD: u32 = 1 << 24;

/// Frames go one at a time.
const CREDIT: u16 = 2;

/// A shard with the head answers with so many logits.
const TOP: u16 = 8;
