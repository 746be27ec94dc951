//! One request on its way through the chain: prefill in chunks, then a token at a time. Knows no socket and no clock.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use syn1_core::control::{Open, Output};
use syn1_core::output::{TopRow, full_decode, top_decode};
use syn1_core::{Codec, Header, Kind};
use syn1_model::tokenizer::Tokenizer;

use crate::access::Client;
use crate::core::NodeId;
use crate::draft::Draft;
use crate::logprobs::Likely;
use crate::prefix::Parked;
use crate::route::{Cargo, Route, Stage};
use crate::sample::{Candidate, Need, Sampler, Sampling};
use crate::text::{self, Text};
use crate::update::{Figures, Finish, Update};

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Whether the model's own end-of-text is treated like any other token.
    pub ignore_eos: bool,
    /// Tokens that may be guessed ahead and computed with the next one; 0 for none. The text does not depend on it, only
    /// the number of passes through the chain does; except in delta forms, whose rounding depends on what was sent before.
    pub speculate: usize,
}

/// A request in flight.
pub(crate) struct Request {
    /// Its number on the nodes: its own, or that of the one whose KV caches it has taken over.
    pub(crate) id: u32,
    /// Its number for whoever asked.
    pub(crate) told: u32,
    /// Who asks.
    pub(crate) client: Client,
    pub(crate) ask: Generate,
    /// A proof of the chain: nobody is told of its tokens.
    pub(crate) is_proof: bool,
    pub(crate) figures: Figures,
    pub(crate) started: Duration,
    pub(crate) progressed: Duration,
    /// Nodes whose `Closed` is awaited; the request is over, its figures are not complete.
    pub(crate) closing: Option<Closing>,
    sampler: Sampler,
    text: Text,
    draft: Draft,
    model: Model,
    /// Rows of a prefill chunk.
    chunk: usize,
    fed: usize,
    /// Positions whose rows every node has.
    computed: usize,
    pub(crate) route: Route,
    /// Rows at this position and behind give outputs, as the last hop was told.
    pub(crate) wanted_from: u32,
    /// Tokens that were told and came of what a node made up; and what would have been told since.
    doubted: VecDeque<u32>,
    untold: Vec<Update>,
    /// What the coordinator counts as kept for it.
    pub(crate) counted: usize,
    /// It was computed once more since its last token, because a node could not go on with it.
    pub(crate) restarted: bool,
}

/// A finished request that waits for the nodes' last figures.
pub(crate) struct Closing {
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) text: String,
    pub(crate) reason: Finish,
}

/// What a request has to know of the model.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) vocab: usize,
    pub(crate) eos: Vec<u32>,
    pub(crate) max_positions: usize,
}

/// What follows from a node's answer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing but frames that are due at some hop.
    Relayed,
    /// Tokens; the last of them is on its way to the first hop.
    Tokens(Vec<Update>),
    /// The last tokens, if there are any to show; then the end.
    Finish(Vec<Update>, String, Finish),
}

impl Request {
    pub(crate) fn new(
        id: u32,
        client: Client,
        ask: Generate,
        is_proof: bool,
        model: Model,
        tokenizer: Option<&Tokenizer>,
    ) -> Self {
        let figures = Figures { prompt_tokens: ask.prompt.len(), ..Figures::default() };
        Self {
            sampler: Sampler::new(ask.sampling.clone(), &ask.prompt),
            text: Text::new(&ask, &model.eos, model.max_positions, tokenizer),
            draft: Draft::new(&ask.prompt),
            is_proof,
            figures,
            started: Duration::ZERO,
            progressed: Duration::ZERO,
            closing: None,
            wanted_from: ask.prompt.len().saturating_sub(1) as u32,
            model,
            chunk: 1,
            fed: 0,
            route: Route::new(),
            doubted: VecDeque::new(),
            untold: Vec::new(),
            counted: 0,
            restarted: false,
            computed: 0,
            id,
            told: id,
            client,
            ask,
        }
    }

    /// The message that opens the request on the node of a hop; nothing where it is open there.
    pub(crate) fn open(&mut self, hop: usize) -> Option<Open> {
        let (epoch, form) = self.route.open(hop)?;
        let output = match self.ask.sampling.need() {
            Need::Top(k) => Output::Top(top(k, self.model.vocab)),
            Need::Full => Output::Full,
        };
        let (codec, flags) = (form.codec() as u8, form.flags().bits());
        Some(Open { request: self.id, epoch, codec, flags, output, wanted_from: self.wanted_from })
    }

    /// Starts the clock and lays the route, for a prompt in chunks of at most `chunk` rows.
    pub(crate) fn begin(&mut self, now: Duration, chunk: usize, stages: &[Stage]) {
        self.figures.waited = now.saturating_sub(self.started);
        (self.started, self.progressed, self.chunk) = (now, now, chunk);
        self.route.lay(stages);
        // What a new holder of the layers would have to be fed.
        let known = &self.ask.prompt[..self.fed];
        let known = known.chunks(chunk.max(1)).zip((0..).step_by(chunk.max(1)));
        let frames = known.map(|(ids, position)| tokens_frame(self.id, position, ids)).collect();
        self.route.pass(frames);
    }

    /// Takes over the KV caches of an earlier request, which have the first `rows` rows of its prompt.
    pub(crate) fn resume(&mut self, parked: &Parked, rows: usize) {
        (self.id, self.fed, self.figures.cached) = (parked.id, rows, rows);
        self.route = Route::behind(parked.epoch);
    }

    /// The tokens whose rows every node has.
    pub(crate) fn computed(&self) -> &[u32] {
        self.draft.context(self.computed)
    }

    /// Goes on through other nodes, see [`Route::reroute`]; `anew` forgets that any of them has anything of it. Tokens that
    /// were chosen stay chosen.
    pub(crate) fn reroute(&mut self, now: Duration, chunk: usize, stages: &[Stage], anew: bool) {
        self.chunk = chunk;
        let most = u16::try_from(chunk).unwrap_or(u16::MAX);
        let opens = if anew { self.route.restart(stages, most) } else { self.route.reroute(stages, most) };
        if opens {
            // Those before were given.
            self.wanted_from = self.draft.len().saturating_sub(1) as u32;
        }
        self.progressed = now;
    }

    /// Computes everything once more, since a node made something up; only the prompt and the first `good` tokens are known not
    /// to come of that. What was told behind these is told once more only if it turns out to have been wrong.
    ///
    /// # Errors
    /// What the tokenizer says of a token that it knew before.
    pub(crate) fn again(
        &mut self,
        now: Duration,
        good: usize,
        chunk: usize,
        stages: &[Stage],
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), String> {
        // What is told with a token can only be told once more by computing it.
        let good = if self.ask.sampling.logprobs.is_some() { 0 } else { good };
        let prompt = self.figures.prompt_tokens;
        // Those chosen since, all of which were told if any is doubted still, and those that would follow.
        let mut known: VecDeque<u32> = self.draft.behind(prompt).to_vec().into();
        known.append(&mut self.doubted);
        self.ask.prompt.truncate(prompt);
        self.sampler = Sampler::new(self.ask.sampling.clone(), &self.ask.prompt);
        self.text = Text::new(&self.ask, &self.model.eos, self.model.max_positions, tokenizer);
        self.draft = Draft::new(&self.ask.prompt);
        self.untold.clear();
        for (id, position) in known.iter().copied().take(good).zip(prompt..) {
            self.sampler.recall(id);
            if let text::Next::More(update) = self.text.push(id, position)? {
                self.untold.push(update);
            }
            self.draft.push(id);
            self.ask.prompt.push(id);
        }
        self.doubted = known.split_off(good.min(known.len()));
        if self.doubted.is_empty() {
            self.untold.clear();
        }
        self.figures.tokens = self.text.tokens();
        self.wanted_from = self.ask.prompt.len().saturating_sub(1) as u32;
        (self.fed, self.computed, self.figures.cached) = (0, 0, 0);
        (self.chunk, self.restarted, self.progressed) = (chunk, false, now);
        self.route.anew(stages);
        Ok(())
    }

    /// Whether it comes once more to what it came to before.
    pub(crate) fn repeats(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// What is to be told: nothing of what was told before, and everything from the beginning on once something else comes.
    fn news(&mut self, updates: Vec<Update>, is_end: bool) -> Vec<Update> {
        if self.doubted.is_empty() {
            return updates;
        }
        let mut news = Vec::new();
        for update in updates {
            let same = matches!(&update, Update::Token { id, .. } if self.doubted.front() == Some(id));
            match self.doubted.pop_front() {
                Some(_) if same => self.untold.push(update),
                Some(_) => {
                    self.doubted.clear();
                    news.push(Update::Again);
                    news.append(&mut self.untold);
                    news.push(update);
                }
                None => news.push(update),
            }
        }
        if is_end && !self.doubted.is_empty() {
            self.doubted.clear();
            news.push(Update::Again);
            news.append(&mut self.untold);
        }
        if self.doubted.is_empty() {
            self.untold.clear();
        }
        news
    }

    /// Lets the prompt's next chunk enter, of at most `most` rows, unless all of it has, or the first hop has enough, or every
    /// hop has work and one more frame waits: a slow node is not to be buried in what a fast one computes.
    pub(crate) fn next_chunk(&mut self, most: usize) {
        let end = self.ask.prompt.len().min(self.fed + self.chunk.min(most));
        let ids = &self.ask.prompt[self.fed..end];
        // On a chain of several nodes the first has its next chunk when it answers one.
        let ahead = self.route.hops().min(2);
        if ids.is_empty() || self.route.at_first() >= ahead || self.route.in_flight() > self.route.hops() {
            return;
        }
        let (header, payload) = tokens_frame(self.id, self.fed, ids);
        self.route.enter(header, payload, Cargo::Prompt);
        self.fed = end;
    }

    /// Whether rows of its prompt are still to be computed at some hop.
    pub(crate) fn has_prompt(&self) -> bool {
        self.closing.is_none() && self.figures.tokens == 0
    }

    /// Whether somebody waits for its next token.
    pub(crate) fn gets_tokens(&self) -> bool {
        self.closing.is_none() && self.figures.tokens > 0
    }

    /// Takes the answer of the node at `hop`.
    ///
    /// # Errors
    /// What is wrong with the answer: the node is broken or hostile.
    pub(crate) fn answer(&mut self, hop: usize, header: &Header, payload: &[u8]) -> Result<Next, String> {
        let Some(at) = self.route.answered(hop, header)? else { return Ok(Next::Relayed) };
        if hop + 1 == self.route.hops() {
            return self.output(at, header, payload);
        }
        self.route.relay(at, header, payload)?;
        Ok(Next::Relayed)
    }

    /// A node is gone whose last figures may have been waited for; gives the request's number if they were the last.
    pub(crate) fn misses(&mut self, node: NodeId) -> Option<u32> {
        let nodes = &mut self.closing.as_mut()?.nodes;
        (nodes.remove(&node) && nodes.is_empty()).then_some(self.id)
    }

    fn output(&mut self, at: usize, header: &Header, payload: &[u8]) -> Result<Next, String> {
        let flight = self.route.flight(at);
        let (position, rows, answered, replay) = (flight.position, flight.rows, flight.answered, flight.replay);
        let end = position + u32::from(rows);
        if header.kind != Kind::Output {
            return Err(format!("{:?} in place of an output", header.kind));
        }
        if end <= self.wanted_from {
            if header.rows != 0 || header.position != end {
                return Err(format!(
                    "an output at position {} in place of the acknowledgement of {end}",
                    header.position
                ));
            }
            self.route.end(at);
            return Ok(Next::Relayed);
        }
        let outputs = candidates(header, payload, self.ask.sampling.need(), self.model.vocab)?;
        let due = position.max(self.wanted_from) + u32::from(answered);
        if header.position != due || outputs.len() > end.saturating_sub(due) as usize {
            return Err(format!(
                "outputs of {} positions from {} on in place of {due} to {}",
                outputs.len(),
                header.position,
                end - 1
            ));
        }
        self.route.flight(at).answered += outputs.len() as u16;
        let all = due as usize + outputs.len() == end as usize;
        let next = if replay { Ok(Next::Relayed) } else { self.outputs(at, due, outputs) };
        if all {
            self.route.end(at);
        }
        next
    }

    /// Goes through the outputs of consecutive positions from `position` on, as long as the tokens chosen are those that
    /// the flight was computed for.
    fn outputs(&mut self, at: usize, position: u32, outputs: Vec<Distribution>) -> Result<Next, String> {
        let mut updates = Vec::new();
        for (position, Distribution { mut candidates, log_sum_exp }) in (position..).zip(outputs) {
            if self.route.flight(at).rejected {
                break;
            }
            self.computed = position as usize + 1;
            let likely = self.ask.sampling.logprobs.map(|count| Likely::of(&candidates, log_sum_exp, count));
            let id = self.sampler.choose(&mut candidates).map_err(str::to_owned)?;
            match self.token(id, position + 1)?.with(likely.map(|likely| likely.chosen(id))) {
                text::Next::More(update) => updates.push(update),
                text::Next::Last(update, text, reason) => {
                    updates.extend(update);
                    return Ok(Next::Finish(self.news(updates, true), text, reason));
                }
            }
            let flight = self.route.flight(at);
            let guessed = position.checked_sub(flight.position);
            let guess = guessed.and_then(|index| flight.guesses.get(index as usize));
            let right = guess == Some(&id);
            flight.rejected = !right;
            if right {
                self.figures.accepted += 1;
            } else {
                self.feed(id, position as usize + 1);
            }
        }
        Ok(Next::Tokens(self.news(updates, false)))
    }

    /// Lets `id` enter at `position`, and guesses for what follows it.
    fn feed(&mut self, id: u32, position: usize) {
        let room = [
            self.ask.speculate,
            self.chunk - 1,
            self.ask.max_tokens - self.figures.tokens - 1,
            self.model.max_positions - position - 1,
        ];
        let guesses = match room.into_iter().min() {
            None | Some(0) => Vec::new(),
            Some(room) => self.draft.guess(room),
        };
        self.figures.guessed += guesses.len();
        let ids: Vec<u32> = std::iter::once(id).chain(guesses.iter().copied()).collect();
        let (header, payload) = tokens_frame(self.id, position, &ids);
        let header = if guesses.is_empty() { header } else { header.predicted() };
        self.route.enter(header, payload, Cargo::Token(guesses));
    }

    /// Takes in token `id`, which stands at `position`.
    fn token(&mut self, id: u32, position: u32) -> Result<text::Next, String> {
        let next = self.text.push(id, position as usize)?;
        if self.text.tokens() > self.figures.tokens {
            self.figures.tokens = self.text.tokens();
            self.draft.push(id);
            self.restarted = false;
        }
        Ok(next)
    }
}

/// How many of the most likely tokens to ask for: a vocabulary may have fewer than the sampler would look at.
fn top(k: u16, vocab: usize) -> u16 {
    u16::try_from(vocab).map_or(k, |vocab| k.min(vocab))
}

/// A frame of token ids for the first hop, which gives it its epoch when it is sent.
fn tokens_frame(request: u32, position: usize, ids: &[u32]) -> (Header, Vec<u8>) {
    let header = Header::tokens(request, 0, position as u32, ids.len() as u16);
    (header, ids.iter().flat_map(|id| id.to_le_bytes()).collect())
}

/// What a node tells of a position.
struct Distribution {
    candidates: Vec<Candidate>,
    /// Over the whole vocabulary, where the candidates are not all of it.
    log_sum_exp: Option<f32>,
}

/// What an output frame tells, position by position.
fn candidates(header: &Header, payload: &[u8], need: Need, vocab: usize) -> Result<Vec<Distribution>, String> {
    let candidate = |(id, logit)| Candidate { id, logit };
    match (need, header.codec) {
        (Need::Top(k), Codec::Top) if header.rows > 0 && header.cols == top(k, vocab) => {
            let rows = top_decode(payload, header.cols, vocab as u32).map_err(|error| error.to_string())?;
            let distribution = |row: TopRow<'_>| Distribution {
                candidates: row.entries().map(candidate).collect(),
                log_sum_exp: Some(row.log_sum_exp()),
            };
            Ok(rows.map(distribution).collect())
        }
        (Need::Full, Codec::F32) => {
            let mut logits = vec![0.0; vocab];
            full_decode(payload, &mut logits).map_err(|error| error.to_string())?;
            Ok(vec![Distribution { candidates: (0u32..).zip(logits).map(candidate).collect(), log_sum_exp: None }])
        }
        _ => Err(format!("an output of {} x {} {:?}, asked for {need:?}", header.rows, header.cols, header.codec)),
    }
}
