//! What the coordinator answers over HTTP, a file per subject: shards for nodes, the swarm's state, and text.

mod error;
mod generate;
mod guard;
mod metrics;
mod openai;
mod shards;
mod swarm;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
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
        .route("/metrics", get(metrics::metrics))
        .nest("/v1", openai::routes())
        .layer(DefaultBodyLimit::max(body))
        // The last is the outermost.
        .layer(from_fn_with_state(shared.clone(), guard::doors))
        .layer(guard::cors(&shared))
        .layer(from_fn_with_state(shared.clone(), guard::places))
        .with_state(shared)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::from_std(listener);
    let served = async { axum::serve(listener?, routes).await };
    if let Err(error) = served.await {
        tracing::error!("HTTP ended: {error}");
    }
}
