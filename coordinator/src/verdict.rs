//! Two nodes that do not agree: a third one computes the same, and whoever is alone is sent away.
//!
//! Who is sent away is not let in again until a person says so. If it was in the chain, its layers move as those of any node
//! that is lost, and every request is computed once more from where its rows are known to be good: the prompt, and of the
//! request that was checked also the tokens before the first row that differs.

use std::ops::Range;
use std::time::Duration;

use syn1_core::Reason;
use syn1_identity::Key;

use crate::audit::{Apart, Audit};
use crate::compare::{Distance, Row, Tolerance};
use crate::core::{Action, Core, NodeId};
use crate::limits::{CHECK_TIMEOUT, MAX_SERVED};
use crate::placement::Scales;
use crate::replay::Replay;
use crate::update::{Event, Evidence};

/// Two nodes that do not agree.
pub(crate) struct Dispute {
    pub(crate) layers: Range<usize>,
    /// The node of the chain, and the one that checked it.
    node: NodeId,
    checker: NodeId,
    request: u32,
    told: u32,
    position: u32,
    row: Row,
    reference: Row,
    distance: Distance,
    tolerance: Tolerance,
    /// The input, and how many rows came of it before.
    replay: Replay,
    rows: usize,
    /// The last position whose row was good.
    good: Option<u32>,
    /// The same input on its way through a third node.
    pub(crate) judge: Option<Replay>,
}

impl Dispute {
    fn evidence(&self, distance: Distance) -> Evidence {
        let Range { start, end } = self.layers;
        let Distance { error, allowed } = distance;
        Evidence { layers: (start, end), request: self.request, position: self.position, error, allowed }
    }
}

impl Core {
    /// Takes note that two nodes do not agree.
    pub(crate) fn dispute(&mut self, audit: Audit, apart: Apart) {
        let Apart { position, row, reference, distance } = apart;
        let Audit { request, told, node, layers, tolerance, replay, compared, good, .. } = audit;
        let checker = replay.node;
        let rows = compared;
        let dispute = Dispute {
            layers,
            node,
            checker,
            request,
            told,
            position,
            row,
            reference,
            distance,
            tolerance,
            replay,
            rows,
            good,
            judge: None,
        };
        self.audits.figures.disputes += 1;
        let (node, checker) = (self.name(node), self.name(checker));
        self.event(Event::Disputed { node, checker, evidence: dispute.evidence(distance) });
        self.audits.disputes.push(dispute);
    }

    /// Goes on with what two nodes do not agree about: asks a third one, and acts on what it says.
    pub(crate) fn judge(&mut self, now: Duration) {
        let disputes = std::mem::take(&mut self.audits.disputes);
        let (mut open, mut decided) = (Vec::new(), Vec::new());
        for mut dispute in disputes {
            let judge = dispute.judge.take();
            let here = |core: &Self, id: &NodeId| core.nodes.contains_key(id);
            if !here(self, &dispute.node) || !here(self, &dispute.checker) {
                if let Some(judge) = judge {
                    self.close_check(judge.node, judge.id);
                }
                continue;
            }
            let usable = |judge: &Replay| {
                self.can_replay(judge) && (judge.is_idle() || now.saturating_sub(judge.progressed) <= CHECK_TIMEOUT)
            };
            match judge {
                Some(judge) if !judge.rows.is_empty() => {
                    self.close_check(judge.node, judge.id);
                    decided.push((dispute, judge));
                    continue;
                }
                Some(mut judge) if usable(&judge) => {
                    self.send_replay(&mut judge, true);
                    dispute.judge = Some(judge);
                }
                Some(judge) => self.close_check(judge.node, judge.id),
                None => {}
            }
            open.push(dispute);
        }
        self.audits.disputes = open;
        for (dispute, judge) in decided {
            self.decide(now, &dispute, &judge);
        }
        self.find_judges(now);
    }

    /// Has third nodes compute what two do not agree about, and one load the layers for it where none has them.
    fn find_judges(&mut self, now: Duration) {
        for at in 0..self.audits.disputes.len() {
            let Some(dispute) = self.audits.disputes.get(at).filter(|dispute| dispute.judge.is_none()) else {
                continue;
            };
            let (node, checker, layers) = (dispute.node, dispute.checker, dispute.layers.clone());
            if let Some(third) = self.checker(node, &layers, &[checker]) {
                let id = self.next_request();
                let Some(dispute) = self.audits.disputes.get_mut(at) else { continue };
                let mut judge = dispute.replay.again(now, id, third, dispute.rows);
                self.send_replay(&mut judge, true);
                if let Some(dispute) = self.audits.disputes.get_mut(at) {
                    dispute.judge = Some(judge);
                }
            } else if let Some(spare) = self.spare_for(&layers, &[node, checker]) {
                self.generation = self.generation.wrapping_add(1);
                self.assign(now, (spare, layers));
            }
        }
    }

    /// A node beside the chain that has room for `layers` and loads other ones, or none; nothing where one loads them already.
    fn spare_for(&self, layers: &Range<usize>, but: &[NodeId]) -> Option<NodeId> {
        let widest = self.chain.as_ref().map_or(0, |chain| chain.widest);
        let scales = Scales::new(&self.demand(self.config.format));
        let (ids, offers) = self.able(widest);
        let fitting = ids.into_iter().zip(offers).filter(|(id, offer)| {
            !but.contains(id) && !self.is_in_chain(*id) && scales.bytes(layers.clone()) <= offer.memory_bytes
        });
        let fitting: Vec<NodeId> = fitting.map(|(id, _)| id).collect();
        let holds = |id: &NodeId| {
            let shard = self.nodes.get(id).and_then(|node| node.shard.as_ref());
            shard.is_some_and(|shard| shard.layers == *layers)
        };
        if fitting.iter().any(holds) { None } else { fitting.first().copied() }
    }

    /// A third node has computed the row that two do not agree about.
    fn decide(&mut self, now: Duration, dispute: &Dispute, judge: &Replay) {
        let Some((position, third)) = judge.rows.front().filter(|(position, _)| *position == dispute.position) else {
            return;
        };
        let (node, checker) =
            (dispute.tolerance.distance(&dispute.row, third), dispute.tolerance.distance(&dispute.reference, third));
        tracing::info!(position, ?node, ?checker, "a third node has computed what two do not agree about");
        match (node.agrees(), checker.agrees()) {
            (false, true) => self.convict(now, dispute, dispute.node, [dispute.checker, judge.node]),
            (true, false) => self.convict(now, dispute, dispute.checker, [dispute.node, judge.node]),
            // Three opinions, or two that lie apart just by what is allowed: nobody is alone.
            _ => {}
        }
    }

    /// Sends a node away that two others found alone.
    fn convict(&mut self, now: Duration, dispute: &Dispute, node: NodeId, against: [NodeId; 2]) {
        let evidence = dispute.evidence(dispute.distance);
        let Evidence { layers, request, position, error, allowed } = evidence;
        let why = format!(
            "it computed garbage: layers {}..{} of request {request} at position {position} lie {error:.3} from what {} and \
             {} computed, {allowed:.3} is possible; a person can release it",
            layers.0,
            layers.1,
            self.name(against[0]),
            self.name(against[1])
        );
        self.audits.figures.quarantined += 1;
        self.event(Event::Quarantined { node: self.name(node), against: against.map(|id| self.name(id)), evidence });
        self.actions.push_back(Action::Quarantine(node, self.name(node), evidence));
        if self.is_in_chain(node) {
            self.rewind(now, Some(dispute));
        } else if self.nodes.get(&node).is_some_and(|node| node.has_served) {
            // Its layers have moved since, but what came of its rows has not.
            self.rewind(now, None);
        }
        self.refuse(now, node, Reason::Refused, &why);
    }

    /// A node is gone that has had a part of the chain. If it comes back, texts that run still may have come of what it computed.
    pub(crate) fn keep_served(&mut self, key: Key) {
        let left = &mut self.audits.have_served;
        if self.requests.is_empty() && self.parking.len() == 0 {
            left.clear();
            return;
        }
        if left.len() == MAX_SERVED {
            left.pop_front();
        }
        if !left.contains(&key) {
            left.push_back(key);
        }
    }

    /// Every request forgets what may have come of a node's garbage: all, but for what `dispute` knows to be good.
    fn rewind(&mut self, now: Duration, dispute: Option<&Dispute>) {
        // Rows that came of it lie in KV caches that were kept.
        self.drop_parked();
        let stages = self.stages(&[]);
        let chunk = self.chain.as_ref().map_or(1, |chain| chain.chunk);
        let tokenizer = self.config.tokenizer.clone();
        let (mut failed, mut rewound) = (Vec::new(), 0);
        for (id, request) in self.requests.iter_mut().filter(|(_, request)| request.closing.is_none()) {
            if request.is_proof {
                continue;
            }
            // The row of a position makes the token behind it.
            let good = dispute.filter(|dispute| request.told == dispute.told).and_then(|dispute| dispute.good);
            let known = good.map_or(0, |good| good as usize + 2);
            let good = known.saturating_sub(request.figures.prompt_tokens);
            rewound += 1;
            failed.extend(request.again(now, good, chunk, &stages, tokenizer.as_ref()).err().map(|why| (*id, why)));
        }
        self.audits.figures.rewound += rewound;
        for (id, why) in failed {
            self.fail(now, id, why);
        }
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            self.account(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use syn1_core::{Codec, CodecSet, Flags, Form, Negotiated};
    use syn1_model::plan::WeightFormat;
    use syn1_model::spec::Spec;

    use super::*;
    use crate::access::Client;
    use crate::core::CoreConfig;
    use crate::placement::Policy;
    use crate::prefix::PrefixCache;
    use crate::request::Generate;
    use crate::sample::Sampling;
    use crate::wire::Wire;

    const NOW: Duration = Duration::from_secs(1);

    fn core() -> Core {
        Core::new(CoreConfig {
            name: "toy".into(),
            spec: Spec::gpt2_124m(),
            format: WeightFormat::F32,
            manifest_sha256: [0; 32],
            smaller: Vec::new(),
            http_port: 1,
            policy: Policy::Auto,
            wire: Wire::everywhere(Form::plain(Codec::F32)),
            max_positions: 64,
            slots: 2,
            chunk: 4,
            relay_bytes: 1 << 20,
            prefix_cache: PrefixCache::Off,
            tokenizer: None,
        })
    }

    /// A node joins that proves this key; whether it is known to have served.
    fn join(core: &mut Core, key: u8) -> (NodeId, bool) {
        let (flags, codecs) = (Flags::NEGOTIABLE, CodecSet::ACTIVATIONS);
        let carries = Negotiated { minor: 0, flags, codecs, max_payload: 1 << 20, max_rows: 64, credit: 4 };
        let id = core.connected(NOW, "n", &carries);
        core.proven(id, Key([key; 32]));
        (id, core.nodes[&id].has_served)
    }

    fn runs(core: &mut Core) {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let (max_tokens, stop) = (9, Vec::new());
        let ask = Generate { prompt: vec![1], max_tokens, sampling, stop, ignore_eos: true, speculate: 0 };
        let request = core.request(Client::Local, ask, false);
        core.requests.insert(request.id, request);
    }

    #[test]
    fn who_left_and_came_back_while_a_text_runs_is_known_to_have_served() {
        let mut core = core();
        runs(&mut core);
        let (node, has_served) = join(&mut core, 1);
        assert!(!has_served);
        if let Some(node) = core.nodes.get_mut(&node) {
            node.has_served = true;
        }
        core.gone(NOW, node, "it left");
        let (again, has_served) = join(&mut core, 1);
        assert!(has_served && !join(&mut core, 2).1);
        // No text is left that could have come of what it computed.
        core.requests.clear();
        core.gone(NOW, again, "it left");
        assert!(!join(&mut core, 1).1);
    }
}
