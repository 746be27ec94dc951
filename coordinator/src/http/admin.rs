//! What the coordinator's owner can see and change while it runs: join codes, quarantine, and the nodes that have been here.
//!
//! With `--admin-key` it takes that key; without one these routes answer only to who sits at the coordinator's machine.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use syn1_identity::Key;

use super::asker::Asker;
use super::error::ApiError;
use crate::door::Quarantined;
use crate::server::Shared;
use crate::store::KnownNode;

/// Routes below `/api/admin`.
pub(super) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/codes", get(codes).post(issue))
        .route("/codes/{code}", delete(revoke))
        .route("/quarantine", get(quarantine))
        .route("/quarantine/{key}", delete(release))
        .route("/nodes", get(nodes))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), owner))
}

/// Lets the owner through. Where there are admin keys, one has been asked for by now.
async fn owner(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
    next: Next,
) -> Response {
    if !shared.access.admins.is_empty() || asker.is_here(request.headers(), &shared.front.names) {
        return next.run(request).await;
    }
    let why = "this is for the coordinator's owner: ask at its own machine, or start it with --admin-key";
    ApiError::new(StatusCode::FORBIDDEN, "not_the_owner", why).into_response()
}

async fn codes(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.door.codes(shared.elapsed())).into_response()
}

/// What `POST /api/admin/codes` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// How long the code lasts.
    hours: u16,
}

async fn issue(State(shared): State<Arc<Shared>>, wanted: Result<Json<Wanted>, JsonRejection>) -> Response {
    let lasts = match wanted {
        Ok(Json(Wanted { hours })) if hours > 0 => Duration::from_secs(u64::from(hours) * 3600),
        Ok(_) => return ApiError::field("hours", "hours is 0: a code lasts 1 to 65535 hours").into_response(),
        Err(rejection) => return ApiError::invalid(rejection.body_text()).into_response(),
    };
    match shared.door.issue(shared.elapsed(), lasts) {
        Ok(code) => {
            let url = format!("{}#{}", shared.join_link().page, code.code);
            Json(json!({ "code": code.code, "expires_s": code.expires_s, "url": url })).into_response()
        }
        Err(why) => ApiError::new(StatusCode::CONFLICT, "no_codes", why).into_response(),
    }
}

async fn revoke(State(shared): State<Arc<Shared>>, Path(code): Path<String>) -> Response {
    if shared.door.revoke(shared.elapsed(), &code) {
        return Json(json!({ "revoked": code })).into_response();
    }
    ApiError::new(StatusCode::NOT_FOUND, "no_such_code", "no such code lets in here").into_response()
}

/// A node that is not let in.
#[derive(Serialize)]
struct Kept {
    key: String,
    #[serde(flatten)]
    found: Quarantined,
}

async fn quarantine(State(shared): State<Arc<Shared>>) -> Response {
    let kept = shared.door.quarantined().into_iter().map(|(key, found)| Kept { key: key.to_string(), found });
    Json(kept.collect::<Vec<_>>()).into_response()
}

async fn release(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Response {
    match key.parse::<Key>() {
        Ok(key) if shared.door.release(key) => Json(json!({ "released": key.to_string() })).into_response(),
        Ok(key) => {
            let why = format!("no node with the key {key} is quarantined");
            ApiError::new(StatusCode::NOT_FOUND, "not_quarantined", why).into_response()
        }
        Err(error) => ApiError::invalid(error.to_string()).into_response(),
    }
}

/// A node that has been here.
#[derive(Serialize)]
struct Been {
    key: String,
    #[serde(flatten)]
    node: KnownNode,
}

async fn nodes(State(shared): State<Arc<Shared>>) -> Response {
    let known = shared.known().into_iter().map(|(key, node)| Been { key, node });
    Json(known.collect::<Vec<_>>()).into_response()
}
