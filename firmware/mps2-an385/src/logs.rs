//! defmt's logs as bytes on the second UART. Writing waits for the UART, with interrupts held back.

use core::cell::UnsafeCell;

use critical_section::RestoreState;

use crate::map;
use crate::uart::{Registers, TX_ON};

#[defmt::global_logger]
struct Logger;

struct Shared {
    encoder: UnsafeCell<defmt::Encoder>,
    /// What ends the critical section of the frame that is being written.
    restore: UnsafeCell<Option<RestoreState>>,
}

// SAFETY: both cells are touched between `acquire` and `release` only, inside a critical section.
unsafe impl Sync for Shared {}

static SHARED: Shared =
    Shared { encoder: UnsafeCell::new(defmt::Encoder::new()), restore: UnsafeCell::new(None) };

pub(crate) fn start() {
    // SAFETY: AN385 has a UART there.
    unsafe { Registers::start(map::UART1, TX_ON) };
}

fn put(bytes: &[u8]) {
    // SAFETY: AN385 has a UART there.
    let registers = unsafe { Registers::at(map::UART1) };
    for byte in bytes {
        while !registers.put(*byte) {}
    }
}

// SAFETY: frames do not mix, since a critical section lasts from `acquire` to `release`.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: `release` ends the section that begins here.
        let restore = unsafe { critical_section::acquire() };
        // SAFETY: inside the critical section; defmt never logs while it logs.
        unsafe {
            *SHARED.restore.get() = Some(restore);
            (*SHARED.encoder.get()).start_frame(put);
        }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: inside the critical section of `acquire`, whose state this is.
        unsafe {
            (*SHARED.encoder.get()).end_frame(put);
            if let Some(restore) = (*SHARED.restore.get()).take() {
                critical_section::release(restore);
            }
        }
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: inside the critical section of `acquire`.
        unsafe { (*SHARED.encoder.get()).write(bytes, put) }
    }
}
