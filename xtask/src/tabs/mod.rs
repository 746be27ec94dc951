//! Browser tabs as nodes, in headless Chromium with WebGPU on the CPU: each property with a real coordinator, real tabs and,
//! where it says so, native nodes beside them. The text must be the one that transformers gives.

pub(crate) mod bench;
mod ends;
mod features;
mod https;
mod large;
mod recovery;
mod storage;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::browser::{Browser, Gpu, Page, View};
use crate::swarm::{Coordinator, Golden, PATIENCE};
use crate::{built, setup, web};

/// Builds what is needed and goes through all of it. Says whether there was a browser.
pub(crate) fn test() -> Result<bool> {
    if !setup::chromium()? {
        return Ok(false);
    }
    web::build()?;
    built::build()?;
    let vulkan = setup::software_vulkan()?;
    let with_gpu = Browser::start(Gpu::Software)?;
    let golden = Golden::read()?;
    every_kernel(&with_gpu)?;
    two_tabs(&with_gpu, &golden)?;
    loaded_again(&with_gpu, &golden)?;
    beside_native_nodes(&with_gpu, &golden, vulkan)?;
    join_codes(&with_gpu)?;
    ends::check(&with_gpu)?;
    large::check(&with_gpu)?;
    storage::check(&with_gpu)?;
    features::none(&with_gpu, &golden)?;
    features::garbage(&with_gpu)?;
    drop(with_gpu);
    features::no_webgpu(&golden)?;
    recovery::check(&golden)?;
    https::check(&golden)
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
    let (one, two) = (tab(&coordinator, browser, "tab-1", "gpu")?, tab(&coordinator, browser, "tab-2", "gpu")?);
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
    let tab = tab(&coordinator, browser, "tab", "gpu")?;
    let first = ready(&tab)?;
    ensure!(fetched(&first) > 0, "nothing was fetched at the first visit: {first}");
    tab.reload()?;
    begin(&tab, &json!({ "name": "tab", "device": "gpu" }))?;
    let again = ready(&tab)?;
    ensure!(fetched(&again) == 0, "a tab that was loaded again has fetched its layers anew: {again}");
    coordinator.wait_ready(&tab)?;
    golden.cases[0].check(&tab)?;
    let after = tab.eval("Math.round(serving)")?;
    println!("a tab that was loaded again serves after {after} ms, without fetching a byte");
    tab.close()
}

/// A tab and a native node, on the CPU and on software Vulkan.
fn beside_native_nodes(browser: &Browser, golden: &Golden, vulkan: bool) -> Result<()> {
    for device in ["cpu", "llvmpipe"].into_iter().filter(|device| vulkan || *device == "cpu") {
        let coordinator = Coordinator::start(2)?;
        let _native = coordinator.native("native", device)?;
        let tab = tab(&coordinator, browser, "tab", "gpu")?;
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

/// A tab without the join code is refused with a sentence that names it, and one with it serves.
fn join_codes(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::with(&["--nodes", "1", "--join-code", "RIVERLAMP"])?;
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

/// A tab that has begun to be a node.
fn tab<'a>(coordinator: &Coordinator, browser: &'a Browser, name: &str, device: &str) -> Result<Page<'a>> {
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    begin(&page, &json!({ "name": name, "device": device }))?;
    Ok(page)
}

/// Makes a page a node; its events go to `events`.
fn begin(page: &Page<'_>, options: &Value) -> Result<()> {
    let script = format!(
        "import('/web/syn1.js').then(({{ SynNode }}) => {{ globalThis.events = []; globalThis.begun = \
         performance.now(); globalThis.node = new SynNode({options}); node.onevent = (e) => {{ events.push(e); \
         if (e.event === 'ready') globalThis.serving ??= performance.now() - begun; }}; node.start(); }})"
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
