//! The files below `docs/benchmarks/raw`: what commands printed, and where.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A file: the JSON that a command printed, with the command, the machine and the day.
#[derive(Deserialize)]
pub(super) struct Raw {
    /// The file's name without its ending.
    #[serde(skip)]
    pub(super) stem: String,
    pub(super) command: String,
    pub(super) machine: String,
    pub(super) date: String,
    pub(super) report: Report,
}

/// What the benchmarks print.
///
/// A report does not say which it is: a file is taken for the first of these whose fields it has, and fields that it has
/// besides are passed over. So one whose fields are among another one's stands behind that, and a new one is tried with all
/// raw files (`cargo xtask benchmarks --check`).
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Report {
    /// `syn1 bench fairness --json`
    Fairness(Fairness),
    /// `syn1 bench fusion --json`
    Fusion(Fusion),
    /// `syn1 bench decode --json`
    Decode(Decode),
    /// `syn1 bench ops --json`
    Ops(Ops),
    /// `syn1 bench kernels --json`
    Kernels(Kernels),
    /// `syn1 bench idle --json`
    Idle(Idle),
    /// `syn1 bench relay --json`
    Relay(Relay),
    /// `syn1 bench pipeline --json`
    Pipeline(Pipeline),
    /// `syn1 bench recovery --json`
    Recovery(Recovery),
    /// `syn1 bench streams --json`
    Streams(Streams),
    /// `cargo xtask tabs --bench`
    Tabs(Tabs),
    /// `syn1 bench checks --json`
    Checks(Checks),
    /// `syn1 bench kernels --loop --json`
    LoopParts(LoopParts),
    /// What other programs reach at the same work.
    Rivals(Vec<Rival>),
}

#[derive(Deserialize)]
pub(super) struct Checks {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) device: String,
    pub(super) checker_device: String,
    pub(super) caught: Vec<Caught>,
    pub(super) honest: Vec<Honest>,
    pub(super) time: CheckTime,
}

#[derive(Deserialize)]
pub(super) struct Caught {
    pub(super) garbage: String,
    pub(super) trials: usize,
    pub(super) within_64: usize,
    pub(super) tokens_p50: usize,
    pub(super) tokens_max: usize,
    pub(super) right_texts: usize,
}

#[derive(Deserialize)]
pub(super) struct Honest {
    pub(super) wire: String,
    pub(super) rows: u64,
    pub(super) alarms: u64,
    pub(super) worst: f64,
}

#[derive(Deserialize)]
pub(super) struct CheckTime {
    pub(super) coordinator_us: f64,
    pub(super) engines_us: f64,
    pub(super) checked_coordinator_us: f64,
    pub(super) added_share: f64,
    pub(super) checkers_share: f64,
}

#[derive(Deserialize)]
pub(super) struct Fairness {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) long_prompt: usize,
    pub(super) swarms: Vec<FairSwarm>,
}

#[derive(Deserialize)]
pub(super) struct FairSwarm {
    pub(super) nodes: usize,
    pub(super) alone: PerToken,
    pub(super) beside: PerToken,
    pub(super) p50_ratio: f64,
    pub(super) p95_ratio: f64,
    pub(super) first_token_alone_ms: f64,
    pub(super) first_token_beside_ms: f64,
    pub(super) second_turn_computed_ms: f64,
    pub(super) second_turn_kept_ms: f64,
}

#[derive(Deserialize)]
pub(super) struct PerToken {
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
}

#[derive(Deserialize)]
pub(super) struct Fusion {
    pub(super) device: String,
    pub(super) subgroups: bool,
    pub(super) shapes: Vec<FusionShape>,
}

#[derive(Deserialize)]
pub(super) struct FusionShape {
    pub(super) shape: Shape,
    pub(super) weight_bytes: u64,
    pub(super) arms: Vec<FusionArm>,
}

#[derive(Deserialize)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
}

#[derive(Deserialize)]
pub(super) struct FusionArm {
    pub(super) name: String,
    pub(super) figures: Option<Figures>,
    pub(super) left_out: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Figures {
    pub(super) max_error: f64,
    pub(super) sizes: Option<String>,
    pub(super) dispatches: usize,
    pub(super) submits: usize,
    pub(super) runs: usize,
    pub(super) median_ms: f64,
    pub(super) min_ms: f64,
    pub(super) max_ms: f64,
    pub(super) tokens_per_second: f64,
    pub(super) weight_bytes_per_second: f64,
    pub(super) of_per_op: Option<f64>,
    pub(super) of_recompute: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Decode {
    pub(super) device: String,
    pub(super) weight_bytes_per_token: u64,
    pub(super) kv_bytes_per_token: u64,
    pub(super) tokens_per_second: f64,
    /// Of the slowest and the fastest run; reports from before it was told have none.
    #[serde(default)]
    pub(super) spread: Option<[f64; 2]>,
    pub(super) limit_bytes_per_second: f64,
    pub(super) share_of_limit: f64,
    /// Reports from before there was a choice have none.
    #[serde(default)]
    pub(super) in_one_dispatch: bool,
}

#[derive(Deserialize)]
pub(super) struct Ops {
    pub(super) device: String,
    pub(super) model: String,
    pub(super) arms: Vec<OpsArm>,
}

#[derive(Deserialize)]
pub(super) struct OpsArm {
    pub(super) name: String,
    /// None of an arm that does not say.
    pub(super) dispatches_per_token: Option<usize>,
    pub(super) submits_per_token: Option<f64>,
    pub(super) tokens_per_second: f64,
    pub(super) of_first: f64,
}

#[derive(Deserialize)]
pub(super) struct Kernels {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) device: String,
    pub(super) position: usize,
    pub(super) limit_bytes_per_second: f64,
    pub(super) ops: Vec<KernelsOp>,
    pub(super) dispatches: usize,
    pub(super) sum_us: f64,
    pub(super) token_us: f64,
}

#[derive(Deserialize)]
pub(super) struct KernelsOp {
    pub(super) op: String,
    pub(super) ops: usize,
    pub(super) dispatches: usize,
    pub(super) us: f64,
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
pub(super) struct Idle {
    pub(super) nodes: f64,
    pub(super) joined_in_seconds: f64,
    pub(super) resident_bytes_per_node: f64,
    pub(super) cpu_share: f64,
    pub(super) cpu_us_per_node_and_second: f64,
}

#[derive(Deserialize)]
pub(super) struct Relay {
    pub(super) nodes: usize,
    pub(super) streams: usize,
    pub(super) width: usize,
    pub(super) frames_per_second: f64,
    pub(super) cpu_share: f64,
    pub(super) frames_per_cpu_second: f64,
    pub(super) us_per_frame: f64,
}

#[derive(Deserialize)]
pub(super) struct Recovery {
    pub(super) arms: Vec<RecoveryArm>,
}

#[derive(Deserialize)]
pub(super) struct RecoveryArm {
    pub(super) arm: String,
    pub(super) kills: usize,
    pub(super) texts: usize,
    pub(super) pause_p50_ms: f64,
    pub(super) pause_p95_ms: f64,
    pub(super) pause_max_ms: f64,
    pub(super) tokens: usize,
    pub(super) lost_tokens: usize,
}

#[derive(Deserialize)]
pub(super) struct Streams {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) device: String,
    pub(super) limit_bytes_per_second: f64,
    pub(super) arms: Vec<StreamsArm>,
}

#[derive(Deserialize)]
pub(super) struct StreamsArm {
    pub(super) nodes: usize,
    pub(super) streams: u16,
    pub(super) tokens_per_second: f64,
    pub(super) of_one_stream: Option<f64>,
    pub(super) longest_gap_ms: f64,
    pub(super) coordinator_us_per_token: f64,
    pub(super) bound_tokens_per_second: f64,
}

#[derive(Deserialize)]
pub(super) struct Tabs {
    pub(super) model: String,
    pub(super) tokens: usize,
    pub(super) runs: usize,
    pub(super) hops: Vec<Hop>,
}

#[derive(Deserialize)]
pub(super) struct Hop {
    pub(super) name: String,
    pub(super) tokens_per_second: f64,
    pub(super) answer_us: f64,
    pub(super) compute_us: f64,
    pub(super) above_us: f64,
}

#[derive(Deserialize)]
pub(super) struct LoopParts {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) device: String,
    pub(super) position: usize,
    pub(super) limit_bytes_per_second: f64,
    pub(super) parts: Vec<LoopPart>,
    pub(super) exchanges: usize,
    pub(super) exchange_us: f64,
    pub(super) unwaited_exchange_us: f64,
    pub(super) unwaited_us: f64,
    pub(super) token_us: f64,
}

#[derive(Deserialize)]
pub(super) struct LoopPart {
    pub(super) op: String,
    pub(super) ops: usize,
    pub(super) us: f64,
    pub(super) bytes: u64,
    pub(super) limit_us: f64,
}

#[derive(Deserialize)]
pub(super) struct Pipeline {
    pub(super) model: String,
    pub(super) weights: String,
    pub(super) wire: String,
    pub(super) stages: usize,
    pub(super) threads: Option<usize>,
    pub(super) round_trip_ms: f64,
    pub(super) up_mbit_per_s: Option<f64>,
    pub(super) predicted_first_ms: f64,
    pub(super) off_first: Option<f64>,
    pub(super) off: Option<f64>,
    pub(super) arms: Vec<PipelineArm>,
}

#[derive(Deserialize)]
pub(super) struct PipelineArm {
    pub(super) streams: usize,
    pub(super) tokens_per_second: f64,
    pub(super) of_one: f64,
    pub(super) token_ms: f64,
    pub(super) compute_ms: f64,
    pub(super) link_ms: f64,
    pub(super) added_ms_per_hop: Option<f64>,
    pub(super) not_compute: Option<f64>,
    pub(super) bound_tokens_per_second: f64,
    pub(super) bound_by: String,
}

#[derive(Deserialize)]
pub(super) struct Rival {
    pub(super) name: String,
    pub(super) work: String,
    /// Without it, this is no figure of speed in tokens.
    pub(super) tokens_per_second: Option<f64>,
    /// Lowest and highest of the runs.
    pub(super) spread: Option<[f64; 2]>,
}

/// The files of a folder in the order of their names.
pub(super) fn read(folder: &Path) -> Result<Vec<Raw>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut raw: Raw = parse(&text).with_context(|| path.display().to_string())?;
        raw.stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        files.push(raw);
    }
    Ok(files)
}

pub(super) fn parse(text: &str) -> Result<Raw> {
    let raw: Raw = serde_json::from_str(text)
        .context("not {\"command\", \"machine\", \"date\", \"report\"} around what a benchmark prints with --json")?;
    if raw.command.is_empty() || raw.machine.is_empty() || raw.date.is_empty() {
        bail!("command, machine and date must say how the report came about");
    }
    Ok(raw)
}

impl Raw {
    /// The name that rivals have for the work of a `syn1 bench decode`: shape and weights, and the prompt if it is long.
    pub(super) fn work(&self) -> Result<String> {
        let shape = self.option("--shape").with_context(|| format!("{}: a decode without --shape", self.stem))?;
        let weights = self.option("--weights").unwrap_or("f16");
        let mut work = match shape.strip_prefix("tiny-") {
            Some(width) => format!("toy-{width}"),
            None => format!("{}-{weights}", if shape == "llama1b" { "llama-1b" } else { shape }),
        };
        if let Some(prompt) = self.option("--prompt").filter(|prompt| prompt.len() > 2) {
            work += &format!("-{prompt}");
        }
        Ok(work)
    }

    fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.command.split_whitespace();
        words.find(|word| *word == name).and_then(|_| words.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECODE: &str = r#"{"device": "d", "weight_bytes_per_token": 8, "kv_bytes_per_token": 2,
        "tokens_per_second": 5.0, "limit_bytes_per_second": 100.0, "share_of_limit": 0.5}"#;

    fn raw(command: &str, report: &str) -> Result<Raw> {
        parse(&format!(r#"{{"command": "{command}", "machine": "m", "date": "2026-11-21", "report": {report}}}"#))
    }

    #[test]
    fn a_report_is_known_by_what_it_holds() {
        assert!(matches!(raw("c", DECODE).unwrap().report, Report::Decode(_)));
        let rivals = r#"[{"name": "n", "work": "w", "tokens_per_second": 1.0, "runs": 3}]"#;
        assert!(matches!(raw("c", rivals).unwrap().report, Report::Rivals(list) if list.len() == 1));
        let kernels = r#"{"model": "m", "weights": "f16", "device": "d", "position": 1, "limit_bytes_per_second": 9.0,
            "ops": [{"op": "qkv", "ops": 2, "dispatches": 2, "us": 1.0, "bytes": 3}], "dispatches": 2, "sum_us": 1.0,
            "token_us": 1.5}"#;
        assert!(matches!(raw("c", kernels).unwrap().report, Report::Kernels(report) if report.ops.len() == 1));
        let parts = r#"{"model": "m", "weights": "f16", "device": "d", "position": 1, "limit_bytes_per_second": 9.0,
            "parts": [{"op": "qkv", "ops": 2, "us": 1.0, "bytes": 3, "limit_us": 0.5}], "exchanges": 12,
            "exchange_us": 2.0, "unwaited_exchange_us": 1.5, "unwaited_us": 2.0, "token_us": 3.0}"#;
        assert!(matches!(raw("c", parts).unwrap().report, Report::LoopParts(report) if report.exchanges == 12));
        let pipeline = r#"{"model": "m", "weights": "f16", "wire": "q8", "stages": 2, "threads": null, "round_trip_ms": 20.0,
            "up_mbit_per_s": null, "predicted_first_ms": 4.0, "off_first": 0.1, "off": 0.2, "arms": []}"#;
        assert!(matches!(raw("c", pipeline).unwrap().report, Report::Pipeline(report) if report.stages == 2));
        assert!(raw("c", r#"{"something": 1}"#).is_err());
        assert!(raw("", DECODE).is_err());
    }

    #[test]
    fn the_work_follows_from_the_command() {
        let work = |command: &str| raw(command, DECODE).unwrap().work().unwrap();
        assert_eq!(work("syn1 bench decode --shape gpt2 --weights f16 --json"), "gpt2-f16");
        assert_eq!(work("syn1 bench decode --shape llama1b --weights int8"), "llama-1b-int8");
        assert_eq!(work("syn1 bench decode --weights f32 --shape tiny-32"), "toy-32");
        assert_eq!(work("syn1 bench decode --shape gpt2 --prompt 1000"), "gpt2-f16-1000");
        assert!(raw("syn1 bench decode", DECODE).unwrap().work().is_err());
    }
}
