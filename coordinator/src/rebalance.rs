//! Layers move while the chain serves, where tokens gain enough by it: a faster node that joins later takes some, or all.
//!
//! Nodes that have no part yet load theirs first, beside the chain that goes on. Then the chain is laid anew as behind a loss
//! (`heal.rs`): whoever takes layers is fed what their holder was fed, and requests go on where they stood. Where that could
//! change a text, since boundaries move over which activations are rounded, the chain waits until nothing runs on it; behind
//! a while requests that come wait for that, too, but not for long, and ever more rarely.

use std::ops::Range;
use std::time::Duration;

use syn1_core::{Codec, Form};

use crate::core::{Core, NodeId};
use crate::limits::{
    LOAD_TIMEOUT, REBALANCE_EVERY, REBALANCE_GAIN, REBALANCE_GAIN_AGAIN, REBALANCE_HOLD, REBALANCE_PATIENCE,
    REBALANCE_REST, REBALANCE_SETTLE, REBALANCE_WEARIER,
};
use crate::placement::{Offer, Part, Scales, place};
use crate::predict::predict;
use crate::update::Event;

/// Layers by node, in chain order.
type Layout = Vec<(NodeId, Range<usize>)>;

/// When layers are looked at, and where they are to go.
#[derive(Default)]
pub(crate) struct Rebalance {
    look_at: Option<Duration>,
    move_to: Option<Move>,
    /// When layers moved last.
    moved: Option<Duration>,
}

impl Rebalance {
    /// How many times as fast a token must become.
    fn gain(&self, now: Duration) -> f64 {
        let rests = self.moved.is_some_and(|moved| now.saturating_sub(moved) < REBALANCE_REST);
        if rests { REBALANCE_GAIN_AGAIN } else { REBALANCE_GAIN }
    }
}

/// Another chain that is being prepared.
struct Move {
    from: Layout,
    to: Layout,
    /// Since when every node that had no part has its new one, or requests waited for it last.
    loaded: Option<Duration>,
    /// How long from there on until requests wait for it.
    patience: Duration,
    /// Requests wait for it.
    holds: bool,
}

impl Core {
    /// The nodes, or what is known of them, have changed: whether layers should move is looked at when they have settled.
    pub(crate) fn unsettled(&mut self, now: Duration) {
        let soon = now + REBALANCE_SETTLE;
        self.rebalance.look_at = Some(self.rebalance.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// Whether requests wait for layers to move.
    pub(crate) fn holds(&self) -> bool {
        self.rebalance.move_to.as_ref().is_some_and(|to| to.holds)
    }

    /// Whether a node loads layers that it is to take over.
    pub(crate) fn is_to_take(&self, node: NodeId) -> bool {
        self.rebalance.move_to.as_ref().is_some_and(|to| to.to.iter().any(|part| part.0 == node))
    }

    pub(crate) fn tick_rebalance(&mut self, now: Duration) {
        let serves = self.chain.as_ref().is_some_and(|chain| chain.ready && chain.broken.is_none());
        if !serves {
            return self.stay(now);
        }
        if self.rebalance.move_to.is_some() {
            return self.go_over(now);
        }
        if self.rebalance.look_at.is_none_or(|at| at <= now) {
            self.rebalance.look_at = Some(now + REBALANCE_EVERY);
            self.refine_chain();
            self.look(now);
        }
    }

    /// Begins a move if there is one that gains enough.
    fn look(&mut self, now: Duration) {
        let Some(chain) = self.chain.as_ref().filter(|_| self.may_place()) else { return };
        let from = chain.parts.clone();
        let (ids, offers) = self.able(chain.widest);
        let Some(parts) = on(&ids, &from) else { return };
        let Some(better) = self.better(now, &offers, &parts) else { return };
        let to: Layout = better.into_iter().map(|part| (ids[part.node], part.layers)).collect();
        let holds_it = |(id, layers): &(NodeId, Range<usize>)| {
            self.nodes.get(id).and_then(|node| node.shard.as_ref()).is_some_and(|shard| shard.layers == *layers)
        };
        let fresh: Layout =
            to.iter().filter(|part| from.iter().all(|old| old.0 != part.0) && !holds_it(part)).cloned().collect();
        for part in fresh {
            self.generation = self.generation.wrapping_add(1);
            self.assign(now, part);
        }
        self.rebalance.move_to = Some(Move { from, to, loaded: None, patience: REBALANCE_PATIENCE, holds: false });
        self.go_over(now);
    }

    /// A placement on which a token is faster by more than [`Rebalance::gain`]. One that differs by a single node is preferred
    /// to one that moves everybody and gains little more.
    fn better(&self, now: Duration, offers: &[Offer], parts: &[Part]) -> Option<Vec<Part>> {
        let demand = self.demand(self.config.format);
        let scales = Scales::new(&demand);
        let token_ns = |parts: &[Part]| predict(&demand, offers, parts).token_ns();
        let idle: Vec<usize> = (0..offers.len()).filter(|node| parts.iter().all(|part| part.node != *node)).collect();
        // Of nodes with room for a part, only the fastest can be the one.
        let swap = |at: usize| {
            let layers = parts[at].layers.clone();
            let fits = idle.iter().filter(|&&node| scales.bytes(layers.clone()) <= offers[node].memory_bytes);
            let time = |node: usize| {
                offers[node].layer_ns.saturating_mul(layers.len() as u64).saturating_add(offers[node].hop_ns)
            };
            let node = *fits.min_by_key(|&&node| time(node))?;
            let mut swapped = parts.to_vec();
            swapped[at].node = node;
            Some((token_ns(&swapped), swapped))
        };
        let swapped = (0..parts.len()).filter_map(swap).min_by_key(|found| found.0);
        let placed = place(&demand, offers, self.config.policy).ok().map(|parts| (token_ns(&parts), parts));
        let gain = self.rebalance.gain(now);
        let best = match (swapped, placed) {
            (Some(swapped), Some(placed)) if gains(swapped.0, placed.0, gain) => placed,
            (Some(swapped), _) => swapped,
            (None, placed) => placed?,
        };
        gains(token_ns(parts), best.0, gain).then_some(best.1)
    }

    /// Goes over to the other chain when its nodes have their layers, or gives it up.
    fn go_over(&mut self, now: Duration) {
        let Some(Move { from, to, loaded, .. }) = &self.rebalance.move_to else { return };
        let Some(chain) = self.chain.as_ref().filter(|chain| chain.parts == *from) else { return self.stay(now) };
        let (ids, offers) = self.able(chain.widest);
        let (Some(old), Some(new)) = (on(&ids, from), on(&ids, to)) else { return self.stay(now) };
        let is_new = |part: &&(NodeId, Range<usize>)| from.iter().all(|old| old.0 != part.0);
        let shard = |id: &NodeId| self.nodes.get(id)?.shard.as_ref();
        for (id, layers) in to.iter().filter(is_new) {
            // Somebody told it otherwise, or it does not get on.
            let late = |id| self.nodes.get(id).is_some_and(|node| now.saturating_sub(node.progressed) > LOAD_TIMEOUT);
            match shard(id) {
                Some(shard) if shard.layers == *layers && shard.slots.is_some() => {}
                Some(shard) if shard.layers == *layers && !late(id) => return,
                _ => return self.stay(now),
            }
        }
        // With their layers the nodes have measured themselves again.
        let demand = self.demand(self.config.format);
        let (before, after) = (predict(&demand, &offers, &old).token_ns(), predict(&demand, &offers, &new).token_ns());
        if !gains(before, after, self.rebalance.gain(now)) {
            return self.stay(now);
        }
        let since = loaded.unwrap_or(now);
        let may_go = self.requests.is_empty() || self.keeps_texts(from, to);
        if !may_go {
            return self.wait_to_go(now, since);
        }
        let moved: Vec<String> = to
            .iter()
            .filter(|part| !from.contains(part))
            .map(|(id, layers)| format!("{} takes layers {}..{}", self.name(*id), layers.start, layers.end))
            .collect();
        let ms = |ns: u64| ns as f64 / 1e6;
        let why =
            format!("{}: a token is to take {:.2} ms in place of {:.2} ms", moved.join(", "), ms(after), ms(before));
        self.recovery.rebalanced += 1;
        (self.rebalance.move_to, self.rebalance.moved) = (None, Some(now));
        self.event(Event::Rebalanced { why: why.clone() });
        self.lay(now, &ids, &offers, new, format!("Layers moved while the model was served: {why}."));
    }

    /// Texts run that the move would change. It waits for a moment without any since `since`; in the end requests that come
    /// wait for that moment as well, for a while.
    fn wait_to_go(&mut self, now: Duration, since: Duration) {
        let Some(waiting) = &mut self.rebalance.move_to else { return };
        let waited = now.saturating_sub(since);
        let is_over = waited > waiting.patience.saturating_add(REBALANCE_HOLD);
        waiting.loaded = Some(if is_over { now } else { since });
        waiting.holds = !is_over && waited > waiting.patience;
        if is_over {
            waiting.patience = waiting.patience.saturating_mul(REBALANCE_WEARIER);
            self.start_waiting(now);
        }
    }

    /// Everything stays as it is.
    fn stay(&mut self, now: Duration) {
        if self.rebalance.move_to.take().is_some_and(|to| to.holds) {
            self.start_waiting(now);
        }
    }

    /// Whether texts that run stay what they would be: activations cross the same boundaries, or none of them rounds.
    fn keeps_texts(&self, from: &Layout, to: &Layout) -> bool {
        let boundaries = |layout: &Layout| layout.iter().map(|part| part.1.start).collect::<Vec<_>>();
        let (old, new) = (boundaries(from), boundaries(to));
        let exact = |layer: &usize| *layer == 0 || self.config.wire.before(*layer) == Form::plain(Codec::F32);
        old == new || old.iter().chain(&new).all(exact)
    }
}

/// The layout in terms of the offers of `ids`; nothing if a node of it is not among them.
fn on(ids: &[NodeId], layout: &Layout) -> Option<Vec<Part>> {
    let part = |(id, layers): &(NodeId, Range<usize>)| {
        Some(Part { node: ids.iter().position(|of| of == id)?, layers: layers.clone() })
    };
    layout.iter().map(part).collect()
}

/// Whether a token that takes `after` in place of `before` is worth a move: whether that is more than `gain` times as fast.
fn gains(before: u64, after: u64, gain: f64) -> bool {
    before as f64 > after as f64 * gain
}
