//! The least that firmware needs to receive activations: header, decoder, Q8.
#![no_std]
#![no_main]

use core::hint::black_box;

use syn1_core::codec::decode_q8_row;
use syn1_core::{Decoder, Flags, Limits};
use syn1_proof::planted;

/// The linker starts here; everything that it reaches is measured.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let limits = Limits { max_payload: 1024, max_rows: 1, width: 64, vocab: 1000, flags: Flags::NONE };
    let mut decoder = Decoder::new([0; 1048], black_box(limits));
    let mut row = [0.0; 64];
    loop {
        black_box(receive(&mut decoder, black_box(&[0; 64]), &mut row));
        black_box(planted(black_box(&[0; 4]), black_box(0)));
    }
}

#[inline(never)]
fn receive(decoder: &mut Decoder<[u8; 1048]>, bytes: &[u8], row: &mut [f32]) -> Option<u32> {
    for (to, from) in decoder.spare().iter_mut().zip(bytes) {
        *to = *from;
    }
    decoder.commit(bytes.len()).ok()?;
    let frame = decoder.next().ok()??;
    decode_q8_row(frame.payload, row).ok()?;
    Some(frame.header.position)
}
