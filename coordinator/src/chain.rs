//! The chain of nodes that a token passes: placed, loaded, proved, and broken.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use syn1_core::Flags;
use syn1_core::control::{Assign, Control};

use crate::core::{Action, Core, CoreConfig, NodeId};
use crate::limits::{PLACE_SETTLE, STEP_BUDGET_NS};
use crate::placement::{Offer, Unplaced, place, predicted_ns};
use crate::request::Generate;
use crate::sample::Sampling;
use crate::update::{Event, Update};

/// The nodes that share the model, in the order of its layers.
pub(crate) struct Chain {
    pub(crate) parts: Vec<(NodeId, Range<usize>)>,
    pub(crate) loaded: BTreeSet<NodeId>,
    pub(crate) predicted_ns: u64,
    pub(crate) ready: bool,
    /// Requests that every node of it has room for.
    pub(crate) slots: usize,
    /// Rows of a prefill chunk that all its nodes take, and the slowest computes in reasonable time.
    pub(crate) chunk: usize,
}

impl Core {
    /// Cuts the model over the nodes that are able, and tells each its layers.
    pub(crate) fn place(&mut self, now: Duration) {
        self.place_at = None;
        if !self.may_place() {
            return;
        }
        let able = self.nodes.iter().filter(|(_, node)| node.unable.is_none());
        let (ids, offers): (Vec<NodeId>, Vec<Offer>) = able.filter_map(|(id, node)| Some((*id, node.offer?))).unzip();
        let CoreConfig { format, policy, max_positions, slots, chunk, .. } = self.config;
        let parts = match place(&self.demand(format), &offers, policy) {
            Ok(parts) => parts,
            Err(why) => {
                if let Err(why) = self.fall_back(why, &offers) {
                    self.cannot_place(why.to_string(), matches!(why, Unplaced::Nodes { .. }));
                }
                return;
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let predicted_ns = predicted_ns(&offers, &parts);
        let slowest_ns = parts.iter().map(|part| offers[part.node].layer_ns.saturating_mul(part.layers.len() as u64));
        let rows = STEP_BUDGET_NS / slowest_ns.max().unwrap_or(1).max(1);
        let parts: Vec<(NodeId, Range<usize>)> = parts.into_iter().map(|part| (ids[part.node], part.layers)).collect();
        let taken = parts.iter().filter_map(|(id, _)| Some(self.nodes.get(id)?.max_rows));
        let chunk = taken.min().unwrap_or(chunk).clamp(1, chunk);
        for (id, layers) in &parts {
            if let Some(node) = self.nodes.get_mut(id) {
                (node.progressed, node.done_bytes) = (now, 0);
            }
            let assign = Assign {
                generation: self.generation,
                first_layer: layers.start as u16,
                end_layer: layers.end as u16,
                max_positions: max_positions as u32,
                slots: slots as u16,
                max_rows: chunk as u16,
            };
            self.send(*id, &Control::Assign(assign));
        }
        self.event(Event::Placed(parts.iter().map(|(node, layers)| (self.name(*node), layers.clone())).collect()));
        let chunk = usize::try_from(rows).unwrap_or(chunk).clamp(1, chunk);
        self.chain = Some(Chain { parts, loaded: BTreeSet::new(), predicted_ns, ready: false, slots, chunk });
    }

    /// There is no chain, and unless it is `waiting` for what comes by itself, nothing to wait for either.
    pub(crate) fn cannot_place(&mut self, why: String, waiting: bool) {
        self.unplaced = self.with_unable(why);
        self.event(Event::Unplaced { why: self.unplaced.clone(), waiting });
        if !waiting {
            let refused = self.waiting.drain(..).collect();
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
        let Some(chain) = &mut self.chain else { return };
        if !chain.loaded.insert(from) {
            return;
        }
        chain.slots = chain.slots.min(slots.max(1));
        if chain.loaded.len() < chain.parts.len() {
            return;
        }
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let proof =
            Generate { prompt: vec![0], max_tokens: 1, sampling, stop: Vec::new(), ignore_eos: true, speculate: 0 };
        let proof = self.request(proof, true);
        self.start(now, proof);
    }

    pub(crate) fn unable(&mut self, now: Duration, from: NodeId, why: String) {
        if let Some(node) = self.nodes.get_mut(&from) {
            let name = node.name.clone();
            let text = format!("node {name} cannot take its layers: {why}");
            node.unable = Some(why.clone());
            self.event(Event::Unable { node: name, why });
            if self.chain.as_ref().is_some_and(|chain| chain.parts.iter().any(|part| part.0 == from)) {
                self.break_chain(now, &text);
            }
        }
    }

    /// The chain is no more: what runs on it fails, what waits goes on waiting, and the model is placed anew.
    pub(crate) fn break_chain(&mut self, now: Duration, why: &str) {
        for (id, request) in std::mem::take(&mut self.requests) {
            self.close(id);
            if request.closing.is_some() && !request.is_proof {
                self.finished(request);
            } else if !request.is_proof {
                self.actions.push_back(Action::Update(id, Update::Failed(why.into())));
            }
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

    pub(crate) fn is_in_chain(&self, id: NodeId) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.parts.iter().any(|part| part.0 == id))
    }
}
