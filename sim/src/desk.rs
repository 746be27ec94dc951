//! The coordinator at its desk: the real core, and at each link what `coordinator/src/link.rs` does around it.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use syn1_coordinator::core::{Action, Core, CoreConfig, NodeId};
use syn1_coordinator::update::{Event, Evidence, Update};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{
    Anonymous, CodecSet, Event as SessionEvent, Flags, Frame, Header, Kind, Link as _, Millis, Role, Session,
    SessionConfig,
};

use crate::machine::Door;
use crate::net::{Rx, Tx};
use crate::world::World;

/// The coordinator.
pub(crate) struct Desk {
    pub(crate) core: Core,
    pub(crate) updates: BTreeMap<u32, Vec<Update>>,
    /// When each request ended, and each machine was found to lie.
    pub(crate) ended: BTreeMap<u32, u64>,
    pub(crate) convicted: Vec<(usize, u64)>,
    world: World,
    door: Door,
    ports: Vec<Port>,
    waker: Waker,
    ahead_us: u64,
    tick_at: Duration,
    armed_us: u64,
}

struct Port {
    /// The machine's number, for the trace.
    machine: usize,
    session: Session<Anonymous>,
    rx: Rx,
    tx: Tx,
    node: Option<NodeId>,
    /// What the session has to say, and what the core has.
    own: VecDeque<(Header, Vec<u8>)>,
    waiting: VecDeque<(Header, Vec<u8>)>,
    /// The core has let go of it.
    over: bool,
}

impl Desk {
    pub(crate) fn new(world: &World, config: CoreConfig, door: Door, waker: Waker) -> Self {
        Self {
            core: Core::new(config),
            updates: BTreeMap::new(),
            ended: BTreeMap::new(),
            convicted: Vec::new(),
            world: world.clone(),
            door,
            ports: Vec::new(),
            waker,
            ahead_us: 0,
            tick_at: Duration::ZERO,
            armed_us: u64::MAX,
        }
    }

    /// The coordinator's time.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.world.now_us() + self.ahead_us)
    }

    /// Its machine sleeps for a while.
    pub(crate) fn jump(&mut self, us: u64) {
        self.ahead_us += us;
    }

    fn millis(&self) -> Millis {
        Millis(self.now().as_millis() as u64)
    }

    /// Does all that can be done at this moment.
    pub(crate) fn turn(&mut self) {
        self.accept();
        for at in 0..self.ports.len() {
            self.read(at);
        }
        let now = self.now();
        if now >= self.tick_at {
            self.core.tick(now);
            self.tick_at = Duration::MAX;
        }
        self.act();
        for port in &mut self.ports {
            port.write();
        }
        let gone: Vec<Port> =
            self.ports.extract_if(.., |port| port.over && port.own.is_empty() && port.waiting.is_empty()).collect();
        drop(gone);
        self.arm();
    }

    fn accept(&mut self) {
        while let Some((machine, end)) = self.door.clone().borrow_mut().pop_front() {
            let config = SessionConfig {
                role: Role::Coordinator,
                agent: "sim",
                codecs: CodecSet::ACTIVATIONS,
                flags: Flags::NEGOTIABLE,
                max_payload: 1 << 16,
                max_rows: self.core.config().chunk as u16,
                credit: 0,
                model: self.core.config().manifest_sha256,
                prove: false,
            };
            let session = Session::new(config, Anonymous, [3; 32], self.millis());
            let (rx, tx) = end.split();
            let (own, waiting) = (VecDeque::new(), VecDeque::new());
            self.ports.push(Port { machine, session, rx, tx, node: None, own, waiting, over: false });
        }
    }

    fn read(&mut self, at: usize) {
        loop {
            let now = self.millis();
            let port = &mut self.ports[at];
            if port.over {
                return;
            }
            if now >= port.session.poll_timeout()
                && let Err(fatal) = port.session.handle_timeout(now)
            {
                return self.close(at, &fatal.to_string());
            }
            let frame = match port.rx.try_recv(&self.waker) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => return self.close(at, &error.to_string()),
            };
            if let Err(why) = self.frame(at, &frame.0, &frame.1) {
                return self.close(at, &why);
            }
            self.act();
        }
    }

    fn frame(&mut self, at: usize, header: &Header, payload: &[u8]) -> Result<(), String> {
        let (now, millis) = (self.now(), self.millis());
        let port = &mut self.ports[at];
        let event =
            port.session.handle(millis, Frame { header: *header, payload }).map_err(|fatal| fatal.to_string())?;
        match (event, port.node) {
            (SessionEvent::Control(message), Some(node)) => self.core.control(now, node, &message),
            (SessionEvent::Data(frame), Some(node)) => self.core.data(now, node, &frame.header, frame.payload),
            (SessionEvent::Rtt { ms }, Some(node)) => self.core.round_trip(now, node, Duration::from_millis(ms)),
            (SessionEvent::Bye(bye), _) => return Err(format!("it said goodbye: {}", bye.text)),
            _ => {}
        }
        let port = &mut self.ports[at];
        if let (Some(negotiated), None) = (port.session.negotiated(), port.node) {
            let spec = &self.core.config().spec;
            port.session.set_model(spec.width as u16, spec.vocab as u32);
            port.node = Some(self.core.connected(now, &format!("m{}", port.machine), &negotiated));
        }
        Ok(())
    }

    fn close(&mut self, at: usize, why: &str) {
        let now = self.now();
        let port = &mut self.ports[at];
        let machine = port.machine;
        self.world.note(|| format!("link of n{machine} ends: {why}"));
        port.over = true;
        port.own.clear();
        port.waiting.clear();
        if let Some(node) = port.node {
            self.core.gone(now, node, why);
        }
        self.act();
    }

    /// Does what the core asks for.
    pub(crate) fn act(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Send(node, header, payload) => {
                    if let Some(port) = self.ports.iter_mut().find(|port| port.node == Some(node) && !port.over) {
                        port.waiting.push_back((header, payload));
                    }
                }
                Action::Close(node) => {
                    if let Some(port) = self.ports.iter_mut().find(|port| port.node == Some(node)) {
                        port.over = true;
                        port.waiting.retain(|(header, _)| header.kind == Kind::Control);
                    }
                }
                Action::Update(id, update) => {
                    if matches!(update, Update::Finished(_) | Update::Failed(_)) {
                        self.ended.insert(id, self.world.now_us());
                    }
                    if !matches!(update, Update::Token { .. }) {
                        self.world.note(|| format!("request {id}: {update:?}"));
                    }
                    self.updates.entry(id).or_default().push(update);
                }
                Action::Quarantine(node, _, evidence) => self.quarantined(node, evidence),
                Action::Event(Event::Loading { .. }) => {}
                Action::Event(event) => self.world.note(|| format!("{event:?}")),
                Action::Pack(_) => {}
            }
        }
    }

    fn quarantined(&mut self, node: NodeId, evidence: Evidence) {
        let port = self.ports.iter().find(|port| port.node == Some(node));
        if let Some(machine) = port.map(|port| port.machine) {
            self.world.note(|| format!("n{machine} is quarantined: {evidence:?}"));
            self.convicted.push((machine, self.world.now_us()));
        }
    }

    /// Has itself woken when something is due that no frame brings.
    fn arm(&mut self) {
        let now = self.now();
        self.tick_at = self.tick_at.min(self.core.next_tick(now));
        let sessions = self.ports.iter().filter(|port| !port.over).map(|port| port.session.poll_timeout().0 * 1000);
        let next = sessions.min().unwrap_or(u64::MAX).min(self.tick_at.as_micros() as u64);
        let next = next.saturating_sub(self.ahead_us).max(self.world.now_us() + 1);
        if next < self.armed_us || self.armed_us <= self.world.now_us() {
            self.armed_us = next;
            self.world.wake_at(next, Some(self.waker.clone()));
        }
    }

    /// Frames that wait for some node.
    pub(crate) fn queued(&self) -> usize {
        self.ports
            .iter()
            .map(|port| port.waiting.iter().filter(|(header, _)| header.kind != Kind::Control).count())
            .sum()
    }
}

impl Port {
    fn write(&mut self) {
        let mut frame = [0; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut frame) {
            let payload = frame[Header::LEN..len].to_vec();
            self.own.push_back((Header::control(payload.len() as u32), payload));
        }
        while let Some((header, payload)) = self.own.front() {
            if !self.tx.try_send(header, payload) {
                return;
            }
            self.own.pop_front();
        }
        while let Some((header, payload)) = self.waiting.front() {
            let is_control = header.kind == Kind::Control;
            if self.tx.is_full(payload.len()) || !(is_control || self.session.take_credit()) {
                return;
            }
            self.tx.try_send(header, payload);
            self.waiting.pop_front();
        }
    }
}
