//! A coordinator and its nodes around one table: the real core and real nodes with real engines, on one thread, and frames
//! that are handed over in memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use syn1_coordinator::access::Client;
use syn1_coordinator::core::{Action, Core, CoreConfig, NodeId};
use syn1_coordinator::request::Generate;
use syn1_coordinator::update::{Evidence, Update};
use syn1_core::control::Hello;
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Anonymous, CodecSet, Control, Flags, Header, Identity, Kind, Millis, Negotiated, Role};
use syn1_node::{Assignment, Ended, Host, Loaded, ModelInfo, NodeConfig, NodeError, NodeEvent, ProfileFigures, run};
use syn1_node_host::Device;

use super::liar::{Liar, Lie};
use crate::bench::handed::{self, InMemory};
use crate::model::Prepared;

/// Everybody.
pub(super) struct Table {
    pub(super) core: Core,
    nodes: BTreeMap<NodeId, Node>,
    pub(super) updates: BTreeMap<u32, Vec<Update>>,
    /// Who was quarantined, and with what evidence.
    pub(super) convicted: Vec<(NodeId, Evidence)>,
    /// Time that the core took.
    pub(super) core_time: Duration,
    begin: Instant,
}

struct Node {
    desk: Rc<Desk>,
    conversation: Pin<Box<dyn Future<Output = Result<Ended, NodeError>>>>,
}

/// What a node's link, host and the table share.
#[derive(Default)]
struct Desk {
    inbox: RefCell<VecDeque<(Header, Vec<u8>)>>,
    outbox: RefCell<VecDeque<(Header, Vec<u8>)>>,
    compute: Rc<Cell<Duration>>,
}

/// A machine at the table.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) prepared: Rc<Prepared>,
    pub(super) device: Rc<Device>,
    pub(super) lie: Lie,
    pub(super) seed: u64,
}

impl Table {
    pub(super) fn new(config: CoreConfig) -> Self {
        Self {
            core: Core::new(config),
            nodes: BTreeMap::new(),
            updates: BTreeMap::new(),
            convicted: Vec::new(),
            core_time: Duration::ZERO,
            begin: Instant::now(),
        }
    }

    /// A node takes its seat.
    pub(super) fn join(&mut self, seat: Seat) -> Result<NodeId> {
        let config = self.core.config();
        let max_rows = u16::try_from(config.chunk)?;
        let desk = Rc::new(Desk::default());
        let name = format!("node-{}", self.nodes.len() + 1);
        let node =
            NodeConfig { name, agent: "syn1 bench", max_payload: MAX_PAYLOAD, max_rows, credit: CREDIT, expect: None };
        let (link, host) = (InMemory(desk.clone()), Machine { seat, desk: desk.clone() });
        let conversation = Box::pin(async move { run(link, &host, &node).await });
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
            agent: "syn1 bench",
        };
        let mut payload = [0; MAX_CONTROL as usize];
        let len = Control::Hello(hello).encode(&mut payload).map_err(|error| anyhow!("{error}"))?;
        desk.inbox.borrow_mut().push_back((Header::control(u32::try_from(len)?), payload[..len].to_vec()));
        let (flags, codecs) = (Flags::NEGOTIABLE, CodecSet::ACTIVATIONS);
        let negotiated = Negotiated { minor: 0, flags, codecs, max_payload: MAX_PAYLOAD, max_rows, credit: CREDIT };
        let id = self.core.connected(self.begin.elapsed(), "node", &negotiated);
        self.nodes.insert(id, Node { desk, conversation });
        self.settle()?;
        Ok(id)
    }

    /// Asks for a text; `told` hears of every update at once and says whether to go on.
    pub(super) fn text(&mut self, ask: Generate, mut told: impl FnMut(&Self, usize) -> bool) -> Result<Vec<u32>> {
        let id = self.core.submit(self.begin.elapsed(), Client::Local, ask)?;
        loop {
            let busy = self.step()?;
            let mut ids = Vec::new();
            for update in self.updates.get(&id).into_iter().flatten() {
                match update {
                    Update::Token { id, .. } => ids.push(*id),
                    Update::Again => ids.clear(),
                    Update::Finished(_) => {
                        self.updates.remove(&id);
                        self.settle()?;
                        return Ok(ids);
                    }
                    Update::Failed(why) => bail!("{why}"),
                }
            }
            if !told(self, ids.len()) {
                self.core.cancel(self.begin.elapsed(), id);
                self.settle()?;
                return Ok(ids);
            }
            if !busy {
                bail!("nothing goes on: {:?}", self.core.topology());
            }
        }
    }

    /// Time that a node's engine took.
    pub(super) fn compute(&self, node: NodeId) -> Duration {
        self.nodes.get(&node).map_or(Duration::ZERO, |node| node.desk.compute.get())
    }

    /// Lets everybody work until nobody has anything to do.
    pub(super) fn settle(&mut self) -> Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// What the core wants, and every node that has a frame takes its turn; false if there was nothing.
    fn step(&mut self) -> Result<bool> {
        let mut busy = false;
        let begun = Instant::now();
        while let Some(action) = self.core.poll_action() {
            busy = true;
            match action {
                Action::Send(node, header, payload) => {
                    if let Some(node) = self.nodes.get(&node) {
                        node.desk.inbox.borrow_mut().push_back((header, payload));
                    }
                }
                Action::Close(node) => drop(self.nodes.remove(&node)),
                Action::Update(id, update) => self.updates.entry(id).or_default().push(update),
                Action::Quarantine(node, _, evidence) => self.convicted.push((node, evidence)),
                Action::Event(event) => tracing::info!(?event),
                Action::Pack(format) => bail!("{format} was not to be packed"),
            }
        }
        self.core_time += begun.elapsed();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.desk.inbox.borrow().is_empty() {
                continue;
            }
            busy = true;
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(ended) = node.conversation.as_mut().poll(&mut context) {
                bail!("a node ended: {ended:?}");
            }
            let said = std::mem::take(&mut *node.desk.outbox.borrow_mut());
            let begun = Instant::now();
            for (header, payload) in said {
                let now = self.begin.elapsed();
                if header.kind != Kind::Control {
                    self.core.data(now, id, &header, &payload);
                    continue;
                }
                match Control::decode(&payload).map_err(|error| anyhow!("{error}"))? {
                    Control::Unable(unable) => bail!("a node cannot take its layers: {}", unable.text),
                    Control::Failed(failed) => bail!("a node failed: {}", failed.text),
                    message @ (Control::Profile(_) | Control::Loading(_) | Control::Loaded(_) | Control::Closed(_)) => {
                        self.core.control(now, id, &message);
                    }
                    // The session's own.
                    _ => {}
                }
            }
            self.core_time += begun.elapsed();
        }
        Ok(busy)
    }
}

impl handed::Desk for Desk {
    fn take(&self) -> Option<(Header, Vec<u8>)> {
        self.inbox.borrow_mut().pop_front()
    }

    fn give(&self, header: &Header, payload: &[u8]) {
        self.outbox.borrow_mut().push_back((*header, payload.to_vec()));
    }
}

struct Machine {
    seat: Seat,
    desk: Rc<Desk>,
}

impl Host for Machine {
    type Engine = Liar;

    fn now(&self) -> Millis {
        // No time passes at the table, so nobody is found silent.
        Millis(0)
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.desk.compute.get().as_micros()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, _: Millis) {
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
        let device = self.seat.device.name().to_owned();
        Ok(ProfileFigures { device, memory_bytes: 1 << 50, read_bytes_per_s: 1, layer_ns: 1000 })
    }

    async fn load(
        &self,
        _: &ModelInfo,
        assignment: &Assignment,
        _: &dyn Fn(syn1_node::Progress),
    ) -> Result<Loaded<Liar>, String> {
        let Seat { prepared, device, lie, seed } = &self.seat;
        let Assignment { layers, engine, .. } = assignment.clone();
        let engine = Liar::new(prepared, device, layers, engine, (*lie, *seed), self.desk.compute.clone());
        let engine = engine.map_err(|error| format!("{error:#}"))?;
        Ok(Loaded { engine, fetched_bytes: 0, layer_ns: 1000 })
    }

    fn event(&self, event: NodeEvent) {
        tracing::debug!(?event);
    }
}

const MAX_PAYLOAD: u32 = 64 << 20;
const CREDIT: u16 = 8;
