//! What the join page does: it shows the way in, and makes this browser a node and no node any more.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{PATIENCE, expect, settled};
use crate::browser::{Browser, Page, View};
use crate::swarm::Coordinator;

pub(super) fn check(swarm: &Coordinator, browser: &Browser) -> Result<()> {
    let page = browser.open(&swarm.url("/join#4-river-lamp"), View::PHONE)?;
    settled(&page)?;
    // The code went into its field, and is in the address no more.
    expect(&page, "the code", "[document.querySelector('#code').value, location.hash]", &json!(["4-river-lamp", ""]))?;
    page.wait_for("document.querySelector('#other img.qr')?.naturalWidth > 0", PATIENCE)?;
    let says = "document.querySelector('#what').textContent";
    let said = page.eval(says)?;
    let said = said.as_str().unwrap_or_default();
    ensure!(said.contains("could read them") && said.contains("weights of tiny-rust-docs"), "the page says: {said}");
    if page.eval("import('/web/syn1.js').then(() => true, () => false)")? == json!(true) {
        joins_and_leaves(&page)?;
    } else {
        page.wait_for("document.querySelector('#hindered').textContent.includes('cargo xtask web')", PATIENCE)?;
        expect(&page, "the button", "document.querySelector('#join').disabled", &json!(true))?;
    }
    page.close()
}

fn joins_and_leaves(page: &Page<'_>) -> Result<()> {
    page.wait_for("!document.querySelector('#join').disabled", PATIENCE)?;
    let after = page.eval("Math.round(performance.getEntriesByName('interactive')[0].startTime)")?;
    println!("the join page has loaded the node and asked for the GPU {after} ms after it was asked for");
    page.eval("document.querySelector('#name').value = 'a-page'; document.querySelector('#before').requestSubmit()")?;
    let there = "fetch('/api/topology').then((r) => r.json()).then((t) => t.nodes.some((n) => n.name === 'a-page'))";
    page.wait_for(there, PATIENCE)?;
    // The model lies on two nodes already, as was asked for: this one keeps a copy of some layers, in case one of them is lost.
    page.wait_for("document.querySelector('#doing').textContent.includes('Ready to compute')", PATIENCE)?;
    page.eval("document.querySelector('#leave').click()")?;
    page.wait_for(&format!("({there}).then((there) => !there)"), PATIENCE)?;
    page.wait_for("!document.querySelector('#before').hidden", PATIENCE)?;
    expect(page, "where one is", "document.activeElement.id", &json!("join"))?;
    // What stood in the way before still does.
    expect(page, "what hinders", "document.querySelectorAll('#hindered .notice').length > 0", &json!(true))
}
