//! Frames that are accepted: every kind, codec and control message.

use syn1_core::codec::{encode, encode_ids};
use syn1_core::control::{
    Assign, Bye, Closed, Control, Failed, Hello, Loaded, Loading, Model, Open, Output, Profile, Reason, Role, Unable,
};
use syn1_core::output::{full_encode, top_encode};
use syn1_core::{Codec, Flags, Header, Limits, encode_control, encode_frame};

use crate::describe::floats;
use crate::vector::Vector;

pub(crate) const LIMITS: Limits = Limits { max_payload: 4096, max_rows: 4, width: 10, vocab: 5, flags: Flags::NONE };

/// What most activation vectors hold; the published tests hold its bytes too.
pub(crate) const ROW: [f32; 10] = [1.0, -2.0, 0.5, 4.0, 100.0, -0.25, 8.0, 16.0, -32.0, 64.0];

pub(crate) fn data() -> Vec<Vector> {
    let mut vectors = vec![
        tokens("tokens-one", "One token id.", &[3]),
        tokens(
            "tokens-four",
            "As many ids as the limits allow; the format does not look at them.",
            &[1, 0, 50_256, u32::MAX],
        ),
        activation("activation-f32", "One row as it is.", Codec::F32, 10, &ROW),
        activation(
            "activation-f32-extremes",
            "The largest and smallest numbers of binary32, and both zeros.",
            Codec::F32,
            8,
            &[f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(1), 0.0, -0.0, f32::EPSILON],
        ),
        activation("activation-f16", "One row in binary16.", Codec::F16, 10, &ROW),
        activation(
            "activation-f16-rounding",
            "Ties go to even: between 1 and its neighbour, among subnormals, at the largest number; below half the \
             smallest there is zero.",
            Codec::F16,
            10,
            &[
                1.0 + 1.0 / 2048.0,
                1.0 + 3.0 / 2048.0,
                1.0 + 1.0 / 2048.0 + f32::EPSILON,
                65504.0,
                -65504.0,
                5.960_464_5e-8,
                2.980_232_2e-8,
                8.940_697e-8,
                -1e-9,
                6.103_515_6e-5,
            ],
        ),
        activation("activation-q8", "One row: all but two values stand beside the body.", Codec::Q8, 10, &ROW),
        activation("activation-q8-rows", "Three rows, each with its own scale and side list.", Codec::Q8, 12, &rows()),
        activation("activation-q8-one", "One column: seven slots repeat it.", Codec::Q8, 1, &[-7.25]),
        activation(
            "activation-q8-three",
            "Three columns: five slots repeat the last.",
            Codec::Q8,
            3,
            &[1.0, -2.0, 0.1],
        ),
        activation("activation-q8-eight", "Eight columns: all stand beside, the scale is 0.", Codec::Q8, 8, &ROW[..8]),
        activation("activation-q8-zeros", "Nothing but zeros, one of them negative.", Codec::Q8, 10, &ZEROS),
        activation(
            "activation-q8-equal",
            "Equal magnitudes: those of lower columns stand beside.",
            Codec::Q8,
            10,
            &[3.0, -3.0, -3.0, 3.0, 3.0, 3.0, 3.0, -3.0, -3.0, 3.0],
        ),
        activation(
            "activation-q8-tiny",
            "What remains is so small that its scale would be subnormal: it is 0.",
            Codec::Q8,
            10,
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1e-36, -1e-37],
        ),
        activation(
            "activation-q8-ties",
            "127, 0.5, 1.5, 2.5 and their negatives with scale 1: halves go to even.",
            Codec::Q8,
            16,
            &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 128., 129., 130., 131., 132., 133., 134., -135.],
        ),
        activation(
            "activation-q8-massive",
            "Massive values do not take resolution from the rest.",
            Codec::Q8,
            48,
            &massive(),
        ),
        activation("activation-q4", "One row: all but two values stand beside the body.", Codec::Q4, 10, &ROW),
        activation("activation-q4-rows", "Three rows, each with its own scale and side list.", Codec::Q4, 12, &rows()),
        activation(
            "activation-q4-one",
            "One column: seven slots repeat it, half a byte is unused.",
            Codec::Q4,
            1,
            &[-7.25],
        ),
        activation("activation-q4-zeros", "Nothing but zeros, one of them negative.", Codec::Q4, 10, &ZEROS),
        activation("activation-q4-massive", "Two groups, the second one short.", Codec::Q4, 48, &massive()),
        activation(
            "activation-q4-odd",
            "Two groups, the second one of a single column.",
            Codec::Q4,
            33,
            &massive()[..33],
        ),
        activation(
            "activation-q4-scale",
            "7 / 7 is 1; 7.001 / 7 is rounded up, not to the nearest; 1e-9 / 7 up to the smallest subnormal.",
            Codec::Q4,
            96,
            &scales(),
        ),
        top("output-top", "The two most likely of three tokens, one impossible.", 3, 2, &[f32::NEG_INFINITY, 0.0, 0.0]),
        top(
            "output-top-rows",
            "Three positions, all five tokens each: ties by rising id, both zeros equal, -inf last.",
            5,
            5,
            &[
                1.0,
                3.0,
                2.0,
                3.0,
                1.0,
                -0.0,
                0.0,
                -0.0,
                0.5,
                -9.0,
                f32::NEG_INFINITY,
                7.0,
                f32::NEG_INFINITY,
                -1e30,
                88.0,
            ],
        ),
        full("output-full", "All logits of one position.", &[1.0, -1.0, 0.5, f32::NEG_INFINITY, -0.0]),
    ];
    let acknowledge = |position| encoded(&Header::acknowledge(2, 3, position), &[]);
    let what = "Positions 0 to 3 are in the KV cache.";
    vectors.push(Vector::new("output-acknowledge", what, LIMITS, Vec::new(), acknowledge(4)));
    let what = "All positions that there can be.";
    vectors.push(Vector::new("output-acknowledge-last", what, LIMITS, Vec::new(), acknowledge(u32::MAX)));
    let mut ignorable = encoded(&Header::control(5), b"later");
    ignorable[4] = 0x80;
    let what = "A kind of a later minor that may be passed over.";
    vectors.push(Vector::new("ignorable", what, LIMITS, Vec::new(), ignorable.clone()));
    ignorable[4..16].fill(0xff);
    ignorable[20..24].fill(0xff);
    let what = "Of an ignorable frame only kind and length are looked at.";
    vectors.push(Vector::new("ignorable-fields", what, Limits::handshake(), Vec::new(), ignorable));
    vectors
}

pub(crate) fn control() -> Vec<Vector> {
    let hello = Hello {
        minor_min: 0,
        minor_max: 1,
        role: Role::Node,
        flags: 14,
        codecs: 14,
        max_payload: 1 << 20,
        max_rows: 300,
        credit: 130,
        model: [0xab; 32],
        key: [0xcd; 32],
        nonce: [0xef; 32],
        agent: "syn1",
    };
    let coordinator = Hello {
        role: Role::Coordinator,
        flags: 0,
        credit: 0,
        model: [0; 32],
        key: [0; 32],
        nonce: [0; 32],
        agent: "",
        ..hello
    };
    let model =
        Model { name: "tiny", manifest_sha256: [0xab; 32], http_port: 8080, width: 768, vocab: 50257, layers: 12 };
    let profile =
        Profile { name: "n", device: "cpu", memory_bytes: 1 << 30, read_bytes_per_s: 1 << 35, layer_ns: u64::MAX };
    let assign = Assign { generation: 1, first_layer: 2, end_layer: 8, max_positions: 512, slots: 4, max_rows: 128 };
    let loaded = Loaded { generation: 1, fetched_bytes: 0, layer_ns: 1000, slots: 4 };
    let open = Open { request: 9, epoch: 200, codec: 3, flags: 4, output: Output::Top(40), wanted_from: 130 };
    let messages = [
        ("hello", Control::Hello(hello)),
        ("hello-coordinator", Control::Hello(coordinator)),
        ("bye", Control::Bye(Bye { reason: Reason::Refused, text: "full" })),
        ("bye-done", Control::Bye(Bye { reason: Reason::Done, text: "" })),
        ("bye-version", Control::Bye(Bye { reason: Reason::Version, text: "" })),
        ("bye-protocol", Control::Bye(Bye { reason: Reason::Protocol, text: "" })),
        ("bye-timeout", Control::Bye(Bye { reason: Reason::Timeout, text: "" })),
        ("bye-replaced", Control::Bye(Bye { reason: Reason::Replaced, text: "" })),
        ("bye-shutdown", Control::Bye(Bye { reason: Reason::Shutdown, text: "" })),
        ("bye-internal", Control::Bye(Bye { reason: Reason::Internal, text: "" })),
        ("ping", Control::Ping(300)),
        ("pong", Control::Pong(u64::MAX)),
        ("model", Control::Model(model)),
        ("profile", Control::Profile(profile)),
        ("assign", Control::Assign(assign)),
        ("loading", Control::Loading(Loading { generation: 1, done_bytes: 128, total_bytes: 256 })),
        ("loaded", Control::Loaded(loaded)),
        ("open-top", Control::Open(open)),
        ("open-full", Control::Open(Open { output: Output::Full, ..open })),
        ("close", Control::Close { request: 9 }),
        ("failed", Control::Failed(Failed { request: 9, epoch: 1, text: "é" })),
        ("unable", Control::Unable(Unable { generation: u32::MAX, text: "" })),
        ("closed", Control::Closed(Closed { request: 9, compute_us: 300 })),
        ("prove", Control::Prove { signature: core::array::from_fn(|i| i as u8) }),
        ("grant", Control::Grant { frames: 300 }),
        ("grant-most", Control::Grant { frames: u16::MAX }),
    ];
    let vector = |(name, message): (&str, Control<'_>)| {
        let mut out = [0; 1048];
        let bytes = encode_control(&message, &mut out).unwrap().to_vec();
        let what = format!("The message {}, which needs no model.", message.name());
        Vector::new(&format!("control-{name}"), &what, Limits::handshake(), Vec::new(), bytes)
    };
    messages.into_iter().map(vector).collect()
}

pub(crate) fn encoded(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; header.frame_len()];
    encode_frame(header, payload, &mut out).unwrap().to_vec()
}

pub(crate) fn activation_bytes(codec: Codec, cols: u16, values: &[f32]) -> Vec<u8> {
    let rows = (values.len() / usize::from(cols)) as u16;
    let header = Header::activation(0x1122_3344, 0x55, 0x6677_8899, codec, rows, cols).unwrap();
    let mut payload = vec![0; header.payload_len as usize];
    encode(codec, values, cols, &mut payload).unwrap();
    encoded(&header, &payload)
}

pub(crate) fn top_bytes(vocab: usize, k: u16, logits: &[f32]) -> Vec<u8> {
    let row = |logits| {
        let mut out = vec![0; 8 + 8 * usize::from(k)];
        top_encode(logits, k, &mut out).map(|_| out).unwrap()
    };
    let payload: Vec<u8> = logits.chunks(vocab).flat_map(row).collect();
    encoded(&Header::top(2, 3, 4, (logits.len() / vocab) as u16, k).unwrap(), &payload)
}

pub(crate) fn full_bytes(logits: &[f32]) -> Vec<u8> {
    let header = Header::full(2, 3, 4, logits.len() as u32).unwrap();
    let mut payload = vec![0; header.payload_len as usize];
    full_encode(logits, &mut payload).unwrap();
    encoded(&header, &payload)
}

fn tokens(name: &str, what: &str, ids: &[u32]) -> Vector {
    let mut payload = vec![0; 4 * ids.len()];
    encode_ids(ids, &mut payload);
    Vector::new(name, what, LIMITS, Vec::new(), encoded(&Header::tokens(2, 3, 4, ids.len() as u16), &payload))
}

fn activation(name: &str, what: &str, codec: Codec, cols: u16, values: &[f32]) -> Vector {
    let source = values.chunks(cols.into()).map(|row| floats("sent", row)).collect();
    Vector::new(name, what, Limits { width: cols, ..LIMITS }, source, activation_bytes(codec, cols, values))
}

fn top(name: &str, what: &str, vocab: usize, k: u16, logits: &[f32]) -> Vector {
    let source = logits.chunks(vocab).map(|row| floats("logits", row)).collect();
    Vector::new(name, what, Limits { vocab: vocab as u32, ..LIMITS }, source, top_bytes(vocab, k, logits))
}

fn full(name: &str, what: &str, logits: &[f32]) -> Vector {
    let limits = Limits { vocab: logits.len() as u32, ..LIMITS };
    Vector::new(name, what, limits, vec![floats("logits", logits)], full_bytes(logits))
}

fn rows() -> Vec<f32> {
    (0..36u8)
        .map(|i| (f32::from(i % 7) - 3.0) * [0.01, 1.0, 300.0][usize::from(i / 12)] + f32::from(i) / 64.0)
        .collect()
}

fn scales() -> Vec<f32> {
    let mut row = vec![0.0; 96];
    row[..8].fill(100.0);
    row[8..14].copy_from_slice(&[7.0, 0.5, 1.5, -2.5, -6.5, 6.4]);
    row[32..36].copy_from_slice(&[7.001, -3.5, 0.5, 0.51]);
    row[64..67].copy_from_slice(&[1e-9, -1e-9, 1e-38]);
    row
}

fn massive() -> Vec<f32> {
    let mut row: Vec<f32> = (0..48i16).map(|i| f32::from((i * 37) % 101 - 50) / 64.0).collect();
    (row[17], row[40]) = (3000.0, -65504.0);
    row
}

const ZEROS: [f32; 10] = [0.0, 0.0, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.0];
