//! The coordinator without sockets or clocks: nodes, the chain they form, and the requests that pass through it.
//!
//! Contract: call one input (`connected`, `control`, `data`, `gone`, `submit`, `cancel`, `packed`, `tick`) with the time
//! since the start, then drain [`Core::poll_action`]; nothing happens in between. Every request that `submit` accepts ends
//! with one `Finished` or `Failed` update, whatever the nodes do; and it ends with the tokens of an undisturbed run unless no
//! node can be had for layers that have lost theirs.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use syn1_core::control::{Bye, Control, Profile, Reason};
use syn1_core::{Flags, Header, Negotiated};
use syn1_identity::Key;
use syn1_model::plan::WeightFormat;
use syn1_model::spec::Spec;
use syn1_model::tokenizer::Tokenizer;

use crate::access::Client;
use crate::audit::Audits;
use crate::chain::Chain;
use crate::limits::{
    LOADING_EVERY, MAX_SPECULATE, MAX_STOP_BYTES, MAX_STOPS, MAX_WAITING, MAX_WAITING_EACH, PLACE_SETTLE,
};
use crate::pace::Pace;
use crate::placement::{Offer, Policy};
use crate::prefix::{Parking, PrefixCache};
use crate::queue::{Full, Queue, Turnover};
use crate::rebalance::Rebalance;
use crate::recovery::Recovery;
use crate::request::{Generate, Request};
use crate::return_to::ReturnTo;
use crate::route::Asked;
use crate::served::Served;
use crate::speeds::{Hop, hop_ns};
use crate::timing::Timings;
use crate::update::{Event, Evidence, Update};
use crate::wire::Wire;

/// What the coordinator serves and how.
#[derive(Clone)]
pub struct CoreConfig {
    /// The model's name.
    pub name: String,
    /// The model.
    pub spec: Spec,
    /// How its weights are stored.
    pub format: WeightFormat,
    /// SHA-256 of the manifest's file.
    pub manifest_sha256: [u8; 32],
    /// Formats to fall back to where the nodes' memory does not hold `format`, the best first.
    pub smaller: Vec<WeightFormat>,
    /// Where nodes fetch manifest and pieces.
    pub http_port: u16,
    /// How many nodes share the model.
    pub policy: Policy,
    /// How activations travel between nodes.
    pub wire: Wire,
    /// Positions of a KV cache; at most the model's.
    pub max_positions: usize,
    /// Requests that run at the same time.
    pub slots: usize,
    /// Rows of a prefill chunk.
    pub chunk: usize,
    /// Bytes of activations that are kept at most, so that a node's successor can be fed what the node was fed. A request whose
    /// share is dropped is computed once more from its tokens when it loses a node.
    pub relay_bytes: usize,
    /// Who takes over the KV caches of requests that are over.
    pub prefix_cache: PrefixCache,
    /// For text, and for messages by its chat template; its end token ends texts as the model's own do. Without one only
    /// token ids come in and go out.
    pub tokenizer: Option<Tokenizer>,
}

/// A node's link, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Send a frame to a node.
    Send(NodeId, Header, Vec<u8>),
    /// Close a node's link, after what was sent to it.
    Close(NodeId),
    /// Tell whoever made the request.
    Update(u32, Update),
    /// Tell whoever watches the swarm.
    Event(Event),
    /// A node of this name computed garbage and is sent away: remember it, with what shows it, and do not let it in again. The
    /// core has let go of it when this is heard.
    Quarantine(NodeId, String, Evidence),
    /// Pack the model in this format, serve it, and answer with [`Core::packed`] or [`Core::not_packed`].
    Pack(WeightFormat),
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can never be done as it is.
    #[error("{0}")]
    Invalid(String),
    /// Whoever asks has too many waiting already.
    #[error("{why}")]
    TooMany {
        /// In numbers.
        why: String,
        /// When one more is likely to be taken.
        retry_after: Duration,
    },
    /// It can be repeated later: too many wait, whoever they are, or the coordinator has ended.
    #[error("{why}")]
    Busy {
        /// In numbers.
        why: String,
        /// When it is likely to be taken.
        retry_after: Duration,
    },
}

/// Nodes, chain and requests.
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) chain: Option<Chain>,
    pub(crate) unplaced: String,
    /// The format that is being packed.
    pub(crate) packing: Option<WeightFormat>,
    pub(crate) place_at: Option<Duration>,
    pub(crate) generation: u32,
    /// By their numbers on the nodes.
    pub(crate) requests: BTreeMap<u32, Request>,
    pub(crate) waiting: Queue<Request>,
    pub(crate) turnover: Turnover,
    pub(crate) last_request: u32,
    pub(crate) last_node: u32,
    pub(crate) recovery: Recovery,
    pub(crate) audits: Audits,
    /// Where the layers lay before this coordinator was started.
    pub(crate) return_to: Option<ReturnTo>,
    pub(crate) parking: Parking,
    pub(crate) rebalance: Rebalance,
    /// When time passed last.
    pub(crate) ticked: Duration,
    pub(crate) timings: Timings,
    pub(crate) actions: VecDeque<Action>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    /// The key that it has proven, if any.
    pub(crate) key: Option<Key>,
    /// What its frames may carry.
    pub(crate) flags: Flags,
    /// Rows of a frame that it takes, whatever form they travel in.
    pub(crate) max_rows: usize,
    pub(crate) device: String,
    /// What it told last, be it for a format before.
    pub(crate) offer: Option<Offer>,
    /// The format that it was told of last, and whether its answer to that is still to come.
    pub(crate) announced: WeightFormat,
    pub(crate) owes_profile: bool,
    pub(crate) read_bytes_per_s: u64,
    /// Of a message and its answer, without computing; `None` before the first.
    pub(crate) round_trip: Option<Duration>,
    /// What it was told to hold, if it may still hold it.
    pub(crate) shard: Option<Shard>,
    /// It has had a part of the chain: texts that run may have come of what it computed.
    pub(crate) has_served: bool,
    /// Why it takes no part, where it said so.
    pub(crate) unable: Option<String>,
    /// When it answered a data frame last, and how long it takes for one at worst.
    pub(crate) heard: Duration,
    pub(crate) slowest: Duration,
    /// What it takes for tokens and for rows of a prompt.
    pub(crate) pace: Pace,
    /// What it took for tokens since it has its layers.
    pub(crate) served: Served,
    /// What its hop took for tokens, once any have passed: from then on its own measurements count less.
    pub(crate) hop: Option<Hop>,
    /// When it last got on: joined, or had more of its shard.
    pub(crate) progressed: Duration,
    pub(crate) loading_told: Duration,
    pub(crate) done_bytes: u64,
}

/// The layers that a node was assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) generation: u32,
    pub(crate) layers: Range<usize>,
    /// The KV caches that it has room for, once it has its weights.
    pub(crate) slots: Option<usize>,
}

impl Shard {
    /// Its layers, if the node has them.
    pub(crate) fn loaded(&self) -> Option<Range<usize>> {
        self.slots.map(|_| self.layers.clone())
    }
}

impl Core {
    /// A coordinator without nodes.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            nodes: BTreeMap::new(),
            chain: None,
            unplaced: "no node has joined yet".into(),
            packing: None,
            place_at: None,
            generation: 0,
            requests: BTreeMap::new(),
            waiting: Queue::new(),
            turnover: Turnover::default(),
            last_request: 0,
            last_node: 0,
            recovery: Recovery::default(),
            audits: Audits::default(),
            return_to: None,
            parking: Parking::default(),
            rebalance: Rebalance::default(),
            ticked: Duration::ZERO,
            timings: Timings::default(),
            actions: VecDeque::new(),
        }
    }

    /// What it serves.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A link whose session stands, with what both ends can do. `address` names the node until it has told its name.
    pub fn connected(&mut self, now: Duration, address: &str, negotiated: &Negotiated) -> NodeId {
        self.last_node += 1;
        let id = NodeId(self.last_node);
        let node = Node {
            name: address.into(),
            key: None,
            flags: negotiated.flags,
            max_rows: rows_a_frame(negotiated, self.config.spec.width),
            device: String::new(),
            offer: None,
            announced: self.config.format,
            owes_profile: false,
            read_bytes_per_s: 0,
            round_trip: None,
            shard: None,
            has_served: false,
            unable: None,
            heard: now,
            slowest: Duration::ZERO,
            pace: Pace::default(),
            served: Served::default(),
            hop: None,
            progressed: now,
            loading_told: Duration::ZERO,
            done_bytes: 0,
        };
        self.nodes.insert(id, node);
        if let Some(missing) = self.config.wire.needs().missing(negotiated.codecs, negotiated.flags) {
            let why = format!("this node cannot receive {missing}, which activations travel with here: update it");
            self.refuse(now, id, Reason::Refused, &why);
            return id;
        }
        self.announce(now, id);
        id
    }

    /// A node has proven to have this key; told before anything else of it.
    pub fn proven(&mut self, node: NodeId, key: Key) {
        let has_served = self.audits.have_served.contains(&key);
        if let Some(node) = self.nodes.get_mut(&node) {
            (node.key, node.has_served) = (Some(key), has_served);
        }
    }

    /// A control message from a node. One that was sent away is not listened to any more.
    pub fn control(&mut self, now: Duration, from: NodeId, message: &Control<'_>) {
        if !self.nodes.contains_key(&from) {
            return;
        }
        match message {
            Control::Profile(profile) => self.profile(now, from, profile),
            Control::Loading(loading) if self.is_loading(from, loading.generation) => {
                self.loading(now, from, loading.done_bytes, loading.total_bytes);
            }
            Control::Loaded(loaded) if self.is_loading(from, loaded.generation) => {
                let node = self.name(from);
                self.event(Event::Loaded { node, fetched_bytes: loaded.fetched_bytes });
                self.measured(from, loaded.layer_ns);
                self.unsettled(now);
                self.loaded(now, from, loaded.slots.into());
            }
            Control::Unable(unable) if self.is_assigned(from, unable.generation) => {
                self.unable(now, from, plain(unable.text));
            }
            Control::Failed(failed) if self.check_failed(from, failed.request) => {}
            Control::Failed(failed) if self.is_current(from, failed.request, failed.epoch) => {
                match self.requests.get(&failed.request) {
                    Some(request) if request.is_proof => self.unable(now, from, plain(failed.text)),
                    _ => {
                        let why = format!("node {} failed: {}", self.name(from), plain(failed.text));
                        self.failed(now, failed.request, why);
                    }
                }
            }
            Control::Closed(closed) => {
                let compute = Duration::from_micros(closed.compute_us);
                if self.check_closed(from, closed.request, compute) {
                    return;
                }
                self.timings.closed(from, closed.request, compute);
                if let Some(node) = self.nodes.get_mut(&from) {
                    node.served.closed(closed.request, compute);
                }
                self.refine(from);
                self.closed(now, from, closed.request, compute);
            }
            // News of an assignment or a route that has been replaced.
            Control::Loading(_) | Control::Loaded(_) | Control::Unable(_) | Control::Failed(_) => {}
            other => {
                let why = format!("it sent a {} message, which only a coordinator sends", other.name());
                self.refuse(now, from, Reason::Protocol, &why);
            }
        }
    }

    /// A data frame from a node.
    pub fn data(&mut self, now: Duration, from: NodeId, header: &Header, payload: &[u8]) {
        if self.audited(now, from, header, payload) {
            return;
        }
        let answer = self.timings.answered(now, from, header, payload.len());
        let Some(node) = self.nodes.get_mut(&from) else { return };
        let heard = node.heard;
        if let Some(answer) = answer {
            node.served.answered(&answer);
            // A node that sends what nobody asked for is as stuck as a silent one.
            node.heard = now;
        }
        // A request that is over, or whose node was sent away, may still have frames on their way.
        let Some(request) = self.requests.get_mut(&header.request) else { return };
        let Some(chain) = self.chain.as_ref().filter(|_| request.closing.is_none()) else { return };
        let Some(hop) = chain.parts.iter().position(|(node, _)| *node == from) else { return };
        let asked = request.route.asked(hop).filter(|_| request.route.is_current(hop, header.epoch));
        if let Some(asked) = &asked {
            let took = now.saturating_sub(asked.at.max(heard));
            node.slowest = (node.slowest * 7 / 8).max(took);
            match asked.what {
                Asked::Token => node.pace.token(took, asked.at >= heard),
                Asked::Prompt(rows) => node.pace.chunk(rows, took),
                Asked::Other => {}
            }
        }
        let of_prompt = asked.is_some_and(|asked| matches!(asked.what, Asked::Prompt(_)));
        request.progressed = now;
        request.figures.frames += 1;
        request.figures.bytes += (Header::LEN + payload.len()) as u64;
        match request.answer(hop, header, payload) {
            Ok(next) => {
                if of_prompt {
                    self.next_prompts(now, header.request);
                }
                self.follow(now, header.request, next);
                self.go_on_checking(now);
            }
            Err(what) => self.refuse(now, from, Reason::Protocol, &what),
        }
    }

    /// Adds to the time that the coordinator spent on a request.
    pub fn spent(&mut self, request: u32, time: Duration) {
        if let Some(request) = self.requests.get_mut(&request) {
            request.figures.coordinator += time;
        }
    }

    /// A node's link is gone. Requests that pass through it go on where they stand as soon as another node has its layers.
    pub fn gone(&mut self, now: Duration, node: NodeId, why: &str) {
        let Some(gone) = self.nodes.remove(&node) else { return };
        self.timings.gone(node);
        self.check_gone(node);
        if let Some(key) = gone.key.filter(|_| gone.has_served) {
            self.keep_served(key);
        }
        self.event(Event::Left { node: gone.name.clone(), why: why.into() });
        let Some(chain) = &self.chain else {
            self.place_at = Some(now + PLACE_SETTLE);
            return;
        };
        let Some(layers) = chain.parts.iter().find(|part| part.0 == node).map(|part| part.1.clone()) else { return };
        let why = format!("node {} (layers {}..{}) is gone: {why}", gone.name, layers.start, layers.end);
        self.lost(now, node, why);
    }

    /// Takes a request; it starts when the chain is ready and a KV cache is free. Clients whose requests wait have their
    /// turns, those first that have the fewest running.
    ///
    /// # Errors
    /// What is wrong with the request, or that too many wait already.
    pub fn submit(&mut self, now: Duration, client: Client, ask: Generate) -> Result<u32, Refusal> {
        self.check(&ask).map_err(Refusal::Invalid)?;
        self.waiting.room(&client).map_err(|full| self.turned_away(full))?;
        let mut request = self.request(client, ask, false);
        (request.started, request.progressed) = (now, now);
        let id = request.id;
        self.waiting.push(client, request);
        self.end_measuring();
        self.start_waiting(now);
        Ok(id)
    }

    fn turned_away(&self, full: Full) -> Refusal {
        let slots = self.chain.as_ref().map_or(1, |chain| chain.slots);
        match full {
            Full::Line => {
                let retry_after = self.turnover.after(self.waiting.clients(), slots);
                let why =
                    format!("{MAX_WAITING_EACH} of your requests wait already: ask again when one of them has begun");
                Refusal::TooMany { why, retry_after }
            }
            Full::All => {
                let why = format!("{MAX_WAITING} requests wait already: ask again later");
                Refusal::Busy { why, retry_after: self.turnover.after(1, slots) }
            }
        }
    }

    fn check(&self, ask: &Generate) -> Result<(), String> {
        let (max, vocab) = (self.config.max_positions, self.config.spec.vocab);
        ask.sampling.check()?;
        if ask.prompt.is_empty() {
            return Err("the prompt is empty: give at least one token".into());
        }
        if ask.prompt.len() >= max {
            let tokens = ask.prompt.len();
            let (limit, larger) = (self.config.spec.max_positions, ", or serve the model with a larger context");
            let larger = if limit > max { larger } else { "" };
            let shorter = max - 1;
            return Err(format!(
                "the prompt has {tokens} tokens, the context holds {max}: shorten it to {shorter}{larger}"
            ));
        }
        if let Some(id) = ask.prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(format!("token {id} is outside the vocabulary of {vocab}"));
        }
        if let Some(id) = ask.sampling.logit_bias.keys().find(|id| **id as usize >= vocab) {
            return Err(format!("logit_bias names token {id}, which is outside the vocabulary of {vocab}"));
        }
        if ask.max_tokens == 0 {
            return Err("max_tokens is 0: ask for at least one token".into());
        }
        if ask.speculate > MAX_SPECULATE {
            return Err(format!("speculate is {}: at most {MAX_SPECULATE} tokens are guessed ahead", ask.speculate));
        }
        if ask.stop.len() > MAX_STOPS || ask.stop.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
            return Err(format!("at most {MAX_STOPS} stop strings of {MAX_STOP_BYTES} bytes are possible"));
        }
        Ok(())
    }

    /// Ends a request whose owner went away.
    pub fn cancel(&mut self, now: Duration, request: u32) {
        self.waiting.take(|waiting| waiting.id == request);
        let id = self.requests.values().find(|running| running.told == request).map(|running| running.id);
        if let Some(gone) = id.and_then(|id| self.remove(id)) {
            self.turnover.ended(now.saturating_sub(gone.started));
            self.close(gone.id);
            self.start_waiting(now);
            self.go_on(now);
        }
    }

    /// Ends every request with `why` and says goodbye to every node.
    pub fn shut_down(&mut self, why: &str) {
        let waiting = self.waiting.take(|_| true);
        let ids: Vec<u32> = self.requests.values().chain(&waiting).map(|request| request.told).collect();
        self.requests.clear();
        self.parking = Parking::default();
        self.recovery.kept_bytes = 0;
        for id in ids {
            self.actions.push_back(Action::Update(id, Update::Failed(why.into())));
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.send(id, &Control::Bye(Bye { reason: Reason::Shutdown, text: why }));
            self.actions.push_back(Action::Close(id));
        }
    }

    fn profile(&mut self, now: Duration, from: NodeId, profile: &Profile<'_>) {
        let name = self.unique_name(from, &plain(profile.name));
        let Some(node) = self.nodes.get_mut(&from) else { return };
        if !node.owes_profile {
            return self.refuse(now, from, Reason::Protocol, "it told twice what it is");
        }
        node.owes_profile = false;
        node.name = name.clone();
        node.device = plain(profile.device);
        let device = node.device.clone();
        let Profile { memory_bytes, layer_ns, .. } = *profile;
        // Layers of another format have another pace.
        node.hop = None;
        let offer = Offer { memory_bytes, layer_ns, hop_ns: hop_ns(node.round_trip, None), bytes_per_s: None };
        let known = node.offer.replace(offer).is_some();
        node.read_bytes_per_s = profile.read_bytes_per_s;
        let outdated = node.announced != self.config.format;
        if !known {
            self.event(Event::Joined {
                node: name,
                device,
                memory_bytes: profile.memory_bytes,
                read_bytes_per_s: profile.read_bytes_per_s,
                layer_ns: profile.layer_ns,
            });
        }
        if outdated {
            return self.announce(now, from);
        }
        if self.chain.is_none() {
            if self.returns(now) {
                return;
            }
            match self.config.policy {
                Policy::Exactly(_) => self.place(now),
                // Devices that join together should be judged together.
                Policy::Auto => self.place_at = Some(now + PLACE_SETTLE),
            }
        } else {
            self.unsettled(now);
            self.heal(now);
            self.warm(now);
        }
    }

    fn loading(&mut self, now: Duration, from: NodeId, done_bytes: u64, total_bytes: u64) {
        let Some(node) = self.nodes.get_mut(&from) else { return };
        if done_bytes > node.done_bytes {
            (node.done_bytes, node.progressed) = (done_bytes, now);
        }
        if now.saturating_sub(node.loading_told) >= LOADING_EVERY {
            node.loading_told = now;
            let node = node.name.clone();
            self.event(Event::Loading { node, done_bytes, total_bytes });
        }
    }

    pub(crate) fn fail_all(&mut self, requests: Vec<Request>, why: &str) {
        for request in requests {
            self.actions.push_back(Action::Update(request.told, Update::Failed(why.into())));
        }
    }

    /// Sends a node away that breaks the rules.
    pub(crate) fn refuse(&mut self, now: Duration, node: NodeId, reason: Reason, why: &str) {
        let name = self.name(node);
        self.event(Event::Refused { node: name, why: why.into() });
        self.send(node, &Control::Bye(Bye { reason, text: why }));
        self.actions.push_back(Action::Close(node));
        self.gone(now, node, why);
    }

    pub(crate) fn send(&mut self, node: NodeId, message: &Control<'_>) {
        let mut payload = vec![0; syn1_core::limits::MAX_CONTROL as usize];
        match message.encode(&mut payload) {
            Ok(len) => {
                payload.truncate(len);
                self.actions.push_back(Action::Send(node, Header::control(len as u32), payload));
            }
            Err(error) => tracing::error!("a control message does not fit its frame: {error}"),
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    pub(crate) fn name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| format!("#{}", id.0), |node| node.name.clone())
    }

    /// `wanted`, or `wanted-2` and so on where another node has the name.
    fn unique_name(&self, id: NodeId, wanted: &str) -> String {
        let others = self.nodes.iter().filter(|(other, _)| **other != id);
        let taken: HashSet<&str> = others.map(|(_, node)| node.name.as_str()).collect();
        let mut name = wanted.to_owned();
        let mut number = 1;
        while taken.contains(name.as_str()) {
            number += 1;
            name = format!("{wanted}-{number}");
        }
        name
    }
}

/// Rows of a data frame that a link carries as f32, the longest form and the one that any other falls back to.
fn rows_a_frame(negotiated: &Negotiated, width: usize) -> usize {
    let payload = usize::try_from(negotiated.max_payload).unwrap_or(usize::MAX);
    usize::from(negotiated.max_rows).min(payload / (4 * width.max(1)))
}

/// What a node says of itself, fit for a terminal: no control characters, and not empty.
fn plain(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { "nameless".into() } else { text }
}
