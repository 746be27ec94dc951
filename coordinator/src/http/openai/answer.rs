//! An answer on its way out: whole when it is complete, or in parts as they come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use syn1_model::tokenizer::Tokenizer;

use super::choices::Choices;
use super::logprobs::Told;
use super::now;
use super::settings::Settings;
use super::shape::Shape;
use crate::access::Client;
use crate::http::error::ApiError;
use crate::limits::{KEEP_ALIVE, MAX_CHOICES, RETRY_AFTER};
use crate::server::Shared;
use crate::update::{Finish, Update};

/// Prompts, and how they are to be answered.
pub(super) struct Question {
    pub(super) shape: Shape,
    pub(super) settings: Settings,
    pub(super) tokenizer: Tokenizer,
    pub(super) prompts: Vec<Vec<u32>>,
    /// As many as the context holds, if not said.
    pub(super) max_tokens: Option<usize>,
    pub(super) client: Client,
    /// The field that the prompts came in.
    pub(super) field: &'static str,
}

/// A question that is being answered. Dropping it cancels what goes on, which is what a client does by going away.
struct Answer {
    shape: Shape,
    tokenizer: Tokenizer,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    wants_logprobs: bool,
    include_usage: bool,
    prompt_tokens: usize,
    /// How many of them were there from an earlier request, for the first choice of each prompt.
    cached: usize,
    /// Choices of each prompt.
    n: usize,
    tokens: usize,
    choices: Choices,
    /// Each choice as far as it has come.
    parts: Vec<Part>,
}

#[derive(Clone, Default)]
struct Part {
    text: String,
    told: Vec<Told>,
    reason: Option<Finish>,
    /// Characters of the tokens that were sent.
    offset: usize,
}

impl Question {
    /// Starts the requests and answers when they are complete, or at once with a stream.
    pub(super) async fn answer(self, shared: &Arc<Shared>) -> Result<Response, ApiError> {
        let stream = self.settings.stream;
        let answer = self.start(shared)?;
        if stream { Ok(answer.stream()) } else { answer.whole().await.map(IntoResponse::into_response) }
    }

    fn start(self, shared: &Arc<Shared>) -> Result<Answer, ApiError> {
        let Self { shape, settings, tokenizer, prompts, max_tokens, client, field } = self;
        let count = prompts.len() * settings.n;
        if count > MAX_CHOICES {
            let why =
                format!("{} prompts with n {} are {count} choices: at most {MAX_CHOICES}", prompts.len(), settings.n);
            return Err(ApiError::field("n", why));
        }
        let (waiting_for, model, room, manifest) = shared.look(|core| {
            let config = core.config();
            // A chain that has lost a node is about to be whole again: requests wait for that in the queue.
            let mends = core.chain.as_ref().is_some_and(|chain| chain.broken.is_some());
            let waiting_for = core.topology().waiting_for.filter(|_| !mends);
            (waiting_for, config.name.clone(), config.max_positions, config.manifest_sha256)
        });
        if let Some(what) = waiting_for {
            let why = format!("the model is not ready: {what}");
            return Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why, RETRY_AFTER));
        }
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let is_too_long = prompts.iter().any(|prompt| prompt.len() >= room);
        let max_tokens = max_tokens.unwrap_or(room);
        let asks = prompts.iter().flat_map(|prompt| {
            let settings = &settings;
            (0..settings.n).map(move |choice| settings.generate(prompt.clone(), max_tokens, choice))
        });
        let choices = Choices::start(shared, client, asks).map_err(|refusal| {
            let error = ApiError::from(refusal);
            if is_too_long { ApiError { code: Some("context_length_exceeded"), ..error.of(field) } } else { error }
        })?;
        let fingerprint = manifest.iter().take(5).fold(String::from("fp_"), |text, byte| text + &format!("{byte:02x}"));
        Ok(Answer {
            shape,
            tokenizer,
            id: shape.id(RandomState::new().build_hasher().finish()),
            created: now(),
            model,
            fingerprint,
            wants_logprobs: settings.wants_logprobs(),
            include_usage: settings.include_usage,
            prompt_tokens,
            cached: 0,
            n: settings.n,
            tokens: 0,
            choices,
            parts: vec![Part::default(); count],
        })
    }
}

impl Answer {
    async fn whole(mut self) -> Result<Json<Value>, ApiError> {
        while let Some((index, update)) = self.choices.next().await {
            self.take(index, update)?;
        }
        let mut choices = Vec::new();
        for (index, part) in std::mem::take(&mut self.parts).into_iter().enumerate() {
            let logprobs = self.logprobs(&part.told, &mut 0);
            choices.push(self.shape.choice(index, &part.text, logprobs, part.reason));
        }
        let mut answer = self.frame(choices, false);
        answer["usage"] = self.usage();
        Ok(Json(answer))
    }

    fn stream(self) -> Response {
        let begun = Streaming { pending: VecDeque::new(), opening: 0, over: false, answer: self };
        let events = futures_util::stream::unfold(begun, |mut streaming| async move {
            let event = streaming.next().await?;
            Some((Ok::<_, Infallible>(event), streaming))
        });
        let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        // Proxies that collect an answer before they pass it on do not collect this one.
        ([(HeaderName::from_static("x-accel-buffering"), "no")], sse).into_response()
    }

    /// Takes in what became of a choice.
    fn take(&mut self, index: usize, update: Update) -> Result<(), ApiError> {
        let part = &mut self.parts[index];
        match update {
            Update::Token { id, text, logprobs } => {
                part.text.push_str(&text);
                part.told.extend(logprobs.map(|logprobs| Told { id, logprobs }));
            }
            Update::Again => *part = Part::default(),
            Update::Finished(end) => {
                part.text.push_str(&end.text);
                part.reason = Some(end.reason);
                self.tokens += end.figures.tokens;
                self.cached += if index.is_multiple_of(self.n) { end.figures.cached } else { 0 };
            }
            Update::Failed(why) => return Err(ApiError::broken(why)),
        }
        Ok(())
    }

    /// The parts to send of a choice that something became of; what is sent is forgotten.
    fn parts(&mut self, index: usize) -> Vec<Value> {
        let Part { text, told, reason, mut offset } = std::mem::take(&mut self.parts[index]);
        let mut values = Vec::new();
        if !text.is_empty() || !told.is_empty() {
            let logprobs = self.logprobs(&told, &mut offset);
            values.push(self.shape.part(index, &text, logprobs, None));
        }
        if reason.is_some() {
            values.push(self.shape.part(index, "", Value::Null, reason));
        }
        self.parts[index].offset = offset;
        values.into_iter().map(|choice| self.frame(vec![choice], true)).collect()
    }

    fn logprobs(&self, told: &[Told], offset: &mut usize) -> Value {
        if self.wants_logprobs { self.shape.logprobs(&self.tokenizer, told, offset) } else { Value::Null }
    }

    fn frame(&self, choices: Vec<Value>, is_streamed: bool) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": self.shape.object(is_streamed),
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        });
        if is_streamed && self.include_usage {
            frame["usage"] = Value::Null;
        }
        frame
    }

    fn usage(&self) -> Value {
        let Self { prompt_tokens, tokens, cached, .. } = self;
        json!({
            "prompt_tokens": prompt_tokens,
            "prompt_tokens_details": { "cached_tokens": cached },
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        })
    }
}

/// An answer as a stream of events.
struct Streaming {
    answer: Answer,
    pending: VecDeque<Event>,
    /// The next choice to be opened.
    opening: usize,
    over: bool,
}

impl Streaming {
    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if self.opening < self.answer.parts.len() {
                let opening = self.answer.shape.opening(self.opening);
                self.opening += 1;
                self.pending.extend(opening.map(|choice| event(&self.answer.frame(vec![choice], true))));
                continue;
            }
            let Some((index, update)) = self.answer.choices.next().await else {
                self.end();
                continue;
            };
            let taken = match update {
                // What was sent cannot be taken back.
                Update::Again => Err(ApiError::broken(
                    "a node computed garbage, and part of this text came of it: the node was sent away, repeat the request",
                )),
                update => self.answer.take(index, update),
            };
            match taken {
                Ok(()) => self.pending.extend(self.answer.parts(index).iter().map(event)),
                Err(error) => {
                    // The status is sent long since: clients look for an error among the events, too.
                    self.pending.push_back(event(&error.body()));
                    self.over = true;
                }
            }
        }
    }

    fn end(&mut self) {
        if self.answer.include_usage {
            let mut last = self.answer.frame(Vec::new(), true);
            last["usage"] = self.answer.usage();
            self.pending.push_back(event(&last));
        }
        self.pending.push_back(Event::default().data("[DONE]"));
        self.over = true;
    }
}

fn event(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
