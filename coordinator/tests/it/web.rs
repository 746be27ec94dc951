//! What the HTTP port answers to those who would join there: programs, pages, and strangers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{server_config, session_config};
use syn1_coordinator::door::JoinCode;
use syn1_coordinator::front::Front;
use syn1_coordinator::server::{Server, ServerConfig};
use syn1_coordinator::tls::Tls;
use syn1_coordinator::update::Event;
use syn1_core::{Control, Header, Link as _, Millis, Reason, Receive, Session, Transmit};
use syn1_core::{Event as SessionEvent, LinkErrorKind};
use syn1_identity::Keys;
use syn1_transport_tcp::{TcpLink, TokioLink};
use syn1_transport_ws::{WsLink, WsRx, WsTx};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn server(front: Front) -> Server {
    Server::start(ServerConfig { front, ..server_config() }).unwrap()
}

fn code(text: &str) -> JoinCode {
    JoinCode::Chosen { code: text.parse().unwrap(), lasts: Duration::from_secs(3600) }
}

/// The answer to a request, as text.
async fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.http()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An opened WebSocket would stay open: its head is enough.
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let mut body = Vec::new();
    if !head.starts_with("http/1.1 101") {
        let _ = stream.read_to_end(&mut body).await;
    }
    head + &String::from_utf8(body).unwrap()
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

/// What a browser sends for `new WebSocket(...)` in a page of `origin`, but that the connection ends with a refusal.
fn open(host: &str, origin: &str, protocol: &str) -> String {
    format!(
        "GET /node HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\norigin: {origin}\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
    )
}

#[tokio::test]
async fn own_and_listed_pages_may_open_a_link_and_others_may_not() {
    let server = server(Front { origins: vec!["https://chat.example.org".parse().unwrap()], ..Front::default() });
    let host = server.http().to_string();
    for origin in [format!("http://{host}"), "https://chat.example.org".into()] {
        let answer = ask(&server, &open(&host, &origin, "syn1, code.ABCDEFGH")).await;
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        assert!(answer.contains("sec-websocket-protocol: syn1\r\n"), "{answer}");
    }
    for (host, origin) in [(host.as_str(), "http://evil.example"), ("evil.example", "http://evil.example")] {
        let answer = ask(&server, &open(host, origin, "syn1")).await;
        assert!(answer.starts_with("http/1.1 403") && answer.contains("--origin http://evil.example"), "{answer}");
    }
}

#[tokio::test]
async fn what_asks_for_no_link_is_told_how() {
    let server = server(Front::default());
    let answer = ask(&server, &get("/node", "localhost")).await;
    assert!(answer.starts_with("http/1.1 426") && answer.contains("syn1 node --join"), "{answer}");
    let answer =
        ask(&server, &open("localhost", "http://localhost", "chat").replace("origin: http://localhost\r\n", "")).await;
    assert!(answer.starts_with("http/1.1 426") && answer.contains("subprotocol syn1"), "{answer}");
}

#[tokio::test]
async fn plain_http_leads_to_https_but_for_what_checks_itself() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(Front { tls: Tls::Auto { folder: folder.path().to_owned() }, ..Front::default() });
    let host = format!("192.168.1.10:{}", server.http().port());
    for path in ["/", "/join?x=1", "/api/topology", "/node"] {
        let answer = ask(&server, &get(path, &host)).await;
        assert!(answer.starts_with("http/1.1 308"), "{answer}");
        assert!(answer.contains(&format!("location: https://{host}{path}\r\n")), "{answer}");
    }
    let authority = ask(&server, &get("/ca.crt", &host)).await;
    assert!(authority.starts_with("http/1.1 200") && authority.contains("application/x-x509-ca-cert"), "{authority}");
    assert!(authority.contains("BEGIN CERTIFICATE") && !authority.contains("PRIVATE"), "{authority}");
    let shard = ask(&server, &get("/shards/nothing", &host)).await;
    assert!(shard.starts_with("http/1.1 404") && shard.contains("no such shard"), "{shard}");
    // A browser trusts localhost as it is.
    assert!(ask(&server, &get("/", "localhost")).await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn without_an_authority_there_is_no_certificate_to_install() {
    let answer = ask(&server(Front::default()), &get("/ca.crt", "localhost")).await;
    assert!(answer.starts_with("http/1.1 404") && answer.contains("--tls auto"), "{answer}");
}

#[tokio::test]
async fn the_code_is_shown_to_whoever_sits_at_the_machine_and_to_nobody_else() {
    let host = Some("my-tunnel.example".into());
    let server = server(Front { code: code("abcdefgh"), host, ..Front::default() });
    let here = ask(&server, &get("/api/join", "localhost")).await;
    assert!(here.contains("\"code\":\"ABCD-EFGH\"") && here.contains("no-store"), "{here}");
    let tunnel = ask(&server, &get("/api/join", "my-tunnel.example")).await;
    assert!(!tunnel.contains("ABCD"), "{tunnel}");
    assert!(tunnel.contains("\"code\":null") && tunnel.contains("\"needs_code\":true"), "{tunnel}");
    let page = get("/api/join", "localhost").replace("\r\n\r\n", "\r\norigin: http://evil.example\r\n\r\n");
    for answer in [ask(&server, &get("/api/join", "rebound.example")).await, ask(&server, &page).await] {
        assert!(answer.starts_with("http/1.1 403") && !answer.contains("ABCD"), "{answer}");
    }
}

type Rx = WsRx<TcpStream>;
type Tx = WsTx<TcpStream>;

async fn join(server: &Server, code: Option<&str>) -> (Rx, Tx) {
    let stream = TcpStream::connect(server.http()).await.unwrap();
    WsLink::client(stream, &server.http().to_string(), code, 1 << 20).await.unwrap().split()
}

/// What a node with `keys` hears before anything else than greetings: a model's name, or a goodbye.
async fn greet<R: Receive, T: Transmit>(link: &mut (R, T), keys: &Keys) -> Result<String, (Reason, String)> {
    let mut session = Session::new(session_config(), keys.clone(), [3; 32], Millis(0));
    let (rx, tx) = link;
    loop {
        let mut out = [0; 2048];
        while let Some(len) = session.poll_transmit(&mut out) {
            let payload = &out[Header::LEN..len];
            tx.send(&Header::control(payload.len() as u32), payload).await.unwrap();
        }
        match session.handle(Millis(0), rx.recv().await.unwrap()).unwrap() {
            SessionEvent::Control(Control::Model(model)) => return Ok(model.name.to_owned()),
            SessionEvent::Bye(bye) => return Err((bye.reason, bye.text.to_owned())),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_node_with_the_code_is_let_in_and_one_without_hears_why() {
    let server = server(Front { code: code("abcdefgh"), ..Front::default() });
    let keys = Keys::from_secret(&[2; 32]);
    for (offered, word) in [(None, "a join code is needed"), (Some("WRONGONE"), "wrong or has expired")] {
        let (reason, text) = greet(&mut join(&server, offered).await, &keys).await.unwrap_err();
        assert_eq!(reason, Reason::Refused);
        assert!(text.contains(word), "{text}");
    }
    let mut link = join(&server, Some("abcd-efgh")).await;
    assert_eq!(greet(&mut link, &keys).await, Ok("toy".into()));
    // It is known now, and comes back also without the code.
    drop(link);
    assert_eq!(greet(&mut join(&server, None).await, &keys).await, Ok("toy".into()));
    let stranger = Keys::from_secret(&[4; 32]);
    assert!(greet(&mut join(&server, None).await, &stranger).await.is_err());
}

#[tokio::test]
async fn a_message_beyond_the_limits_ends_the_link_with_a_goodbye() {
    let server = server(Front::default());
    let mut events = server.events();
    let (mut rx, mut tx) = join(&server, None).await;
    // Before Hello a frame has a control message's length at most.
    let long = Header::control(2000);
    tx.send(&long, &[0; 2000]).await.unwrap();
    let bye = loop {
        match rx.recv().await {
            Ok(frame) => {
                if let Ok(Control::Bye(bye)) = Control::decode(frame.payload) {
                    break Some((bye.reason, bye.text.to_owned()));
                }
            }
            // The rest of the message may be in the way of the goodbye.
            Err(error) => {
                assert_eq!(syn1_core::LinkError::kind(&error), LinkErrorKind::Closed, "{error}");
                break None;
            }
        }
    };
    assert!(bye.is_none_or(|(reason, text)| reason == Reason::Protocol && text.contains("2024 bytes")));
    let Some(Event::Refused { why, .. }) = events.recv().await else { panic!("no refusal") };
    assert!(why.contains("a message of 2024 bytes"), "{why}");
}

#[tokio::test]
async fn a_certificate_names_localhost_and_lets_a_client_of_its_authority_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(Front { tls: Tls::Auto { folder: folder.path().to_owned() }, ..Front::default() });
    let authority = ask(&server, &get("/ca.crt", "localhost")).await;
    let mut stream = tls(server.http(), authority.as_bytes()).await;
    stream.write_all(get("/health", "127.0.0.1").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test]
async fn the_port_for_plain_tcp_speaks_tls_as_well_where_there_is_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(Front { tls: Tls::Auto { folder: folder.path().to_owned() }, ..Front::default() });
    let authority = ask(&server, &get("/ca.crt", "localhost")).await;
    let stream = tls(server.tcp(), authority.as_bytes()).await;
    let mut link = TokioLink::over(stream, 1 << 20).split();
    assert_eq!(greet(&mut link, &Keys::from_secret(&[2; 32])).await, Ok("toy".into()));
    // Boards go on as they do.
    let stream = TcpStream::connect(server.tcp()).await.unwrap();
    let mut link = TcpLink::from_stream(stream, 1 << 20).unwrap().split();
    assert_eq!(greet(&mut link, &Keys::from_secret(&[3; 32])).await, Ok("toy".into()));
}

/// A TLS connection that trusts the authority in `pem` alone.
async fn tls(address: SocketAddr, pem: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
