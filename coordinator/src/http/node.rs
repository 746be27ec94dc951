//! `GET /node`: a node joins over a WebSocket.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use syn1_transport_ws::{PROTOCOL, WsLink, accept_key, offered_code};

use super::asker::Asker;
use crate::limits::HEAD_TIMEOUT;
use crate::link::Place;
use crate::server::Shared;

/// Upgrades the connection to a link.
///
/// A page is not told the status of an answer that opens no WebSocket. So whoever may not join for a reason that a person can
/// mend, a wrong code say, gets a link and a goodbye that says why; only what no page of this coordinator sends is refused
/// here.
pub(super) async fn node(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    mut request: Request,
) -> Response {
    let headers = request.headers();
    if let Err(why) = asker.may_link(headers, &shared.front.origins, &shared.front.names) {
        tracing::warn!("{} is turned away: {why}", asker.peer);
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let protocols = protocols.collect::<Vec<_>>().join(",");
    let key = match handshake(headers, &protocols) {
        Ok(key) => key.clone(),
        Err(why) => {
            let upgrade = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, VERSION)];
            return (StatusCode::UPGRADE_REQUIRED, upgrade, format!("{why}\n")).into_response();
        }
    };
    let place = match Place::take(&shared) {
        Ok(place) => place,
        Err(why) => {
            tracing::warn!("{} is turned away: {why}", asker.peer);
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
        }
    };
    let knock = shared.door.knock(shared.elapsed(), asker.peer.ip(), offered_code(&protocols));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match tokio::time::timeout(HEAD_TIMEOUT, upgraded).await {
            Ok(Ok(stream)) => {
                let link = WsLink::server(TokioIo::new(stream), shared.max_payload);
                place.link(shared, asker.peer, knock, link).await;
            }
            Ok(Err(error)) => tracing::debug!("{} opened no WebSocket: {error}", asker.peer),
            Err(_) => tracing::debug!("{} did not take the answer that opens a WebSocket", asker.peer),
        }
    });
    let accept = accept_key(key.as_bytes());
    let answer = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, answer, [(header::SEC_WEBSOCKET_ACCEPT, accept)]).into_response()
}

/// The key of a request for a WebSocket that speaks SYN1 (RFC 6455, section 4.2.1).
///
/// # Errors
/// What is missing.
fn handshake<'h>(headers: &'h HeaderMap, protocols: &str) -> Result<&'h HeaderValue, &'static str> {
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err("nodes join here by WebSocket: syn1 node --join ws://THIS-MACHINE:PORT");
    }
    if !has(header::SEC_WEBSOCKET_VERSION, VERSION) {
        return Err("this coordinator speaks version 13 of WebSocket");
    }
    if !protocols.split(',').any(|protocol| protocol.trim() == PROTOCOL) {
        return Err("a node offers the subprotocol syn1");
    }
    headers.get(header::SEC_WEBSOCKET_KEY).ok_or("there is no sec-websocket-key")
}

/// The only version of WebSocket.
const VERSION: &str = "13";
