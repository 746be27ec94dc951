//! syn1, as a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::entry::Compared;
use crate::form::Form;
use crate::greedy::Decoded;

/// The program, and a model that it has packed.
pub(crate) struct Syn1 {
    program: PathBuf,
    shards: PathBuf,
}

/// What `syn1 bench decode --json` says.
#[derive(Deserialize)]
pub(crate) struct Report {
    pub(crate) device: String,
    pub(crate) tokens_per_second: f64,
    pub(crate) read_bytes_per_second: f64,
    pub(crate) share_of_limit: f64,
}

/// What `syn1 bench golden --json` says.
#[derive(Deserialize)]
struct Golden {
    largest_logit_error: f64,
    arms: Vec<GoldenArm>,
}

#[derive(Deserialize)]
struct GoldenArm {
    tokens: usize,
    same: usize,
}

impl Syn1 {
    /// Packs the Hugging Face folder `model` into `shards`, every weight rounded to the nearest.
    pub(crate) fn split(program: &Path, model: &Path, form: Form, shards: &Path) -> Result<Self> {
        let split = Self { program: program.to_owned(), shards: shards.to_owned() };
        let mut command = split.command(&["split", "--calibrate", "none", "--weights", form.name()]);
        command.arg("--model").arg(model).arg("--out").arg(shards).stdout(Stdio::null());
        let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
        if !status.success() {
            bail!("syn1 split ended with {status}");
        }
        Ok(split)
    }

    /// One run (and one that warms up) in a process of its own.
    pub(crate) fn decode(&self, prompt: usize, tokens: usize, threads: usize) -> Result<Report> {
        let [prompt, tokens, threads] = [prompt, tokens, threads].map(|count| count.to_string());
        let mut command =
            self.command(&["bench", "decode", "--device", "cpu", "--nodes", "0", "--runs", "1", "--json"]);
        command
            .args(["--prompt", &prompt, "--tokens", &tokens, "--threads", &threads])
            .arg("--model")
            .arg(&self.shards);
        answer(command)
    }

    /// How far syn1's own logits and ids are those that a rival gave.
    pub(crate) fn compare(&self, prompt: &[u32], decoded: &Decoded, scratch: &Path) -> Result<Compared> {
        let mut by_logit: Vec<(usize, f32)> = decoded.logits.iter().copied().enumerate().collect();
        by_logit.sort_by(|a, b| b.1.total_cmp(&a.1));
        by_logit.truncate(10);
        let case = json!({
            "ids": prompt,
            "last_logits_top": by_logit,
            "last_logits_first16": decoded.logits.get(..16),
            "greedy_64": decoded.ids.get(..64),
        });
        let path = scratch.join("golden.json");
        fs::write(&path, json!({ "cases": [case] }).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = self.command(&["bench", "golden", "--device", "cpu", "--nodes", "1", "--json"]);
        // It reports ids that differ, and then counts them as a failure.
        command.stderr(Stdio::null()).arg("--golden").arg(&path).arg("--model").arg(&self.shards);
        let golden: Golden = answer(command)?;
        let arm = golden.arms.first().context("syn1 bench golden compared nothing")?;
        Ok(Compared { same_ids: arm.same, of_ids: arm.tokens, largest_logit_difference: golden.largest_logit_error })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command
    }
}

/// The JSON that a command prints.
fn answer<T: DeserializeOwned>(mut command: Command) -> Result<T> {
    let output = command.stdout(Stdio::piped()).spawn().and_then(|child| child.wait_with_output());
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{command:?} ended with {} and printed no report", output.status))
}
