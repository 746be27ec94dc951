//! `syn1 demo`: the whole thing on one machine, as separate programs that speak SYN1 over TCP.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::Server;
use syn1_identity::Keys;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::answer::{self, By, Question};
use crate::context;
use crate::front::{self, FrontOptions};
use crate::machine;
use crate::model;
use crate::options::{DeviceOptions, ModelOptions, TextOptions};
use crate::progress::SwarmProgress;
use crate::show;
use crate::swarm::{self, local_name, ready, server_config};

/// Options of `syn1 demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to continue
    #[arg(default_value = "# Ownership\n\nIn Rust, every value has")]
    prompt: String,
    #[command(flatten)]
    model: ModelOptions,
    /// Node processes to start
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    #[command(flatten)]
    how: TextOptions,
    /// Where people and programs are served afterwards [default: 127.0.0.1:7780, with --once any free port]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    #[command(flatten)]
    front: FrontOptions,
    /// Where more nodes can join [default: 127.0.0.1:7700, with --once any free port]
    #[arg(long, value_name = "ADDR")]
    tcp: Option<SocketAddr>,
    /// Stop after the text
    #[arg(long)]
    once: bool,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let count = usize::from(args.nodes);
    let prepared = model::prepare(&args.model).await?;
    let tokenizer = prepared.tokenizer.as_ref().context("the demo needs a model with a tokenizer.json")?;
    let ask = Generate {
        prompt: tokenizer.encode(&args.prompt)?,
        max_tokens: args.how.max_tokens as usize,
        sampling: args.how.sampling.sampling(),
        stop: Vec::new(),
        ignore_eos: false,
        speculate: args.how.speculate.into(),
    };
    swarm::check_nodes(&prepared, count)?;
    swarm::check_ask(&prepared, &ask)?;
    show::say(&context::cost(&prepared, SLOTS, Some(count)));
    let (wire, why) = args.how.wire.wire.resolve(&prepared)?;
    if let Some(why) = why {
        show::say(&format!("wire {wire}: {why}"));
    }
    let keys = Keys::generate()?;
    let mut config = server_config(&prepared, Policy::Exactly(count), &wire, SLOTS, keys.clone());
    // With --once nobody is to find the ports afterwards, so they need not be the usual ones.
    let usual = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, if args.once { 0 } else { port }));
    config.tcp = args.tcp.unwrap_or_else(|| usual(7700));
    config.http = args.http.unwrap_or_else(|| usual(7780));
    config.front = args.front.front(config.http, config.tcp, false)?;
    let server = Server::start(config)?;
    let mut events = server.events();
    let (name, layers, tcp) = (&prepared.name, prepared.spec.layers, server.tcp());
    show::say(&format!("coordinator: {name} ({layers} layers), nodes join at tcp://{tcp}"));
    // The nodes' keys are the demo's own: the user's node keeps the one that it is known by.
    let folder = tempfile::tempdir().context("cannot make a folder for the nodes' keys")?;
    let mut nodes = Vec::new();
    for number in 1..=count {
        let node = spawn_node(&server, number, &args.how.device, &keys, folder.path())?;
        show::say(&format!("{}: process {}", local_name(number), node.id().unwrap_or_default()));
        nodes.push(node);
    }
    if let Some(news) = nodes.first_mut().and_then(|node| node.stdout.take()) {
        tokio::spawn(say_device(news));
    }
    let mut progress = SwarmProgress::lines();
    tokio::select! {
        ready = ready(&mut events, &mut progress, count) => ready?,
        failed = first_exit(&mut nodes) => bail!(failed),
    }
    show::say("");
    let updates = server.generate(ask.clone()).map_err(anyhow::Error::msg)?.into();
    let question = Question { ask, text: Some(args.prompt), json: args.json };
    answer::print(By::Coordinator(&server, &wire), updates, &prepared, question).await?;
    if !args.once {
        show::say("");
        let link = server.join_link();
        show::say(&format!("serving at {}/ until Ctrl-C; more nodes join:", link.page.trim_end_matches("/join")));
        show::say(&format!("  by TCP:      syn1 node --join tcp://{}", machine::reachable(server.tcp())));
        front::lines(&link, server.http(), std::io::stderr().is_terminal()).lines().for_each(show::say);
        while let Some(event) = events.recv().await {
            progress.show(&event);
        }
    }
    drop(server);
    for mut node in nodes {
        // The coordinator said goodbye; a node that does not go by itself is killed when it is dropped.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), node.wait()).await;
    }
    Ok(())
}

/// Starts a node process; the first one tells what happens to it.
fn spawn_node(
    server: &Server,
    number: usize,
    device: &DeviceOptions,
    coordinator: &Keys,
    folder: &Path,
) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program to start nodes with")?;
    let (tells, stdout) = if number == 1 { ("--json", Stdio::piped()) } else { ("--quiet", Stdio::null()) };
    let mut command = Command::new(program);
    command.args(["node", tells, "--once", "--name", &local_name(number)]);
    command.args(["--join", &format!("tcp://{}", server.tcp()), "--device", &device.device.to_string()]);
    command.args(["--expect", &coordinator.public().to_string(), "--key"]).arg(folder.join(format!("{number}.key")));
    if let Some(threads) = device.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if device.no_tune {
        command.arg("--no-tune");
    }
    command.stdin(Stdio::null()).stdout(stdout).kill_on_drop(true);
    // Ctrl-C ends this program, which ends its nodes: one answer on the terminal, not one from each of them.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().context("cannot start a node process")
}

/// Says what the nodes compute on, in the words of the one that tells its `news`.
async fn say_device(news: ChildStdout) {
    let mut lines = BufReader::new(news).lines();
    // To the end, so that the node always has somewhere to tell its news.
    while let Ok(Some(line)) = lines.next_line().await {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if let ("device", Some(text)) = (event["event"].as_str().unwrap_or_default(), event["text"].as_str()) {
            show::say(text);
        }
    }
}

async fn first_exit(nodes: &mut [Child]) -> anyhow::Error {
    loop {
        for (index, node) in nodes.iter_mut().enumerate() {
            if let Ok(Some(status)) = node.try_wait() {
                return anyhow!("node-{} ended with {status}; its own message is above", index + 1);
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Requests that run at the same time: the demo's own, and those of a few who try what it serves.
const SLOTS: usize = 4;
