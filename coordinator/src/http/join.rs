//! How a device comes in: the link, its QR code, and the certificate to trust.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::asker::Asker;
use crate::qr::Qr;
use crate::server::Shared;

/// What `GET /api/join` gives.
#[derive(Serialize)]
struct Join {
    /// The page that a device opens to join, without the code.
    url: String,
    /// Whether it needs a code.
    needs_code: bool,
    /// The code, for who may see it.
    code: Option<String>,
    /// Seconds that the code still lasts.
    code_expires_s: Option<u64>,
    /// The link, with the code for who may see it, as an SVG image.
    qr_svg: Option<String>,
    /// SHA-256 of the authority's certificate, in hexadecimal, where the certificate is this machine's own.
    ca_fingerprint: Option<String>,
    /// Where a device gets that certificate before it trusts it.
    ca_url: Option<String>,
}

/// How a device joins.
///
/// The code is shown to who sits at the coordinator's machine and to nobody else: it is the coordinator's owner who lets
/// devices in, and everybody in the network can ask here.
pub(super) async fn join(
    State(shared): State<Arc<Shared>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response {
    let mut link = shared.join_link();
    if !asker.is_here(request.headers(), &shared.front.names) {
        link.code = None;
    }
    let join = Join {
        needs_code: shared.door.needs_code(),
        code: link.code.as_ref().map(|(code, _)| code.to_string()),
        code_expires_s: link.code.as_ref().map(|(_, left)| left.as_secs()),
        qr_svg: Qr::of(&link.url()).map(|qr| qr.svg()),
        ca_fingerprint: link.authority.map(|digest| digest.to_string()),
        ca_url: link.certificate_url(),
        url: link.page,
    };
    // The code in it changes, and is nobody else's.
    ([(header::CACHE_CONTROL, "no-store")], Json(join)).into_response()
}

/// The authority's certificate, by the type that makes phones offer to install it.
pub(super) async fn authority(State(shared): State<Arc<Shared>>) -> Response {
    match shared.certificates.as_ref().and_then(|certificates| certificates.authority_pem()) {
        Some(pem) => ([(header::CONTENT_TYPE, "application/x-x509-ca-cert")], pem).into_response(),
        None => {
            (StatusCode::NOT_FOUND, "this coordinator has no authority of its own: see --tls auto\n").into_response()
        }
    }
}
