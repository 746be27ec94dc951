//! `syn1 bench ops`: GPT-2 124M in f16, fused against one submit per operation.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use syn1_fusion::{Gpu, Naive, NaiveReport, TOKENS};
use syn1_kernels::engine::{Decode, Engine, EngineConfig};
use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions, Persistence, Tuning};
use syn1_model::plan::WeightFormat;

use super::shape::{self, Shape};
use super::{block_on, median};
use crate::interrupt::blocking;
use crate::progress::CountBar;
use crate::show;

/// Options of `syn1 bench ops`.
#[derive(clap::Args)]
#[command(after_help = "\
GPT-2 124M with random f16 weights, 64 greedy tokens from the first on. The unfused arms run every layer norm, product,
bias, GELU, residual, and the steps of attention as a dispatch of its own; their first ids are compared with a forward
pass in f64 before they are timed. The last arms are the engine: as nodes run it, and tuned for a token loop on the device.")]
pub(crate) struct Args {
    /// Device: `auto`, `gpu`, or a number or part of a name that `syn1 doctor` lists
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Runs of an arm; medians are printed
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    device: String,
    model: &'static str,
    arms: Vec<ArmReport>,
}

#[derive(Serialize)]
struct ArmReport {
    name: &'static str,
    /// Null where the engine does not say.
    dispatches_per_token: Option<usize>,
    submits_per_token: Option<f64>,
    runs: usize,
    tokens_per_second: f64,
    /// Times as fast as the first arm.
    of_first: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let json = args.json;
    let report = blocking(move || measure(&args)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report))?)
}

fn measure(args: &Args) -> Result<Report> {
    let device = GpuDevice::open(&args.device)?;
    let gpu = Gpu::new(device.device(), device.queue());
    let begun = Instant::now();
    let clock = || begun.elapsed().as_secs_f64();
    let bar = CountBar::new("arms", 4);
    let mut arms: Vec<ArmReport> = Vec::new();
    let naive = Naive::gpt2_124m();
    for (name, per_op) in [("each op submitted and waited for", true), ("the same ops, a submit a token", false)] {
        let NaiveReport { dispatches_per_token, submits_per_token, runs, tokens_per_second, .. } =
            block_on(naive.run(gpu, per_op, args.runs.into(), SECONDS_PER_ARM, &clock))?;
        let of_first = arms.first().map_or(1.0, |first| tokens_per_second / first.tokens_per_second);
        let (dispatches_per_token, submits_per_token) = (Some(dispatches_per_token), Some(submits_per_token));
        arms.push(ArmReport { name, dispatches_per_token, submits_per_token, runs, tokens_per_second, of_first });
        bar.step();
    }
    drop(naive);
    let engine =
        [("syn1's engine, 5 dispatches a layer", Persistence::Off), ("syn1's engine, tuned", Persistence::Measured)];
    for (name, persist) in engine {
        let tokens_per_second = fused(&device, args.runs.into(), persist)?;
        arms.push(ArmReport {
            name,
            dispatches_per_token: None,
            submits_per_token: None,
            runs: args.runs.into(),
            tokens_per_second,
            of_first: arms.first().map_or(1.0, |first| tokens_per_second / first.tokens_per_second),
        });
        bar.step();
    }
    drop(bar);
    Ok(Report { device: device.name().to_owned(), model: "gpt2-124m f16 (random weights)", arms })
}

/// Tokens per second of the engine at the same work.
fn fused(device: &GpuDevice, runs: usize, persist: Persistence) -> Result<f64> {
    let folder = tempfile::tempdir().context("cannot make a folder for random weights")?;
    let prepared = shape::prepare(Shape::Gpt2, WeightFormat::F16, folder.path())?;
    let (plan, pieces) = prepared.whole()?;
    let config = EngineConfig { max_positions: TOKENS, slots: 1, max_rows: 1 };
    let options = GpuOptions { persist, ..GpuOptions::default() };
    let mut engine = match persist {
        Persistence::Off => GpuEngine::new(device, plan, &pieces, config)?,
        _ => GpuEngine::tuned(device, plan, &pieces, config, options, &mut Tuning::new(device))?,
    };
    let slot = engine.open()?;
    let mut paces = Vec::new();
    for run in 0..=runs {
        let begun = Instant::now();
        block_on(engine.decode(Decode::greedy(slot, 0, 0, TOKENS), |_| ControlFlow::Continue(())))?;
        if run > 0 {
            paces.push(TOKENS as f64 / begun.elapsed().as_secs_f64());
        }
    }
    Ok(median(paces))
}

fn table(report: &Report) -> String {
    let mut text = format!("{} on {}, {TOKENS} tokens from the first on\n\n", report.model, report.device);
    text +=
        "arm                                     tok/s   of the first   dispatches a token   submits a token   runs\n";
    for arm in &report.arms {
        let dispatches = arm.dispatches_per_token.map_or_else(|| "-".into(), |number| number.to_string());
        let submits = arm.submits_per_token.map_or_else(|| "-".into(), |number| format!("{number:.0}"));
        text += &format!(
            "{:34} {:10.1} {:13.1}x {dispatches:>20} {submits:>17} {:6}\n",
            arm.name, arm.tokens_per_second, arm.of_first, arm.runs
        );
    }
    text
}

/// Seconds after which an arm gets no further run.
const SECONDS_PER_ARM: f64 = 10.0;
