//! `syn1 bench idle`: what nodes cost a coordinator that have nothing to do.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use syn1_coordinator::placement::Policy;

use super::blank::{Stage, cpu_time, resident_bytes};
use crate::show;

/// Options of `syn1 bench idle`.
#[derive(clap::Args)]
#[command(after_help = "\
A real coordinator in this process, and real nodes over loopback TCP in another one, which compute nothing: Hello, Profile,
pings every 5 s. One of them holds the model and two have it at hand; the others wait to be needed. Memory is what this
process has resident more than before the first node; buffers that the system keeps for sockets are not counted.
Each node is an open file here and there: the soft limit is raised as far as it has to be.")]
pub(crate) struct Args {
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u16).range(1..=16_000))]
    nodes: u16,
    /// Seconds that CPU time is taken over
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    nodes: u16,
    /// From the start of their process to the last one's Profile.
    joined_in_seconds: f64,
    resident_before_bytes: u64,
    resident_bytes: u64,
    resident_bytes_per_node: f64,
    /// Of the coordinator's thread, while the nodes join.
    cpu_us_per_join: f64,
    seconds: u16,
    /// Of one core, when all are there.
    cpu_share: f64,
    cpu_us_per_node_and_second: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut stage = Stage::new(768, Policy::Auto, 4)?;
    let resident_before_bytes = resident_bytes()?;
    let (begun, cpu) = (Instant::now(), cpu_time(Stage::THREAD)?);
    stage.join(args.nodes.into()).await?;
    let joined_in = begun.elapsed();
    let joining = cpu_time(Stage::THREAD)?.saturating_sub(cpu);
    // The first pings spread.
    tokio::time::sleep(SETTLE).await;
    let (begun, cpu) = (Instant::now(), cpu_time(Stage::THREAD)?);
    tokio::time::sleep(Duration::from_secs(args.seconds.into())).await;
    let (took, spent) = (begun.elapsed(), cpu_time(Stage::THREAD)?.saturating_sub(cpu));
    let resident_bytes = resident_bytes()?;
    stage.all_here()?;
    let nodes = f64::from(args.nodes);
    let cpu_share = spent.as_secs_f64() / took.as_secs_f64();
    let report = Report {
        nodes: args.nodes,
        joined_in_seconds: joined_in.as_secs_f64(),
        resident_before_bytes,
        resident_bytes,
        resident_bytes_per_node: resident_bytes.saturating_sub(resident_before_bytes) as f64 / nodes,
        cpu_us_per_join: joining.as_secs_f64() * 1e6 / nodes,
        seconds: args.seconds,
        cpu_share,
        cpu_us_per_node_and_second: cpu_share * 1e6 / nodes,
    };
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

impl Report {
    fn table(&self) -> String {
        format!(
            "{} idle nodes on one coordinator\n\n\
             {:28}{:>10.1} KiB a node ({:.1} MiB in all, {:.1} before)\n\
             {:28}{:>10.2} % of a core, {:.2} us a node and second, over {} s\n\
             {:28}{:>10.1} s, {:.0} us of the coordinator a node\n",
            self.nodes,
            "resident memory",
            self.resident_bytes_per_node / 1024.0,
            self.resident_bytes as f64 / f64::from(1 << 20),
            self.resident_before_bytes as f64 / f64::from(1 << 20),
            "CPU",
            self.cpu_share * 100.0,
            self.cpu_us_per_node_and_second,
            self.seconds,
            "joined in",
            self.joined_in_seconds,
            self.cpu_us_per_join,
        )
    }
}

/// Longer than two pings are apart.
const SETTLE: Duration = Duration::from_secs(10);
