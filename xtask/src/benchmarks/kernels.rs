//! Tables of `syn1 bench kernels`.

use super::plot::number;
use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::Kernels(report) = &raw.report else { continue };
        *text += &format!(
            "## Where a token's time goes, a dispatch an op: {} {} on {}\n\n`{}`, {}, {}, position {}; the device reads \
             {:.0} GB/s. The first token's embedding is no part of the sum.\n\n\
             | op | ops | dispatches | us | MB | GB/s | of the limit |\n| --- | --- | --- | --- | --- | --- | --- |\n",
            report.model.split(' ').next().unwrap_or_default(),
            report.weights,
            raw.machine,
            raw.command,
            report.device,
            raw.date,
            report.position,
            report.limit_bytes_per_second / 1e9,
        );
        let row = |name: &str, ops: String, dispatches: usize, us: f64, bytes: u64| {
            let rate = bytes as f64 / us * 1e6;
            let (rate, share) = (number(rate / 1e9), rate / report.limit_bytes_per_second * 100.0);
            format!("| {name} | {ops} | {dispatches} | {us:.1} | {:.2} | {rate} | {share:.0} % |\n", bytes as f64 / 1e6)
        };
        for op in &report.ops {
            *text += &row(&op.op, op.ops.to_string(), op.dispatches, op.us, op.bytes);
        }
        let bytes = report.ops.iter().filter(|op| op.op != "embed").map(|op| op.bytes).sum();
        *text += &row("sum", String::new(), report.dispatches, report.sum_us, bytes);
        *text += &row("a token, measured", String::new(), report.dispatches, report.token_us, bytes);
        *text += "\n";
    }
}
