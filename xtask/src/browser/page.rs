//! A tab.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Browser;
use super::worker::Worker;

/// What a tab looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// CSS pixels.
    pub(crate) width: u32,
    /// CSS pixels.
    pub(crate) height: u32,
    pub(crate) scheme: Scheme,
}

/// The colours that the visitor prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl View {
    /// A common phone, upright.
    pub(crate) const PHONE: Self = Self { width: 390, height: 844, scheme: Scheme::Light };
    /// A small laptop.
    pub(crate) const DESKTOP: Self = Self { width: 1280, height: 800, scheme: Scheme::Light };

    /// The same in dark colours.
    pub(crate) const fn dark(self) -> Self {
        Self { scheme: Scheme::Dark, ..self }
    }
}

/// An open tab. Dropping it leaves it open until its browser ends.
pub(crate) struct Page<'a> {
    browser: &'a Browser,
    target: String,
    session: String,
}

impl<'a> Page<'a> {
    pub(super) fn open(browser: &'a Browser, url: &str, view: View) -> Result<Self> {
        let text = |value: &Value, name: &str| {
            value[name].as_str().map(str::to_owned).with_context(|| format!("the browser named no {name}"))
        };
        let created = browser.call(None, "Target.createTarget", json!({ "url": "about:blank" }))?;
        let target = text(&created, "targetId")?;
        let attached = browser.call(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true }))?;
        let page = Self { browser, target, session: text(&attached, "sessionId")? };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({}))?;
        }
        page.view(view)?;
        page.goto(url)?;
        Ok(page)
    }

    /// Shows the tab at another size or in other colours.
    pub(crate) fn view(&self, view: View) -> Result<()> {
        let View { width, height, scheme } = view;
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }))?;
        Ok(())
    }

    /// Loads another page and waits until it is there.
    pub(crate) fn goto(&self, url: &str) -> Result<()> {
        self.forget();
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(why) = answer["errorText"].as_str() {
            bail!("{url} cannot be loaded: {why}");
        }
        self.loaded()
    }

    /// Loads the page again and waits until it is there.
    pub(crate) fn reload(&self) -> Result<()> {
        self.forget();
        self.call("Page.reload", json!({}))?;
        self.loaded()
    }

    /// What `script`, an expression, comes to; promises are waited for.
    pub(crate) fn eval(&self, script: &str) -> Result<Value> {
        self.browser.eval(&self.session, script)
    }

    /// Waits until `condition`, an expression, is true. An error says what the console said meanwhile.
    pub(crate) fn wait_for(&self, condition: &str, most: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.eval(condition)? != json!(true) {
            if begun.elapsed() > most {
                let console = self.console().join("\n");
                bail!("`{condition}` did not come true within {most:?}; the console says:\n{console}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// What the page has written to its console, and errors that nobody caught, since this was asked last.
    pub(crate) fn console(&self) -> Vec<String> {
        let events = self.browser.pipe.borrow_mut().events(&self.session);
        events.iter().filter_map(said).collect()
    }

    /// Draws the visible part of the page into a PNG file.
    pub(crate) fn screenshot(&self, file: &Path) -> Result<()> {
        self.to_front()?;
        let drawn = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let bytes = base64(drawn["data"].as_str().unwrap_or_default()).context("the browser drew no picture")?;
        std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Brings the tab to the front; the one that was there is hidden now.
    pub(crate) fn to_front(&self) -> Result<()> {
        self.call("Page.bringToFront", json!({})).map(drop)
    }

    /// Stops all that the tab does, as a browser does with tabs that nobody looks at and a machine that sleeps does with all;
    /// or has it go on.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let state = if frozen { "frozen" } else { "active" };
        self.call("Page.setWebLifecycleState", json!({ "state": state })).map(drop)
    }

    /// The tab's origin may keep so many bytes.
    pub(crate) fn quota(&self, bytes: u64) -> Result<()> {
        let origin = self.eval("location.origin")?;
        self.call("Storage.overrideQuotaForOrigin", json!({ "origin": origin, "quotaSize": bytes })).map(drop)
    }

    /// From now on the tab's Workers wait for [`Page::worker`] before they run.
    pub(crate) fn hold_workers(&self) -> Result<()> {
        self.attach_workers(true)
    }

    /// The next Worker that the tab starts; it runs `script`, statements, before it hears the first message. (Where it is held
    /// there is no WebGPU yet.)
    pub(crate) fn worker(&self, script: &str) -> Result<Worker<'a>> {
        let attached = self.browser.pipe.borrow_mut().wait_event(&self.session, "Target.attachedToTarget")?;
        let session = attached["params"]["sessionId"].as_str().context("a Worker has no session")?.to_owned();
        let worker = Worker::new(self.browser, session);
        worker.eval(&format!("addEventListener('message', () => {{ {script} }}, {{ once: true }})"))?;
        worker.go_on()?;
        self.attach_workers(false)?;
        Ok(worker)
    }

    fn attach_workers(&self, hold: bool) -> Result<()> {
        let how = json!({ "autoAttach": true, "waitForDebuggerOnStart": hold, "flatten": true });
        self.call("Target.setAutoAttach", how).map(drop)
    }

    /// Closes the tab, as a person does.
    pub(crate) fn close(self) -> Result<()> {
        self.browser.call(None, "Target.closeTarget", json!({ "targetId": self.target })).map(drop)
    }

    fn loaded(&self) -> Result<()> {
        self.browser.pipe.borrow_mut().wait_event(&self.session, "Page.loadEventFired").map(drop)
    }

    /// What an earlier load left must not be taken for the next one's.
    fn forget(&self) {
        self.browser.pipe.borrow_mut().events(&self.session);
    }

    fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.browser.call(Some(&self.session), method, params)
    }
}

/// An event of the console in a line.
fn said(event: &Value) -> Option<String> {
    let params = &event["params"];
    Some(match event["method"].as_str()? {
        "Runtime.consoleAPICalled" => {
            let args = params["args"].as_array()?.iter();
            let text = |arg: &Value| match &arg["value"] {
                Value::String(text) => text.clone(),
                Value::Null => arg["description"].as_str().unwrap_or("?").to_owned(),
                value => value.to_string(),
            };
            args.map(text).collect::<Vec<_>>().join(" ")
        }
        "Runtime.exceptionThrown" => {
            let thrown = &params["exceptionDetails"];
            thrown["exception"]["description"].as_str().or(thrown["text"].as_str())?.to_owned()
        }
        "Log.entryAdded" => params["entry"]["text"].as_str()?.to_owned(),
        _ => return None,
    })
}

/// The bytes of a picture. The protocol has no other form for them.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_any_padding() {
        for (text, bytes) in [("TWFu", &b"Man"[..]), ("TWE=", b"Ma"), ("TQ==", b"M"), ("/+8A", b"\xff\xef\x00")] {
            assert_eq!(base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(base64("T!"), None);
        assert_eq!(base64(""), None);
    }
}
