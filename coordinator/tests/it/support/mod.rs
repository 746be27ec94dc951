//! A core on a stage: toy nodes that compute nothing, and a clock that the test turns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use syn1_coordinator::access::{Access, Client};
use syn1_coordinator::core::{Action, Core, CoreConfig, NodeId};
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::ServerConfig;
use syn1_coordinator::update::{Event, Update};
use syn1_coordinator::wire::Wire;
use syn1_core::control::{Closed, Loaded, Open, Profile};
use syn1_core::{Codec, CodecSet, Control, Flags, Form, Header, Kind, Negotiated, Role, SessionConfig};
use syn1_identity::Keys;
use syn1_model::plan::WeightFormat;
use syn1_model::spec::Spec;

/// A core, its toy nodes, and what came out.
pub(crate) struct Stage {
    pub(crate) core: Core,
    pub(crate) now: Duration,
    pub(crate) toys: BTreeMap<NodeId, Toy>,
    /// Nodes that take everything and answer nothing, and such that never send `Closed`.
    pub(crate) silent: BTreeSet<NodeId>,
    pub(crate) never_closed: BTreeSet<NodeId>,
    pub(crate) sent: Vec<(NodeId, Kind)>,
    /// Rows of data frames that went to each node.
    pub(crate) rows: BTreeMap<NodeId, usize>,
    pub(crate) closed: Vec<NodeId>,
    /// Who was to be remembered as such, and by which name.
    pub(crate) quarantined: Vec<(NodeId, String)>,
    pub(crate) updates: BTreeMap<u32, Vec<Update>>,
    pub(crate) events: Vec<Event>,
    /// Formats that were to be packed.
    pub(crate) packs: Vec<WeightFormat>,
}

/// A node that computes nothing: its token at a position is a function of the position.
#[derive(Default)]
pub(crate) struct Toy {
    /// The name and the bytes that it answers a Model with.
    profile: Option<(String, u64)>,
    /// Nanoseconds a layer, before it has one and with it; 1000 and 1 where a test does not say.
    layer_ns: Option<u64>,
    is_last: bool,
    layers: u32,
    pub(crate) open: BTreeMap<u32, Open>,
    /// What computing a row of a layer takes, and its link for a frame and its answer; no time passes where a test does not
    /// say.
    pub(crate) row: Duration,
    pub(crate) link: Duration,
    /// What it computed for each open request.
    computed: BTreeMap<u32, Duration>,
    /// Data frames that it answers yet; all where a test does not say.
    pub(crate) answers: Option<usize>,
}

impl Stage {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::of(config(policy))
    }

    pub(crate) fn of(config: CoreConfig) -> Self {
        Self {
            core: Core::new(config),
            now: Duration::ZERO,
            toys: BTreeMap::new(),
            silent: BTreeSet::new(),
            never_closed: BTreeSet::new(),
            sent: Vec::new(),
            rows: BTreeMap::new(),
            closed: Vec::new(),
            quarantined: Vec::new(),
            updates: BTreeMap::new(),
            events: Vec::new(),
            packs: Vec::new(),
        }
    }

    pub(crate) fn join(&mut self, name: &str) -> NodeId {
        self.join_with(name, 1 << 30)
    }

    pub(crate) fn join_with(&mut self, name: &str, memory_bytes: u64) -> NodeId {
        let id = self.core.connected(self.now, name, &negotiated());
        self.toys.insert(id, Toy { profile: Some((name.into(), memory_bytes)), ..Toy::default() });
        self.run();
        id
    }

    /// A node of this pace, whose link has this round trip.
    pub(crate) fn join_at(&mut self, name: &str, memory_bytes: u64, layer_ns: u64, round_trip: Duration) -> NodeId {
        let id = self.core.connected(self.now, name, &negotiated());
        self.core.round_trip(self.now, id, round_trip);
        let profile = Some((name.into(), memory_bytes));
        self.toys.insert(id, Toy { profile, layer_ns: Some(layer_ns), ..Toy::default() });
        self.run();
        id
    }

    /// A node that takes so long for a row of a layer and for its link, and says of itself what is not so.
    pub(crate) fn join_taking(&mut self, name: &str, said_ns: u64, row: Duration, link: Duration) -> NodeId {
        let id = self.core.connected(self.now, name, &negotiated());
        let profile = Some((name.into(), 1 << 30));
        self.toys.insert(id, Toy { profile, layer_ns: Some(said_ns), row, link, ..Toy::default() });
        self.run();
        id
    }

    /// Does what the core asks for, and lets the toys answer, until nothing is left.
    pub(crate) fn run(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Send(node, header, payload) => {
                    self.sent.push((node, header.kind));
                    if header.kind != Kind::Control {
                        *self.rows.entry(node).or_default() += usize::from(header.rows);
                    }
                    if !self.silent.contains(&node) {
                        self.answer(node, &header, &payload);
                    }
                }
                Action::Close(node) => self.closed.push(node),
                Action::Update(id, update) => self.updates.entry(id).or_default().push(update),
                Action::Quarantine(node, name, _) => self.quarantined.push((node, name)),
                Action::Event(event) => self.events.push(event),
                Action::Pack(format) => self.packs.push(format),
            }
        }
    }

    pub(crate) fn answer(&mut self, node: NodeId, header: &Header, payload: &[u8]) {
        let Some(toy) = self.toys.get_mut(&node) else { return };
        if header.kind != Kind::Control {
            if toy.answers == Some(0) {
                return;
            }
            toy.answers = toy.answers.map(|left| left - 1);
            let computing = toy.row * toy.layers * u32::from(header.rows);
            *toy.computed.entry(header.request).or_default() += computing;
            self.now += computing + toy.link;
            let (header, payload) = toy.compute(header);
            return self.core.data(self.now, node, &header, &payload);
        }
        match Control::decode(payload).unwrap() {
            Control::Model(_) => {
                let Some((name, memory_bytes)) = toy.profile.clone() else { return };
                let profile = Profile {
                    name: &name,
                    device: "toy",
                    memory_bytes,
                    read_bytes_per_s: 1,
                    layer_ns: toy.layer_ns.unwrap_or(1000),
                };
                self.core.control(self.now, node, &Control::Profile(profile));
            }
            Control::Assign(assign) => {
                toy.is_last = assign.end_layer == 4;
                toy.layers = u32::from(assign.end_layer - assign.first_layer);
                let loaded = Loaded {
                    generation: assign.generation,
                    fetched_bytes: 0,
                    layer_ns: toy.layer_ns.unwrap_or(1),
                    slots: assign.slots,
                };
                self.core.control(self.now, node, &Control::Loaded(loaded));
            }
            Control::Open(open) => drop(toy.open.insert(open.request, open)),
            Control::Close { request } => {
                toy.open.remove(&request);
                let computed = toy.computed.remove(&request).filter(|computed| !computed.is_zero());
                let compute_us = computed.map_or(5, |computed| computed.as_micros() as u64);
                if !self.never_closed.contains(&node) {
                    self.core.control(self.now, node, &Control::Closed(Closed { request, compute_us }));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.core.tick(self.now);
            self.run();
        }
    }

    pub(crate) fn ask(&mut self, prompt: usize, max_tokens: usize) -> u32 {
        let id = self.core.submit(self.now, Client::Local, ask(prompt, max_tokens)).unwrap();
        self.run();
        id
    }

    pub(crate) fn ids(&self, request: u32) -> Vec<u32> {
        let token = |update: &Update| match update {
            Update::Token { id, .. } => Some(*id),
            _ => None,
        };
        self.updates.get(&request).into_iter().flatten().filter_map(token).collect()
    }

    pub(crate) fn failure(&self, request: u32) -> &str {
        match self.updates.get(&request).and_then(|updates| updates.last()) {
            Some(Update::Failed(why)) => why,
            other => panic!("request {request} should have failed, its last update is {other:?}"),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.core.topology().ready
    }
}

/// A model that the toys agree on.
pub(crate) fn config(policy: Policy) -> CoreConfig {
    let spec = Spec {
        layers: 4,
        width: 8,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        ffn: 16,
        vocab: VOCAB,
        max_positions: 64,
        eos: vec![0],
        ..Spec::gpt2_124m()
    };
    CoreConfig {
        name: "toy".into(),
        spec,
        format: WeightFormat::F32,
        manifest_sha256: [0; 32],
        smaller: Vec::new(),
        http_port: 1,
        policy,
        wire: Wire::everywhere(Form::plain(Codec::F32)),
        max_positions: 64,
        slots: 2,
        chunk: 4,
        relay_bytes: 1 << 20,
        prefix_cache: PrefixCache::Off,
        tokenizer: None,
    }
}

/// How a node's end of a link begins, which proves no key.
pub(crate) fn session_config() -> SessionConfig {
    SessionConfig {
        role: Role::Node,
        agent: "test",
        codecs: CodecSet::ACTIVATIONS,
        flags: Flags::NEGOTIABLE,
        max_payload: 1 << 20,
        max_rows: 8,
        credit: 4,
        model: [0; 32],
        prove: false,
    }
}

/// A coordinator with sockets on free ports, open to everybody, that serves that model.
pub(crate) fn server_config() -> ServerConfig {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    ServerConfig {
        core: config(Policy::Auto),
        shards: std::env::temp_dir(),
        pack: Arc::new(|format| Err(format!("{format} was not to be packed"))),
        tcp: local,
        http: local,
        front: Front::default(),
        keys: Keys::from_secret(&[1; 32]),
        allow: Vec::new(),
        access: Access::default(),
        state: None,
    }
}

impl Toy {
    pub(crate) fn compute(&self, header: &Header) -> (Header, Vec<u8>) {
        let (answer, payload) = self.answer(header);
        (if header.flags.contains(Flags::PREDICTED) { answer.predicted() } else { answer }, payload)
    }

    pub(crate) fn answer(&self, header: &Header) -> (Header, Vec<u8>) {
        let Header { request, epoch, position, rows, .. } = *header;
        if !self.is_last {
            let header = Header::activation(request, epoch, position, Codec::F32, rows, 8).unwrap();
            return (header, vec![0; header.payload_len as usize]);
        }
        let end = position + u32::from(rows);
        let wanted = self.open.get(&request).map_or(end, |open| open.wanted_from.max(position));
        if wanted >= end {
            return (Header::acknowledge(request, epoch, end), Vec::new());
        }
        let header = Header::top(request, epoch, wanted, (end - wanted) as u16, 1).unwrap();
        let row = |position| [&[0; 8][..], &token_after(position).to_le_bytes(), &[0; 4]].concat();
        (header, (wanted..end).flat_map(row).collect())
    }
}

/// A link that can carry everything.
pub(crate) fn negotiated() -> Negotiated {
    let (flags, codecs) = (Flags::NEGOTIABLE, CodecSet::ACTIVATIONS);
    Negotiated { minor: 0, flags, codecs, max_payload: 1 << 20, max_rows: 64, credit: 4 }
}

pub(crate) fn ask(prompt: usize, max_tokens: usize) -> Generate {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Generate { prompt: vec![1; prompt], max_tokens, sampling, stop: Vec::new(), ignore_eos: false, speculate: 0 }
}

/// What the toys say follows a position; never the end of the text.
pub(crate) fn token_after(position: u32) -> u32 {
    1 + position * 7 % (VOCAB as u32 - 1)
}

pub(crate) fn tokens(from: u32, count: u32) -> Vec<u32> {
    (from..from + count).map(token_after).collect()
}

pub(crate) const VOCAB: usize = 16;
