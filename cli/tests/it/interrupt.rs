//! Ctrl-C ends every command cleanly, whatever it waits for or computes.

#![cfg(unix)]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Running, syn1};
use tempfile::TempDir;

/// A started program.
struct Program {
    running: Running,
    // Held, so that the cache lasts as long.
    _cache: TempDir,
}

impl Program {
    fn start(args: &[&str], stdin: Stdio) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let mut command = syn1(cache.path());
        command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { running: Running(command.spawn().unwrap()), _cache: cache }
    }

    fn child(&mut self) -> &mut Child {
        &mut self.running.0
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.running.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn has_ended(&mut self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    /// Waits for the exit code of an interrupted program, and for whatever it started: standard error ends with the last.
    fn ends_interrupted(mut self) {
        let begun = Instant::now();
        while !self.has_ended() {
            assert!(begun.elapsed() < PATIENCE, "still running after Ctrl-C");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut text = String::new();
        self.child().stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.contains("panicked") && text.matches("interrupted").count() <= 1, "{text}");
        assert_eq!(self.child().wait().unwrap().code(), Some(130), "{text}");
    }
}

/// A file that keeps whoever reads it waiting for as long as nobody writes it.
fn pipe(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Waits until somebody reads the pipe; it stays open for as long as the returned file lives.
fn opened(pipe: &Path) -> File {
    OpenOptions::new().write(true).open(pipe).unwrap()
}

/// Interrupts a program that has begun to print its text.
fn interrupt_in_mid_sentence(args: &[&str]) {
    let mut program = Program::start(args, Stdio::null());
    // The prompt is printed when the swarm is ready.
    let mut first = [0; 4];
    program.child().stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    program.interrupt();
    program.ends_interrupted();
}

#[test]
fn generate_stops_in_mid_sentence() {
    let args = ["generate", "A lifetime", "--nodes", "2", "--max-tokens", "500", "--ignore-eos", "--device", "cpu"];
    interrupt_in_mid_sentence(&args);
}

#[test]
fn generate_on_one_device_stops_in_mid_sentence() {
    let args = ["generate", "A lifetime", "--context", "512", "--max-tokens", "500", "--ignore-eos", "--device", "cpu"];
    interrupt_in_mid_sentence(&args);
}

#[test]
fn the_demo_stops_with_its_nodes() {
    interrupt_in_mid_sentence(&["demo", "--device", "cpu", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
}

#[test]
fn generate_stops_while_it_waits_for_standard_input() {
    let mut program = Program::start(&["generate", "--device", "cpu"], Stdio::piped());
    let mut stdin = program.child().stdin.take().unwrap();
    // More than a pipe holds: when all of it is written, the program is reading.
    stdin.write_all(&vec![b'a'; 1 << 20]).unwrap();
    program.interrupt();
    program.ends_interrupted();
}

#[test]
fn bench_wire_stops_in_mid_measurement() {
    let folder = tempfile::tempdir().unwrap();
    let text = pipe(folder.path(), "text");
    let args = ["bench", "wire", "--positions", "200000", "--text", text.to_str().unwrap()];
    let program = Program::start(&args, Stdio::null());
    opened(&text).write_all("A lifetime is a name for a region of code. ".repeat(30_000).as_bytes()).unwrap();
    program.interrupt();
    program.ends_interrupted();
}

#[test]
fn split_stops_while_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let config = pipe(folder.path(), "config.json");
    let out = folder.path().join("out");
    let args = ["split", "--model", folder.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
    let program = Program::start(&args, Stdio::null());
    let _writer = opened(&config);
    program.interrupt();
    program.ends_interrupted();
}

#[test]
fn a_second_interrupt_ends_a_node_that_cannot_say_goodbye() {
    let folder = tempfile::tempdir().unwrap();
    let config = pipe(folder.path(), "config.json");
    let shards = folder.path().to_str().unwrap();
    let args = ["node", "--join", "tcp://127.0.0.1:1", "--device", "cpu", "--shards", shards];
    let mut program = Program::start(&args, Stdio::null());
    let _writer = opened(&config);
    let begun = Instant::now();
    while !program.has_ended() {
        assert!(begun.elapsed() < PATIENCE, "still running after many a Ctrl-C");
        program.interrupt();
        std::thread::sleep(Duration::from_millis(50));
    }
    program.ends_interrupted();
}

#[test]
fn coordinator_and_node_leave() {
    let mut coordinator =
        Program::start(&["coordinator", "--json", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"], Stdio::null());
    let mut lines = BufReader::new(coordinator.child().stdout.take().unwrap()).lines();
    let addresses: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let join = format!("tcp://{}", addresses["tcp"].as_str().unwrap());
    let node = Program::start(&["node", "--join", &join, "--device", "cpu", "--name", "guest"], Stdio::null());
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"ready\":true"));
    assert!(ready);
    node.interrupt();
    node.ends_interrupted();
    let gone = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"nodes\":[]"));
    assert!(gone);
    coordinator.interrupt();
    coordinator.ends_interrupted();
}
