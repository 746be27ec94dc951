//! `POST /v1/completions`: texts, or ids, go on.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use syn1_model::tokenizer::Tokenizer;

use super::answer::Question;
use super::fields::{Body, Fields};
use super::settings::Settings;
use super::shape::Shape;
use crate::access::Client;
use crate::http::error::ApiError;
use crate::http::generate::encoded;
use crate::limits::MAX_LOGPROBS;
use crate::server::Shared;

/// Answers a request.
pub(super) async fn completions(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    body: Body,
) -> Result<Response, ApiError> {
    let tokenizer = tokenizer(&shared)?;
    let mut fields = Fields::read(body)?;
    let mut settings = Settings::take(&mut fields, &shared)?;
    settings.logprobs(fields.within("logprobs", 0, MAX_LOGPROBS)?);
    let max_tokens = Some(max_tokens(&mut fields, "max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS));
    let prompt: Prompt = fields.need("prompt")?;
    if let Some(best_of) = fields.take::<usize>("best_of")?.filter(|best_of| *best_of != settings.n) {
        let why = format!("best_of is {best_of}: here it is n, all {} answers are given", settings.n);
        return Err(ApiError::field("best_of", why));
    }
    fields.ignore_if(&[("echo", json!(false)), ("suffix", json!(""))]);
    fields.end()?;
    let prompts = prompt.ids(&tokenizer).await?;
    Question { shape: Shape::Text, settings, tokenizer, prompts, max_tokens, client, field: "prompt" }
        .answer(&shared)
        .await
}

/// The tokenizer, without which there is no text.
pub(super) fn tokenizer(shared: &Shared) -> Result<Tokenizer, ApiError> {
    let tokenizer = shared.look(|core| core.config().tokenizer.clone());
    let why = "this model has no tokenizer.json, so it has no text: POST token ids to /api/generate";
    tokenizer.ok_or_else(|| ApiError::invalid(why))
}

/// The tokens that are asked for under this name.
pub(super) fn max_tokens(fields: &mut Fields, name: &str) -> Result<Option<usize>, ApiError> {
    match fields.take(name)? {
        Some(0) => Err(ApiError::field(name, format!("{name} is 0: ask for at least one token"))),
        max_tokens => Ok(max_tokens),
    }
}

/// One prompt or several, as text or as ids.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, ids of tokens, or a list of either")]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    Several(Vec<Vec<u32>>),
}

impl Prompt {
    async fn ids(self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, ApiError> {
        let texts = match self {
            Self::Ids(ids) => return Ok(vec![ids]),
            Self::Several(prompts) => return Ok(prompts),
            Self::Text(text) => vec![text],
            Self::Texts(texts) => texts,
        };
        if texts.is_empty() {
            return Err(ApiError::field("prompt", "prompt is an empty list: give at least one prompt"));
        }
        let tokenizer = tokenizer.clone();
        let encode = move || texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>, _>>();
        encoded(encode).await.map_err(|refusal| ApiError::from(refusal).of("prompt"))
    }
}

/// What OpenAI's API generates where nothing is said.
const DEFAULT_MAX_TOKENS: usize = 16;
