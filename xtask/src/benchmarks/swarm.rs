//! Tables of what a coordinator costs and bears: `syn1 bench idle`, `relay` and `recovery`.

use super::plot::number;
use super::raw::{Raw, Report};

/// A section for each kind that there is a file of.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    let rows = |row: fn(&Raw) -> Option<String>| raw.iter().filter_map(row).collect::<String>();
    let mut section = |head: &str, rows: String| {
        if !rows.is_empty() {
            *text += &format!("{head}{rows}\n");
        }
    };
    section(
        "## Idle nodes on one coordinator\n\nMemory is what the process has resident more than without nodes; buffers of the \
         system's sockets are not counted.\n\n\
         | nodes | KiB a node | CPU of one core | us a node and second | to join, ms a node | machine | command, date |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        rows(idle),
    );
    section(
        "## Frames relayed on one core\n\nA frame is counted once, where it comes in. The nodes are on the other core; where \
         that is the slower one, the coordinator's waits.\n\n\
         | nodes | texts | row | frames/s | of the core | frames/s of CPU time | us a frame | machine | command, date |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        rows(relay),
    );
    section(
        "## Nodes that are killed, leave and come\n\nProcesses of their own. A pause is the longest time between two tokens of a \
         text; a token is lost if the text differs from an undisturbed run there.\n\n\
         | arm | events | texts | pause p50 | p95 | longest | tokens lost | machine | command, date |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        rows(recovery),
    );
}

fn idle(raw: &Raw) -> Option<String> {
    let Report::Idle(report) = &raw.report else { return None };
    Some(format!(
        "| {} | {:.1} | {:.1} % | {:.1} | {:.2} | {} |\n",
        number(report.nodes),
        report.resident_bytes_per_node / 1024.0,
        report.cpu_share * 100.0,
        report.cpu_us_per_node_and_second,
        report.joined_in_seconds / report.nodes * 1e3,
        origin(raw),
    ))
}

fn relay(raw: &Raw) -> Option<String> {
    let Report::Relay(report) = &raw.report else { return None };
    Some(format!(
        "| {} | {} | {} | {} | {:.0} % | {} | {:.2} | {} |\n",
        report.nodes,
        report.streams,
        report.width,
        number(report.frames_per_second),
        report.cpu_share * 100.0,
        number(report.frames_per_cpu_second),
        report.us_per_frame,
        origin(raw),
    ))
}

fn recovery(raw: &Raw) -> Option<String> {
    let Report::Recovery(report) = &raw.report else { return None };
    let line = |arm: &super::raw::RecoveryArm| {
        format!(
            "| {} | {} | {} | {:.0} ms | {:.0} ms | {:.0} ms | {} of {} | {} |\n",
            arm.arm,
            arm.kills,
            arm.texts,
            arm.pause_p50_ms,
            arm.pause_p95_ms,
            arm.pause_max_ms,
            arm.lost_tokens,
            number(arm.tokens as f64),
            origin(raw),
        )
    };
    Some(report.arms.iter().map(line).collect())
}

fn origin(raw: &Raw) -> String {
    format!("{} | `{}`, {}", raw.machine, raw.command, raw.date)
}

#[cfg(test)]
mod tests {
    use super::super::raw::parse;
    use super::*;

    #[test]
    fn every_report_is_a_row_of_its_section_and_no_report_is_no_section() {
        let raw = |report: &str| {
            parse(&format!(r#"{{"command": "c", "machine": "m", "date": "d", "report": {report}}}"#)).unwrap()
        };
        let idle =
            raw(r#"{"nodes": 5000, "joined_in_seconds": 10.0, "resident_bytes_per_node": 20480.0, "cpu_share": 0.05,
                "cpu_us_per_node_and_second": 10.0}"#);
        let relay = raw(r#"{"nodes": 4, "streams": 64, "width": 768, "frames_per_second": 50000.0, "cpu_share": 0.5,
                "frames_per_cpu_second": 100000.0, "us_per_frame": 10.0}"#);
        let recovery = raw(
            r#"{"undisturbed_ms": 1.0, "arms": [{"arm": "a", "kills": 2, "texts": 4, "pause_p50_ms": 1.0, "pause_p95_ms": 2.0,
                "pause_max_ms": 3.0, "tokens": 800, "lost_tokens": 0}]}"#,
        );
        let mut text = String::new();
        render(&[idle, relay, recovery], &mut text);
        assert!(text.contains("| 5,000 | 20.0 | 5.0 % | 10.0 | 2.00 | m | `c`, d |"), "{text}");
        assert!(text.contains("| 4 | 64 | 768 | 50,000 | 50 % | 100,000 | 10.00 | m | `c`, d |"), "{text}");
        assert!(text.contains("| a | 2 | 4 | 1 ms | 2 ms | 3 ms | 0 of 800 | m | `c`, d |"), "{text}");
        assert_eq!(text.matches("## ").count(), 3);
        let mut none = String::new();
        render(&[], &mut none);
        assert_eq!(none, "");
    }
}
