//! Tables of `syn1 bench ops`.

use super::plot::number;
use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::Ops(report) = &raw.report else { continue };
        *text += &format!(
            "## Fused against one submit per operation: {}\n\n`{}`, {}, {}, {}.\n\n| arm | tok/s | of the first | \
             dispatches a token | submits a token |\n| --- | --- | --- | --- | --- |\n",
            raw.machine, raw.command, report.model, report.device, raw.date
        );
        for arm in &report.arms {
            let dispatches = arm.dispatches_per_token.map_or_else(String::new, |number| number.to_string());
            let submits = arm.submits_per_token.map_or_else(String::new, |number| format!("{number:.0}"));
            let pace = number(arm.tokens_per_second);
            *text += &format!("| {} | {pace} | {:.1}x | {dispatches} | {submits} |\n", arm.name, arm.of_first);
        }
        *text += "\n";
    }
}
