//! Headless Chromium for tests and screenshots, driven through the pipe of its DevTools protocol.
//!
//! Nothing lies between: no driver program, no port. The commands come in JSON on Chromium's third file and its answers on
//! the fourth, each ended by a zero byte. `https://chromedevtools.github.io/devtools-protocol/` lists them.

mod page;
mod pipe;
mod worker;

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(crate) use page::{Page, View};
use pipe::Pipe;

use crate::run;

/// A browser with a fresh profile. Dropping it ends it.
pub(crate) struct Browser {
    child: Child,
    pipe: RefCell<Pipe>,
    /// Deleted last.
    _profile: tempfile::TempDir,
}

/// What the browser may compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gpu {
    /// WebGPU on the CPU, by SwiftShader: the same on every machine.
    Software,
    /// No WebGPU.
    None,
}

impl Browser {
    /// Starts Chromium.
    pub(crate) fn start(gpu: Gpu) -> Result<Self> {
        Self::with(gpu, &[], None)
    }

    /// Starts Chromium with `more` of its options; it trusts an `authority` (a certificate in PEM) as if its user had
    /// installed it, which needs `certutil`.
    pub(crate) fn with(gpu: Gpu, more: &[&str], authority: Option<&str>) -> Result<Self> {
        let profile = tempfile::tempdir().context("cannot make a folder for the browser's profile")?;
        // The shell gives the pipes the numbers that Chromium expects; what it prints itself goes with the errors.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2", PROGRAM]).args(ALWAYS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(match gpu {
            Gpu::Software => &["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"][..],
            Gpu::None => &["--disable-features=WebGPU,WebGPUService"],
        });
        command.args(more);
        if let Some(authority) = authority {
            trust(profile.path(), authority)?;
            command.env("HOME", profile.path());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("cannot run {PROGRAM}"))?;
        let pipe = Pipe::new(child.stdin.take(), child.stdout.take());
        let mut started = Self { child, pipe: RefCell::new(pipe?), _profile: profile };
        if let Err(error) = started.call(None, "Browser.getVersion", json!({})) {
            let ended = started.child.try_wait().ok().flatten();
            return Err(error.context(ended.map_or_else(
                || format!("{PROGRAM} does not answer"),
                |status| format!("{PROGRAM} ended with {status} as soon as it was started"),
            )));
        }
        Ok(started)
    }

    /// Opens `url` in a tab of its own and waits until it is loaded. Tabs share cookies, storage and cache.
    pub(crate) fn open(&self, url: &str, view: View) -> Result<Page<'_>> {
        Page::open(self, url, view)
    }

    /// Ends the process that all tabs' GPU work is done in, as a bug in a driver does.
    pub(crate) fn crash_gpu(&self) -> Result<()> {
        self.call(None, "Browser.crashGpuProcess", json!({})).map(drop)
    }

    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value> {
        self.pipe.borrow_mut().call(session, method, params)
    }

    /// What `script`, an expression, comes to in a page or a Worker; promises are waited for.
    fn eval(&self, session: &str, script: &str) -> Result<Value> {
        let params = json!({ "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut answer = self.call(Some(session), "Runtime.evaluate", params)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            let said = &thrown["exception"]["description"];
            bail!("{script}: {}", said.as_str().or(thrown["text"].as_str()).unwrap_or("threw"));
        }
        Ok(answer["result"]["value"].take())
    }
}

/// Has a browser whose user lives in `home` trust an authority: on Linux it reads NSS's database of the user.
fn trust(home: &Path, authority: &str) -> Result<()> {
    let database = home.join(".pki").join("nssdb");
    fs::create_dir_all(&database).context("cannot make a folder for trusted certificates")?;
    let file = home.join("authority.pem");
    fs::write(&file, authority).context("cannot write an authority's certificate")?;
    let certutil = || {
        let mut command = Command::new("certutil");
        command.arg("-d").arg(format!("sql:{}", database.display()));
        command
    };
    run(certutil().args(["-N", "--empty-password"]))?;
    run(certutil().args(["-A", "-t", "C,,", "-n", "syn1", "-i"]).arg(file))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it only if it ends by itself.
        if self.call(None, "Browser.close", json!({})).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Whether the browser is here.
pub(crate) fn is_here() -> bool {
    Path::new("/usr/bin").join(PROGRAM).exists()
}

const PROGRAM: &str = "chromium";

/// No window, no sandbox (tests run as root), nothing fetched that no page asked for.
const ALWAYS: [&str; 10] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::page::Scheme;
    use super::*;

    #[test]
    fn a_page_is_drawn_asked_and_waited_for() {
        if !is_here() {
            eprintln!("note: NOT tested: there is no {PROGRAM}");
            return;
        }
        let browser = Browser::start(Gpu::None).unwrap();
        let view = View { width: 320, height: 200, scheme: Scheme::Dark };
        let html = "data:text/html,<meta name=viewport content=width=device-width><title>a</title><p id=p>one</p>";
        let page = browser.open(html, view).unwrap();
        assert_eq!(page.eval("[innerWidth, document.title]").unwrap(), json!([320, "a"]));
        assert_eq!(page.eval("matchMedia('(prefers-color-scheme: dark)').matches").unwrap(), json!(true));
        assert_eq!(page.eval("new Promise(done => setTimeout(() => done(7), 10))").unwrap(), json!(7));
        let thrown = page.eval("(() => { throw new Error('as planned') })()").unwrap_err();
        assert!(format!("{thrown:#}").contains("as planned"), "{thrown:#}");
        page.eval("setTimeout(() => { p.textContent = 'two' }, 30)").unwrap();
        page.wait_for("p.textContent === 'two'", Duration::from_secs(20)).unwrap();
        let never = page.wait_for("p.textContent === 'three'", Duration::from_millis(100)).unwrap_err();
        assert!(never.to_string().contains("three"), "{never}");
        let file = tempfile::NamedTempFile::new().unwrap();
        page.screenshot(file.path()).unwrap();
        assert!(std::fs::read(file.path()).unwrap().starts_with(b"\x89PNG"));
        let other = browser.open("data:text/html,<title>b</title>", view).unwrap();
        assert_eq!(other.eval("document.title").unwrap(), json!("b"));
        page.close().unwrap();
        assert_eq!(other.eval("1 + 1").unwrap(), json!(2));
    }
}
