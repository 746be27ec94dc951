//! SYN1 over WebSocket: one binary message is one frame.
//!
//! With the feature `native` (the default) [`WsLink`] is a [`Link`](syn1_core::Link) over any byte stream, plain or TLS, at
//! either end; with `web` there is `WebLink` over a browser's WebSocket, in WebAssembly. What both ends of the handshake agree on is here: where a coordinator takes nodes, which subprotocol they
//! speak, and how a join code travels.
//!
//! A browser can set no header of a WebSocket request but the subprotocols it offers, and what stands in an address ends in
//! logs. So a node offers [`PROTOCOL`] and, if it has a join code, [`code_protocol`] beside it; the coordinator always
//! chooses [`PROTOCOL`].
#![forbid(unsafe_code)]

mod error;
#[cfg(feature = "native")]
mod native;
#[cfg(all(feature = "web", target_family = "wasm"))]
mod web;

pub use error::WsError;
#[cfg(feature = "native")]
pub use native::{ConnectError, WsLink, WsRx, WsTx, accept_key};
#[cfg(all(feature = "web", target_family = "wasm"))]
pub use web::{MOST_WAITING_BYTES, WebLink, WebRx, WebTx};

/// Where a coordinator takes nodes, on its HTTP port.
pub const PATH: &str = "/node";

/// The WebSocket subprotocol of SYN1.
pub const PROTOCOL: &str = "syn1";

/// What a subprotocol that carries a join code begins with.
const CODE: &str = "code.";

/// The subprotocol that carries a join code, offered beside [`PROTOCOL`].
///
/// ```
/// assert_eq!(syn1_transport_ws::code_protocol("K7MPQ2XR"), "code.K7MPQ2XR");
/// ```
#[must_use]
pub fn code_protocol(code: &str) -> String {
    format!("{CODE}{code}")
}

/// The join code among the offered subprotocols, which are separated by commas; `None` if there is none.
///
/// ```
/// assert_eq!(syn1_transport_ws::offered_code("syn1, code.K7MPQ2XR"), Some("K7MPQ2XR"));
/// assert_eq!(syn1_transport_ws::offered_code("syn1"), None);
/// ```
#[must_use]
pub fn offered_code(protocols: &str) -> Option<&str> {
    protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(CODE))
}
