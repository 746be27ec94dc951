//! `GET /metrics`: figures for monitoring.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::server::Shared;

/// OpenMetrics text, which Prometheus reads.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    shared.look(|core| {
        let slots = core.chain.as_ref().map_or(0, |chain| chain.slots);
        shared.metrics.read(&core.topology(), slots, &core.recovery(), &core.checks());
    });
    let text = shared.metrics.encode();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
