//! `syn1 bench streams`: tokens per second of several texts at a time, beside one, on local nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::Update;

use super::median;
use super::shape::Subject;
use crate::interrupt::blocking;
use crate::model::Prepared;
use crate::options::{DeviceOptions, WireOptions};
use crate::progress::CountBar;
use crate::show;
use crate::swarm::{Swarm, check_nodes};

/// Options of `syn1 bench streams`.
#[derive(clap::Args)]
#[command(after_help = "\
Texts run at the same time through a coordinator and local nodes. Counted are the tokens that come while all of them run:
behind the first token of the last one, up to the end of the first. The bound is what reading the weights once for a token
of every text would give, at the speed with which the device reads a buffer of that size, measured between the arms.")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceOptions,
    /// Texts at a time; a run for each number
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: Vec<u16>,
    /// Local nodes that share the model; an arm for each number [default: 1,2 as far as there are layers]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    nodes: Vec<usize>,
    /// Tokens of each text
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..))]
    tokens: u16,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    prompt: u16,
    /// Runs of each number of texts; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
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
    wire: String,
    prompt: u16,
    tokens: u16,
    weight_bytes_per_token: u64,
    kv_bytes_per_token: u64,
    limit_bytes_per_second: f64,
    arms: Vec<ArmReport>,
}

#[derive(Serialize)]
struct ArmReport {
    nodes: usize,
    streams: u16,
    /// Of all texts together.
    tokens_per_second: f64,
    /// Beside the arm with the same nodes and one text, if there is one.
    of_one_stream: Option<f64>,
    /// The longest time between two tokens of a text, the middle of all texts.
    longest_gap_ms: f64,
    /// What the coordinator computed for a token: sampling, decoding, relaying.
    coordinator_us_per_token: f64,
    /// What reading weights once for all texts, and each one's KV cache, would give on one node.
    bound_tokens_per_second: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let (prepared, _folder) = args.subject.prepare().await?;
    let needed = usize::from(args.prompt) + usize::from(args.tokens);
    if needed > prepared.max_positions {
        bail!("prompt and tokens need {needed} positions, the context holds {}", prepared.max_positions);
    }
    let layers = prepared.spec.layers;
    let nodes = match args.nodes.is_empty() {
        true => [1, 2].into_iter().filter(|nodes| *nodes <= layers).collect(),
        false => args.nodes.clone(),
    };
    for count in &nodes {
        if *count == 0 {
            bail!("--nodes 0: at least one node computes");
        }
        check_nodes(&prepared, *count)?;
    }
    let bench = Bench { args: Arc::new(args), prepared: Arc::new(prepared) };
    let report = bench.report(&nodes).await?;
    if bench.args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

struct Bench {
    args: Arc<Args>,
    prepared: Arc<Prepared>,
}

/// What one run of some texts gave.
struct Run {
    tokens_per_second: f64,
    longest_gaps_ms: Vec<f64>,
    coordinator_us_per_token: f64,
}

/// A text: when its tokens came, and what the coordinator computed for one of them.
struct Text {
    times: Vec<Instant>,
    coordinator_us_per_token: f64,
}

impl Bench {
    async fn report(&self, nodes: &[usize]) -> Result<Report> {
        let Self { args, prepared } = self;
        let wire = args.wire.wire.resolve(prepared)?.0;
        let most = args.streams.iter().copied().max().unwrap_or(1);
        let (plan, _) = prepared.whole()?;
        let weight_bytes = plan.bytes_per_token();
        let kv_bytes = plan.kv_bytes_per_position() * u64::from(args.prompt + args.tokens / 2);
        let (mut limits, mut arms, mut device) =
            (vec![self.read_bandwidth(weight_bytes).await?], Vec::new(), String::new());
        let bar = CountBar::new("runs", nodes.len() * args.streams.len() * usize::from(args.runs + 1));
        for &nodes in nodes {
            let mut swarm = Swarm::with_slots(prepared, nodes, most.into(), &args.device, &wire)?;
            swarm.ready().await?;
            device = swarm.device().to_owned();
            let first = arms.len();
            for &streams in &args.streams {
                let mut runs = Vec::new();
                for run in 0..=args.runs {
                    let measured = self.texts(swarm.server(), streams).await?;
                    // The first run warms up.
                    runs.extend((run > 0).then_some(measured));
                    bar.step();
                }
                arms.push(ArmReport {
                    nodes,
                    streams,
                    tokens_per_second: median(runs.iter().map(|run| run.tokens_per_second).collect()),
                    of_one_stream: None,
                    coordinator_us_per_token: median(runs.iter().map(|run| run.coordinator_us_per_token).collect()),
                    longest_gap_ms: median(runs.into_iter().flat_map(|run| run.longest_gaps_ms).collect()),
                    bound_tokens_per_second: 0.0,
                });
            }
            let one = arms[first..].iter().find(|arm| arm.streams == 1).map(|arm| arm.tokens_per_second);
            for arm in &mut arms[first..] {
                arm.of_one_stream = one.map(|one| arm.tokens_per_second / one);
            }
            drop(swarm);
            limits.push(self.read_bandwidth(weight_bytes).await?);
        }
        let limit = median(limits);
        for arm in &mut arms {
            let streams = f64::from(arm.streams);
            arm.bound_tokens_per_second = streams * limit / (weight_bytes as f64 + streams * kv_bytes as f64);
        }
        Ok(Report {
            model: prepared.name.clone(),
            weights: prepared.format.name(),
            device,
            wire: wire.to_string(),
            prompt: args.prompt,
            tokens: args.tokens,
            weight_bytes_per_token: weight_bytes,
            kv_bytes_per_token: kv_bytes,
            limit_bytes_per_second: limit,
            arms,
        })
    }

    async fn read_bandwidth(&self, bytes: u64) -> Result<f64> {
        let args = self.args.clone();
        blocking(move || Ok(args.device.open()?.read_bandwidth(bytes)? as f64)).await
    }

    /// `streams` texts at the same time.
    async fn texts(&self, server: &Server, streams: u16) -> Result<Run> {
        let texts: Vec<_> = (0..streams)
            .map(|number| Ok(tokio::spawn(arrivals(server.generate(self.ask(number)).map_err(anyhow::Error::msg)?))))
            .collect::<Result<_>>()?;
        let mut all = Vec::new();
        for text in texts {
            all.push(text.await??);
        }
        measured(&all).context("a text had fewer than two tokens")
    }

    /// A text of its own for each stream, all greedy and of the same length.
    fn ask(&self, number: u16) -> Generate {
        let vocab = self.prepared.spec.vocab as u32;
        Generate {
            prompt: (0..u32::from(self.args.prompt)).map(|id| (id * 37 + 11 + u32::from(number)) % vocab).collect(),
            max_tokens: self.args.tokens.into(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stop: Vec::new(),
            ignore_eos: true,
            speculate: 0,
        }
    }
}

/// Takes a text to its end.
async fn arrivals(mut generation: Generation) -> Result<Text> {
    let mut times = Vec::new();
    loop {
        match generation.next().await.context("the coordinator ended in mid-text")? {
            Update::Token { .. } => times.push(Instant::now()),
            Update::Again => times.clear(),
            Update::Finished(finished) => {
                let tokens = finished.figures.tokens.max(1) as f64;
                let coordinator_us_per_token = finished.figures.coordinator.as_secs_f64() * 1e6 / tokens;
                return Ok(Text { times, coordinator_us_per_token });
            }
            Update::Failed(why) => return Err(anyhow!(why)),
        }
    }
}

/// The pace of all texts together while all of them run.
fn measured(texts: &[Text]) -> Option<Run> {
    let begin = texts.iter().filter_map(|text| text.times.first()).max()?;
    let end = texts.iter().filter_map(|text| text.times.last()).min()?;
    let seconds = end.checked_duration_since(*begin).filter(|time| !time.is_zero())?.as_secs_f64();
    // Behind the first moment, up to and with the last: as many tokens as intervals.
    let counted = texts.iter().flat_map(|text| &text.times).filter(|time| *time > begin && *time <= end).count();
    let longest = |text: &Text| text.times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::ZERO);
    Some(Run {
        tokens_per_second: counted as f64 / seconds,
        longest_gaps_ms: texts.iter().map(|text| longest(text).as_secs_f64() * 1e3).collect(),
        coordinator_us_per_token: median(texts.iter().map(|text| text.coordinator_us_per_token).collect()),
    })
}

impl Report {
    fn table(&self) -> String {
        let Self { model, weights, device, wire, prompt, tokens, arms, .. } = self;
        let mut table = format!(
            "{model} ({weights}) on {device}, wire {wire}; {tokens} tokens a text behind a prompt of {prompt}\n\
             bound: weights ({:.1} MB) read once for a token of every text, at {:.1} GB/s\n\n\
             {:>5} {:>7} {:>10} {:>9} {:>12} {:>14} {:>10} {:>9}\n",
            self.weight_bytes_per_token as f64 / 1e6,
            self.limit_bytes_per_second / 1e9,
            "nodes",
            "streams",
            "tok/s",
            "of one",
            "longest gap",
            "coordinator",
            "bound",
            "of it",
        );
        for arm in arms {
            let of_one = arm.of_one_stream.map_or_else(|| "-".into(), |of_one| format!("{of_one:.2}x"));
            table += &format!(
                "{:5} {:7} {:10.1} {of_one:>9} {:9.1} ms {:11.0} us {:10.1} {:7.0} %\n",
                arm.nodes,
                arm.streams,
                arm.tokens_per_second,
                arm.longest_gap_ms,
                arm.coordinator_us_per_token,
                arm.bound_tokens_per_second,
                arm.tokens_per_second / arm.bound_tokens_per_second * 100.0,
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_count_while_all_texts_run() {
        let zero = Instant::now();
        let at = |times: &[u64]| {
            let times = times.iter().map(|ms| zero + Duration::from_millis(*ms)).collect();
            Text { times, coordinator_us_per_token: 7.0 }
        };
        // From 20 to 50: 30, 40 and 50 of the first, 45 of the second.
        let run = measured(&[at(&[10, 20, 30, 40, 50]), at(&[20, 45, 70])]).unwrap();
        assert!((run.tokens_per_second - 4.0 / 0.03).abs() < 1e-6, "{}", run.tokens_per_second);
        assert_eq!(run.longest_gaps_ms, [10.0, 25.0]);
        assert!(measured(&[at(&[10]), at(&[20, 30])]).is_none(), "they never run at the same time");
    }
}
