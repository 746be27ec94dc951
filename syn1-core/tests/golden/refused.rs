//! Frames that are refused, each for one reason.

use syn1_core::{Codec, Flags, Header, Limits};

use crate::cases::{LIMITS, ROW, activation_bytes, encoded, full_bytes, top_bytes};
use crate::vector::Vector;

pub(crate) fn headers() -> Vec<Vector> {
    let f16 = || activation_bytes(Codec::F16, 10, &ROW);
    let q8 = || activation_bytes(Codec::Q8, 10, &ROW);
    let tokens = || encoded(&Header::tokens(2, 3, 4, 1), &[1, 0, 0, 0]);
    let ping = || encoded(&Header::control(2), &[2, 5]);
    let top = || top_bytes(5, 2, &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let all = Limits { flags: Flags::NEGOTIABLE, ..LIMITS };
    let cut = |mut bytes: Vec<u8>, len: usize| {
        bytes.truncate(len);
        bytes
    };
    let vector = |(name, what, limits, bytes): (&str, &str, Limits, Vec<u8>)| {
        Vector::new(&format!("refused-{name}"), what, limits, Vec::new(), bytes)
    };
    [
        ("magic", "Another protocol.", LIMITS, with(tokens(), 0, b"H")),
        ("magic-third", "The third byte of the magic.", LIMITS, with(tokens(), 2, b"M")),
        ("version", "Major version 2.", LIMITS, with(tokens(), 3, b"2")),
        (
            "version-first",
            "The version is looked at before anything else of the header.",
            LIMITS,
            with(tokens(), 3, &[0xff; 20]),
        ),
        ("kind-0", "No kind has number 0.", LIMITS, with(tokens(), 4, &[0])),
        ("kind-127", "Unknown and not ignorable.", LIMITS, with(tokens(), 4, &[127])),
        (
            "ignorable-long",
            "An ignorable frame is bounded too.",
            LIMITS,
            with(with(ping(), 4, &[0x84]), 16, &4097u32.to_le_bytes()),
        ),
        ("flags-reserved", "Bit 128 has no meaning yet.", all, with(q8(), 5, &[129])),
        ("codec", "A codec that does not exist.", LIMITS, with(q8(), 6, &[0xff])),
        ("quantized-missing", "q8 without its flag.", LIMITS, with(q8(), 5, &[0])),
        ("quantized-wrong", "f16 is not quantized.", LIMITS, with(f16(), 5, &[1])),
        ("compressed", "Compressed was not negotiated.", LIMITS, with(q8(), 5, &[3])),
        ("delta", "Delta was not negotiated.", LIMITS, with(q8(), 5, &[5])),
        ("predicted", "Predicted was not negotiated.", LIMITS, with(q8(), 5, &[9])),
        ("predicted-tokens", "Predicted was not negotiated.", LIMITS, with(tokens(), 5, &[8])),
        ("flags-tokens", "Tokens have no delta, whatever was negotiated.", all, with(tokens(), 5, &[4])),
        ("flags-output", "Outputs are not compressed, whatever was negotiated.", all, with(top(), 5, &[2])),
        ("flags-control", "Control frames have no flags.", all, with(ping(), 5, &[8])),
        ("codec-tokens", "Tokens in f32.", LIMITS, with(tokens(), 6, &[1])),
        ("codec-activation", "An activation as ids.", LIMITS, with(f16(), 6, &[8])),
        ("codec-output", "An output in f16.", LIMITS, with(f16(), 4, &[3])),
        ("codec-control", "A control frame in f32.", LIMITS, with(ping(), 6, &[1])),
        ("control-epoch", "A control frame has no epoch.", LIMITS, with(ping(), 7, &[1])),
        ("control-position", "A control frame has no position.", LIMITS, with(ping(), 8, &[1])),
        ("control-request", "A control frame has no request.", LIMITS, with(ping(), 12, &[1])),
        ("control-rows", "A control frame has no rows.", LIMITS, with(ping(), 20, &[1])),
        ("control-cols", "A control frame has no cols.", LIMITS, with(ping(), 22, &[1])),
        (
            "control-long",
            "A control payload of 1025 bytes, though data may be longer.",
            LIMITS,
            encoded(&Header::control(1025), &[0; 1025]),
        ),
        ("no-model", "Tokens before a model is known.", Limits::handshake(), tokens()),
        (
            "no-model-acknowledge",
            "An acknowledgement too.",
            Limits::handshake(),
            encoded(&Header::acknowledge(2, 3, 4), &[]),
        ),
        ("rows-none", "Tokens without a token.", LIMITS, encoded(&Header::tokens(2, 3, 4, 0), &[])),
        ("rows-many", "Five rows where four were agreed.", LIMITS, encoded(&Header::tokens(2, 3, 4, 5), &[0; 20])),
        (
            "rows-acknowledge",
            "No rows but columns is no acknowledgement.",
            LIMITS,
            with(encoded(&Header::acknowledge(2, 3, 4), &[]), 22, &[2]),
        ),
        (
            "position",
            "The second row would stand at 2^32.",
            LIMITS,
            encoded(&Header::tokens(2, 3, u32::MAX, 2), &[0; 8]),
        ),
        ("position-full", "Full logits have one position.", LIMITS, with(full_bytes(&[0.0; 5]), 8, &[0xff; 4])),
        ("cols-tokens", "Two ids a position.", LIMITS, with(with(tokens(), 16, &[8]), 22, &[2])),
        ("cols-activation", "A row of another width.", Limits { width: 9, ..LIMITS }, f16()),
        ("cols-top", "More tokens than the vocabulary has.", Limits { vocab: 1, ..LIMITS }, top()),
        ("cols-top-none", "A row of no tokens.", LIMITS, with(with(top(), 16, &[8]), 22, &[0])),
        ("cols-full", "Logits of another vocabulary.", Limits { vocab: 6, ..LIMITS }, full_bytes(&[0.0; 5])),
        ("rows-full", "Logits of two positions.", LIMITS, with(full_bytes(&[0.0; 5]), 20, &[2])),
        ("length-longer", "A byte more than the shape needs.", LIMITS, [with(f16(), 16, &[21]), vec![0]].concat()),
        ("length-shorter", "A byte less than the shape needs.", LIMITS, cut(with(f16(), 16, &[19]), 43)),
        ("length-limit", "Longer than agreed.", Limits { max_payload: 19, ..LIMITS }, f16()),
        ("length-overflow", "A shape of more than 2^32 - 1 bytes.", HUGE, overflowing()),
        ("torn-header", "23 bytes.", LIMITS, cut(tokens(), 23)),
        ("torn-payload", "A byte is missing.", LIMITS, cut(tokens(), 27)),
        ("torn-longer", "A message is exactly one frame.", LIMITS, [tokens(), vec![0]].concat()),
    ]
    .map(vector)
    .to_vec()
}

pub(crate) fn payloads() -> Vec<Vector> {
    let f32 = || activation_bytes(Codec::F32, 10, &ROW);
    let f16 = || activation_bytes(Codec::F16, 10, &ROW);
    let q8 = || activation_bytes(Codec::Q8, 10, &ROW);
    let three = || activation_bytes(Codec::Q8, 3, &ROW[..3]);
    let q4 = || activation_bytes(Codec::Q4, 10, &ROW);
    let q4_three = || activation_bytes(Codec::Q4, 3, &ROW[..3]);
    let two = || activation_bytes(Codec::Q8, 10, &[ROW, ROW].concat());
    let top = || top_bytes(5, 3, &[3.0, 2.0, 2.0, 1.0, 0.0]);
    let control = |payload: &[u8]| encoded(&Header::control(payload.len() as u32), payload);
    let narrow = Limits { width: 3, ..LIMITS };
    let vector = |(name, what, limits, at, spoilt, bytes): (&str, &str, Limits, usize, &[u8], Vec<u8>)| {
        Vector::new(&format!("refused-{name}"), what, limits, Vec::new(), with(bytes, 24 + at, spoilt))
    };
    [
        ("f32-nan", "NaN.", LIMITS, 36, &f32::NAN.to_le_bytes()[..], f32()),
        ("f32-infinite", "-inf.", LIMITS, 0, &f32::NEG_INFINITY.to_le_bytes(), f32()),
        ("f16-nan", "NaN.", LIMITS, 18, &[1, 0x7c], f16()),
        ("f16-infinite", "-inf.", LIMITS, 0, &[0, 0xfc], f16()),
        ("q8-scale-nan", "The scale is NaN.", LIMITS, 0, &f32::NAN.to_le_bytes(), q8()),
        ("q8-scale-negative", "The scale is negative.", LIMITS, 0, &(-1.0f32).to_le_bytes(), q8()),
        ("q8-scale-minus-zero", "The scale is -0.", LIMITS, 0, &(-0.0f32).to_le_bytes(), q8()),
        ("q8-scale-tiny", "The scale is below 2^-126.", LIMITS, 0, &1e-40f32.to_le_bytes(), q8()),
        (
            "q8-scale-large",
            "The scale's 127-fold passes 65504.",
            LIMITS,
            0,
            &(65504.0f32 / 127.0).next_up().to_le_bytes(),
            q8(),
        ),
        ("q8-minus-128", "-128 in the body.", LIMITS, 45, &[0x80], q8()),
        ("q8-index-range", "A column that the row does not have.", LIMITS, 18, &[10, 0], q8()),
        ("q8-index-order", "Columns that fall.", LIMITS, 6, &[0, 0], q8()),
        ("q8-index-repeat", "An unused slot that does not repeat the last column.", narrow, 18, &[1, 0], three()),
        ("q8-value-repeat", "An unused slot with another value.", narrow, 34, &[1], three()),
        ("q8-value-infinite", "A value beside the body that is not finite.", LIMITS, 20, &[0, 0x7c], q8()),
        ("q8-second-row", "The second row is spoilt.", LIMITS, 46 + 45, &[0x80], two()),
        ("q4-scale-negative", "A scale is negative.", LIMITS, 33, &[0x80], q4()),
        ("q4-scale-nan", "A scale is NaN.", LIMITS, 32, &[1, 0x7c], q4()),
        ("q4-scale-large", "A scale of 9368, whose 7-fold passes 65504.", LIMITS, 32, &[0x93, 0x70], q4()),
        ("q4-minus-8", "-8 in a low half of the body.", LIMITS, 34, &[0x08], q4()),
        ("q4-minus-8-high", "-8 in a high half of the body.", LIMITS, 38, &[0x80], q4()),
        ("q4-padding", "The unused half of the last byte.", narrow, 35, &[0x10], q4_three()),
        ("q4-index-order", "Columns that fall.", LIMITS, 2, &[0, 0], q4()),
        ("q4-value-infinite", "A value beside the body that is not finite.", LIMITS, 16, &[0, 0x7c], q4()),
        ("top-head", "The log-sum-exp is not finite.", LIMITS, 0, &f32::INFINITY.to_le_bytes(), top()),
        ("top-reserved", "The reserved word is not 0.", LIMITS, 7, &[1], top()),
        ("top-id", "An id that the vocabulary does not have.", LIMITS, 8, &[5], top()),
        ("top-nan", "A logit that is NaN.", LIMITS, 12, &f32::NAN.to_le_bytes(), top()),
        ("top-infinite", "A logit that is +inf.", LIMITS, 12, &f32::INFINITY.to_le_bytes(), top()),
        ("top-order", "Logits that rise.", LIMITS, 20, &4.0f32.to_le_bytes(), top()),
        ("top-ties", "Equal logits by falling id.", LIMITS, 24, &[0], top()),
        ("full-nan", "A logit that is NaN.", LIMITS, 16, &f32::NAN.to_le_bytes(), full_bytes(&[0.0; 5])),
        ("full-infinite", "A logit that is +inf.", LIMITS, 0, &f32::INFINITY.to_le_bytes(), full_bytes(&[0.0; 5])),
        ("message-unknown", "A message that does not exist.", LIMITS, 0, &[], control(&[127])),
        ("message-empty", "No message.", LIMITS, 0, &[], control(&[])),
        ("message-cut", "A number that does not end.", LIMITS, 0, &[], control(&[2, 0xff])),
        (
            "message-long-number",
            "A u32 with a bit too many.",
            LIMITS,
            0,
            &[],
            control(&[10, 0xff, 0xff, 0xff, 0xff, 0x1f]),
        ),
        ("message-reason", "A reason that does not exist.", LIMITS, 0, &[], control(&[1, 127, 0])),
        ("message-text", "A text that is not UTF-8.", LIMITS, 0, &[], control(&[12, 0, 1, 0xff])),
        ("message-text-cut", "A text that is longer than its message.", LIMITS, 0, &[], control(&[12, 0, 2, b'x'])),
        ("message-prove-cut", "A signature of 63 bytes.", LIMITS, 0, &[], control(&[&[14][..], &[1; 63]].concat())),
        ("message-trailing", "A byte after the message.", LIMITS, 0, &[], control(&[2, 5, 0])),
    ]
    .map(vector)
    .to_vec()
}

/// Limits that admit any shape of 65535 columns.
const HUGE: Limits =
    Limits { max_payload: u32::MAX, max_rows: u16::MAX, width: u16::MAX, vocab: 5, flags: Flags::NONE };

/// The header of 65535 rows of 65535 columns in f32; its length, which no u32 holds, says 0.
fn overflowing() -> Vec<u8> {
    let header = Header::activation(2, 3, 4, Codec::F32, 1, u16::MAX).unwrap();
    encoded(&Header { payload_len: 0, rows: u16::MAX, ..header }, &[])
}

fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}
