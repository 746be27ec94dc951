//! What time does to the swarm: the model is placed when the nodes have settled, and what gets nowhere is ended.

use std::time::Duration;

use syn1_core::Reason;

use crate::core::{Core, Node, NodeId};
use crate::limits::{
    CLOSING_TIMEOUT, LEAST_PATIENCE, LOAD_TIMEOUT, PATIENCE, PROFILE_TIMEOUT, QUEUE_TIMEOUT, STEP_TIMEOUT, TICK_GAP,
};

impl Core {
    /// Time passes: places the model when the nodes have settled, and ends what gets nowhere.
    pub fn tick(&mut self, now: Duration) {
        let gap = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        if gap > TICK_GAP {
            self.excuse(now, gap);
        }
        if self.place_at.is_some_and(|at| at <= now) {
            self.place(now);
        }
        let late = |since: Duration, limit: Duration| now.saturating_sub(since) > limit;
        self.tick_nodes(now, &late);
        self.tick_steps(now);
        self.tick_closing(now, &late);
        self.tick_heal(now);
        self.tick_rebalance(now);
        self.go_on_checking(now);
        let heals = self.chain.as_ref().is_some_and(|chain| chain.ready || chain.broken.is_some());
        if !heals {
            let why = format!("the model has not been ready for {} s: {}", QUEUE_TIMEOUT.as_secs(), self.waits_for());
            let old = self.waiting.take(|request| late(request.progressed, QUEUE_TIMEOUT));
            self.fail_all(old, &why);
        }
    }

    /// Takes `gap`, in which nothing could be heard, out of everybody's account.
    fn excuse(&mut self, now: Duration, gap: Duration) {
        let later = |since: &mut Duration| *since = (*since + gap).min(now);
        for node in self.nodes.values_mut() {
            later(&mut node.heard);
            later(&mut node.progressed);
        }
        for request in self.requests.values_mut().chain(self.waiting.iter_mut()) {
            later(&mut request.progressed);
        }
        if let Some(broken) = self.chain.as_mut().and_then(|chain| chain.broken.as_mut()) {
            later(&mut broken.since);
        }
    }

    /// A node that never tells what it is, or stands still while it loads.
    fn tick_nodes(&mut self, now: Duration, late: &dyn Fn(Duration, Duration) -> bool) {
        let silent = self.nodes.iter().filter(|(_, node)| node.owes_profile && late(node.progressed, PROFILE_TIMEOUT));
        for id in silent.map(|(id, _)| *id).collect::<Vec<_>>() {
            let why = format!("it has not told what it is within {} s", PROFILE_TIMEOUT.as_secs());
            self.refuse(now, id, Reason::Timeout, &why);
        }
        let Some(chain) = &self.chain else { return };
        let missing = chain.parts.iter().map(|part| part.0).filter(|id| !chain.loaded.contains(id));
        let stuck = missing.filter(|id| self.nodes.get(id).is_some_and(|node| late(node.progressed, LOAD_TIMEOUT)));
        for id in stuck.collect::<Vec<_>>() {
            self.unable(now, id, format!("its shard has not grown for {} s", LOAD_TIMEOUT.as_secs()));
        }
    }

    /// A node that has work and answers nothing is sent away; its layers go to another one.
    fn tick_steps(&mut self, now: Duration) {
        let Some(chain) = &self.chain else { return };
        let running = self.requests.values().filter(|request| request.closing.is_none());
        let unanswered = running.flat_map(|request| request.route.unanswered());
        let stuck = unanswered.filter_map(|(hop, asked)| {
            let id = chain.parts.get(hop)?.0;
            let node = self.nodes.get(&id)?;
            let waited = now.saturating_sub(asked.max(node.heard));
            (waited > node.patience()).then_some((id, waited))
        });
        let stuck: Vec<(NodeId, Duration)> = stuck.collect();
        for (id, waited) in stuck {
            if self.nodes.contains_key(&id) {
                let why = format!("no answer for {} s", waited.as_secs());
                self.refuse(now, id, Reason::Timeout, &why);
            }
        }
    }

    /// A finished request whose last figures do not come ends without them: its text is complete.
    fn tick_closing(&mut self, now: Duration, late: &dyn Fn(Duration, Duration) -> bool) {
        let closing = self.requests.values().filter(|request| request.closing.is_some());
        let stuck = closing.filter(|request| late(request.progressed, CLOSING_TIMEOUT)).map(|request| request.id);
        for id in stuck.collect::<Vec<_>>() {
            self.end(now, id);
        }
    }

    /// When `tick` is due at the latest; may be in the past.
    pub fn next_tick(&self, now: Duration) -> Duration {
        let regular = now + Duration::from_secs(1);
        self.place_at.map_or(regular, |at| at.min(regular))
    }
}

impl Node {
    /// How long it may be silent while it has work, by how long it took for frames before.
    fn patience(&self) -> Duration {
        (self.slowest * PATIENCE).clamp(LEAST_PATIENCE, STEP_TIMEOUT)
    }
}
