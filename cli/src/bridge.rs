//! `syn1 bridge`: carries a node at the end of a serial line to a coordinator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use embedded_hal_async::delay::DelayNs;
use embedded_io_adapters::tokio_1::FromTokio;
use embedded_io_async::{Read as _, Write as _};
use serial2_tokio::SerialPort;
use syn1_identity::nonce;
use syn1_node_host::{Join, JoinError, Way};
use syn1_transport_serial::{Lost, Reader, Serial, Writer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::show;

/// Options of `syn1 bridge`.
#[derive(clap::Args)]
#[command(after_help = "\
The node's firmware speaks SYN1 over its UART (see docs/firmware.md); its weights lie in its own flash. What the line damages
is sent again. The bridge stays when the coordinator or the node goes away, and joins them again when both are back.")]
pub(crate) struct Args {
    /// The serial device: /dev/ttyUSB0, COM3, or a pseudo-terminal of QEMU's
    #[arg(long, value_name = "DEVICE")]
    serial: PathBuf,
    /// Bits a second
    #[arg(long, value_name = "N", default_value_t = 115_200)]
    baud: u32,
    /// The coordinator
    #[arg(long, value_name = "tcp://HOST:PORT", value_parser = plain_tcp)]
    join: Join,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let device = args.serial.display();
    let say = |text: &str| {
        if !args.quiet {
            show::say(text);
        }
    };
    let port = SerialPort::open(&args.serial, args.baud)
        .with_context(|| format!("cannot open {device}: is it there, and may you use it?"))?;
    say(&format!("carrying {device} to {}", args.join));
    let (line_in, line_out) = tokio::io::split(port);
    let (mut line_in, mut line_out) = (FromTokio::new(line_in), FromTokio::new(line_out));
    loop {
        let [a, b, c, d, ..] = nonce().context("no random numbers")?;
        let mut serial = Serial::<ROOM, ROOM>::new(u32::from_le_bytes([a, b, c, d]), INTERVAL_MS);
        let (reader, writer, mut runner) = serial.start();
        let lost: Lost<io::Error, io::Error> = tokio::select! {
            lost = runner.run(&mut line_in, &mut line_out, Timer) => lost,
            () = carry(reader, writer, &args.join, &say) => continue,
        };
        match lost {
            Lost::Read(error) | Lost::Write(error) => {
                return Err(error).with_context(|| format!("{device} has failed"));
            }
            Lost::Ended => anyhow::bail!("{device} has gone away"),
            Lost::Done => {}
        }
    }
}

/// A coordinator's address that bytes can be carried to as they are.
fn plain_tcp(text: &str) -> Result<Join, String> {
    let join: Join = text.parse().map_err(|error: JoinError| error.to_string())?;
    match join.way() {
        Way::Tcp => Ok(join),
        _ => Err(format!(
            "a bridge carries bytes as they come, to the port for plain TCP: tcp://{}:7700 unless --tcp names another, not \
             {join}",
            join.host()
        )),
    }
}

/// Waits for a node, connects it, and carries its bytes until one end leaves.
async fn carry(
    mut from_node: Reader<'_, ROOM, ROOM>,
    mut to_node: Writer<'_, ROOM, ROOM>,
    join: &Join,
    say: &impl Fn(&str),
) {
    let mut first = [0; PART];
    let Ok(count @ 1..) = from_node.read(&mut first).await else { return };
    let mut coordinator = loop {
        match TcpStream::connect(join.address()).await {
            Ok(coordinator) => break coordinator,
            Err(error) => say(&format!("cannot reach the coordinator at {join}: {error}; trying again")),
        }
        tokio::time::sleep(PAUSE).await;
    };
    say("a node is there and connected");
    let begun = async {
        coordinator.set_nodelay(true)?;
        coordinator.write_all(first.get(..count).unwrap_or_default()).await
    };
    if let Err(error) = begun.await {
        return say(&format!("the coordinator has left: {error}"));
    }
    let (mut from_coordinator, mut to_coordinator) = coordinator.split();
    let up = async {
        let mut part = [0; PART];
        loop {
            match from_node.read(&mut part).await {
                Ok(count @ 1..) => to_coordinator.write_all(part.get(..count).unwrap_or_default()).await?,
                Ok(0) => return io::Result::Ok("the node has left"),
                Err(_) => return Ok("the node has started anew"),
            }
        }
    };
    let down = async {
        let mut part = [0; PART];
        loop {
            match from_coordinator.read(&mut part).await? {
                0 => return io::Result::Ok(()),
                count if to_node.write_all(part.get(..count).unwrap_or_default()).await.is_err() => {
                    // The other direction says why.
                    return std::future::pending().await;
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        left = up => say(left.unwrap_or("the coordinator has left")),
        ended = down => {
            say(&ended.map_or_else(|error| format!("the coordinator has left: {error}"), |()| "the coordinator has left".into()));
            // Its goodbye is still on its way.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A wait on tokio's clock.
struct Timer;

impl DelayNs for Timer {
    async fn delay_ns(&mut self, ns: u32) {
        tokio::time::sleep(Duration::from_nanos(ns.into())).await;
    }

    async fn delay_ms(&mut self, ms: u32) {
        tokio::time::sleep(Duration::from_millis(ms.into())).await;
    }
}

/// Bytes that wait on either side.
const ROOM: usize = 1 << 16;
/// Bytes that are handed on at once.
const PART: usize = 4096;
/// How long an acknowledgement may take: as the firmware has it.
const INTERVAL_MS: u32 = 300;
/// Before something is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_needs_more_than_bytes_is_refused_with_the_one_to_take() {
        assert!(plain_tcp("tcp://laptop:7700").is_ok());
        for link in ["http://laptop:7780/join#K7MP-Q2XR", "wss://laptop:7780"] {
            let error = plain_tcp(link).unwrap_err();
            assert!(error.contains("tcp://laptop:7700") && !error.contains("K7MP"), "{error}");
        }
    }

    /// Bytes through a pseudo-terminal, as a node's firmware would send them, to a socket and back.
    #[cfg(unix)]
    #[tokio::test(flavor = "current_thread")]
    async fn a_line_and_a_socket_are_joined() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let join: Join = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (board, host) = SerialPort::pair().unwrap();
        let mut serials = [Serial::<ROOM, ROOM>::new(1, 50), Serial::<ROOM, ROOM>::new(2, 50)];
        let [at_board, at_host] = &mut serials;
        let ((mut reader, mut writer, mut runner), (from, to, mut bridge)) = (at_board.start(), at_host.start());
        let text: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let node = async {
            let mut heard = vec![0; text.len()];
            let (sent, got) = tokio::join!(writer.write_all(&text), reader.read_exact(&mut heard));
            sent.unwrap();
            got.unwrap();
            assert!(heard == text, "what came back is not what was sent");
        };
        let coordinator = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        };
        let lines = [board, host].map(|port| {
            let (rx, tx) = tokio::io::split(port);
            (FromTokio::new(rx), FromTokio::new(tx))
        });
        let [(board_rx, board_tx), (host_rx, host_tx)] = lines;
        tokio::select! {
            () = node => {}
            () = coordinator => panic!("the connection has ended"),
            _ = runner.run(board_rx, board_tx, Timer) => panic!("the board's line has ended"),
            _ = bridge.run(host_rx, host_tx, Timer) => panic!("the host's line has ended"),
            () = carry(from, to, &join, &|_| {}) => panic!("the bridge has ended"),
        }
    }
}
