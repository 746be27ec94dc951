//! The swarm's events for those who watch over HTTP: the latest of them, and what comes.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::limits::{MAX_PAST_EVENTS, MAX_WATCHERS, WATCHER_BACKLOG};
use crate::update::Event;

/// An event and when it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Told {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// Keeps the latest events and hands on new ones. A watcher that reads too slowly misses some and is told so by its
/// receiver; nobody waits for it.
pub(crate) struct Feed {
    past: VecDeque<Told>,
    live: broadcast::Sender<Told>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self { past: VecDeque::new(), live: broadcast::Sender::new(WATCHER_BACKLOG) }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        let told = Told { at: unix_ms(), event };
        // Progress says nothing once it is over, and would push the rest out.
        if !matches!(told.event, Event::Loading { .. }) {
            if self.past.len() == MAX_PAST_EVENTS {
                self.past.pop_front();
            }
            self.past.push_back(told.clone());
        }
        // An error means that nobody watches.
        let _ = self.live.send(told);
    }

    /// The latest events, oldest first, and those to come; `None` when too many watch already.
    pub(crate) fn watch(&self) -> Option<(Vec<Told>, broadcast::Receiver<Told>)> {
        if self.live.receiver_count() >= MAX_WATCHERS {
            return None;
        }
        Some((self.past.iter().cloned().collect(), self.live.subscribe()))
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(number: usize) -> Event {
        Event::Left { node: format!("n{number}"), why: "test".into() }
    }

    #[test]
    fn who_comes_later_sees_the_latest_and_what_follows() {
        let mut feed = Feed::new();
        for number in 0..MAX_PAST_EVENTS + 5 {
            feed.tell(left(number));
            feed.tell(Event::Loading { node: "n".into(), done_bytes: 1, total_bytes: 2 });
        }
        let (past, mut live) = feed.watch().unwrap();
        assert_eq!((past.len(), &past[0].event), (MAX_PAST_EVENTS, &left(5)));
        feed.tell(left(7));
        assert_eq!(live.try_recv().unwrap().event, left(7));
    }

    #[test]
    fn a_watcher_that_does_not_read_costs_a_bounded_backlog() {
        let mut feed = Feed::new();
        let (_, mut slow) = feed.watch().unwrap();
        for number in 0..3 * WATCHER_BACKLOG {
            feed.tell(left(number));
        }
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
    }

    #[test]
    fn watchers_are_counted_and_let_go() {
        let feed = Feed::new();
        let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| feed.watch().unwrap()).collect();
        assert!(feed.watch().is_none());
        watchers.pop();
        assert!(feed.watch().is_some());
    }

    #[test]
    fn events_have_stable_names() {
        let json = |event| serde_json::to_value(Told { at: 5, event }).unwrap();
        let placed = Event::Placed(vec![("a".into(), 0..4), ("b".into(), 4..8)]);
        let parts = serde_json::json!([{"node": "a", "layers": [0, 4]}, {"node": "b", "layers": [4, 8]}]);
        assert_eq!(json(placed), serde_json::json!({"at": 5, "event": "placed", "data": parts}));
        let gone = serde_json::json!({"at": 5, "event": "left", "data": {"node": "n1", "why": "test"}});
        assert_eq!(json(left(1)), gone);
    }
}
