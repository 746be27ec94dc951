//! Shards for nodes: the manifest and its pieces.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tower_http::services::ServeFile;

use crate::server::Shared;

/// The manifest, or a piece by its SHA-256; ranges are honoured.
pub(super) async fn shard(State(shared): State<Arc<Shared>>, Path(name): Path<String>, request: Request) -> Response {
    let file = match name.as_str() {
        "manifest.json" => "syn1.json".into(),
        hash if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => format!("{hash}.bin"),
        _ => return (StatusCode::NOT_FOUND, "no such shard: ask for manifest.json or a SHA-256\n").into_response(),
    };
    match ServeFile::new(shared.shards().join(file)).try_call(request).await {
        Ok(response) => response.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the shard: {error}\n")).into_response(),
    }
}
