//! A chain that has lost a node: its layers go to another one, and requests go on where they stood.
//!
//! Nodes that keep their layers are told nothing and keep computing. The new holder of a hop is opened with the next epoch and
//! fed what its predecessor was fed (`route.rs`); answers that were there before end with it, and the first one that was not
//! goes on. So the sampler draws once for each token, whatever is lost, and the text is that of an undisturbed run.

use std::cmp::Reverse;
use std::ops::Range;
use std::time::Duration;

use crate::chain::Chain;
use crate::core::{Core, NodeId};
use crate::limits::{HEAL_GRACE, MAX_COPIES, MAX_LOSSES};
use crate::mend::mend;
use crate::placement::{Policy, Scales, place};
use crate::route::Stage;
use crate::update::Event;

/// A chain that tokens cannot pass.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    /// Since when.
    pub(crate) since: Duration,
    /// What happened last, for people.
    pub(crate) why: String,
    /// Nodes that were lost since.
    pub(crate) losses: u32,
}

impl Core {
    /// A node of the chain is gone, or cannot go on.
    pub(crate) fn lost(&mut self, now: Duration, node: NodeId, why: String) {
        self.recovery.losses += 1;
        // What the others keep is of no use without what this one had.
        self.drop_parked();
        let Some(chain) = &mut self.chain else { return };
        chain.loaded.remove(&node);
        chain.ready = false;
        let (since, losses) = chain.broken.as_ref().map_or((now, 0), |broken| (broken.since, broken.losses));
        let losses = losses + 1;
        chain.broken = Some(Broken { since, why: why.clone(), losses });
        let ended: Vec<u32> = self.requests.values_mut().filter_map(|request| request.misses(node)).collect();
        for id in ended {
            self.end(now, id);
        }
        // What proves nothing any more goes first; its place may be needed.
        self.drop_proofs();
        if losses > MAX_LOSSES {
            let why = format!("{why}; {losses} nodes were lost one after the other, and no token passed between them");
            return self.break_chain(now, &why);
        }
        self.heal(now);
    }

    /// Gives layers that have no node to other ones, if there are such layers and such nodes.
    pub(crate) fn heal(&mut self, now: Duration) {
        let Some(chain) = self.chain.as_ref().filter(|chain| !self.is_held(chain)) else { return };
        let Some(Broken { why, .. }) = chain.broken.clone() else { return };
        let (ids, offers) = self.able(chain.widest);
        let holders: Vec<Option<usize>> =
            chain.parts.iter().map(|part| ids.iter().position(|id| *id == part.0)).collect();
        let layers: Vec<_> = chain.parts.iter().map(|part| part.1.clone()).collect();
        let demand = self.demand(self.config.format);
        let held: Vec<_> = ids.iter().map(|id| self.nodes.get(id)?.shard.as_ref()?.loaded()).collect();
        let mended = mend(&demand, &offers, &held, &holders, &layers).map(|parts| {
            (parts, format!("A node was lost ({why}). Its layers went where the fewest others had to move."))
        });
        let placed = || {
            let parts = place(&demand, &offers, Policy::Auto).ok()?;
            let reason = self.reason(Policy::Auto, &ids, &offers, &parts);
            Some((parts, reason))
        };
        match mended.or_else(placed) {
            Some((parts, reason)) => self.lay(now, &ids, &offers, parts, reason),
            // Nobody has anything to lose: the model may be placed in any way.
            None if self.requests.values().all(|request| request.closing.is_some()) => self.break_chain(now, &why),
            None => {
                self.unplaced = format!("another node is to take the layers: {why}");
                self.event(Event::Unplaced { why, waiting: true });
            }
        }
    }

    /// Whether every part of the chain has a node.
    pub(crate) fn is_held(&self, chain: &Chain) -> bool {
        chain.parts.iter().all(|(id, _)| self.nodes.get(id).is_some_and(|node| node.unable.is_none()))
    }

    /// Ends the wait for a node that does not come.
    pub(crate) fn tick_heal(&mut self, now: Duration) {
        let Some(chain) = self.chain.as_ref().filter(|chain| !self.is_held(chain)) else { return };
        let Some(Broken { since, why, .. }) = chain.broken.clone() else { return };
        if now.saturating_sub(since) > HEAL_GRACE {
            let seconds = HEAL_GRACE.as_secs();
            let why =
                format!("{why}; no other node could take its layers within {seconds} s: ask again when one has joined");
            self.break_chain(now, &why);
        }
    }

    /// Takes every request from the chain as it was to the one there is. `was` tells which parts are what they were before;
    /// the nodes that `left` have nothing to do with it any more.
    pub(crate) fn reroute(&mut self, now: Duration, was: &[Option<usize>], left: &[NodeId]) {
        let stages = self.stages(was);
        let chunk = self.chain.as_ref().map_or(1, |chain| chain.chunk);
        for request in self.requests.values_mut().filter(|request| request.closing.is_none()) {
            request.reroute(now, chunk, &stages, false);
            self.recovery.rerouted += 1;
        }
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            for node in left {
                self.send_close(*node, id);
            }
            self.account(id);
        }
    }

    /// The chain's parts for a route.
    pub(crate) fn stages(&self, was: &[Option<usize>]) -> Vec<Stage> {
        let parts = self.chain.as_ref().map_or(&[][..], |chain| &chain.parts);
        let was = was.iter().copied().chain(std::iter::repeat(None));
        let stage = |((_, layers), was): (&(NodeId, std::ops::Range<usize>), _)| Stage {
            layers: layers.clone(),
            form: self.config.wire.before(layers.end),
            was,
        };
        parts.iter().zip(was).map(stage).collect()
    }

    /// A node could not go on with a request: the first time since its last token everything is computed once more, in case
    /// the nodes did not hold what they should; a second time it ends.
    pub(crate) fn failed(&mut self, now: Duration, id: u32, why: String) {
        let stages = self.stages(&[]);
        let chunk = self.chain.as_ref().map_or(1, |chain| chain.chunk);
        match self.requests.get_mut(&id) {
            Some(request) if request.closing.is_none() && !request.restarted => {
                tracing::warn!("request {id} is computed once more: {why}");
                request.restarted = true;
                request.reroute(now, chunk, &stages, true);
                self.recovery.restarted += 1;
                // Others' prompts may have waited for what it had at the nodes.
                self.go_on(now);
            }
            _ => self.fail(now, id, why),
        }
    }

    /// A token has come through, which took so long if it was the coordinator's own: the chain is ready.
    pub(crate) fn passed(&mut self, now: Duration, took: Option<Duration>) {
        let Some(chain) = self.chain.as_mut().filter(|chain| !chain.ready && chain.is_loaded()) else { return };
        chain.ready = true;
        let broken = chain.broken.take();
        let pause = broken.map(|broken| now.saturating_sub(broken.since));
        self.recovery.healed += u64::from(pause.is_some());
        if took.is_none() {
            self.recovery.longest_pause = self.recovery.longest_pause.max(pause.unwrap_or_default());
        }
        let token_ms = took.or(pause).unwrap_or(now.saturating_sub(chain.laid)).as_secs_f64() * 1e3;
        self.event(Event::Ready { token_ms });
        self.warm(now);
        self.start_waiting(now);
    }

    /// Has nodes without a part load the layers of one, so that they can take its place at once: each those that the fewest
    /// others hold beside their holder, and of these the most.
    pub(crate) fn warm(&mut self, now: Duration) {
        let Some(chain) = self.chain.as_ref().filter(|chain| chain.ready) else { return };
        let shards = || self.nodes.values().filter_map(|node| node.shard.as_ref());
        let copies = |layers: &Range<usize>| shards().filter(|shard| shard.layers == *layers).count();
        let mut parts: Vec<_> = chain.parts.iter().map(|part| (copies(&part.1), part.1.clone())).collect();
        let (ids, offers) = self.able(chain.widest);
        let scales = Scales::new(&self.demand(self.config.format));
        let mut loads = Vec::new();
        for (id, offer) in ids.into_iter().zip(offers) {
            if parts.iter().all(|part| part.0 >= MAX_COPIES) {
                break;
            }
            let shard = self.nodes.get(&id).and_then(|node| node.shard.as_ref());
            let useful = shard.is_some_and(|shard| parts.iter().any(|part| part.1 == shard.layers));
            if useful || self.is_in_chain(id) || self.is_to_take(id) {
                continue;
            }
            let fitting = parts.iter_mut().filter(|(_, layers)| scales.bytes(layers.clone()) <= offer.memory_bytes);
            let rarest = fitting.min_by_key(|(copies, layers)| (*copies, Reverse(layers.len())));
            if let Some((copies, layers)) = rarest.filter(|part| part.0 < MAX_COPIES) {
                *copies += 1;
                loads.push((id, layers.clone()));
            }
        }
        for load in loads {
            self.generation = self.generation.wrapping_add(1);
            self.assign(now, load);
        }
    }
}
