//! How every page looks: at phone and desktop width, light and dark, nothing sticks out and all text has contrast.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, drawn_anew, expect, settled};
use crate::browser::{Browser, Page, View};
use crate::swarm::Coordinator;

pub(super) fn check(swarm: &Coordinator, browser: &Browser) -> Result<()> {
    let page = browser.open(&swarm.url("/"), View::PHONE)?;
    for path in ["/", "/swarm", "/join", "/bench"] {
        page.goto(&swarm.url(path))?;
        settled(&page)?;
        stands(&page, path)?;
        for view in [View::PHONE, View::PHONE.dark(), View::DESKTOP, View::DESKTOP.dark()] {
            page.view(view)?;
            drawn_anew(&page)?;
            let wrong = page.eval(include_str!("look.js"))?;
            ensure!(wrong == json!([]), "{path} at {view:?}: {wrong}");
        }
        page.view(View::PHONE)?;
    }
    page.goto(&swarm.url("/swarm"))?;
    settled(&page)?;
    tells_the_swarm(&page)?;
    page.goto(&swarm.url("/bench"))?;
    settled(&page)?;
    compares(&page)?;
    fuses(&page)?;
    page.close()
}

/// The experiment runs on this browser's GPU, and a file of `syn1 bench fusion --json` stands beside it.
fn fuses(page: &Page<'_>) -> Result<()> {
    page.wait_for("!document.querySelector('#fuse').disabled", PATIENCE)?;
    page.eval("document.querySelector('#layers').value = '1', document.querySelector('#fusion').requestSubmit()")?;
    page.wait_for("document.querySelector('#fusing').hidden", PATIENCE)?;
    let problem = page.eval("document.querySelector('#fusion-problem').textContent")?;
    ensure!(problem == json!(""), "the experiment: {problem}");
    let rows = "document.querySelectorAll('#fusion-results tbody tr').length";
    expect(page, "the arms", rows, &json!(9))?;
    let report = include_str!("../../../docs/benchmarks/raw/fusion-h200.json");
    page.eval(&format!("({LOAD})({}, '#fusion-file')", json!(report)))?;
    page.wait_for(&format!("{rows} > 9"), PATIENCE)?;
    // The two at width 64 stand in one table.
    let both = "[...document.querySelectorAll('#fusion-results section')].some((s) => s.querySelectorAll('tbody tr').length === 18)";
    expect(page, "both in a table", both, &json!(true))?;
    page.eval(&format!("({LOAD})('{{}}', '#fusion-file')"))?;
    page.wait_for("document.querySelector('#fusion-problem').textContent.includes('names no device')", PATIENCE)?;
    // A figure that is no number spoils nothing that stands there.
    let spoilt = report.replacen("\"max_error\": 5", "\"max_error\": \"5\", \"was\": 5", 1);
    ensure!(spoilt != report, "no figure was spoilt");
    page.eval(&format!("({LOAD})({}, '#fusion-file')", json!(spoilt)))?;
    page.wait_for("document.querySelector('#fusion-problem').textContent.includes('no shapes with arms')", PATIENCE)?;
    page.eval("dispatchEvent(new Event('resize')), 0")?;
    expect(page, "both in a table", both, &json!(true))?;
    let complaints = page.console();
    ensure!(complaints.is_empty(), "the bench page complains: {}", complaints.join("\n"));
    Ok(())
}

/// One heading of the first rank, a main part, a language, and a mark at the page one is on.
fn stands(page: &Page<'_>, path: &str) -> Result<()> {
    let found = "[document.documentElement.lang, document.querySelectorAll('main').length, \
                 document.querySelectorAll('h1').length === 1, document.querySelector('nav [aria-current=page]').pathname]";
    expect(page, "the page's frame", found, &json!(["en", 1, true, path]))
}

fn tells_the_swarm(page: &Page<'_>) -> Result<()> {
    page.wait_for("document.querySelectorAll('.node').length === 2", PATIENCE)?;
    // A text has passed through the chain already.
    page.wait_for("document.querySelectorAll('#waterfall g').length > 0", PATIENCE)?;
    let rows = "[document.querySelectorAll('#layers li').length, document.querySelector('#waiting').hidden, \
                document.querySelector('#reason').textContent.startsWith('2 nodes were asked for'), \
                [...document.querySelectorAll('#events li')].some((li) => li.textContent.includes('Ready: a token'))]";
    expect(page, "the swarm", rows, &json!([2, true, true, true]))?;
    // A token that passes is seen.
    let before = page.eval("document.querySelector('#waterfall svg').textContent")?;
    page.eval(
        "fetch('/api/generate', { method: 'POST', headers: { 'content-type': 'application/json' }, \
         body: JSON.stringify({ prompt: 'A', max_tokens: 9 }) }).then((r) => r.text())",
    )?;
    page.wait_for(&format!("document.querySelector('#waterfall svg').textContent !== {before}"), PATIENCE)
}

/// A file of `syn1 bench decode --json` is an arm; anything else is refused in a sentence.
fn compares(page: &Page<'_>) -> Result<()> {
    let report = include_str!("../../../docs/benchmarks/raw/decode-gpt2-f16-cpu.json");
    page.eval(&format!("({LOAD})({}, '#file')", json!(report)))?;
    page.wait_for("document.querySelectorAll('#plot .bar').length === 1", PATIENCE)?;
    let drawn = "[document.querySelectorAll('#plot .limit').length, document.querySelector('#table').textContent.includes('80 %')]";
    expect(page, "the plot", drawn, &json!([1, true]))?;
    page.eval(&format!("({LOAD})('{{}}', '#file')"))?;
    page.wait_for("document.querySelector('#problem').textContent.includes('no tokens_per_second')", PATIENCE)?;
    // A figure that is no number is named, and spoils nothing that stands there.
    for (name, wrong) in [("first_token_ms", json!("soon")), ("hop_us", json!({}))] {
        let mut spoilt: Value = serde_json::from_str(report)?;
        spoilt["report"][name] = wrong;
        page.eval(&format!("({LOAD})({}, '#file')", json!(spoilt.to_string())))?;
        page.wait_for(&format!("document.querySelector('#problem').textContent.includes('{name}')"), PATIENCE)?;
    }
    page.eval("dispatchEvent(new Event('resize')), 0")?;
    expect(page, "the plot", "document.querySelectorAll('#plot .bar').length", &json!(1))?;
    // A number of tokens that is none is the form's to say.
    page.eval("document.querySelector('#tokens').value = '', document.querySelector('#run').requestSubmit()")?;
    expect(page, "no number of tokens", "document.querySelector('#during').hidden", &json!(true))?;
    page.eval("document.querySelector('#tokens').value = '64', 0").map(drop)
}

/// Gives a text as a file to a field.
pub(super) const LOAD: &str = "(text, field) => { const files = new DataTransfer(); files.items.add(new File([text], 'a.json')); \
                    const input = document.querySelector(field); input.files = files.files; \
                    input.dispatchEvent(new Event('change')); }";
