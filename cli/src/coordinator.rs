//! `syn1 coordinator`: serves a model to nodes, people and programs until Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::Server;
use syn1_identity::Key;

use crate::access::{self, AccessOptions};
use crate::context;
use crate::keys;
use crate::machine::reachable;
use crate::model;
use crate::options::{ModelOptions, WireOptions};
use crate::progress::SwarmProgress;
use crate::show;
use crate::swarm::{check_nodes, server_config};

/// Options of `syn1 coordinator`.
#[derive(clap::Args)]
#[command(after_help = "\
On this machine:      syn1 coordinator --tcp 0.0.0.0:7700 --http 0.0.0.0:7780
On another one:       syn1 node --join tcp://THIS-MACHINE:7700
Then, from anywhere:  curl -N http://THIS-MACHINE:7780/v1/completions -H 'content-type: application/json' \\
                        -d '{\"prompt\": \"A lifetime\", \"max_tokens\": 64, \"stream\": true}'
Or in Python:         from openai import OpenAI
                      client = OpenAI(base_url=\"http://THIS-MACHINE:7780/v1\", api_key=\"KEY, or anything without keys\")
                      client.completions.create(model=client.models.list().data[0].id, prompt=\"A lifetime\")

Models with a chat template answer client.chat.completions.create(..) too. /ready says whether a token has passed
through the whole chain, /metrics has figures for Prometheus.

Without --nodes the model goes to as few nodes as hold it, the fastest first: a split never makes one text faster,
it makes a bigger model fit. With --weights auto the nodes that are there decide how the weights are stored; who joins
later does not change that, and --nodes N waits for N of them first.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// Where people, programs and shard downloads are served
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7780")]
    http: SocketAddr,
    /// Where nodes join
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    tcp: SocketAddr,
    /// Wait for exactly N nodes and split the model over them [default: as few as needed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: Option<u16>,
    #[command(flatten)]
    wire: WireOptions,
    /// Requests that run at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// The file with this coordinator's key, made if it is not there [default: coordinator.key among the user's data]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Let only the nodes with these keys join; `syn1 node` prints its own. HTTP stays open to all, and nothing is
    /// encrypted [default: any node]
    #[arg(long, value_name = "KEY,KEY,..", value_delimiter = ',')]
    allow: Vec<Key>,
    #[command(flatten)]
    access: AccessOptions,
    /// Print what happens as JSON lines: addresses, then the state of the swarm at each change
    #[arg(long)]
    json: bool,
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
    (config.tcp, config.http, config.allow) = (args.tcp, args.http, args.allow);
    config.access = args.access.access()?;
    let warning = access::warning(&config.access, args.http);
    let server = Server::start(config)?;
    let mut events = server.events();
    if let Some(warning) = warning {
        show::say(&warning);
    }
    if args.json {
        let addresses = serde_json::json!({
            "tcp": server.tcp(),
            "http": server.http(),
            "key": key.to_string(),
            "wire": wire.to_string(),
        });
        show::out(&format!("{addresses}\n"))?;
    } else {
        show::out(&format!(
            "serving {} ({} layers), wire {wire}{}\n  nodes join:  syn1 node --join tcp://{} --expect {key}\n  \
             people ask:  http://{}/\n",
            prepared.name,
            prepared.spec.layers,
            why.map_or_else(String::new, |why| format!(" ({why})")),
            reachable(server.tcp()),
            reachable(server.http())
        ))?;
    }
    let mut progress = SwarmProgress::lines();
    while let Some(event) = events.recv().await {
        if args.json {
            show::out(&(serde_json::to_string(&server.topology())? + "\n"))?;
        } else {
            progress.show(&event);
        }
    }
    anyhow::bail!("the coordinator's event loop ended")
}
