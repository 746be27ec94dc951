//! A coordinator and its nodes in this process: what `generate` and the benchmarks run on.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use syn1_coordinator::access::{Access, Client};
use syn1_coordinator::core::{Core, CoreConfig};
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::{Policy, Unplaced};
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::{Server, ServerConfig};
use syn1_coordinator::update::Event;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use syn1_node_host::{HostConfig, HostError, HostEvent, Trust};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::context;
use crate::model::Prepared;
use crate::options::{DeviceOptions, TextOptions};
use crate::progress::SwarmProgress;
use crate::show;

/// A coordinator with local nodes. Dropping it ends them.
pub(crate) struct Swarm {
    stop: watch::Sender<bool>,
    server: Server,
    events: mpsc::UnboundedReceiver<Event>,
    nodes: Vec<JoinHandle<Result<(), HostError>>>,
    device: Arc<OnceLock<String>>,
}

impl Swarm {
    /// Starts a coordinator on free ports and `nodes` nodes that join it over TCP.
    pub(crate) fn start(prepared: &Prepared, nodes: usize, device: &DeviceOptions, wire: &Wire) -> Result<Self> {
        Self::with_slots(prepared, nodes, 1, device, wire)
    }

    /// The same for `slots` requests at a time.
    pub(crate) fn with_slots(
        prepared: &Prepared,
        nodes: usize,
        slots: usize,
        device: &DeviceOptions,
        wire: &Wire,
    ) -> Result<Self> {
        let keys = Keys::generate()?;
        let server = Server::start(server_config(prepared, Policy::Exactly(nodes), wire, slots, keys.clone()))?;
        let events = server.events();
        let (stop, stopped) = watch::channel(false);
        let device_line = Arc::new(OnceLock::new());
        let join = format!("tcp://{}", server.tcp());
        let folders = prepared.folders()?;
        let mut handles = Vec::new();
        for number in 1..=nodes {
            let config = HostConfig {
                join: join.parse()?,
                trust: Trust::System,
                name: local_name(number),
                keys: Keys::generate()?,
                expect: Some(keys.public()),
                device: device.device.clone(),
                threads: device.threads,
                tune: !device.no_tune,
                weights: folders.clone(),
                cache: None,
                memory_limit_bytes: None,
                reconnect: false,
            };
            let mut stopped = stopped.clone();
            let shutdown = async move {
                // An error means that the sender is gone, which is a shutdown too.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let device_line = device_line.clone();
            let tell = move |event: HostEvent| {
                tracing::info!(?event);
                if let HostEvent::Device(line) = event {
                    // All of them compute on the same device; the first says so.
                    let _ = device_line.set(line);
                }
            };
            handles.push(tokio::spawn(syn1_node_host::serve(config, tell, shutdown)));
        }
        Ok(Self { stop, server, events, nodes: handles, device: device_line })
    }

    /// The coordinator.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Waits until a token has passed through every layer; fails with the cause when that cannot be.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let mut progress = SwarmProgress::spinner();
        let count = self.nodes.len();
        tokio::select! {
            ready = ready(&mut self.events, &mut progress, count) => ready,
            failed = first_failure(&mut self.nodes) => Err(failed),
        }
    }

    /// What computes, and why where that is not obvious; known when the swarm is ready.
    pub(crate) fn device(&self) -> &str {
        self.device.get().map_or("", String::as_str)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Starts a swarm of `nodes` nodes for texts and waits until it is ready; says how activations travel where nobody chose it,
/// and what computes.
pub(crate) async fn ready_for(prepared: &Prepared, nodes: u16, how: &TextOptions) -> Result<(Swarm, Wire)> {
    show::say(&context::cost(prepared, 1, Some(nodes.into())));
    let (wire, why) = how.wire.wire.resolve(prepared)?;
    if let (Some(why), 2..) = (why, nodes) {
        show::say(&format!("wire {wire}: {why}"));
    }
    let mut swarm = Swarm::start(prepared, nodes.into(), &how.device, &wire)?;
    swarm.ready().await?;
    show::say(swarm.device());
    Ok((swarm, wire))
}

/// Waits for [`Event::Ready`]; what makes waiting pointless is an error. That strangers come and go is none: only the
/// `count` local nodes matter.
pub(crate) async fn ready(
    events: &mut mpsc::UnboundedReceiver<Event>,
    progress: &mut SwarmProgress,
    count: usize,
) -> Result<()> {
    let local = |node: &str| (1..=count).any(|number| node == local_name(number));
    // Every event since the start is in the channel, so the one that says ready is told like the others.
    loop {
        let event = events.recv().await.context("the coordinator ended before the model was ready")?;
        progress.show(&event);
        match event {
            Event::Ready { .. } => return Ok(()),
            Event::Unplaced { why, waiting: false } => bail!(why),
            Event::Unable { node, why } if local(&node) => bail!("{node} cannot take its layers: {why}"),
            Event::Left { node, why } if local(&node) => bail!("{node} left before the model was ready: {why}"),
            Event::Refused { node, why } if local(&node) => bail!("{node} was turned away: {why}"),
            _ => {}
        }
    }
}

/// The name of the `number`th node that a command starts on this machine, from 1 on.
pub(crate) fn local_name(number: usize) -> String {
    format!("node-{number}")
}

/// Whether `nodes` nodes can share the model, known before any of them is there.
pub(crate) fn check_nodes(prepared: &Prepared, nodes: usize) -> Result<(), Unplaced> {
    let layers = prepared.spec.layers;
    if nodes > layers { Err(Unplaced::Layers { wanted: nodes, layers }) } else { Ok(()) }
}

/// Whether the coordinator would take this request, known before anything is loaded.
pub(crate) fn check_ask(prepared: &Prepared, ask: &Generate) -> Result<()> {
    let wire = Wire::everywhere(Form::plain(Codec::F16));
    let mut core = Core::new(core_config(prepared, Policy::Auto, &wire, 1));
    core.submit(Duration::ZERO, Client::Local, ask.clone()).map(drop).map_err(anyhow::Error::msg)
}

/// A coordinator for `prepared` on free local ports.
pub(crate) fn server_config(
    prepared: &Prepared,
    policy: Policy,
    wire: &Wire,
    slots: usize,
    keys: Keys,
) -> ServerConfig {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    ServerConfig {
        core: core_config(prepared, policy, wire, slots),
        shards: prepared.shards.clone(),
        pack: prepared.pack(),
        tcp: local,
        http: local,
        front: Front::default(),
        keys,
        allow: Vec::new(),
        access: Access::default(),
        state: None,
    }
}

pub(crate) fn core_config(prepared: &Prepared, policy: Policy, wire: &Wire, slots: usize) -> CoreConfig {
    CoreConfig {
        name: prepared.name.clone(),
        spec: prepared.spec.clone(),
        format: prepared.format,
        manifest_sha256: *prepared.manifest.sha256().as_bytes(),
        smaller: prepared.smaller.clone(),
        http_port: 0,
        policy,
        wire: wire.clone(),
        max_positions: prepared.max_positions,
        slots,
        chunk: PREFILL_ROWS.min(prepared.max_positions),
        relay_bytes: RELAY_BYTES,
        // What a node computed it says only when it gives a KV cache back, and a command line has one text.
        prefix_cache: PrefixCache::Off,
        tokenizer: prepared.tokenizer.clone(),
    }
}

/// The error of the first node that ends.
async fn first_failure(nodes: &mut [JoinHandle<Result<(), HostError>>]) -> anyhow::Error {
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

/// Rows of a prefill chunk of a chain: enough to reuse each weight many times, few enough that every node has one while a
/// prompt goes through, and that a second request waits only briefly. A device of its own takes more: see
/// [`syn1_node_host::Device::prompt_rows`].
const PREFILL_ROWS: usize = 64;

/// Bytes of activations that are kept for a node's successor: sixteen requests with 4,096 positions at 1,536 bytes a row and
/// boundary, three boundaries, and a small part of what a machine that serves a model has.
const RELAY_BYTES: usize = 256 << 20;
