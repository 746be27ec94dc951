//! `syn1 bench hop`: one shard of a chain, from frame in to frame out, and where the time goes.

mod node;

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use syn1_core::codec::{choose, encode, encode_ids};
use syn1_core::{Codec, Form, Header, encoded_len};
use syn1_kernels::engine::EngineConfig;
use syn1_model::plan::Plan;

use self::node::{Node, REQUEST, Stamps};
use super::median;
use super::shape::Subject;
use crate::interrupt::blocking;
use crate::model::Prepared;
use crate::options::DeviceOptions;
use crate::show;

/// Options of `syn1 bench hop`.
#[derive(clap::Args)]
#[command(after_help = "\
A hop is what a node does with one frame: decode it, compute its layers, encode the answer. The node's own code runs, on
frames that are handed to it in memory: sockets are not measured. Beside it, in the same run: a submit of nothing, and one
of a single small dispatch whose 16 bytes are read back. No hop on this device can be faster than that.")]
pub(crate) struct Args {
    #[command(flatten)]
    subject: Subject,
    /// The shard's layers, A up to but not including B [default: the middle third]
    #[arg(long, value_name = "A..B", value_parser = layers)]
    layers: Option<Range<usize>>,
    #[command(flatten)]
    device: DeviceOptions,
    /// How activations travel
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16")]
    codec: Vec<WireCodec>,
    /// Positions in front of the frame
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_value = "16,1000")]
    at: Vec<usize>,
    /// Rows a frame: 1 is a token, more are a piece of a prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rows: u16,
    /// Hops of each row of the table; medians and the ninth of ten are printed
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(10..))]
    hops: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The plain forms of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WireCodec {
    F32,
    F16,
    Q8,
    Q4,
}

#[derive(Serialize)]
struct Report {
    model: String,
    weights: &'static str,
    device: String,
    layers: Range<usize>,
    rows: u16,
    hops: u16,
    floor: Option<Floor>,
    arms: Vec<Arm>,
}

/// What no hop on this GPU is faster than, microseconds.
#[derive(Serialize)]
struct Floor {
    empty_us: f64,
    mapped_asleep_us: f64,
    mapped_us: f64,
}

/// One codec at one position, microseconds.
#[derive(Serialize)]
struct Arm {
    codec: String,
    position: usize,
    payload_bytes: usize,
    hop: Spread,
    /// From frame in until the engine begins: the decoder and what the node does around it.
    decode: Spread,
    engine: Spread,
    step: Option<StepReport>,
    /// From the engine's end to frame out.
    encode: Spread,
}

/// Where a GPU engine's time goes, microseconds.
#[derive(Serialize)]
struct StepReport {
    upload: Spread,
    record: Spread,
    submit: Spread,
    ahead: Spread,
    wait: Spread,
    read: Spread,
    /// The part of the hops whose commands were ready when their frame came.
    prepared: f64,
}

#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    p90: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let (prepared, _folder) = args.subject.prepare().await?;
    let json = args.json;
    let report = blocking(move || measure(&args, &prepared)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report))?)
}

fn measure(args: &Args, prepared: &Prepared) -> Result<Report> {
    let all = prepared.spec.layers;
    let layers = args.layers.clone().unwrap_or(all / 3..(2 * all / 3).max(all / 3 + 1));
    if layers.is_empty() || layers.end > all {
        bail!("--layers {}..{}: the model has layers 0..{all}", layers.start, layers.end);
    }
    let rows = usize::from(args.rows);
    let most = args.at.iter().max().copied().unwrap_or(0) + SPREAD + rows;
    if most > prepared.max_positions {
        bail!("--at needs {most} positions, the context holds {}", prepared.max_positions);
    }
    let device = args.device.open()?;
    let (plan, pieces) = prepared.part(layers.clone())?;
    let config = EngineConfig { max_positions: prepared.max_positions, slots: 1, max_rows: rows.max(FILL) };
    let mut arms = Vec::new();
    for codec in &args.codec {
        let form = Form::plain(codec.codec());
        let engine = device.step_engine(plan.clone(), &pieces, config)?;
        let mut node = Node::new(engine, &plan, config, form)?;
        for &position in &args.at {
            arms.push(arm(args, &plan, &mut node, *codec, position)?);
        }
    }
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let floor = device.round_trip(args.hops.into())?.map(|floor| Floor {
        empty_us: us(floor.empty),
        mapped_asleep_us: us(floor.mapped_asleep),
        mapped_us: us(floor.mapped),
    });
    Ok(Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        device: device.name().to_owned(),
        layers,
        rows: args.rows,
        hops: args.hops,
        floor,
        arms,
    })
}

fn arm(args: &Args, plan: &Plan, node: &mut Node, codec: WireCodec, position: usize) -> Result<Arm> {
    let mut answer = Vec::new();
    for begin in (0..position).step_by(FILL) {
        let (header, payload) = frame(plan, codec, begin, FILL.min(position - begin))?;
        node.hop(header, &payload, &mut answer)?;
    }
    let rows = usize::from(args.rows);
    let mut stamps = Vec::new();
    let mut payload_bytes = 0;
    for hop in 0..WARM + usize::from(args.hops) {
        // As in a text, but for a step back now and then.
        let at = position + (hop * rows) % SPREAD;
        let (header, payload) = frame(plan, codec, at, rows)?;
        let stamp = node.hop(header, &payload, &mut answer)?;
        payload_bytes = answer.len() - Header::LEN;
        if hop >= WARM {
            stamps.push(stamp);
        }
    }
    let spread = |part: &dyn Fn(&Stamps) -> Duration| Spread::of(stamps.iter().map(part).collect());
    let steps: Vec<_> = stamps.iter().filter_map(|stamps| stamps.step).collect();
    let step = (!steps.is_empty()).then(|| {
        let part = |part: fn(&syn1_kernels::gpu::StepTimes) -> Duration| Spread::of(steps.iter().map(part).collect());
        StepReport {
            upload: part(|step| step.upload),
            record: part(|step| step.record),
            submit: part(|step| step.submit),
            ahead: part(|step| step.ahead),
            wait: part(|step| step.wait),
            read: part(|step| step.read),
            prepared: steps.iter().filter(|step| step.prepared).count() as f64 / steps.len() as f64,
        }
    });
    Ok(Arm {
        codec: codec.codec().to_string(),
        position,
        payload_bytes,
        hop: spread(&Stamps::hop),
        decode: spread(&|stamps| stamps.engine_begun - stamps.frame_in),
        engine: spread(&|stamps| stamps.engine_done - stamps.engine_begun),
        step,
        encode: spread(&|stamps| stamps.frame_out - stamps.engine_done),
    })
}

/// What a coordinator sends for `rows` positions from `position` on: random rows of the size that activations have.
fn frame(plan: &Plan, codec: WireCodec, position: usize, rows: usize) -> Result<(Header, Vec<u8>)> {
    let (place, count) = (u32::try_from(position)?, u16::try_from(rows)?);
    if plan.embeds() {
        let ids: Vec<u32> = (position..position + rows).map(|id| (id * 37 + 11) as u32 % 100).collect();
        let mut payload = vec![0; 4 * rows];
        encode_ids(&ids, &mut payload);
        return Ok((Header::tokens(REQUEST, 0, place, count), payload));
    }
    let width = plan.spec.width;
    let mut state = position as u32 + 1;
    let values: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(rows * width)
    .collect();
    let cols = u16::try_from(width)?;
    let codec = choose(codec.codec(), &values)?;
    let mut payload =
        vec![0; encoded_len(codec, count, cols).context("a frame of that many rows is too long")? as usize];
    encode(codec, &values, cols, &mut payload)?;
    let header = Header::activation(REQUEST, 0, place, codec, count, cols);
    Ok((header.context("a frame of that many rows is too long")?, payload))
}

impl WireCodec {
    fn codec(self) -> Codec {
        match self {
            Self::F32 => Codec::F32,
            Self::F16 => Codec::F16,
            Self::Q8 => Codec::Q8,
            Self::Q4 => Codec::Q4,
        }
    }
}

impl Spread {
    fn of(times: Vec<Duration>) -> Self {
        let mut us: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        us.sort_by(f64::total_cmp);
        let p90 = us.get(us.len() * 9 / 10).copied().unwrap_or(f64::NAN);
        Self { median: median(us), p90 }
    }
}

/// Reads `A..B`.
fn layers(text: &str) -> Result<Range<usize>, String> {
    let ends = text.split_once("..").and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
    ends.ok_or_else(|| "it is A..B, such as 4..8".to_owned())
}

fn table(report: &Report) -> String {
    let Report { model, weights, device, layers, rows, hops, floor, arms } = report;
    let mut text = format!(
        "{model} {weights}, layers {}..{} on {device}\nmedians of {hops} hops (the ninth of ten) of {rows} row{}, \
         microseconds\n\n",
        layers.start,
        layers.end,
        if *rows == 1 { "" } else { "s" }
    );
    text += "wire  position    frame in to out     decode     engine      encode";
    text += "    engine: upload   record   submit    ahead     wait     read   ready\n";
    for arm in arms {
        let Spread { median, p90 } = arm.hop;
        let engine = arm.engine.median;
        let (decode, encode) = (arm.decode.median, arm.encode.median);
        let (codec, position) = (&arm.codec, arm.position);
        let _ =
            write!(text, "{codec:4} {position:9} {median:10.1} ({p90:7.1}) {decode:10.2} {engine:10.1} {encode:11.2}");
        if let Some(step) = &arm.step {
            let parts =
                [step.upload, step.record, step.submit, step.ahead, step.wait, step.read].map(|part| part.median);
            text += "        ";
            for part in parts {
                let _ = write!(text, " {part:8.2}");
            }
            let _ = write!(text, " {:5.0} %", step.prepared * 100.0);
        }
        text.push('\n');
    }
    if let Some(Floor { empty_us, mapped_asleep_us, mapped_us }) = floor {
        let _ = write!(
            text,
            "\nlimit: a submit of nothing {empty_us:.1}; one small dispatch and 16 bytes back {mapped_us:.1} \
             ({mapped_asleep_us:.1} where the thread sleeps)\n"
        );
    }
    text
}

/// Positions over which the measured hops are spread.
const SPREAD: usize = 16;

/// Hops in front of those that count.
const WARM: usize = 50;

/// Rows of the frames that fill the context.
const FILL: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_range_is_two_numbers() {
        assert_eq!(layers("4..8"), Ok(4..8));
        for text in ["", "4", "4..", "..8", "a..b", "4...8"] {
            assert!(layers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_median_and_the_ninth_of_ten() {
        let spread = Spread::of((1..=10).map(Duration::from_micros).collect());
        assert_eq!(((spread.median * 10.0).round(), (spread.p90 * 10.0).round()), (50.0, 100.0));
    }
}
