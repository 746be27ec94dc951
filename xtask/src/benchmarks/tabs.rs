//! Tables of `cargo xtask tabs --bench`.

use super::plot::number;
use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::Tabs(report) = &raw.report else { continue };
        *text += &format!(
            "## A browser's tab as a node: {}\n\n`{}`, {}, {}. One node has all layers, with native syn1 as the tests build it, not as a release; medians of {} requests of {} tokens. A hop is \
             measured by the coordinator, from the frame out to its answer in; how much of it was computing is what the node says.\n\n\
             | node | tok/s | a hop, us | of it computing | above computing |\n| --- | --- | --- | --- | --- |\n",
            raw.machine, raw.command, report.model, raw.date, report.runs, report.tokens
        );
        for hop in &report.hops {
            *text += &format!(
                "| {} | {} | {:.0} | {:.0} | {:.0} |\n",
                hop.name,
                number(hop.tokens_per_second),
                hop.answer_us,
                hop.compute_us,
                hop.above_us
            );
        }
        *text += "\n";
    }
}
