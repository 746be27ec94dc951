//! Tables of `syn1 bench kernels --loop`.

use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::LoopParts(report) = &raw.report else { continue };
        *text += &format!(
            "## Where a token's time goes in one dispatch: {} {} on {}\n\n`{}`, {}, {}, from position {} on; the device \
             reads {:.0} GB/s. An op's time is what a token is shorter without reading and computing it; the ops above it \
             are left out then, too. The exchange is what is left: rows that workgroups wait for, norm and hand on.\n\n\
             | part | times | us | MB | us at the limit |\n| --- | --- | --- | --- | --- |\n",
            report.model.split(' ').next().unwrap_or_default(),
            report.weights,
            raw.machine,
            raw.command,
            report.device,
            raw.date,
            report.position,
            report.limit_bytes_per_second / 1e9,
        );
        let row = |name: &str, times: usize, us: f64, bytes: u64, limit_us: f64| {
            format!("| {name} | {times} | {us:.1} | {:.2} | {limit_us:.1} |\n", bytes as f64 / 1e6)
        };
        for part in &report.parts {
            *text += &row(&part.op, part.ops, part.us, part.bytes, part.limit_us);
        }
        let bytes = report.parts.iter().map(|part| part.bytes).sum();
        let limit_us = report.parts.iter().map(|part| part.limit_us).sum();
        *text += &row("exchange", report.exchanges, report.exchange_us, 0, 0.0);
        *text += &row("a token, measured", 1, report.token_us, bytes, limit_us);
        *text += &format!(
            "\nIf nobody waited for anybody, a token would take {:.1} us, and the exchange alone {:.1} us.\n\n",
            report.unwaited_us, report.unwaited_exchange_us
        );
    }
}
