//! `syn1 bench kernels --loop`: where the time of the token loop in one dispatch goes.

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_kernels::engine::EngineConfig;
use syn1_kernels::gpu::{LoopTimes, PartTime};

use crate::model::Prepared;
use crate::options::DeviceOptions;

#[derive(Serialize)]
pub(super) struct Report {
    model: String,
    weights: &'static str,
    device: String,
    position: usize,
    runs: u16,
    limit_bytes_per_second: f64,
    parts: Vec<Part>,
    exchanges: usize,
    exchange_us: f64,
    unwaited_exchange_us: f64,
    unwaited_us: f64,
    token_us: f64,
}

#[derive(Serialize)]
struct Part {
    op: &'static str,
    ops: usize,
    us: f64,
    bytes: u64,
    /// What reading these bytes takes at the limit.
    limit_us: f64,
}

pub(super) fn measure(device: &DeviceOptions, prepared: &Prepared, position: usize, runs: u16) -> Result<Report> {
    let device = device.open()?;
    let (plan, pieces) = prepared.whole()?;
    let config = EngineConfig { max_positions: prepared.max_positions, slots: 1, max_rows: 1 };
    let mut engine = device.loop_engine(plan, &pieces, config)?;
    drop(pieces);
    let Some(times) = engine.loop_times(position, runs.into())? else {
        bail!(
            "{}: the token loop is no single dispatch here, since the device does not allow it or is not faster so: \
             `syn1 bench kernels` without --loop measures its dispatches",
            device.name()
        );
    };
    let limit = device.read_bandwidth(0)? as f64;
    let LoopTimes { parts, exchanges, exchanged, unwaited_exchanged, unwaited, token } = times;
    let part = |PartTime { op, ops, bytes, time }| Part {
        op,
        ops,
        us: time.as_secs_f64() * 1e6,
        bytes,
        limit_us: bytes as f64 / limit * 1e6,
    };
    Ok(Report {
        model: prepared.name.clone(),
        weights: prepared.format.name(),
        device: device.name().to_owned(),
        position,
        runs,
        limit_bytes_per_second: limit,
        parts: parts.into_iter().map(part).collect(),
        exchanges,
        exchange_us: exchanged.as_secs_f64() * 1e6,
        unwaited_exchange_us: unwaited_exchanged.as_secs_f64() * 1e6,
        unwaited_us: unwaited.as_secs_f64() * 1e6,
        token_us: token.as_secs_f64() * 1e6,
    })
}

pub(super) fn table(report: &Report) -> String {
    let mut text = format!(
        "{} {} on {}, the token loop in one dispatch, from position {} on\n\
         medians of {} measurements; the device reads {:.1} GB/s\n\n\
         part       times         us         MB   us at the limit\n",
        report.model,
        report.weights,
        report.device,
        report.position,
        report.runs,
        report.limit_bytes_per_second / 1e9,
    );
    let line = |name: &str, times: usize, us: f64, bytes: u64, limit_us: f64| {
        format!("{name:9} {times:6} {us:10.1} {:10.2} {limit_us:17.1}\n", bytes as f64 / 1e6)
    };
    for part in &report.parts {
        text += &line(part.op, part.ops, part.us, part.bytes, part.limit_us);
    }
    let bytes = report.parts.iter().map(|part| part.bytes).sum();
    let limit_us = report.parts.iter().map(|part| part.limit_us).sum();
    text += &line("exchange", report.exchanges, report.exchange_us, 0, 0.0);
    text += &line("a token", 1, report.token_us, bytes, limit_us);
    text + &format!(
        "\nIf nobody waited: a token {:.1} us, exchanges alone {:.1} us.\n",
        report.unwaited_us, report.unwaited_exchange_us
    )
}
