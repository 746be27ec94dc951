//! One request on its way through the chain: prefill in chunks, then a token at a time. Knows no socket and no clock.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use syn1_core::control::{Open, Output};
use syn1_core::output::{TopRow, full_decode, top_decode};
use syn1_core::{Codec, Flags, Form, Header, Kind};
use syn1_model::tokenizer::Tokenizer;

use crate::core::NodeId;
use crate::draft::Draft;
use crate::logprobs::Likely;
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
    pub(crate) id: u32,
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
    /// How the activations of each hop travel.
    forms: Vec<Form>,
    fed: usize,
    flights: VecDeque<Flight>,
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

/// A frame on its way through the chain.
#[derive(Clone, Debug)]
struct Flight {
    position: u32,
    rows: u16,
    hop: usize,
    /// What the rows after the first are computed for, where they are guesses.
    guesses: Vec<u32>,
    /// Rows whose outputs have come.
    answered: u16,
    /// A guess was wrong: the outputs that still come count for nothing.
    rejected: bool,
}

impl Flight {
    fn new(position: usize, rows: usize, guesses: Vec<u32>) -> Self {
        Self { position: position as u32, rows: rows as u16, hop: 0, guesses, answered: 0, rejected: false }
    }
}

/// What follows from a node's answer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Frames to send, each with its hop.
    Send(Vec<(usize, Header, Vec<u8>)>),
    /// Tokens, and the frame that feeds the last of them to the first hop, where none is on its way that does.
    Tokens(Vec<Update>, Option<(Header, Vec<u8>)>),
    /// The last tokens, if there are any to show; then the end.
    Finish(Vec<Update>, String, Finish),
}

impl Request {
    pub(crate) fn new(id: u32, ask: Generate, is_proof: bool, model: Model, tokenizer: Option<&Tokenizer>) -> Self {
        let figures = Figures { prompt_tokens: ask.prompt.len(), ..Figures::default() };
        Self {
            sampler: Sampler::new(ask.sampling.clone(), &ask.prompt),
            text: Text::new(&ask, &model.eos, model.max_positions, tokenizer),
            draft: Draft::new(&ask.prompt),
            id,
            ask,
            is_proof,
            figures,
            started: Duration::ZERO,
            progressed: Duration::ZERO,
            closing: None,
            model,
            chunk: 1,
            forms: Vec::new(),
            fed: 0,
            flights: VecDeque::new(),
        }
    }

    /// The message that opens the request on a node whose activations travel in `form`.
    pub(crate) fn open(&self, form: Form) -> Open {
        let output = match self.ask.sampling.need() {
            Need::Top(k) => Output::Top(top(k, self.model.vocab)),
            Need::Full => Output::Full,
        };
        Open {
            request: self.id,
            epoch: EPOCH,
            codec: form.codec() as u8,
            flags: form.flags().bits(),
            output,
            wanted_from: self.ask.prompt.len() as u32 - 1,
        }
    }

    /// Starts the clock; gives the prompt's first chunk, of at most `chunk` rows, for the first hop. `forms` are those that
    /// the hops were opened with.
    pub(crate) fn begin(&mut self, now: Duration, chunk: usize, forms: Vec<Form>) -> Option<(Header, Vec<u8>)> {
        (self.started, self.progressed, self.chunk, self.forms) = (now, now, chunk, forms);
        self.next_chunk(1)
    }

    /// The prompt's next chunk; `None` when all of it is on its way, or when every one of `hops` has work and one more
    /// frame waits: a slow node is not to be buried in what a fast one computes.
    fn next_chunk(&mut self, hops: usize) -> Option<(Header, Vec<u8>)> {
        let end = self.ask.prompt.len().min(self.fed + self.chunk);
        let ids = &self.ask.prompt[self.fed..end];
        if ids.is_empty() || self.flights.len() > hops {
            return None;
        }
        let frame = tokens_frame(self.id, self.fed, ids);
        self.flights.push_back(Flight::new(self.fed, ids.len(), Vec::new()));
        self.fed = end;
        Some(frame)
    }

    /// Takes the answer of the node at `hop` of `hops`.
    ///
    /// # Errors
    /// What is wrong with the answer: the node is broken or hostile.
    pub(crate) fn answer(&mut self, hop: usize, hops: usize, header: &Header, payload: &[u8]) -> Result<Next, String> {
        let at = self.flights.iter().position(|flight| flight.hop == hop);
        let at = at.ok_or("an answer that nothing asked for")?;
        let flight = &self.flights[at];
        let guessed = !flight.guesses.is_empty();
        if header.flags.contains(Flags::PREDICTED) != guessed {
            return Err(format!("an answer with flags {} to a frame that was predicted: {guessed}", header.flags));
        }
        if hop + 1 < hops {
            if header.kind != Kind::Activation || (header.position, header.rows) != (flight.position, flight.rows) {
                return Err(format!(
                    "{:?} of {} rows at position {} in place of an activation of {} rows at position {}",
                    header.kind, header.rows, header.position, flight.rows, flight.position
                ));
            }
            // It goes on to the next node as it is, so it must be what that node was told to expect.
            let form = self.forms.get(hop).copied().unwrap_or(Form::plain(Codec::F32));
            let extra = header.flags.without(form.flags()).without(Flags::QUANTIZED).without(Flags::PREDICTED);
            if ![form.codec(), Codec::F32].contains(&header.codec) || !extra.is_empty() {
                return Err(format!(
                    "an activation in {} with flags {} in place of {form}",
                    header.codec, header.flags
                ));
            }
            self.flights[at].hop += 1;
            let mut sends = vec![(hop + 1, *header, payload.to_vec())];
            if hop == 0 {
                sends.extend(self.next_chunk(hops).map(|(header, payload)| (0, header, payload)));
            }
            return Ok(Next::Send(sends));
        }
        self.output(at, header, payload, hops)
    }

    /// The hop that holds the oldest frame.
    pub(crate) fn waits_for(&self) -> Option<usize> {
        self.flights.front().map(|flight| flight.hop)
    }

    fn output(&mut self, at: usize, header: &Header, payload: &[u8], hops: usize) -> Result<Next, String> {
        let Flight { position, rows, answered, .. } = self.flights[at];
        let end = position + u32::from(rows);
        if header.kind != Kind::Output {
            return Err(format!("{:?} in place of an output", header.kind));
        }
        if (end as usize) < self.ask.prompt.len() {
            if header.rows != 0 || header.position != end {
                return Err(format!(
                    "an output at position {} in place of the acknowledgement of {end}",
                    header.position
                ));
            }
            self.flights.remove(at);
            let chunk = self.next_chunk(hops);
            return Ok(Next::Send(chunk.map(|(header, payload)| (0, header, payload)).into_iter().collect()));
        }
        let outputs = candidates(header, payload, self.ask.sampling.need(), self.model.vocab)?;
        let due = self.first_wanted(position) + u32::from(answered);
        if header.position != due || outputs.len() > (end - due) as usize {
            return Err(format!(
                "outputs of {} positions from {} on in place of {due} to {}",
                outputs.len(),
                header.position,
                end - 1
            ));
        }
        self.flights[at].answered += outputs.len() as u16;
        let all = due as usize + outputs.len() == end as usize;
        let next = self.outputs(at, due, outputs);
        if all {
            self.flights.remove(at);
        }
        next
    }

    /// Goes through the outputs of consecutive positions from `position` on, as long as the tokens chosen are those that
    /// the flight was computed for.
    fn outputs(&mut self, at: usize, position: u32, outputs: Vec<Distribution>) -> Result<Next, String> {
        let (mut updates, mut frame) = (Vec::new(), None);
        for (position, Distribution { mut candidates, log_sum_exp }) in (position..).zip(outputs) {
            if self.flights[at].rejected {
                break;
            }
            let likely = self.ask.sampling.logprobs.map(|count| Likely::of(&candidates, log_sum_exp, count));
            let id = self.sampler.choose(&mut candidates).map_err(str::to_owned)?;
            match self.token(id, position + 1)?.with(likely.map(|likely| likely.chosen(id))) {
                text::Next::More(update) => updates.push(update),
                text::Next::Last(update, text, reason) => {
                    updates.extend(update);
                    return Ok(Next::Finish(updates, text, reason));
                }
            }
            let guessed = position.checked_sub(self.flights[at].position);
            let guess = guessed.and_then(|index| self.flights[at].guesses.get(index as usize));
            if guess == Some(&id) {
                self.figures.accepted += 1;
            } else {
                self.flights[at].rejected = true;
                frame = Some(self.feed(id, position as usize + 1));
            }
        }
        Ok(Next::Tokens(updates, frame))
    }

    /// The first position of a flight from `position` on that gives an output.
    fn first_wanted(&self, position: u32) -> u32 {
        position.max(self.ask.prompt.len() as u32 - 1)
    }

    /// The frame that feeds `id` at `position`, and guesses for what follows it.
    fn feed(&mut self, id: u32, position: usize) -> (Header, Vec<u8>) {
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
        self.flights.push_back(Flight::new(position, ids.len(), guesses));
        (header, payload)
    }

    /// Takes in token `id`, which stands at `position`.
    fn token(&mut self, id: u32, position: u32) -> Result<text::Next, String> {
        let next = self.text.push(id, position as usize)?;
        if self.text.tokens() > self.figures.tokens {
            self.figures.tokens = self.text.tokens();
            self.draft.push(id);
        }
        Ok(next)
    }
}

/// How many of the most likely tokens to ask for: a vocabulary may have fewer than the sampler would look at.
fn top(k: u16, vocab: usize) -> u16 {
    u16::try_from(vocab).map_or(k, |vocab| k.min(vocab))
}

/// A frame of token ids for the first hop.
fn tokens_frame(request: u32, position: usize, ids: &[u32]) -> (Header, Vec<u8>) {
    let header = Header::tokens(request, EPOCH, position as u32, ids.len() as u16);
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

/// Every route's first incarnation. Re-routing will count it up.
pub(crate) const EPOCH: u8 = 1;
