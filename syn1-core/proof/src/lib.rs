//! What both programs share: a panic handler that does not link.
#![no_std]

use core::panic::PanicInfo;

unsafe extern "C" {
    /// Defined nowhere: a program from which a panic can be reached does not link, and the linker names this symbol.
    safe fn syn1_a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    syn1_a_panic_is_reachable()
}

/// With the feature `planted` an index that may be out of range.
#[inline(never)]
pub fn planted(bytes: &[u8], at: usize) -> u8 {
    if cfg!(feature = "planted") { bytes[at] } else { bytes.get(at).copied().unwrap_or_default() }
}
