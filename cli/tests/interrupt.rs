//! Ctrl-C ends every command cleanly.

#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{PATIENCE, syn1};

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Exit code and standard error, within [`PATIENCE`].
fn end(mut child: Child) -> (Option<i32>, String) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "still running after Ctrl-C");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    (child.wait().unwrap().code(), text)
}

fn start(cache: &tempfile::TempDir, args: &[&str]) -> Child {
    let mut command = syn1(cache.path());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn generate_stops_in_mid_sentence() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["generate", "A lifetime", "--nodes", "2", "--max-tokens", "500", "--ignore-eos", "--device", "cpu"];
    let mut child = start(&cache, &args);
    // The prompt is printed when the swarm is ready.
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    assert_eq!(end(child).0, Some(130));
}

#[test]
fn coordinator_and_node_leave() {
    let cache = tempfile::tempdir().unwrap();
    let mut coordinator = start(&cache, &["coordinator", "--json", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let mut lines = BufReader::new(coordinator.stdout.take().unwrap()).lines();
    let addresses: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let join = format!("tcp://{}", addresses["tcp"].as_str().unwrap());
    let node = start(&cache, &["node", "--join", &join, "--device", "cpu", "--name", "guest"]);
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"ready\":true"));
    assert!(ready);
    interrupt(&node);
    let (code, _) = end(node);
    assert_eq!(code, Some(130));
    let gone = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"nodes\":[]"));
    assert!(gone);
    interrupt(&coordinator);
    assert_eq!(end(coordinator).0, Some(130));
}
