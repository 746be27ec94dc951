//! `GET /metrics`: figures for monitoring.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::server::Shared;

/// OpenMetrics text, which Prometheus reads.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    shared.look(|core| shared.metrics.read(core));
    let text = shared.metrics.encode();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
