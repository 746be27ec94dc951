//! SYN1: whole frames, written and checked as a node does.

use syn1_core::header::parse;
use syn1_core::{Codec, Flags, Header, Limits, Parsed, codec};

use crate::Activation;

/// What the receiver has agreed to take.
#[must_use]
pub const fn limits(cols: u16) -> Limits {
    Limits { max_payload: u32::MAX, max_rows: 512, width: cols, vocab: 50_257, flags: Flags::NONE }
}

/// The header of a frame with an activation.
#[must_use]
pub fn header_bytes(codec: Codec, rows: u16, cols: u16) -> [u8; Header::LEN] {
    Header::activation(1, 0, 7, codec, rows, cols).expect("the shape fits").emit()
}

pub(crate) fn encode_f32(activation: &Activation, out: &mut Vec<u8>) {
    encode(Codec::F32, activation, out);
}

pub(crate) fn encode_f16(activation: &Activation, out: &mut Vec<u8>) {
    encode(Codec::F16, activation, out);
}

pub(crate) fn encode_q8(activation: &Activation, out: &mut Vec<u8>) {
    encode(Codec::Q8, activation, out);
}

pub(crate) fn encode_q4(activation: &Activation, out: &mut Vec<u8>) {
    encode(Codec::Q4, activation, out);
}

fn encode(codec: Codec, activation: &Activation, out: &mut Vec<u8>) {
    let Activation { rows, cols, ref values } = *activation;
    let header = Header::activation(1, 0, 7, codec, rows, cols).expect("the shape fits");
    out.resize(header.frame_len(), 0);
    let (head, payload) = out.split_first_chunk_mut().expect("longer than a header");
    *head = header.emit();
    codec::encode(codec, values, cols, payload).expect("the sample is finite and within binary16");
}

pub(crate) fn decode(bytes: &[u8], out: &mut Activation) {
    let (head, payload) = bytes.split_first_chunk().expect("longer than a header");
    let Ok(Parsed::Frame(header)) = parse(head, &limits(out.cols)) else { panic!("a frame of ours") };
    codec::decode(header.codec, payload, header.rows, header.cols, &mut out.values).expect("a payload of ours");
}
