//! A node that was stopped is stopped, whatever it was about to do.

use anyhow::{Result, ensure};
use serde_json::json;

use super::begin;
use crate::browser::{Browser, View};
use crate::swarm::{Coordinator, PATIENCE};

/// All of it.
pub(super) fn check(browser: &Browser) -> Result<()> {
    before_it_began(browser)?;
    while_the_screen_was_asked_for(browser)?;
    between_two_workers(browser)
}

/// Stopped before its Worker has loaded, it does not join.
fn before_it_began(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.eval(
        "import('/web/syn1.js').then(({ SynNode }) => { globalThis.events = []; globalThis.node = new SynNode({ device: 'cpu' }); \
         node.onevent = (e) => events.push(e); node.start(); return node.stop(); })",
    )?;
    let events = page.eval("events.map(e => e.event)")?;
    let last = events.as_array().and_then(|events| events.last()).cloned();
    ensure!(last == Some(json!("stopped")) && !events.to_string().contains("connecting"), "its events: {events}");
    page.close()
}

/// A screen that the browser keeps on by the time that the node has stopped is let go.
fn while_the_screen_was_asked_for(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    // A browser without a window has no screen: these are its promises, kept late.
    page.eval(
        "globalThis.locks = []; Object.defineProperty(navigator, 'wakeLock', { value: { request: () => new Promise(done => \
         locks.push({ grant() { this.lock = { released: false, async release() { this.released = true; } }; \
         done(this.lock); } })) } }), 0",
    )?;
    begin(&page, &json!({ "name": "tab", "device": "cpu", "awake": true }))?;
    page.eval("dispatchEvent(new Event('pageshow')), 0")?;
    let asked = page.eval("locks.length")?;
    ensure!(asked == json!(1), "the screen was asked for {asked} times at once");
    page.eval("node.stop().then(() => { locks[0].grant(); return new Promise(done => setTimeout(done, 50)); })")?;
    let released = page.eval("locks[0].lock.released")?;
    ensure!(released == json!(true), "a node that has stopped keeps the screen on");
    page.close()
}

/// Its Worker ended and the next one is not there yet: it says that it has stopped, and none comes.
fn between_two_workers(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    begin(&page, &json!({ "name": "tab", "device": "cpu" }))?;
    page.eval("node.crew.worker.dispatchEvent(new ErrorEvent('error', { message: 'as planned' })), 0")?;
    page.wait_for("events.at(-1)?.event === 'retry'", PATIENCE)?;
    // Once more changes nothing.
    page.eval("node.start(), 0")?;
    page.eval("node.stop()")?;
    let ended = page.eval("[events.at(-1).event, node.crew]")?;
    ensure!(ended == json!(["stopped", null]), "between two Workers: {ended}");
    page.eval("new Promise(done => setTimeout(done, 1500))")?;
    let after = page.eval("[events.at(-1).event, node.crew]")?;
    ensure!(after == json!(["stopped", null]), "a node that had stopped began again: {after}");
    page.close()
}
