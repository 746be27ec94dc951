//! `cargo xtask tabs --bench FILE`: one node that has the whole bundled model, in a tab and natively, on the same machine.
//!
//! The coordinator measures: from a frame out to its answer in, as a hop of a chain costs, and how much of that the node said
//! was computing. What is left is the way there and back, the browser's event loop, and the kernels' submit and readback.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{ready, tab};
use crate::browser::{Browser, Gpu, Page, View};
use crate::swarm::{self, Coordinator};
use crate::{built, setup, web};

/// Measures and writes the raw file.
pub(crate) fn command(file: &Path) -> Result<()> {
    if !setup::chromium()? || !setup::software_vulkan()? {
        bail!("nothing was measured");
    }
    web::build()?;
    built::build()?;
    let browser = Browser::start(Gpu::Software)?;
    let mut hops = Vec::new();
    for (name, device) in [("tab, WebGPU on SwiftShader", "gpu"), ("tab, WebAssembly", "cpu")] {
        let coordinator = Coordinator::start(1)?;
        let page = tab(&coordinator, &browser, "node", device)?;
        ready(&page)?;
        hops.push(measured(name, &coordinator, &page)?);
        page.close()?;
    }
    for (name, device) in [("native, software Vulkan", "llvmpipe"), ("native, CPU", "cpu")] {
        let coordinator = Coordinator::start(1)?;
        let _node = coordinator.native("node", device)?;
        let page = browser.open(&coordinator.url("/health"), View::DESKTOP)?;
        hops.push(measured(name, &coordinator, &page)?);
        page.close()?;
    }
    let raw = json!({
        "command": "cargo xtask tabs --bench",
        "machine": machine()?,
        "date": today()?,
        "report": { "model": "tiny-rust-docs, 8 layers, f16", "tokens": TOKENS, "runs": RUNS, "hops": hops },
    });
    let text = serde_json::to_string_pretty(&raw)? + "\n";
    fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    print!("{text}");
    Ok(())
}

/// Medians of some requests for text.
fn measured(name: &str, coordinator: &Coordinator, page: &Page<'_>) -> Result<Value> {
    coordinator.wait_ready(page)?;
    let sampling = json!({ "temperature": 0 });
    let ask = json!({ "prompt": "A lifetime", "max_tokens": TOKENS, "ignore_eos": true, "sampling": sampling });
    let asked = format!(
        "{}.then(a => a.text()).then(t => JSON.parse(t.trim().split('\\n').at(-1)).finished.tokens_per_second)",
        swarm::asked(&ask)
    );
    let spent = "fetch('/api/topology').then(t => t.json()).then(t => t.nodes[0].traffic.token)";
    let (mut paces, mut answers, mut computing) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let pace = page.eval(&asked)?;
        let spent = page.eval(spent)?;
        // The first warms up.
        if run > 0 {
            let number =
                |value: &Value, what: &str| value.as_f64().with_context(|| format!("{name}: no {what}: {spent}"));
            paces.push(number(&pace, "tokens per second")?);
            answers.push(number(&spent["answer_us"], "answer_us")?);
            computing.push(number(&spent["compute_us"], "compute_us")?);
        }
    }
    let (pace, answer, compute) = (median(paces), median(answers), median(computing));
    ensure!(answer > 0.0, "{name}: nothing was measured");
    println!("{name}: {pace:.1} tokens/s, a hop takes {answer:.0} us, of them {compute:.0} computing");
    Ok(json!({
        "name": name,
        "tokens_per_second": pace,
        "answer_us": answer,
        "compute_us": compute,
        "above_us": answer - compute,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor, as Linux names it.
fn machine() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{}, {cores} cores", name.map_or("a processor without a name", |(_, name)| name)))
}

fn today() -> Result<String> {
    let date = Command::new("date").arg("+%F").output().context("cannot run date")?.stdout;
    Ok(String::from_utf8_lossy(date.trim_ascii()).into_owned())
}

const TOKENS: usize = 64;
const RUNS: usize = 5;
