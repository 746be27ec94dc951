//! Spot checks: a node that holds the layers of another one in readiness computes what that one computed, and the rows are
//! compared.
//!
//! Each part of the chain that has such a node is checked all the time, by following one request at a time from its first
//! position on (or from where it stands, with what was kept for replays). A row cannot be checked without all before it, since
//! attention reads them; so every row of the request that is followed is, up to `CHECK_ROWS` in a frame. The node that is
//! checked is told nothing and does nothing for it, and no token waits for a check: what it costs is time of nodes that have
//! nothing else to do, and a copy of what was relayed.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use syn1_core::control::Control;
use syn1_core::{Flags, Form, Header, Inbound};
use syn1_identity::Key;

use crate::compare::{Distance, Row, Tolerance, rows};
use crate::core::{Action, Core, NodeId};
use crate::inbox::Relayed;
use crate::limits::{CHECK_BYTES, CHECK_LOOK, CHECK_ROWS, CHECK_TIMEOUT};
use crate::replay::Replay;
use crate::request::Request;
use crate::verdict::Dispute;

/// Figures of spot checks, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checks {
    /// Rows that two nodes computed and that were compared.
    pub rows: u64,
    /// Requests that were followed at some hop.
    pub followed: u64,
    /// How far the farthest rows that agree lay apart, in parts of what is allowed.
    pub worst: f32,
    /// Times that two nodes did not agree.
    pub disputes: u64,
    /// Nodes that were sent away for what they computed.
    pub quarantined: u64,
    /// Requests that were computed once more because of them.
    pub rewound: u64,
    /// What the checking nodes computed, as they report it.
    pub compute: Duration,
}

/// All checks that go on.
#[derive(Default)]
pub(crate) struct Audits {
    pub(crate) running: Vec<Audit>,
    pub(crate) disputes: Vec<Dispute>,
    /// Checks that are over, whose nodes have not said so.
    closing: BTreeSet<(NodeId, u32)>,
    /// When it is worth while to look for nodes that can check.
    look_at: Duration,
    /// Keys of nodes that left after they had a part: texts that run may have come of what they computed.
    pub(crate) have_served: VecDeque<Key>,
    pub(crate) figures: Checks,
}

/// A request that is followed at a hop.
pub(crate) struct Audit {
    /// Its number on the nodes, and the one that it alone has: the nodes' goes on to the request that takes over its KV cache.
    pub(crate) request: u32,
    pub(crate) told: u32,
    /// The node that is checked, its layers, and the epoch of its hop, once that is known.
    pub(crate) node: NodeId,
    pub(crate) layers: Range<usize>,
    epoch: Option<u8>,
    pub(crate) tolerance: Tolerance,
    /// By which node, and what that makes of it.
    pub(crate) replay: Replay,
    inbound: Inbound<Vec<f32>>,
    /// What the node that is checked answered, oldest first.
    theirs: VecDeque<(u32, Row)>,
    theirs_bytes: usize,
    /// Rows that agreed, and where the last of them stands, if every row before it was compared.
    pub(crate) compared: usize,
    is_whole: bool,
    pub(crate) good: Option<u32>,
    /// It cannot go on.
    broken: bool,
}

/// Two rows that do not agree.
pub(crate) struct Apart {
    pub(crate) position: u32,
    pub(crate) row: Row,
    pub(crate) reference: Row,
    pub(crate) distance: Distance,
}

impl Audits {
    /// A frame goes to a node of the chain.
    pub(crate) fn sent(&mut self, request: u32, node: NodeId, header: &Header, payload: &[u8]) {
        for audit in self.running.iter_mut().filter(|audit| (audit.request, audit.node) == (request, node)) {
            audit.broken |= *audit.epoch.get_or_insert(header.epoch) != header.epoch;
            audit.replay.push(Relayed { number: 0, header: *header, payload: payload.to_vec() });
        }
    }

    /// A frame came from a node of the chain.
    fn answered(&mut self, from: NodeId, vocab: usize, header: &Header, payload: &[u8]) {
        let is_it = |audit: &&mut Audit| (audit.request, audit.node) == (header.request, from);
        let Some(audit) = self.running.iter_mut().find(is_it).filter(|audit| audit.epoch == Some(header.epoch)) else {
            return;
        };
        match rows(&mut audit.inbound, vocab, header, payload) {
            Ok(rows) => {
                audit.theirs_bytes += rows.iter().map(|(_, row)| row.bytes()).sum::<usize>();
                audit.theirs.extend(rows);
            }
            // What is wrong with an answer is found where it is relayed.
            Err(_) => audit.broken = true,
        }
    }
}

impl Audit {
    /// Compares what has come from both; gives the first rows that do not agree.
    fn compare(&mut self, figures: &mut Checks) -> Option<Apart> {
        while let (Some((position, row)), Some((at, reference))) = (self.theirs.front(), self.replay.rows.front()) {
            if position != at {
                self.broken = true;
                return None;
            }
            let distance = self.tolerance.distance(row, reference);
            let position = *position;
            let (Some((_, row)), Some((_, reference))) = (self.theirs.pop_front(), self.replay.rows.pop_front()) else {
                return None;
            };
            self.theirs_bytes -= row.bytes();
            figures.rows += 1;
            if !distance.agrees() {
                return Some(Apart { position, row, reference, distance });
            }
            figures.worst = figures.worst.max(distance.ratio());
            self.compared += 1;
            self.good = self.is_whole.then_some(position);
        }
        None
    }
}

impl Core {
    /// What came of spot checks.
    pub fn checks(&self) -> Checks {
        self.audits.figures
    }

    /// Follows a request at each hop that is not checked now and has a node that can. Called before frames go out.
    pub(crate) fn follow_from_here(&mut self, now: Duration, id: u32) {
        let (Some(chain), Some(request)) = (&self.chain, self.requests.get(&id)) else { return };
        if now < self.audits.look_at || request.is_proof || request.closing.is_some() || !chain.is_loaded() {
            return;
        }
        let most = CHECK_ROWS.min(u16::try_from(chain.widest).unwrap_or(CHECK_ROWS));
        let (mut begun, mut look_at) = (Vec::new(), self.audits.look_at);
        for (hop, (node, layers)) in chain.parts.iter().enumerate() {
            let busy = self.audits.running.iter().any(|audit| audit.layers == *layers)
                || self.audits.disputes.iter().any(|dispute| dispute.layers == *layers);
            if busy {
                continue;
            }
            let Some((form, merges, inputs)) = request.route.history(hop) else { continue };
            let Some(checker) = self.checker(*node, layers, &[]) else {
                look_at = now + CHECK_LOOK;
                continue;
            };
            let is_last = hop + 1 == chain.parts.len();
            // Guesses go back, and a delta begins somewhere: such a request is followed from its beginning or not at all.
            let winding = request.ask.speculate > 0 || form.flags().contains(Flags::DELTA);
            if winding && !inputs.is_empty() {
                continue;
            }
            begun.push((*node, layers.clone(), is_last.then_some(request.wanted_from), checker, form, merges, inputs));
        }
        self.audits.look_at = look_at;
        let told = request.told;
        for (node, layers, wanted_from, checker, form, merges, inputs) in begun {
            let (width, vocab) = (self.config.spec.width, self.config.spec.vocab);
            let number = self.next_request();
            let merges = merges.then_some(most);
            let mut replay = Replay::new(now, number, checker, inputs, merges, wanted_from, vocab);
            let is_whole = !replay.has_inputs();
            replay.skip_inputs();
            self.audits.figures.followed += 1;
            let delta = if form.flags().contains(Flags::DELTA) { width } else { 0 };
            self.audits.running.push(Audit {
                request: id,
                told,
                node,
                layers,
                epoch: None,
                tolerance: Tolerance::new(self.config.format, form),
                replay,
                inbound: Inbound::new(vec![0.0; delta]),
                theirs: VecDeque::new(),
                theirs_bytes: 0,
                compared: 0,
                is_whole,
                good: None,
                broken: false,
            });
        }
    }

    /// A node beside the chain that has `layers`, can compute what `node` computed, and has no check to do; and the assignment
    /// that it has them by.
    pub(crate) fn checker(&self, node: NodeId, layers: &Range<usize>, but: &[NodeId]) -> Option<(NodeId, u32)> {
        let widest = self.chain.as_ref().map_or(0, |chain| chain.widest);
        let replays = || {
            let judges = self.audits.disputes.iter().filter_map(|dispute| dispute.judge.as_ref());
            self.audits.running.iter().map(|audit| &audit.replay).chain(judges)
        };
        self.nodes.iter().find_map(|(id, other)| {
            let shard = other.shard.as_ref().filter(|shard| shard.loaded().as_ref() == Some(layers))?;
            let can = other.unable.is_none() && !other.owes_profile && other.max_rows >= widest;
            let free = *id != node && !but.contains(id) && !self.is_in_chain(*id);
            (can && free && replays().all(|replay| replay.node != *id)).then_some((*id, shard.generation))
        })
    }

    /// A data frame has come. True if it was for a check alone.
    pub(crate) fn audited(&mut self, now: Duration, from: NodeId, header: &Header, payload: &[u8]) -> bool {
        let vocab = self.config.spec.vocab;
        let Some(replay) = self.replay(from, header.request) else {
            self.audits.answered(from, vocab, header, payload);
            return false;
        };
        match replay.answered(now, header, payload) {
            Ok(()) => self.go_on_checking(now),
            Err(why) => self.refuse(now, from, syn1_core::Reason::Protocol, &why),
        }
        true
    }

    /// The check that a node knows as this request.
    fn replay(&mut self, from: NodeId, id: u32) -> Option<&mut Replay> {
        let Audits { running, disputes, .. } = &mut self.audits;
        let judges = disputes.iter_mut().filter_map(|dispute| dispute.judge.as_mut());
        let mut replays = running.iter_mut().map(|audit| &mut audit.replay).chain(judges);
        replays.find(|replay| (replay.node, replay.id) == (from, id))
    }

    /// A node could not go on with a check. True if it was one.
    pub(crate) fn check_failed(&mut self, from: NodeId, id: u32) -> bool {
        if self.replay(from, id).is_none() {
            return false;
        }
        self.audits.running.retain(|audit| audit.replay.id != id);
        for dispute in &mut self.audits.disputes {
            dispute.judge.take_if(|judge| judge.id == id);
        }
        self.close_check(from, id);
        true
    }

    /// Ends a check at its node.
    pub(crate) fn close_check(&mut self, node: NodeId, id: u32) {
        if self.nodes.contains_key(&node) {
            self.audits.closing.insert((node, id));
            self.send_close(node, id);
        }
    }

    /// A node has closed a request. True if it was a check.
    pub(crate) fn check_closed(&mut self, from: NodeId, id: u32, compute: Duration) -> bool {
        let closed = self.audits.closing.remove(&(from, id));
        if closed {
            // The node's word, which may be anything.
            self.audits.figures.compute = self.audits.figures.compute.saturating_add(compute);
        }
        closed
    }

    /// A node is gone, and with it whatever it was to check.
    pub(crate) fn check_gone(&mut self, node: NodeId) {
        self.audits.closing.retain(|(id, _)| *id != node);
    }

    /// Goes on with every check: sends what is due, compares what has come, and ends what is over.
    pub(crate) fn go_on_checking(&mut self, now: Duration) {
        if self.audits.running.is_empty() && self.audits.disputes.is_empty() {
            return;
        }
        let running = std::mem::take(&mut self.audits.running);
        let (mut going, mut apart, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for mut audit in running {
            let runs = |request: &Request| request.told == audit.told && request.closing.is_none();
            let ended = !self.requests.get(&audit.request).is_some_and(runs);
            let known = (audit.replay.node, audit.replay.id);
            if audit.broken || !self.can_go_on(&audit) || audit.replay.bytes() + audit.theirs_bytes > CHECK_BYTES {
                over.push(known);
                continue;
            }
            if let Some(found) = audit.compare(&mut self.audits.figures) {
                over.push(known);
                apart.push((audit, found));
                continue;
            }
            self.send_replay(&mut audit.replay, ended);
            let waits = !audit.replay.is_idle() && now.saturating_sub(audit.replay.progressed) > CHECK_TIMEOUT;
            if waits || (ended && audit.replay.is_done()) {
                over.push(known);
            } else {
                going.push(audit);
            }
        }
        self.audits.running = going;
        for (node, id) in over {
            self.close_check(node, id);
        }
        for (audit, found) in apart {
            self.dispute(audit, found);
        }
        self.judge(now);
    }

    /// The nodes that have a part of the chain now end what they check: they need the KV caches for its requests.
    pub(crate) fn free_checkers(&mut self) {
        let mut over = Vec::new();
        let running = std::mem::take(&mut self.audits.running);
        for audit in running {
            if self.is_in_chain(audit.replay.node) {
                over.push((audit.replay.node, audit.replay.id));
            } else {
                self.audits.running.push(audit);
            }
        }
        for at in 0..self.audits.disputes.len() {
            let chain = self.chain_nodes();
            let judge = self.audits.disputes.get_mut(at).map(|dispute| &mut dispute.judge);
            over.extend(
                judge.and_then(|judge| judge.take_if(|judge| chain.contains(&judge.node))).map(|j| (j.node, j.id)),
            );
        }
        for (node, id) in over {
            self.close_check(node, id);
        }
    }

    /// Whether both nodes still hold what they held.
    fn can_go_on(&self, audit: &Audit) -> bool {
        let parts = self.chain.as_ref().map_or(&[][..], |chain| &chain.parts);
        let here = parts.iter().any(|part| *part == (audit.node, audit.layers.clone()));
        here && self.can_replay(&audit.replay)
    }

    /// Whether a node that computes again what another one did still can.
    pub(crate) fn can_replay(&self, replay: &Replay) -> bool {
        self.is_assigned(replay.node, replay.generation) && !self.is_in_chain(replay.node)
    }

    pub(crate) fn send_replay(&mut self, replay: &mut Replay, last: bool) {
        while let Some((header, payload)) = replay.due(last) {
            if let Some(open) = replay.open() {
                self.send(replay.node, &Control::Open(open));
            }
            self.actions.push_back(Action::Send(replay.node, header, payload));
        }
    }
}

/// How a hop's rows travel on, whether rows of several frames may be put together, and all that entered it.
pub(crate) type History = (Form, bool, Vec<Relayed>);
