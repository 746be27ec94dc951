//! Tables of `syn1 bench checks`.

use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::Checks(report) = &raw.report else { continue };
        *text += &format!(
            "## Spot checks: {}\n\n`{}`, {} ({}), {}, checked on {}, {}.\n\n| garbage of one node of two | found before the \
             64th token | tokens when it was found (middle, most) | texts that became right |\n| --- | --- | --- | --- |\n",
            raw.machine, raw.command, report.model, report.weights, report.device, report.checker_device, raw.date
        );
        for arm in &report.caught {
            *text += &format!(
                "| {} | {} of {} | {}, {} | {} of {} |\n",
                arm.garbage, arm.within_64, arm.trials, arm.tokens_p50, arm.tokens_max, arm.right_texts, arm.trials
            );
        }
        *text += "\n| honest nodes, wire | rows compared | false alarms | farthest apart, of what is allowed |\n\
                  | --- | --- | --- | --- |\n";
        for arm in &report.honest {
            *text += &format!("| {} | {} | {} | {:.0} % |\n", arm.wire, arm.rows, arm.alarms, arm.worst * 100.0);
        }
        let time = &report.time;
        *text += &format!(
            "\nA token takes the engines {:.0} us and the coordinator {:.1} us, with checks {:.1} us: they add {:.2} %. The \
             checking nodes, which have nothing else to do, compute {:.0} % of what those do that they check.\n\n",
            time.engines_us,
            time.coordinator_us,
            time.checked_coordinator_us,
            time.added_share * 100.0,
            time.checkers_share * 100.0
        );
    }
}
