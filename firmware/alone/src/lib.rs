//! What both programs share: a line, a buffer for frames, and an end.
#![no_std]

use core::hint::black_box;
use core::panic::PanicInfo;

use small_memory as _;
use static_cell::ConstStaticCell;
use syn1_core::{Header, Limits};

/// Elements of a row.
pub const WIDTH: usize = 64;

/// Bytes of a frame: a control message is the longest.
pub const FRAME: usize = Header::LEN + 1024;

static FRAMES: ConstStaticCell<[u8; FRAME]> = ConstStaticCell::new([0; FRAME]);

/// The buffer that frames come in, which every receiver has. Once.
pub fn buffer() -> &'static mut [u8; FRAME] {
    FRAMES.take()
}

/// What may come.
pub fn limits() -> Limits {
    black_box(Limits { max_payload: 1024, max_rows: 1, width: WIDTH as u16, vocab: 1000, ..Limits::handshake() })
}

/// Bytes that have come.
pub fn receive(room: &mut [u8]) -> usize {
    for byte in room.iter_mut().take(1) {
        *byte = black_box(0);
    }
    1
}

/// Sends bytes.
pub fn send(bytes: &[u8]) {
    for byte in bytes {
        black_box(*byte);
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
