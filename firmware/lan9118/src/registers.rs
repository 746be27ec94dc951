//! The controller's registers: the only place that touches memory by address.

/// A register on the bus; its byte offset.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Register {
    ReceiveData = 0x00,
    TransmitData = 0x20,
    ReceiveStatus = 0x40,
    ReceiveStatusPeek = 0x44,
    TransmitStatus = 0x48,
    InterruptConfig = 0x54,
    InterruptStatus = 0x58,
    InterruptEnable = 0x5c,
    ByteTest = 0x64,
    FifoLevels = 0x68,
    ReceiveConfig = 0x6c,
    TransmitConfig = 0x70,
    HardwareConfig = 0x74,
    ReceiveUsed = 0x7c,
    TransmitUsed = 0x80,
    MacCommand = 0xa4,
    MacData = 0xa8,
}

/// A register of the part that speaks Ethernet, reached through two registers on the bus.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Mac {
    Control = 1,
    AddressHigh = 2,
    AddressLow = 3,
}

/// The registers of one controller.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    base: *mut u32,
}

// SAFETY: an address on a bus is the same for every thread; who may use it is what `Registers::at` asks for.
unsafe impl Send for Registers {}

impl Registers {
    /// # Safety
    /// A LAN9118 lies at `base`, which is a multiple of four.
    pub(crate) const unsafe fn at(base: usize) -> Self {
        Self { base: core::ptr::with_exposed_provenance_mut(base) }
    }

    pub(crate) fn read(self, register: Register) -> u32 {
        // SAFETY: every register lies within the controller's 256 bytes, which are there by the promise of `at`.
        unsafe { self.base.byte_add(register as usize).read_volatile() }
    }

    pub(crate) fn write(self, register: Register, value: u32) {
        // SAFETY: as for `read`.
        unsafe { self.base.byte_add(register as usize).write_volatile(value) }
    }

    pub(crate) fn mac_read(self, register: Mac) -> u32 {
        self.write(Register::MacCommand, MAC_BUSY | MAC_READ | register as u32);
        self.mac_wait();
        self.read(Register::MacData)
    }

    pub(crate) fn mac_write(self, register: Mac, value: u32) {
        self.write(Register::MacData, value);
        self.write(Register::MacCommand, MAC_BUSY | register as u32);
        self.mac_wait();
    }

    /// Some bus cycles; a controller that never finishes is found out when it neither sends nor receives.
    fn mac_wait(self) {
        for _ in 0..MAC_READS {
            if self.read(Register::MacCommand) & MAC_BUSY == 0 {
                break;
            }
        }
    }
}

/// Words as the bytes that lie in them, the first in the lowest place.
pub(crate) fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    const { assert!(cfg!(target_endian = "little")) }
    let bytes = size_of_val(words);
    // SAFETY: words are bytes without gaps, of any value, and bytes need no alignment; the borrow is the same.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), bytes) }
}

const MAC_BUSY: u32 = 1 << 31;
const MAC_READ: u32 = 1 << 30;
const MAC_READS: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_the_bytes_that_lie_in_them() {
        assert_eq!(bytes_of(&mut [0x0403_0201, 0x0807_0605]), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
