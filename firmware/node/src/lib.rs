//! What the images share: who the node is, its memory, its clock and its log.
#![no_std]

use core::net::SocketAddrV4;

use defmt::info;
use embassy_time::{Instant, Timer};
use static_cell::ConstStaticCell;
use syn1_core::{Header, Millis};
use syn1_node_micro::{Event, Memory, NodeConfig};

/// Rows of a frame that the node takes: a prompt goes through it in chunks of so many.
pub const MAX_ROWS: u16 = 8;

/// Bytes of a frame's payload: as many rows of 256 floats; wider models go in fewer rows.
pub const MAX_PAYLOAD: u32 = 4 * 256 * MAX_ROWS as u32;

/// Bytes of a frame buffer.
pub const FRAME: usize = Header::LEN + MAX_PAYLOAD as usize;

/// Words of memory for weights, KV caches and rows: most of the board's.
const MEMORY_WORDS: usize = 820_000;

/// Not initialised and not in the image: the board's memory beside what the program needs.
#[unsafe(link_section = ".uninit.MEMORY")]
static MEMORY: ConstStaticCell<[u32; MEMORY_WORDS]> = ConstStaticCell::new([0; MEMORY_WORDS]);

/// The node's memory. Once.
pub fn memory() -> Memory<'static> {
    Memory::new(MEMORY.take())
}

/// What the board's settings say.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Where the coordinator listens for nodes.
    pub join: SocketAddrV4,
    /// What others see this node as.
    pub name: &'static str,
}

impl Settings {
    /// The settings in flash, and for what they do not say a QEMU on the coordinator's machine.
    pub fn read() -> Self {
        let text = mps2_an385::settings();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let join = value("join").and_then(|join| join.parse().ok()).unwrap_or(QEMU_HOST);
        Self { join, name: value("name").unwrap_or("microcontroller") }
    }
}

/// The host's own address inside QEMU, and the coordinator's usual port.
const QEMU_HOST: SocketAddrV4 = SocketAddrV4::new(core::net::Ipv4Addr::new(10, 0, 2, 2), 7700);

/// Who the node is, for the coordinator.
pub fn config(settings: &Settings) -> NodeConfig<'static> {
    NodeConfig {
        name: settings.name,
        device: "Cortex-M3 at 25 MHz, integers",
        agent: concat!("syn1-firmware ", env!("CARGO_PKG_VERSION")),
        max_payload: MAX_PAYLOAD,
        max_rows: MAX_ROWS,
    }
}

/// The time since the start.
pub fn now() -> Millis {
    Millis(Instant::now().as_millis())
}

/// Waits until [`now`] has reached `time`.
pub async fn sleep_until(time: Millis) {
    match time.0 {
        // Embassy counts in fewer milliseconds than the session's "never".
        u64::MAX => core::future::pending().await,
        millis => Timer::at(Instant::from_millis(millis)).await,
    }
}

/// Writes what happens to the log; when a request ends also how deep the stack has been.
pub fn log(event: Event) {
    info!("{}", event);
    if let Event::Closed { .. } = event {
        info!("stack: {=usize} bytes at most", mps2_an385::stack_used());
    }
}

/// The log says where, and the board begins anew.
#[panic_handler]
fn panic(panic: &core::panic::PanicInfo<'_>) -> ! {
    match panic.location() {
        Some(place) => defmt::error!("panic at {=str}:{=u32}", place.file(), place.line()),
        None => defmt::error!("panic"),
    }
    cortex_m::peripheral::SCB::sys_reset()
}
