//! Requests on their way through the chain: started when there is room, followed from answer to answer, ended once.

use std::collections::BTreeSet;
use std::time::Duration;

use syn1_core::{Control, Flags, Header};

use crate::access::Client;
use crate::core::{Action, Core, CoreConfig, NodeId};
use crate::request::{self, Closing, Generate, Next, Request};
use crate::route::Due;
use crate::text;
use crate::update::{Finish, Finished, Update};

impl Core {
    pub(crate) fn request(&mut self, client: Client, ask: Generate, is_proof: bool) -> Request {
        let id = self.next_request();
        let CoreConfig { spec, max_positions, tokenizer, .. } = &self.config;
        let eos = text::ends(&spec.eos, tokenizer.as_ref());
        let model = request::Model { vocab: spec.vocab, eos, max_positions: *max_positions };
        Request::new(id, client, ask, is_proof, model, tokenizer.as_ref())
    }

    pub(crate) fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1).max(1);
        self.last_request
    }

    pub(crate) fn start_waiting(&mut self, now: Duration) {
        let has_room =
            |core: &Self| core.chain.as_ref().is_some_and(|chain| chain.ready && core.requests.len() < chain.slots);
        while !self.holds() && has_room(self) {
            let running = |client: &Client| self.requests.values().filter(|request| request.client == *client).count();
            let Some(mut request) = self.waiting.pop(running) else { return };
            self.unpark(&mut request);
            self.start(now, request);
        }
    }

    pub(crate) fn start(&mut self, now: Duration, mut request: Request) {
        let id = request.id;
        if !self.chain_has(Flags::PREDICTED) {
            // The text is the same without.
            if request.ask.speculate > 0 {
                tracing::warn!(
                    "request {id} guesses nothing ahead: a node of the chain does not take predicted frames"
                );
            }
            request.ask.speculate = 0;
        }
        let stages = self.stages(&[]);
        let chunk = self.chain.as_ref().map_or(1, |chain| chain.chunk);
        request.begin(now, chunk, &stages);
        self.requests.insert(id, request);
        self.pump(now, id);
    }

    /// Sends what is due at each hop whose node has its shard, where the request is opened if it is not.
    pub(crate) fn pump(&mut self, now: Duration, id: u32) {
        self.follow_from_here(now, id);
        let restraint = self.requests.get(&id).and_then(|request| self.restraint(request));
        let (rows, mut free) = restraint.map_or((usize::MAX, None), |restraint| (restraint.rows, Some(restraint.free)));
        let Some(chain) = &self.chain else { return };
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.closing.is_none()) else { return };
        let (mut opens, mut frames) = (Vec::new(), Vec::new());
        let last = chain.parts.len().saturating_sub(1);
        for (hop, (node, _)) in chain.parts.iter().enumerate().filter(|(_, part)| chain.loaded.contains(&part.0)) {
            opens.extend(request.open(hop).map(|open| (*node, open)));
            loop {
                let may_prompt = free.as_ref().is_none_or(|free| free[hop]);
                if hop == 0 && may_prompt {
                    request.next_chunk(rows);
                }
                let Some(Due { header, payload, of_prompt }) = request.route.due(now, hop, may_prompt) else { break };
                if let Some(free) = free.as_mut().filter(|_| of_prompt) {
                    free[hop] = false;
                }
                request.figures.frames += 1;
                request.figures.bytes += (Header::LEN + payload.len()) as u64;
                frames.push((hop, *node, header, payload));
            }
        }
        for (node, open) in opens {
            self.send(node, &Control::Open(open));
        }
        for (hop, node, header, payload) in frames {
            self.timings.sent(now, node, hop == last, &header, payload.len());
            self.audits.sent(id, node, &header, &payload);
            self.actions.push_back(Action::Send(node, header, payload));
        }
        self.account(id);
    }

    pub(crate) fn follow(&mut self, now: Duration, id: u32, next: Next) {
        match next {
            Next::Relayed => self.pump(now, id),
            Next::Tokens(updates) => {
                self.pump(now, id);
                self.tokens(now, id, updates);
            }
            Next::Finish(updates, text, reason) => {
                self.stamp(now, id);
                self.tokens(now, id, updates);
                self.finish(now, id, text, reason);
            }
        }
    }

    /// Hands on tokens, which may be none: outputs of a guess that was wrong.
    pub(crate) fn tokens(&mut self, now: Duration, id: u32, updates: Vec<Update>) {
        let repeats = self.requests.get(&id).is_some_and(Request::repeats);
        if updates.is_empty() && !repeats {
            return;
        }
        self.stamp(now, id);
        match self.requests.get(&id).map(|request| (request.told, request.is_proof)) {
            Some((_, true)) => self.proved(now, id),
            Some((told, false)) => {
                self.actions.extend(updates.into_iter().map(|update| Action::Update(told, update)));
                self.passed(now, None);
            }
            None => {}
        }
    }

    pub(crate) fn stamp(&mut self, now: Duration, id: u32) {
        if let Some(request) = self.requests.get_mut(&id) {
            let figures = &mut request.figures;
            figures.total = now - request.started;
            if figures.first_token.is_zero() {
                figures.first_token = figures.total;
            }
            figures.decode = figures.total - figures.first_token;
        }
    }

    /// The request has its last token. Where its KV caches are not kept, its figures are complete when every node has closed
    /// it.
    pub(crate) fn finish(&mut self, now: Duration, id: u32, text: String, reason: Finish) {
        if self.is_parkable(id) {
            return self.park(now, id, text, reason);
        }
        if !self.requests.contains_key(&id) {
            // A proof that somebody did not want to wait for.
            return;
        }
        let here = |node: &NodeId| self.nodes.contains_key(node);
        let nodes: BTreeSet<NodeId> = self.chain_nodes().into_iter().filter(here).collect();
        if let Some(request) = self.requests.get_mut(&id) {
            request.closing = Some(Closing { nodes, text, reason });
            request.route.forget();
        }
        self.account(id);
        self.close(id);
    }

    pub(crate) fn close(&mut self, request: u32) {
        for node in self.chain_nodes() {
            self.send_close(node, request);
        }
    }

    pub(crate) fn send_close(&mut self, node: NodeId, request: u32) {
        if self.nodes.contains_key(&node) {
            self.send(node, &Control::Close { request });
        }
    }

    /// Takes a request out, with what was kept for it.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.recovery.kept_bytes -= request.counted;
        Some(request)
    }

    pub(crate) fn closed(&mut self, now: Duration, from: NodeId, id: u32, compute: Duration) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(closing) = &mut request.closing else { return };
        if !closing.nodes.remove(&from) {
            return;
        }
        let all = request.figures.compute.get_or_insert_default();
        *all = all.saturating_add(compute);
        if closing.nodes.is_empty() {
            self.end(now, id);
        }
    }

    /// The last of a request that has finished.
    pub(crate) fn end(&mut self, now: Duration, id: u32) {
        let Some(request) = self.remove(id) else { return };
        self.turnover.ended(now.saturating_sub(request.started));
        if request.is_proof {
            self.passed(now, Some(request.figures.total));
        } else {
            self.finished(request);
        }
        self.start_waiting(now);
        self.go_on(now);
    }

    pub(crate) fn finished(&mut self, request: Request) {
        if let Some(Closing { text, reason, .. }) = request.closing {
            let finished = Finished { text, reason, figures: request.figures };
            self.actions.push_back(Action::Update(request.told, Update::Finished(finished)));
        }
    }

    pub(crate) fn fail(&mut self, now: Duration, id: u32, why: String) {
        let Some(request) = self.remove(id) else { return };
        self.close(id);
        if request.is_proof {
            self.break_chain(now, &format!("the first token did not pass through the chain: {why}"));
        } else if request.closing.is_some() {
            self.finished(request);
        } else {
            self.actions.push_back(Action::Update(request.told, Update::Failed(why)));
        }
        self.start_waiting(now);
        self.go_on(now);
    }

    /// Whether this is the epoch in which a node has the request open.
    pub(crate) fn is_current(&self, from: NodeId, id: u32, epoch: u8) -> bool {
        let Some(chain) = &self.chain else { return false };
        let hop = chain.parts.iter().position(|part| part.0 == from);
        let request = self.requests.get(&id);
        hop.zip(request).is_some_and(|(hop, request)| request.route.is_current(hop, epoch))
    }
}
