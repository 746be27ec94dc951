//! The coordinator's pages in a real browser: `cargo xtask pages` tries them, `cargo xtask screenshots` draws them.

mod chat;
mod look;
mod swarm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::browser::{Browser, Gpu, Page, View};
use crate::{root, setup};
use swarm::Swarm;

/// Tries every page, with two nodes on the bundled model. Says whether there was a browser to do it with.
pub(crate) fn check() -> Result<bool> {
    if !setup::chromium()? {
        return Ok(false);
    }
    let swarm = Swarm::start()?;
    let browser = Browser::start(Gpu::Software)?;
    chat::check(&swarm, &browser)?;
    look::check(&swarm, &browser)?;
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

/// Draws every page into `args`' folder, or those that the README shows into `docs/screenshots`.
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
    let swarm = Swarm::start()?;
    let browser = Browser::start(Gpu::Software)?;
    let page = browser.open(&swarm.url("/"), View::DESKTOP)?;
    chat::say(&page, EXAMPLE, 160)?;
    chat::finished(&page)?;
    let shown = |name: &str| !args.is_empty() || SHOWN.contains(&name);
    for (name, path) in [("chat", "/"), ("swarm", "/swarm"), ("join", "/join"), ("bench", "/bench")] {
        if !shown(name) {
            continue;
        }
        page.goto(&swarm.url(path))?;
        settled(&page)?;
        for (size, view) in [("phone", View::PHONE), ("desktop", View::DESKTOP)] {
            for (scheme, view) in [("light", view), ("dark", view.dark())] {
                draw(&page, view, &folder.join(format!("{name}-{size}-{scheme}.png")))?;
            }
        }
    }
    Ok(())
}

fn draw(page: &Page<'_>, view: View, file: &Path) -> Result<()> {
    page.view(view)?;
    // Charts follow the new width in the next frame.
    page.eval("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")?;
    page.screenshot(file)?;
    println!("{}", file.display());
    Ok(())
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
const EXAMPLE: &str = "How do I use a HashMap?";

/// What the README shows.
const SHOWN: [&str; 3] = ["chat", "swarm", "join"];
