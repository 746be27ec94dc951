//! What time does to the swarm: the model is placed when the nodes have settled, and what gets nowhere is ended.

use std::time::Duration;

use syn1_core::Reason;

use crate::core::Core;
use crate::limits::{CLOSING_TIMEOUT, LOAD_TIMEOUT, PROFILE_TIMEOUT, QUEUE_TIMEOUT, STEP_TIMEOUT};

impl Core {
    /// Time passes: places the model when the nodes have settled, and ends what gets nowhere.
    pub fn tick(&mut self, now: Duration) {
        if self.place_at.is_some_and(|at| at <= now) {
            self.place(now);
        }
        let late = |since: Duration, limit: Duration| now.saturating_sub(since) > limit;
        self.tick_nodes(now, &late);
        self.tick_requests(now, &late);
        if !self.chain.as_ref().is_some_and(|chain| chain.ready) {
            let why = format!("the model has not been ready for {} s: {}", QUEUE_TIMEOUT.as_secs(), self.waits_for());
            let (old, young) = self.waiting.drain(..).partition(|request| late(request.started, QUEUE_TIMEOUT));
            self.waiting = young;
            self.fail_all(old, &why);
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

    /// A request whose node does not answer: the node is sent away, which ends everything that hangs on it.
    fn tick_requests(&mut self, now: Duration, late: &dyn Fn(Duration, Duration) -> bool) {
        let stuck = self.requests.values().filter(|request| match &request.closing {
            None => late(request.progressed, STEP_TIMEOUT),
            Some(_) => late(request.progressed, CLOSING_TIMEOUT),
        });
        for id in stuck.map(|request| request.id).collect::<Vec<_>>() {
            let Some(request) = self.requests.get(&id) else { continue };
            if request.closing.is_some() {
                // Its text is complete; only figures are missing.
                self.end(now, id);
                continue;
            }
            let hop = request.waits_for().and_then(|hop| self.chain.as_ref()?.parts.get(hop));
            match hop.map(|part| part.0) {
                Some(node) => {
                    let why = format!("no answer for {} s", STEP_TIMEOUT.as_secs());
                    self.refuse(now, node, Reason::Timeout, &why);
                }
                None => self.fail(now, id, format!("no progress for {} s", STEP_TIMEOUT.as_secs())),
            }
        }
    }

    /// When `tick` is due at the latest; may be in the past.
    pub fn next_tick(&self, now: Duration) -> Duration {
        let regular = now + Duration::from_secs(1);
        self.place_at.map_or(regular, |at| at.min(regular))
    }
}
