//! A node's connection to its coordinator, whatever way its address says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use syn1_transport_tcp::{TcpLink, TokioLink};
use syn1_transport_ws::{ConnectError, WsLink};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::join::{Join, Way};
use crate::serve::{HostError, MAX_PAYLOAD};
use crate::trust::{Roots, Trust};

/// A link of one of the four kinds; with TLS also the authorities that further connections may trust.
pub(crate) enum AnyLink {
    Tcp(TcpLink),
    Tls(Box<TokioLink<TlsStream<TcpStream>>>, Roots),
    Ws(WsLink<TcpStream>),
    Wss(Box<WsLink<TlsStream<TcpStream>>>, Roots),
}

/// Makes connections to one coordinator.
pub(crate) struct Connector {
    join: Join,
    trust: Trust,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// # Errors
    /// The address asks for TLS, and what is to be trusted cannot be read.
    pub(crate) fn new(join: &Join, trust: &Trust) -> Result<Self, HostError> {
        let tls = match join.way() {
            Way::Tcp | Way::Ws => None,
            Way::Wss => Some(Arc::new(trust.config(HTTP)?)),
            Way::Tls => Some(Arc::new(trust.config(&[])?)),
        };
        Ok(Self { join: join.clone(), trust: trust.clone(), tls })
    }

    /// Tries the addresses that the name has, one after the other.
    pub(crate) async fn connect(&self) -> Result<AnyLink, HostError> {
        let (host, port) = self.join.address();
        let resolve = |cause: String| HostError::Resolve { host: host.to_owned(), cause };
        let addresses: Vec<_> =
            tokio::net::lookup_host((host, port)).await.map_err(|err| resolve(err.to_string()))?.collect();
        let mut last = resolve("it has no address".to_owned());
        for address in addresses {
            last = match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_to(address)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(err)) => err,
                Err(_) => HostError::Silent { join: self.join.clone(), seconds: CONNECT_TIMEOUT.as_secs() },
            };
        }
        Err(last)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<AnyLink, HostError> {
        let stream = TcpStream::connect(address).await.map_err(|err| self.failed(err))?;
        stream.set_nodelay(true).map_err(|err| self.failed(err))?;
        let (authority, code) = (self.join.authority(), self.join.code());
        let Some(tls) = &self.tls else {
            if self.join.way() == Way::Tcp {
                let link = TcpLink::from_stream(stream, MAX_PAYLOAD);
                return link.map(AnyLink::Tcp).map_err(|err| self.failed(err));
            }
            let link = WsLink::client(stream, &authority, code, MAX_PAYLOAD).await;
            return link.map(AnyLink::Ws).map_err(|err| self.no_web_socket(err));
        };
        let name = ServerName::try_from(self.join.address().0.to_owned());
        let name = name.map_err(|err| self.failed(io::Error::other(err)))?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|err| self.untrusted(err))?;
        let roots = self.trust.roots(stream.get_ref().1.peer_certificates().unwrap_or_default())?;
        if self.join.way() == Way::Tls {
            return Ok(AnyLink::Tls(Box::new(TokioLink::over(stream, MAX_PAYLOAD)), roots));
        }
        let link = WsLink::client(stream, &authority, code, MAX_PAYLOAD).await;
        link.map(|link| AnyLink::Wss(Box::new(link), roots)).map_err(|err| self.no_web_socket(err))
    }

    fn failed(&self, cause: io::Error) -> HostError {
        let join = self.join.clone();
        match cause.kind() {
            io::ErrorKind::ConnectionRefused => HostError::Refused(join),
            _ => HostError::Connect { join, cause },
        }
    }

    /// Why TLS was not agreed on, in the words of what a person can do about it.
    fn untrusted(&self, error: io::Error) -> HostError {
        let join = self.join.clone();
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                let cause = match self.trust {
                    Trust::Fingerprint(_) => "it shows no authority with that fingerprint".to_owned(),
                    _ => "nobody that this machine trusts vouches for it".to_owned(),
                };
                HostError::Untrusted { join, cause }
            }
            Some(error @ rustls::Error::InvalidCertificate(_)) => {
                HostError::Untrusted { join, cause: error.to_string() }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                let plain = if join.way() == Way::Tls { "tcp" } else { "ws" };
                let what = format!("it speaks no TLS: join by {plain}:// if you trust the network");
                HostError::NoCoordinator { join, what }
            }
            _ => self.failed(error),
        }
    }

    fn no_web_socket(&self, error: ConnectError) -> HostError {
        let join = self.join.clone();
        let what = match error {
            ConnectError::Socket(cause) => return self.failed(cause),
            ConnectError::Status(301 | 302 | 307 | 308) if join.way() == Way::Ws => {
                "it wants TLS: join by wss://".into()
            }
            ConnectError::Status(503) => "it has no room for another node".into(),
            ConnectError::Status(status) => {
                format!("it answered HTTP {status}: is that the HTTP port of a syn1 coordinator?")
            }
            ConnectError::Handshake(what) => format!("{what}: is that the HTTP port of a syn1 coordinator?"),
        };
        HostError::NoCoordinator { join, what }
    }
}

/// What the WebSocket begins with inside TLS.
const HTTP: &[&[u8]] = &[b"http/1.1"];

/// A machine on the local network answers within this or not at all, TLS and the WebSocket's handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
