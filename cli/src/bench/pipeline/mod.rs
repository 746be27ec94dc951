//! `syn1 bench pipeline`: a chain of node processes behind links with a given round trip and rate; where a token's time
//! goes, and what many texts at a time reach.

mod cable;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::{Figures, NodeView, Update};
use syn1_identity::Keys;

use self::cable::{Cable, Relay, Sleeper};
use self::report::{Hop, Predictions, Report, Rig, Run};
use super::fleet::{Fleet, ready};
use super::shape::Subject;
use crate::model::Prepared;
use crate::options::{DeviceOptions, WireOptions};
use crate::progress::CountBar;
use crate::show;
use crate::swarm::{check_nodes, local_name, server_config};

/// Options of `syn1 bench pipeline`.
#[derive(clap::Args)]
#[command(after_help = "\
Nodes are processes of their own. Each one's link goes through a relay in this process, which delays bytes by half the
round trip in each direction and takes them in at the rate that is asked for; without --rtt and --up nodes connect
directly. What a relay's round trip is here is measured with messages of a token's size, and taken off.

One text at a time, then --streams texts at a time, in turns; medians of the runs. A token passes every node, one after
the other, so with one text its time is computing, as the nodes report it, plus a round trip per node, plus what SYN1
adds: 'added per hop'. The bound is what would be left without that: for many texts the busiest part decides, be it a
node, a link, or the processor that all nodes of this machine share.

Beside it stands what the coordinator says a token of one text is to take, by what it places layers with: before any text,
when only its own first tokens have passed the chain, and again before the runs that are measured. It is told nothing of the
links.

Two local nodes:        syn1 bench pipeline --device cpu --shape gpt2
Home connections:       syn1 bench pipeline --device cpu --stages 4 --rtt 20 --up 20 --threads 1")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceOptions,
    /// Nodes that a token passes
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    stages: u16,
    /// Round trip of every node's link, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = milliseconds)]
    rtt: f64,
    /// What every link takes in each direction, in megabits per second [default: all that comes]
    #[arg(long, value_name = "MBIT", value_parser = megabits)]
    up: Option<f64>,
    /// Texts at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    streams: u16,
    /// Tokens of each text
    #[arg(long, value_name = "T", default_value_t = 64, value_parser = clap::value_parser!(u16).range(4..))]
    tokens: u16,
    /// Runs with one text and with many; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    #[command(flatten)]
    wire: WireOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let (prepared, _folder) = args.subject.prepare().await?;
    check_nodes(&prepared, args.stages.into())?;
    if usize::from(args.tokens) >= prepared.max_positions {
        bail!("{} tokens do not fit a context of {}", args.tokens, prepared.max_positions);
    }
    let cable = Cable {
        round_trip: Duration::from_secs_f64(args.rtt / 1e3),
        bits_per_second: args.up.map(|megabits| megabits * 1e6),
    };
    let sleeper = Sleeper::measure();
    let round_trip = match cable.is_none() {
        true => Duration::ZERO,
        false => tokio::task::spawn_blocking(move || cable::round_trip(cable, sleeper)).await??,
    };

    let wire = args.wire.wire.resolve(&prepared)?.0;
    let config =
        server_config(&prepared, Policy::Exactly(args.stages.into()), &wire, args.streams.into(), Keys::generate()?);
    let server = Server::start(config)?;
    let fleet = Fleet::new(&args.device, Some(&prepared.shards))?;
    let (mut relays, mut nodes) = (Vec::new(), Vec::new());
    for stage in 1..=usize::from(args.stages) {
        let address = if cable.is_none() {
            server.tcp()
        } else {
            let relay = Relay::start(cable, server.tcp(), sleeper).context("cannot start a relay")?;
            let address = relay.address();
            relays.push(relay);
            address
        };
        nodes.push(fleet.join(&server, address, &local_name(stage)).await?);
    }
    ready(&server).await?;

    // A chain that nobody asks anything of measures itself by its first tokens.
    tokio::time::sleep(MEASURED).await;
    let first = predicted(&server)?;
    let mut then = first;
    let bar = CountBar::new("runs", usize::from(args.runs));
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for turn in 0..=args.runs {
        if turn == 1 {
            then = predicted(&server)?;
        }
        let (alone, together) = (
            texts(&server, &prepared, &args, 1).await?,
            match args.streams {
                1 => None,
                streams => Some(texts(&server, &prepared, &args, streams).await?),
            },
        );
        // The first turn warms up.
        if turn > 0 {
            one.push(alone);
            many.extend(together);
            bar.step();
        }
    }
    drop(bar);
    let rig = Rig {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        wire: wire.to_string(),
        stages: args.stages.into(),
        threads: args.device.threads,
        round_trip_ms: args.rtt,
        round_trip_here_ms: round_trip.as_secs_f64() * 1e3,
        up_mbit_per_s: args.up,
        tokens: args.tokens.into(),
        runs: args.runs.into(),
        shared_cores: shared_cores(&server),
    };
    // Nodes end before their links do.
    drop(nodes);
    let report = Report::new(rig, cable, Predictions { first, then }, one, many);
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

/// What a token of one text takes, by what the coordinator places layers with.
fn predicted(server: &Server) -> Result<Duration> {
    let us = server.topology().predicted_us.context("a node lost its layers")?;
    Ok(Duration::from_secs_f64(us / 1e6))
}

/// The cores that nodes which compute on the CPU share.
fn shared_cores(server: &Server) -> Option<usize> {
    let on_cpu = server.topology().nodes.iter().any(|node| node.device.starts_with("cpu"));
    std::thread::available_parallelism().ok().filter(|_| on_cpu).map(std::num::NonZero::get)
}

/// `streams` texts at the same time, of prompts of one token: every frame is one row.
async fn texts(server: &Server, prepared: &Prepared, args: &Args, streams: u16) -> Result<Run> {
    let vocab = prepared.spec.vocab as u32;
    let before = hops(server);
    let begun = Instant::now();
    let mut running = Vec::new();
    for stream in 0..u32::from(streams) {
        let ask = Generate {
            prompt: vec![(stream * 7 + 1) % vocab],
            max_tokens: args.tokens.into(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stop: Vec::new(),
            ignore_eos: true,
            speculate: 0,
        };
        let generation = server.generate(ask).map_err(anyhow::Error::msg)?;
        running.push(tokio::spawn(text(generation)));
    }
    let mut figures = Vec::new();
    let mut last = begun;
    for text in running {
        let (ended, of_text) = text.await??;
        last = last.max(ended);
        figures.push(of_text);
    }
    let hops = hops(server).into_iter().zip(before).map(|(after, before)| after.since(&before)).collect();
    Ok(Run { took: last - begun, figures, hops })
}

/// When the last token came, and what the text took.
async fn text(mut generation: Generation) -> Result<(Instant, Figures)> {
    let mut last = Instant::now();
    loop {
        match generation.next().await.context("the coordinator ended in mid-text")? {
            Update::Token { .. } | Update::Again => last = Instant::now(),
            Update::Finished(end) => return Ok((last, end.figures)),
            Update::Failed(why) => return Err(anyhow!(why)),
        }
    }
}

/// What has passed every node of the chain, in its order.
fn hops(server: &Server) -> Vec<Hop> {
    let mut nodes: Vec<_> = server.topology().nodes.into_iter().filter(|node| node.layers.is_some()).collect();
    nodes.sort_by_key(|node| node.layers);
    let hop = |node: NodeView| {
        let traffic = node.traffic.unwrap_or_default();
        let token = traffic.token.unwrap_or_default();
        Hop {
            frames: traffic.frames,
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            compute_us: token.compute_us.unwrap_or_default(),
        }
    };
    nodes.into_iter().map(hop).collect()
}

/// By then a chain that is ready has measured itself.
const MEASURED: Duration = Duration::from_millis(1_500);

fn milliseconds(text: &str) -> Result<f64, String> {
    let ms = text.parse().ok().filter(|ms| (0.0..=10_000.0).contains(ms));
    ms.ok_or_else(|| "milliseconds from 0 to 10000 are expected".into())
}

fn megabits(text: &str) -> Result<f64, String> {
    let megabits = text.parse().ok().filter(|megabits| (0.01..=1e6).contains(megabits));
    megabits.ok_or_else(|| "megabits per second from 0.01 to 1000000 are expected".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_cannot_be_are_refused() {
        assert_eq!((milliseconds("0.3"), megabits("20")), (Ok(0.3), Ok(20.0)));
        for wrong in ["", "-1", "NaN", "inf", "10001", "20ms"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "NaN", "inf", "x"] {
            assert!(megabits(wrong).is_err(), "{wrong}");
        }
    }
}
