//! What is kept for the case that a node is lost, within its budget, and what came of losses.

use std::time::Duration;

use crate::core::Core;

/// Figures of losses, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Nodes that were lost while they held layers of the chain.
    pub losses: u64,
    /// Times that tokens passed again behind a loss.
    pub healed: u64,
    /// The longest time from a loss to the first token behind it.
    pub longest_pause: Duration,
    /// Requests that went on through other nodes, each loss counted.
    pub rerouted: u64,
    /// Times that layers moved while the chain served.
    pub rebalanced: u64,
    /// Requests that were computed once more from their tokens, because a node could not go on with them.
    pub restarted: u64,
    /// Rows that a node was fed so that it holds what another one held.
    pub replayed_rows: u64,
    /// Requests that ended with an error because no node could be had.
    pub failed: u64,
    /// Bytes of activations that are kept for replays now.
    pub kept_bytes: usize,
    /// Requests whose activations were dropped to keep within the budget.
    pub dropped: u64,
}

impl Core {
    /// What was lost and regained.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Counts anew what is kept for a request, and lets go of the biggest shares while that is more than the budget.
    pub(crate) fn account(&mut self, id: u32) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        self.recovery.replayed_rows += request.route.take_replayed();
        let kept = request.route.kept();
        self.recovery.kept_bytes = self.recovery.kept_bytes - request.counted + kept;
        request.counted = kept;
        while self.recovery.kept_bytes > self.config.relay_bytes {
            let biggest = self.requests.values_mut().max_by_key(|request| request.counted);
            let Some(biggest) = biggest.filter(|request| request.counted > 0) else { return };
            biggest.route.forget();
            self.recovery.kept_bytes -= std::mem::take(&mut biggest.counted);
            self.recovery.dropped += 1;
        }
    }
}
