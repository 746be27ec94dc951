//! `syn1 bench fairness`: a stream of tokens beside other people's long prompts, and the second turn of a conversation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::Update;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use tokio::sync::watch;

use super::fleet::{Fleet, ready};
use crate::model::{self, Prepared};
use crate::options::{DeviceOptions, ModelOptions};
use crate::progress::CountBar;
use crate::show;
use crate::swarm::{check_nodes, local_name, server_config};

/// Options of `syn1 bench fairness`.
#[derive(clap::Args)]
#[command(after_help = "\
A coordinator and nodes that are processes of their own. One stream gets tokens all the time, first alone, then while
somebody else sends one prompt after the other. The time per token is from one token to the next of the stream, as it
reaches whoever asked. While somebody gets tokens, prompts are cut to what a node computes in one and a half tokens' time,
so the stream's time per token grows to two and a half of what it is alone, and prompts take longer than alone.
The second turn's prompt is a long prompt that was answered and 16 tokens more: with the KV cache of the first turn only
those are computed.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    device: DeviceOptions,
    /// Nodes that share the model, one measurement for each number
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: Vec<u16>,
    /// Prompts that are sent, alone and beside the stream
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    prompts: u16,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u16).range(1..))]
    prompt: u16,
    /// Tokens of the stream that are timed alone
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..))]
    tokens: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    /// Tokens of each prompt.
    long_prompt: usize,
    swarms: Vec<Swarm>,
}

/// What was measured with one number of nodes.
#[derive(Serialize)]
struct Swarm {
    nodes: u16,
    alone: PerToken,
    beside: PerToken,
    /// From one to the other.
    p50_ratio: f64,
    p95_ratio: f64,
    /// To a prompt's first token, the middle of all prompts.
    first_token_alone_ms: f64,
    first_token_beside_ms: f64,
    /// The same of a prompt with 16 tokens more, whose beginning was not asked before, and was.
    second_turn_computed_ms: f64,
    second_turn_kept_ms: f64,
}

/// The stream's time per token.
#[derive(Serialize)]
struct PerToken {
    tokens: usize,
    p50_ms: f64,
    p95_ms: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    for nodes in &args.nodes {
        check_nodes(&prepared, usize::from(*nodes))?;
    }
    let long_prompt = usize::from(args.prompt);
    if long_prompt + usize::from(MORE) >= prepared.max_positions {
        bail!(
            "prompts of {long_prompt} tokens and {MORE} more do not fit the context of {}: ask for a shorter --prompt",
            prepared.max_positions
        );
    }
    let bar = CountBar::new("prompts", args.nodes.len() * 2 * usize::from(args.prompts));
    let bench = Bench { args: &args, prepared: &prepared };
    let mut swarms = Vec::new();
    for nodes in &args.nodes {
        swarms.push(bench.swarm(*nodes, &bar).await?);
    }
    drop(bar);
    let report = Report { model: prepared.name.clone(), weights: prepared.format.name(), long_prompt, swarms };
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

impl Report {
    fn table(&self) -> String {
        let Self { model, weights, long_prompt, swarms } = self;
        let mut table =
            format!("{model} ({weights}); a stream beside prompts of {long_prompt} tokens, one after the other\n\n");
        table += "        a token alone       beside prompts      as long         a prompt's first token    a second turn's\n";
        table += "nodes   p50      p95        p50      p95        p50    p95      alone       beside       computed   kept\n";
        for swarm in swarms {
            let Swarm {
                nodes, alone, beside, p50_ratio, p95_ratio, first_token_alone_ms, first_token_beside_ms, ..
            } = swarm;
            table += &format!(
                "{nodes:>5} {:>6.2} ms {:>5.2} ms {:>6.2} ms {:>5.2} ms {p50_ratio:>6.2}x {p95_ratio:>5.2}x \
                 {first_token_alone_ms:>7.0} ms {first_token_beside_ms:>9.0} ms {:>9.1} ms {:>6.1} ms\n",
                alone.p50_ms,
                alone.p95_ms,
                beside.p50_ms,
                beside.p95_ms,
                swarm.second_turn_computed_ms,
                swarm.second_turn_kept_ms
            );
        }
        table
    }
}

struct Bench<'a> {
    args: &'a Args,
    prepared: &'a Prepared,
}

impl Bench<'_> {
    async fn swarm(&self, nodes: u16, bar: &CountBar) -> Result<Swarm> {
        let (policy, wire) = (Policy::Exactly(nodes.into()), Wire::everywhere(Form::plain(Codec::F16)));
        let mut config = server_config(self.prepared, policy, &wire, SLOTS, Keys::generate()?);
        config.core.prefix_cache = PrefixCache::Own;
        let server = Server::start(config)?;
        let fleet = Fleet::new(&self.args.device, None)?;
        let mut processes = Vec::new();
        for number in 1..=usize::from(nodes) {
            processes.push(fleet.join(&server, server.tcp(), &local_name(number)).await?);
        }
        ready(&server).await?;

        let count = usize::from(self.args.tokens);
        let alone = self.stream(&server, |gaps, _| gaps.len() >= count).await?;
        let mut first_alone = Vec::new();
        for number in 0..self.args.prompts {
            first_alone.push(self.prompt(&server, number, self.args.prompt).await?);
            bar.step();
        }

        let (length, mut computed, mut kept) = (self.args.prompt, Vec::new(), Vec::new());
        for number in 0..TURNS {
            computed.push(self.prompt(&server, 2 * self.args.prompts + number, length + MORE).await?);
            self.prompt(&server, 2 * self.args.prompts + TURNS + number, length).await?;
            kept.push(self.prompt(&server, 2 * self.args.prompts + TURNS + number, length + MORE).await?);
        }
        let hits = server.prefixes().hits;
        if hits < u64::from(TURNS) {
            bail!("{hits} of {TURNS} second turns found what the first had left");
        }

        // From the first prompt to the end of the last.
        let (tell, mut told) = watch::channel(None);
        let prompts = async {
            // The stream is on its way.
            tell.subscribe().wait_for(|at| *at == Some(At::Begun)).await?;
            let mut first = Vec::new();
            for number in 0..self.args.prompts {
                first.push(self.prompt(&server, self.args.prompts + number, self.args.prompt).await?);
                bar.step();
            }
            tell.send_replace(Some(At::Over));
            Ok::<_, anyhow::Error>(first)
        };
        let stream = self.stream(&server, |gaps, ids| {
            if ids == BEFORE && told.borrow_and_update().is_none() {
                gaps.clear();
                tell.send_replace(Some(At::Begun));
            }
            *told.borrow() == Some(At::Over)
        });
        let (first_beside, beside) = tokio::try_join!(prompts, stream)?;
        let (alone, beside) = (PerToken::of(alone), PerToken::of(beside));
        Ok(Swarm {
            nodes,
            p50_ratio: beside.p50_ms / alone.p50_ms,
            p95_ratio: beside.p95_ms / alone.p95_ms,
            alone,
            beside,
            first_token_alone_ms: at(first_alone, 0.5),
            first_token_beside_ms: at(first_beside, 0.5),
            second_turn_computed_ms: at(computed, 0.5),
            second_turn_kept_ms: at(kept, 0.5),
        })
    }

    /// Texts one after the other until `done`, which is told the times between tokens so far, in milliseconds, and how many
    /// tokens the present text has.
    async fn stream(&self, server: &Server, mut done: impl FnMut(&mut Vec<f64>, usize) -> bool) -> Result<Vec<f64>> {
        let mut gaps = Vec::new();
        loop {
            let mut text = self.ask(server, 16, 0, self.prepared.max_positions)?;
            let (mut last, mut ids) = (None, 0);
            while token(&mut text).await? {
                let now = Instant::now();
                gaps.extend(last.replace(now).map(|last| ms(now - last)));
                ids += 1;
                if done(&mut gaps, ids) {
                    return Ok(gaps);
                }
            }
        }
    }

    /// Milliseconds from sending a prompt to its first token.
    async fn prompt(&self, server: &Server, number: u16, tokens: u16) -> Result<f64> {
        let begun = Instant::now();
        let mut text = self.ask(server, tokens.into(), u32::from(number) + 1, 1)?;
        if !token(&mut text).await? {
            bail!("a prompt was answered with nothing");
        }
        let took = ms(begun.elapsed());
        while token(&mut text).await? {}
        Ok(took)
    }

    /// Asks with a prompt of so many tokens that no other number has.
    fn ask(&self, server: &Server, tokens: usize, number: u32, max_tokens: usize) -> Result<Generation> {
        let vocab = self.prepared.spec.vocab as u32;
        let ask = Generate {
            prompt: (0..tokens as u32).map(|at| (number + (at + 1) * 7919) % vocab).collect(),
            max_tokens,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stop: Vec::new(),
            ignore_eos: true,
            speculate: 0,
        };
        server.generate(ask).map_err(anyhow::Error::msg)
    }
}

/// How far the stream beside prompts is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Begun,
    Over,
}

impl PerToken {
    fn of(gaps: Vec<f64>) -> Self {
        Self { tokens: gaps.len(), p50_ms: at(gaps.clone(), 0.5), p95_ms: at(gaps, 0.95) }
    }
}

/// Takes the next token; false at the end.
async fn token(text: &mut Generation) -> Result<bool> {
    match text.next().await.context("the coordinator ended in mid-text")? {
        Update::Token { .. } | Update::Again => Ok(true),
        Update::Finished(_) => Ok(false),
        Update::Failed(why) => Err(anyhow!(why)),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value that this share of all is not above.
fn at(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share).ceil() as usize;
    values.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Conversations whose second turn is timed, and the tokens that it adds.
const TURNS: u16 = 9;
const MORE: u16 = 16;
/// KV caches: the stream's and a prompt's, and one that is just being given back.
const SLOTS: usize = 3;
/// Tokens of the stream that come before the first prompt is sent.
const BEFORE: usize = 20;
