//! A row of activations from one microcontroller to another, over any bytes that both have: a serial line, radio, a socket.
//! No allocator, no operating system; `syn1-core/proof` builds this file for a Cortex-M4.
#![cfg_attr(not(test), no_std)]

use syn1_core::codec::{choose, decode, encode};
use syn1_core::{Codec, DecodeError, Decoder, Flags, Header, Limits, encode_frame};

/// Values of an activation row.
pub const WIDTH: u16 = 64;
/// The longest payload: a row in f32, to which a sender falls back.
pub const PAYLOAD: usize = 4 * WIDTH as usize;
/// The longest frame.
pub const FRAME: usize = Header::LEN + PAYLOAD;

/// Writes the frame of one row into `wire`, to be sent; `None` if the row has a value that is not finite.
pub fn send<'a>(row: &[f32; WIDTH as usize], position: u32, wire: &'a mut [u8; FRAME]) -> Option<&'a [u8]> {
    let mut payload = [0; PAYLOAD];
    let codec = choose(Codec::Q8, row).ok()?;
    let len = encode(codec, row, WIDTH, &mut payload).ok()?;
    let header = Header::activation(1, 0, position, codec, 1, WIDTH)?;
    encode_frame(&header, payload.get(..len)?, wire).ok()
}

/// The receiving end, which takes rows of this width and nothing else.
pub fn receiver() -> Decoder<[u8; FRAME]> {
    let limits = Limits { max_payload: PAYLOAD as u32, max_rows: 1, width: WIDTH, vocab: 1, flags: Flags::NONE };
    Decoder::new([0; FRAME], limits)
}

/// Takes in some bytes as they came and shows each row that they complete with its position.
///
/// # Errors
/// The bytes are no such frames: give up this link.
pub fn receive(
    decoder: &mut Decoder<[u8; FRAME]>,
    bytes: &[u8],
    mut show: impl FnMut(u32, &[f32; WIDTH as usize]),
) -> Result<(), DecodeError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let spare = decoder.spare();
        let count = rest.len().min(spare.len());
        spare.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        rest = rest.get(count..).unwrap_or_default();
        decoder.commit(count)?;
        while let Some(frame) = decoder.next()? {
            let mut row = [0.0; WIDTH as usize];
            if decode(frame.header.codec, frame.payload, 1, WIDTH, &mut row).is_ok() {
                show(frame.header.position, &row);
            }
        }
    }
    Ok(())
}
