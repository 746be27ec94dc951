//! The coordinator's pages in a real browser: `cargo xtask pages` tries them, `cargo xtask screenshots` draws them.

mod chat;
mod join;
mod locked;
mod look;
mod states;
mod template;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::browser::{Browser, Gpu, Page, View};
use crate::swarm::{self, Coordinator, Native};
use crate::{built, root, setup, web};

/// Tries every page, with two nodes on the bundled model. Says whether there was a browser to do it with.
pub(crate) fn check() -> Result<bool> {
    if !setup::chromium()? {
        return Ok(false);
    }
    web::build()?;
    built::build()?;
    let browser = Browser::start(Gpu::Software)?;
    let (swarm, _nodes) = start(&browser)?;
    chat::check(&swarm, &browser)?;
    join::check(&swarm, &browser)?;
    look::check(&swarm, &browser)?;
    locked::check(&browser)?;
    template::check(&browser)?;
    Ok(true)
}

/// The command: without a browser there is nothing to say.
pub(crate) fn command() -> Result<()> {
    if !check()? {
        bail!("the pages were not tried");
    }
    println!("the pages do what they are to do");
    Ok(())
}

/// Draws every page in every state into `args`' folder, or those that the README shows into `docs/screenshots`.
pub(crate) fn screenshots(args: &[String]) -> Result<()> {
    let folder = match args {
        [] => root()?.join("docs").join("screenshots"),
        [folder] => PathBuf::from(folder),
        more => bail!("screenshots takes one folder at most, not {}", more.join(" ")),
    };
    if !setup::chromium()? {
        bail!("nothing was drawn");
    }
    std::fs::create_dir_all(&folder)?;
    web::build()?;
    built::build()?;
    let browser = Browser::start(Gpu::Software)?;
    let (swarm, _nodes) = start(&browser)?;
    let page = browser.open(&swarm.url("/"), View::DESKTOP)?;
    chat::say(&page, EXAMPLE, 120)?;
    chat::finished(&page)?;
    for (name, path) in [("chat", "/"), ("swarm", "/swarm"), ("join", "/join"), ("bench", "/bench")] {
        let views = [("phone", View::PHONE), ("desktop", View::DESKTOP)];
        let views = views.map(|(size, view)| [(size, "light", view), (size, "dark", view.dark())]);
        let named = views.into_iter().flatten().map(|(size, scheme, view)| (format!("{name}-{size}-{scheme}"), view));
        let drawn: Vec<_> = named.filter(|(name, _)| !args.is_empty() || SHOWN.contains(&name.as_str())).collect();
        if drawn.is_empty() {
            continue;
        }
        page.goto(&swarm.url(path))?;
        settled(&page)?;
        for (name, view) in drawn {
            draw(&page, view, &folder.join(name).with_extension("png"))?;
        }
    }
    if args.is_empty() { Ok(()) } else { states::draw_all(&browser, &folder) }
}

/// Two nodes, through which a text has passed.
fn start(browser: &Browser) -> Result<(Coordinator, [Native; 2])> {
    let swarm = Coordinator::start(2)?;
    let nodes = [swarm.native("desktop", "cpu")?, swarm.native("laptop", "cpu")?];
    let page = browser.open(&swarm.url("/health"), View::DESKTOP)?;
    swarm.wait_ready(&page)?;
    let ask = json!({ "prompt": "A lifetime", "max_tokens": 8, "sampling": { "temperature": 0 } });
    page.eval(&format!("{}.then(answer => answer.text())", swarm::asked(&ask)))?;
    page.close()?;
    Ok((swarm, nodes))
}

/// Draws all of a page, as far down as a picture is still of use.
fn draw(page: &Page<'_>, view: View, file: &Path) -> Result<()> {
    page.view(view)?;
    drawn_anew(page)?;
    let height = page.eval("document.documentElement.scrollHeight")?.as_u64().unwrap_or_default();
    let height = u32::try_from(height).unwrap_or(u32::MAX).clamp(view.height, TALLEST);
    page.view(View { height, ..view })?;
    drawn_anew(page)?;
    page.screenshot(file)?;
    println!("{}", file.display());
    Ok(())
}

/// Charts follow a new width in the next frame.
fn drawn_anew(page: &Page<'_>) -> Result<()> {
    page.eval("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))").map(drop)
}

/// Waits until a page has heard from the coordinator, and what it asked for has been answered.
fn settled(page: &Page<'_>) -> Result<()> {
    page.wait_for("document.querySelector('#state').textContent.startsWith('ready')", PATIENCE)?;
    page.wait_for("document.readyState === 'complete'", PATIENCE)?;
    page.eval("new Promise(done => setTimeout(done, 700))")?;
    Ok(())
}

/// What `script` comes to must be `expected`.
fn expect(page: &Page<'_>, what: &str, script: &str, expected: &Value) -> Result<()> {
    let found = page.eval(script)?;
    ensure!(found == *expected, "{what}: {script} is {found}, not {expected}");
    Ok(())
}

/// Far more than anything takes on a slow machine with others at work.
const PATIENCE: Duration = Duration::from_secs(60);

/// A text with a heading and code in what follows.
const EXAMPLE: &str = "## Reading a file line by line\n\n";

/// Pixels of a picture that nobody has to scroll for long.
const TALLEST: u32 = 1600;

/// What the README shows.
const SHOWN: [&str; 4] = ["chat-desktop-light", "chat-phone-dark", "swarm-desktop-light", "join-phone-light"];
