//! The CMSDK's UARTs: one for bytes in both directions, one that only the logs are written to.

use core::cell::RefCell;
use core::convert::Infallible;
use core::future::poll_fn;
use core::task::Poll;

use critical_section::Mutex;
use embassy_sync::waitqueue::AtomicWaker;
use embedded_io_async::{ErrorType, Read, Write};

use crate::map;
use crate::vectors::{Interrupt, unmask};

/// A UART's registers.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    base: *mut u32,
}

impl Registers {
    /// The UART at `base`, switched on at the speed that its clock gives at most.
    ///
    /// # Safety
    /// A CMSDK UART lies at `base`.
    pub(crate) unsafe fn start(base: usize, control: u32) -> Self {
        // SAFETY: the caller's promise.
        let registers = unsafe { Self::at(base) };
        registers.write(BAUD_DIVIDER, FASTEST);
        registers.write(CONTROL, control);
        registers
    }

    /// # Safety
    /// A CMSDK UART lies at `base`.
    pub(crate) const unsafe fn at(base: usize) -> Self {
        Self { base: core::ptr::with_exposed_provenance_mut(base) }
    }

    fn read(self, register: usize) -> u32 {
        // SAFETY: the register lies within the UART, which is there by the promise of `at`.
        unsafe { self.base.add(register).read_volatile() }
    }

    fn write(self, register: usize, value: u32) {
        // SAFETY: as for `read`.
        unsafe { self.base.add(register).write_volatile(value) }
    }

    /// Writes one byte if there is room for it.
    pub(crate) fn put(self, byte: u8) -> bool {
        let room = self.read(STATE) & TX_FULL == 0;
        if room {
            self.write(DATA, byte.into());
        }
        room
    }
}

// Registers, in words from the base.
const DATA: usize = 0;
const STATE: usize = 1;
const CONTROL: usize = 2;
const CLEAR: usize = 3;
const BAUD_DIVIDER: usize = 4;

const TX_FULL: u32 = 1;
const RX_FULL: u32 = 2;

/// CTRL: send.
pub(crate) const TX_ON: u32 = 1;
const RX_ON: u32 = 2;
const TX_INTERRUPT: u32 = 4;
const RX_INTERRUPT: u32 = 8;

/// The smallest divider that the UART takes: 1.56 Mbit/s at 25 MHz.
const FASTEST: u32 = 16;

/// The UART of the serial link. Bytes that come in wait in a ring until they are read.
pub struct Uart;


/// The receiving half of a [`Uart`].
pub struct UartRx;

/// The sending half of a [`Uart`].
pub struct UartTx {
    registers: Registers,
}

/// What has come and was not read.
struct Ring {
    bytes: [u8; RING],
    first: usize,
    count: usize,
    overrun: bool,
}

/// What comes in while a layer is computed: the other end stops after a window of frames.
const RING: usize = 8192;

static RECEIVED: Mutex<RefCell<Ring>> =
    Mutex::new(RefCell::new(Ring { bytes: [0; RING], first: 0, count: 0, overrun: false }));
static READER: AtomicWaker = AtomicWaker::new();
static WRITER: AtomicWaker = AtomicWaker::new();

impl Uart {
    /// Switches the UART on and gives its halves. Once.
    #[must_use]
    pub fn start() -> (UartRx, UartTx) {
        // SAFETY: AN385 has a UART there.
        let registers = unsafe { Registers::start(map::UART0, TX_ON | RX_ON | RX_INTERRUPT) };
        unmask(Interrupt::Uart0Rx);
        unmask(Interrupt::Uart0Tx);
        (UartRx, UartTx { registers })
    }
}

impl Ring {
    fn put(&mut self, byte: u8) {
        if self.count == RING {
            self.overrun = true;
            return;
        }
        let at = (self.first + self.count) % RING;
        if let Some(place) = self.bytes.get_mut(at) {
            *place = byte;
            self.count += 1;
        }
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.first).copied().filter(|_| self.count > 0)?;
        (self.first, self.count) = ((self.first + 1) % RING, self.count - 1);
        Some(byte)
    }
}

#[unsafe(no_mangle)]
extern "C" fn UART0_RX() {
    // SAFETY: the interrupt is this UART's.
    let registers = unsafe { Registers::at(map::UART0) };
    registers.write(CLEAR, 2);
    critical_section::with(|cs| {
        let mut ring = RECEIVED.borrow_ref_mut(cs);
        while registers.read(STATE) & RX_FULL != 0 {
            ring.put(registers.read(DATA) as u8);
        }
    });
    READER.wake();
}

#[unsafe(no_mangle)]
extern "C" fn UART0_TX() {
    // SAFETY: the interrupt is this UART's.
    let registers = unsafe { Registers::at(map::UART0) };
    registers.write(CLEAR, 1);
    registers.write(CONTROL, TX_ON | RX_ON | RX_INTERRUPT);
    WRITER.wake();
}




impl ErrorType for UartRx {
    type Error = Infallible;
}

impl Read for UartRx {
    /// What was lost is not told: whoever checks sums finds out.
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        if out.is_empty() {
            return Ok(0);
        }
        poll_fn(|cx| {
            READER.register(cx.waker());
            let count = critical_section::with(|cs| {
                let mut ring = RECEIVED.borrow_ref_mut(cs);
                if core::mem::take(&mut ring.overrun) {
                    defmt::warn!("the UART's ring was full: bytes are lost");
                }
                let mut count = 0;
                while let Some(place) = out.get_mut(count) {
                    let Some(byte) = ring.take() else { break };
                    *place = byte;
                    count += 1;
                }
                count
            });
            if count > 0 { Poll::Ready(Ok(count)) } else { Poll::Pending }
        })
        .await
    }
}

impl ErrorType for UartTx {
    type Error = Infallible;
}

impl Write for UartTx {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        poll_fn(|cx| {
            let put = || bytes.iter().take_while(|byte| self.registers.put(**byte)).count();
            let mut count = put();
            if count == 0 && !bytes.is_empty() {
                WRITER.register(cx.waker());
                self.registers.write(CONTROL, TX_ON | RX_ON | RX_INTERRUPT | TX_INTERRUPT);
                // Room that came before the interrupt was switched on raises none.
                count = put();
                if count == 0 {
                    return Poll::Pending;
                }
            }
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
