//! The pipe to Chromium: commands out, answers and events in.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Sends one command at a time and waits for its answer.
pub(super) struct Pipe {
    commands: ChildStdin,
    messages: Receiver<Value>,
    sent: u64,
    /// What happened in the tabs and was not looked at yet.
    events: Vec<Value>,
}

impl Pipe {
    pub(super) fn new(commands: Option<ChildStdin>, answers: Option<ChildStdout>) -> Result<Self> {
        let (commands, answers) = commands.zip(answers).context("the browser's pipes are gone")?;
        let (tell, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let message = message.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
                let Some(message) = message else { return };
                if tell.send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Self { commands, messages, sent: 0, events: Vec::new() })
    }

    /// What `method` answers, of a tab if its session is named.
    pub(super) fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<Value> {
        self.sent += 1;
        let id = self.sent;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).with_context(|| format!("the browser takes no {method}"))?;
        let begun = Instant::now();
        loop {
            let mut message = self.next(begun, method)?;
            if message["id"] == id {
                if let Some(text) = message["error"]["message"].as_str() {
                    bail!("the browser refused {method}: {text}");
                }
                return Ok(message["result"].take());
            }
            self.events.push(message);
        }
    }

    /// Waits for the event `method` of a tab, and takes it.
    pub(super) fn wait_event(&mut self, session: &str, method: &str) -> Result<Value> {
        let begun = Instant::now();
        let is_it = |event: &Value| event["sessionId"] == session && event["method"] == method;
        loop {
            if let Some(index) = self.events.iter().position(is_it) {
                return Ok(self.events.remove(index));
            }
            let event = self.next(begun, method)?;
            self.events.push(event);
        }
    }

    /// Takes the events of a tab that came so far.
    pub(super) fn events(&mut self, session: &str) -> Vec<Value> {
        self.events.extend(self.messages.try_iter());
        let (of_it, others) = self.events.drain(..).partition(|event| event["sessionId"] == session);
        self.events = others;
        of_it
    }

    fn next(&self, begun: Instant, method: &str) -> Result<Value> {
        match self.messages.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => bail!("the browser did not answer {method} within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the browser ended while it was asked for {method}"),
        }
    }
}

/// A browser that is asked for anything answers within this, also on two busy cores.
const PATIENCE: Duration = Duration::from_secs(60);
