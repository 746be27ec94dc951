//! How pieces come to a tab and are kept: transfers break off, room is short, another tab has the file.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{begin, fetched, ready};
use crate::browser::{Browser, Page, View};
use crate::swarm::Coordinator;

/// All of it. Every coordinator is an origin of its own, which keeps nothing yet.
pub(super) fn check(browser: &Browser) -> Result<()> {
    a_transfer_breaks_off(browser)?;
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

/// Where there is no room, the tab serves all the same and says what that costs.
fn what_does_not_fit_is_fetched(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.quota(4 * MB)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    let first = ready(&page)?;
    ensure!(fetched(&first) > 4 * MB, "it was to be fetched: {first}");
    says(&page, "fetched again at the next visit")?;
    println!("where the browser has no room, the tab serves and says what that costs");
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

const MB: u64 = 1_000_000;

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
