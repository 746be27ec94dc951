//! The chain of nodes that a token passes: placed, loaded, proved, and broken.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use syn1_core::Flags;
use syn1_core::control::{Assign, Control};

use crate::access::Client;
use crate::core::{Action, Core, NodeId, Shard};
use crate::heal::Broken;
use crate::limits::{PLACE_SETTLE, PROOF_TIME, PROOF_TOKENS, STEP_BUDGET_NS};
use crate::pace::Pace;
use crate::placement::{Offer, Part, Policy, Unplaced, place};
use crate::reason::reason;
use crate::request::Generate;
use crate::sample::Sampling;
use crate::served::Served;
use crate::update::{Event, Update};

/// The nodes that share the model, in the order of its layers.
pub(crate) struct Chain {
    pub(crate) parts: Vec<(NodeId, Range<usize>)>,
    pub(crate) loaded: BTreeSet<NodeId>,
    /// Why it is as it is, for people.
    pub(crate) reason: String,
    pub(crate) ready: bool,
    /// It has lost a node since it was ready last.
    pub(crate) broken: Option<Broken>,
    /// Requests that every node of it has room for.
    pub(crate) slots: usize,
    /// Rows of a prefill chunk that all its nodes take, and the slowest computes in reasonable time.
    pub(crate) chunk: usize,
    /// The most that it has been since the chain was placed: frames of so many rows may have to be sent again.
    pub(crate) widest: usize,
    /// When it was placed.
    pub(crate) laid: Duration,
}

impl Chain {
    /// Every node of it has its shard.
    pub(crate) fn is_loaded(&self) -> bool {
        self.parts.iter().all(|(node, _)| self.loaded.contains(node))
    }
}

impl Core {
    /// Cuts the model over the nodes that are able, and tells each its layers.
    pub(crate) fn place(&mut self, now: Duration) {
        self.place_at = None;
        if !self.may_place() || self.returns(now) {
            return;
        }
        let (ids, offers) = self.able(0);
        match place(&self.demand(self.config.format), &offers, self.config.policy) {
            Ok(parts) => {
                let reason = self.reason(self.config.policy, &ids, &offers, &parts);
                self.lay(now, &ids, &offers, parts, reason);
            }
            Err(why) => {
                if let Err(why) = self.fall_back(why, &offers) {
                    self.cannot_place(why.to_string(), matches!(why, Unplaced::Nodes { .. }));
                }
            }
        }
    }

    /// The nodes that may take layers in frames of this many rows, and what each offers.
    pub(crate) fn able(&self, rows: usize) -> (Vec<NodeId>, Vec<Offer>) {
        let able =
            self.nodes.iter().filter(|(_, node)| node.unable.is_none() && !node.owes_profile && node.max_rows >= rows);
        able.filter_map(|(id, node)| Some((*id, node.offer?))).unzip()
    }

    /// Why parts that were placed by `policy` lie where they lie.
    pub(crate) fn reason(&self, policy: Policy, ids: &[NodeId], offers: &[Offer], parts: &[Part]) -> String {
        reason(policy, &self.demand(self.config.format), offers, parts, |node| self.name(ids[node]))
    }

    /// Makes a chain of these parts, or the one there is into one of them. Each node is told its layers, but for those that
    /// hold or load them already: their KV caches stay.
    pub(crate) fn lay(&mut self, now: Duration, ids: &[NodeId], offers: &[Offer], parts: Vec<Part>, reason: String) {
        self.drop_parked();
        self.generation = self.generation.wrapping_add(1);
        let slowest_ns = parts.iter().map(|part| offers[part.node].layer_ns.saturating_mul(part.layers.len() as u64));
        let rows = STEP_BUDGET_NS / slowest_ns.max().unwrap_or(1).max(1);
        let parts: Vec<(NodeId, Range<usize>)> = parts.into_iter().map(|part| (ids[part.node], part.layers)).collect();
        let old = self.chain.take();
        let (before, broken, widest) =
            old.map_or_else(Default::default, |chain| (chain.parts, chain.broken, chain.widest));
        let stays = |core: &Self, (node, layers): &(NodeId, Range<usize>)| {
            let shard = core.nodes.get(node).and_then(|node| node.shard.as_ref());
            shard.is_some_and(|shard| shard.layers == *layers)
        };
        let was: Vec<Option<usize>> =
            parts.iter().map(|part| before.iter().position(|old| old == part).filter(|_| stays(self, part))).collect();
        for part in parts.iter().filter(|part| !stays(self, part)).cloned().collect::<Vec<_>>() {
            self.assign(now, part);
        }
        let shard = |id: &NodeId| self.nodes.get(id)?.shard.as_ref()?.slots;
        let loaded: BTreeSet<NodeId> = parts.iter().map(|part| part.0).filter(|id| shard(id).is_some()).collect();
        let slots = loaded.iter().filter_map(shard).fold(self.config.slots, usize::min);
        let left: Vec<NodeId> =
            before.iter().map(|part| part.0).filter(|id| parts.iter().all(|p| p.0 != *id)).collect();
        self.event(Event::Placed(parts.iter().map(|(node, layers)| (self.name(*node), layers.clone())).collect()));
        let taken = parts.iter().filter_map(|(id, _)| Some(self.nodes.get(id)?.max_rows));
        let most = taken.fold(self.config.chunk, usize::min).max(1);
        let chunk = usize::try_from(rows).unwrap_or(most).clamp(1, most);
        let widest = widest.max(chunk);
        self.chain = Some(Chain { parts, loaded, reason, ready: false, broken, slots, chunk, widest, laid: now });
        for (id, _) in self.chain.iter().flat_map(|chain| &chain.parts) {
            if let Some(node) = self.nodes.get_mut(id) {
                node.has_served = true;
            }
        }
        self.free_checkers();
        self.reroute(now, &was, &left);
        self.go_on(now);
    }

    pub(crate) fn assign(&mut self, now: Duration, (id, layers): (NodeId, Range<usize>)) {
        let most = self.nodes.get(&id).map_or(0, |node| node.max_rows);
        let assign = Assign {
            generation: self.generation,
            first_layer: layers.start as u16,
            end_layer: layers.end as u16,
            max_positions: self.config.max_positions as u32,
            slots: self.config.slots as u16,
            max_rows: self.config.chunk.min(most).max(1) as u16,
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        (node.progressed, node.done_bytes, node.pace, node.served) = (now, 0, Pace::default(), Served::default());
        node.shard = Some(Shard { generation: self.generation, layers, slots: None });
        self.send(id, &Control::Assign(assign));
    }

    /// There is no chain, and unless it is `waiting` for what comes by itself, nothing to wait for either.
    pub(crate) fn cannot_place(&mut self, why: String, waiting: bool) {
        self.unplaced = self.with_unable(why);
        self.event(Event::Unplaced { why: self.unplaced.clone(), waiting });
        if !waiting {
            let refused = self.waiting.take(|_| true);
            self.fail_all(refused, &self.unplaced.clone());
        }
    }

    fn with_unable(&self, mut why: String) -> String {
        for node in self.nodes.values() {
            if let Some(unable) = &node.unable {
                why.push_str(&format!("; node {} takes no part: {unable}", node.name));
            }
        }
        why
    }

    /// A node has its shard. With the last one, a real token goes through the chain before anybody is told "ready".
    pub(crate) fn loaded(&mut self, now: Duration, from: NodeId, slots: usize) {
        if let Some(shard) = self.nodes.get_mut(&from).and_then(|node| node.shard.as_mut()) {
            shard.slots = Some(slots.max(1));
        }
        let Some(chain) = self.chain.as_mut().filter(|chain| chain.parts.iter().any(|part| part.0 == from)) else {
            return;
        };
        if chain.loaded.insert(from) {
            chain.slots = chain.slots.min(slots.max(1));
            self.go_on(now);
        }
    }

    /// Requests go on at every hop that has its shard; where there are none, tokens of the coordinator's own go first: one is
    /// the proof, and by those behind it the chain is measured while nobody asks for anything.
    pub(crate) fn go_on(&mut self, now: Duration) {
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            self.pump(now, id);
        }
        let proves = self.chain.as_ref().is_some_and(|chain| !chain.ready && chain.is_loaded());
        if proves && self.requests.is_empty() {
            let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
            let (max_tokens, stop) = (PROOF_TOKENS, Vec::new());
            let proof = Generate { prompt: vec![0], max_tokens, sampling, stop, ignore_eos: true, speculate: 0 };
            let proof = self.request(Client::Local, proof, true);
            self.start(now, proof);
        }
    }

    /// A token of the coordinator's own has passed the whole chain. The next ones measure it, unless somebody waits.
    pub(crate) fn proved(&mut self, now: Duration, id: u32) {
        let Some(proof) = self.requests.get(&id) else { return };
        let (took, since) = (proof.figures.total, now.saturating_sub(proof.started));
        if self.waiting.len() > 0 || since >= PROOF_TIME {
            self.drop_proofs();
        }
        self.passed(now, Some(took));
    }

    /// Somebody asks for tokens: the coordinator's own, which only measure a chain that is ready, make room.
    pub(crate) fn end_measuring(&mut self) {
        if self.chain.as_ref().is_some_and(|chain| chain.ready) {
            self.drop_proofs();
        }
    }

    pub(crate) fn drop_proofs(&mut self) {
        let proofs = self.requests.values().filter(|request| request.is_proof).map(|request| request.id);
        for id in proofs.collect::<Vec<_>>() {
            self.remove(id);
            self.close(id);
        }
    }

    pub(crate) fn unable(&mut self, now: Duration, from: NodeId, why: String) {
        if let Some(node) = self.nodes.get_mut(&from) {
            let name = node.name.clone();
            let text = format!("node {name} cannot take its layers: {why}");
            (node.unable, node.shard) = (Some(why.clone()), None);
            self.event(Event::Unable { node: name, why });
            if self.is_in_chain(from) {
                self.lost(now, from, text);
            }
        }
    }

    /// The chain is no more: what runs on it fails, what waits goes on waiting, and the model is placed anew.
    pub(crate) fn break_chain(&mut self, now: Duration, why: &str) {
        self.drop_parked();
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            let Some(request) = self.remove(id) else { continue };
            self.close(id);
            if request.closing.is_some() && !request.is_proof {
                self.finished(request);
            } else if !request.is_proof {
                self.recovery.failed += 1;
                self.actions.push_back(Action::Update(request.told, Update::Failed(why.into())));
            }
        }
        for request in self.waiting.iter_mut() {
            request.progressed = now;
        }
        self.chain = None;
        self.unplaced = format!("the model is being placed anew: {why}");
        self.place_at = Some(now + PLACE_SETTLE);
        self.event(Event::Unplaced { why: why.into(), waiting: true });
    }

    pub(crate) fn chain_nodes(&self) -> Vec<NodeId> {
        self.chain.iter().flat_map(|chain| chain.parts.iter().map(|part| part.0)).collect()
    }

    /// Whether every node of the chain takes frames with `flags`.
    pub(crate) fn chain_has(&self, flags: Flags) -> bool {
        self.chain_nodes().iter().all(|id| self.nodes.get(id).is_some_and(|node| node.flags.contains(flags)))
    }

    /// Whether this is the newest assignment of a node.
    pub(crate) fn is_assigned(&self, id: NodeId, generation: u32) -> bool {
        let shard = self.nodes.get(&id).and_then(|node| node.shard.as_ref());
        shard.is_some_and(|shard| shard.generation == generation)
    }

    /// Whether it is one that the node has not yet said to have loaded.
    pub(crate) fn is_loading(&self, id: NodeId, generation: u32) -> bool {
        let shard = self.nodes.get(&id).and_then(|node| node.shard.as_ref());
        shard.is_some_and(|shard| shard.generation == generation && shard.slots.is_none())
    }

    pub(crate) fn is_in_chain(&self, id: NodeId) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.parts.iter().any(|part| part.0 == id))
    }
}
