//! `POST /api/generate`: text, a JSON object a line.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use syn1_model::chat::Message;

use crate::access::Client;
use crate::core::Refusal;
use crate::http::error::ApiError;
use crate::limits::RETRY_AFTER;
use crate::request::Generate;
use crate::sample::Sampling;
use crate::server::{Generation, Shared, today};
use crate::update::{Finish, Update};

/// What `POST /api/generate` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// Text to continue.
    prompt: Option<String>,
    /// Token ids to continue, in place of text.
    ids: Option<Vec<u32>>,
    /// A conversation to answer by the model's chat template, in place of text.
    messages: Option<Vec<Message>>,
    #[serde(default = "default_max_tokens")]
    max_tokens: usize,
    #[serde(default)]
    stop: Vec<String>,
    #[serde(default)]
    ignore_eos: bool,
    /// Tokens that may be guessed ahead: the same text, perhaps in fewer passes.
    #[serde(default)]
    speculate: usize,
    #[serde(default)]
    sampling: Sampling,
}

fn default_max_tokens() -> usize {
    64
}

/// One line of the answer to `POST /api/generate`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Token {
        id: u32,
        text: String,
    },
    /// What came before is void; it follows from the first token on.
    Again {},
    Finished {
        text: String,
        reason: Finish,
        prompt_tokens: usize,
        cached_tokens: usize,
        tokens: usize,
        tokens_per_second: Option<f64>,
    },
    Failed {
        error: String,
    },
}

impl From<Update> for Line {
    fn from(update: Update) -> Self {
        match update {
            // Log-probabilities are not among what can be asked for here.
            Update::Token { id, text, logprobs: _ } => Self::Token { id, text },
            Update::Again => Self::Again {},
            Update::Finished(end) => Self::Finished {
                text: end.text,
                reason: end.reason,
                prompt_tokens: end.figures.prompt_tokens,
                cached_tokens: end.figures.cached,
                tokens: end.figures.tokens,
                tokens_per_second: end.figures.tokens_per_second(),
            },
            Update::Failed(error) => Self::Failed { error },
        }
    }
}

/// Starts a request and streams it.
pub(super) async fn generate(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    ask: Result<Json<Ask>, JsonRejection>,
) -> Response {
    let started = async {
        let Json(ask) = ask.map_err(|rejection| Refusal::Invalid(rejection.body_text()))?;
        let prompt = prompt(&shared, ask.prompt, ask.ids, ask.messages).await?;
        let Ask { max_tokens, stop, ignore_eos, speculate, sampling, .. } = ask;
        shared.generate(client, Generate { prompt, max_tokens, sampling, stop, ignore_eos, speculate })
    };
    match started.await {
        Ok(generation) => stream(generation),
        Err(refusal) => refuse(refusal),
    }
}

/// The prompt's ids, from whichever of the three was sent.
async fn prompt(
    shared: &Shared,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    messages: Option<Vec<Message>>,
) -> Result<Vec<u32>, Refusal> {
    let tokenizer = || {
        let tokenizer = shared.look(|core| core.config().tokenizer.clone());
        tokenizer.ok_or_else(|| Refusal::Invalid("this model has no tokenizer: send ids".into()))
    };
    match (text, ids, messages) {
        (None, Some(ids), None) => Ok(ids),
        (Some(text), None, None) => {
            let tokenizer = tokenizer()?;
            encoded(move || tokenizer.encode(&text)).await
        }
        (None, None, Some(messages)) => {
            let (tokenizer, today) = (tokenizer()?, today());
            encoded(move || tokenizer.encode_chat(&messages, today)).await
        }
        _ => Err(Refusal::Invalid("send one of prompt, messages and ids".into())),
    }
}

/// Encodes on another thread: a long text takes milliseconds, which the tokens of others should not wait for.
pub(super) async fn encoded<T: Send + 'static, E: ToString + Send + 'static>(
    encode: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(encode).await {
        Ok(ids) => ids.map_err(|error| Refusal::Invalid(error.to_string())),
        Err(error) => Err(Refusal::Busy { why: error.to_string(), retry_after: RETRY_AFTER }),
    }
}

/// The updates as they come, one JSON object a line.
fn stream(generation: Generation) -> Response {
    let lines = futures_util::stream::unfold(generation, |mut generation| async move {
        let line = Line::from(generation.next().await?);
        let line = serde_json::to_string(&line).map(|line| line + "\n");
        Some((line, generation))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// One line of why, with the status and the `Retry-After` that OpenAI's clients are told.
fn refuse(refusal: Refusal) -> Response {
    let body = Json(serde_json::json!({ "error": refusal.to_string() }));
    let (parts, _) = ApiError::from(refusal).into_response().into_parts();
    let retry_after = parts.headers.get(header::RETRY_AFTER).cloned();
    let mut response = (parts.status, body).into_response();
    response.headers_mut().extend(retry_after.map(|after| (header::RETRY_AFTER, after)));
    response
}
