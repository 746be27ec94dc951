//! Tables and plots of `syn1 bench decode` beside its rivals on the same machine, and of what else has tokens a second.

use std::collections::BTreeMap;

use anyhow::Result;

use super::plot::{Bar, Group, bars, number};
use super::raw::{Raw, Report};

/// What is known of a work on a machine.
#[derive(Default)]
struct Work {
    limit: Option<f64>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    tokens_per_second: f64,
    spread: Option<[f64; 2]>,
    share: Option<f64>,
    ours: bool,
    from: String,
}

/// A section for every machine, with a plot.
pub(super) fn render(raw: &[Raw], text: &mut String, files: &mut Vec<(String, String)>) -> Result<()> {
    for (machine, works) in collected(raw)? {
        let name = format!("decode-{}.svg", slug(machine));
        let groups: Vec<Group> = works.iter().map(|(work, found)| group(work, found)).collect();
        files.push((name.clone(), bars(&format!("{machine}: tokens a second of one stream"), "tok/s", &groups)?));
        *text += &format!("## One stream: {machine}\n\n![Tokens a second of one stream]({name})\n\n");
        *text += "| work | program | tok/s | spread | of the limit | command, date |\n| --- | --- | --- | --- | --- | --- |\n";
        for (work, found) in &works {
            for row in &found.rows {
                let spread =
                    row.spread.map_or_else(String::new, |[low, high]| format!("{} to {}", number(low), number(high)));
                let share = row.share.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
                let pace = number(row.tokens_per_second);
                *text += &format!("| {work} | {} | {pace} | {spread} | {share} | {} |\n", row.name, row.from);
            }
            if let Some(limit) = found.limit {
                *text += &format!("| {work} | limit: reading as many bytes | {} | | 100 % | |\n", number(limit));
            }
        }
        *text += "\n";
    }
    Ok(())
}

/// By machine and work; within a work the fastest first.
fn collected(raw: &[Raw]) -> Result<BTreeMap<&str, BTreeMap<String, Work>>> {
    let mut machines: BTreeMap<&str, BTreeMap<String, Work>> = BTreeMap::new();
    for raw in raw {
        let from = format!("`{}`, {}", raw.command, raw.date);
        match &raw.report {
            Report::Decode(decode) => {
                let work = machines.entry(&raw.machine).or_default().entry(raw.work()?).or_default();
                let bytes = (decode.weight_bytes_per_token + decode.kv_bytes_per_token) as f64;
                work.limit = Some(decode.limit_bytes_per_second / bytes);
                work.rows.push(Row {
                    name: format!(
                        "syn1 on {}{}",
                        decode.device,
                        if decode.in_one_dispatch { ", tokens in one dispatch" } else { "" }
                    ),
                    tokens_per_second: decode.tokens_per_second,
                    spread: decode.spread,
                    share: Some(decode.share_of_limit),
                    ours: true,
                    from,
                });
            }
            Report::Rivals(rivals) => {
                for rival in rivals {
                    let Some(tokens_per_second) = rival.tokens_per_second else { continue };
                    let work = machines.entry(&raw.machine).or_default().entry(rival.work.clone()).or_default();
                    let (name, spread, from) = (rival.name.clone(), rival.spread, from.clone());
                    let ours = name.starts_with("syn1");
                    work.rows.push(Row { name, tokens_per_second, spread, share: None, ours, from });
                }
            }
            _ => {}
        }
    }
    for work in machines.values_mut().flat_map(BTreeMap::values_mut) {
        work.rows.sort_by(|a, b| b.tokens_per_second.total_cmp(&a.tokens_per_second));
    }
    Ok(machines)
}

fn group(work: &str, found: &Work) -> Group {
    let bars =
        found.rows.iter().map(|row| Bar { name: row.name.clone(), value: row.tokens_per_second, ours: row.ours });
    Group { title: work.to_owned(), limit: found.limit, bars: bars.collect() }
}

/// A name for a file: lower case letters, digits and single dashes.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(command: &str, report: &str) -> Raw {
        let text = format!(r#"{{"command": "{command}", "machine": "A (b)", "date": "d", "report": {report}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rivals_and_ours_of_the_same_work_stand_together_with_the_limit() {
        let ours = r#"{"device": "gpu", "weight_bytes_per_token": 8, "kv_bytes_per_token": 2, "tokens_per_second": 5.0,
            "spread": [4.5, 5.5], "limit_bytes_per_second": 100.0, "share_of_limit": 0.5}"#;
        let rivals = r#"[{"name": "other", "work": "gpt2-f16", "tokens_per_second": 7.0, "spread": [6.0, 8.0]},
            {"name": "memory", "work": "bandwidth"}]"#;
        let files = [raw("syn1 bench decode --shape gpt2 --weights f16", ours), raw("other", rivals)];
        let (mut text, mut plots) = (String::new(), Vec::new());
        render(&files, &mut text, &mut plots).unwrap();
        assert_eq!(plots[0].0, "decode-a-b.svg");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("| gpt2-f16")).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("other") && lines[0].contains("6 to 8"), "{lines:?}");
        assert!(lines[1].contains("syn1 on gpu") && lines[1].contains("50 %"), "{lines:?}");
        assert!(lines[1].contains("4.5 to 5.5"), "{lines:?}");
        assert!(lines[2].contains("| 10 |"), "{lines:?}");
    }
}
