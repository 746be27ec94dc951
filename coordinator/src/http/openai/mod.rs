//! OpenAI's API: `/v1/models`, `/v1/completions` and `/v1/chat/completions`, a file each, for the one model that is served.
//!
//! A field that would change the answer and that syn1 does not do is refused by its name; one that changes nothing (`user`,
//! `metadata`) is taken. `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are known beside OpenAI's own.

mod answer;
mod chat;
mod choices;
mod completions;
mod fields;
mod logprobs;
mod models;
mod settings;
mod shape;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post};

use crate::http::error::ApiError;
use crate::server::Shared;

/// Everything below `/v1`.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/models", get(models::list))
        .route("/models/{*name}", get(models::one))
        .route("/completions", post(completions::completions))
        .route("/chat/completions", post(chat::completions))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

async fn unknown(uri: Uri) -> ApiError {
    let why =
        format!("there is no {} here: /v1/models, /v1/completions and /v1/chat/completions are served", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "unknown_url", why)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let why = format!("{} is not asked by {method}: models by GET, completions by POST", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
