//! A node over Ethernet: DHCP, TCP to the coordinator, weights by HTTP.
#![no_std]
#![no_main]

use core::cell::RefCell;

use defmt::{info, warn};
use embassy_executor::Spawner;
use embassy_net::Stack;
use embassy_net::tcp::TcpSocket;
use embassy_time::{Duration, Timer, with_timeout};
use static_cell::ConstStaticCell;
use syn1_core::Millis;
use syn1_firmware::{FRAME, config, coordinator, log, memory, network, now, sleep_until};
use syn1_node_micro::{Board, Event, FetchError, http, run};
use syn1_transport_tcp::EmbassySocket;

/// The board as the node sees it.
struct Network {
    stack: Stack<'static>,
    coordinator: core::net::Ipv4Addr,
    /// Buffers of the connection that files come by; there is one at a time.
    buffers: RefCell<(&'static mut [u8], &'static mut [u8])>,
}

impl Board for Network {
    fn now(&self) -> Millis {
        now()
    }

    fn micros(&self) -> u64 {
        mps2_an385::micros()
    }

    async fn sleep_until(&self, time: Millis) {
        sleep_until(time).await;
    }

    // One file at a time is fetched, by one task.
    #[allow(clippy::await_holding_refcell_ref)]
    async fn fetch(&self, port: u16, name: &str, from: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), FetchError> {
        let mut buffers = self.buffers.try_borrow_mut().map_err(|_| FetchError::Broken)?;
        let (receive, send) = &mut *buffers;
        let mut socket = TcpSocket::new(self.stack, receive, send);
        socket.set_timeout(Some(PATIENCE));
        socket.connect((self.coordinator, port)).await.map_err(|_| FetchError::Broken)?;
        let got = http::get(&mut socket, "coordinator", name, from, take).await;
        socket.abort();
        got
    }

    fn event(&self, event: Event) {
        log(event);
    }
}

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    let Some(core) = cortex_m::Peripherals::take() else { return };
    mps2_an385::start(core);
    let join = coordinator();
    info!("joining {=[?]}:{=u16}", join.ip().octets(), join.port());
    let Some(stack) = network(spawner).await else { return };
    static HTTP: ConstStaticCell<([u8; 4096], [u8; 512])> = ConstStaticCell::new(([0; 4096], [0; 512]));
    let (receive, send) = HTTP.take();
    let buffers = RefCell::new((&mut receive[..], &mut send[..]));
    let board = Network { stack, coordinator: *join.ip(), buffers };
    static SOCKET: ConstStaticCell<([u8; FRAME], [u8; FRAME])> = ConstStaticCell::new(([0; FRAME], [0; FRAME]));
    static FRAMES: ConstStaticCell<([u8; FRAME], [u8; FRAME])> = ConstStaticCell::new(([0; FRAME], [0; FRAME]));
    let ((socket_in, socket_out), (frame_in, frame_out)) = (SOCKET.take(), FRAMES.take());
    let (mut memory, config) = (memory(), config());
    loop {
        let mut socket = TcpSocket::new(stack, socket_in, socket_out);
        socket.set_timeout(Some(PATIENCE));
        match socket.connect((*join.ip(), join.port())).await {
            Err(_) => warn!("no coordinator there"),
            Ok(()) => {
                let socket = EmbassySocket::new(socket);
                let link = socket.link(&mut frame_in[..], &mut frame_out[..]);
                let ended = run(link, &board, &config, &mut memory).await;
                warn!("the conversation has ended: {}", ended);
                if with_timeout(PATIENCE, socket.close()).await.is_err() {
                    warn!("the coordinator does not answer any more");
                }
            }
        }
        Timer::after(PAUSE).await;
    }
}

/// A coordinator that acknowledges nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the coordinator is tried again.
const PAUSE: Duration = Duration::from_secs(1);
