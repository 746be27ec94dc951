//! Connections to the HTTP port: accepted, perhaps encrypted, and bounded in number and patience.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower_http::timeout::TimeoutBody;

use super::asker::Asker;
use super::patient::Patient;
use crate::limits::{HEAD_TIMEOUT, RENEW_EVERY, TAKE_TIMEOUT};
use crate::tls::{Certificates, TLS_HANDSHAKE};

/// Serves `routes` for as long as the coordinator runs, to `most` connections at a time. With certificates, one port speaks
/// both TLS and plain HTTP.
pub(super) async fn serve(listener: TcpListener, most: usize, routes: Router, certificates: Option<&Certificates>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("cannot serve HTTP: {error}"),
    };
    let tls = certificates.map(|certificates| TlsAcceptor::from(certificates.config()));
    let room = Arc::new(Semaphore::new(most));
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
            tracing::warn!("{peer} is turned away: {most} HTTP connections are open already");
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
    let stream = Patient::new(stream, TAKE_TIMEOUT);
    http.serve_connection(TokioIo::new(stream), service).with_upgrades().await.map_err(Error::from)
}

/// A request whose body must go on coming.
pub(super) async fn impatient(request: Request) -> Request {
    request.map(|body| Body::new(TimeoutBody::new(HEAD_TIMEOUT, body)))
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    fn routes() -> Router {
        Router::new().route("/", get(async || "hello"))
    }

    fn asker() -> Asker {
        let here = "127.0.0.1:1".parse().unwrap();
        Asker { peer: here, local: here, tls: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_end_is_not_waited_for() {
        for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n"] {
            let (mut client, server) = tokio::io::duplex(1 << 10);
            let talk = tokio::spawn(talk(server, routes(), asker()));
            client.write_all(begun).await.unwrap();
            // Nothing else is to happen, so the clock jumps to the limit; the test would hang without one.
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(talk.await.unwrap().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_go_on_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let routes = Router::new().route("/", post(async |body: String| body));
        let routes = routes.layer(axum::middleware::map_request(impatient));
        tokio::spawn(talk(server, routes, asker()));
        client.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nbegun").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_answer_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let routes = Router::new().route("/", get(async || "long ".repeat(1 << 16)));
        let talk = tokio::spawn(talk(server, routes, asker()));
        client.write_all(REQUEST).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3600), talk).await;
        assert!(ended.expect("it is waited for").unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_answer_slowly_gets_all_of_it() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let routes = Router::new().route("/", get(async || "long ".repeat(1 << 10)));
        tokio::spawn(talk(server, routes, asker()));
        client.write_all(REQUEST).await.unwrap();
        let (mut answer, mut part) = (Vec::new(), [0; 512]);
        loop {
            tokio::time::sleep(Duration::from_secs(15)).await;
            match client.read(&mut part).await.unwrap() {
                0 => break,
                count => answer.extend_from_slice(&part[..count]),
            }
        }
        assert!(answer.ends_with(b"long ") && answer.len() > 5 << 10);
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_and_a_place_that_is_free_again_is_given() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve(listener, 2, routes(), None).await });
        let answer = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut answer = String::new();
            // A connection that is turned away is closed or reset.
            let _ = stream.write_all(REQUEST).await;
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&REQUEST[..10]).await.unwrap();
            held.push(stream);
        }
        assert_eq!(answer().await, "");
        drop(held);
        while !answer().await.ends_with("hello") {}
    }
}
