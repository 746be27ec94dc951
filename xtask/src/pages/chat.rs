//! What the chat page does: it streams, stops, renders, keeps, and can be used by keyboard alone.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, expect};
use crate::browser::{Browser, Page, View};
use crate::swarm::Coordinator;

pub(super) fn check(swarm: &Coordinator, browser: &Browser) -> Result<()> {
    let page = browser.open(&swarm.url("/"), View::DESKTOP)?;
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    renders(&page)?;
    streams_and_stops(&page)?;
    survives_a_reload(&page)?;
    goes_by_keyboard(&page)?;
    says_what_is_wrong(&page)?;
    loses_no_answer(&page)?;
    deleted_stays_deleted(&page)?;
    let complaints = page.console();
    ensure!(complaints.is_empty(), "the chat page complains: {}", complaints.join("\n"));
    page.close()
}

/// Asks for `text` to be continued by `tokens` tokens.
pub(super) fn say(page: &Page<'_>, text: &str, tokens: u32) -> Result<()> {
    let fill = "(id, value) => { const field = document.getElementById(id); field.value = value; \
                field.dispatchEvent(new Event('input')); }";
    page.eval(&format!("({fill})('length', {tokens})"))?;
    page.eval(&format!("({fill})('temperature', 0)"))?;
    page.eval(&format!("({fill})('text', {})", json!(text)))?;
    page.eval("document.querySelector('#composer').requestSubmit()")?;
    Ok(())
}

/// Waits until nothing is being answered.
pub(super) fn finished(page: &Page<'_>) -> Result<()> {
    page.wait_for("document.querySelector('#stop').hidden", PATIENCE)
}

/// Whatever a model writes becomes text, or one of the few elements that the renderer makes.
fn renders(page: &Page<'_>) -> Result<()> {
    let cases = [
        ("<script>window.hit = 1</script>", "<p>&lt;script&gt;window.hit = 1&lt;/script&gt;</p>"),
        ("<img src=x onerror='window.hit = 1'>", "<p>&lt;img src=x onerror='window.hit = 1'&gt;</p>"),
        ("[a](javascript:window.hit=1)", "<p>[a](javascript:window.hit=1)</p>"),
        ("[a](data:text/html,x)", "<p>[a](data:text/html,x)</p>"),
        (
            "![p](https://a.example/p.png)",
            "<p><a href=\"https://a.example/p.png\" target=\"_blank\" rel=\"noopener noreferrer\">p</a></p>",
        ),
        (
            "# One\ntwo *three* **four** `f<i>ve`",
            "<h3>One</h3><p>two <em>three</em> <strong>four</strong> <code>f&lt;i&gt;ve</code></p>",
        ),
        ("a_b_c 2 * 3 * 4 \\*no\\*", "<p>a_b_c 2 * 3 * 4 *no*</p>"),
        ("1. a\n2. b\n   - c\n\n3. d", "<ol start=\"1\"><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ol>"),
        ("> a\n> b\n\n---", "<blockquote><p>a\nb</p></blockquote><hr>"),
        ("**unclosed and [half](", "<p>**unclosed and [half](</p>"),
        (
            "| a | b |\n|---|--:|\n| 1 | `x\\|y` |",
            "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x|y</code></td></tr></tbody></table></div>",
        ),
    ];
    let render = "async (text) => { const { Markdown } = await import('/pages/markdown.js'); \
                  const root = document.createElement('div'); new Markdown(root).show(text); return root.innerHTML; }";
    for (text, html) in cases {
        expect(page, "rendered", &format!("({render})({})", json!(text)), &json!(html))?;
    }
    // An open fence is code already, and its copy button gives what is in it.
    let code = "async () => { const { Markdown } = await import('/pages/markdown.js'); \
                const root = document.createElement('div'); const shown = new Markdown(root); \
                shown.show('a\\n\\n```rust\\nlet x = \"<b>\";'); const first = root.firstChild; \
                shown.show('a\\n\\n```rust\\nlet x = \"<b>\";\\n```\\nz'); \
                return [root.querySelector('pre').textContent, root.querySelector('.code-head span').textContent, \
                first === root.firstChild, root.lastChild.textContent]; }";
    expect(page, "code", &format!("({code})()"), &json!(["let x = \"<b>\";", "rust", true, "z"]))?;
    // What grows and nests without end is bounded, and nothing is lost.
    let deep = "async () => { const { Markdown } = await import('/pages/markdown.js'); \
                const root = document.createElement('div'); new Markdown(root).show('>'.repeat(5000) + 'end'); \
                new Markdown(root).show('**a '.repeat(20000)); return [root.textContent.includes('end'), window.hit ?? null]; }";
    expect(page, "bounds", &format!("({deep})()"), &json!([true, null]))
}

fn streams_and_stops(page: &Page<'_>) -> Result<()> {
    say(page, QUESTION, 48)?;
    finished(page)?;
    let figures = "document.querySelector('.answer .foot').textContent";
    let said = page.eval(figures)?;
    let said = said.as_str().unwrap_or_default();
    ensure!(said.contains("48 tokens") && said.contains("tok/s"), "figures: {said}");
    // Greedy: the same question has the same answer, whoever asks.
    let body = json!({ "prompt": QUESTION, "max_tokens": 48, "sampling": { "temperature": 0 } }).to_string();
    let asked = format!(
        "fetch('/api/generate', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, body: {} }}) \
         .then((r) => r.text()).then((t) => t.trim().split('\\n').map(JSON.parse) \
         .map((l) => l.token?.text ?? l.finished?.text ?? '').join(''))",
        json!(body)
    );
    let kept = "JSON.parse(localStorage.getItem(Object.keys(localStorage).find((k) => \
                k.startsWith('syn1.conversation.')))).messages.at(-1).content";
    let answer = page.eval(&asked)?;
    ensure!(answer.as_str().is_some_and(|text| !text.is_empty()), "no answer");
    expect(page, "what was streamed and kept", kept, &answer)?;
    // Much more than is waited for: only stopping ends it.
    say(page, "# Stop", 400)?;
    page.wait_for("document.querySelectorAll('.answer')[1]?.querySelector('.body').textContent.length > 10", PATIENCE)?;
    page.eval("document.querySelector('#stop').click()")?;
    finished(page)?;
    let foot = page.eval("document.querySelectorAll('.answer')[1].querySelector('.foot').textContent")?;
    ensure!(foot.as_str().is_some_and(|foot| foot.contains("stopped")), "not stopped: {foot}");
    // The coordinator has stopped too.
    let running = "fetch('/api/topology').then((r) => r.json()).then((t) => t.running)";
    let idle = format!("({running}).then((running) => running === 0)");
    page.wait_for(&idle, PATIENCE)
}

fn survives_a_reload(page: &Page<'_>) -> Result<()> {
    let text = "[...document.querySelectorAll('.messages .body')].map((body) => body.textContent)";
    let before = page.eval(text)?;
    ensure!(before.as_array().is_some_and(|texts| texts.len() == 4), "two questions and two answers: {before}");
    page.reload()?;
    page.wait_for("document.querySelectorAll('.messages > li').length === 4", PATIENCE)?;
    expect(page, "after a reload", text, &before)?;
    expect(page, "listed", "document.querySelectorAll('#conversations li').length", &json!(1))?;
    // Deleted is deleted, unless it is undone.
    page.eval("document.querySelector('#conversations .quiet').click()")?;
    let stored = "Object.keys(localStorage).filter((key) => key.startsWith('syn1.conversation.')).length";
    expect(page, "deleted", stored, &json!(0))?;
    page.eval("document.querySelector('#undo button').click()")?;
    expect(page, "undone", text, &before)
}

/// By the tab key's order, and by the keys that the page itself knows.
fn goes_by_keyboard(page: &Page<'_>) -> Result<()> {
    let unnamed = "[...document.querySelectorAll('a, button, input, textarea, select')].filter((one) => \
                   one.checkVisibility() && !(one.textContent.trim() || one.labels?.length || one.ariaLabel)).length";
    expect(page, "controls without a name", unnamed, &json!(0))?;
    let odd = "document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length";
    expect(page, "a tab order of its own", odd, &json!(0))?;
    page.eval("document.querySelector('#text').focus(); document.querySelector('#text').value = 'A Vec is'")?;
    let press = "(key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }))";
    page.eval(&format!("({press})('Enter')"))?;
    page.wait_for(
        "!document.querySelector('#stop').hidden || document.querySelectorAll('.answer').length === 3",
        PATIENCE,
    )?;
    page.eval(&format!("({press})('Escape')"))?;
    finished(page)?;
    // What streams is not read out token by token: the region that is read out gets whole sentences.
    expect(
        page,
        "live regions around the stream",
        "document.querySelector('#messages').closest('[aria-live]')",
        &Value::Null,
    )?;
    page.wait_for("document.querySelector('#spoken').textContent.length > 0", PATIENCE)?;
    expect(page, "busy no more", "document.querySelectorAll('[aria-busy]').length", &json!(0))
}

fn says_what_is_wrong(page: &Page<'_>) -> Result<()> {
    page.eval("document.querySelector('#fresh').click()")?;
    say(page, &"word ".repeat(3000), 8)?;
    finished(page)?;
    page.wait_for("!document.querySelector('#problem').hidden", PATIENCE)?;
    let problem = page.eval("document.querySelector('#problem').textContent")?;
    ensure!(problem.as_str().is_some_and(|problem| problem.contains("the context holds")), "not said: {problem}");
    // The browser itself notes that it was refused.
    page.console();
    Ok(())
}

/// An answer that could not be made anew, or be continued, is still there; and what failed is what is tried again.
fn loses_no_answer(page: &Page<'_>) -> Result<()> {
    let press =
        "(root, label) => [...document.querySelectorAll(`${root} button`)].find(b => b.textContent === label).click()";
    let answer = "document.querySelector('.answer .body')?.textContent ?? null";
    page.eval("document.querySelector('#fresh').click()")?;
    say(page, QUESTION, 8)?;
    finished(page)?;
    let first = page.eval(answer)?;
    let content = format!("{KEPT}.messages.at(-1).content");
    let kept = page.eval(&content)?;
    page.eval(
        "globalThis.reach = fetch; globalThis.fetch = (url, init) => String(url).includes('generate') ? \
         Promise.reject(new TypeError('no network')) : reach(url, init)",
    )?;
    for label in ["Regenerate", "Continue"] {
        page.eval(&format!("({press})('#messages', '{label}')"))?;
        finished(page)?;
        page.wait_for("document.querySelector('#problem').textContent.includes('does not answer')", PATIENCE)?;
        expect(page, label, answer, &first)?;
        expect(page, "what is kept", &content, &kept)?;
    }
    page.eval("globalThis.fetch = reach, 0")?;
    page.eval(&format!("({press})('#problem', 'Try again')"))?;
    finished(page)?;
    let longer = page.eval(answer)?;
    let (first, longer) = (first.as_str().unwrap_or_default(), longer.as_str().unwrap_or_default());
    ensure!(
        longer.len() > first.len() && longer.starts_with(first.trim_end()),
        "{first:?} was continued by {longer:?}"
    );
    Ok(())
}

/// A conversation that is deleted in the middle of an answer does not come back with it: by its own button, by that for all of
/// them, and in another tab.
fn deleted_stays_deleted(page: &Page<'_>) -> Result<()> {
    page.eval("globalThis.confirm = () => true, 0")?;
    let ways = [
        "document.querySelector('#conversations [aria-current]').nextSibling.click()",
        "document.querySelector('#remove-all').click()",
        "localStorage.removeItem(`syn1.conversation.${sessionStorage.getItem('syn1.current')}`)",
    ];
    for way in ways {
        page.eval("document.querySelector('#fresh').click()")?;
        say(page, "# Delete", 200)?;
        page.wait_for("document.querySelector('.answer .body')?.textContent.length > 10", PATIENCE)?;
        let id = page.eval("sessionStorage.getItem('syn1.current')")?;
        page.eval(way)?;
        finished(page)?;
        let kept = format!("localStorage.getItem('syn1.conversation.' + {id})");
        expect(page, "a conversation that was deleted", &kept, &Value::Null)?;
    }
    Ok(())
}

/// The conversation that the page shows, as it is kept.
const KEPT: &str = "JSON.parse(localStorage.getItem(`syn1.conversation.${sessionStorage.getItem('syn1.current')}`))";

const QUESTION: &str = "How do I use a HashMap?";
