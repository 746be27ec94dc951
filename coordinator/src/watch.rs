//! Counts what happens, as the coordinator's shell does it: requests and their tokens, frames and their answers.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use syn1_core::Header;

use crate::core::NodeId;
use crate::limits::OUTBOX;
use crate::metrics::Metrics;
use crate::update::{Event, Finish, Update};

/// Watches requests and links for their [`Metrics`].
pub(crate) struct Watch {
    metrics: Metrics,
    requests: HashMap<u32, Asked>,
    links: HashMap<NodeId, Linked>,
}

/// A request that goes on.
struct Asked {
    prompt_tokens: usize,
    /// When it came, or had its last token.
    since: Duration,
    has_begun: bool,
}

/// A link that had data on it.
struct Linked {
    name: String,
    hop: Histogram,
    sent_bytes: Counter,
    received_bytes: Counter,
    /// Requests whose frames are not answered yet, and when these were sent. A node answers in order.
    unanswered: VecDeque<(u32, Duration)>,
}

impl Watch {
    /// Watches for these metrics.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, requests: HashMap::new(), links: HashMap::new() }
    }

    /// A request was taken.
    pub(crate) fn asked(&mut self, id: u32, prompt_tokens: usize, now: Duration) {
        self.requests.insert(id, Asked { prompt_tokens, since: now, has_begun: false });
    }

    /// The owner of a request went away, which may be over.
    pub(crate) fn cancelled(&mut self, id: u32) {
        if self.requests.remove(&id).is_some() {
            self.ended("cancelled");
        }
    }

    /// A request is told of.
    pub(crate) fn update(&mut self, id: u32, update: &Update, now: Duration) {
        let Some(asked) = self.requests.get_mut(&id) else { return };
        match update {
            Update::Token { .. } => {
                let took = now.saturating_sub(asked.since).as_secs_f64();
                asked.since = now;
                self.metrics.tokens.inc();
                if std::mem::replace(&mut asked.has_begun, true) {
                    self.metrics.next_token.observe(took);
                } else {
                    self.metrics.first_token.observe(took);
                    self.metrics.prompt_tokens.inc_by(asked.prompt_tokens as u64);
                }
                return;
            }
            // The tokens that follow are counted as well: they were generated.
            Update::Again => return,
            Update::Finished(end) => {
                self.metrics.waited.observe(end.figures.waited.as_secs_f64());
                self.metrics.guessed.inc_by(end.figures.guessed as u64);
                self.metrics.accepted.inc_by(end.figures.accepted as u64);
                self.ended(match end.reason {
                    Finish::Stop => "stop",
                    Finish::Length => "length",
                    Finish::Context => "context",
                });
            }
            Update::Failed(_) => self.ended("failed"),
        }
        self.requests.remove(&id);
    }

    fn ended(&self, how: &str) {
        self.metrics.requests.get_or_create(&[("end", how.to_owned())]).inc();
    }

    /// A frame goes to a node, whose name is asked for at its first data.
    pub(crate) fn sent(&mut self, node: NodeId, header: &Header, now: Duration, name: impl FnOnce() -> String) {
        if header.kind == syn1_core::Kind::Control {
            return;
        }
        let link = self.links.entry(node).or_insert_with(|| Linked::new(&self.metrics, name()));
        link.sent_bytes.inc_by(bytes(header));
        // Beyond this the link itself is given up.
        link.unanswered.truncate(OUTBOX);
        link.unanswered.push_back((header.request, now));
    }

    /// A data frame came from a node.
    pub(crate) fn received(&mut self, node: NodeId, header: &Header, now: Duration) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.received_bytes.inc_by(bytes(header));
        // Those in front were of requests that ended before their answer.
        let Some(at) = link.unanswered.iter().position(|(request, _)| *request == header.request) else { return };
        if let Some((_, sent)) = link.unanswered.drain(..=at).next_back() {
            link.hop.observe(now.saturating_sub(sent).as_secs_f64());
        }
    }

    /// A node's link is gone, and with it what is told of it.
    pub(crate) fn unlinked(&mut self, node: NodeId) {
        let Some(Linked { name, .. }) = self.links.remove(&node) else { return };
        // It may be back under its name already.
        if self.links.values().any(|link| link.name == name) {
            return;
        }
        self.metrics.hop.remove(&[("node", name.clone())]);
        for direction in ["sent", "received"] {
            self.metrics.bytes.remove(&[("node", name.clone()), ("direction", direction.to_owned())]);
        }
    }

    /// Something happened in the swarm.
    pub(crate) fn event(&self, event: &Event) {
        let counter = match event {
            Event::Left { .. } => &self.metrics.left,
            Event::Refused { .. } => &self.metrics.nodes_refused,
            Event::Placed(_) => &self.metrics.placed,
            _ => return,
        };
        counter.inc();
    }
}

impl Linked {
    fn new(metrics: &Metrics, name: String) -> Self {
        let bytes = |direction: &str| {
            metrics.bytes.get_or_create_owned(&[("node", name.clone()), ("direction", direction.to_owned())])
        };
        Self {
            hop: metrics.hop.get_or_create_owned(&[("node", name.clone())]),
            sent_bytes: bytes("sent"),
            received_bytes: bytes("received"),
            unanswered: VecDeque::new(),
            name,
        }
    }
}

fn bytes(header: &Header) -> u64 {
    Header::LEN as u64 + u64::from(header.payload_len)
}

#[cfg(test)]
mod tests {
    use syn1_core::Codec;

    use super::*;
    use crate::update::{Figures, Finished};

    const SECOND: Duration = Duration::from_secs(1);

    fn token() -> Update {
        Update::Token { id: 1, text: String::new(), logprobs: None }
    }

    fn frame(request: u32) -> Header {
        Header::activation(request, 1, 0, Codec::F32, 1, 8).unwrap()
    }

    fn tells(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.encode();
        for line in lines {
            assert!(text.lines().any(|told| told == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_first_token_counts_from_the_question_and_the_others_from_the_one_before() {
        let metrics = Metrics::default();
        let mut watch = Watch::new(metrics.clone());
        watch.asked(7, 5, SECOND);
        for second in [4, 6, 7] {
            watch.update(7, &token(), SECOND * second);
        }
        let end = Finished { text: String::new(), reason: Finish::Length, figures: Figures::default() };
        watch.update(7, &Update::Finished(end), SECOND * 8);
        // Whoever lets go of an answer that is complete has cancelled nothing.
        watch.cancelled(7);
        watch.asked(8, 9, SECOND);
        watch.cancelled(8);
        tells(
            &metrics,
            &[
                "syn1_time_to_first_token_seconds_sum 3.0",
                "syn1_time_to_first_token_seconds_count 1",
                "syn1_time_per_token_seconds_sum 3.0",
                "syn1_time_per_token_seconds_count 2",
                "syn1_tokens_generated_total 3",
                "syn1_tokens_prompt_total 5",
                "syn1_requests_total{end=\"length\"} 1",
                "syn1_requests_total{end=\"cancelled\"} 1",
            ],
        );
        assert!(watch.requests.is_empty());
    }

    #[test]
    fn an_answer_is_timed_from_its_own_frame_and_leaves_with_its_node() {
        let metrics = Metrics::default();
        let mut watch = Watch::new(metrics.clone());
        let node = NodeId(1);
        for (request, second) in [(1, 0), (2, 1), (1, 2)] {
            watch.sent(node, &frame(request), SECOND * second, || "a".into());
        }
        watch.received(node, &frame(1), SECOND * 4);
        // Request 2 was cancelled: its answer never comes.
        watch.received(node, &frame(1), SECOND * 5);
        watch.received(node, &frame(1), SECOND * 9);
        // From second 0 to 4 and from 2 to 5; the third answers nothing.
        tells(
            &metrics,
            &[
                "syn1_hop_seconds_sum{node=\"a\"} 7.0",
                "syn1_hop_seconds_count{node=\"a\"} 2",
                "syn1_link_bytes_total{node=\"a\",direction=\"sent\"} 168",
                "syn1_link_bytes_total{node=\"a\",direction=\"received\"} 168",
            ],
        );
        assert!(watch.links[&node].unanswered.is_empty());
        watch.unlinked(node);
        assert!(!metrics.encode().contains("node=\"a\""));
    }
}
