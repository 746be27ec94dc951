//! `syn1 node`: this machine joins a coordinator and computes some of its layers until Ctrl-C.

use std::path::PathBuf;

use anyhow::Result;
use syn1_node_host::{Digest, HostConfig, HostEvent, Join, Key, NodeEvent, Trust};

use crate::interrupt::{Interrupted, interrupt};
use crate::options::DeviceOptions;
use crate::progress::ByteBar;
use crate::{keys, machine, node_event, show};

/// Options of `syn1 node`.
#[derive(clap::Args)]
#[command(after_help = "\
The node fetches only the layers it is given, checks their SHA-256 and keeps them: a second start sends nothing.
When the coordinator goes away, the node comes back by itself.
Ctrl-C says goodbye: another node takes the layers and running texts go on. A second Ctrl-C ends the node at once.")]
pub(crate) struct Args {
    /// The coordinator: tcp://HOST:PORT, with --tls there tls://HOST:PORT, or the link that it prints for its HTTP port,
    /// http(s)://HOST:PORT/join#CODE (in quotes; ws:// and wss:// mean the same)
    #[arg(long, value_name = "ADDRESS")]
    join: Join,
    /// With https and tls: trust the authorities in this file (PEM); a coordinator with --tls auto gives its own at /ca.crt
    /// [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "tls_fingerprint")]
    tls_ca: Option<PathBuf>,
    /// With https and tls: trust the authority whose certificate has this SHA-256, as the coordinator prints it
    #[arg(long, value_name = "SHA256", value_parser = fingerprint)]
    tls_fingerprint: Option<Digest>,
    #[command(flatten)]
    device: DeviceOptions,
    /// What others see this node as [default: this machine's name]
    #[arg(long)]
    name: Option<String>,
    /// The file with this node's key, made if it is not there [default: node.key among the user's data]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Join only the coordinator that proves this key; `syn1 coordinator` prints its own [default: any]
    #[arg(long, value_name = "KEY")]
    expect: Option<Key>,
    /// Weights that are on this machine already: a Hugging Face folder or one that `syn1 split` made, whole or of some
    /// layers (what these lack comes from the coordinator)
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
    let keys = keys::load(args.key.as_deref(), "node.key")?;
    if args.json {
        show::out(&format!("{}\n", serde_json::json!({ "event": "key", "key": keys.public().to_string() })))?;
    } else if !args.quiet {
        show::say(&format!("this node's key: {}", keys.public()));
    }
    let trust = match (args.tls_ca, args.tls_fingerprint) {
        (Some(path), _) => Trust::Authority(path),
        (None, Some(fingerprint)) => Trust::Fingerprint(fingerprint),
        (None, None) => Trust::System,
    };
    let config = HostConfig {
        join: args.join,
        trust,
        keys,
        expect: args.expect,
        name: args.name.unwrap_or_else(machine::name),
        device: args.device.device,
        threads: args.device.threads,
        tune: !args.device.no_tune,
        weights: args.shards.into_iter().collect(),
        cache: args.cache,
        memory_limit_bytes: args.memory.map(|megabytes| megabytes.saturating_mul(1_000_000)),
        reconnect: !args.once,
    };
    let bar = ByteBar::new();
    let tell = move |event: HostEvent| {
        if args.json {
            if let Some(event) = node_event::json(&event) {
                // A closed pipe must not stop a node that others rely on.
                let _ = show::out(&format!("{event}\n"));
            }
        } else if !args.quiet {
            tell_people(&bar, &event);
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let mut serving = std::pin::pin!(syn1_node_host::serve(config, tell, shutdown));
    tokio::select! {
        biased;
        () = interrupt() => {
            // Says goodbye, so that the coordinator knows at once.
            drop(stop);
            serving.await?;
            Err(Interrupted.into())
        }
        ended = &mut serving => Ok(ended?),
    }
}

/// A SHA-256 as devices show it: in either case, with colons, spaces or neither.
pub(crate) fn fingerprint(text: &str) -> Result<Digest, String> {
    let digits: String = text.chars().filter(|char| !matches!(char, ':' | ' ')).collect();
    digits.to_ascii_lowercase().parse().map_err(|_| "it should have 64 hexadecimal digits".to_owned())
}

/// A bar while bytes come in, a line for everything else.
fn tell_people(bar: &ByteBar, event: &HostEvent) {
    if let HostEvent::Node(NodeEvent::Loading(at)) = event {
        return bar.show("getting the layers".into(), at.done_bytes, at.total_bytes);
    }
    bar.clear();
    if let Some(line) = node_event::sentence(event) {
        show::say(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_devices_show_it() {
        let digest = Digest([0xAB; 32]);
        for shown in ["ab".repeat(32), "AB".repeat(32), vec!["AB"; 32].join(":"), vec!["ab"; 32].join(" ")] {
            assert_eq!(fingerprint(&shown), Ok(digest));
        }
        assert!(fingerprint("AB:CD").is_err());
    }
}
