//! `syn1 bench golden`: this machine's answers beside a reference's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};

use super::block_on;
use crate::answer;
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::{DeviceOptions, ModelOptions, WireOptions};
use crate::show;
use crate::swarm::{Swarm, check_nodes};

/// Options of `syn1 bench golden`.
#[derive(clap::Args)]
#[command(after_help = "\
golden.json holds what another implementation computes over the same weights; fixtures/make_fixtures.py and
fixtures/large.py write such files with transformers. Logits are compared at the last position of each prompt. The
command fails if a greedy token differs.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// The reference's answers [default: golden.json in the model's folder]
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceOptions,
    /// Local nodes to split the model over, each count in turn [default: 1 and 2]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_values_t = [1, 2])]
    nodes: Vec<usize>,
    /// How activations travel between nodes.
    #[command(flatten)]
    wire: WireOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The parts of a golden.json that are compared.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A prompt and what follows from it.
struct Case {
    ids: Vec<u32>,
    /// Logits behind the prompt, by token.
    logits: Vec<(usize, f64)>,
    greedy: Vec<u32>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    device: String,
    prompts: usize,
    logits: usize,
    largest_logit_error: f64,
    largest_logit: f64,
    wire: String,
    arms: Vec<Arm>,
}

/// Greedy ids over so many nodes.
#[derive(Serialize)]
struct Arm {
    nodes: usize,
    tokens: usize,
    same: usize,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    for nodes in &args.nodes {
        check_nodes(&prepared, *nodes)?;
    }
    let cases = load(args.golden.as_deref(), &prepared)?.cases;
    let wire = args.wire.wire.resolve(&prepared)?.0;
    let mut arms = Vec::new();
    for &nodes in &args.nodes {
        let mut swarm = Swarm::start(&prepared, nodes, &args.device, &wire)?;
        swarm.ready().await?;
        let mut arm = Arm { nodes, tokens: 0, same: 0 };
        for case in &cases {
            let ids = greedy(&swarm, case).await?;
            arm.tokens += case.greedy.len();
            arm.same += ids.iter().zip(&case.greedy).take_while(|(got, want)| got == want).count();
        }
        arms.push(arm);
    }
    let json = args.json;
    let mut report = blocking(move || logits(&args, &prepared, &cases)).await?;
    (report.arms, report.wire) = (arms, wire.to_string());
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.table() };
    show::out(&text)?;
    match report.arms.iter().find(|arm| arm.same < arm.tokens) {
        Some(arm) => bail!("{} of {} greedy tokens differ on {} nodes", arm.tokens - arm.same, arm.tokens, arm.nodes),
        None => Ok(()),
    }
}

fn load(path: Option<&Path>, prepared: &Prepared) -> Result<Golden> {
    let path = match (path, &prepared.folder) {
        (Some(path), _) => path.to_owned(),
        (None, Some(folder)) => folder.join("golden.json"),
        (None, None) => bail!("the model lies in no folder: name a file with --golden"),
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: name the reference's answers with --golden", path.display()))?;
    let golden: Golden = serde_json::from_str(&text).with_context(|| format!("{} is no golden", path.display()))?;
    let (vocab, context) = (prepared.spec.vocab, prepared.max_positions);
    for case in &golden.cases {
        let ids = case.ids.iter().chain(&case.greedy).map(|id| *id as usize);
        if let Some(id) = ids.chain(case.logits.iter().map(|logit| logit.0)).find(|id| *id >= vocab) {
            bail!("{} names token {id}, the model has {vocab}: it is another model's", path.display());
        }
        let needed = case.ids.len() + case.greedy.len();
        if case.ids.is_empty() || case.greedy.is_empty() || needed > context {
            bail!("{} has a case of {needed} positions, the context holds {context}", path.display());
        }
    }
    Ok(golden)
}

/// What the swarm continues a prompt with.
async fn greedy(swarm: &Swarm, case: &Case) -> Result<Vec<u32>> {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let ask = Generate {
        prompt: case.ids.clone(),
        max_tokens: case.greedy.len(),
        sampling,
        stop: Vec::new(),
        ignore_eos: true,
        speculate: 0,
    };
    let generation = swarm.server().generate(ask).map_err(anyhow::Error::msg)?;
    Ok(answer::stream(generation, false, false).await?.ids)
}

/// The engine's logits behind every prompt. Blocks for as long as it takes.
fn logits(args: &Args, prepared: &Prepared, cases: &[Case]) -> Result<Report> {
    let (plan, pieces) = prepared.whole()?;
    let device = args.device.open()?;
    let longest = cases.iter().map(|case| case.ids.len()).max().unwrap_or(1);
    let config = EngineConfig { max_positions: longest, slots: 1, max_rows: longest };
    let mut engine = device.engine(plan, &pieces, config)?;
    let slot = engine.open()?;
    let (mut count, mut error, mut largest, mut out) = (0, 0.0_f64, 0.0_f64, Vec::new());
    for case in cases {
        let step = Step { slot, position: 0, input: Input::Tokens(&case.ids), wanted: case.ids.len() - 1 };
        block_on(engine.run(step, &mut out))?;
        for (id, want) in &case.logits {
            error = error.max((f64::from(out[*id]) - want).abs());
            largest = largest.max(want.abs());
        }
        count += case.logits.len();
    }
    Ok(Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        device: device.name().to_owned(),
        prompts: cases.len(),
        logits: count,
        largest_logit_error: error,
        largest_logit: largest,
        wire: String::new(),
        arms: Vec::new(),
    })
}

impl<'de> Deserialize<'de> for Case {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// As it is written; the number of greedy tokens is part of their key.
        #[derive(Deserialize)]
        struct Written {
            ids: Vec<u32>,
            last_logits_top: Vec<(usize, f64)>,
            last_logits_first16: Vec<f64>,
            #[serde(alias = "greedy_24", alias = "greedy_32", alias = "greedy_64")]
            greedy: Vec<u32>,
        }
        let Written { ids, last_logits_top, last_logits_first16, greedy } = Written::deserialize(deserializer)?;
        let logits = last_logits_first16.into_iter().enumerate().chain(last_logits_top).collect();
        Ok(Self { ids, logits, greedy })
    }
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{} {} on {}: {} prompts\nlargest error of {} logits: {:.1e} (the largest logit is {:.1})\n",
            self.model,
            self.weights,
            self.device,
            self.prompts,
            self.logits,
            self.largest_logit_error,
            self.largest_logit
        );
        for arm in &self.arms {
            text += &format!("{} nodes, wire {}: {} of {} greedy ids", arm.nodes, self.wire, arm.same, arm.tokens);
            text += if arm.same == arm.tokens { ", all the same\n" } else { " are the same\n" };
        }
        text
    }
}
