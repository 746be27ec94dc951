//! Where things lie that the linker does not place.

/// The weights that an image may carry: behind the program.
pub const WEIGHTS: usize = 0x0010_0000;
/// Up to the settings.
pub const WEIGHTS_BYTES: usize = SETTINGS - WEIGHTS;
/// The last page of the memory for code.
pub(crate) const SETTINGS: usize = 0x003f_f000;

/// The UART of the serial link.
pub(crate) const UART0: usize = 0x4000_4000;
/// The UART of the logs.
pub(crate) const UART1: usize = 0x4000_5000;
/// The board's counter, and by what its clock is divided.
pub(crate) const COUNTER: usize = 0x4002_8018;
pub(crate) const PRESCALE: usize = 0x4002_801c;
/// The LAN9118.
pub(crate) const ETHERNET: usize = 0x4020_0000;

/// Cycles a second of the core and of everything else.
pub(crate) const HZ: u32 = 25_000_000;
