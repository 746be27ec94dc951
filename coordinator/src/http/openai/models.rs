//! `GET /v1/models` and `GET /v1/models/NAME`: the model that is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::server::Shared;

/// The list, which has one entry.
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model(&shared)] }))
}

/// The model of this name.
pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    check(&shared, &name)?;
    Ok(Json(model(&shared)))
}

/// Whether this is the model that is served.
pub(super) fn check(shared: &Shared, name: &str) -> Result<(), ApiError> {
    let served = shared.look(|core| core.config().name.clone());
    if name == served {
        return Ok(());
    }
    let why = format!("the model {name:?} is not served here: {served:?} is");
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", why).of("model"))
}

fn model(shared: &Shared) -> Value {
    let id = shared.look(|core| core.config().name.clone());
    json!({ "id": id, "object": "model", "created": shared.since(), "owned_by": "syn1" })
}
