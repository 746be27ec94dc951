//! Where a token's time goes, hop by hop. Knows no clock: it is told when a frame was sent and when it was answered.
//!
//! A node answers its frames in order, so a frame that was sent while an earlier one was unanswered *waits* until that
//! one is answered; the rest until its own answer is *answering*: the way there, computing, and the way back. How much of
//! that was computing only the node knows, and it says so when a request ends: the share of its last ended request is
//! what later (and earlier) answers of it are divided by.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use syn1_core::Header;

use crate::core::NodeId;
use crate::limits::{MAX_PASSES, MAX_TIMED};

/// What passed over one node's link, and how long it takes to answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Data frames that it answered.
    pub frames: u64,
    /// Positions that it computed.
    pub positions: u64,
    /// Bytes of data frames sent to it, headers included.
    pub sent_bytes: u64,
    /// Bytes of data frames that came from it, headers included.
    pub received_bytes: u64,
    /// Data frames that it has not answered yet.
    pub in_flight: usize,
    /// Medians over the latest tokens; `None` before the first.
    pub token: Option<Spent>,
}

/// What one hop of a frame took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Microseconds behind earlier frames to the same node.
    pub wait_us: f64,
    /// Microseconds from there to the answer: the wire in both directions, and computing.
    pub answer_us: f64,
    /// How many of them were computing, by what the node reported for its last ended request; `None` before that.
    pub compute_us: Option<f64>,
}

/// One frame's way through the chain: a token, or a chunk of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pass {
    /// Counts passes since the start, from 1 on.
    pub number: u64,
    /// The request it belongs to.
    pub request: u32,
    /// Its first position.
    pub position: u32,
    /// Its positions: 1 for a token.
    pub rows: u16,
    /// Microseconds from being sent to the first node to the last one's answer.
    pub total_us: f64,
    /// Its hops in chain order.
    pub hops: Vec<PassHop>,
}

/// One hop of a [`Pass`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassHop {
    /// The node's name.
    pub node: String,
    /// Microseconds from the pass's start to sending this hop's frame.
    pub sent_us: f64,
    /// Bytes sent, header included.
    pub sent_bytes: u64,
    /// Bytes answered, header included.
    pub received_bytes: u64,
    /// What it took.
    #[serde(flatten)]
    pub spent: Spent,
}

/// Every node's traffic, and the latest passes.
#[derive(Default)]
pub(crate) struct Timings {
    nodes: BTreeMap<NodeId, Node>,
    /// Passes that have not reached the chain's end, by request and first position.
    running: BTreeMap<(u32, u32), Vec<Hop>>,
    latest: VecDeque<Ended>,
    count: u64,
}

#[derive(Default)]
struct Node {
    traffic: Traffic,
    unanswered: VecDeque<Sent>,
    last_answer: Duration,
    /// Time that answers to each request took, until the node reports what of it was computing.
    answering: BTreeMap<u32, Duration>,
    computing: Option<f64>,
}

struct Sent {
    request: u32,
    position: u32,
    rows: u16,
    at: Duration,
    bytes: u64,
    is_last: bool,
    /// The node had nothing else while it had this.
    alone: bool,
}

/// A frame that was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) request: u32,
    pub(crate) rows: u16,
    /// From its sending, or from the answer before it, to its own.
    pub(crate) took: Duration,
    /// Of it and its answer, headers included.
    pub(crate) bytes: u64,
    /// The node had nothing else in that time.
    pub(crate) alone: bool,
}

#[derive(Clone)]
struct Hop {
    node: NodeId,
    sent: Duration,
    began: Duration,
    answered: Duration,
    sent_bytes: u64,
    received_bytes: u64,
}

struct Ended {
    number: u64,
    request: u32,
    position: u32,
    rows: u16,
    hops: Vec<Hop>,
}

impl Timings {
    /// A data frame of `payload` bytes goes to `node`, the last of its chain or not.
    pub(crate) fn sent(&mut self, now: Duration, node: NodeId, is_last: bool, header: &Header, payload: usize) {
        let Header { request, position, rows, .. } = *header;
        let bytes = (Header::LEN + payload) as u64;
        let node = self.nodes.entry(node).or_default();
        node.traffic.sent_bytes += bytes;
        if node.unanswered.len() == MAX_TIMED {
            node.unanswered.pop_front();
        }
        let alone = node.unanswered.is_empty();
        // Who is not alone now was not alone before either: the frame in front is the only one that has to be told.
        if let Some(before) = node.unanswered.back_mut() {
            before.alone = false;
        }
        node.unanswered.push_back(Sent { request, position, rows, at: now, bytes, is_last, alone });
    }

    /// `node` sent a data frame of `payload` bytes. One that answers nothing that was sent is counted, not timed; else says what
    /// was answered.
    pub(crate) fn answered(&mut self, now: Duration, node: NodeId, header: &Header, payload: usize) -> Option<Answer> {
        let id = node;
        let node = self.nodes.get_mut(&id)?;
        let received_bytes = (Header::LEN + payload) as u64;
        node.traffic.received_bytes += received_bytes;
        // A frame with guesses may be answered in several: the first of them counts.
        let answers = |sent: &Sent| {
            let end = sent.position + u32::from(sent.rows);
            sent.request == header.request && (sent.position..=end).contains(&header.position)
        };
        let at = node.unanswered.iter().position(answers)?;
        let sent = node.unanswered.remove(at)?;
        let began = sent.at.max(node.last_answer);
        node.last_answer = now;
        node.traffic.frames += 1;
        node.traffic.positions += u64::from(sent.rows);
        *node.answering.entry(sent.request).or_default() += now.saturating_sub(began);
        if node.answering.len() > MAX_TIMED {
            node.answering.pop_first();
        }
        let (request, rows, took) = (sent.request, sent.rows, now.saturating_sub(began));
        let answer = Answer { request, rows, took, bytes: sent.bytes + received_bytes, alone: sent.alone };
        let hop = Hop { node: id, sent: sent.at, began, answered: now, sent_bytes: sent.bytes, received_bytes };
        let key = (sent.request, sent.position);
        let mut hops = self.running.remove(&key).unwrap_or_default();
        hops.push(hop);
        if !sent.is_last {
            if self.running.len() == MAX_TIMED {
                self.running.pop_first();
            }
            self.running.insert(key, hops);
            return Some(answer);
        }
        self.count += 1;
        if self.latest.len() == MAX_PASSES {
            self.latest.pop_front();
        }
        let Sent { request, position, rows, .. } = sent;
        self.latest.push_back(Ended { number: self.count, request, position, rows, hops });
        Some(answer)
    }

    /// `node` is done with `request`, for which it computed so long; whatever it has not answered of it, it will not.
    pub(crate) fn closed(&mut self, node: NodeId, request: u32, compute: Duration) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        node.unanswered.retain(|sent| sent.request != request);
        if let Some(answering) = node.answering.remove(&request).filter(|answering| !answering.is_zero()) {
            node.computing = Some((compute.as_secs_f64() / answering.as_secs_f64()).min(1.0));
        }
        self.running.retain(|(of, _), _| *of != request);
    }

    /// `node` is gone, and with it every pass that it took part in.
    pub(crate) fn gone(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        let without = |hops: &[Hop]| hops.iter().all(|hop| hop.node != node);
        self.running.retain(|_, hops| without(hops));
        self.latest.retain(|pass| without(&pass.hops));
    }

    /// What passed over `node`'s link; `None` if nothing did.
    pub(crate) fn traffic(&self, node: NodeId) -> Option<Traffic> {
        let of = self.nodes.get(&node)?;
        let token = self.token(node, of.computing);
        Some(Traffic { in_flight: of.unanswered.len(), token, ..of.traffic.clone() })
    }

    /// The passes after the one with this number, as far as they are still known, oldest first.
    pub(crate) fn passes_after(&self, number: u64, name: impl Fn(NodeId) -> String) -> Vec<Pass> {
        let later = self.latest.iter().filter(|pass| pass.number > number);
        later.map(|pass| self.pass(pass, &name)).collect()
    }

    /// Medians over the latest tokens that `node` took part in.
    fn token(&self, node: NodeId, computing: Option<f64>) -> Option<Spent> {
        let tokens = self.latest.iter().filter(|pass| pass.rows == 1);
        let spent = tokens.flat_map(|pass| &pass.hops).filter(|hop| hop.node == node);
        let (waits, answers): (Vec<_>, Vec<_>) = spent.map(|hop| (hop.waited(), hop.answering())).unzip();
        Some(Spent::new(median(waits)?, median(answers)?, computing))
    }

    fn pass(&self, ended: &Ended, name: &impl Fn(NodeId) -> String) -> Pass {
        let start = ended.hops.first().map_or(Duration::ZERO, |hop| hop.sent);
        let end = ended.hops.last().map_or(start, |hop| hop.answered);
        let hop = |hop: &Hop| PassHop {
            node: name(hop.node),
            sent_us: micros(hop.sent.saturating_sub(start)),
            sent_bytes: hop.sent_bytes,
            received_bytes: hop.received_bytes,
            spent: Spent::new(hop.waited(), hop.answering(), self.nodes.get(&hop.node).and_then(|node| node.computing)),
        };
        let Ended { number, request, position, rows, hops } = ended;
        Pass {
            number: *number,
            request: *request,
            position: *position,
            rows: *rows,
            total_us: micros(end.saturating_sub(start)),
            hops: hops.iter().map(hop).collect(),
        }
    }
}

impl Hop {
    fn waited(&self) -> Duration {
        self.began.saturating_sub(self.sent)
    }

    fn answering(&self) -> Duration {
        self.answered.saturating_sub(self.began)
    }
}

impl Spent {
    fn new(waited: Duration, answering: Duration, computing: Option<f64>) -> Self {
        let answer_us = micros(answering);
        Self { wait_us: micros(waited), answer_us, compute_us: computing.map(|share| share * answer_us) }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn token(request: u32, position: u32) -> Header {
        Header::tokens(request, 1, position, 1)
    }

    fn passes(timings: &Timings) -> Vec<Pass> {
        timings.passes_after(0, |node| node.0.to_string())
    }

    /// One token over both nodes, 100 us on the first and 300 on the second.
    fn pass(timings: &mut Timings, at: u64, position: u32) {
        let header = token(7, position);
        timings.sent(us(at), A, false, &header, 4);
        timings.answered(us(at + 100), A, &header, 16);
        timings.sent(us(at + 100), B, true, &header, 16);
        timings.answered(us(at + 400), B, &header, 8);
    }

    #[test]
    fn a_pass_ends_with_the_last_hop_and_holds_every_hop() {
        let mut timings = Timings::default();
        pass(&mut timings, 1000, 3);
        let [pass] = &passes(&timings)[..] else { panic!("one pass") };
        assert_eq!((pass.number, pass.request, pass.position, pass.rows, pass.total_us), (1, 7, 3, 1, 400.0));
        let hops: Vec<_> = pass.hops.iter().map(|hop| (hop.node.as_str(), hop.sent_us, hop.spent.answer_us)).collect();
        assert_eq!(hops, [("1", 0.0, 100.0), ("2", 100.0, 300.0)]);
        assert_eq!((pass.hops[1].sent_bytes, pass.hops[1].received_bytes), (24 + 16, 24 + 8));
        assert_eq!(timings.passes_after(1, |_| String::new()), []);
    }

    #[test]
    fn a_frame_behind_another_waits_until_that_one_is_answered() {
        let mut timings = Timings::default();
        let (first, second) = (token(1, 0), token(2, 0));
        timings.sent(us(0), A, true, &first, 4);
        timings.sent(us(10), A, true, &second, 4);
        assert_eq!(timings.traffic(A).unwrap().in_flight, 2);
        timings.answered(us(50), A, &first, 4);
        timings.answered(us(90), A, &second, 4);
        let spent: Vec<_> = passes(&timings).iter().map(|pass| pass.hops[0].spent).collect();
        assert_eq!((spent[0].wait_us, spent[0].answer_us), (0.0, 50.0));
        assert_eq!((spent[1].wait_us, spent[1].answer_us), (40.0, 40.0));
        assert_eq!(timings.traffic(A).unwrap().in_flight, 0);
    }

    #[test]
    fn a_frame_is_alone_if_the_node_has_no_other_from_its_sending_to_its_answer() {
        let mut timings = Timings::default();
        let send = |timings: &mut Timings, request| timings.sent(us(0), A, true, &token(request, 0), 4);
        let answer = |timings: &mut Timings, request| timings.answered(us(50), A, &token(request, 0), 4).unwrap().alone;
        send(&mut timings, 1);
        assert!(answer(&mut timings, 1));
        (2..=4).for_each(|request| send(&mut timings, request));
        assert_eq!([2, 3, 4].map(|request| answer(&mut timings, request)), [false; 3]);
        send(&mut timings, 5);
        let answered = timings.answered(us(70), A, &token(5, 0), 6).unwrap();
        assert_eq!(answered, Answer { request: 5, rows: 1, took: us(20), bytes: 28 + 30, alone: true });
        assert_eq!(timings.answered(us(80), A, &token(5, 0), 6), None, "it was answered before");
    }

    #[test]
    fn what_a_node_reports_as_computing_divides_its_answers() {
        let mut timings = Timings::default();
        pass(&mut timings, 0, 0);
        assert_eq!(timings.traffic(B).unwrap().token.unwrap().compute_us, None, "it has not said anything yet");
        timings.closed(B, 7, us(150));
        assert_eq!(timings.traffic(B).unwrap().token.unwrap().compute_us, Some(150.0));
        // More than the answers took cannot be: a clock of its own is not believed.
        pass(&mut timings, 1000, 1);
        timings.closed(B, 7, us(9999));
        assert_eq!(passes(&timings)[1].hops[1].spent.compute_us, Some(300.0));
    }

    #[test]
    fn medians_are_over_tokens_not_chunks() {
        let mut timings = Timings::default();
        let chunk = Header::tokens(7, 1, 0, 64);
        timings.sent(us(0), A, true, &chunk, 256);
        timings.answered(us(5000), A, &chunk, 8);
        assert_eq!(timings.traffic(A).unwrap().token, None);
        for (at, took) in [(6000, 10), (7000, 90), (8000, 20)] {
            timings.sent(us(at), A, true, &token(7, at as u32), 4);
            timings.answered(us(at + took), A, &token(7, at as u32), 8);
        }
        let traffic = timings.traffic(A).unwrap();
        assert_eq!((traffic.token.unwrap().answer_us, traffic.frames, traffic.positions), (20.0, 4, 67));
    }

    #[test]
    fn what_is_never_answered_is_forgotten() {
        let mut timings = Timings::default();
        for request in 0..3 * MAX_TIMED as u32 {
            timings.sent(us(1), A, false, &token(request, 0), 4);
        }
        assert_eq!(timings.traffic(A).unwrap().in_flight, MAX_TIMED);
        for request in 0..3 * MAX_TIMED as u32 {
            timings.answered(us(2), A, &token(request, 0), 4);
        }
        assert!(timings.running.len() <= MAX_TIMED && timings.nodes[&A].answering.len() <= MAX_TIMED);
        timings.sent(us(3), B, true, &token(5, 0), 4);
        timings.closed(B, 5, us(0));
        assert_eq!(timings.traffic(B).unwrap().in_flight, 0);
        for position in 0..2 * MAX_PASSES as u32 {
            pass(&mut timings, 10, position);
        }
        assert_eq!(passes(&timings).len(), MAX_PASSES);
        timings.gone(B);
        assert_eq!((passes(&timings), timings.traffic(B)), (vec![], None));
    }
}
