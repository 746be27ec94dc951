//! A node over a UART: a bridge on a host carries it to the coordinator. Its weights lie in its flash.
#![no_std]
#![no_main]

use core::convert::Infallible;

use defmt::{info, warn};
use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_time::{Delay, Duration, Timer};
use mps2_an385::{Uart, UartRx, UartTx};
use static_cell::{ConstStaticCell, StaticCell};
use syn1_core::Millis;
use syn1_firmware::{FRAME, INTERVAL_MS, ROOM, config, log, memory, now, sleep_until};
use syn1_node_micro::{Board, Event, FetchError, Memory, NodeConfig, flash, run};
use syn1_transport_serial::{Lost, Serial, link};

/// The board as the node sees it.
struct Flash;

impl Board for Flash {
    fn now(&self) -> Millis {
        now()
    }

    fn micros(&self) -> u64 {
        mps2_an385::micros()
    }

    async fn sleep_until(&self, time: Millis) {
        sleep_until(time).await;
    }

    async fn fetch(&self, _: u16, name: &str, from: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), FetchError> {
        let file = flash::find(mps2_an385::weights(), name).ok_or(FetchError::Absent)?;
        for part in file.get(from..).unwrap_or_default().chunks(PART) {
            take(part);
            // Pings are answered between two parts.
            embassy_futures::yield_now().await;
        }
        Ok(())
    }

    fn event(&self, event: Event) {
        log(event);
    }
}

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let Some(core) = cortex_m::Peripherals::take() else { return };
    mps2_an385::start(core);
    info!("serving over the UART");
    let (mut uart_rx, mut uart_tx) = Uart::start();
    static FRAMES: ConstStaticCell<([u8; FRAME], [u8; FRAME])> = ConstStaticCell::new(([0; FRAME], [0; FRAME]));
    let (frame_in, frame_out) = FRAMES.take();
    let (mut memory, config) = (memory(), config());
    static SERIAL: StaticCell<Serial<ROOM, ROOM>> = StaticCell::new();
    let serial = SERIAL.init_with(|| Serial::new(1, INTERVAL_MS));
    let mut starts = 1;
    loop {
        converse(serial, (&mut uart_rx, &mut uart_tx), (&mut frame_in[..], &mut frame_out[..]), &config, &mut memory)
            .await;
        Timer::after(PAUSE).await;
        starts += 1;
        *serial = Serial::new(starts, INTERVAL_MS);
    }
}

/// Serves one coordinator until it leaves, or the bridge starts anew.
async fn converse(
    serial: &mut Serial<ROOM, ROOM>,
    (uart_rx, uart_tx): (&mut UartRx, &mut UartTx),
    (frame_in, frame_out): (&mut [u8], &mut [u8]),
    config: &NodeConfig<'_>,
    memory: &mut Memory<'_>,
) {
    let (reader, writer, mut runner) = serial.start();
    let link = link(reader, writer, frame_in, frame_out);
    let node = async {
        let ended = run(link, &Flash, config, memory).await;
        warn!("the conversation has ended: {}", ended);
        // What was said last is still on its way; the runner ends when it has arrived.
        Timer::after(PAUSE).await;
    };
    let lost: Either<Lost<Infallible, Infallible>, ()> = select(runner.run(uart_rx, uart_tx, Delay), node).await;
    if let Either::First(Lost::Ended) = lost {
        warn!("the line has ended");
    }
}

/// Before a new conversation is begun.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a file that are read at once.
const PART: usize = 4096;
