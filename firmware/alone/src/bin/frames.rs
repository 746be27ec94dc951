//! The least that speaks SYN1: it takes frames from a stream and sends them on, as a relay does that looks at what it carries.
#![no_std]
#![no_main]

use static_cell::StaticCell;
use syn1_alone::{FRAME, buffer, limits, receive, send};
use syn1_core::Decoder;

static DECODER: StaticCell<Decoder<&'static mut [u8; FRAME]>> = StaticCell::new();

/// The linker starts here; everything that it reaches is measured.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let decoder = DECODER.init_with(|| Decoder::new(buffer(), limits()));
    loop {
        let count = receive(decoder.spare());
        if decoder.commit(count).is_err() {
            panic!();
        }
        match decoder.next() {
            Ok(None) => {}
            Ok(Some(frame)) => {
                send(&frame.header.emit());
                send(frame.payload);
            }
            Err(_) => panic!(),
        }
    }
}
