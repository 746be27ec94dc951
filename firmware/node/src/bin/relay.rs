//! A relay: what a node at the end of a UART says goes to the coordinator over Ethernet, and back. It computes nothing and
//! reads no frame, so it carries any node and any model, in the memory of two buffers.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::net::SocketAddrV4;

use defmt::{info, warn};
use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_net::Stack;
use embassy_net::tcp::TcpSocket;
use embassy_time::{Delay, Duration, Timer, with_timeout};
use embedded_io_async::{Read, Write};
use mps2_an385::Uart;
use static_cell::{ConstStaticCell, StaticCell};
use syn1_firmware::{INTERVAL_MS, ROOM, coordinator, network};
use syn1_transport_serial::{Lost, Reader, Serial, Writer};

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    let Some(core) = cortex_m::Peripherals::take() else { return };
    mps2_an385::start(core);
    let join = coordinator();
    info!("carrying the UART to {=[?]}:{=u16}", join.ip().octets(), join.port());
    let (mut uart_rx, mut uart_tx) = Uart::start();
    let Some(stack) = network(spawner).await else { return };
    static BUFFERS: ConstStaticCell<([u8; ROOM], [u8; ROOM])> = ConstStaticCell::new(([0; ROOM], [0; ROOM]));
    let (socket_in, socket_out) = BUFFERS.take();
    static SERIAL: StaticCell<Serial<ROOM, ROOM>> = StaticCell::new();
    let mut starts = 1;
    let serial = SERIAL.init_with(|| Serial::new(starts, INTERVAL_MS));
    loop {
        let (reader, writer, mut runner) = serial.start();
        let carried = carry(reader, writer, stack, join, (&mut socket_in[..], &mut socket_out[..]));
        if let Either::First(lost) = select(runner.run(&mut uart_rx, &mut uart_tx, Delay), carried).await {
            let lost: Lost<Infallible, Infallible> = lost;
            warn!("the line: {}", lost);
        }
        info!("stack: {=usize} bytes at most", mps2_an385::stack_used());
        starts += 1;
        *serial = Serial::new(starts, INTERVAL_MS);
    }
}

/// Waits for a node, connects it, and carries its bytes until one end leaves.
async fn carry(
    mut from_node: Reader<'_, ROOM, ROOM>,
    mut to_node: Writer<'_, ROOM, ROOM>,
    stack: Stack<'static>,
    join: SocketAddrV4,
    (socket_in, socket_out): (&mut [u8], &mut [u8]),
) {
    let mut first = [0; PART];
    let Ok(count @ 1..) = from_node.read(&mut first).await else { return };
    let mut socket = TcpSocket::new(stack, socket_in, socket_out);
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(PATIENCE));
    while socket.connect((*join.ip(), join.port())).await.is_err() {
        warn!("no coordinator there");
        Timer::after(PAUSE).await;
    }
    info!("a node is there and connected");
    {
        let (mut from_coordinator, mut to_coordinator) = socket.split();
        let up = async {
            let (mut part, mut count) = (first, count);
            while to_coordinator.write_all(part.get(..count).unwrap_or_default()).await.is_ok() {
                match from_node.read(&mut part).await {
                    Ok(more @ 1..) => count = more,
                    Ok(0) => return info!("the node has left"),
                    Err(_) => return info!("the node has started anew"),
                }
            }
            info!("the coordinator has left");
        };
        let down = async {
            let mut part = [0; PART];
            while let Ok(count @ 1..) = from_coordinator.read(&mut part).await {
                if to_node.write_all(part.get(..count).unwrap_or_default()).await.is_err() {
                    // The other direction says why.
                    return core::future::pending().await;
                }
            }
            info!("the coordinator has left");
            // Its goodbye is still on its way.
            Timer::after(PAUSE).await;
        };
        select(up, down).await;
    }
    socket.close();
    if with_timeout(PATIENCE, socket.flush()).await.is_err() {
        warn!("the coordinator does not answer any more");
    }
}

/// Bytes that are handed on at once.
const PART: usize = 512;
/// A coordinator that acknowledges nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the coordinator is tried again.
const PAUSE: Duration = Duration::from_secs(1);
