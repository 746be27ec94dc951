//! Pages of a coordinator that does not answer everybody always. With API keys chat asks for one, keeps it and goes on, and the
//! join page needs none; with a rate it says who asks too often.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{PATIENCE, chat, expect};
use crate::browser::{Browser, View};
use crate::swarm::Coordinator;

pub(super) fn check(browser: &Browser) -> Result<()> {
    let swarm = Coordinator::with(&["--nodes", "1", "--api-key", KEY])?;
    let _node = swarm.native("desktop", "cpu")?;
    let page = browser.open(&swarm.url("/"), View::PHONE)?;
    page.wait_for("document.activeElement.id === 'key'", PATIENCE)?;
    expect(&page, "without a key", "fetch('/api/topology').then(r => r.status)", &json!(401))?;
    enter("wrong-key-0123456789", &page)?;
    page.wait_for("document.querySelector('#locked [role=status]')?.textContent.includes('not known')", PATIENCE)?;
    // Nobody has to have a key to stop asking.
    chat::say(&page, "How do I use a HashMap?", 8)?;
    page.wait_for("!document.querySelector('#stop').hidden", PATIENCE)?;
    page.eval("document.querySelector('#stop').click()")?;
    chat::finished(&page)?;
    enter(KEY, &page)?;
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    page.eval("document.querySelector('#fresh').click()")?;
    chat::say(&page, "How do I use a HashMap?", 8)?;
    chat::finished(&page)?;
    let said = page.eval("document.querySelector('.answer .foot').textContent")?;
    ensure!(said.as_str().is_some_and(|said| said.contains("8 tokens")), "with the key: {said}");
    // Another visit, and another page, ask no more.
    page.goto(&swarm.url("/swarm"))?;
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    expect(&page, "asked again", "document.querySelector('#locked')", &json!(null))?;
    page.eval("localStorage.clear()")?;
    page.goto(&swarm.url("/join"))?;
    page.wait_for("document.querySelector('#state').textContent === 'locked'", PATIENCE)?;
    page.wait_for("document.querySelector('#downloads').textContent.includes('joining needs none')", PATIENCE)?;
    expect(&page, "the join page asks", "document.querySelector('#locked')", &json!(null))?;
    page.close()?;
    asks_too_often(browser)
}

/// Who asks more often than may be is told so in a sentence.
fn asks_too_often(browser: &Browser) -> Result<()> {
    let swarm = Coordinator::with(&["--nodes", "1", "--rate", "1"])?;
    let _node = swarm.native("desktop", "cpu")?;
    let page = browser.open(&swarm.url("/"), View::PHONE)?;
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    for question in ["once", "twice"] {
        chat::say(&page, question, 4)?;
        chat::finished(&page)?;
    }
    let problem = page.eval("document.querySelector('#problem').textContent")?;
    let said = problem.as_str().is_some_and(|said| said.starts_with("This is more than 1 requests a minute"));
    ensure!(said, "who asks too often reads: {problem}");
    page.close()
}

fn enter(key: &str, page: &crate::browser::Page<'_>) -> Result<()> {
    page.eval(&format!("document.querySelector('#key').value = {}", json!(key)))?;
    page.eval("document.querySelector('#locked').requestSubmit()").map(drop)
}

const KEY: &str = "user-key-0123456789";
