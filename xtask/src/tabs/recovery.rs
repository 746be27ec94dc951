//! What befalls tabs: after each of it the tab is back by itself, and the text is golden again.

use anyhow::{Result, ensure};
use serde_json::json;

use super::features::WATCH;
use super::{begin, ready};
use crate::browser::{Browser, Gpu, Page, View};
use crate::swarm::{Coordinator, Golden};

/// All of it.
pub(super) fn check(golden: &Golden) -> Result<()> {
    // A site may lose its GPU more than once.
    let flags = ["--disable-domain-blocking-for-3d-apis", "--disable-gpu-process-crash-limit"];
    let browser = Browser::with(Gpu::Software, &flags, None)?;
    the_device_is_lost(&browser, golden)
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
