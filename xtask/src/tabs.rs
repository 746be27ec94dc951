//! Browser tabs as nodes, in headless Chromium with WebGPU on the CPU: each property with a real coordinator, real tabs and,
//! where it says so, native nodes beside them. The text must be the one that transformers gives.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::browser::{Browser, Gpu, Page, View};
use crate::{cargo, root, setup, web};

/// Builds what is needed and goes through all of it. Says whether there was a browser.
pub(crate) fn test() -> Result<bool> {
    if !setup::chromium()? {
        return Ok(false);
    }
    web::build()?;
    cargo(&["build", "--quiet", "--workspace", "--bin", "syn1"])?;
    let vulkan = setup::software_vulkan()?;
    let with_gpu = Browser::start(Gpu::Software)?;
    let golden = Golden::read()?;
    every_kernel(&with_gpu)?;
    two_tabs(&with_gpu, &golden)?;
    loaded_again(&with_gpu, &golden)?;
    beside_native_nodes(&with_gpu, &golden, vulkan)?;
    join_codes(&with_gpu)?;
    speeds(&with_gpu, vulkan)?;
    drop(with_gpu);
    without_webgpu(&golden)?;
    Ok(true)
}

/// The browser's shader compiler takes the kernels for many rows, too, and what they compute is what the CPU computes: the
/// benchmark tests that before it measures.
fn every_kernel(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
    let options = json!({ "shape": "tiny", "device": "gpu", "tiles": true, "tokens": 16, "prompt": 40, "runs": 1 });
    page.eval(&format!(
        "import('/web/syn1.js').then(({{ bench }}) => bench({options})).catch(String).then(r => {{ globalThis.report = r }}), 0"
    ))?;
    page.wait_for("globalThis.report !== undefined", PATIENCE)?;
    let report = page.eval("report")?;
    ensure!(report["tokens_per_second"].as_f64().is_some_and(|pace| pace > 0.0), "the benchmark: {report}");
    println!("every kernel runs in the browser: {report}");
    page.close()
}

/// Two tabs, a part of the layers each, and a third page that asks; then one is closed, and the other takes over.
fn two_tabs(browser: &Browser, golden: &Golden) -> Result<()> {
    let coordinator = Coordinator::start(2)?;
    let (one, two) = (coordinator.tab(browser, "tab-1", "gpu")?, coordinator.tab(browser, "tab-2", "gpu")?);
    let first = [ready(&one)?, ready(&two)?];
    ensure!(first.iter().all(|ready| fetched(ready) > 0), "nothing was fetched: {first:?}");
    let asking = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
    coordinator.wait_ready(&asking)?;
    for case in &golden.cases {
        case.check(&asking)?;
    }
    let passed = one.eval("events.filter(e => e.event === 'selftest').map(e => e.passed)")?;
    ensure!(passed == json!([true]), "the GPU's self-test: {passed}");
    println!("two tabs give the golden text; a step takes {} us in each", steps(&one)?);

    two.close()?;
    asking.wait_for(
        "fetch('/api/topology').then(t => t.json()).then(t => t.ready && t.nodes.map(n => n.name).join() === 'tab-1')",
        PATIENCE,
    )?;
    golden.cases[0].check(&asking)?;
    println!("the layers of a closed tab have moved to the other");
    one.eval("node.stop()")?;
    ensure!(one.eval("events.at(-1).event")? == json!("stopped"), "a node that was stopped does not say so");
    asking.wait_for("fetch('/api/topology').then(t => t.json()).then(t => t.nodes.length === 0)", PATIENCE)?;
    one.close()?;
    asking.close()
}

/// A tab that is loaded again serves again from what the browser has kept.
fn loaded_again(browser: &Browser, golden: &Golden) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let tab = coordinator.tab(browser, "tab", "gpu")?;
    let first = ready(&tab)?;
    ensure!(fetched(&first) > 0, "nothing was fetched at the first visit: {first}");
    tab.reload()?;
    begin(&tab, &json!({ "name": "tab", "device": "gpu" }))?;
    let again = ready(&tab)?;
    ensure!(fetched(&again) == 0, "a tab that was loaded again has fetched its layers anew: {again}");
    coordinator.wait_ready(&tab)?;
    golden.cases[0].check(&tab)?;
    println!("a tab that was loaded again serves without fetching a byte");
    tab.close()
}

/// A tab and a native node, on the CPU and on software Vulkan.
fn beside_native_nodes(browser: &Browser, golden: &Golden, vulkan: bool) -> Result<()> {
    for device in ["cpu", "llvmpipe"].into_iter().filter(|device| vulkan || *device == "cpu") {
        let coordinator = Coordinator::start(2)?;
        let _native = coordinator.native(device)?;
        let tab = coordinator.tab(browser, "tab", "gpu")?;
        ready(&tab)?;
        let asking = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
        coordinator.wait_ready(&asking)?;
        golden.cases[1].check(&asking)?;
        println!("a tab and a native node on {device} give the golden text");
        tab.close()?;
        asking.close()?;
    }
    Ok(())
}

/// Tokens a second of the whole model on one node, in the browser and natively; printed.
fn speeds(browser: &Browser, vulkan: bool) -> Result<()> {
    let asking = "fetch('/api/generate', { method: 'POST', headers: { 'content-type': 'application/json' }, \
                  body: JSON.stringify({ prompt: 'A lifetime', max_tokens: 64, ignore_eos: true, \
                  sampling: { temperature: 0 } }) }).then(a => a.text()).then(t => \
                  JSON.parse(t.trim().split('\\n').at(-1)).finished.tokens_per_second)";
    for device in ["cpu", "gpu"] {
        let coordinator = Coordinator::start(1)?;
        let tab = coordinator.tab(browser, "tab", device)?;
        ready(&tab)?;
        coordinator.wait_ready(&tab)?;
        tab.eval(asking)?;
        let pace = tab.eval(asking)?.as_f64().unwrap_or(f64::NAN);
        println!("one tab on its {device}: {pace:.0} tokens/s, {} us from a frame in to its answer out", steps(&tab)?);
        tab.close()?;
    }
    for device in ["cpu", "llvmpipe"].into_iter().filter(|device| vulkan || *device == "cpu") {
        let coordinator = Coordinator::start(1)?;
        let _native = coordinator.native(device)?;
        let page = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
        coordinator.wait_ready(&page)?;
        page.eval(asking)?;
        let pace = page.eval(asking)?.as_f64().unwrap_or(f64::NAN);
        println!("one native node on {device}: {pace:.0} tokens/s");
        page.close()?;
    }
    Ok(())
}

/// A browser that has no WebGPU says so, and its CPU computes right.
fn without_webgpu(golden: &Golden) -> Result<()> {
    let browser = Browser::start(Gpu::None)?;
    let coordinator = Coordinator::start(1)?;
    let tab = coordinator.tab(&browser, "tab", "auto")?;
    ready(&tab)?;
    coordinator.wait_ready(&tab)?;
    golden.cases[0].check(&tab)?;
    let support = tab.eval("events.find(e => e.event === 'support')")?;
    ensure!(support["webgpu"] == json!(false) && support["reason"].is_string(), "support: {support}");
    let device = tab.eval("events.find(e => e.event === 'device').text")?;
    ensure!(device.as_str().is_some_and(|text| text.contains("computing on the CPU")), "device: {device}");
    println!("without WebGPU: {device}, and the text is right");
    Ok(())
}

/// A tab without the join code is refused with a sentence that names it, and one with it serves.
fn join_codes(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::with_code(1, "RIVERLAMP")?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    for code in [Value::Null, json!("RIVERBANK")] {
        begin(&page, &json!({ "name": "tab", "device": "cpu", "code": code }))?;
        page.wait_for("events.at(-1)?.event === 'stopped'", PATIENCE)?;
        let stopped = page.eval("events.at(-1)")?;
        let named = stopped["cause"].as_str().is_some_and(|cause| cause.contains("code"));
        ensure!(stopped["error"] == json!(true) && named, "with the code {code}: {stopped}");
        println!("with the code {code}: {}", stopped["cause"]);
    }
    begin(&page, &json!({ "name": "tab", "device": "cpu", "code": "RIVERLAMP" }))?;
    ready(&page)?;
    page.close()
}

/// Makes a page a node; its events go to `events`.
fn begin(page: &Page<'_>, options: &Value) -> Result<()> {
    let script = format!(
        "import('/web/syn1.js').then(({{ SynNode }}) => {{ globalThis.events = []; globalThis.node = new \
         SynNode({options}); node.onevent = (e) => events.push(e); node.start(); }})"
    );
    page.eval(&script).map(drop)
}

/// What a tab's node said when it was ready.
fn ready(tab: &Page<'_>) -> Result<Value> {
    let ended = "events.some(e => e.event === 'ready' || e.event === 'stopped' || e.event === 'unable')";
    let waited = tab.wait_for(ended, PATIENCE);
    let events = tab.eval("events.filter(e => e.event !== 'loading')")?;
    waited.with_context(|| format!("the tab's events: {events}"))?;
    let ready = tab.eval("events.find(e => e.event === 'ready') ?? null")?;
    ensure!(ready.is_object(), "the tab does not serve: {events}; console: {}", tab.console().join("\n"));
    Ok(ready)
}

fn fetched(ready: &Value) -> u64 {
    ready["fetched_bytes"].as_u64().unwrap_or(u64::MAX)
}

/// Microseconds from a frame in to its answer out, as the tab told last.
fn steps(tab: &Page<'_>) -> Result<Value> {
    tab.wait_for("events.some(e => e.event === 'tokens' && e.frames > 0)", PATIENCE)?;
    tab.eval("events.findLast(e => e.event === 'tokens').us_per_frame")
}

/// A coordinator on ports of its own; it ends when this goes.
struct Coordinator {
    child: Child,
    http: String,
    tcp: String,
    folder: tempfile::TempDir,
}

impl Coordinator {
    /// Serves the bundled model to exactly `nodes` nodes.
    fn start(nodes: usize) -> Result<Self> {
        Self::with_code(nodes, "none")
    }

    /// The same to those that know a code.
    fn with_code(nodes: usize, code: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let mut command = program()?;
        command.args([
            "coordinator",
            "--model",
            "models/tiny-rust-docs",
            "--weights",
            "f16",
            "--wire",
            "f32",
            "--json",
        ]);
        command.args(["--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--nodes", &nodes.to_string(), "--key"]);
        command.arg(folder.path().join("coordinator.key")).args(["--join-code", code]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot run syn1")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let first = lines.next().transpose()?.context("the coordinator ended before it said where it listens")?;
        let said: Value = serde_json::from_str(&first).with_context(|| format!("the coordinator said {first}"))?;
        let address =
            |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {said}"));
        let (http, tcp) = (address("http")?, address("tcp")?);
        // Nobody reads on, but a full pipe would hold it up.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, http, tcp, folder })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// A tab that has begun to be a node.
    fn tab<'a>(&self, browser: &'a Browser, name: &str, device: &str) -> Result<Page<'a>> {
        let page = browser.open(&self.url("/health"), View::PHONE)?;
        begin(&page, &json!({ "name": name, "device": device }))?;
        Ok(page)
    }

    /// A native node.
    fn native(&self, device: &str) -> Result<Native> {
        let mut command = program()?;
        command.args(["node", "--quiet", "--name", "native", "--device", device]);
        command.args(["--join", &format!("tcp://{}", self.tcp)]);
        command.arg("--key").arg(self.folder.path().join("node.key"));
        command.arg("--cache").arg(self.folder.path().join("cache"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run syn1")?;
        Ok(Native(child))
    }

    fn wait_ready(&self, page: &Page<'_>) -> Result<()> {
        page.wait_for("fetch('/ready').then(ready => ready.ok)", PATIENCE)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Native(Child);

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `syn1` as cargo has built it.
fn program() -> Result<Command> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from);
    let mut command = Command::new(target.join("debug").join("syn1"));
    command.current_dir(root()?);
    Ok(command)
}

/// What transformers writes behind some prompts.
struct Golden {
    cases: Vec<Case>,
}

struct Case {
    prompt: String,
    text: String,
}

impl Golden {
    fn read() -> Result<Self> {
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
    fn check(&self, page: &Page<'_>) -> Result<()> {
        let ask = json!({ "prompt": self.prompt, "max_tokens": 64, "sampling": { "temperature": 0 } });
        let script = format!(
            "fetch('/api/generate', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, body: \
             JSON.stringify({ask}) }}).then(answer => answer.text())"
        );
        let answer = page.eval(&script)?;
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

/// Everything here is done in a few seconds; on two cores that build something else it may take longer.
const PATIENCE: Duration = Duration::from_secs(180);
