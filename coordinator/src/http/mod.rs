//! What the coordinator answers over HTTP, a file per subject: shards for nodes, the swarm's state, and text.

mod generate;
mod shards;
mod swarm;
mod web;

use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::limits::{BODY_BYTES, BODY_BYTES_PER_POSITION};
use crate::server::Shared;

/// Serves for as long as the coordinator runs.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let body = BODY_BYTES + shared.look(|core| core.config().max_positions) * BODY_BYTES_PER_POSITION;
    let routes = axum::Router::new()
        .route("/", get(swarm::home))
        .route("/health", get(swarm::health))
        .route("/ready", get(swarm::ready))
        .route("/api/topology", get(swarm::topology))
        .route("/api/generate", post(generate::generate))
        .route("/shards/{name}", get(shards::shard))
        .route("/web/{name}", get(web::web))
        .layer(DefaultBodyLimit::max(body))
        .with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener);
    let served = async { axum::serve(listener?, routes).await };
    if let Err(error) = served.await {
        tracing::error!("HTTP ended: {error}");
    }
}
