//! Connections to the HTTP port: accepted, perhaps encrypted, and bounded in number and patience.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::asker::Asker;
use crate::limits::{HEAD_TIMEOUT, MAX_HTTP, RENEW_EVERY};
use crate::tls::Certificates;

/// Serves `routes` for as long as the coordinator runs. With certificates, one port speaks both TLS and plain HTTP.
pub(super) async fn serve(listener: TcpListener, routes: Router, certificates: Option<&Certificates>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("cannot serve HTTP: {error}"),
    };
    let tls = certificates.map(|certificates| TlsAcceptor::from(certificates.config()));
    let room = Arc::new(Semaphore::new(MAX_HTTP));
    let mut renew = tokio::time::interval(RENEW_EVERY);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = renew.tick(), if certificates.is_some() => {
                if let Some(Err(error)) = certificates.map(Certificates::renew) {
                    tracing::warn!("the certificate stays as it is: {error}");
                }
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: open connections go on, new ones wait.
                tracing::warn!("cannot accept an HTTP connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::warn!("{peer} is turned away: {MAX_HTTP} HTTP connections are open already");
            continue;
        };
        let (routes, tls) = (routes.clone(), tls.clone());
        tokio::spawn(async move {
            // A client that goes away in the middle is no news.
            if let Err(error) = connection(stream, routes, tls).await {
                tracing::debug!("HTTP connection from {peer}: {error}");
            }
            drop(place);
        });
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn connection(stream: TcpStream, routes: Router, tls: Option<TlsAcceptor>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut first = [0];
    let peeked = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await??;
    match tls {
        Some(tls) if peeked == 1 && first[0] == TLS_HANDSHAKE => {
            let stream = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await??;
            talk(stream, routes, Asker { peer, local, tls: true }).await
        }
        _ => talk(stream, routes, Asker { peer, local, tls: false }).await,
    }
}

/// Answers requests until one of the two has enough, or until a node's link takes the connection over.
async fn talk<S>(stream: S, routes: Router, asker: Asker) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes.layer(Extension(asker)));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.serve_connection(TokioIo::new(stream), service).with_upgrades().await.map_err(Error::from)
}

/// What the first record of a TLS connection begins with; no HTTP method does.
const TLS_HANDSHAKE: u8 = 22;
