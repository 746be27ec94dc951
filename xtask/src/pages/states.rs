//! Pages in states that a served model does not show: without devices, locked, serving, with results, offline.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::look::LOAD;
use super::{PATIENCE, draw};
use crate::browser::{Browser, View};
use crate::swarm::Coordinator;

/// Draws them into `folder`.
pub(super) fn draw_all(browser: &Browser, folder: &Path) -> Result<()> {
    let drawn = |name: &str| folder.join(name).with_extension("png");
    let locked = Coordinator::with(&["--nodes", "1", "--api-key", "user-key-0123456789"])?;
    let page = browser.open(&locked.url("/"), View::PHONE)?;
    page.wait_for("document.querySelector('#locked') !== null", PATIENCE)?;
    draw(&page, View::PHONE, &drawn("locked-phone-light"))?;
    draw(&page, View::DESKTOP.dark(), &drawn("locked-desktop-dark"))?;
    drop(locked);

    let swarm = Coordinator::start(1)?;
    for (name, path) in [("empty-chat", "/"), ("empty-swarm", "/swarm")] {
        page.goto(&swarm.url(path))?;
        page.wait_for("document.querySelector('#state').textContent === 'waiting'", PATIENCE)?;
        draw(&page, View::PHONE.dark(), &drawn(&format!("{name}-phone-dark")))?;
        draw(&page, View::DESKTOP, &drawn(&format!("{name}-desktop-light")))?;
    }
    page.goto(&swarm.url("/join"))?;
    page.wait_for("!document.querySelector('#join').disabled", PATIENCE)?;
    page.eval("document.querySelector('#before').requestSubmit()")?;
    page.wait_for("document.querySelector('#doing').textContent.includes('Ready to compute')", PATIENCE)?;
    draw(&page, View::PHONE, &drawn("serving-phone-light"))?;

    let bench = browser.open(&swarm.url("/bench"), View::DESKTOP)?;
    let decode = include_str!("../../../docs/benchmarks/raw/decode-gpt2-f16-cpu.json");
    let fusion = include_str!("../../../docs/benchmarks/raw/fusion-h200.json");
    bench.wait_for("!document.querySelector('#start').disabled", PATIENCE)?;
    bench.eval("document.querySelector('#shape').value = 'tiny', document.querySelector('#run').requestSubmit()")?;
    bench.wait_for("document.querySelectorAll('#plot .bar').length > 0", PATIENCE)?;
    bench.eval(&format!("({LOAD})({}, '#file')", json!(decode)))?;
    bench.eval(&format!("({LOAD})({}, '#fusion-file')", json!(fusion)))?;
    bench.wait_for("document.querySelectorAll('#fusion-results .bar').length > 0", PATIENCE)?;
    draw(&bench, View::DESKTOP, &drawn("results-desktop-light"))?;
    draw(&bench, View::PHONE.dark(), &drawn("results-phone-dark"))?;
    bench.close()?;

    drop(swarm);
    page.to_front()?;
    page.wait_for("document.querySelector('#state').textContent === 'offline'", PATIENCE)?;
    draw(&page, View::PHONE, &drawn("offline-phone-light"))?;
    page.close()
}
