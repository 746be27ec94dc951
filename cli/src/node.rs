//! `syn1 node`: this machine joins a coordinator and computes some of its layers until Ctrl-C.

use std::path::PathBuf;

use anyhow::Result;
use syn1_coordinator::placement::size;
use syn1_node_host::{HostConfig, HostEvent, Join, NodeEvent};

use crate::options::DeviceOptions;
use crate::show;

/// Options of `syn1 node`.
#[derive(clap::Args)]
#[command(after_help = "\
The node fetches only the layers it is given, checks their SHA-256 and keeps them: a second start sends nothing.
When the coordinator goes away, the node comes back by itself.")]
pub(crate) struct Args {
    /// The coordinator
    #[arg(long, value_name = "tcp://HOST:PORT")]
    join: Join,
    #[command(flatten)]
    device: DeviceOptions,
    /// What others see this node as [default: this machine's name]
    #[arg(long)]
    name: Option<String>,
    /// Weights that are on this machine already: a Hugging Face folder or one that `syn1 split` made
    #[arg(long, value_name = "DIR")]
    shards: Option<PathBuf>,
    /// Where fetched pieces are kept [default: the user's cache folder]
    #[arg(long, value_name = "DIR", env = "SYN1_CACHE")]
    cache: Option<PathBuf>,
    /// Megabytes of weights and KV caches to offer at most
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// End when the coordinator goes away
    #[arg(long)]
    once: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print what happens as JSON lines
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let config = HostConfig {
        join: args.join,
        name: args.name.unwrap_or_else(machine_name),
        device: args.device.device,
        threads: args.device.threads,
        weights: args.shards,
        cache: args.cache,
        memory_limit_bytes: args.memory.map(|megabytes| megabytes.saturating_mul(1_000_000)),
        reconnect: !args.once,
    };
    let tell = move |event: HostEvent| {
        if args.json {
            // A closed pipe must not stop a node that others rely on.
            let _ = show::out(&format!("{}\n", json(&event)));
        } else if !args.quiet
            && let Some(line) = describe(&event)
        {
            eprintln!("{line}");
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let mut serving = std::pin::pin!(syn1_node_host::serve(config, tell, shutdown));
    tokio::select! {
        ended = &mut serving => Ok(ended?),
        () = crate::interrupt() => {
            // Says goodbye, so that the coordinator knows at once.
            drop(stop);
            serving.await?;
            Err(crate::Interrupted.into())
        }
    }
}

/// An event in words; `None` for progress too fine for a line.
fn describe(event: &HostEvent) -> Option<String> {
    Some(match event {
        HostEvent::Device(device) => device.clone(),
        HostEvent::Connecting(join) => format!("joining {join}"),
        HostEvent::Notice(text) => text.clone(),
        HostEvent::Retrying { cause, pause } => format!("{cause}; next try in {:.1} s", pause.as_secs_f64()),
        HostEvent::Node(event) => return describe_node(event),
        _ => return None,
    })
}

fn describe_node(event: &NodeEvent) -> Option<String> {
    Some(match event {
        NodeEvent::Joined { model } => format!("joined: the coordinator serves {model}"),
        NodeEvent::Profiled(figures) => format!(
            "offering {} of memory, reads {}/s, {:.0} us a layer",
            size(figures.memory_bytes),
            size(figures.read_bytes_per_s),
            figures.layer_ns as f64 / 1e3
        ),
        NodeEvent::Assigned { layers, of, .. } => format!("layers {}..{} of {of}", layers.start, layers.end),
        NodeEvent::Ready { layers, fetched_bytes, .. } => {
            format!("ready with layers {}..{} ({} fetched)", layers.start, layers.end, size(*fetched_bytes))
        }
        NodeEvent::Loading(_) => return None,
        other => format!("{other:?}"),
    })
}

fn json(event: &HostEvent) -> serde_json::Value {
    let (kind, text) = match event {
        HostEvent::Device(device) => ("device", device.clone()),
        HostEvent::Connecting(join) => ("connecting", join.to_string()),
        HostEvent::Notice(text) => ("notice", text.clone()),
        HostEvent::Retrying { cause, .. } => ("retrying", cause.clone()),
        HostEvent::Node(NodeEvent::Ready { layers, fetched_bytes, .. }) => {
            let layers = [layers.start, layers.end];
            return serde_json::json!({ "event": "ready", "layers": layers, "fetched_bytes": fetched_bytes });
        }
        HostEvent::Node(event) => ("node", describe_node(event).unwrap_or_else(|| format!("{event:?}"))),
        other => ("other", format!("{other:?}")),
    };
    serde_json::json!({ "event": kind, "text": text })
}

/// The host's name where the system tells it, else `laptop`.
fn machine_name() -> String {
    let from_file = std::fs::read_to_string("/etc/hostname").ok();
    let named = from_file.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    named.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "laptop".into())
}
