//! A coordinator with two nodes on the bundled model, as `syn1 demo` starts them.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, root};

/// The running program. Dropping it ends it and its nodes.
pub(super) struct Swarm {
    child: Child,
    address: String,
}

impl Swarm {
    /// Builds syn1 as the tests do, and waits until it serves.
    pub(super) fn start() -> Result<Self> {
        cargo(&["build", "--quiet", "--workspace", "--bin", "syn1"])?;
        let named = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = std::path::absolute(named.unwrap_or(root()?.join("target")))?;
        let program = target.join("debug").join("syn1").with_extension(env::consts::EXE_EXTENSION);
        let any = "127.0.0.1:0";
        let args = ["demo", "--http", any, "--tcp", any, "--device", "cpu", "--max-tokens", "8"];
        let mut command = Command::new(&program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let mut swarm = Self { child, address: String::new() };
        let mut news = BufReader::new(swarm.child.stderr.take().context("syn1 has no stderr")?);
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if news.read_line(&mut line)? == 0 {
                bail!("syn1 demo ended before it served:\n{said}");
            }
            if let Some((_, rest)) = line.split_once("serving at ") {
                swarm.address = rest.split('/').nth(2).context("syn1 names no address")?.to_owned();
                break;
            }
            said.push_str(&line);
        }
        // A full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut news, &mut std::io::sink()));
        Ok(swarm)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // As by Ctrl-C: it ends its nodes with it, which it could not if it were killed.
        let id = self.child.id().to_string();
        let interrupted = Command::new("kill").args(["-INT", &id]).status().is_ok_and(|status| status.success());
        if !interrupted {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
