//! One request on its way through the chain: prefill in chunks, then a token at a time. Knows no socket and no clock.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use syn1_core::control::{Open, Output};
use syn1_core::output::{full_decode, top_decode};
use syn1_core::{Codec, Header, Kind};
use syn1_model::tokenizer::{Detokenizer, Tokenizer};

use crate::core::NodeId;
use crate::sample::{Candidate, Need, Sampler, Sampling};
use crate::stop::StopStrings;
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
    stops: StopStrings,
    detokenizer: Option<Detokenizer>,
    model: Model,
    /// Rows of a prefill chunk.
    chunk: usize,
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
#[derive(Clone, Copy, Debug)]
struct Flight {
    position: u32,
    rows: u16,
    hop: usize,
}

/// What follows from a node's answer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Frames to send, each with its hop.
    Send(Vec<(usize, Header, Vec<u8>)>),
    /// A token, and the frame that feeds it to the first hop.
    Token(Update, Header, Vec<u8>),
    /// A last token, if it is one to show; then the end.
    Finish(Option<Update>, String, Finish),
}

impl Request {
    pub(crate) fn new(id: u32, ask: Generate, is_proof: bool, model: Model, tokenizer: Option<&Tokenizer>) -> Self {
        let figures = Figures { prompt_tokens: ask.prompt.len(), ..Figures::default() };
        Self {
            sampler: Sampler::new(ask.sampling, &ask.prompt),
            stops: StopStrings::new(&ask.stop),
            detokenizer: tokenizer.map(Tokenizer::detokenizer),
            id,
            ask,
            is_proof,
            figures,
            started: Duration::ZERO,
            progressed: Duration::ZERO,
            closing: None,
            model,
            chunk: 1,
            fed: 0,
            flights: VecDeque::new(),
        }
    }

    /// The message that opens the request on every node of the chain.
    pub(crate) fn open(&self, wire: Codec) -> Open {
        let output = match self.ask.sampling.need() {
            Need::Top(k) => Output::Top(top(k, self.model.vocab)),
            Need::Full => Output::Full,
        };
        Open {
            request: self.id,
            epoch: EPOCH,
            codec: wire as u8,
            output,
            wanted_from: self.ask.prompt.len() as u32 - 1,
        }
    }

    /// Starts the clock; gives the prompt's first chunk, of at most `chunk` rows, for the first hop.
    pub(crate) fn begin(&mut self, now: Duration, chunk: usize) -> Option<(Header, Vec<u8>)> {
        (self.started, self.progressed, self.chunk) = (now, now, chunk);
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
        self.flights.push_back(Flight { position: self.fed as u32, rows: ids.len() as u16, hop: 0 });
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
        let flight = self.flights[at];
        if hop + 1 < hops {
            if header.kind != Kind::Activation || (header.position, header.rows) != (flight.position, flight.rows) {
                return Err(format!(
                    "{:?} of {} rows at position {} in place of an activation of {} rows at position {}",
                    header.kind, header.rows, header.position, flight.rows, flight.position
                ));
            }
            self.flights[at].hop += 1;
            let mut sends = vec![(hop + 1, *header, payload.to_vec())];
            if hop == 0 {
                sends.extend(self.next_chunk(hops).map(|(header, payload)| (0, header, payload)));
            }
            return Ok(Next::Send(sends));
        }
        self.flights.remove(at);
        self.output(flight, header, payload, hops)
    }

    /// The hop that holds the oldest frame.
    pub(crate) fn waits_for(&self) -> Option<usize> {
        self.flights.front().map(|flight| flight.hop)
    }

    fn output(&mut self, flight: Flight, header: &Header, payload: &[u8], hops: usize) -> Result<Next, String> {
        let end = flight.position + u32::from(flight.rows);
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
            let chunk = self.next_chunk(hops);
            return Ok(Next::Send(chunk.map(|(header, payload)| (0, header, payload)).into_iter().collect()));
        }
        if header.position + 1 != end {
            return Err(format!("an output at position {} in place of {}", header.position, end - 1));
        }
        let mut candidates = candidates(header, payload, self.ask.sampling.need(), self.model.vocab)?;
        let id = self.sampler.choose(&mut candidates).map_err(str::to_owned)?;
        self.token(id, end)
    }

    /// What follows from token `id` at `position`.
    fn token(&mut self, id: u32, position: u32) -> Result<Next, String> {
        if self.model.eos.contains(&id) && !self.ask.ignore_eos {
            let text = self.rest()?;
            return Ok(Next::Finish(None, text, Finish::Stop));
        }
        self.figures.tokens += 1;
        let fresh = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.push(id).map_err(|error| error.to_string())?,
            None => "",
        };
        let (text, stopped) = self.stops.push(fresh);
        let update = Update::Token { id, text };
        if stopped {
            return Ok(Next::Finish(Some(update), String::new(), Finish::Stop));
        }
        if self.figures.tokens >= self.ask.max_tokens {
            let text = self.rest()?;
            return Ok(Next::Finish(Some(update), text, Finish::Length));
        }
        if position as usize >= self.model.max_positions {
            let text = self.rest()?;
            return Ok(Next::Finish(Some(update), text, Finish::Context));
        }
        self.flights.push_back(Flight { position, rows: 1, hop: 0 });
        let (header, payload) = tokens_frame(self.id, position as usize, &[id]);
        Ok(Next::Token(update, header, payload))
    }

    /// The text that was held back, now that nothing follows.
    fn rest(&mut self) -> Result<String, String> {
        let tail = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.finish().map_err(|error| error.to_string())?,
            None => "",
        };
        let (mut text, stopped) = self.stops.push(tail);
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        Ok(text)
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

/// The candidates in an output frame of one row.
fn candidates(header: &Header, payload: &[u8], need: Need, vocab: usize) -> Result<Vec<Candidate>, String> {
    let candidate = |(id, logit)| Candidate { id, logit };
    match (need, header.codec) {
        (Need::Top(k), Codec::Top) if header.rows == 1 && header.cols == top(k, vocab) => {
            let mut rows = top_decode(payload, header.cols, vocab as u32).map_err(|error| error.to_string())?;
            Ok(rows.next().into_iter().flat_map(|row| row.entries()).map(candidate).collect())
        }
        (Need::Full, Codec::F32) => {
            let mut logits = vec![0.0; vocab];
            full_decode(payload, &mut logits).map_err(|error| error.to_string())?;
            Ok((0u32..).zip(logits).map(candidate).collect())
        }
        _ => Err(format!("an output of {} x {} {:?}, asked for {need:?}", header.rows, header.cols, header.codec)),
    }
}

/// Every route's first incarnation. Re-routing will count it up.
pub(crate) const EPOCH: u8 = 1;
