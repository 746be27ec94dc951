//! A coordinator and its nodes in this process: what `generate` and the benchmarks run on.

use std::net::{Ipv4Addr, SocketAddr};

use std::future::Future;

use anyhow::{Context, Result, anyhow, bail};
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::{Server, ServerConfig};
use syn1_coordinator::update::Event;
use syn1_core::Codec;
use syn1_node_host::{HostConfig, HostError, HostEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::model::Prepared;
use crate::options::DeviceOptions;
use crate::show::SwarmProgress;

/// A coordinator with local nodes. Dropping it ends them.
pub(crate) struct Swarm {
    // Dropped first: nodes leave before the coordinator does.
    stop: watch::Sender<bool>,
    server: Server,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    nodes: tokio::sync::Mutex<Vec<JoinHandle<Result<(), HostError>>>>,
}

impl Swarm {
    /// Starts a coordinator on free ports and `nodes` nodes that join it over TCP.
    pub(crate) fn start(prepared: &Prepared, nodes: usize, device: &DeviceOptions, wire: Codec) -> Result<Self> {
        let server = Server::start(server_config(prepared, Policy::Exactly(nodes), wire, 1))?;
        let events = tokio::sync::Mutex::new(server.events());
        let (stop, stopped) = watch::channel(false);
        let join = format!("tcp://{}", server.tcp());
        let mut handles = Vec::new();
        for number in 1..=nodes {
            let config = HostConfig {
                join: join.parse()?,
                name: format!("node-{number}"),
                device: device.device.clone(),
                threads: device.threads,
                weights: Some(prepared.shards.clone()),
                cache: None,
                memory_limit_bytes: None,
                reconnect: false,
            };
            let mut stopped = stopped.clone();
            let shutdown = async move {
                // An error means that the sender is gone, which is a shutdown too.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let tell = |event: HostEvent| tracing::info!(?event);
            handles.push(tokio::spawn(syn1_node_host::serve(config, tell, shutdown)));
        }
        Ok(Self { stop, server, events, nodes: tokio::sync::Mutex::new(handles) })
    }

    /// The coordinator.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Waits until a token has passed through every layer; fails with the cause when that cannot be.
    pub(crate) async fn ready(&self) -> Result<()> {
        let progress = SwarmProgress::new(false);
        let (mut nodes, mut events) = (self.nodes.lock().await, self.events.lock().await);
        tokio::select! {
            ready = ready(&self.server, &mut events, &progress) => ready,
            failed = first_failure(&mut nodes) => Err(failed),
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Waits for [`Event::Ready`]; what makes waiting pointless is an error.
pub(crate) async fn ready(
    server: &Server,
    events: &mut mpsc::UnboundedReceiver<Event>,
    progress: &SwarmProgress,
) -> Result<()> {
    while !server.topology().ready {
        let event = events.recv().await.context("the coordinator ended before the model was ready")?;
        progress.show(&event);
        match event {
            Event::Ready { .. } => break,
            Event::Unplaced(why) if !why.starts_with("waiting for") => bail!(why),
            Event::Unable { node, why } => bail!("{node} cannot take its layers: {why}"),
            Event::Left { node, why } => bail!("{node} left before the model was ready: {why}"),
            Event::Refused { node, why } => bail!("{node} was turned away: {why}"),
            _ => {}
        }
    }
    progress.done();
    Ok(())
}

/// A coordinator for `prepared` on free local ports.
pub(crate) fn server_config(prepared: &Prepared, policy: Policy, wire: Codec, slots: usize) -> ServerConfig {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    ServerConfig {
        core: CoreConfig {
            name: prepared.name.clone(),
            spec: prepared.spec.clone(),
            format: prepared.format,
            manifest_sha256: *prepared.manifest.sha256().as_bytes(),
            http_port: 0,
            policy,
            wire,
            max_positions: prepared.max_positions,
            slots,
            chunk: PREFILL_ROWS.min(prepared.max_positions),
            tokenizer: prepared.tokenizer.clone(),
        },
        shards: prepared.shards.clone(),
        tcp: local,
        http: local,
    }
}

/// The error of the first node that ends.
async fn first_failure(nodes: &mut Vec<JoinHandle<Result<(), HostError>>>) -> anyhow::Error {
    let ended = std::future::poll_fn(|context| {
        for node in nodes.iter_mut() {
            if let std::task::Poll::Ready(ended) = std::pin::Pin::new(node).poll(context) {
                return std::task::Poll::Ready(ended);
            }
        }
        std::task::Poll::Pending
    });
    match ended.await {
        Ok(Ok(())) => anyhow!("a node left before the model was ready"),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    }
}

/// Rows of a prefill chunk: enough to reuse each weight many times, few enough that a second request waits only briefly.
const PREFILL_ROWS: usize = 64;
