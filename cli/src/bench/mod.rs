//! `syn1 bench`: every figure with its limit or its rivals, measured in the same run.

mod agreement;
#[cfg(target_os = "linux")]
mod blank;
mod chain;
mod checks;
mod coding;
mod decode;
mod fairness;
mod fleet;
mod fusion;
mod golden;
mod handed;
mod hop;
#[cfg(target_os = "linux")]
mod idle;
mod kernels;
mod loop_parts;
mod ops;
mod pipeline;
mod quality;
mod recovery;
#[cfg(target_os = "linux")]
mod relay;
pub(crate) mod shape;
mod streams;
mod text;
mod wire;

use anyhow::Result;

/// What can be measured.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// What spot checks of the nodes' results catch, whether they raise false alarms, and what they cost.
    Checks(checks::Args),
    /// Tokens per second of the engine beside the memory-bandwidth limit, and what a split costs.
    Decode(decode::Args),
    /// How long a stream's tokens take beside other people's long prompts, and how long those take.
    Fairness(fairness::Args),
    /// What fusing kernels gains: the public single-kernel experiment with fair rivals, each verified first.
    Fusion(fusion::Args),
    /// This machine's logits and greedy tokens beside those of a reference.
    Golden(golden::Args),
    /// One shard of a chain: microseconds from frame in to frame out, and where they go.
    Hop(hop::Args),
    /// What nodes cost a coordinator that have nothing to do: memory, CPU time.
    #[cfg(target_os = "linux")]
    Idle(idle::Args),
    /// Where a token's time goes: every op with its bytes, beside what the device reads at most.
    Kernels(kernels::Args),
    /// GPT-2 124M, fused against every operation submitted by itself.
    Ops(ops::Args),
    /// A chain of node processes behind links with a given round trip and rate: where a token's time goes, and what many
    /// texts at a time reach.
    Pipeline(pipeline::Args),
    /// Perplexity of each weight format and wire codec, and how far its answers are from the exact ones.
    Quality(quality::Args),
    /// How long texts stand still when nodes are killed under them, and whether a token is lost.
    Recovery(recovery::Args),
    /// Frames a second that a coordinator hands from node to node on one core.
    #[cfg(target_os = "linux")]
    Relay(relay::Args),
    /// Nodes that compute nothing, for `idle` and `relay`.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Drones(blank::Args),
    /// Tokens per second of several texts at a time, beside one.
    Streams(streams::Args),
    /// Bytes, speed and quality of each wire codec on the model's own activations.
    Wire(wire::Args),
}

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Checks(args) => checks::run(args).await,
        Command::Decode(args) => decode::run(args).await,
        Command::Fairness(args) => fairness::run(args).await,
        Command::Fusion(args) => fusion::run(args).await,
        Command::Golden(args) => golden::run(args).await,
        Command::Hop(args) => hop::run(args).await,
        #[cfg(target_os = "linux")]
        Command::Idle(args) => idle::run(args).await,
        Command::Kernels(args) => kernels::run(args).await,
        Command::Ops(args) => ops::run(args).await,
        Command::Pipeline(args) => pipeline::run(args).await,
        Command::Quality(args) => quality::run(args).await,
        Command::Recovery(args) => recovery::run(args).await,
        #[cfg(target_os = "linux")]
        Command::Relay(args) => relay::run(args).await,
        #[cfg(target_os = "linux")]
        Command::Drones(args) => blank::run(args).await,
        Command::Streams(args) => streams::run(args).await,
        Command::Wire(args) => wire::run(args).await,
    }
}

/// Native engines wait inside their calls, so one poll is all it takes; anything else is driven to its end.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// The middle of an odd number of measurements, the lower middle of an even one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
