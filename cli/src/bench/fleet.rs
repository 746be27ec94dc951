//! The nodes of a benchmark: processes of this program on this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use syn1_coordinator::server::Server;
use tokio::process::{Child, Command};

use crate::options::DeviceOptions;
use crate::swarm::local_name;

/// Node processes by name. Dropping it kills them.
pub(super) struct Fleet<'a> {
    device: &'a DeviceOptions,
    /// Where all of them keep what they fetch, and their keys.
    cache: &'a Path,
    /// Where the weights lie already, if they need not be fetched.
    shards: Option<&'a Path>,
    nodes: Vec<(String, Child)>,
    started: usize,
}

impl<'a> Fleet<'a> {
    /// No nodes yet.
    pub(super) fn new(device: &'a DeviceOptions, cache: &'a Path, shards: Option<&'a Path>) -> Self {
        Self { device, cache, shards, nodes: Vec::new(), started: 0 }
    }

    /// Starts a node that joins `server` at `address`, and waits until the coordinator knows it: nodes that measure
    /// themselves at the same time would each find half a machine.
    pub(super) async fn join(&mut self, server: &Server, address: SocketAddr) -> Result<()> {
        self.started += 1;
        let name = local_name(self.started);
        let node = self.spawn(address, &name)?;
        self.nodes.push((name.clone(), node));
        let begun = Instant::now();
        while !server.topology().nodes.iter().any(|node| node.name == name && node.state != "joining") {
            if let Some(ended) = self.nodes.last_mut().and_then(|node| node.1.try_wait().transpose()).transpose()? {
                bail!("{name} ended before it had joined ({ended})");
            }
            if begun.elapsed() > PATIENCE {
                bail!("{name} has not joined within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Kills the node of this name.
    pub(super) async fn kill(&mut self, name: &str) -> Result<()> {
        let at = self.nodes.iter().position(|node| node.0 == name).context("a node that nobody started")?;
        self.nodes.remove(at).1.kill().await.context("cannot kill a node")
    }

    fn spawn(&self, address: SocketAddr, name: &str) -> Result<Child> {
        let program = std::env::current_exe().context("cannot find this program to start nodes with")?;
        let mut command = Command::new(program);
        command.args(["node", "--quiet", "--once", "--name", name, "--join", &format!("tcp://{address}")]);
        command.args(["--device", &self.device.device.to_string()]);
        command.arg("--cache").arg(self.cache).arg("--key").arg(self.cache.join(format!("{name}.key")));
        if let Some(threads) = self.device.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if self.device.no_tune {
            command.arg("--no-tune");
        }
        if let Some(shards) = self.shards {
            command.arg("--shards").arg(shards);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().context("cannot start a node process")
    }
}

/// Waits until a token has passed through every layer.
pub(super) async fn ready(server: &Server) -> Result<()> {
    let begun = Instant::now();
    while !server.topology().ready {
        if begun.elapsed() > PATIENCE {
            bail!("the swarm is not ready within {} s: {:?}", PATIENCE.as_secs(), server.topology().waiting_for);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Far beyond what a local node takes to join.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the swarm.
const LOOK_EVERY: Duration = Duration::from_millis(5);
