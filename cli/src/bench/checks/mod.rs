//! `syn1 bench checks`: what spot checks catch, that they do not raise a false alarm, and what they cost.

mod liar;
mod table;

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_node_host::{Device, DeviceChoice};

use self::liar::Lie;
use self::table::{Seat, Table};
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::{DeviceOptions, ModelOptions};
use crate::progress::CountBar;
use crate::show;
use crate::swarm::core_config;

/// Options of `syn1 bench checks`.
#[derive(clap::Args)]
#[command(after_help = "\
Two nodes share the model; each has two others behind it that hold the same layers: one checks it, one judges. The real
core, nodes and engines run on one thread, so that nothing else is measured.
Caught: in each trial one node of the chain computes something else from the start. It has to be quarantined before the
64th token of its first text, and the text has to become that of an undisturbed run.
False alarms: honest nodes, in every form of the wire, until so many rows were compared; with --checker-device the
checking nodes compute on another device.
Time: what the coordinator takes for a token with checks and without; the nodes of the chain have nothing to do for them.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    device: DeviceOptions,
    /// Where the checking nodes compute [default: where the others do]
    #[arg(long, value_name = "auto|cpu|gpu|NAME")]
    checker_device: Option<DeviceChoice>,
    /// Trials of each kind of garbage
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    trials: u16,
    /// Rows that honest nodes have compared
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rows: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    device: String,
    checker_device: String,
    caught: Vec<Caught>,
    honest: Vec<Honest>,
    time: Time,
}

/// One kind of garbage.
#[derive(Serialize)]
struct Caught {
    garbage: String,
    trials: usize,
    /// Found and sent away before this many tokens of the text.
    within_64: usize,
    /// Tokens that were there when it was, the middle and the most.
    tokens_p50: usize,
    tokens_max: usize,
    /// Texts that became those of an undisturbed run.
    right_texts: usize,
}

/// Honest nodes in one form of the wire.
#[derive(Serialize)]
struct Honest {
    wire: String,
    rows: u64,
    alarms: u64,
    /// How far the farthest rows lay apart, in parts of what is allowed.
    worst: f32,
}

/// Microseconds of a token.
#[derive(Serialize)]
struct Time {
    tokens: usize,
    /// Of the coordinator and of the chain's engines, without checks.
    coordinator_us: f64,
    engines_us: f64,
    /// Of the coordinator with checks.
    checked_coordinator_us: f64,
    /// What checks add, as a share of the token's time.
    added_share: f64,
    /// What the checking nodes compute, as a share of what the checked ones do.
    checkers_share: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    if prepared.spec.layers < 4 {
        bail!("{} has {} layers: two nodes with two each are needed", prepared.name, prepared.spec.layers);
    }
    let json = args.json;
    let report = blocking(move || Bench::new(args, prepared)?.measure()).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table_of(&report))?)
}

struct Bench {
    args: Args,
    prepared: Rc<Prepared>,
    device: Rc<Device>,
    checker: Rc<Device>,
}

impl Bench {
    fn new(args: Args, prepared: Prepared) -> Result<Self> {
        let device = Rc::new(args.device.open()?);
        let checker = match &args.checker_device {
            Some(choice) => Rc::new(Device::open(choice, args.device.threads)?),
            None => device.clone(),
        };
        Ok(Self { args, prepared: Rc::new(prepared), device, checker })
    }

    fn measure(&self) -> Result<Report> {
        let lies = [Lie::Noise(0.1), Lie::Noise(1.0), Lie::SkippedLayer, Lie::OtherWeights];
        let trials = usize::from(self.args.trials);
        let bar = CountBar::new("trials", lies.len() * trials);
        let caught = lies.iter().map(|lie| self.caught(*lie, trials, &bar)).collect::<Result<_>>()?;
        drop(bar);
        let bar = CountBar::new("forms", Form::ALL.len());
        let rows = self.args.rows.div_ceil(Form::ALL.len() as u64);
        let mut honest = Vec::new();
        for form in Form::ALL {
            honest.push(self.honest(form, rows)?);
            bar.step();
        }
        drop(bar);
        Ok(Report {
            model: self.prepared.name.clone(),
            weights: self.prepared.format.name(),
            device: self.device.name().to_owned(),
            checker_device: self.checker.name().to_owned(),
            caught,
            honest,
            time: self.time()?,
        })
    }

    fn config(&self, form: Form) -> CoreConfig {
        core_config(&self.prepared, Policy::Exactly(2), &Wire::everywhere(form), 1)
    }

    fn ask(&self, number: u64) -> Generate {
        let vocab = self.prepared.spec.vocab as u64;
        let prompt = (0..16).map(|at| ((at * 7 + number * 131) % vocab) as u32).collect();
        let temperature = if number.is_multiple_of(2) { 0.0 } else { 0.8 };
        let sampling = Sampling { temperature, seed: number, ..Sampling::default() };
        let max_tokens = TOKENS.min(self.prepared.max_positions.saturating_sub(17));
        Generate { prompt, max_tokens, sampling, stop: Vec::new(), ignore_eos: true, speculate: 0 }
    }

    /// Two nodes in a chain, the one at `place` of them with a lie, and `copies` beside each.
    fn table(&self, form: Form, copies: usize, lie: (Lie, usize), seed: u64) -> Result<Table> {
        let mut table = Table::new(self.config(form));
        for place in 0..2 + 2 * copies {
            let device = if place < 2 { &self.device } else { &self.checker };
            let lie = if place == lie.1 { lie.0 } else { Lie::None };
            table.join(Seat { prepared: self.prepared.clone(), device: device.clone(), lie, seed })?;
        }
        if !table.core.topology().ready {
            bail!("the swarm is not ready: {:?}", table.core.topology().waiting_for);
        }
        Ok(table)
    }

    fn caught(&self, lie: Lie, trials: usize, bar: &CountBar) -> Result<Caught> {
        let form = Form::plain(Codec::F16);
        let mut honest = self.table(form, 0, (Lie::None, 0), 0)?;
        let (mut found_at, mut right_texts) = (Vec::new(), 0);
        for trial in 0..trials {
            let ask = self.ask(trial as u64);
            let expected = honest.text(ask.clone(), |_, _| true)?;
            let mut table = self.table(form, 2, (lie, trial % 2), trial as u64)?;
            let mut at = None;
            let text = table.text(ask, |table, tokens| {
                if !table.convicted.is_empty() {
                    at.get_or_insert(tokens);
                }
                true
            })?;
            let convicted = at.filter(|_| table.convicted.iter().all(|(node, _)| node.0 as usize == trial % 2 + 1));
            found_at.push(convicted);
            right_texts += usize::from(text == expected);
            bar.step();
        }
        let mut tokens: Vec<usize> = found_at.iter().copied().flatten().collect();
        tokens.sort_unstable();
        Ok(Caught {
            garbage: lie.name(),
            trials,
            within_64: tokens.iter().filter(|tokens| **tokens <= 64).count(),
            tokens_p50: tokens.get(tokens.len() / 2).copied().unwrap_or_default(),
            tokens_max: tokens.last().copied().unwrap_or_default(),
            right_texts,
        })
    }

    fn honest(&self, form: Form, rows: u64) -> Result<Honest> {
        let mut table = self.table(form, 1, (Lie::None, 0), 0)?;
        let mut number = 0;
        while table.core.checks().rows < rows {
            let before = table.core.checks().rows;
            table.text(self.ask(number), |_, _| true)?;
            number += 1;
            if table.core.checks().rows == before && number > 1 {
                bail!("nothing is compared in {form}");
            }
        }
        let checks = table.core.checks();
        Ok(Honest { wire: form.to_string(), rows: checks.rows, alarms: checks.disputes, worst: checks.worst })
    }

    fn time(&self) -> Result<Time> {
        let form = Form::plain(Codec::F16);
        let (mut plain, mut checked) =
            (self.table(form, 0, (Lie::None, 0), 0)?, self.table(form, 1, (Lie::None, 0), 0)?);
        let chain = |table: &Table| {
            let parts = table.core.topology().nodes.len();
            (1..=parts.min(2) as u32).map(|id| table.compute(syn1_coordinator::core::NodeId(id))).sum::<Duration>()
        };
        let checkers =
            |table: &Table| (3..=4).map(|id| table.compute(syn1_coordinator::core::NodeId(id))).sum::<Duration>();
        // Turn and turn about, so that both meet the same machine.
        let mut tokens = 0;
        let mut sums = [Duration::ZERO; 5];
        for number in 0..TIMED + 1 {
            let before = [plain.core_time, chain(&plain), checked.core_time, checkers(&checked), chain(&checked)];
            let count = plain.text(self.ask(number), |_, _| true)?.len();
            checked.text(self.ask(number), |_, _| true)?;
            let after = [plain.core_time, chain(&plain), checked.core_time, checkers(&checked), chain(&checked)];
            // The first is warm-up.
            if number > 0 {
                tokens += count;
                for (sum, (before, after)) in sums.iter_mut().zip(before.into_iter().zip(after)) {
                    *sum += after.saturating_sub(before);
                }
            }
        }
        let us = |time: Duration| time.as_secs_f64() * 1e6 / tokens as f64;
        let [coordinator, engines, checked_coordinator, checkers, checked_engines] = sums.map(us);
        Ok(Time {
            tokens,
            coordinator_us: coordinator,
            engines_us: engines,
            checked_coordinator_us: checked_coordinator,
            added_share: (checked_coordinator - coordinator) / (coordinator + engines),
            checkers_share: checkers / checked_engines,
        })
    }
}

fn table_of(report: &Report) -> String {
    let Report { model, weights, device, checker_device, caught, honest, time } = report;
    let mut text = format!("{model} ({weights}) on two nodes: {device}, checked on {checker_device}\n\n");
    text += &format!("{:22} {:>12} {:>18} {:>14}\n", "garbage", "within 64", "tokens (p50, max)", "right texts");
    for Caught { garbage, trials, within_64, tokens_p50, tokens_max, right_texts } in caught {
        text += &format!(
            "{garbage:22} {:>12} {:>18} {:>14}\n",
            format!("{within_64} of {trials}"),
            format!("{tokens_p50}, {tokens_max}"),
            format!("{right_texts} of {trials}")
        );
    }
    text += &format!("\n{:22} {:>12} {:>18} {:>14}\n", "honest, wire", "rows", "false alarms", "worst / allowed");
    for Honest { wire, rows, alarms, worst } in honest {
        text += &format!("{wire:22} {rows:>12} {alarms:>18} {worst:>14.3}\n");
    }
    let Time { tokens, coordinator_us, engines_us, checked_coordinator_us, added_share, checkers_share } = time;
    text + &format!(
        "\na token ({tokens}): coordinator {coordinator_us:.1} us, with checks {checked_coordinator_us:.1} us, engines \
         {engines_us:.1} us: checks add {:.2} %\nthe checking nodes compute {:.0} % of what those that they check do\n",
        added_share * 100.0,
        checkers_share * 100.0
    )
}

/// Tokens of a text.
const TOKENS: usize = 96;
/// Texts of which the time is taken.
const TIMED: u64 = 8;
