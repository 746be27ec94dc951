//! In front of every route: by which name and from which page is asked, with which key, and how often.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::doors::{Client, Door, Doors};
use crate::http::error::ApiError;
use crate::server::Shared;

/// Turns away pages that have no business here, outermost. Nodes are no browsers, and may know the coordinator by any name.
pub(super) async fn places(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_for_nodes = request.uri().path().starts_with("/shards/");
    match known(&shared.doors, request.headers(), is_for_nodes) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn known(doors: &Doors, headers: &HeaderMap, is_for_nodes: bool) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST);
    if let Some(host) = host.filter(|host| !is_for_nodes && !doors.knows_host(host)) {
        let why = format!(
            "{host:?} is not known as a name of this coordinator: ask it by its address, or start it with --host NAME"
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_host", why));
    }
    if let Some(origin) = text(header::ORIGIN).filter(|origin| !doors.knows_origin(origin, host)) {
        let why = format!("pages of {origin:?} may not ask here: start the coordinator with --cors {origin}");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_origin", why));
    }
    Ok(())
}

/// What browsers need to hear before they let another site's page ask.
pub(super) fn cors(shared: &Arc<Shared>) -> CorsLayer {
    let shared = shared.clone();
    let allowed = move |origin: &HeaderValue, _: &_| origin.to_str().is_ok_and(|origin| shared.doors.allows(origin));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
}

/// Asks for keys where a door has some, and counts who asks for text.
pub(super) async fn doors(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let door = Doors::to(request.uri().path());
    let address = request.extensions().get().map(|ConnectInfo(address): &ConnectInfo<SocketAddr>| address.ip());
    let response = match admit(&shared, door, request.headers(), address.map(Client::at)) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let status = response.status();
    if door == Door::User && (status.is_client_error() || status.is_server_error()) {
        shared.metrics.refused.get_or_create(&[("status", status.as_str().to_owned())]).inc();
    }
    response
}

fn admit(shared: &Shared, door: Door, headers: &HeaderMap, address: Option<Client>) -> Result<(), ApiError> {
    if door == Door::Open {
        return Ok(());
    }
    let doors = &shared.doors;
    let mut client = address;
    if !doors.are_open() {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = bearer
            .and_then(|bearer| bearer.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let known = key.and_then(|(_, key)| doors.unlock(door, key.trim()));
        if known.is_none() {
            // Whoever guesses keys has as many tries as others have requests.
            within_rate(shared, address)?;
            let why = match (key, door) {
                (None, _) => "no API key was sent: put `Authorization: Bearer KEY` in front of the request",
                (Some(_), Door::Admin) => "this is no admin key: ask whoever started the coordinator for one",
                (Some(_), _) => "this API key is not known here: ask whoever started the coordinator for one",
            };
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", why));
        }
        client = known;
    }
    if door == Door::User { within_rate(shared, client) } else { Ok(()) }
}

fn within_rate(shared: &Shared, client: Option<Client>) -> Result<(), ApiError> {
    let (Some(client), Some(per_minute)) = (client, shared.doors.per_minute) else { return Ok(()) };
    shared.take(client).map_err(|wait| {
        let why = format!("this is more than {per_minute} requests a minute: wait {:.1} s", wait.as_secs_f64());
        ApiError::later(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", why, wait)
    })
}
