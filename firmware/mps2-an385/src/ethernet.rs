//! The board's Ethernet controller.

use lan9118::{Interrupt, Lan9118, StartError};

use crate::map;
use crate::vectors::{self, unmask};

static HANDLER: Interrupt = Interrupt::new();

/// The controller, ready for embassy-net. Once.
///
/// # Errors
/// It does not answer.
pub fn ethernet() -> Result<Lan9118<'static>, StartError> {
    // SAFETY: AN385 has a LAN9118 there; nobody else uses it.
    let controller = unsafe { Lan9118::start(map::ETHERNET, &HANDLER, OWN_ADDRESS) }?;
    unmask(vectors::Interrupt::Ethernet);
    Ok(controller)
}

#[unsafe(no_mangle)]
extern "C" fn ETHERNET() {
    // SAFETY: the interrupt is the LAN9118's.
    unsafe { HANDLER.happened(map::ETHERNET) }
}

/// Used where the controller's EEPROM holds none: an address that is locally administered.
const OWN_ADDRESS: [u8; 6] = [0x02, b's', b'y', b'n', b'1', 0x01];
