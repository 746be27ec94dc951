//! The table of the board's interrupts, as AN385 numbers them.

use cortex_m::interrupt::InterruptNumber;

/// The interrupts that this crate handles.
#[derive(Clone, Copy)]
pub(crate) enum Interrupt {
    Uart0Rx = 0,
    Uart0Tx = 1,
    Ethernet = 13,
}

// SAFETY: the numbers are those of the table below, and stay.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self as u16
    }
}

/// Lets an interrupt happen.
pub(crate) fn unmask(interrupt: Interrupt) {
    // SAFETY: no code of this crate relies on an interrupt being masked.
    unsafe { cortex_m::peripheral::NVIC::unmask(interrupt) }
}

unsafe extern "C" {
    fn UART0_RX();
    fn UART0_TX();
    fn ETHERNET();
    fn DefaultHandler();
}

/// What the processor calls for each interrupt.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
static __INTERRUPTS: [unsafe extern "C" fn(); 32] = {
    let mut table: [unsafe extern "C" fn(); 32] = [DefaultHandler; 32];
    table[Interrupt::Uart0Rx as usize] = UART0_RX;
    table[Interrupt::Uart0Tx as usize] = UART0_TX;
    table[Interrupt::Ethernet as usize] = ETHERNET;
    table
};
