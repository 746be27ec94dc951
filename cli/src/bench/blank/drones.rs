//! The process that such nodes live in: `syn1 bench drones`, which other benchmarks start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use syn1_node::{Ended, NodeConfig};
use syn1_transport_tcp::connect;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use super::engine::Machine;
use crate::open_files;

/// Options of `syn1 bench drones`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The coordinator
    #[arg(long)]
    join: SocketAddr,
    /// How many
    #[arg(long)]
    nodes: usize,
}

/// Joins with all of them and serves until the coordinator ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    open_files::allow(args.nodes + OTHER_FILES)?;
    LocalSet::new().run_until(all(&args)).await
}

async fn all(args: &Args) -> Result<()> {
    let (begin, turns) = (Instant::now(), Arc::new(Semaphore::new(AT_ONCE)));
    let mut nodes = JoinSet::new();
    for number in 1..=args.nodes {
        let turn = turns.clone().acquire_owned().await?;
        let join = args.join;
        nodes.spawn_local(async move {
            let link = connect(join, MAX_PAYLOAD).await.with_context(|| format!("cannot connect to {join}"))?;
            let machine = Machine::new(begin, MEMORY_BYTES, turn);
            let config = NodeConfig {
                name: format!("drone-{number}"),
                agent: "syn1-bench",
                max_payload: MAX_PAYLOAD,
                max_rows: 64,
                credit: 256,
                expect: None,
            };
            match syn1_node::run(link, &machine, &config).await? {
                Ended::Stopped => Ok(()),
                Ended::Bye { text, .. } => bail!("the coordinator said goodbye to {}: {text}", config.name),
            }
        });
    }
    while let Some(ended) = nodes.join_next().await {
        ended??;
    }
    Ok(())
}

/// Nodes that join at the same time: the coordinator has room for 64 links that have not said Hello.
const AT_ONCE: usize = 32;
/// Every node offers enough for any model.
const MEMORY_BYTES: u64 = 1 << 40;
/// What a laptop's node takes is larger; these get and give rows of a few kilobytes.
const MAX_PAYLOAD: u32 = 1 << 20;
/// Files of a process beside its links.
const OTHER_FILES: usize = 64;
