//! Tables of `syn1 bench streams`.

use super::plot::number;
use super::raw::{Raw, Report};

/// A section for all raw files.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    let mut begun = false;
    for raw in raw {
        let Report::Streams(report) = &raw.report else { continue };
        if !std::mem::replace(&mut begun, true) {
            *text += "## Several texts at a time\n\nTokens of all texts together, through a coordinator, while all of \
                      them run. The bound is what reading the weights once for a token of every text would give.\n\n";
        }
        *text += &format!(
            "`{}`, {}, {} {}, {}, {}; the device reads {} GB/s.\n\n| nodes | texts | tok/s | of one text | bound | of \
             the bound | longest gap | coordinator, a token |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
            raw.command,
            raw.machine,
            report.model,
            report.weights,
            report.device,
            raw.date,
            number(report.limit_bytes_per_second / 1e9),
        );
        for arm in &report.arms {
            let of_one = arm.of_one_stream.map_or_else(String::new, |of_one| format!("{of_one:.2}x"));
            *text += &format!(
                "| {} | {} | {} | {of_one} | {} | {:.0} % | {:.1} ms | {:.0} us |\n",
                arm.nodes,
                arm.streams,
                number(arm.tokens_per_second),
                number(arm.bound_tokens_per_second),
                arm.tokens_per_second / arm.bound_tokens_per_second * 100.0,
                arm.longest_gap_ms,
                arm.coordinator_us_per_token,
            );
        }
        *text += "\n";
    }
}
