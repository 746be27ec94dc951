//! How pieces come to a tab and are kept: transfers break off, room is short, another tab has the file.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{begin, fetched, ready};
use crate::browser::{Browser, Page, View};
use crate::swarm::{Coordinator, PATIENCE};

/// All of it. Every coordinator is an origin of its own, which keeps nothing yet.
pub(super) fn check(browser: &Browser) -> Result<()> {
    a_transfer_breaks_off(browser)?;
    other_models_go_first(browser)?;
    then_other_layers(browser)?;
    what_does_not_fit_is_fetched(browser)?;
    another_tab_has_a_piece(browser)
}

/// A transfer that broke off goes on where it was, in the same Worker.
fn a_transfer_breaks_off(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    for device in ["cpu", "gpu"] {
        let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
        page.eval(&format!("({FORGET})().catch(() => {{}})"))?;
        page.hold_workers()?;
        begin(&page, &json!({ "name": "tab", "device": device }))?;
        let worker = page.worker(BREAK_OFF)?;
        ready(&page)?;
        let asked = worker.eval("ranges")?;
        ensure!(asked[0].is_null() && asked[1].is_string(), "the ranges that were asked for: {asked}");
        let lost = page.eval("events.filter(e => e.event === 'lost')")?;
        ensure!(lost == json!([]), "when a transfer broke off: {lost}");
        println!("a transfer that broke off went on from {}", asked[1]);
        page.close()?;
    }
    Ok(())
}

/// Pieces of a model that is served no more make room, and the page is told.
fn other_models_go_first(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    let whole = page.eval(WHOLE)?.as_u64().context("no manifest")?;
    put(&page, &"f".repeat(64), 8 * MB)?;
    page.quota(whole + 4 * MB)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    ready(&page)?;
    says(&page, "gave up 1 ")?;
    page.reload()?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    let again = ready(&page)?;
    ensure!(fetched(&again) == 0, "what was made room for is not kept: {again}");
    println!("where the browser has little room, pieces of other models go");
    page.close()
}

/// So do those of layers that others compute now.
fn then_other_layers(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::with(&["--slots", "1"])?;
    // Too little for the whole model: its layers stay with it.
    let _native = coordinator.native_with("native", "cpu", &["--memory", "12"])?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.wait_for("fetch('/api/topology').then(t => t.json()).then(t => t.nodes.length === 1)", PATIENCE)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu", "memoryBytes": 14e6 }))?;
    ready(&page)?;
    let needed = page.eval("events.find(e => e.event === 'cache').missing_bytes")?;
    let needed = needed.as_u64().context("no missing_bytes")?;
    let others = "fetch('/api/topology').then(t => t.json()).then(t => t.nodes.find(n => n.name === 'native').layers)";
    let others = page.eval(others)?;
    let other = others[0].as_u64().with_context(|| format!("the native node has the layers {others}"))?;
    page.eval("node.stop()")?;
    page.eval(&format!("({FORGET})()"))?;
    let name = page.eval(&format!(
        "fetch('/shards/manifest.json').then(m => m.json()).then(m => m.pieces.find(p => p.name === 'block.{other}').sha256)"
    ))?;
    put(&page, name.as_str().context("no such block")?, 8 * MB)?;
    page.quota(needed + 4 * MB)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu", "memoryBytes": 14e6 }))?;
    ready(&page)?;
    says(&page, "gave up 1 ")?;
    println!("and then pieces of layers that others compute");
    page.close()
}

/// Where nothing can be given up, the tab serves all the same and says what that costs.
fn what_does_not_fit_is_fetched(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.quota(4 * MB)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    let first = ready(&page)?;
    ensure!(fetched(&first) > 4 * MB, "it was to be fetched: {first}");
    says(&page, "fetched again at the next visit")?;
    println!("and where there is no room at all, the tab serves and says so");
    page.close()
}

/// A tab that sleeps in the middle of a download keeps its file open for as long as it sleeps: nobody waits for that.
fn another_tab_has_a_piece(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let other = browser.open(&coordinator.url("/health"), View::PHONE)?;
    other.eval(&format!("({HOLD})()"))?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    ready(&page)?;
    says(&page, "another tab")?;
    println!("a piece that a sleeping tab holds is fetched past it");
    page.close()?;
    other.close()
}

/// One of the tab's notices says `what`.
fn says(page: &Page<'_>, what: &str) -> Result<()> {
    let said = "events.map(e => e.event === 'cache' ? e.notice : e.event === 'notice' ? e.text : null).filter(Boolean)";
    let said = page.eval(said)?;
    let is_said = |notice: &Value| notice.as_str().is_some_and(|notice| notice.contains(what));
    ensure!(said.as_array().is_some_and(|said| said.iter().any(is_said)), "{what:?} was to be said, not {said}");
    Ok(())
}

/// Puts a file among the pieces.
fn put(page: &Page<'_>, name: &str, bytes: u64) -> Result<()> {
    let put = "async (name, bytes) => { const root = await navigator.storage.getDirectory(); \
               const pieces = await root.getDirectoryHandle('pieces', { create: true }); \
               const file = await pieces.getFileHandle(name, { create: true }); \
               const to = await file.createWritable(); await to.write(new Uint8Array(bytes)); await to.close(); }";
    page.eval(&format!("({put})({}, {bytes})", json!(name))).map(drop)
}

const MB: u64 = 1_000_000;

/// Bytes of the model's pieces.
const WHOLE: &str =
    "fetch('/shards/manifest.json').then(m => m.json()).then(m => m.pieces.reduce((sum, p) => sum + p.bytes, 0))";

/// The first transfer of a piece ends in the middle, as where a network goes; what ranges of pieces were asked for is noted.
const BREAK_OFF: &str = "globalThis.ranges = []; const real = fetch; globalThis.fetch = async (url, init) => { \
    const answer = await real(url, init); if (!/[0-9a-f]{64}$/.test(url)) return answer; \
    ranges.push(init?.headers?.get('range') ?? null); if (ranges.length > 1) return answer; \
    const reader = answer.body.getReader(); let parts = 0; const body = new ReadableStream({ async pull(to) { \
    if (parts++ > 0) { await reader.cancel(); return to.error(new TypeError('network error')); } \
    to.enqueue((await reader.read()).value.subarray(0, 60000)); } }); \
    return new Response(body, { status: answer.status, headers: answer.headers }); }";

/// Forgets all pieces.
const FORGET: &str = "async () => { const root = await navigator.storage.getDirectory(); \
                      await root.removeEntry('pieces', { recursive: true }); }";

/// Opens every piece of the model in a Worker, and never closes them.
const HOLD: &str = "() => { const hold = async () => { const manifest = await (await fetch(BASE + '/shards/manifest.json')).json(); \
    const root = await navigator.storage.getDirectory(); \
    const pieces = await root.getDirectoryHandle('pieces', { create: true }); self.held = []; \
    for (const { sha256 } of manifest.pieces) { const file = await pieces.getFileHandle(sha256, { create: true }); \
    self.held.push(await file.createSyncAccessHandle()); } postMessage('held'); }; \
    const text = `const BASE = ${JSON.stringify(location.origin)}; (${hold})()`; \
    globalThis.holder = new Worker(URL.createObjectURL(new Blob([text], { type: 'text/javascript' }))); \
    return new Promise(done => { holder.onmessage = () => done(true); }); }";
