//! As `syn1-c/mps2/alone.c`: header, push decoder, and rows in q8 both ways.
#![no_std]
#![no_main]

use static_cell::{ConstStaticCell, StaticCell};
use syn1_alone::{FRAME, WIDTH, buffer, limits, receive, send};
use syn1_core::codec::{decode_q8_row, encode_q8_row};
use syn1_core::{Codec, Decoder, Header};

static DECODER: StaticCell<Decoder<&'static mut [u8; FRAME]>> = StaticCell::new();
static ROW: ConstStaticCell<[f32; WIDTH]> = ConstStaticCell::new([0.0; WIDTH]);

/// The linker starts here; everything that it reaches is measured.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let decoder = DECODER.init_with(|| Decoder::new(buffer(), limits()));
    let row = ROW.take();
    loop {
        let count = receive(decoder.spare());
        if decoder.commit(count).is_err() || answer(decoder, row).is_none() {
            panic!();
        }
    }
}

/// Answers a frame, if one is there; none for what is no frame.
fn answer(decoder: &mut Decoder<&'static mut [u8; FRAME]>, row: &mut [f32; WIDTH]) -> Option<()> {
    let Some(frame) = decoder.next().ok()? else { return Some(()) };
    decode_q8_row(frame.payload, row).ok()?;
    let Header { request, position, .. } = frame.header;
    let header = Header::activation(request, 0, position, Codec::Q8, 1, WIDTH as u16)?;
    let mut payload = [0; 2 * WIDTH];
    let payload = payload.get_mut(..header.payload_len as usize)?;
    encode_q8_row(row, payload).ok()?;
    send(&header.emit());
    send(payload);
    Some(())
}
