//! A coordinator that serves the bundled model, and native nodes beside it, for what is tried in a browser.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::browser::Page;
use crate::{built, root};

/// A running coordinator. Dropping it ends it.
pub(crate) struct Coordinator {
    child: Child,
    args: Vec<String>,
    said: Said,
    /// Its keys, and those of its nodes.
    folder: tempfile::TempDir,
}

/// Where it listens.
struct Said {
    scheme: &'static str,
    http: String,
    tcp: String,
}

impl Coordinator {
    /// Serves to exactly `nodes` nodes.
    pub(crate) fn start(nodes: usize) -> Result<Self> {
        Self::with(&["--nodes", &nodes.to_string()])
    }

    /// Serves with `more` options of `syn1 coordinator`. Weights are f16 and activations f32, so the text is that of one machine.
    pub(crate) fn with(more: &[&str]) -> Result<Self> {
        Self::of("models/tiny-rust-docs", more)
    }

    /// Serves the model in a folder.
    pub(crate) fn of(model: &str, more: &[&str]) -> Result<Self> {
        let always = ["--model", model, "--weights", "f16", "--wire", "f32"];
        let args: Vec<String> = always.iter().chain(more).map(|&arg| arg.to_owned()).collect();
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let (child, said) = spawn(&args, folder.path(), ["127.0.0.1:0"; 2])?;
        Ok(Self { child, args, said, folder })
    }

    /// Ends it and starts it anew where it was: the same addresses, the same keys.
    pub(crate) fn restart(&mut self) -> Result<()> {
        end(&mut self.child);
        (self.child, self.said) = spawn(&self.args, self.folder.path(), [&self.said.http, &self.said.tcp])?;
        Ok(())
    }

    /// The address of one of its paths.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.said.scheme, self.said.http)
    }

    /// `127.0.0.1:PORT` of its HTTP server.
    pub(crate) fn http(&self) -> &str {
        &self.said.http
    }

    /// A native node, by `tcp://`.
    pub(crate) fn native(&self, name: &str, device: &str) -> Result<Native> {
        self.native_with(name, device, &[])
    }

    /// The same with `more` options of `syn1 node`.
    pub(crate) fn native_with(&self, name: &str, device: &str, more: &[&str]) -> Result<Native> {
        self.native_by(&format!("tcp://{}", self.said.tcp), name, device, more)
    }

    /// The same by another of the coordinator's addresses.
    pub(crate) fn native_by<S: AsRef<OsStr>>(
        &self,
        join: &str,
        name: &str,
        device: &str,
        more: &[S],
    ) -> Result<Native> {
        let mut command = program()?;
        command.args(["node", "--quiet", "--join", join, "--name", name, "--device", device]).args(more);
        command.arg("--key").arg(self.folder.path().join(format!("{name}.key")));
        command.arg("--cache").arg(self.folder.path().join(format!("{name}.cache")));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run syn1")?;
        Ok(Native(child))
    }

    /// Waits, in a page of its own origin, until a token has passed through every layer.
    pub(crate) fn wait_ready(&self, page: &Page<'_>) -> Result<()> {
        page.wait_for("fetch('/ready').then(ready => ready.ok)", PATIENCE)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A native node. Dropping it ends it.
pub(crate) struct Native(Child);

impl Drop for Native {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(args: &[String], folder: &Path, [http, tcp]: [&str; 2]) -> Result<(Child, Said)> {
    let mut command = program()?;
    command.arg("coordinator").args(args).args(["--json", "--http", http, "--tcp", tcp]);
    command.env("SYN1_DATA", folder).env("SYN1_CACHE", folder.join("cache"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run syn1")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let Some(first) = lines.next().transpose()? else {
        let why = child.wait_with_output()?.stderr;
        bail!("the coordinator ended before it said where it listens: {}", String::from_utf8_lossy(&why));
    };
    let said: Value = serde_json::from_str(&first).with_context(|| format!("the coordinator said {first}"))?;
    let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {said}"));
    let scheme = if text("join")?.starts_with("https:") { "https" } else { "http" };
    let (http, tcp) = (text("http")?, text("tcp")?);
    // Nobody reads on, but full pipes would hold it up.
    thread::spawn(move || lines.for_each(drop));
    let news = child.stderr.take();
    thread::spawn(move || news.map(|mut news| std::io::copy(&mut news, &mut std::io::sink())));
    Ok((child, Said { scheme, http, tcp }))
}

/// `syn1` as cargo has built it.
fn program() -> Result<Command> {
    let mut command = Command::new(built::program()?);
    command.current_dir(root()?);
    Ok(command)
}

/// What transformers writes behind some prompts.
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
}

pub(crate) struct Case {
    prompt: String,
    text: String,
}

impl Golden {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string(root()?.join("models/tiny-rust-docs/golden.json"))?;
        let golden: Value = serde_json::from_str(&text)?;
        let case = |case: &Value| {
            let (prompt, whole) = case["prompt"].as_str().zip(case["text"].as_str())?;
            Some(Case { prompt: prompt.to_owned(), text: whole.strip_prefix(prompt)?.to_owned() })
        };
        let cases: Vec<Case> = golden["cases"].as_array().into_iter().flatten().filter_map(case).take(3).collect();
        ensure!(cases.len() == 3, "golden.json has {} cases with a text", cases.len());
        Ok(Self { cases })
    }
}

impl Case {
    /// Asks a coordinator from one of its pages, and compares.
    pub(crate) fn check(&self, page: &Page<'_>) -> Result<()> {
        let ask = json!({ "prompt": self.prompt, "max_tokens": 64, "sampling": { "temperature": 0 } });
        let answer = page.eval(&format!("{}.then(answer => answer.text())", asked(&ask)))?;
        let mut text = String::new();
        for line in answer.as_str().unwrap_or_default().lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("the answer was {answer}"))?;
            ensure!(line["failed"].is_null(), "after {:?} came {line}", self.prompt);
            text += line["token"]["text"].as_str().or(line["finished"]["text"].as_str()).unwrap_or_default();
        }
        ensure!(text == self.text, "after {:?} came {text:?}, transformers writes {:?}", self.prompt, self.text);
        Ok(())
    }
}

/// A script that asks for text, as `ask` says; it comes to the response.
pub(crate) fn asked(ask: &Value) -> String {
    let body = json!(ask.to_string());
    format!(
        "fetch('/api/generate', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, body: {body} }})"
    )
}

/// What is waited for is done in a few seconds; on two cores that build something else it may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
