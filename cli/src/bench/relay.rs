//! `syn1 bench relay`: how many frames a coordinator hands from node to node on one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::Generation;
use syn1_coordinator::update::Update;

use super::blank::{Stage, cpu_time};
use super::median;
use crate::show;

/// Options of `syn1 bench relay`.
#[derive(clap::Args)]
#[command(after_help = "\
A real coordinator, whose one thread stays on one core, and a chain of real nodes over loopback TCP in another process,
which compute nothing. Every token of every text is a frame to and from each node, of a row in f16; the coordinator also
chooses the tokens. Frames are counted once, where they come in. Where the nodes' core is the slower one, the
coordinator's waits: frames a second of its CPU time say what one core relays.")]
pub(crate) struct Args {
    /// Nodes in the chain
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=12))]
    nodes: u16,
    /// Texts at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    streams: u16,
    /// Elements of a row, a multiple of 32
    #[arg(long, value_name = "N", default_value_t = 768, value_parser = clap::value_parser!(u16).range(32..=8192))]
    width: u16,
    /// Seconds of a run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Runs; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    nodes: u16,
    streams: u16,
    width: u16,
    seconds: u16,
    runs: u16,
    frames_per_second: f64,
    tokens_per_second: f64,
    /// Of the coordinator's core.
    cpu_share: f64,
    frames_per_cpu_second: f64,
    us_per_frame: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut stage = Stage::new(args.width.into(), Policy::Exactly(args.nodes.into()), args.streams.into())?;
    stage.join(args.nodes.into()).await?;
    let tokens = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut texts = tokio::task::JoinSet::new();
    let server = Arc::new(stage);
    for number in 0..args.streams {
        let (server, tokens, stop) = (server.clone(), tokens.clone(), stop.clone());
        texts.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let generation = server.server.generate(ask(number)).map_err(anyhow::Error::msg)?;
                text(generation, &tokens, &stop).await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for run in 0..=args.runs {
        let (begun, cpu, before) = (Instant::now(), cpu_time(Stage::THREAD)?, tokens.load(Ordering::Relaxed));
        // The first run warms up.
        let length = if run == 0 { Duration::from_secs(1) } else { Duration::from_secs(args.seconds.into()) };
        tokio::select! {
            () = tokio::time::sleep(length) => {}
            Some(ended) = texts.join_next() => {
                ended??;
                return Err(anyhow!("a text ended before its time"));
            }
        }
        if run > 0 {
            let took = begun.elapsed().as_secs_f64();
            rates.push((tokens.load(Ordering::Relaxed) - before) as f64 / took);
            shares.push(cpu_time(Stage::THREAD)?.saturating_sub(cpu).as_secs_f64() / took);
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = texts.join_next().await {
        ended??;
    }
    let of_cpu = rates.iter().zip(&shares).map(|(rate, share)| rate / share * f64::from(args.nodes)).collect();
    let (tokens_per_second, frames_per_cpu_second) = (median(rates), median(of_cpu));
    let report = Report {
        nodes: args.nodes,
        streams: args.streams,
        width: args.width,
        seconds: args.seconds,
        runs: args.runs,
        frames_per_second: tokens_per_second * f64::from(args.nodes),
        tokens_per_second,
        cpu_share: median(shares),
        frames_per_cpu_second,
        us_per_frame: 1e6 / frames_per_cpu_second,
    };
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

/// As long a text as the context holds.
fn ask(number: u16) -> Generate {
    Generate {
        prompt: vec![u32::from(number) % 256; 16],
        max_tokens: 1000,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        ignore_eos: true,
        speculate: 0,
    }
}

async fn text(mut generation: Generation, tokens: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match generation.next().await.context("the coordinator ended in mid-text")? {
            Update::Token { .. } => drop(tokens.fetch_add(1, Ordering::Relaxed)),
            Update::Again => {}
            Update::Finished(_) => return Ok(()),
            Update::Failed(why) => return Err(anyhow!(why)),
        }
    }
    Ok(())
}

impl Report {
    fn table(&self) -> String {
        format!(
            "{} nodes, {} texts at a time, rows of {} in f16; medians of {} runs of {} s\n\n\
             {:28}{:>12.0} frames/s ({:.0} tok/s)\n\
             {:28}{:>12.0} %\n\
             {:28}{:>12.0} frames/s, {:.2} us a frame\n",
            self.nodes,
            self.streams,
            self.width,
            self.runs,
            self.seconds,
            "relayed",
            self.frames_per_second,
            self.tokens_per_second,
            "of the coordinator's core",
            self.cpu_share * 100.0,
            "a second of CPU time",
            self.frames_per_cpu_second,
            self.us_per_frame,
        )
    }
}
