//! The conversation that `examples/node.c` must have: a coordinator's session and a node's, both of the core, talk, and what
//! they say is what `examples/conversation.h` holds.
//!
//! `SYN1_BLESS=1 cargo test -p syn1-c --test conversation` writes the file.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use syn1_core::codec::{decode, encode};
use syn1_core::control::{Assign, Bye, Closed, Loaded, Model, Open, Output, Profile, Reason};
use syn1_core::{
    Anonymous, Codec, CodecSet, Control, Event, Flags, Frame, Header, Kind, Millis, Role, Session, SessionConfig,
    encode_control, encode_frame,
};

const WIDTH: u16 = 16;

/// An end of the link, and what it has said so far.
struct End {
    session: Session,
    said: Vec<u8>,
}

impl End {
    fn new(role: Role, agent: &'static str) -> Self {
        let (codecs, flags) = (CodecSet::ACTIVATIONS, Flags::NONE);
        let model = [0; 32];
        let config = SessionConfig {
            role,
            agent,
            codecs,
            flags,
            max_payload: 1024,
            max_rows: 1,
            credit: 2,
            model,
            prove: false,
        };
        Self { session: Session::new(config, Anonymous, [0; 32], Millis(0)), said: Vec::new() }
    }

    fn control(&mut self, message: Control<'_>) {
        let mut out = [0; 2048];
        self.said.extend_from_slice(encode_control(&message, &mut out).unwrap());
    }

    fn row(&mut self, position: u32, codec: Codec, row: &[f32]) {
        assert!(self.session.take_credit());
        let mut payload = [0; 64];
        let len = encode(codec, row, WIDTH, &mut payload).unwrap();
        let header = Header::activation(1, 0, position, codec, 1, WIDTH).unwrap();
        let mut out = [0; 128];
        self.said.extend_from_slice(encode_frame(&header, &payload[..len], &mut out).unwrap());
    }

    fn flush(&mut self) {
        let mut out = [0; 1048];
        while let Some(len) = self.session.poll_transmit(&mut out) {
            self.said.extend_from_slice(&out[..len]);
        }
    }
}

/// The rows of an activation frame.
fn values(frame: &Frame<'_>) -> [f32; WIDTH as usize] {
    let mut row = [0.0; WIDTH as usize];
    let Header { kind, codec, rows, cols, .. } = frame.header;
    assert_eq!(kind, Kind::Activation);
    decode(codec, frame.payload, rows, cols, &mut row).unwrap();
    row
}

/// What `examples/node.c` does with a frame.
fn node_hears(node: &mut End, frame: Frame<'_>) {
    match node.session.handle(Millis(0), frame).unwrap() {
        Event::Control(Control::Model(model)) => {
            node.session.set_model(model.width, model.vocab);
            let (name, device) = ("shelf", "Cortex-M3");
            let (memory_bytes, read_bytes_per_s, layer_ns) = (65_536, 4_000_000, 2_000_000);
            node.control(Control::Profile(Profile { name, device, memory_bytes, read_bytes_per_s, layer_ns }));
        }
        Event::Control(Control::Assign(Assign { generation, .. })) => {
            node.control(Control::Loaded(Loaded { generation, fetched_bytes: 0, layer_ns: 2_000_000, slots: 1 }));
        }
        Event::Control(Control::Close { request }) => {
            node.control(Control::Closed(Closed { request, compute_us: 1234 }));
        }
        Event::Data(frame) => {
            let row = values(&frame).map(|value| 0.5 * value + 1.0);
            node.row(frame.header.position, Codec::Q8, &row);
            node.session.done();
        }
        Event::Bye(_) => {
            let mut out = [0; 1048];
            let len = node.session.leave(Reason::Done, "as told", &mut out).unwrap();
            node.said.extend_from_slice(&out[..len]);
        }
        _ => {}
    }
    node.flush();
}

/// Hands what `from` has said since `at` to `hears`, frame by frame.
fn deliver(from: &End, at: &mut usize, to: &mut End, hears: impl Fn(&mut End, Frame<'_>)) {
    while *at < from.said.len() {
        let len = u32::from_le_bytes(from.said[*at + 16..*at + 20].try_into().unwrap()) as usize + Header::LEN;
        let frame = Frame::from_message(&from.said[*at..*at + len], &to.session.limits()).unwrap().unwrap();
        hears(to, frame);
        *at += len;
    }
}

/// All that the two say.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let (mut coordinator, mut node) = (End::new(Role::Coordinator, "recorded"), End::new(Role::Node, "node.c"));
    let (mut heard, mut answered) = (0, 0);
    node.flush();
    coordinator.flush();
    let coordinator_hears = |end: &mut End, frame: Frame<'_>| {
        end.session.handle(Millis(0), frame).unwrap();
        end.flush();
    };
    let open = Open { request: 1, epoch: 0, codec: Codec::Q8 as u8, flags: 0, output: Output::Top(1), wanted_from: 0 };
    let row = |position: u32| -> [f32; WIDTH as usize] {
        std::array::from_fn(|i| (i as f32 - 7.5) * 0.125 * (position + 1) as f32)
    };
    let steps: [&dyn Fn(&mut End); 8] = [
        &|end| {
            let (name, manifest_sha256, http_port) = ("recorded", [7; 32], 0);
            end.session.set_model(WIDTH, 32);
            end.control(Control::Model(Model { name, manifest_sha256, http_port, width: WIDTH, vocab: 32, layers: 3 }));
        },
        &|end| {
            let (generation, first_layer, end_layer) = (1, 1, 2);
            end.control(Control::Assign(Assign {
                generation,
                first_layer,
                end_layer,
                max_positions: 8,
                slots: 1,
                max_rows: 1,
            }));
        },
        &|end| end.control(Control::Open(open)),
        &|end| end.row(0, Codec::Q8, &row(0)),
        &|end| end.row(1, Codec::F16, &row(1)),
        &|end| end.control(Control::Ping(7)),
        &|end| end.control(Control::Close { request: 1 }),
        &|end| end.control(Control::Bye(Bye { reason: Reason::Done, text: "thank you" })),
    ];
    deliver(&node, &mut answered, &mut coordinator, coordinator_hears);
    deliver(&coordinator, &mut heard, &mut node, node_hears);
    for step in steps {
        step(&mut coordinator);
        deliver(&coordinator, &mut heard, &mut node, node_hears);
        deliver(&node, &mut answered, &mut coordinator, coordinator_hears);
    }
    (coordinator.said, node.said)
}

fn array(name: &str, what: &str, bytes: &[u8]) -> String {
    let mut text = format!("\n// {what}\nstatic const unsigned char {name}[] = {{\n");
    for line in bytes.chunks(20) {
        let numbers: Vec<String> = line.iter().map(|byte| format!("{byte:#04x}")).collect();
        let _ = writeln!(text, "  {},", numbers.join(", "));
    }
    text + "};\n"
}

#[test]
fn the_recorded_conversation_is_what_two_sessions_of_the_core_say() {
    let (coordinator, node) = conversation();
    let text = format!(
        "// Made by tests/conversation.rs: a conversation of two sessions of syn1-core.\n{}{}",
        array("coordinator_says", "What a coordinator sends.", &coordinator),
        array("node_says", "What a node sends that hears it.", &node),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/conversation.h");
    if env::var_os("SYN1_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, published, "SYN1_BLESS=1 cargo test -p syn1-c --test conversation writes {}", path.display());
}
