//! A coordinator that is killed and started again at the same address: its nodes come back by themselves, with the layers that
//! they had, and nothing is sent again. Codes and what is known of nodes are kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Running, syn1};
use serde_json::Value;

/// A port that nobody listens at.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Place<'a> {
    folder: &'a Path,
    http: SocketAddr,
    tcp: SocketAddr,
}

impl Place<'_> {
    fn coordinator(&self, more: &[&str]) -> Running {
        let (http, tcp) = (self.http.to_string(), self.tcp.to_string());
        let mut command = syn1(self.folder);
        command.args(["coordinator", "--nodes", "2", "--wire", "f32", "--http", &http, "--tcp", &tcp]).args(more);
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn node(&self, name: &str) -> Running {
        let (join, key) = (format!("tcp://{}", self.tcp), self.folder.join(format!("{name}.key")));
        // Each with a cache of its own, as on a machine of its own.
        let mut command = syn1(&self.folder.join(name));
        command.args([
            "node",
            "--quiet",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--join",
            &join,
            "--name",
            name,
            "--key",
        ]);
        Running(command.arg(key).stdin(Stdio::null()).spawn().unwrap())
    }

    /// Status and body; nothing while nobody listens, or where the answer broke off.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut link = TcpStream::connect(self.http).ok()?;
        link.set_read_timeout(Some(PATIENCE)).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.http,
            body.len()
        );
        link.write_all(format!("{head}{body}").as_bytes()).ok()?;
        let mut answer = String::new();
        link.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// Waits until the coordinator answers: a node that finds nobody at its first try ends.
    fn listens(&self) {
        let begun = Instant::now();
        while self.ask("GET", "/health", "").is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ready(&self) -> Value {
        let begun = Instant::now();
        while self.ask("GET", "/ready", "").is_none_or(|(status, _)| status != 200) {
            assert!(begun.elapsed() < PATIENCE, "not ready: {:?}", self.ask("GET", "/api/topology", ""));
            std::thread::sleep(Duration::from_millis(20));
        }
        serde_json::from_str(&self.ask("GET", "/api/topology", "").unwrap().1).unwrap()
    }

    fn text(&self) -> String {
        let ask = r#"{"prompt": "How do I use a HashMap?", "max_tokens": 48, "temperature": 0}"#;
        let (status, body) = self.ask("POST", "/v1/completions", ask).unwrap();
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    /// What has happened so far.
    fn events(&self) -> Vec<Value> {
        let mut link = TcpStream::connect(self.http).unwrap();
        link.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(link, "GET /api/events HTTP/1.0\r\nhost: {}\r\n\r\n", self.http).unwrap();
        let lines = BufReader::new(link).lines().map(Result::unwrap);
        let data = lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
        // Figures come behind the past.
        data.take_while(|event: &Value| event["event"] != "figures").collect()
    }

    fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, body) = self.ask(method, path, body).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// Who has which layers.
fn layers(topology: &Value) -> Vec<(String, Value)> {
    let nodes = topology["nodes"].as_array().unwrap().iter();
    let mut layers: Vec<_> =
        nodes.map(|node| (node["name"].as_str().unwrap().to_owned(), node["layers"].clone())).collect();
    layers.sort_by(|a, b| a.0.cmp(&b.0));
    layers
}

#[test]
fn nodes_come_back_to_a_killed_coordinator_with_the_layers_that_they_had_and_nothing_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (http, tcp) = (([127, 0, 0, 1], port()).into(), ([127, 0, 0, 1], port()).into());
    let place = Place { folder: folder.path(), http, tcp };
    let first = place.coordinator(&[]);
    place.listens();
    let _nodes = [place.node("one"), place.node("two")];
    let before = place.ready();
    let text = place.text();
    // What is remembered is written a moment later.
    std::thread::sleep(Duration::from_millis(300));
    drop(first);

    let _second = place.coordinator(&[]);
    let after = place.ready();
    assert_eq!(layers(&after), layers(&before));
    assert!(after["reason"].as_str().unwrap().contains("where they lay before"), "{after}");
    assert_eq!(place.text(), text);
    let known = place.json("GET", "/api/admin/nodes", "");
    let mut names: Vec<&str> = known.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    assert!(known[0]["layer_ns"].as_u64().unwrap() > 0);
    // Every node has its shard again, and none fetched a byte for it.
    let loaded = place.events().into_iter().filter(|event| event["event"] == "loaded");
    let fetched: Vec<Value> = loaded.map(|event| event["data"]["fetched_bytes"].clone()).collect();
    assert_eq!(fetched, [0, 0]);
}

#[test]
fn codes_are_kept_over_a_restart_and_a_revoked_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (http, tcp) = (([127, 0, 0, 1], port()).into(), ([127, 0, 0, 1], port()).into());
    let place = Place { folder: folder.path(), http, tcp };
    let at = format!("http://{http}");
    let code = |args: &[&str]| {
        let output = syn1(folder.path()).arg("code").args(args).args(["--json", "--at", &at]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = place.coordinator(&["--join-code", "auto"]);
    place.listens();
    let shown = code(&["list"])[0]["code"].as_str().unwrap().to_owned();
    let kept = code(&["new", "--hours", "3"])["code"].as_str().unwrap().to_owned();
    let revoked = code(&["new"])["code"].as_str().unwrap().to_owned();
    code(&["revoke", &revoked.to_lowercase()]);
    std::thread::sleep(Duration::from_millis(300));
    drop(first);

    let _second = place.coordinator(&["--join-code", "auto"]);
    place.listens();
    let codes = code(&["list"]);
    let names: Vec<&str> = codes.as_array().unwrap().iter().map(|code| code["code"].as_str().unwrap()).collect();
    assert_eq!(names, [shown.as_str(), kept.as_str()]);
    assert!(codes[1]["expires_s"].as_u64().unwrap() <= 3 * 3600);
    let output = syn1(folder.path()).args(["code", "revoke", &revoked, "--at", &at]).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no such code"));
    let join = place.json("GET", "/api/join", "");
    assert_eq!(join["code"].as_str(), Some(shown.as_str()));
    assert!(join["code_expires_s"].as_u64().unwrap() > 0);
}

#[test]
fn a_damaged_state_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("state.redb"), vec![7; 100_000]).unwrap();
    let mut command = syn1(folder.path());
    command.args(["coordinator", "--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--state"]).arg(&state);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("state.redb is damaged") && said.contains("move it away"),
        "{said}"
    );
}
