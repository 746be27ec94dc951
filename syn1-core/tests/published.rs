//! The published bytes of one frame of every kind and codec. They never change within a major version: another
//! implementation can be tested against them.

use syn1_core::codec::{decode, encode, encode_ids, ids};
use syn1_core::output::{full_encode, top_decode, top_encode};
use syn1_core::{Codec, Control, Flags, Frame, Header, Limits, encode_control, encode_frame};

const LIMITS: Limits = Limits { max_payload: 4096, max_rows: 4, width: 10, vocab: 3, flags: Flags::NONE };

const ROW: [f32; 10] = [1.0, -2.0, 0.5, 4.0, 100.0, -0.25, 8.0, 16.0, -32.0, 64.0];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The frame's bytes are `golden`, in groups for reading, and parse back to what they were made of.
fn expect(header: Header, payload: &[u8], golden: &[&str]) {
    let mut out = [0; 256];
    let frame = encode_frame(&header, payload, &mut out).unwrap();
    assert_eq!(hex(frame), golden.concat());
    assert_eq!(Frame::from_message(frame, &LIMITS), Ok(Some(Frame { header, payload })));
}

fn activation(codec: Codec) -> (Header, Vec<u8>) {
    let header = Header::activation(0x11223344, 0x55, 0x66778899, codec, 1, 10).unwrap();
    let mut payload = vec![0; header.payload_len as usize];
    encode(codec, &ROW, 10, &mut payload).unwrap();
    (header, payload)
}

#[test]
fn tokens() {
    let mut payload = [0; 8];
    encode_ids(&[1, 50_256], &mut payload);
    expect(
        Header::tokens(2, 3, 4, 2),
        &payload,
        &["53594e31", "01000803", "04000000", "02000000", "08000000", "02000100", "01000000", "50c40000"],
    );
    assert_eq!(ids(&payload).collect::<Vec<_>>(), [1, 50_256]);
}

#[test]
fn activation_f32() {
    let (header, payload) = activation(Codec::F32);
    expect(
        header,
        &payload,
        &[
            "53594e31", "02000155", "99887766", "44332211", "28000000", "01000a00", "0000803f", "000000c0", "0000003f",
            "00008040", "0000c842", "000080be", "00000041", "00008041", "000000c2", "00008042",
        ],
    );
}

#[test]
fn activation_f16() {
    let (header, payload) = activation(Codec::F16);
    expect(
        header,
        &payload,
        &[
            "53594e31", "02000255", "99887766", "44332211", "14000000", "01000a00", "003c", "00c0", "0038", "0044",
            "4056", "00b4", "0048", "004c", "00d0", "0054",
        ],
    );
}

#[test]
fn activation_q8() {
    let (header, payload) = activation(Codec::Q8);
    // Beside the body stand all but 0.5 and -0.25, so the scale is 0.5 / 127 and -0.25 becomes -63.5, which is -64.
    let scale = hex(&(0.5f32 / 127.0).to_le_bytes());
    expect(
        header,
        &payload,
        &[
            "53594e31", "02010355", "99887766", "44332211", "2e000000", "01000a00", &scale, "0000", "0100", "0300",
            "0400", "0600", "0700", "0800", "0900", "003c", "00c0", "0044", "4056", "0048", "004c", "00d0", "0054",
            "00", "00", "7f", "00", "00", "c0", "00", "00", "00", "00",
        ],
    );
    let mut back = [0.0; 10];
    decode(Codec::Q8, &payload, 1, 10, &mut back).unwrap();
    assert_eq!((back[4], back[9]), (100.0, 64.0));
}

#[test]
fn output_top() {
    let mut payload = [0; 24];
    // exp(0) + exp(0) + exp(-inf): the logarithm of 2.
    top_encode(&[f32::NEG_INFINITY, 0.0, 0.0], 2, &mut payload).unwrap();
    expect(
        Header::top(2, 3, 4, 1, 2).unwrap(),
        &payload,
        &[
            "53594e31", "03000903", "04000000", "02000000", "18000000", "01000200", "1872313f", "00000000", "01000000",
            "00000000", "02000000", "00000000",
        ],
    );
    let row = top_decode(&payload, 2, 3).unwrap().next().unwrap();
    assert_eq!(row.log_sum_exp(), core::f32::consts::LN_2);
}

#[test]
fn output_full() {
    let mut payload = [0; 12];
    full_encode(&[1.0, -1.0, 0.5], &mut payload).unwrap();
    expect(
        Header::full(2, 3, 4, 3).unwrap(),
        &payload,
        &["53594e31", "03000103", "04000000", "02000000", "0c000000", "01000300", "0000803f", "000080bf", "0000003f"],
    );
}

#[test]
fn acknowledgement() {
    expect(
        Header::acknowledge(2, 3, 4),
        &[],
        &["53594e31", "03000903", "04000000", "02000000", "00000000", "00000000"],
    );
}

#[test]
fn control() {
    let mut out = [0; 64];
    let frame = encode_control(&Control::Ping(300), &mut out).unwrap();
    expect(
        Header::control(3),
        &frame[Header::LEN..],
        &["53594e31", "04000000", "00000000", "00000000", "03000000", "00000000", "02ac02"],
    );
}
