//! A real coordinator in this process, and a process of nodes beside it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use syn1_coordinator::access::Access;
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::server::{Server, ServerConfig};
use syn1_coordinator::update::Event;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use syn1_model::plan::WeightFormat;
use syn1_model::spec::Spec;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedReceiver;

use super::process::Core;
use crate::open_files;
use crate::progress::CountBar;

/// A coordinator and its nodes. Dropping it ends them.
pub(in super::super) struct Stage {
    /// Goes before the coordinator does.
    drones: Option<Child>,
    pub(in super::super) server: Server,
    events: UnboundedReceiver<Event>,
    _shards: TempDir,
}

impl Stage {
    /// The name of the thread by which the coordinator's work is done.
    pub(in super::super) const THREAD: &'static str = "syn1-coordinator";

    /// A coordinator without nodes, on a core of its own where there are several. It serves a model of this width over as many
    /// nodes as the policy says, `slots` requests at a time; nobody has its weights.
    pub(in super::super) fn new(width: usize, policy: Policy, slots: usize) -> Result<Self> {
        let shards = tempfile::tempdir().context("cannot make a folder for the coordinator")?;
        let spec =
            Spec { width, ffn: 4 * width, vocab: VOCAB, heads: 1, kv_heads: 1, head_dim: width, ..Spec::gpt2_124m() };
        let core = CoreConfig {
            name: "zeros".into(),
            max_positions: spec.max_positions,
            spec,
            format: WeightFormat::F16,
            manifest_sha256: [0; 32],
            smaller: Vec::new(),
            http_port: 0,
            policy,
            wire: Wire::everywhere(Form::plain(Codec::F16)),
            slots,
            chunk: 64,
            relay_bytes: 256 << 20,
            prefix_cache: PrefixCache::Off,
            tokenizer: None,
        };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = ServerConfig {
            core,
            shards: shards.path().to_owned(),
            pack: Arc::new(|_| Err("there is nothing to pack".into())),
            tcp: local,
            http: local,
            front: Front::default(),
            keys: Keys::generate()?,
            allow: Vec::new(),
            access: Access::default(),
            state: None,
        };
        let core = Core::take()?;
        let server = Server::start(config)?;
        drop(core);
        let events = server.events();
        Ok(Self { server, events, drones: None, _shards: shards })
    }

    /// Starts `nodes` nodes in a process of their own; returns when all have joined and a token has passed through the chain.
    pub(in super::super) async fn join(&mut self, nodes: usize) -> Result<()> {
        open_files::allow(nodes + OTHER_FILES)?;
        let program = std::env::current_exe().context("cannot find this program to start nodes with")?;
        let mut command = Command::new(program);
        command.args(["bench", "drones", "--nodes", &nodes.to_string(), "--join", &self.server.tcp().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut drones = command.spawn().context("cannot start the process of nodes")?;
        let bar = CountBar::new("nodes", nodes);
        let (mut joined, mut ready) = (0, false);
        while joined < nodes || !ready {
            let event = tokio::select! {
                event = self.events.recv() => event.context("the coordinator ended")?,
                ended = drones.wait() => bail!("the process of nodes ended ({}) when {joined} had joined", ended?),
                () = tokio::time::sleep(PATIENCE) => {
                    bail!("nothing happened for {} s when {joined} of {nodes} had joined", PATIENCE.as_secs())
                }
            };
            match event {
                Event::Joined { .. } => {
                    joined += 1;
                    bar.step();
                }
                Event::Ready { .. } => ready = true,
                Event::Left { node, why } | Event::Refused { node, why } => bail!("{node} is gone: {why}"),
                _ => {}
            }
        }
        self.drones = Some(drones);
        Ok(())
    }

    /// Whether every node is still there.
    ///
    /// # Errors
    /// Which one is not, and why.
    pub(in super::super) fn all_here(&mut self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Left { node, why } | Event::Refused { node, why } = event {
                bail!("{node} is gone: {why}");
            }
        }
        Ok(())
    }
}

/// Few: what a node looks through for the likeliest token is no part of what is measured.
const VOCAB: usize = 256;
/// Files of a process beside its links.
const OTHER_FILES: usize = 64;
/// Far beyond what it takes the next of such nodes to join.
const PATIENCE: Duration = Duration::from_secs(20);
