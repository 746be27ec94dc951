//! Tables of `syn1 bench fairness`.

use super::raw::{Raw, Report};

/// A section for every raw file.
pub(super) fn render(raw: &[Raw], text: &mut String) {
    for raw in raw {
        let Report::Fairness(report) = &raw.report else { continue };
        *text += &format!(
            "## A stream beside other people's prompts: {}\n\n`{}`, {} {}, {}. Somebody gets tokens; somebody else sends \
             prompts of {} tokens, one after the other (a \
             second turn has 16 tokens more). At most 3 times as long at p95 is asked for, 2 times is the aim.\n\n\
             | nodes | a token alone, p50 / p95 | beside prompts | as long | a prompt's first token alone | beside the \
             stream | a second turn's, computed | its beginning kept |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
            raw.machine, raw.command, report.model, report.weights, raw.date, report.long_prompt
        );
        for swarm in &report.swarms {
            *text += &format!(
                "| {} | {:.2} / {:.2} ms | {:.2} / {:.2} ms | {:.2}x / {:.2}x | {:.0} ms | {:.0} ms | {:.1} ms | {:.1} ms |\n",
                swarm.nodes,
                swarm.alone.p50_ms,
                swarm.alone.p95_ms,
                swarm.beside.p50_ms,
                swarm.beside.p95_ms,
                swarm.p50_ratio,
                swarm.p95_ratio,
                swarm.first_token_alone_ms,
                swarm.first_token_beside_ms,
                swarm.second_turn_computed_ms,
                swarm.second_turn_kept_ms,
            );
        }
        *text += "\n";
    }
}
