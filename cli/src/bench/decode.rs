//! `syn1 bench decode`: the engine against the memory-bandwidth limit, and the same model split over local nodes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::wire::Wire;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, Input, Slot, Step};
use syn1_node_host::AnyEngine;

use super::shape::Subject;
use super::{block_on, median};
use crate::answer;
use crate::interrupt::blocking;
use crate::model::Prepared;
use crate::options::{DeviceOptions, WireOptions};
use crate::show;
use crate::swarm::{Swarm, check_nodes};

/// Options of `syn1 bench decode`.
#[derive(clap::Args)]
#[command(after_help = "\
The limit is what the device reads per second from a buffer as large as the weights of one token, measured between
the engine's runs. A token cannot be faster than its weights can be read.")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceOptions,
    /// Tokens per run
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..))]
    tokens: u16,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    prompt: u16,
    /// Runs of each arm; medians are printed
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Local nodes to measure the cost of a split with, 0 for none [default: 1,2,4 as far as there are layers]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    nodes: Vec<usize>,
    /// How activations travel between nodes.
    #[command(flatten)]
    wire: WireOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    device: String,
    weight_bytes_per_token: u64,
    kv_bytes_per_token: u64,
    first_token_ms: f64,
    prefill_tokens_per_second: f64,
    tokens_per_second: f64,
    /// The slowest and the fastest run's.
    spread: [f64; 2],
    /// The token loop runs many tokens in one dispatch.
    in_one_dispatch: bool,
    read_bytes_per_second: f64,
    limit_bytes_per_second: f64,
    share_of_limit: f64,
    wire: String,
    split: Vec<SplitReport>,
}

#[derive(Serialize)]
struct SplitReport {
    nodes: usize,
    tokens_per_second: f64,
    of_one_node: Option<f64>,
    compute_us_per_token: f64,
    wire_us_per_token: f64,
    coordinator_us_per_token: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let (prepared, _folder) = args.subject.prepare().await?;
    let counts = counts(&args.nodes, &prepared)?;
    let needed = usize::from(args.prompt) + usize::from(args.tokens);
    if needed > prepared.max_positions {
        bail!("prompt and tokens need {needed} positions, the context holds {}", prepared.max_positions);
    }
    let (args, prepared) = (Arc::new(args), Arc::new(prepared));
    let mut report = {
        let (args, prepared) = (args.clone(), prepared.clone());
        blocking(move || engine(&args, &prepared)).await?
    };
    let wire = args.wire.wire.resolve(&prepared)?.0;
    report.split = split(&args, &prepared, &counts, &wire).await?;
    report.wire = wire.to_string();
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report, &args))?)
}

/// The node counts asked for, or the usual ones that the model has layers for.
fn counts(asked: &[usize], prepared: &Prepared) -> Result<Vec<usize>> {
    if asked.is_empty() {
        return Ok([1, 2, 4].into_iter().filter(|nodes| *nodes <= prepared.spec.layers).collect());
    }
    for nodes in asked {
        check_nodes(prepared, *nodes)?;
    }
    Ok(asked.iter().copied().filter(|nodes| *nodes > 0).collect())
}

/// Engine and limit, in turns.
fn engine(args: &Args, prepared: &Prepared) -> Result<Report> {
    let (plan, pieces) = prepared.whole()?;
    let device = args.device.open()?;
    let (prompt, tokens) = (usize::from(args.prompt), usize::from(args.tokens));
    let config = EngineConfig { max_positions: prepared.max_positions, slots: 1, max_rows: prompt };
    let weight_bytes = plan.bytes_per_token();
    let kv_bytes = plan.kv_bytes_per_position() * (prompt + tokens / 2) as u64;
    let mut engine = device.loop_engine(plan, &pieces, config)?;
    let slot = engine.open()?;
    let ids = prompt_ids(args, prepared);

    let (mut firsts, mut paces, mut limits, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..=args.runs {
        let first = time(|| prefill(&mut engine, slot, &ids))?;
        let decode = time(|| greedy(&mut engine, slot, prompt, tokens))?;
        let limit = device.read_bandwidth(weight_bytes)? as f64;
        if run == 0 {
            continue; // The first run warms up.
        }
        let pace = tokens as f64 / decode;
        firsts.push(first);
        paces.push(pace);
        limits.push(limit);
        shares.push(pace * (weight_bytes + kv_bytes) as f64 / limit);
    }
    let spread = [paces.iter().copied().fold(f64::INFINITY, f64::min), paces.iter().copied().fold(0.0, f64::max)];
    let (first, pace) = (median(firsts), median(paces));
    Ok(Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        device: device.name().to_owned(),
        weight_bytes_per_token: weight_bytes,
        kv_bytes_per_token: kv_bytes,
        first_token_ms: first * 1e3,
        prefill_tokens_per_second: prompt as f64 / first,
        tokens_per_second: pace,
        spread,
        in_one_dispatch: engine.in_one_dispatch(),
        read_bytes_per_second: pace * (weight_bytes + kv_bytes) as f64,
        limit_bytes_per_second: median(limits),
        share_of_limit: median(shares),
        wire: String::new(),
        split: Vec::new(),
    })
}

fn prefill(engine: &mut AnyEngine, slot: Slot, ids: &[u32]) -> Result<()> {
    let step = Step { slot, position: 0, input: Input::Tokens(ids), wanted: ids.len() - 1 };
    Ok(block_on(engine.run(step, &mut Vec::new()))?)
}

fn greedy(engine: &mut AnyEngine, slot: Slot, position: usize, tokens: usize) -> Result<()> {
    Ok(block_on(engine.decode(Decode::greedy(slot, position, 1, tokens), |_| ControlFlow::Continue(())))?)
}

/// The prompt of every arm: ids spread over the vocabulary, the same in each run.
fn prompt_ids(args: &Args, prepared: &Prepared) -> Vec<u32> {
    (0..u32::from(args.prompt)).map(|id| (id * 37 + 11) % prepared.spec.vocab as u32).collect()
}

/// Seconds that `work` takes.
fn time(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// The same text on 1, 2, .. local nodes, in turns.
async fn split(args: &Args, prepared: &Prepared, counts: &[usize], wire: &Wire) -> Result<Vec<SplitReport>> {
    let mut arms = Vec::new();
    for &nodes in counts {
        let mut swarm = Swarm::start(prepared, nodes, &args.device, wire)?;
        swarm.ready().await?;
        arms.push((nodes, swarm, Vec::new()));
    }
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let prompt = prompt_ids(args, prepared);
    let ask =
        Generate { prompt, max_tokens: args.tokens.into(), sampling, stop: Vec::new(), ignore_eos: true, speculate: 0 };
    for run in 0..=args.runs {
        for (_, swarm, figures) in &mut arms {
            let generation = swarm.server().generate(ask.clone()).map_err(anyhow::Error::msg)?;
            let end = answer::stream(generation, false, false).await?.end;
            if run > 0 {
                figures.push(end.figures);
            }
        }
    }
    let paces: Vec<Vec<f64>> =
        arms.iter().map(|arm| arm.2.iter().filter_map(|f| f.tokens_per_second()).collect()).collect();
    let single = arms.iter().position(|arm| arm.0 == 1);
    let reports = arms.iter().zip(&paces).map(|((nodes, _, figures), pace)| {
        let per_token = |part: fn(&syn1_coordinator::update::Figures) -> std::time::Duration| {
            median(figures.iter().map(|f| part(f).as_secs_f64() * 1e6 / f.tokens as f64).collect())
        };
        // Ratios are taken within a run, where the machine is the same.
        let of_one_node =
            single.map(|single| median(pace.iter().zip(&paces[single]).map(|(pace, one)| pace / one).collect()));
        SplitReport {
            nodes: *nodes,
            tokens_per_second: median(pace.clone()),
            of_one_node,
            compute_us_per_token: per_token(|f| f.compute.unwrap_or_default()),
            wire_us_per_token: per_token(|f| f.wire().unwrap_or_default()),
            coordinator_us_per_token: per_token(|f| f.coordinator),
        }
    });
    Ok(reports.collect())
}

fn table(report: &Report, args: &Args) -> String {
    let bytes_per_token = (report.weight_bytes_per_token + report.kv_bytes_per_token) as f64;
    let mut text = format!(
        "{} {} on {}\nmedians of {} runs, {} tokens after a prompt of {}\n\n\
         {:32}{:>10.1} MB weights + {:.1} MB KV\n{:32}{:>10.2} ms ({:.0} tokens/s prefill)\n\
         {:32}{:>10.1} tok/s {:>8.1} GB/s, {:.1} to {:.1} tok/s\n{:32}{:>10.1} tok/s {:>8.1} GB/s\n{:32}{:>10.0} %\n",
        report.model,
        report.weights,
        report.device,
        args.runs,
        args.tokens,
        args.prompt,
        "read per token",
        report.weight_bytes_per_token as f64 / 1e6,
        report.kv_bytes_per_token as f64 / 1e6,
        "first token",
        report.first_token_ms,
        report.prefill_tokens_per_second,
        if report.in_one_dispatch { "token loop in one dispatch" } else { "token loop on the device" },
        report.tokens_per_second,
        report.read_bytes_per_second / 1e9,
        report.spread[0],
        report.spread[1],
        "limit: reading as many bytes",
        report.limit_bytes_per_second / bytes_per_token,
        report.limit_bytes_per_second / 1e9,
        "share of the limit",
        report.share_of_limit * 100.0,
    );
    if report.split.is_empty() {
        return text;
    }
    text += &format!("\nsplit over local nodes: SYN1 over TCP through a coordinator, wire {}\n", report.wire);
    text += "nodes      tok/s   of one node   us per token: compute     wire   coordinator\n";
    for split in &report.split {
        let share = split.of_one_node.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
        text += &format!(
            "{:5} {:10.1} {share:>13} {:23.0} {:8.0} {:13.0}\n",
            split.nodes,
            split.tokens_per_second,
            split.compute_us_per_token,
            split.wire_us_per_token,
            split.coordinator_us_per_token
        );
    }
    text
}
