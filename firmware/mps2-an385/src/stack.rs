//! How deep the stack has been: what lies below it is painted at the start, and what has lost its paint was used.

use core::ptr;

unsafe extern "C" {
    /// Where the stack begins, to grow downwards; the linker's.
    static _stack_start: u32;
    /// What it must not reach; the linker's.
    static _stack_end: u32;
}

const PAINT: u32 = 0xacce_55ed;

/// Left unpainted below whoever paints: frames of what it calls.
const MARGIN_WORDS: usize = 64;

/// Paints the stack below the caller's frame. First thing of all: what is called before is measured by its depth at most.
#[inline(never)]
pub fn paint() {
    let here = cortex_m::register::msp::read() as usize;
    let low = (&raw const _stack_end) as usize;
    let words = (here - low) / 4 - MARGIN_WORDS;
    let bottom: *mut u32 = ptr::with_exposed_provenance_mut(low);
    for word in 0..words {
        // SAFETY: between the end of what the linker has placed and the frames in use lies nothing.
        unsafe { bottom.add(word).write_volatile(PAINT) }
    }
}

/// Bytes of stack that were ever used since [`paint`].
#[must_use]
pub fn stack_used() -> usize {
    let (top, low) = ((&raw const _stack_start) as usize, (&raw const _stack_end) as usize);
    let bottom: *const u32 = ptr::with_exposed_provenance(low);
    // SAFETY: the words are memory of the stack, whatever is in them.
    let painted = (0..(top - low) / 4).take_while(|word| unsafe { bottom.add(*word).read_volatile() } == PAINT).count();
    top - low - 4 * painted
}
