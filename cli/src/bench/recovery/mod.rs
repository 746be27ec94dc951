//! `syn1 bench recovery`: nodes of a local swarm are killed under load; how long the texts stand still, and that no token is
//! another one.

mod churn;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::Update;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use tokio::process::Child;

use super::fleet::{Fleet, ready};
use crate::model::{self, Prepared};
use crate::options::{DeviceOptions, ModelOptions};
use crate::progress::CountBar;
use crate::show;
use crate::swarm::{check_nodes, local_name, server_config};

/// Options of `syn1 bench recovery`.
#[derive(clap::Args)]
#[command(after_help = "\
Nodes are processes of their own; each kill is SIGKILL, in mid-text, of the node at one place of the chain after the
other. With a spare, a node that has the layers in its cache takes them. Without one, the model is planned anew over those
that are left. With --churn there is a third arm, on one swarm that goes on: in turn a node of the chain is killed,
another one joins, one is killed and started again at once, one is told to go (Ctrl-C), another one joins.
The pause is the longest time between two tokens of a text. Texts are compared with those of an
undisturbed run, greedy and sampled in turn; activations travel as f32, so that a new split rounds nothing else.
A text that does not end within two minutes is wedged, and ends the benchmark with an error.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    device: DeviceOptions,
    /// Kills with a spare, and as many without
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    kills: u16,
    /// Events of the third arm, 0 for none of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    churn: u16,
    /// Nodes that share the model
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=16))]
    nodes: u16,
    /// Texts at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    streams: u16,
    /// Tokens of each text
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(40..))]
    tokens: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    nodes: u16,
    streams: u16,
    /// The longest time between two tokens of a text when nobody is killed, the middle of all texts.
    undisturbed_ms: f64,
    arms: Vec<ArmReport>,
}

#[derive(Serialize)]
struct ArmReport {
    arm: &'static str,
    /// Nodes that were killed; in the third arm all events.
    kills: usize,
    texts: usize,
    pause_p50_ms: f64,
    pause_p95_ms: f64,
    pause_max_ms: f64,
    tokens: usize,
    /// Tokens that an undisturbed run has and these texts have not.
    lost_tokens: usize,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    check_nodes(&prepared, args.nodes.into())?;
    if prepared.spec.layers < 2 {
        bail!("{} has one layer: there is no chain to break", prepared.name);
    }
    let bench = Bench::new(&args, &prepared)?;
    let bar = CountBar::new("events", 2 * usize::from(args.kills) + usize::from(args.churn));
    let (undisturbed, spare) = bench.with_spare(&bar).await?;
    let survivors = bench.without(&bar).await?;
    let mut arms = vec![spare, survivors];
    if args.churn > 0 {
        arms.push(bench.churn(&bar).await?);
    }
    drop(bar);
    let report = Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        nodes: args.nodes,
        streams: args.streams,
        undisturbed_ms: undisturbed,
        arms,
    };
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

impl Report {
    fn table(&self) -> String {
        let Self { model, weights, nodes, streams, undisturbed_ms, arms } = self;
        let mut table = format!(
            "{model} ({weights}) on {nodes} nodes, {streams} texts at a time; undisturbed, the longest gap is {undisturbed_ms:.1} ms\n\n"
        );
        table +=
            &format!("{:22} {:>6} {:>10} {:>10} {:>10} {:>14}\n", "", "events", "p50", "p95", "longest", "tokens lost");
        for arm in arms {
            let ms = [arm.pause_p50_ms, arm.pause_p95_ms, arm.pause_max_ms].map(|ms| format!("{ms:.0} ms"));
            let lost = format!("{} of {}", arm.lost_tokens, arm.tokens);
            table +=
                &format!("{:22} {:>6} {:>10} {:>10} {:>10} {:>14}\n", arm.arm, arm.kills, ms[0], ms[1], ms[2], lost);
        }
        table
    }
}

struct Bench<'a> {
    args: &'a Args,
    prepared: &'a Prepared,
    asks: Vec<Generate>,
    /// What one node has fetched, whoever takes layers has already.
    fleet: Fleet<'a>,
}

/// A text and when its tokens came.
struct Text {
    ids: Vec<u32>,
    longest_gap: Duration,
}

/// Node processes by name.
type Nodes = Vec<(String, Child)>;

impl<'a> Bench<'a> {
    fn new(args: &'a Args, prepared: &'a Prepared) -> Result<Self> {
        let vocab = prepared.spec.vocab as u32;
        let tokens = usize::from(args.tokens).min(prepared.max_positions.saturating_sub(32));
        let ask = |number: u16| {
            let greedy = number.is_multiple_of(2);
            let (temperature, seed) = (if greedy { 0.0 } else { 0.8 }, u64::from(number));
            Generate {
                prompt: (0..16).map(|id| (id * 7 + u32::from(number)) % vocab).collect(),
                max_tokens: tokens,
                sampling: Sampling { temperature, seed, ..Sampling::default() },
                stop: Vec::new(),
                ignore_eos: true,
                speculate: 0,
            }
        };
        Ok(Self { args, prepared, asks: (0..args.streams).map(ask).collect(), fleet: Fleet::new(&args.device, None)? })
    }

    /// One chain, and for each node that is killed another one comes as the next spare. Also gives the longest gap of texts
    /// that nobody disturbs, in milliseconds.
    async fn with_spare(&self, bar: &CountBar) -> Result<(f64, ArmReport)> {
        let (server, mut nodes) = self.swarm_with_spare().await?;
        let undisturbed = self.texts(&server, async || Ok(())).await?;
        let expected: Vec<Vec<u32>> = undisturbed.iter().map(|text| text.ids.clone()).collect();
        let calm = undisturbed.iter().map(|text| text.longest_gap.as_secs_f64() * 1e3).collect();
        let mut disturbed = Vec::new();
        for kill in 0..usize::from(self.args.kills) {
            disturbed.push(self.disturbed(&server, &mut nodes, kill).await?);
            self.join(&server, &mut nodes, self.newcomer(kill)).await?;
            bar.step();
        }
        Ok((super::median(calm), report("a spare takes over", &expected, disturbed)))
    }

    /// A fresh chain for each kill, without anybody beside it.
    async fn without(&self, bar: &CountBar) -> Result<ArmReport> {
        let (mut expected, mut disturbed) = (Vec::new(), Vec::new());
        for kill in 0..usize::from(self.args.kills) {
            let server = self.server()?;
            let mut nodes = Vec::new();
            for number in 1..=usize::from(self.args.nodes) {
                self.join(&server, &mut nodes, number).await?;
            }
            ready(&server).await?;
            if expected.is_empty() {
                let undisturbed = self.texts(&server, async || Ok(())).await?;
                expected = undisturbed.into_iter().map(|text| text.ids).collect();
            }
            disturbed.push(self.disturbed(&server, &mut nodes, kill).await?);
            bar.step();
        }
        Ok(report("those left take over", &expected, disturbed))
    }

    /// A chain that serves, and one node beside it.
    async fn swarm_with_spare(&self) -> Result<(Server, Nodes)> {
        let server = self.server()?;
        let mut nodes = Vec::new();
        for number in 1..=usize::from(self.args.nodes) + 1 {
            self.join(&server, &mut nodes, number).await?;
        }
        ready(&server).await?;
        Ok((server, nodes))
    }

    /// The number of the node that joins such a swarm at its `count`th event, from 0 on.
    fn newcomer(&self, count: usize) -> usize {
        usize::from(self.args.nodes) + 2 + count
    }

    fn server(&self) -> Result<Server> {
        let (policy, wire) = (Policy::Exactly(self.args.nodes.into()), Wire::everywhere(Form::plain(Codec::F32)));
        Ok(Server::start(server_config(self.prepared, policy, &wire, self.asks.len(), Keys::generate()?))?)
    }

    /// The texts of all streams while the node at one place of the chain is killed.
    async fn disturbed(&self, server: &Server, nodes: &mut Nodes, kill: usize) -> Result<Vec<Text>> {
        let losses = server.recovery().rerouted;
        let texts =
            self.texts(server, async || take_part(server, nodes, kill)?.1.kill().await.context("cannot kill a node"));
        let texts = texts.await?;
        if server.recovery().rerouted == losses {
            bail!("the texts were over before the node was killed: ask for more --tokens");
        }
        Ok(texts)
    }

    /// The texts of all streams. When each has some of its tokens, `disturb` happens.
    async fn texts(&self, server: &Server, disturb: impl AsyncFnOnce() -> Result<()>) -> Result<Vec<Text>> {
        let mut running: Vec<Stream> = Vec::new();
        for ask in &self.asks {
            let generation = server.generate(ask.clone()).map_err(anyhow::Error::msg)?;
            running.push(Stream {
                generation,
                text: Text { ids: Vec::new(), longest_gap: Duration::ZERO },
                last: None,
            });
        }
        for stream in &mut running {
            while stream.text.ids.len() < BEFORE && stream.next().await? {}
        }
        let rest = running.into_iter().map(|mut stream| {
            tokio::spawn(async move {
                while stream.next().await? {}
                Ok::<Text, anyhow::Error>(stream.text)
            })
        });
        let rest: Vec<_> = rest.collect();
        disturb().await?;
        let mut texts = Vec::new();
        for text in rest {
            let ended = tokio::time::timeout(PATIENCE, text).await;
            texts.push(ended.with_context(|| format!("a text is wedged: no end within {} s", PATIENCE.as_secs()))???);
        }
        Ok(texts)
    }

    /// Starts a node and waits until the coordinator knows it.
    async fn join(&self, server: &Server, nodes: &mut Nodes, number: usize) -> Result<()> {
        self.start(server, nodes, local_name(number)).await
    }

    async fn start(&self, server: &Server, nodes: &mut Nodes, name: String) -> Result<()> {
        let node = self.fleet.join(server, server.tcp(), &name).await?;
        nodes.push((name, node));
        Ok(())
    }
}

/// Takes the node out of them that has one place in the chain.
fn take_part(server: &Server, nodes: &mut Nodes, place: usize) -> Result<(String, Child)> {
    let mut parts: Vec<_> = server.topology().nodes.into_iter().filter(|node| node.layers.is_some()).collect();
    parts.sort_by_key(|node| node.layers);
    let part = parts.get(place % parts.len().max(1)).context("there is no chain")?;
    let at = nodes.iter().position(|(name, _)| *name == part.name).context("a node that nobody started")?;
    Ok(nodes.remove(at))
}

/// A text that comes.
struct Stream {
    generation: Generation,
    text: Text,
    last: Option<Instant>,
}

impl Stream {
    /// Takes the next token; false at the end.
    async fn next(&mut self) -> Result<bool> {
        match self.generation.next().await.context("the coordinator ended in mid-text")? {
            Update::Token { id, .. } => {
                let now = Instant::now();
                let gap = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
                self.text.longest_gap = self.text.longest_gap.max(gap);
                self.text.ids.push(id);
                Ok(true)
            }
            Update::Again => {
                self.text.ids.clear();
                Ok(true)
            }
            Update::Finished(_) => Ok(false),
            Update::Failed(why) => Err(anyhow!(why)),
        }
    }
}

fn report(arm: &'static str, expected: &[Vec<u32>], disturbed: Vec<Vec<Text>>) -> ArmReport {
    let kills = disturbed.len();
    let texts: Vec<(&Vec<u32>, Text)> = disturbed.into_iter().flat_map(|texts| expected.iter().zip(texts)).collect();
    let right = |(expected, text): &(&Vec<u32>, Text)| expected.iter().zip(&text.ids).filter(|(a, b)| a == b).count();
    let tokens = texts.iter().map(|(expected, _)| expected.len()).sum();
    let lost_tokens = texts.iter().map(|text| text.0.len() - right(text)).sum();
    let mut pauses: Vec<f64> = texts.iter().map(|(_, text)| text.longest_gap.as_secs_f64() * 1e3).collect();
    pauses.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (pauses.len() as f64 * share).ceil() as usize;
        pauses.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    ArmReport {
        arm,
        kills,
        texts: texts.len(),
        pause_p50_ms: at(0.5),
        pause_p95_ms: at(0.95),
        pause_max_ms: at(1.0),
        tokens,
        lost_tokens,
    }
}

/// Tokens that every text has when the node is killed.
const BEFORE: usize = 10;
/// Far beyond what a text takes, a node's loss and its layers' new load included.
const PATIENCE: Duration = Duration::from_secs(120);
