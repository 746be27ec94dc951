//! A tab's Worker.

use anyhow::Result;
use serde_json::{Value, json};

use super::Browser;

/// A running Worker, for as long as its tab has it.
pub(crate) struct Worker<'a> {
    browser: &'a Browser,
    session: String,
}

impl<'a> Worker<'a> {
    pub(super) fn new(browser: &'a Browser, session: String) -> Self {
        Self { browser, session }
    }

    /// What `script`, an expression, comes to; promises are waited for.
    pub(crate) fn eval(&self, script: &str) -> Result<Value> {
        self.browser.eval(&self.session, script)
    }

    /// Has a Worker that was held run.
    pub(super) fn go_on(&self) -> Result<()> {
        self.browser.call(Some(&self.session), "Runtime.runIfWaitingForDebugger", json!({})).map(drop)
    }
}
