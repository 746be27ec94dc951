//! `syn1 bench kernels`: where a token's time goes, op by op.

use anyhow::Result;
use serde::Serialize;
use syn1_kernels::engine::EngineConfig;
use syn1_kernels::{OpTime, TokenTimes};

use super::loop_parts;
use super::shape::Subject;
use crate::interrupt::blocking;
use crate::model::Prepared;
use crate::options::DeviceOptions;
use crate::show;

/// Options of `syn1 bench kernels`.
#[derive(clap::Args)]
#[command(after_help = "\
On a GPU a token of the loop as a dispatch an op. The dispatches of all ops of a kind run again and again in one
submit, each behind the one before as in a token, and in front of every round the device reads as many bytes as the
token's other ops do, so that its caches hold what they hold then. The submit and that read are taken away.
On the CPU a clock is read behind every op of whole tokens; dispatches are how often the threads wait for each other.
GB/s are the bytes that an op must read, a second; the limit is what the device reads, measured in the same run (on
the CPU from a buffer as large as the weights of a token, before and behind: the faster one).
A model that caches hold can be above it. `bench decode` measures the loop as users have it, in one dispatch where that is
faster.

With --loop, tokens in one dispatch. There is no clock inside: the kernel runs without the weights of one kind of op, then
without those of one more, and so on, and each difference is a line. What is left in the end is the exchange of rows between
workgroups, which ends every op.")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceOptions,
    /// Position of the token: attention reads what is in front of it
    #[arg(long, value_name = "N", default_value_t = 64)]
    position: usize,
    /// Measurements of each op; medians are printed
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// The parts of the token loop in one dispatch, where the device runs it so
    #[arg(long = "loop", conflicts_with = "no_tune")]
    in_one_dispatch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    device: String,
    position: usize,
    runs: u16,
    limit_bytes_per_second: f64,
    ops: Vec<OpReport>,
    /// Of a token: the embedding, which only the first one needs, is not counted.
    dispatches: usize,
    sum_us: f64,
    token_us: f64,
}

#[derive(Serialize)]
struct OpReport {
    op: &'static str,
    ops: usize,
    dispatches: usize,
    us: f64,
    bytes: u64,
    bytes_per_second: f64,
    share_of_limit: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let (prepared, _folder) = args.subject.prepare().await?;
    let json = args.json;
    if args.in_one_dispatch {
        let measure = move || loop_parts::measure(&args.device, &prepared, args.position, args.runs);
        let report = blocking(measure).await?;
        let text = if json { serde_json::to_string(&report)? + "\n" } else { loop_parts::table(&report) };
        return Ok(show::out(&text)?);
    }
    let report = blocking(move || measure(&args, &prepared)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report))?)
}

fn measure(args: &Args, prepared: &Prepared) -> Result<Report> {
    let device = args.device.open()?;
    let (plan, pieces) = prepared.whole()?;
    let weight_bytes = plan.bytes_per_token();
    let config = EngineConfig { max_positions: prepared.max_positions, slots: 1, max_rows: 1 };
    let mut engine = device.engine(plan, &pieces, config)?;
    drop(pieces);
    // A CPU's share changes with whatever else the machine does, so its limit is measured on both sides.
    let before = device.read_bandwidth(weight_bytes)?;
    let TokenTimes { ops, token } = engine.op_times(args.position, args.runs.into())?;
    let limit = device.read_bandwidth(weight_bytes)?.max(before) as f64;
    let ops: Vec<OpReport> = ops.iter().map(|op| line(op, limit)).collect();
    let of_token = || ops.iter().filter(|op| op.op != "embed");
    let (dispatches, sum_us) = (of_token().map(|op| op.dispatches).sum(), of_token().map(|op| op.us).sum());
    Ok(Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        device: device.name().to_owned(),
        position: args.position,
        runs: args.runs,
        limit_bytes_per_second: limit,
        ops,
        dispatches,
        sum_us,
        token_us: token.as_secs_f64() * 1e6,
    })
}

fn line(&OpTime { op, ops, dispatches, bytes, time }: &OpTime, limit: f64) -> OpReport {
    // A clock's tick at least: what is faster than that is no rate.
    let seconds = time.as_secs_f64().max(1e-9);
    let bytes_per_second = bytes as f64 / seconds;
    let share_of_limit = bytes_per_second / limit;
    OpReport { op, ops, dispatches, us: seconds * 1e6, bytes, bytes_per_second, share_of_limit }
}

fn table(report: &Report) -> String {
    let limit = report.limit_bytes_per_second;
    let mut text = format!(
        "{} {} on {}, a token at position {}\nmedians of {} measurements; the device reads {:.1} GB/s\n\n\
         op       ops   dispatches         us         MB       GB/s   of the limit\n",
        report.model,
        report.weights,
        report.device,
        report.position,
        report.runs,
        limit / 1e9,
    );
    for op in &report.ops {
        text += &format!(
            "{:8} {:3} {:12} {:10.1} {:10.2} {:10.1} {:12.0} %\n",
            op.op,
            op.ops,
            op.dispatches,
            op.us,
            op.bytes as f64 / 1e6,
            op.bytes_per_second / 1e9,
            op.share_of_limit * 100.0
        );
    }
    let bytes: u64 = report.ops.iter().filter(|op| op.op != "embed").map(|op| op.bytes).sum();
    let rate = |us: f64| bytes as f64 / us / 1e3;
    for (name, us) in [("sum", report.sum_us), ("a token", report.token_us)] {
        text += &format!(
            "{name:12} {:12} {us:10.1} {:10.2} {:10.1} {:12.0} %\n",
            report.dispatches,
            bytes as f64 / 1e6,
            rate(us),
            rate(us) * 1e11 / limit
        );
    }
    text + "\nThe first token's embedding is no part of the sum.\n"
}
