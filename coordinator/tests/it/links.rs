//! What strangers on the node port get: an answer where they can understand one, and a closed link.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{server_config, session_config};
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Server, ServerConfig, StartError};
use syn1_coordinator::update::Event;
use syn1_core::control::{Bye, Loaded, Profile};
use syn1_core::{
    Anonymous, Control, Decoder, Event as SessionEvent, Header, Identity, Kind, Limits, Millis, Reason, Session,
    SessionConfig, encode_control,
};
use syn1_identity::Keys;

/// All that the coordinator says until it closes the link.
fn last_words(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut link = TcpStream::connect(server.tcp()).unwrap();
    link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    link.write_all(bytes).unwrap();
    let mut said = Vec::new();
    // A reset ends what was said as well as an orderly end does.
    let _ = link.read_to_end(&mut said);
    said
}

/// The goodbye among the frames.
fn goodbye(said: &[u8]) -> Option<(Reason, String)> {
    let mut decoder = Decoder::new(vec![0; 4096], Limits::handshake());
    decoder.spare()[..said.len()].copy_from_slice(said);
    decoder.commit(said.len()).unwrap();
    let mut bye = None;
    while let Some(frame) = decoder.next().unwrap() {
        if let Control::Bye(Bye { reason, text }) = Control::decode(frame.payload).unwrap() {
            bye = Some((reason, text.to_owned()));
        }
    }
    bye
}

fn refusal(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> String {
    loop {
        if let Event::Refused { why, .. } = events.blocking_recv().expect("a refusal") {
            return why;
        }
    }
}

#[test]
fn another_major_is_told_so_by_name() {
    let server = Server::start(server_config()).unwrap();
    let mut events = server.events();
    let mut header = [0; 24];
    header[..4].copy_from_slice(b"SYN9");
    let (reason, text) = goodbye(&last_words(&server, &header)).expect("a goodbye");
    assert_eq!(reason, Reason::Version);
    assert!(text.contains("SYN1") && text.contains("SYN9"), "{text}");
    assert!(refusal(&mut events).contains("SYN9"));
}

#[test]
fn what_is_not_syn1_is_turned_away() {
    let server = Server::start(server_config()).unwrap();
    let mut events = server.events();
    let said = last_words(&server, b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n");
    assert_eq!(goodbye(&said).map(|(reason, _)| reason), Some(Reason::Protocol));
    refusal(&mut events);
    assert!(server.topology().nodes.is_empty());
}

#[test]
fn silence_is_not_waited_for() {
    let server = Server::start(server_config()).unwrap();
    let mut events = server.events();
    last_words(&server, b"");
    let why = refusal(&mut events);
    assert!(why.contains("Hello"), "{why}");
}

/// What a node with `keys` says until the link stands or is closed.
fn join(link: &mut TcpStream, keys: Option<&Keys>) {
    let identity: &dyn Identity = keys.map_or(&Anonymous, |keys| keys);
    let config = SessionConfig { prove: keys.is_some(), ..session_config() };
    let mut session = Session::new(config, identity, [3; 32], Millis(0));
    let mut decoder = Decoder::new(vec![0; 4096], Limits::handshake());
    loop {
        let mut out = [0; 2048];
        while let Some(len) = session.poll_transmit(&mut out) {
            link.write_all(&out[..len]).unwrap();
        }
        if session.negotiated().is_some() {
            break;
        }
        let read = link.read(decoder.spare()).unwrap();
        if read == 0 {
            return;
        }
        decoder.commit(read).unwrap();
        while let Some(frame) = decoder.next().unwrap() {
            session.handle(Millis(0), frame).unwrap();
        }
    }
}

#[test]
fn only_nodes_whose_key_is_allowed_may_join() {
    let (friend, stranger) = (Keys::from_secret(&[2; 32]), Keys::from_secret(&[3; 32]));
    let server = Server::start(ServerConfig { allow: vec![friend.public()], ..server_config() }).unwrap();
    let mut events = server.events();
    for (keys, word) in [(Some(&stranger), stranger.public().to_string()), (None, "key".to_owned())] {
        let mut link = TcpStream::connect(server.tcp()).unwrap();
        join(&mut link, keys);
        let why = refusal(&mut events);
        assert!(why.contains(&word), "{why}");
        assert!(server.topology().nodes.is_empty());
    }
    let mut link = TcpStream::connect(server.tcp()).unwrap();
    join(&mut link, Some(&friend));
    let begun = std::time::Instant::now();
    while server.topology().nodes.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the node with the right key is not let in");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The node's end of a link, for a node that takes one frame and never another.
struct Miser {
    link: TcpStream,
    session: Session,
    decoder: Decoder<Vec<u8>>,
}

impl Miser {
    fn join(server: &Server) -> Self {
        let config = SessionConfig { credit: 1, ..session_config() };
        let link = TcpStream::connect(server.tcp()).unwrap();
        link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let session = Session::new(config, Anonymous, [0; 32], Millis(0));
        Self { link, session, decoder: Decoder::new(vec![0; 1 << 20], Limits::handshake()) }
    }

    fn say(&mut self, message: &Control<'_>) {
        let mut out = [0; 2048];
        let frame = encode_control(message, &mut out).unwrap();
        self.link.write_all(frame).unwrap();
    }

    /// Reads until `found` gives something for a message or a frame of data (`None`).
    fn until<T>(&mut self, mut found: impl FnMut(Option<&Control<'_>>) -> Option<T>) -> T {
        loop {
            let mut out = [0; 2048];
            while let Some(len) = self.session.poll_transmit(&mut out) {
                self.link.write_all(&out[..len]).unwrap();
            }
            while let Some(frame) = self.decoder.next().unwrap() {
                let is_data = frame.header.kind != Kind::Control;
                let event = self.session.handle(Millis(0), frame).unwrap();
                let bye;
                let message = match &event {
                    SessionEvent::Control(message) => Some(message),
                    SessionEvent::Bye(said) => {
                        bye = Control::Bye(*said);
                        Some(&bye)
                    }
                    _ => None,
                };
                if let Some(Control::Model(model)) = message {
                    self.session.set_model(model.width, model.vocab);
                }
                let got = if message.is_some() || is_data { found(message) } else { None };
                self.decoder.set_limits(self.session.limits());
                if let Some(got) = got {
                    return got;
                }
            }
            let read = self.link.read(self.decoder.spare()).unwrap();
            assert!(read > 0, "the coordinator closed the link without a goodbye");
            self.decoder.commit(read).unwrap();
        }
    }
}

#[test]
fn a_frame_that_waits_for_credit_holds_back_no_goodbye() {
    let server = Server::start(server_config()).unwrap();
    let mut node = Miser::join(&server);
    node.until(|message| matches!(message, Some(Control::Model(_))).then_some(()));
    let (name, device) = ("miser", "test");
    node.say(&Control::Profile(Profile { name, device, memory_bytes: 1 << 40, read_bytes_per_s: 1, layer_ns: 1 }));
    let generation = node.until(|message| match message {
        Some(Control::Assign(assign)) => Some(assign.generation),
        _ => None,
    });
    node.say(&Control::Loaded(Loaded { generation, fetched_bytes: 0, layer_ns: 1, slots: 1 }));
    // The proof of the chain takes the only credit; it is answered, and no more is granted.
    let request = node.until(|message| match message {
        Some(Control::Open(open)) => Some(open.request),
        _ => None,
    });
    node.until(|message| message.is_none().then_some(()));
    let header = Header::top(request, 1, 0, 1, 1).unwrap();
    node.link.write_all(&header.emit()).unwrap();
    node.link.write_all(&[0; 16]).unwrap();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let ask = Generate { prompt: vec![1], max_tokens: 2, sampling, stop: Vec::new(), ignore_eos: true, speculate: 0 };
    while !server.topology().ready {
        std::thread::yield_now();
    }
    // Behind the proof's next frame, which waits for credit.
    let _generation = server.generate(ask).unwrap();
    let stopping = std::thread::spawn(move || drop(server));
    let reason = node.until(|message| match message {
        Some(Control::Bye(bye)) => Some(bye.reason),
        None => panic!("a data frame came without credit"),
        _ => None,
    });
    assert_eq!(reason, Reason::Shutdown);
    drop(node);
    stopping.join().unwrap();
}

#[test]
fn a_taken_port_is_named() {
    let server = Server::start(server_config()).unwrap();
    let taken = ServerConfig { tcp: server.tcp(), ..server_config() };
    let Err(StartError::Bind { address, .. }) = Server::start(taken).map(drop) else { panic!("the port is taken") };
    assert_eq!(address, server.tcp());
}
