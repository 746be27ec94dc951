//! An [embassy-net](embassy_net_driver) driver for SMSC's LAN9118 and its kin (LAN9115 to LAN9118, LAN9215 to LAN9218,
//! LAN9220): Ethernet controllers that hang on a processor's memory bus and are read and written word by word.
//!
//! ```text
//!   embassy-net ── Lan9118 ── registers at a base address ── wire
//!        ^                          |
//!        └── Interrupt::happened ── the interrupt that the controller raises
//! ```
//!
//! The driver copies: frames go through two buffers of one frame each, inside [`Lan9118`]. The controller's own memory holds
//! what comes in the meantime, some 10 KiB.
//!
//! Where there is nothing to do it unmasks the controller's interrupt, and [`Interrupt::happened`], which the board's
//! handler calls, masks it again and wakes the network's task. So nothing is polled, and an interrupt costs two writes.
#![no_std]

mod registers;

use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use embassy_sync::waitqueue::AtomicWaker;

use registers::{Mac, Register, Registers};

/// The controller, with room for one frame in each direction.
pub struct Lan9118<'i> {
    registers: Registers,
    interrupt: &'i Interrupt,
    address: [u8; 6],
    received: [u32; FRAME_WORDS],
    sent: [u32; FRAME_WORDS],
}

/// What the interrupt's handler and the driver share; a `static`.
pub struct Interrupt {
    waker: AtomicWaker,
}

/// Why a controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No LAN9118 answers at the base address; its test register read as this.
    Absent(u32),
    /// It did not come out of its reset.
    Reset,
}

impl Interrupt {
    /// A handler that has nobody to wake yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { waker: AtomicWaker::new() }
    }

    /// What the board's interrupt handler calls for the controller at `base`.
    ///
    /// # Safety
    /// `base` is that of a LAN9118, as for [`Lan9118::start`].
    pub unsafe fn happened(&self, base: usize) {
        // SAFETY: the caller's promise.
        let registers = unsafe { Registers::at(base) };
        registers.write(Register::InterruptEnable, 0);
        self.waker.wake();
    }
}

impl Default for Interrupt {
    fn default() -> Self {
        Self::new()
    }
}

impl<'i> Lan9118<'i> {
    /// Resets the controller at `base` and lets it send and receive. Its Ethernet address is the one that it has loaded
    /// from its EEPROM; `address` is used where it has none.
    ///
    /// # Errors
    /// What is there is no LAN9118, or it does not work.
    ///
    /// # Safety
    /// A LAN9118 lies at `base`, in memory that is not cached, and nothing else uses it.
    pub unsafe fn start(base: usize, interrupt: &'i Interrupt, address: [u8; 6]) -> Result<Self, StartError> {
        // SAFETY: the caller's promise.
        let registers = unsafe { Registers::at(base) };
        let test = registers.read(Register::ByteTest);
        if test != BYTE_TEST {
            return Err(StartError::Absent(test));
        }
        registers.write(Register::HardwareConfig, SOFT_RESET);
        let is_reset = || registers.read(Register::HardwareConfig) & SOFT_RESET == 0;
        if !(0..RESET_READS).any(|_| is_reset()) {
            return Err(StartError::Reset);
        }
        registers.write(Register::HardwareConfig, TX_FIFO_5_KIB | MUST_BE_ONE);
        let low = registers.mac_read(Mac::AddressLow).to_le_bytes();
        let high = registers.mac_read(Mac::AddressHigh).to_le_bytes();
        let own = [low[0], low[1], low[2], low[3], high[0], high[1]];
        let address = if own == [0xff; 6] || own == [0; 6] {
            let [a, b, c, d, e, f] = address;
            registers.mac_write(Mac::AddressLow, u32::from_le_bytes([a, b, c, d]));
            registers.mac_write(Mac::AddressHigh, u32::from_le_bytes([e, f, 0, 0]));
            address
        } else {
            own
        };
        registers.write(Register::InterruptEnable, 0);
        registers.write(Register::InterruptStatus, u32::MAX);
        // One received frame, or room for a whole one to be sent, is worth an interrupt.
        registers.write(Register::FifoLevels, (TX_ROOM_BLOCKS << 24) | 0xff << 16);
        registers.write(Register::InterruptConfig, INTERRUPT_ON | ACTIVE_HIGH | PUSH_PULL);
        registers.write(Register::ReceiveConfig, 0);
        registers.write(Register::TransmitConfig, TRANSMIT_ON | STATUS_MAY_OVERRUN);
        registers.mac_write(Mac::Control, FULL_DUPLEX | MAC_TRANSMIT | MAC_RECEIVE);
        Ok(Self { registers, interrupt, address, received: [0; FRAME_WORDS], sent: [0; FRAME_WORDS] })
    }

    /// Whether a frame has come; throws away those that no buffer holds and those that the controller found damaged.
    fn has_received(&self) -> bool {
        loop {
            if (self.registers.read(Register::ReceiveUsed) >> 16) & 0xff == 0 {
                return false;
            }
            let status = self.registers.read(Register::ReceiveStatusPeek);
            let bytes = frame_bytes(status);
            if status & RECEIVE_ERROR == 0 && (4..=4 * FRAME_WORDS).contains(&bytes) {
                return true;
            }
            self.registers.read(Register::ReceiveStatus);
            for _ in 0..bytes.div_ceil(4) {
                self.registers.read(Register::ReceiveData);
            }
        }
    }

    /// Whether the controller has room for a whole frame and its two words of commands.
    fn has_room(&self) -> bool {
        // What became of sent frames nobody asks: TCP does. Unread, it would fill up.
        while (self.registers.read(Register::TransmitUsed) >> 16) & 0xff > 0 {
            self.registers.read(Register::TransmitStatus);
        }
        self.registers.read(Register::TransmitUsed) & 0xffff >= TX_ROOM_BLOCKS * 64
    }

    /// Has the task woken by the next interrupt of the kinds in `events`.
    fn wait(&self, cx: &mut Context<'_>, events: u32) {
        self.interrupt.waker.register(cx.waker());
        self.registers.write(Register::InterruptStatus, events);
        let unmasked = self.registers.read(Register::InterruptEnable);
        self.registers.write(Register::InterruptEnable, unmasked | events);
    }
}

impl Driver for Lan9118<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Room<'a>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received<'_>, Room<'_>)> {
        if !self.has_received() {
            self.wait(cx, RECEIVED);
            // One that came before the interrupt was unmasked raises none.
            if !self.has_received() {
                return None;
            }
        }
        // A frame that cannot be answered waits in the controller: whoever answers holds up who asks.
        if !self.has_room() {
            self.wait(cx, ROOM);
            if !self.has_room() {
                return None;
            }
        }
        let registers = self.registers;
        Some((Received { registers, buffer: &mut self.received }, Room { registers, buffer: &mut self.sent }))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Room<'_>> {
        if !self.has_room() {
            self.wait(cx, ROOM);
            if !self.has_room() {
                return None;
            }
        }
        Some(Room { registers: self.registers, buffer: &mut self.sent })
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        // Whoever pulls the cable is noticed by the silence.
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = MTU;
        // TCP offers its peers no larger window than so many frames.
        capabilities.max_burst_size = Some(RX_FRAMES);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.address)
    }
}

/// A frame in the controller's memory.
pub struct Received<'a> {
    registers: Registers,
    buffer: &'a mut [u32; FRAME_WORDS],
}

impl embassy_net_driver::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, f: F) -> R {
        let bytes = frame_bytes(self.registers.read(Register::ReceiveStatus));
        let words = bytes.div_ceil(4).min(FRAME_WORDS);
        for word in self.buffer.iter_mut().take(words) {
            *word = self.registers.read(Register::ReceiveData);
        }
        // The last four bytes are the frame's checksum, which the controller has checked.
        let bytes = bytes.min(4 * FRAME_WORDS).saturating_sub(4);
        f(registers::bytes_of(self.buffer).get_mut(..bytes).unwrap_or_default())
    }
}

/// Room for a frame in the controller's memory.
pub struct Room<'a> {
    registers: Registers,
    buffer: &'a mut [u32; FRAME_WORDS],
}

impl embassy_net_driver::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let len = len.min(MTU);
        let result = f(registers::bytes_of(self.buffer).get_mut(..len).unwrap_or_default());
        let bytes = len as u32;
        self.registers.write(Register::TransmitData, FIRST_SEGMENT | LAST_SEGMENT | bytes);
        self.registers.write(Register::TransmitData, bytes);
        for word in self.buffer.iter().take(len.div_ceil(4)) {
            self.registers.write(Register::TransmitData, *word);
        }
        result
    }
}

/// Bytes of a received frame with its checksum, out of its status.
const fn frame_bytes(status: u32) -> usize {
    ((status >> 16) & 0x3fff) as usize
}

/// An Ethernet frame without its checksum.
const MTU: usize = 1514;
/// Words of a frame with its checksum.
const FRAME_WORDS: usize = (MTU + 4).div_ceil(4);
/// Blocks of 64 bytes in which a frame and its commands fit.
const TX_ROOM_BLOCKS: u32 = (MTU as u32 + 8).div_ceil(64);

/// What the test register holds, as a host with the right byte order reads it.
const BYTE_TEST: u32 = 0x8765_4321;
/// A reset takes some microseconds.
const RESET_READS: u32 = 1_000_000;

// HW_CFG
const SOFT_RESET: u32 = 1;
const TX_FIFO_5_KIB: u32 = 5 << 16;
/// Whole frames that the rest of the controller's 16 KiB holds, less what it notes of them: 10,560 bytes.
const RX_FRAMES: usize = 6;
const MUST_BE_ONE: u32 = 1 << 20;
// IRQ_CFG
const INTERRUPT_ON: u32 = 1 << 8;
const ACTIVE_HIGH: u32 = 1 << 4;
const PUSH_PULL: u32 = 1;
// INT_STS and INT_EN
const RECEIVED: u32 = 1 << 3;
const ROOM: u32 = 1 << 9;
// TX_CFG
const TRANSMIT_ON: u32 = 1 << 1;
const STATUS_MAY_OVERRUN: u32 = 1 << 2;
// MAC_CR
const FULL_DUPLEX: u32 = 1 << 20;
const MAC_TRANSMIT: u32 = 1 << 3;
const MAC_RECEIVE: u32 = 1 << 2;
// The status of a received frame
const RECEIVE_ERROR: u32 = 1 << 15;
// The first command word of a frame to send
const FIRST_SEGMENT: u32 = 1 << 13;
const LAST_SEGMENT: u32 = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_its_commands_fit_the_room_that_is_waited_for() {
        assert!(TX_ROOM_BLOCKS as usize * 64 >= MTU + 8);
        assert!(TX_ROOM_BLOCKS < 5 * 1024 / 64);
    }

    #[test]
    fn the_length_of_a_frame_is_read_out_of_its_status() {
        assert_eq!(frame_bytes(0x0040_0020), 64);
        assert_eq!(frame_bytes(0xc5ee_8000), 0x5ee);
    }
}
