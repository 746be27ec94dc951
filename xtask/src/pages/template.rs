//! The chat page with a model that has a chat template: it sends messages, and the coordinator makes the prompt of them.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, chat, expect};
use crate::browser::{Browser, View};
use crate::root;
use crate::swarm::Coordinator;

pub(super) fn check(browser: &Browser) -> Result<()> {
    let folder = model()?;
    let path = folder.path().to_str().context("the folder's name is no text")?;
    let swarm = Coordinator::of(path, &["--nodes", "1"])?;
    let _node = swarm.native("desktop", "cpu")?;
    let page = browser.open(&swarm.url("/"), View::PHONE)?;
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    let shown = "[document.querySelector('#text-label').textContent, document.querySelector('#system-field').hidden]";
    expect(&page, "a model that chats", shown, &json!(["Message", false]))?;
    let fill = "(id, text) => { const field = document.getElementById(id); field.value = text; \
                field.dispatchEvent(new Event('input')); }";
    page.eval(&format!("({fill})('system', {})", json!(SYSTEM)))?;
    chat::say(&page, FIRST, 12)?;
    chat::finished(&page)?;
    chat::say(&page, SECOND, 12)?;
    chat::finished(&page)?;
    let kept = "JSON.parse(localStorage.getItem(Object.keys(localStorage).find((k) => \
                k.startsWith('syn1.conversation.')))).messages.map(({ role, content }) => [role, content])";
    let said = page.eval(kept)?;
    let text = |index: usize| said[index][1].as_str().unwrap_or_default();
    ensure!(said.as_array().is_some_and(|said| said.len() == 4), "the conversation: {said}");
    // What another client is answered, which sends the same messages, and what comes behind the template's own text.
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let first = vec![message("system", SYSTEM), message("user", FIRST)];
    let mut both = first.clone();
    both.extend([message("assistant", text(1)), message("user", SECOND)]);
    let served = page.eval("fetch('/api/topology').then((r) => r.json()).then((t) => t.model)")?;
    for (messages, index) in [(first, 1), (both, 3)] {
        let body = json!({ "model": served, "messages": messages, "max_tokens": 12, "temperature": 0 }).to_string();
        let answer = page.eval(&format!(
            "fetch('/v1/chat/completions', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, \
             body: {} }}).then((r) => r.json())",
            json!(body)
        ))?;
        let content = &answer["choices"][0]["message"]["content"];
        ensure!(*content == json!(text(index)), "the page's answer is {:?}, the API's {answer}", text(index));
    }
    let plain = crate::swarm::asked(&json!({ "prompt": FIRST, "max_tokens": 12, "sampling": { "temperature": 0 } }));
    let plain = page.eval(&format!(
        "{plain}.then((r) => r.text()).then((t) => t.trim().split('\\n').map(JSON.parse) \
         .map((l) => l.token?.text ?? l.finished?.text ?? '').join(''))"
    ))?;
    ensure!(plain != json!(text(1)), "the template changed nothing: {plain}");
    page.close()
}

/// The bundled model with a template of a public one.
fn model() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let bundled = root()?.join("models/tiny-rust-docs");
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(bundled.join(name), folder.path().join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    let golden: Value = serde_json::from_str(&fs::read_to_string(root()?.join("fixtures/chat_golden.json"))?)?;
    let template = golden["templates"]["chatml"].as_str().context("chat_golden.json has no template chatml")?;
    fs::write(folder.path().join("chat_template.jinja"), template)?;
    Ok(folder)
}

const SYSTEM: &str = "Answer briefly.";
const FIRST: &str = "What is a slice?";
const SECOND: &str = "And a vector?";
