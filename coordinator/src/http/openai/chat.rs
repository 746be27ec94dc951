//! `POST /v1/chat/completions`: conversations are answered by the model's chat template.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use syn1_model::chat::{ChatError, Message};

use super::answer::Question;
use super::completions::{max_tokens, tokenizer};
use super::fields::{Body, Fields};
use super::settings::Settings;
use super::shape::Shape;
use crate::access::Client;
use crate::http::error::ApiError;
use crate::http::generate::encoded;
use crate::limits::MAX_LOGPROBS;
use crate::server::{Shared, today};

/// Answers a request.
pub(super) async fn completions(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    body: Body,
) -> Result<Response, ApiError> {
    let tokenizer = tokenizer(&shared)?;
    let mut fields = Fields::read(body)?;
    let mut settings = Settings::take(&mut fields, &shared)?;
    settings.logprobs(logprobs(&mut fields)?);
    let max_tokens = match (max_tokens(&mut fields, "max_tokens")?, max_tokens(&mut fields, "max_completion_tokens")?) {
        (Some(old), Some(new)) if old != new => {
            let why = format!("max_tokens is {old} and max_completion_tokens is {new}: send one of them");
            return Err(ApiError::field("max_tokens", why));
        }
        (old, new) => new.or(old),
    };
    let messages: Vec<Value> = fields.need("messages")?;
    fields.ignore_if(&[
        ("tools", json!([])),
        ("tool_choice", json!("none")),
        ("functions", json!([])),
        ("function_call", json!("none")),
        ("response_format", json!({ "type": "text" })),
        ("modalities", json!(["text"])),
    ]);
    // Without tools nothing is called in parallel.
    fields.ignore(&["parallel_tool_calls"]);
    fields.end()?;
    let messages = messages.into_iter().enumerate();
    let messages: Vec<Message> =
        messages.map(|(index, value)| message(&format!("messages[{index}]"), value)).collect::<Result<_, _>>()?;
    if tokenizer.chat_template().is_none() {
        let why = format!("{}: POST it to /v1/completions", ChatError::NoTemplate);
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "no_chat_template", why).of("messages"));
    }
    let (encoder, today) = (tokenizer.clone(), today());
    let ids = encoded(move || encoder.encode_chat(&messages, today)).await;
    let prompts = vec![ids.map_err(|refusal| ApiError::from(refusal).of("messages"))?];
    Question { shape: Shape::Chat, settings, tokenizer, prompts, max_tokens, client, field: "messages" }
        .answer(&shared)
        .await
}

/// How many of the likeliest tokens are told at each place; `None` without any log-probabilities.
fn logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.take("logprobs")?.unwrap_or(false);
    match fields.within("top_logprobs", 0, MAX_LOGPROBS)? {
        Some(1..) if !wanted => {
            Err(ApiError::field("top_logprobs", "top_logprobs is only possible with logprobs: true"))
        }
        count => Ok(wanted.then(|| count.unwrap_or(0))),
    }
}

/// A message's text, whole or in parts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

/// The message at `place`.
fn message(place: &str, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::of(place, value)?;
    let role: String = fields.need("role")?;
    let content = match fields.need("content")? {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(index, value)| part(&format!("{place}.content[{index}]"), value)).collect::<Result<_, _>>()?
        }
    };
    // What clients send back of an answer that they got.
    fields.ignore_if(&[("tool_calls", json!([])), ("annotations", json!([]))]);
    fields.end()?;
    Ok(Message::new(role, content))
}

/// The text of the part at `place`.
fn part(place: &str, value: Value) -> Result<String, ApiError> {
    let mut fields = Fields::of(place, value)?;
    let kind: String = fields.need("type")?;
    if kind != "text" {
        let why = format!("{place} is of type {kind:?}: this model takes text");
        return Err(ApiError::field(format!("{place}.type"), why));
    }
    let text = fields.need("text")?;
    fields.end()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_text_whole_or_in_parts() {
        let parts = json!([{ "type": "text", "text": "Hel" }, { "type": "text", "text": "lo" }]);
        let sent_back = json!({ "role": "user", "content": "Hello", "refusal": null, "tool_calls": [], "audio": null });
        for value in [json!({ "role": "user", "content": parts }), sent_back] {
            assert_eq!(message("messages[0]", value), Ok(Message::new("user", "Hello")));
        }
    }

    #[test]
    fn what_a_template_would_not_be_told_is_refused_where_it_stands() {
        let image = json!([{ "type": "image_url", "image_url": { "url": "http://example.org" } }]);
        for (value, param) in [
            (json!({ "role": "user", "content": "Hi", "name": "Bo" }), "messages[3].name"),
            (json!({ "role": "assistant", "content": "", "tool_calls": [{}] }), "messages[3].tool_calls"),
            (json!({ "role": "user", "content": image }), "messages[3].content[0].type"),
            (json!({ "role": "user" }), "messages[3].content"),
            (json!({ "content": "Hi" }), "messages[3].role"),
            (json!({ "role": "user", "content": 5 }), "messages[3].content"),
            (json!("Hi"), "messages[3]"),
        ] {
            assert_eq!(message("messages[3]", value).unwrap_err().param.as_deref(), Some(param));
        }
    }

    #[test]
    fn likeliest_tokens_need_logprobs() {
        let of = |value: Value| logprobs(&mut Fields::of("x", value).unwrap());
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(json!({ "logprobs": true })), Ok(Some(0)));
        assert_eq!(of(json!({ "logprobs": true, "top_logprobs": 5 })), Ok(Some(5)));
        assert_eq!(of(json!({ "logprobs": false, "top_logprobs": 0 })), Ok(None));
        assert!(
            of(json!({ "top_logprobs": 5 })).is_err() && of(json!({ "logprobs": true, "top_logprobs": 21 })).is_err()
        );
    }
}
