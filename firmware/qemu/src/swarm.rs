//! The program `syn1` as its users start it: a coordinator, native nodes, a bridge.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use syn1_node_micro::flash;
use tempfile::TempDir;

use crate::until;

/// The built program, with a home of its own.
pub(crate) struct Program {
    path: PathBuf,
    repository: PathBuf,
    home: TempDir,
}

/// The bundled model, split.
pub(crate) struct Model {
    folder: PathBuf,
}

/// A coordinator and native nodes. Dropping it ends them all.
pub(crate) struct Swarm {
    pub(crate) tcp: SocketAddr,
    http: SocketAddr,
    _running: Vec<Running>,
}

/// A started program; dropping it is `kill -9`.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a program that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    pub(crate) fn new(path: PathBuf, repository: PathBuf) -> Result<Self> {
        Ok(Self { path, repository, home: tempfile::tempdir()? })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(&self.repository).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("SYN1_CACHE", self.home.path()).env("SYN1_DATA", self.home.path());
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().with_context(|| format!("cannot run {}", self.path.display()))?;
        ensure!(output.status.success(), "syn1 {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A folder for this run alone.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Splits the bundled model into int8 pieces.
    pub(crate) fn split(&self) -> Result<Model> {
        let folder = self.home.path().join("int8");
        self.run(&["split", "--model", MODEL, "--out", &folder.to_string_lossy(), "--weights", "int8"])?;
        Ok(Model { folder })
    }

    /// The ids that the whole model gives on one node.
    pub(crate) fn generate(&self) -> Result<Vec<u64>> {
        let tokens = TOKENS.to_string();
        let args = ["generate", PROMPT, "--model", MODEL, "--weights", "int8", "--device", "cpu", "--temperature", "0"];
        let said = self.run(&[&args[..], &["--max-tokens", &tokens, "--json"]].concat())?;
        let answer: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        let ids = answer["ids"].as_array().context("no ids")?.iter().filter_map(Value::as_u64).collect();
        Ok(ids)
    }

    /// Carries a serial line to a coordinator.
    pub(crate) fn bridge(&self, line: PathBuf, coordinator: SocketAddr) -> Result<Running> {
        let join = format!("tcp://{coordinator}");
        let mut command = self.command(&["bridge", "--serial", &line.to_string_lossy(), "--join", &join, "--quiet"]);
        Ok(Running(command.spawn()?))
    }
}

impl Model {
    /// The bytes that a board without a network has in its flash: the manifest and a block from the middle of the model.
    pub(crate) fn store(&self) -> Result<Vec<u8>> {
        let manifest = fs::read(self.folder.join("syn1.json"))?;
        let listed: Value = serde_json::from_slice(&manifest)?;
        let mut store = Vec::new();
        let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
            store.extend(flash::head(name, bytes.len()).context("a file too large for a store")?);
            store.extend(name.as_bytes());
            store.extend(bytes);
            Ok(())
        };
        put("manifest.json", &manifest)?;
        for piece in listed["pieces"].as_array().context("no pieces")? {
            let name = piece["name"].as_str().unwrap_or_default();
            // Those that a board between two native nodes may get, as many as its flash holds.
            if ["block.3", "block.4"].contains(&name) {
                let hash = piece["sha256"].as_str().context("a piece without a hash")?;
                put(hash, &fs::read(self.folder.join(format!("{hash}.bin")))?)?;
            }
        }
        store.push(0);
        Ok(store)
    }

    fn path(&self) -> &Path {
        &self.folder
    }
}

impl Swarm {
    /// A coordinator that waits for one node more than those that join it now, which compute on these devices. All of them
    /// together have no room for one of the model's layers.
    pub(crate) fn start(program: &Program, model: &Model, devices: [&str; 2]) -> Result<Self> {
        let (nodes, folder) = ((devices.len() + 1).to_string(), model.path().to_string_lossy().into_owned());
        let anywhere = ["--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let args = ["coordinator", "--model", &folder, "--nodes", &nodes, "--slots", "1", "--wire", "f32", "--json"];
        let mut coordinator = program.command(&[&args[..], &anywhere].concat()).spawn()?;
        let mut said = BufReader::new(coordinator.stdout.take().context("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        // Whoever reads nothing more of it would stop it in the end.
        std::thread::spawn(move || said.lines().count());
        let mut running = vec![Running(coordinator)];
        let addresses: Value = serde_json::from_str(&line).with_context(|| format!("the coordinator said {line:?}"))?;
        let address =
            |name: &str| -> Result<SocketAddr> { Ok(addresses[name].as_str().context("no address")?.parse()?) };
        let (tcp, http) = (address("tcp")?, address("http")?);
        for (index, (device, memory)) in devices.into_iter().zip(MEMORY_MB).enumerate() {
            let name = format!("native-{index}");
            let (join, key) = (format!("tcp://{tcp}"), program.home.path().join(&name));
            let key = key.to_string_lossy();
            let args = ["node", "--join", &join, "--device", device, "--threads", "1", "--no-tune", "--name", &name];
            let more = ["--key", &key, "--shards", &folder, "--memory", memory, "--quiet"];
            running.push(Running(program.command(&[&args[..], &more].concat()).spawn()?));
        }
        Ok(Self { tcp, http, _running: running })
    }

    /// Waits until the chain is ready.
    pub(crate) fn ready(&self) -> Result<()> {
        let ready = || Ok(self.topology().ok().filter(|topology| topology["ready"] == true));
        let waited = until("the chain is ready", PATIENCE, ready);
        waited.map(drop).with_context(|| format!("the swarm: {:?}", self.topology()))
    }

    /// Nodes that the coordinator has lost while they held layers.
    pub(crate) fn losses(&self) -> Result<u64> {
        let text = ureq::get(format!("http://{}/metrics", self.http)).call()?.body_mut().read_to_string()?;
        let count = text.lines().find_map(|line| line.strip_prefix("syn1_losses_total "));
        count.context("the coordinator counts no losses")?.parse().context("its count is no number")
    }

    /// For each token of the same request: the log-probability that it had, and by how much more likely it was than the
    /// second one.
    pub(crate) fn margins(&self) -> Result<Vec<(f64, f64)>> {
        let ask = json!({ "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0.0, "logprobs": 2 });
        let request =
            ureq::post(format!("http://{}/v1/completions", self.http)).header("content-type", "application/json");
        let said: Value = serde_json::from_str(&request.send(ask.to_string())?.body_mut().read_to_string()?)?;
        let told = &said["choices"][0]["logprobs"];
        let tokens = told["top_logprobs"].as_array().with_context(|| format!("no log-probabilities: {said}"))?;
        let margin = |likeliest: &Value| -> Option<(f64, f64)> {
            let mut likeliest: Vec<f64> = likeliest.as_object()?.values().filter_map(Value::as_f64).collect();
            likeliest.sort_by(f64::total_cmp);
            let first = likeliest.pop()?;
            Some((first, first - likeliest.pop()?))
        };
        tokens.iter().map(|token| margin(token).context("a token without a second one")).collect()
    }

    fn topology(&self) -> Result<Value> {
        let text = ureq::get(format!("http://{}/api/topology", self.http)).call()?.body_mut().read_to_string()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The ids that a ready chain gives.
    pub(crate) fn ask(&self) -> Result<Vec<u64>> {
        self.ready()?;
        self.try_ask()?.map_err(|why| anyhow!("the request failed: {why}"))
    }

    /// The ids, or why the request failed.
    pub(crate) fn try_ask(&self) -> Result<Result<Vec<u64>, String>> {
        let ask = json!({ "prompt": PROMPT, "max_tokens": TOKENS, "sampling": { "temperature": 0.0 } });
        let request =
            ureq::post(format!("http://{}/api/generate", self.http)).header("content-type", "application/json");
        let said = request.send(ask.to_string())?.body_mut().read_to_string()?;
        let mut ids = Vec::new();
        for line in said.lines() {
            let line: Value = serde_json::from_str(line)?;
            if let Some(id) = line["token"]["id"].as_u64() {
                ids.push(id);
            } else if let Some(why) = line["failed"]["error"].as_str().or(line["error"].as_str()) {
                return Ok(Err(why.to_owned()));
            } else if line["finished"].is_object() {
                return Ok(Ok(ids));
            }
        }
        Ok(Err(format!("the answer has no end: {said}")))
    }
}

const MODEL: &str = "models/tiny-rust-docs";
/// Of the model's eval.txt, where it is sure of what follows: the closest of its decisions has 0.15 to spare.
const PROMPT: &str = "A variable was used after its contents have been moved elsewhere.\n\nErroneous code example:\n\n\
                      ```compile_fail,E0382\nstruct MyStruct { s: u32 }\n\nfn main() {\n    le";
const TOKENS: u32 = 48;

/// What two nodes offer: four layers of the eight and the head, and three layers and the embedding, or the other way round.
const MEMORY_MB: [&str; 2] = ["7", "6"];

/// Far beyond what anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
