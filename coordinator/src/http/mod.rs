//! What the coordinator answers over HTTP, a file per subject: pages for people, shards for nodes, the swarm's state and
//! events, text, nodes that join by WebSocket, and how a device comes in.

mod admin;
mod asker;
mod error;
mod events;
mod generate;
mod guard;
mod join;
mod metrics;
mod node;
mod openai;
mod pages;
mod patient;
mod plain;
mod serve;
mod shards;
mod swarm;
mod web;

use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::limits::{BODY_BYTES, BODY_BYTES_PER_POSITION, MAX_HTTP};
use crate::server::Shared;

/// Serves for as long as the coordinator runs.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let body = BODY_BYTES + shared.look(|core| core.config().max_positions) * BODY_BYTES_PER_POSITION;
    let routes = axum::Router::new()
        .merge(pages::routes())
        .route("/health", get(swarm::health))
        .route("/ready", get(swarm::ready))
        .route("/api/topology", get(swarm::topology))
        .route("/api/plan", get(swarm::plan))
        .route("/api/events", get(events::events))
        .route("/api/generate", post(generate::generate))
        .route("/api/join", get(join::join))
        .route("/ca.crt", get(join::authority))
        .route("/node", get(node::node))
        .route("/shards/{name}", get(shards::shard))
        .route("/web/{name}", get(web::web))
        .route("/metrics", get(metrics::metrics))
        .nest("/v1", openai::routes())
        .nest("/api/admin", admin::routes(&shared))
        .layer(DefaultBodyLimit::max(body))
        .layer(axum::middleware::map_request(serve::impatient))
        // The last is the outermost.
        .layer(from_fn_with_state(shared.clone(), guard::keys))
        .layer(guard::cors(&shared))
        .layer(from_fn_with_state(shared.clone(), guard::places))
        .with_state(shared.clone());
    let routes = match &shared.certificates {
        Some(_) => routes.layer(axum::middleware::from_fn(plain::guard)),
        None => routes,
    };
    serve::serve(listener, MAX_HTTP, routes, shared.certificates.as_ref()).await;
}
