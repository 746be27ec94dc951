//! What OpenAI's two kinds of completion look like as JSON, whole and in parts.

use serde_json::{Value, json};
use syn1_model::tokenizer::Tokenizer;

use super::logprobs::{self, Told};
use crate::update::Finish;

/// The kind of completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Of a conversation.
    Chat,
    /// Of a text.
    Text,
}

impl Shape {
    /// A name for an answer, unlike any other's.
    pub(super) fn id(self, number: u64) -> String {
        match self {
            Self::Chat => format!("chatcmpl-{number:016x}"),
            Self::Text => format!("cmpl-{number:016x}"),
        }
    }

    /// What a whole answer calls itself, or each part of a streamed one.
    pub(super) fn object(self, is_streamed: bool) -> &'static str {
        match (self, is_streamed) {
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
            (Self::Text, _) => "text_completion",
        }
    }

    /// A whole choice.
    pub(super) fn choice(self, index: usize, text: &str, logprobs: Value, reason: Option<Finish>) -> Value {
        let finish_reason = reason.map(name);
        match self {
            Self::Chat => {
                let message = json!({ "role": "assistant", "content": text, "refusal": null });
                json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason })
            }
            Self::Text => {
                json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason })
            }
        }
    }

    /// The first part of a streamed choice, where it has one of its own.
    pub(super) fn opening(self, index: usize) -> Option<Value> {
        (self == Self::Chat).then(|| {
            let delta = json!({ "role": "assistant", "content": "" });
            json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null })
        })
    }

    /// A part of a streamed choice: text, or the end.
    pub(super) fn part(self, index: usize, text: &str, logprobs: Value, reason: Option<Finish>) -> Value {
        match (self, reason) {
            (Self::Text, _) => self.choice(index, text, logprobs, reason),
            (Self::Chat, None) => {
                let delta = json!({ "content": text });
                json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null })
            }
            (Self::Chat, Some(reason)) => {
                json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": name(reason) })
            }
        }
    }

    /// Log-probabilities; `offset` is where the tokens stand in a text, and is moved on.
    pub(super) fn logprobs(self, tokenizer: &Tokenizer, told: &[Told], offset: &mut usize) -> Value {
        match self {
            Self::Chat => logprobs::of_chat(tokenizer, told),
            Self::Text => logprobs::of_text(tokenizer, told, offset),
        }
    }
}

/// OpenAI's word for an end. A full context is a length that is reached.
fn name(reason: Finish) -> &'static str {
    match reason {
        Finish::Stop => "stop",
        Finish::Length | Finish::Context => "length",
    }
}
