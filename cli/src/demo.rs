//! `syn1 demo`: the whole thing on one machine, as separate programs that speak SYN1 over TCP.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::Server;
use tokio::process::{Child, Command};

use crate::generate::{self, figures_line, wire_report};
use crate::model;
use crate::options::{DeviceOptions, ModelOptions, SamplingOptions, Wire};
use crate::show::{self, SwarmProgress};
use crate::swarm::{ready, server_config};

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
    device: DeviceOptions,
    /// How activations travel between nodes.
    #[arg(long, value_enum, default_value_t = Wire::F16)]
    wire: Wire,
    /// Tokens to generate at most
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Where people and programs are served afterwards
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7780")]
    http: SocketAddr,
    /// Where more nodes can join
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    tcp: SocketAddr,
    /// Stop after the text
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(mut args: Args) -> Result<()> {
    if args.once {
        // Nobody is to find the ports afterwards, so they need not be the usual ones.
        args.http.set_port(0);
        args.tcp.set_port(0);
    }
    let prepared = model::prepare(&args.model).await?;
    let tokenizer = prepared.tokenizer.as_ref().context("the demo needs a model with a tokenizer.json")?;
    let prompt = tokenizer.encode(&args.prompt)?;
    let mut config = server_config(&prepared, Policy::Exactly(args.nodes.into()), args.wire.codec(), 4);
    (config.tcp, config.http) = (args.tcp, args.http);
    let server = Server::start(config)?;
    let mut events = server.events();
    eprintln!("coordinator: {} ({} layers)", prepared.name, prepared.spec.layers);
    let mut nodes = Vec::new();
    for number in 1..=args.nodes {
        let node = spawn_node(&server, number, &args.device)?;
        eprintln!("node-{number}: process {}", node.id().unwrap_or_default());
        nodes.push(node);
    }
    let progress = SwarmProgress::new(true);
    tokio::select! {
        ready = ready(&server, &mut events, &progress) => ready?,
        failed = first_exit(&mut nodes) => bail!(failed),
    }
    let ask = Generate {
        prompt,
        max_tokens: args.max_tokens as usize,
        sampling: args.sampling.sampling(),
        stop: Vec::new(),
        ignore_eos: false,
    };
    eprintln!();
    show::out(&args.prompt)?;
    let generation = server.generate(ask).map_err(anyhow::Error::msg)?;
    let answer = generate::stream(generation, true, true).await;
    show::out("\n")?;
    let figures = answer?.end.figures;
    eprintln!("\n{}", figures_line(&figures, &wire_report(args.wire, &figures), args.nodes.into()));
    if !args.once {
        eprintln!(
            "\nserving at http://{}/ until Ctrl-C\nmore nodes join:  syn1 node --join tcp://{}",
            server.http(),
            server.tcp()
        );
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

fn spawn_node(server: &Server, number: u16, device: &DeviceOptions) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find this program to start nodes with")?;
    let mut command = Command::new(program);
    command.args(["node", "--quiet", "--once", "--name", &format!("node-{number}")]);
    command.args(["--join", &format!("tcp://{}", server.tcp()), "--device", &device.device.to_string()]);
    if let Some(threads) = device.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().context("cannot start a node process")
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
