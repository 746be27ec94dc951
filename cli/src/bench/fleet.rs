//! Node processes for benchmarks that need real ones, beside a coordinator in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use syn1_coordinator::server::Server;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::options::DeviceOptions;

/// Starts nodes that all compute on the same device. What one has fetched the others have too.
pub(super) struct Fleet<'a> {
    device: &'a DeviceOptions,
    /// Where all of them keep what they fetch, and their keys.
    cache: TempDir,
    /// Where the weights lie already, if they need not be fetched.
    shards: Option<&'a Path>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(device: &'a DeviceOptions, shards: Option<&'a Path>) -> Result<Self> {
        let cache = tempfile::tempdir().context("cannot make a folder for the nodes' pieces")?;
        Ok(Self { device, cache, shards })
    }

    /// Starts a node that joins `server` at `address`, and waits until the coordinator knows it: nodes that measure
    /// themselves at the same time would each find half a machine. Dropping it kills it.
    pub(super) async fn join(&self, server: &Server, address: SocketAddr, name: &str) -> Result<Child> {
        let mut node = self.spawn(address, name)?;
        let begun = Instant::now();
        loop {
            let known = server.topology().nodes.into_iter().any(|node| node.name == name && node.state != "joining");
            if known {
                return Ok(node);
            }
            if let Some(ended) = node.try_wait()? {
                bail!("{name} ended before it had joined ({ended})");
            }
            if begun.elapsed() > PATIENCE {
                bail!("{name} has not joined within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn spawn(&self, address: SocketAddr, name: &str) -> Result<Child> {
        let program = std::env::current_exe().context("cannot find this program to start nodes with")?;
        let folder = self.cache.path();
        let mut command = Command::new(program);
        command.args(["node", "--quiet", "--once", "--name", name, "--join", &format!("tcp://{address}")]);
        command.args(["--device", &self.device.device.to_string()]);
        command.arg("--cache").arg(folder).arg("--key").arg(folder.join(format!("{name}.key")));
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
