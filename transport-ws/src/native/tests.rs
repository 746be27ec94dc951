use syn1_core::testing::{Harness, LIMITS, links};
use syn1_core::{Codec, Control, DecodeError, LinkError, LinkErrorKind, encode_control};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{PROTOCOL, offered_code};

type TcpWs = WsLink<TcpStream>;

struct Loopback;

async fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
    (here.unwrap(), there.unwrap().0)
}

/// Takes a request for a WebSocket and gives its head in lower case.
async fn request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let value = |line: &'h str| line.split_once(": ").filter(|line| line.0.eq_ignore_ascii_case(name));
    head.lines().find_map(value).unwrap().1
}

async fn upgrade(stream: &mut TcpStream) -> String {
    let head = request(stream).await;
    let accept = accept_key(header(&head, "sec-websocket-key").as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {PROTOCOL}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

async fn pair(max_payload: u32) -> (TcpWs, TcpWs) {
    let (node, mut coordinator) = streams().await;
    let upgraded = async {
        upgrade(&mut coordinator).await;
        WsLink::server(coordinator, max_payload)
    };
    let (node, coordinator) = tokio::join!(WsLink::client(node, "localhost:1", None, max_payload), upgraded);
    (node.unwrap(), coordinator)
}

/// A link, and a peer that speaks WebSocket but not SYN1.
async fn stranger() -> (WebSocket<Socket<TcpStream>>, TcpWs) {
    let (stranger, link) = streams().await;
    let stranger = Socket::new(stranger, &Arc::new(Waiters::default()));
    let config = WebSocketConfig::default().write_buffer_size(0);
    (WebSocket::from_raw_socket(stranger, Role::Client, Some(config)), WsLink::server(link, LIMITS.max_payload))
}

/// What a stranger hears next; it looks until there is something.
async fn hear(stranger: &mut WebSocket<Socket<TcpStream>>) -> Message {
    loop {
        match stranger.read() {
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::task::yield_now().await;
            }
            message => return message.unwrap(),
        }
    }
}

fn ping() -> (Header, Vec<u8>) {
    let mut buffer = [0; 64];
    let frame = encode_control(&Control::Ping(7), &mut buffer).unwrap();
    (Header::control((frame.len() - Header::LEN) as u32), frame[Header::LEN..].to_vec())
}

fn ping_message() -> Vec<u8> {
    let mut buffer = [0; 64];
    encode_control(&Control::Ping(7), &mut buffer).unwrap().to_vec()
}

impl Harness for Loopback {
    type Link = TcpWs;

    async fn pair(&mut self) -> (TcpWs, TcpWs) {
        pair(LIMITS.max_payload).await
    }
}

#[tokio::test]
async fn web_socket_links_conform() {
    links(&mut Loopback).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_work_on_two_threads_at_once() {
    let (a, b) = pair(LIMITS.max_payload).await;
    let ((mut a_rx, mut a_tx), (mut b_rx, mut b_tx)) = (a.split(), b.split());
    let sender = tokio::spawn(async move {
        let (header, payload) = ping();
        for _ in 0..500 {
            a_tx.send(&header, &payload).await.unwrap();
        }
        a_tx
    });
    let echo = tokio::spawn(async move {
        for _ in 0..500 {
            let (header, payload) = b_rx.recv().await.map(|frame| (frame.header, frame.payload.to_vec())).unwrap();
            b_tx.send(&header, &payload).await.unwrap();
        }
        (b_rx, b_tx)
    });
    for _ in 0..500 {
        assert_eq!(a_rx.recv().await.unwrap().header, ping().0);
    }
    sender.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn a_node_asks_for_syn1_with_its_code_and_hears_what_came_with_the_answer() {
    let (node, mut coordinator) = streams().await;
    let server = async {
        let head = upgrade(&mut coordinator).await;
        let (header, payload) = ping();
        let (_rx, mut tx) = WsLink::server(coordinator, 0).split();
        tx.send(&header, &payload).await.unwrap();
        (head, _rx, tx)
    };
    let (node, (head, ..)) = tokio::join!(WsLink::client(node, "[::1]:7780", Some("K7MPQ2XR"), 0), server);
    assert!(head.starts_with("GET /node HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), "[::1]:7780");
    let offered = header(&head, "sec-websocket-protocol");
    assert_eq!((offered.split(',').next(), offered_code(offered)), (Some(PROTOCOL), Some("K7MPQ2XR")));
    assert_eq!(node.unwrap().split().0.recv().await.unwrap().header, ping().0);
}

#[tokio::test]
async fn what_opens_no_web_socket_is_named_by_its_status_or_its_fault() {
    for (answer, status) in [
        ("HTTP/1.1 308 Permanent Redirect\r\nlocation: https://elsewhere/node\r\ncontent-length: 0\r\n\r\n", Some(308)),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Some(404)),
        ("HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n", None),
        ("SSH-2.0-OpenSSH_10.0\r\n", None),
    ] {
        let (node, mut server) = streams().await;
        let answering = async {
            request(&mut server).await;
            server.write_all(answer.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (node, ()) = tokio::join!(WsLink::client(node, "localhost:1", None, 0), answering);
        match (node.map(drop).unwrap_err(), status) {
            (ConnectError::Status(got), Some(status)) => assert_eq!(got, status),
            (ConnectError::Handshake(_), None) => {}
            (error, _) => panic!("{answer} gave {error:?}"),
        }
    }
}

#[tokio::test]
async fn text_is_refused_and_the_close_frame_says_so() {
    let (mut stranger, link) = stranger().await;
    let (mut rx, tx) = link.split();
    stranger.send(Message::text("hello")).unwrap();
    for _ in 0..2 {
        let error = rx.recv().await.unwrap_err();
        assert_eq!((error.kind(), error), (LinkErrorKind::Protocol, WsError::Text));
    }
    drop(tx);
    let Message::Close(Some(close)) = hear(&mut stranger).await else { panic!("no reason to close") };
    assert_eq!(close.code, CloseCode::Unsupported);
    assert!(close.reason.contains("binary"), "{}", close.reason);
}

#[tokio::test]
async fn a_message_longer_than_the_limits_is_refused_by_its_header() {
    for (limits, most) in [(None, longest(0)), (Some(LIMITS), longest(LIMITS.max_payload))] {
        let (node, mut stranger) = streams().await;
        let (mut rx, _tx) = WsLink::server(node, LIMITS.max_payload).split();
        if let Some(limits) = limits {
            rx.set_limits(limits);
        }
        // A masked binary message of one byte more, of which nothing but the header comes.
        let mut header = vec![0x82, 0x80 | 127];
        header.extend((most as u64 + 1).to_be_bytes());
        header.extend([0; 4]);
        stranger.write_all(&header).await.unwrap();
        let error = rx.recv().await.unwrap_err();
        assert_eq!(error, WsError::TooLong { bytes: most + 1, limit: most });
        assert_eq!(error.kind(), LinkErrorKind::Protocol);
    }
}

#[tokio::test]
async fn fragments_count_together() {
    let (node, mut stranger) = streams().await;
    let (mut rx, _tx) = WsLink::server(node, LIMITS.max_payload).split();
    let (first, rest, len) = (0x02, 0x00, 1000_u16);
    let fragment = |opcode: u8| [&[opcode, 0x80 | 126][..], &len.to_be_bytes(), &[0; 4], &[0; 1000]].concat();
    stranger.write_all(&[fragment(first), fragment(rest)].concat()).await.unwrap();
    assert!(matches!(rx.recv().await, Err(WsError::TooLong { bytes: 2000, .. })));
}

#[tokio::test]
async fn a_message_is_exactly_one_frame() {
    for (message, need) in [(vec![], 24), (ping_message()[..25].to_vec(), 26), ([ping_message(), vec![0]].concat(), 26)]
    {
        let (mut stranger, link) = stranger().await;
        let (mut rx, _tx) = link.split();
        let have = message.len();
        stranger.send(Message::binary(message)).unwrap();
        let error = rx.recv().await.unwrap_err();
        assert_eq!(error.kind(), LinkErrorKind::Protocol, "another connection would bring the same");
        assert_eq!(error, WsError::Decode(DecodeError::Torn { have, need }));
    }
}

#[tokio::test]
async fn frames_to_ignore_and_pings_are_passed_over_and_pings_are_answered() {
    let (mut stranger, link) = stranger().await;
    let (mut rx, _tx) = link.split();
    let mut ignorable = ping_message();
    ignorable[4] = 0xfe;
    stranger.send(Message::binary(ignorable)).unwrap();
    stranger.send(Message::Ping("are you there".into())).unwrap();
    stranger.send(Message::binary(ping_message())).unwrap();
    assert_eq!(rx.recv().await.unwrap().header, ping().0);
    assert_eq!(hear(&mut stranger).await, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn the_peers_reason_to_close_is_told() {
    let (mut stranger, link) = stranger().await;
    let (mut rx, mut tx) = link.split();
    stranger.close(Some(CloseFrame { code: CloseCode::Away, reason: "the tab is closed".into() })).unwrap();
    let error = rx.recv().await.unwrap_err();
    assert_eq!(error, WsError::Closed("the tab is closed".into()));
    let (header, payload) = ping();
    assert_eq!(tx.send(&header, &payload).await.unwrap_err().kind(), LinkErrorKind::Closed);
}

#[tokio::test]
async fn an_end_in_order_is_a_close_frame() {
    let (mut stranger, link) = stranger().await;
    drop(link);
    let Message::Close(Some(close)) = hear(&mut stranger).await else { panic!("no close frame") };
    assert_eq!(close.code, CloseCode::Normal);
}

#[tokio::test]
async fn another_major_version_is_named() {
    let (mut stranger, link) = stranger().await;
    let (mut rx, _tx) = link.split();
    let mut message = ping_message();
    message[3] = b'2';
    stranger.send(Message::binary(message)).unwrap();
    let error = rx.recv().await.unwrap_err();
    assert_eq!((error.kind(), error.version()), (LinkErrorKind::Protocol, Some(b'2')));
}

#[tokio::test]
async fn a_frame_longer_than_the_link_was_made_for_is_not_sent_and_harmless() {
    let (a, b) = pair(2000).await;
    let ((_a_rx, mut tx), (mut rx, _b_tx)) = (a.split(), b.split());
    let long = Header::activation(1, 0, 0, Codec::F32, 1, 1024).unwrap();
    assert!(matches!(tx.send(&long, &[0; 4096]).await, Err(WsError::Encode(_))));
    let (header, payload) = ping();
    tx.send(&header, &payload).await.unwrap();
    assert_eq!(rx.recv().await.unwrap().header, header);
}
