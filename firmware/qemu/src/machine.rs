//! A board in QEMU.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{logs, until};

/// A board of QEMU's.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// What people call it.
    pub(crate) name: &'static str,
    /// What its images are built for.
    pub(crate) target: &'static str,
    machine: &'static str,
    cpu: &'static str,
}

pub(crate) const M3: Kind =
    Kind { name: "Cortex-M3", target: "thumbv7m-none-eabi", machine: "mps2-an385", cpu: "cortex-m3" };
pub(crate) const M4: Kind =
    Kind { name: "Cortex-M4", target: "thumbv7em-none-eabihf", machine: "mps2-an386", cpu: "cortex-m4" };

/// A built image.
pub(crate) struct Image {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) uart: Uart,
    pub(crate) ethernet: bool,
}

/// What a board's UART leads to.
#[derive(Clone)]
pub(crate) enum Uart {
    Nothing,
    /// A pseudo-terminal: what a host sees of a UART.
    Terminal,
    /// A socket at this path, which this board makes.
    Offers(PathBuf),
    /// The UART of the board that makes the socket at this path.
    Joins(PathBuf),
}

/// A running board. Dropping it is pulling its plug.
pub(crate) struct Machine {
    child: Child,
    line: Option<PathBuf>,
    folder: TempDir,
}

impl Machine {
    /// Starts an image with these settings, and with these bytes where its weights lie.
    pub(crate) fn start(image: &Image, settings: &str, weights: Option<&[u8]>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Self::command(image, &folder);
        let page = folder.path().join("settings");
        fs::write(&page, settings)?;
        command.arg("-device").arg(format!("loader,file={},addr={SETTINGS},force-raw=on", page.display()));
        if let Some(weights) = weights {
            let file = folder.path().join("weights");
            fs::write(&file, weights)?;
            command.arg("-device").arg(format!("loader,file={},addr={WEIGHTS},force-raw=on", file.display()));
        }
        command.args(["-nic", if image.ethernet { "user,model=lan9118" } else { "none" }]);
        Self::spawn(command, folder, matches!(image.uart, Uart::Terminal))
    }

    /// Starts an image whose clock counts instructions.
    pub(crate) fn counting(image: &Image) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Self::command(image, &folder);
        command.args(["-icount", "shift=0", "-nic", "none"]);
        Self::spawn(command, folder, false)
    }

    fn command(image: &Image, folder: &TempDir) -> Command {
        let mut command = Command::new("qemu-system-arm");
        let Kind { machine, cpu, .. } = image.kind;
        command.args(["-machine", machine, "-cpu", cpu, "-display", "none", "-monitor", "none", "-serial"]);
        command.arg(match &image.uart {
            Uart::Nothing => "null".to_owned(),
            Uart::Terminal => "pty".to_owned(),
            Uart::Offers(path) => format!("unix:{},server=on,wait=off", path.display()),
            Uart::Joins(path) => format!("unix:{}", path.display()),
        });
        command.arg("-serial").arg(format!("file:{}", folder.path().join("log").display()));
        command.arg("-kernel").arg(&image.path).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn spawn(mut command: Command, folder: TempDir, has_line: bool) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let mut machine = Self { line: None, folder, child };
        if has_line {
            // QEMU says which one it took: "char device redirected to /dev/pts/3 (label serial0)".
            let mut said = String::new();
            BufReader::new(machine.child.stdout.take().context("no output")?).read_line(&mut said)?;
            let line = said.split(' ').find(|word| word.starts_with('/'));
            machine.line = Some(line.with_context(|| format!("QEMU named no pseudo-terminal: {said:?}"))?.into());
        }
        Ok(machine)
    }

    /// The other end of the board's UART.
    pub(crate) fn line(&self) -> Result<PathBuf> {
        self.line.clone().context("this board has no line")
    }

    /// Waits for a line of the log that contains `text`.
    pub(crate) fn wait_for(&self, image: &Image, text: &str, patience: Duration) -> Result<String> {
        until(&format!("'{text}' in the board's log"), patience, || {
            let lines = logs::lines(&image.path, &self.log())?;
            Ok(lines.into_iter().rev().find(|line| line.contains(text)))
        })
    }

    /// Prints the log, and holds the stack's depth to its budget.
    pub(crate) fn report(&self, image: &Image) -> Result<()> {
        let stack = self.wait_for(image, "bytes at most", Duration::from_secs(10))?;
        for line in logs::lines(&image.path, &self.log())? {
            println!("  | {line}");
        }
        let bytes = stack.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse::<usize>().ok());
        let bytes = bytes.context("the log says no depth of the stack")?;
        println!("stack: {bytes} bytes at most ({MOST_STACK} allowed)");
        ensure!(bytes <= MOST_STACK, "the stack took {bytes} bytes, {MOST_STACK} are the budget");
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Pulls the plug.
    pub(crate) fn cut(self) {}
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail for a QEMU that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a board's settings and weights lie: `mps2-an385/src/map.rs`.
const SETTINGS: &str = "0x3ff000";
const WEIGHTS: &str = "0x100000";

/// Bytes of stack that an image may use.
const MOST_STACK: usize = 24 << 10;
