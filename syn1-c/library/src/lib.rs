//! `libsyn1.a`: all functions of [`syn1_c`], and a panic handler that does not link.
#![no_std]

use core::panic::PanicInfo;

// Its functions are those of the library.
pub use syn1_c::*;

unsafe extern "C" {
    /// Defined nowhere: a program from which a panic can be reached does not link, and the linker names this symbol.
    safe fn syn1_a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    syn1_a_panic_is_reachable()
}

/// With the feature `planted` an index that may be out of range: shows that the proof of no panic can fail.
#[cfg(feature = "planted")]
#[unsafe(no_mangle)]
pub extern "C" fn syn1_planted(at: usize) -> u8 {
    core::hint::black_box([1, 2, 3])[at]
}
