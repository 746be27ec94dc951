//! What the images share: who the node is, its memory, its clock and its log.
#![no_std]

mod network;

use core::net::SocketAddrV4;

use defmt::info;
use embassy_time::{Instant, Timer};
use small_memory as _;
use static_cell::ConstStaticCell;
use syn1_core::{Header, Millis};
use syn1_node_micro::{Event, Memory, NodeConfig};

pub use network::network;

/// Rows of a frame that the node takes: a prompt goes through it in chunks of so many.
pub const MAX_ROWS: u16 = 8;

/// Bytes of a frame's payload: as many rows of 256 floats; wider models go in fewer rows.
pub const MAX_PAYLOAD: u32 = 4 * 256 * MAX_ROWS as u32;

/// Bytes of a frame buffer.
pub const FRAME: usize = Header::LEN + MAX_PAYLOAD as usize;

/// Bytes of a serial line that wait to be read, and bytes that wait to be acknowledged: a window of packets.
pub const ROOM: usize = 2048;

/// How long an acknowledgement on a serial line may take: the layers between two looks at the UART, and a window of packets at
/// 115,200 baud.
pub const INTERVAL_MS: u32 = 300;

/// Words of memory for weights, KV caches and rows: most of the board's.
const MEMORY_WORDS: usize = 820_000;

/// Not initialised and not in the image: the board's memory beside what the program needs.
#[unsafe(link_section = ".uninit.MEMORY")]
static MEMORY: ConstStaticCell<[u32; MEMORY_WORDS]> = ConstStaticCell::new([0; MEMORY_WORDS]);

/// The node's memory. Once.
pub fn memory() -> Memory<'static> {
    Memory::new(MEMORY.take())
}

/// Where the coordinator listens for nodes, by the board's settings; else a QEMU on the coordinator's machine.
pub fn coordinator() -> SocketAddrV4 {
    setting("join").and_then(|join| join.parse().ok()).unwrap_or(QEMU_HOST)
}

/// A line of the settings in flash.
fn setting(key: &str) -> Option<&'static str> {
    mps2_an385::settings().lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The host's own address inside QEMU, and the coordinator's usual port.
const QEMU_HOST: SocketAddrV4 = SocketAddrV4::new(core::net::Ipv4Addr::new(10, 0, 2, 2), 7700);

/// Who the node is, for the coordinator.
pub fn config() -> NodeConfig<'static> {
    NodeConfig {
        name: setting("name").unwrap_or("microcontroller"),
        device: if cfg!(target_abi = "eabihf") { "Cortex-M4, integers" } else { "Cortex-M3, integers" },
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
