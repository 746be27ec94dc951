//! Log-probabilities in OpenAI's two shapes.

use serde_json::{Map, Value, json};
use syn1_model::tokenizer::Tokenizer;

use crate::update::Logprobs;

/// A token that was generated, with what is told of it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) id: u32,
    pub(super) logprobs: Logprobs,
}

/// Those of chat completions: an object for each token.
pub(super) fn of_chat(tokenizer: &Tokenizer, told: &[Told]) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = bytes(tokenizer, id);
        json!({ "token": spelled(&bytes), "logprob": finite(logprob), "bytes": bytes })
    };
    let content: Vec<Value> = told
        .iter()
        .map(|Told { id, logprobs }| {
            let mut token = entry(*id, logprobs.chosen);
            token["top_logprobs"] = logprobs.likeliest.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
            token
        })
        .collect();
    json!({ "content": content, "refusal": null })
}

/// Those of text completions: a list for each figure. `offset` counts the characters of the tokens, and is moved on.
pub(super) fn of_text(tokenizer: &Tokenizer, told: &[Told], offset: &mut usize) -> Value {
    let (mut tokens, mut logprobs, mut likeliest, mut offsets) = (vec![], vec![], vec![], vec![]);
    for Told { id, logprobs: told } in told {
        let token = spelled(&bytes(tokenizer, *id));
        let mut top: Map<String, Value> = Map::new();
        // The token itself is told where it is none of the likeliest; the likelier of two that look the same.
        for (id, logprob) in told.likeliest.iter().copied().chain([(*id, told.chosen)]) {
            top.entry(spelled(&bytes(tokenizer, id))).or_insert_with(|| finite(logprob));
        }
        offsets.push(*offset);
        *offset += token.chars().count();
        tokens.push(token);
        logprobs.push(finite(told.chosen));
        likeliest.push(if told.likeliest.is_empty() { Value::Null } else { top.into() });
    }
    json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": likeliest, "text_offset": offsets })
}

fn bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    tokenizer.token_bytes(id).unwrap_or_default()
}

/// A token's text; part of a character is spelled `bytes:\xe2`, as OpenAI does.
fn spelled(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold(String::from("bytes:"), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

/// JSON has no infinity: OpenAI writes -9999 for what cannot be.
fn finite(logprob: f32) -> Value {
    json!(if logprob.is_finite() { logprob } else { -9999.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_characters_are_spelled_as_bytes() {
        assert_eq!(spelled("ü".as_bytes()), "ü");
        assert_eq!(spelled(&[0xe2, 0x80]), "bytes:\\xe2\\x80");
    }

    #[test]
    fn what_cannot_be_is_a_number_all_the_same() {
        assert_eq!(finite(f32::NEG_INFINITY), json!(-9999.0));
        assert_eq!(finite(-0.5), json!(-0.5));
    }
}
