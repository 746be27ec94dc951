//! Tables of `syn1 bench pipeline`.

use super::plot::number;
use super::raw::{Pipeline, PipelineArm, Raw, Report};

/// A section for every machine, a line for every chain and number of texts at a time.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    let mut machines: Vec<&str> = Vec::new();
    for raw in raw {
        if matches!(raw.report, Report::Pipeline(_)) && !machines.contains(&raw.machine.as_str()) {
            machines.push(&raw.machine);
        }
    }
    for machine in machines {
        *text += &format!(
            "## Chains of nodes behind links: {machine}\n\nEvery node is a process, and the machine's cores are shared by all. \
             Links are relays of our own with the round trip and rate that is named; what a relay takes here is measured and \
             counts as link. *Added* is what a hop takes beside computing and its link, *predicted* what the coordinator's \
             placement says a token takes before it has seen any text, and how far that is from the measured one; *later*, how \
             far it is behind a turn of all these texts.\n\n\
             | chain | texts | tok/s | times one | bound | a token | computing | links | not computing | added a hop | \
             predicted | later |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        );
        let mut commands = String::new();
        for raw in raw.iter().filter(|raw| raw.machine == machine) {
            let Report::Pipeline(report) = &raw.report else { continue };
            for arm in &report.arms {
                *text += &line(report, arm);
            }
            commands += &format!("- `{}`, {}\n", raw.command, raw.date);
        }
        *text += &format!("\n{commands}\n");
    }
}

fn line(report: &Pipeline, arm: &PipelineArm) -> String {
    let Pipeline { model, weights, wire, stages, threads, round_trip_ms, up_mbit_per_s, .. } = report;
    let model = model.split(' ').next().unwrap_or_default();
    let link = match (round_trip_ms, up_mbit_per_s) {
        (0.0, None) => "direct".to_owned(),
        (ms, None) => format!("{ms} ms"),
        (ms, Some(up)) => format!("{ms} ms, {up} Mbit/s"),
    };
    let threads = threads
        .map_or_else(String::new, |threads| format!(", {threads} thread{}", if threads == 1 { "" } else { "s" }));
    let ms = |ms: f64| format!("{ms:.2} ms");
    let dash = || "-".to_owned();
    let per_cent = |off: Option<f64>| off.filter(|_| arm.streams == 1).map(|off| format!("{:+.0} %", off * 100.0));
    let predicted = per_cent(report.off_first).map(|off| format!("{} ({off})", ms(report.predicted_first_ms)));
    let (predicted, later) = (predicted.unwrap_or_else(dash), per_cent(report.off).unwrap_or_else(dash));
    format!(
        "| {model} {weights}, {stages} nodes{threads}, {link}, wire {wire} | {} | {} | {:.1}x | {} ({}) | {} | {} | {} | {} | {} | \
         {predicted} | {later} |\n",
        arm.streams,
        number(arm.tokens_per_second),
        arm.of_one,
        number(arm.bound_tokens_per_second),
        arm.bound_by,
        ms(arm.token_ms),
        ms(arm.compute_ms),
        ms(arm.link_ms),
        arm.not_compute.map_or_else(dash, |share| format!("{:.1} %", share * 100.0)),
        arm.added_ms_per_hop.map_or_else(dash, |added| format!("{added:.3} ms")),
    )
}
