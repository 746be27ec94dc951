//! An activation over TCP and back: `cargo run --package syn1-transport-tcp --example tcp_echo`.
//!
//! Both ends skip the greeting here; `syn1_core::Session` is how ends that don't know each other agree on these limits.

use std::error::Error;

use syn1_core::codec::{choose, decode, encode};
use syn1_core::{Codec, Flags, Header, Limits, Link, LinkError, LinkErrorKind, Receive, Transmit};
use syn1_transport_tcp::{TcpLink, connect};
use tokio::net::TcpListener;

const WIDTH: u16 = 768;
const LIMITS: Limits = Limits { max_payload: 1 << 16, max_rows: 8, width: WIDTH, vocab: 1, flags: Flags::NONE };

/// Sends back what comes until the peer closes.
async fn echo(link: TcpLink) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut rx, mut tx) = link.split();
    rx.set_limits(LIMITS);
    loop {
        match rx.recv().await {
            Ok(frame) => tx.send(&frame.header, frame.payload).await?,
            Err(error) if error.kind() == LinkErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        echo(TcpLink::from_stream(stream, LIMITS.max_payload)?).await
    });

    let (mut rx, mut tx) = connect(address, LIMITS.max_payload).await?.split();
    rx.set_limits(LIMITS);
    let row: Vec<f32> = (0..WIDTH).map(|column| f32::from(column).sin()).collect();
    let codec = choose(Codec::Q8, &row)?;
    let header = Header::activation(1, 0, 0, codec, 1, WIDTH).ok_or("too long")?;
    let mut payload = vec![0; header.payload_len as usize];
    encode(codec, &row, WIDTH, &mut payload)?;
    tx.send(&header, &payload).await?;

    let frame = rx.recv().await?;
    let mut back = vec![0.0; row.len()];
    decode(frame.header.codec, frame.payload, frame.header.rows, frame.header.cols, &mut back)?;
    let worst = row.iter().zip(&back).map(|(sent, came)| (sent - came).abs()).fold(0.0, f32::max);
    println!("{} values in {} bytes there and back, none more than {worst} off", row.len(), frame.header.frame_len());
    drop((rx, tx));
    server.await?
}
