//! The one command people type: `syn1 demo | generate | chat | coordinator | code | quarantine | node | plan | pull | split | bench | doctor`.
#![forbid(unsafe_code)]

mod access;
mod admin;
mod alone;
mod answer;
mod asking;
mod bench;
mod bridge;
mod calibrate;
mod chat;
mod context;
mod coordinator;
mod demo;
mod doctor;
mod front;
mod generate;
mod interrupt;
mod keys;
mod local;
mod machine;
mod model;
mod node;
mod node_event;
mod open_files;
mod options;
mod plan;
mod progress;
mod pull;
mod show;
mod split;
mod swarm;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use interrupt::{Interrupted, interrupt};
use show::OutputError;

/// One language model across the devices you already own.
///
/// A coordinator splits a model into layer ranges, nodes compute them, and activations travel between them as SYN1
/// frames. With no GPU, no browser and no download, `syn1 generate "Some text"` runs the bundled model on this machine.
#[derive(Parser)]
#[command(name = "syn1", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log what happens inside, to standard error (again for more).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Split the model over two node processes on this machine, print text, and go on serving.
    Demo(demo::Args),
    /// Continue a prompt on this machine, on one node or split over several.
    Generate(generate::Args),
    /// Talk with a chat model on this machine, on one node or split over several.
    Chat(chat::Args),
    /// Serve a model: nodes and browsers join by TCP or HTTP, people and programs ask by HTTP.
    Coordinator(coordinator::Args),
    /// Show, make and revoke the codes that let nodes join a running coordinator.
    Code(admin::CodeArgs),
    /// Show and release nodes that a running coordinator keeps out for what they computed.
    Quarantine(admin::QuarantineArgs),
    /// Join a coordinator and compute some of its layers.
    Node(node::Args),
    /// Say who takes which layers, what a token takes, and why: of a coordinator, or of devices in a file.
    Plan(plan::Args),
    /// Carry a microcontroller at the end of a serial line to a coordinator.
    Bridge(bridge::Args),
    /// Cut a Hugging Face model into content-addressed shards.
    Split(split::Args),
    /// Fetch a model from a Hugging Face hub, or only some of its layers.
    Pull(pull::Args),
    /// Measure: each benchmark prints its rivals or its limit beside the figure.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Say what this machine can do, and what is missing.
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    // A node says goodbye first, so it waits for the signal itself.
    let leaves_by_itself = matches!(cli.command, Command::Node(_));
    let outcome = runtime.block_on(async {
        tokio::select! {
            // Listens before the command begins.
            biased;
            () = interrupt(), if !leaves_by_itself => Err(Interrupted.into()),
            done = run(cli.command) => done,
        }
    });
    // Work that cannot be interrupted, a shard being packed say, is left behind: it is resumed from what is on disk.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            show::say("");
            show::say("interrupted");
            ExitCode::from(Interrupted::EXIT_CODE)
        }
        Err(error) if error.downcast_ref().is_some_and(OutputError::reader_left) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Generate(args) => generate::run(args).await,
        Command::Chat(args) => chat::run(args).await,
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Code(args) => admin::code(args).await,
        Command::Quarantine(args) => admin::quarantine(args).await,
        Command::Node(args) => node::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Bridge(args) => bridge::run(args).await,
        Command::Split(args) => split::run(args).await,
        Command::Pull(args) => pull::run(args).await,
        Command::Bench(command) => bench::run(command).await,
        Command::Doctor(args) => doctor::run(args).await,
    }
}

/// One line: the thing, its causes, what to do. Many errors name their cause themselves; it is not said twice.
fn fail(error: &anyhow::Error) -> ExitCode {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    show::say(&format!("error: {line}"));
    ExitCode::FAILURE
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info,wgpu=warn,naga=warn",
        _ => "debug,wgpu=info,naga=info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SYN1_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
