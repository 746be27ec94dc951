//! `syn1 coordinator`: serves a model to nodes, people and programs until Ctrl-C.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::server::Server;
use syn1_identity::Key;

use crate::access::{self, AccessOptions};
use crate::context;
use crate::front::{self, FrontOptions};
use crate::keys;
use crate::machine::reachable;
use crate::model;
use crate::open_files;
use crate::options::{ModelOptions, WireOptions};
use crate::progress::SwarmProgress;
use crate::show;
use crate::swarm::{check_nodes, server_config};

/// Options of `syn1 coordinator`.
#[derive(clap::Args)]
#[command(after_help = "\
On this machine:      syn1 coordinator --http 0.0.0.0:7780
On another one:       syn1 node --join 'http://THIS-MACHINE:7780/join#CODE', as this command prints it
With phones:          syn1 coordinator --http 0.0.0.0:7780 --tls auto, and scan the code that it shows
Then, from anywhere:  curl -N http://THIS-MACHINE:7780/v1/completions -H 'content-type: application/json' \\
                        -d '{\"prompt\": \"A lifetime\", \"max_tokens\": 64, \"stream\": true}'
Or in Python:         from openai import OpenAI
                      client = OpenAI(base_url=\"http://THIS-MACHINE:7780/v1\", api_key=\"KEY\")
                      client.completions.create(model=client.models.list().data[0].id, prompt=\"A lifetime\")
Boards speak plain TCP: --tcp 0.0.0.0:7700, with their keys in --allow or with --join-code none.

Chat models answer client.chat.completions.create(..), too. Without --api-key any KEY will do. /ready says whether a
token has passed through the whole chain, /metrics has figures for Prometheus.

Without --nodes the model goes to the nodes on which a token is the fastest (syn1 plan says why): a split never makes one
text faster than the fastest device that holds it all, it makes a bigger model fit. With --weights auto the nodes that are
there decide how the weights are stored; who joins later does not change that, and --nodes N waits for N of them first.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Where people, programs and shard downloads are served, and nodes join by WebSocket
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7780")]
    http: SocketAddr,
    #[command(flatten)]
    front: FrontOptions,
    /// Where nodes join by TCP, plain or where there is --tls encrypted (tls://)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    tcp: SocketAddr,
    /// Wait for exactly N nodes and split the model over them [default: those on which a token is the fastest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: Option<u16>,
    #[command(flatten)]
    wire: WireOptions,
    /// Requests that run at the same time: their tokens share what is read of the weights, and each takes a KV cache
    #[arg(long, value_name = "N", default_value_t = SLOTS, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// The file with this coordinator's key, made if it is not there [default: coordinator.key among the user's data]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where is kept what outlives a restart: which nodes were here and what they measured, where the layers lay, join codes,
    /// and who is quarantined [default: a folder for this --http port among the user's data; none for port 0]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Let the nodes with these keys join, and with a --join-code those that know it; `syn1 node` prints its own. Text
    /// has keys of its own (--api-key), and only --tls encrypts [default: any node, or any with the join code]
    #[arg(long, value_name = "KEY,KEY,..", value_delimiter = ',')]
    allow: Vec<Key>,
    /// Keep KV caches of answered requests for prompts that begin with the same tokens: of the same API key (or address),
    /// of everybody, or not at all. How fast an answer begins tells whether its beginning was asked lately
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t = Prefixes::Own)]
    prefix_cache: Prefixes,
    #[command(flatten)]
    access: AccessOptions,
    /// Print what happens as JSON lines: addresses, then the state of the swarm at each change
    #[arg(long)]
    json: bool,
}

/// Who takes over the KV caches of requests that are over.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Prefixes {
    Own,
    Shared,
    Off,
}

impl From<Prefixes> for PrefixCache {
    fn from(whose: Prefixes) -> Self {
        match whose {
            Prefixes::Own => Self::Own,
            Prefixes::Shared => Self::Shared,
            Prefixes::Off => Self::Off,
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    check_nodes(&prepared, args.nodes.unwrap_or_default().into())?;
    let policy = args.nodes.map_or(Policy::Auto, |nodes| Policy::Exactly(nodes.into()));
    show::say(&context::cost(&prepared, args.slots.into(), args.nodes.map(usize::from)));
    let (wire, why) = args.wire.wire.resolve(&prepared)?;
    let keys = keys::load(args.key.as_deref(), "coordinator.key")?;
    let key = keys.public();
    let mut config = server_config(&prepared, policy, &wire, args.slots.into(), keys);
    config.front = args.front.front(args.http, args.tcp, !args.allow.is_empty())?;
    (config.tcp, config.http, config.allow) = (args.tcp, args.http, args.allow);
    config.access = args.access.access()?;
    let usual = || Some(keys::data_dir()?.join(format!("coordinator-{}", args.http.port())));
    config.state = args.state.or_else(|| usual().filter(|_| args.http.port() != 0));
    config.core.prefix_cache = args.prefix_cache.into();
    let warning = access::warning(&config.access, args.http);
    open_files::allow_up_to(FILES)?;
    let server = Server::start(config)?;
    let mut events = server.events();
    let mut link = server.join_link();
    if let Some(warning) = warning {
        show::say(&warning);
    }
    if args.json {
        let addresses = serde_json::json!({
            "tcp": server.tcp(),
            "http": server.http(),
            "key": key.to_string(),
            "wire": wire.to_string(),
            "join": link.url(),
            "ca_sha256": link.authority.map(|authority| authority.to_string()),
        });
        show::out(&format!("{addresses}\n"))?;
    } else {
        show::out(&format!(
            "serving {} ({} layers), wire {wire}{}\n  nodes join:  syn1 node --join {}://{}{} --expect {key}{}\n{}  \
             people ask:  {}/\n",
            prepared.name,
            prepared.spec.layers,
            why.map_or_else(String::new, |why| format!(" ({why})")),
            if link.page.starts_with("https:") { "tls" } else { "tcp" },
            reachable(server.tcp()),
            link.authority.map_or_else(String::new, |authority| format!(" --tls-fingerprint {authority}")),
            if link.code.is_some() && !server.tcp().ip().is_loopback() { " (if --allow names its key)" } else { "" },
            front::lines(&link, key, server.http(), std::io::stdout().is_terminal()),
            link.page.trim_end_matches("/join"),
        ))?;
    }
    let mut progress = SwarmProgress::lines();
    loop {
        // A code is followed by another one, which people have to be told.
        let left = link.code.as_ref().map(|(_, left)| *left);
        tokio::select! {
            event = events.recv() => match event {
                None => break,
                Some(_) if args.json => show::out(&(serde_json::to_string(&server.topology())? + "\n"))?,
                Some(event) => progress.show(&event),
            },
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
        }
        let next = server.join_link();
        if front::code(&next) != front::code(&link) {
            match args.json {
                true => show::out(&format!("{}\n", serde_json::json!({ "join": next.url() })))?,
                false => show::say(&front::expired(&next)),
            }
        }
        link = next;
    }
    anyhow::bail!("the coordinator's event loop ended")
}

/// Requests that run at the same time if nobody says otherwise. More gain little on what was measured, and each takes memory.
pub(crate) const SLOTS: u16 = 8;

/// A file for each link and each HTTP connection that a coordinator takes at most, and some beside them.
const FILES: usize = 17_500;
