//! What syn1's firmware needs of a board, for Arm's MPS2 with the image AN385: a Cortex-M3 at 25 MHz with 4 MiB of memory for
//! code, 4 MiB for data, and an Ethernet controller. QEMU emulates it as `-machine mps2-an385`, and as `mps2-an386` the same board
//! with a Cortex-M4, whose images differ in the target that they are built for alone.
//!
//! | file | what it gives | on another board |
//! | --- | --- | --- |
//! | `vectors.rs` | the interrupts' table | the chip's own crate has it |
//! | `clock.rs` | embassy's time, by the core's SysTick | the chip's embassy crate has it |
//! | `uart.rs` | bytes in and out, for a serial link | the chip's embassy crate has it |
//! | `logs.rs` | defmt's logs on a second UART | `defmt-rtt` |
//! | `ethernet.rs` | where the LAN9118 is | the chip's embassy crate, or another driver |
//! | `stack.rs` | how deep the stack has been | the same |
//! | `settings.rs` | a page of flash with the coordinator's address | the same, at another address |
#![no_std]

mod clock;
mod ethernet;
mod logs;
mod map;
mod settings;
mod stack;
mod uart;
mod vectors;

pub use clock::micros;
pub use ethernet::ethernet;
pub use settings::{SETTINGS_BYTES, settings};
pub use stack::{paint, stack_used};
pub use uart::{Uart, UartRx, UartTx};

/// Bytes of the region of flash that holds weights, where an image carries them.
pub use map::{WEIGHTS, WEIGHTS_BYTES};

/// What is done once, first of all.
pub fn start(core: cortex_m::Peripherals) {
    paint();
    logs::start();
    clock::start(core.SYST);
}

/// A fault that the processor found: the logs say where, and the board begins anew.
///
/// # Safety
/// Called by the processor alone.
#[cortex_m_rt::exception]
unsafe fn HardFault(frame: &cortex_m_rt::ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:x}, called from {=u32:x}", frame.pc(), frame.lr());
    cortex_m::peripheral::SCB::sys_reset()
}

/// The weights that lie in flash, as they were written there; whatever lies there where none were.
#[must_use]
pub fn weights() -> &'static [u8] {
    // SAFETY: the region is memory of the board that no part of the program lies in (memory.x ends below) and nothing writes.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(WEIGHTS), WEIGHTS_BYTES) }
}
