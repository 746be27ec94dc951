//! Plain HTTP on a port that has TLS: what devices need before they trust its certificate, and a way to the rest.

use axum::Extension;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::asker::{Asker, authority_of, is_for_localhost};

/// Sends whoever asks without TLS to the same place with TLS.
///
/// It may go on without TLS at `localhost`, which browsers trust as it is, and for what checks itself: the authority's
/// certificate by its fingerprint, which the coordinator prints, and the model's pieces by their SHA-256, so that nodes that
/// joined by TCP need no certificate.
pub(super) async fn guard(Extension(asker): Extension<Asker>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let checks_itself = path == "/ca.crt" || path == "/health" || path.starts_with("/shards/");
    if asker.tls || checks_itself || is_for_localhost(request.headers()) {
        return next.run(request).await;
    }
    let Some(authority) = authority_of(request.headers()) else {
        return (StatusCode::BAD_REQUEST, "this port speaks HTTPS\n").into_response();
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let there = format!("https://{authority}{path}");
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, there)], "this port speaks HTTPS\n").into_response()
}
