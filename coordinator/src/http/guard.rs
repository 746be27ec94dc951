//! In front of every route: by which name and from which page is asked, with which key, and how often.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::asker::{Asker, authority_of};
use crate::access::{Access, Client, Realm, is_known_host};
use crate::http::error::ApiError;
use crate::server::Shared;

/// Turns away pages that have no business here, outermost.
pub(super) async fn places(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
    next: Next,
) -> Response {
    match known(&shared, asker, request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn known(shared: &Shared, asker: Asker, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    if path == "/node" {
        // It looks for itself, and more closely.
        return Ok(());
    }
    // Nodes are no browsers, and may know the coordinator by any name. With TLS the browser has made sure of the name.
    let is_sure = asker.tls || path.starts_with("/shards/");
    let host = authority_of(headers);
    let (names, own) = (&shared.front.names, shared.front.host.as_slice());
    if let Some(host) = host.filter(|host| !is_sure && !is_known_host(host, names) && !is_known_host(host, own)) {
        let why = format!("{host:?} is no name of this coordinator: ask it by its address, or tell it that name");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_host", why));
    }
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let known = |origin: &str| shared.access.knows_origin(origin, host) || may_load(shared, path, origin);
    if let Some(origin) = origin.filter(|origin| !known(origin)) {
        let why = format!("pages of {origin:?} may not ask here: start the coordinator with --cors {origin}");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_origin", why));
    }
    Ok(())
}

/// Whether a page of `origin` may be a node, and asks for what nodes need.
fn may_load(shared: &Shared, path: &str, origin: &str) -> bool {
    path.starts_with("/shards/") && origin.parse().is_ok_and(|origin| shared.front.origins.contains(&origin))
}

/// What browsers need to hear before they let another site's page ask.
pub(super) fn cors(shared: &Arc<Shared>) -> CorsLayer {
    let shared = shared.clone();
    let allowed = move |origin: &HeaderValue, parts: &Parts| {
        let origin = origin.to_str().unwrap_or_default();
        shared.access.lists(origin) || may_load(&shared, parts.uri.path(), origin)
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
}

/// Asks for keys where there are some, and counts who asks for text.
pub(super) async fn keys(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    mut request: Request,
    next: Next,
) -> Response {
    let realm = Access::realm(request.uri().path());
    let response = match admit(&shared, realm, request.headers(), Client::at(asker.peer.ip())) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    let status = response.status();
    if realm == Realm::User && (status.is_client_error() || status.is_server_error()) {
        shared.metrics.refused.get_or_create(&[("status", status.as_str().to_owned())]).inc();
    }
    response
}

/// Whose request it is.
fn admit(shared: &Shared, realm: Realm, headers: &HeaderMap, address: Client) -> Result<Client, ApiError> {
    if realm == Realm::Open {
        return Ok(address);
    }
    let mut client = address;
    if !shared.access.is_open() {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let key = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
        let Some(known) = key.and_then(|key| shared.access.unlock(realm, key)) else {
            // Whoever guesses keys has as many tries as others have requests.
            within_rate(shared, address)?;
            let why = match (key, realm) {
                (None, _) => "no API key was sent: put `Authorization: Bearer KEY` in front of the request",
                (Some(_), Realm::Admin) => "this is no admin key: ask whoever started the coordinator for one",
                (Some(_), _) => "this API key is not known here: ask whoever started the coordinator for one",
            };
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", why));
        };
        client = known;
    }
    if realm == Realm::User {
        within_rate(shared, client)?;
    }
    Ok(client)
}

fn within_rate(shared: &Shared, client: Client) -> Result<(), ApiError> {
    let Some(per_minute) = shared.access.per_minute else { return Ok(()) };
    shared.take(client).map_err(|wait| {
        let why = format!("this is more than {per_minute} requests a minute: wait {:.1} s", wait.as_secs_f64());
        ApiError::later(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", why, wait)
    })
}
