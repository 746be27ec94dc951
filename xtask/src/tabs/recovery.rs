//! What befalls tabs: after each of it the tab is back by itself, and the text is golden again.

use anyhow::{Result, ensure};
use serde_json::json;

use super::features::WATCH;
use super::{begin, ready, tab};
use crate::browser::{Browser, Gpu, Page, View};
use crate::swarm::{Coordinator, Golden, PATIENCE};

/// All of it.
pub(super) fn check(golden: &Golden) -> Result<()> {
    // A hidden page's timers run once a minute after a second instead of after five minutes, and a site may lose its GPU
    // more than once.
    let flags = [
        "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1",
        "--disable-domain-blocking-for-3d-apis",
        "--disable-gpu-process-crash-limit",
    ];
    let browser = Browser::with(Gpu::Software, &flags, None)?;
    the_device_is_lost(&browser, golden)?;
    memory_is_short(&browser, golden)?;
    the_coordinator_goes_and_comes(&browser, golden)?;
    the_tab_is_hidden_and_frozen(&browser, golden)
}

/// Its GPU is taken away from a tab, and the GPU's process crashes.
fn the_device_is_lost(browser: &Browser, golden: &Golden) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.hold_workers()?;
    begin(&page, &json!({ "name": "tab", "device": "gpu" }))?;
    let worker = page.worker(WATCH)?;
    ready(&page)?;
    for what in ["its device is destroyed", "the GPU's process crashes"] {
        coordinator.wait_ready(&page)?;
        golden.cases[0].check(&page)?;
        forget(&page)?;
        if what.contains("destroyed") {
            worker.eval("devices.forEach(device => device.destroy())")?;
        } else {
            browser.crash_gpu()?;
        }
        back(&page, what, "device")?;
    }
    coordinator.wait_ready(&page)?;
    golden.cases[1].check(&page)?;
    page.close()
}

/// A GPU that has no room for what it was given offers less, and another node takes the rest.
fn memory_is_short(browser: &Browser, golden: &Golden) -> Result<()> {
    let coordinator = Coordinator::with(&["--slots", "1"])?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.hold_workers()?;
    begin(&page, &json!({ "name": "tab", "device": "gpu" }))?;
    page.worker(&format!("globalThis.room = {ROOM}; {SHORT}"))?;
    page.wait_for("events.filter(e => e.event === 'profiled').length === 2", PATIENCE)?;
    let offers = page.eval("events.filter(e => e.event === 'profiled').map(e => e.memory_bytes)")?;
    ensure!(offers[1].as_u64() < offers[0].as_u64(), "the offers: {offers}");
    let said = page.eval("events.filter(e => e.event === 'unable' || e.event === 'lost').map(e => e.cause)")?;
    ensure!(said.to_string().contains("with less"), "what it says: {said}");
    forget(&page)?;
    // Neither of the two has room for the whole model.
    let _native = coordinator.native_with("native", "cpu", &["--memory", "12"])?;
    ready(&page)?;
    coordinator.wait_ready(&page)?;
    golden.cases[1].check(&page)?;
    println!("a tab short of memory offers {} bytes after {}: {said}", offers[1], offers[0]);
    page.close()
}

/// The coordinator is started anew while the tab serves.
fn the_coordinator_goes_and_comes(browser: &Browser, golden: &Golden) -> Result<()> {
    let mut coordinator = Coordinator::start(1)?;
    let page = tab(&coordinator, browser, "tab", "cpu")?;
    ready(&page)?;
    coordinator.wait_ready(&page)?;
    forget(&page)?;
    coordinator.restart()?;
    // As the browser says when it has a network again: nobody waits for the next attempt then.
    page.eval("dispatchEvent(new Event('online'))")?;
    back(&page, "its coordinator is started anew", "link")?;
    coordinator.wait_ready(&page)?;
    golden.cases[0].check(&page)?;
    page.close()
}

/// A hidden tab's page is hardly run any more, but its Worker keeps the link and computes; one that was frozen for so long
/// that the coordinator gave it up is back when it goes on.
fn the_tab_is_hidden_and_frozen(browser: &Browser, golden: &Golden) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = tab(&coordinator, browser, "tab", "cpu")?;
    ready(&page)?;
    let front = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
    coordinator.wait_ready(&front)?;
    front.to_front()?;
    page.wait_for("document.visibilityState === 'hidden'", PATIENCE)?;
    page.eval("globalThis.ticks = 0, setInterval(() => ticks++, 100), 0")?;
    forget(&page)?;
    // Longer than a coordinator bears silence.
    front.eval("new Promise(done => setTimeout(done, 17000))")?;
    let ticks = page.eval("ticks")?.as_u64().unwrap_or(u64::MAX);
    ensure!(ticks < 40, "the page was not throttled: its timer of 100 ms fired {ticks} times in 17 s");
    golden.cases[0].check(&front)?;
    let lost = page.eval("events.filter(e => e.event === 'lost' || e.event === 'left')")?;
    ensure!(lost == json!([]), "in the background: {lost}");
    let locks = page.eval("navigator.locks.query().then(locks => locks.held.map(lock => lock.name))")?;
    ensure!(locks.to_string().contains("syn1"), "no lock keeps the browser from freezing the page: {locks}");
    println!("a hidden tab, its page's timers throttled to {ticks} in 17 s, keeps its link and gives the golden text");

    page.freeze(true)?;
    front.wait_for("fetch('/api/topology').then(t => t.json()).then(t => t.nodes.length === 0)", PATIENCE)?;
    page.freeze(false)?;
    page.to_front()?;
    back(&page, "it was frozen until it was given up", "link")?;
    coordinator.wait_ready(&front)?;
    golden.cases[1].check(&front)?;
    front.close()?;
    page.close()
}

/// What was told so far is not taken for what comes.
fn forget(page: &Page<'_>) -> Result<()> {
    page.eval("events.length = 0").map(drop)
}

/// A tab has lost `what`, said so, and serves again, without fetching anything.
fn back(page: &Page<'_>, why: &str, what: &str) -> Result<()> {
    let ready = ready(page)?;
    let lost = page.eval("events.find(e => e.event === 'lost') ?? null")?;
    ensure!(lost["what"] == json!(what), "when {why}: {lost}");
    ensure!(ready["fetched_bytes"] == 0, "when {why}, the layers were fetched again: {ready}");
    println!("when {why}, the tab says that it {} and is back", lost["cause"]);
    Ok(())
}

/// Blocks that fit into the GPU of [`SHORT`].
const ROOM: u32 = 4;

/// A GPU that has memory for the weights of `room` blocks and says so only when they are made, as some drivers do: the
/// browser's own error, at the place where it stands.
const SHORT: &str = "const P = GPUDevice.prototype, { createBuffer, pushErrorScope, popErrorScope } = P; \
    const blocks = new WeakMap(), scopes = new WeakMap(); \
    P.pushErrorScope = function (filter) { const own = scopes.get(this) ?? []; own.push({ filter, short: false }); \
    scopes.set(this, own); return pushErrorScope.call(this, filter); }; \
    P.popErrorScope = async function () { const { short } = scopes.get(this).pop(); \
    const error = await popErrorScope.call(this); return short ? new GPUOutOfMemoryError('no room') : error; }; \
    P.createBuffer = function (wish) { if (/^block/.test(wish.label)) { \
    const held = (blocks.get(this) ?? 0) + 1; blocks.set(this, held); \
    const scope = scopes.get(this)?.findLast(scope => scope.filter === 'out-of-memory'); \
    if (held > room && scope) scope.short = true; } return createBuffer.call(this, wish); }";
