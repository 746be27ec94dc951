//! The swarm's state.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::server::Shared;

/// That the process answers, and nothing more.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// For people: what is served, and by whom.
pub(super) async fn home(State(shared): State<Arc<Shared>>) -> String {
    let topology = shared.look(|core| core.topology());
    let mut page = format!("syn1 serves {} ({} layers)\n", topology.model, topology.layers);
    if !shared.access.is_open() {
        return page + "\nText and the swarm's state are for those with an API key: `Authorization: Bearer KEY`.\n";
    }
    page += &match topology.waiting_for {
        None => "ready: a token has passed through every layer\n\n".into(),
        Some(what) => format!("not ready: {what}\n\n"),
    };
    for node in topology.nodes {
        let layers = node.layers.map_or_else(|| "-".into(), |(first, end)| format!("layers {first}..{end}"));
        page += &format!("{:20} {:12} {:8} {}\n", node.name, layers, node.state, node.device);
    }
    page + "\nPOST /api/generate {\"prompt\": \"...\"}, or messages, streams text; GET /api/topology tells the rest, GET \
            /api/events what happens. In a browser this address is a page to chat.\n"
}

/// Whether a real token has passed through every layer; else 503 and what is waited for.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.look(|core| core.topology().waiting_for) {
        None => "ready\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")).into_response(),
    }
}

/// Everything there is to see, as JSON.
pub(super) async fn topology(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.look(|core| core.topology())).into_response()
}

/// Who takes which layers, what a token takes by prediction, and why; 503 while there is no plan.
pub(super) async fn plan(State(shared): State<Arc<Shared>>) -> Response {
    let (outline, waits_for) = shared.look(|core| (core.outline(), core.topology().waiting_for));
    match outline {
        Some(outline) => Json(outline).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", waits_for.unwrap_or_default())).into_response(),
    }
}
