//! Compressed frames: they give what plain ones give, and hostile ones no panic and no value that is not finite.

use arbitrary::{Result, Unstructured};
use syn1_core::activation::{Inbound, Outbound, Place};
use syn1_core::{Codec, Flags, Form, Frame, Header, encoded_len};

/// `rows u8 | cols u16 | damages u8 | that many (at u16, byte u8) | bytes`, which are a payload, and values to compress.
pub fn compressed(data: &[u8]) {
    let _too_short = run(&mut Unstructured::new(data));
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let (rows, cols): (u8, u16) = (input.arbitrary()?, input.arbitrary()?);
    let (rows, cols) = (u16::from(rows % 8 + 1), cols % 1024 + 1);
    let damages: u8 = input.arbitrary()?;
    let damages = (0..damages % 8).map(|_| input.arbitrary()).collect::<Result<Vec<(u16, u8)>>>()?;
    let bytes = input.peek_bytes(input.len()).unwrap_or_default();

    let plain = Header::activation(1, 0, 0, Codec::Q8, rows, cols).expect("a short frame");
    let hostile = Header { flags: plain.flags.union(Flags::COMPRESSED), payload_len: bytes.len() as u32, ..plain };
    finite(&hostile, bytes);

    let count = usize::from(rows) * usize::from(cols);
    let values: Vec<f32> =
        bytes.iter().cycle().take(count).map(|byte| f32::from(byte.cast_signed()).powi(3) / 64.0).collect();
    if values.len() < count {
        return Ok(());
    }
    let longest = encoded_len(Codec::Q8, rows, cols).expect("a short frame") as usize;
    let encode = |name: &str| {
        let mut sender = Outbound::new([], vec![0; longest]);
        let mut payload = vec![0xee; longest];
        let form = Form::from_name(name).expect("a form that exists");
        let place = Place { request: 1, epoch: 0, position: 0 };
        let header = sender.encode(form, place, false, &values, cols, &mut payload).expect("finite values");
        payload.truncate(header.payload_len as usize);
        (header, payload)
    };
    let (plain, plain_payload) = encode("q8");
    let (header, mut payload) = encode("q8+compressed");
    assert_eq!(header.flags.contains(Flags::COMPRESSED), payload.len() < plain_payload.len());
    assert_eq!(decode(&header, &payload), decode(&plain, &plain_payload));
    for (at, byte) in damages {
        let at = usize::from(at) % payload.len();
        payload[at] ^= byte;
    }
    finite(&header, &payload);
    Ok(())
}

fn finite(header: &Header, payload: &[u8]) {
    if let Some(values) = decode(header, payload) {
        assert!(values.iter().all(|bits| f32::from_bits(*bits).is_finite()));
    }
}

/// The bits of what a frame holds, if it is sound.
fn decode(header: &Header, payload: &[u8]) -> Option<Vec<u32>> {
    let mut out = vec![f32::NAN; usize::from(header.rows) * usize::from(header.cols)];
    Inbound::new([]).decode(&Frame { header: *header, payload }, &mut out).ok()?;
    Some(out.iter().map(|x| x.to_bits()).collect())
}
