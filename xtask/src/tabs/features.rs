//! Browsers that have less: WebGPU without any optional feature, and no WebGPU at all.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{begin, ready, tab};
use crate::browser::{Browser, Gpu, View};
use crate::swarm::{Coordinator, Golden, PATIENCE};

/// On an adapter that offers neither 16-bit floats nor subgroups, nor anything else, the GPU serves: its device has the
/// core's features alone, so the browser would refuse a shader that uses more.
pub(super) fn none(browser: &Browser, golden: &Golden) -> Result<()> {
    for bare in [true, false] {
        let coordinator = Coordinator::start(1)?;
        let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
        page.hold_workers()?;
        begin(&page, &json!({ "name": "tab", "device": "gpu" }))?;
        let worker = page.worker(&format!("{WATCH}; if ({bare}) {{ {BARE} }}"))?;
        ready(&page)?;
        coordinator.wait_ready(&page)?;
        golden.cases[0].check(&page)?;
        let support = page.eval("events.find(e => e.event === 'support')")?;
        if bare {
            let none = support["shader_f16"] == json!(false) && support["subgroups"] == json!(false);
            ensure!(none && support["features"] == json!([]), "a bare adapter: {support}");
        }
        let had = worker.eval("[...new Set(devices.flatMap(device => [...device.features]))].sort()")?;
        let optional = ["shader-f16", "subgroups"].iter().any(|name| had.to_string().contains(name));
        ensure!(!optional, "kernels for browsers are to need no optional feature, the devices had {had}");
        println!("an adapter with the features {}: devices with {had}, and the text is golden", support["features"]);
        page.close()?;
    }
    Ok(())
}

/// A GPU that computes garbage is refused by name before it joins.
pub(super) fn garbage(browser: &Browser) -> Result<()> {
    let coordinator = Coordinator::start(1)?;
    let page = browser.open(&coordinator.url("/health"), View::PHONE)?;
    page.hold_workers()?;
    begin(&page, &json!({ "name": "tab", "device": "gpu" }))?;
    page.worker(GARBAGE)?;
    page.wait_for("events.at(-1)?.event === 'stopped'", PATIENCE)?;
    let stopped = page.eval("events.at(-1)")?;
    let named = stopped["cause"].as_str().is_some_and(|cause| cause.contains("computes wrong"));
    let events = page.eval("events.map(e => e.event === 'selftest' ? e.passed : e.event)")?;
    ensure!(stopped["error"] == json!(true) && named, "a GPU that computes garbage: {stopped}");
    ensure!(events == json!(["support", false, "stopped"]), "a GPU that computes garbage joined: {events}");
    println!("a GPU that computes garbage: {}", stopped["cause"]);
    page.close()
}

/// A browser that has no WebGPU says so, and its CPU computes right; asked for the GPU alone, it says that there is none.
pub(super) fn no_webgpu(golden: &Golden) -> Result<()> {
    let browser = Browser::start(Gpu::None)?;
    let coordinator = Coordinator::start(1)?;
    let page = tab(&coordinator, &browser, "tab", "auto")?;
    ready(&page)?;
    coordinator.wait_ready(&page)?;
    golden.cases[0].check(&page)?;
    let support = page.eval("events.find(e => e.event === 'support')")?;
    ensure!(support["webgpu"] == json!(false) && support["reason"].is_string(), "support: {support}");
    let device = page.eval("events.find(e => e.event === 'device').text")?;
    ensure!(device.as_str().is_some_and(|text| text.contains("computing on the CPU")), "device: {device}");
    println!("without WebGPU: {device}, and the text is right");
    page.close()?;
    let page = tab(&coordinator, &browser, "tab", "gpu")?;
    page.wait_for("events.at(-1)?.event === 'stopped'", PATIENCE)?;
    let stopped = page.eval("events.at(-1)")?;
    ensure!(stopped["error"] == json!(true) && stopped["cause"] == support["reason"], "asked for the GPU: {stopped}");
    Ok(())
}

/// Keeps every device that the Worker opens, with what it asked for.
pub(super) const WATCH: &str = "globalThis.devices = []; const open = GPUAdapter.prototype.requestDevice; \
    GPUAdapter.prototype.requestDevice = async function (wish) { const device = await open.call(this, wish); \
    devices.push(device); return device; }";

/// What is read back from the GPU is halved, as by a driver that loses every other product.
const GARBAGE: &str = "const map = GPUBuffer.prototype.getMappedRange; GPUBuffer.prototype.getMappedRange = \
    function (...part) { const bytes = map.apply(this, part); if (this.usage & GPUBufferUsage.MAP_READ) { \
    const floats = new Float32Array(bytes); floats.forEach((value, at) => { floats[at] = value / 2; }); } return bytes; }";

/// An adapter says that it has no feature.
const BARE: &str = "Object.defineProperty(GPUAdapter.prototype, 'features', { get: () => new Set() })";
