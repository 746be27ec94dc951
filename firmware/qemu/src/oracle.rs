//! The microcontroller's node on this machine: the same code, over tokio's sockets.

use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use embedded_io_adapters::tokio_1::FromTokio;
use syn1_core::Millis;
use syn1_node_micro::{Board, Event, FetchError, Memory, NodeConfig, http, run};
use tokio::net::TcpStream;

/// A node on a thread of its own, until the coordinator goes away.
pub(crate) struct Oracle {
    _thread: JoinHandle<()>,
}

/// This machine as a board.
struct Host {
    begun: Instant,
    coordinator: IpAddr,
}

impl Oracle {
    pub(crate) fn join(coordinator: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("oracle".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(coordinator)) {
                eprintln!("the oracle: {error:#}");
            }
        })?;
        Ok(Self { _thread: thread })
    }
}

async fn serve(coordinator: SocketAddr) -> Result<()> {
    let link = syn1_transport_tcp::connect(coordinator, MAX_PAYLOAD).await?;
    let board = Host { begun: Instant::now(), coordinator: coordinator.ip() };
    let config = NodeConfig {
        name: "oracle",
        device: "integers on a host",
        agent: "syn1-qemu",
        max_payload: MAX_PAYLOAD,
        max_rows: 8,
    };
    // As much as the board has.
    let mut words = vec![0; 820_000];
    run(link, &board, &config, &mut Memory::new(&mut words)).await;
    Ok(())
}

impl Board for Host {
    fn now(&self) -> Millis {
        Millis(self.begun.elapsed().as_millis() as u64)
    }

    fn micros(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    async fn sleep_until(&self, time: Millis) {
        match self.begun.checked_add(Duration::from_millis(time.0)) {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }

    async fn fetch(&self, port: u16, name: &str, from: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), FetchError> {
        let stream = TcpStream::connect((self.coordinator, port)).await.map_err(|_| FetchError::Broken)?;
        http::get(&mut FromTokio::new(stream), "coordinator", name, from, take).await
    }

    fn event(&self, event: Event) {
        println!("  oracle | {event:?}");
    }
}

const MAX_PAYLOAD: u32 = 8192;
