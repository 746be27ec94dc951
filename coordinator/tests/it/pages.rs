//! The pages and the events as a browser or curl gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use syn1_coordinator::server::Server;

fn server() -> Server {
    Server::start(crate::support::server_config()).unwrap()
}

/// A connection that has asked for `path`.
fn ask(server: &Server, path: &str, headers: &str) -> TcpStream {
    let mut link = TcpStream::connect(server.http()).unwrap();
    link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(link, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n").unwrap();
    link
}

/// The whole answer: its head in lower case, and its body.
fn answer(server: &Server, path: &str, headers: &str) -> (String, String) {
    let mut said = String::new();
    ask(server, path, headers).read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

const BROWSER: &str = "accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

#[test]
fn browsers_get_pages_that_may_load_nothing_from_elsewhere() {
    let server = server();
    for path in ["/", "/chat", "/swarm", "/join", "/bench"] {
        let (head, body) = answer(&server, path, BROWSER);
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(head.contains("content-type: text/html; charset=utf-8"), "{path}: {head}");
        assert!(body.starts_with("<!doctype html>") && body.contains("<main"), "{path}");
        let policy = head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
        for rule in ["default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe-inline") && !policy.contains("'unsafe-eval'"), "{policy}");
        assert!(head.contains("x-content-type-options: nosniff") && !head.contains("set-cookie"), "{head}");
    }
}

#[test]
fn files_have_their_types_and_a_tag_that_saves_sending_them_again() {
    let server = server();
    for (path, mime) in [
        ("/pages/chat.js", "text/javascript; charset=utf-8"),
        ("/pages/style.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        let (head, body) = answer(&server, path, "");
        assert!(head.contains(&format!("content-type: {mime}")) && !body.is_empty(), "{path}: {head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let (head, body) = answer(&server, path, &format!("if-none-match: {tag}\r\n"));
        assert!(head.starts_with("http/1.1 304") && body.is_empty(), "{path}: {head}");
        let (head, _) = answer(&server, path, "if-none-match: \"another\"\r\n");
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
    }
    let (head, _) = answer(&server, "/pages/../Cargo.toml", "");
    assert!(head.starts_with("http/1.1 404"), "{head}");
}

#[test]
fn without_a_browser_the_first_page_is_plain_text() {
    let server = server();
    for accept in ["", "accept: */*\r\n"] {
        let (head, body) = answer(&server, "/", accept);
        assert!(head.contains("content-type: text/plain") && head.contains("vary: accept"), "{head}");
        assert!(body.contains("syn1 serves toy (4 layers)"), "{body}");
    }
}

/// The next event of a stream.
fn next(events: &mut impl BufRead) -> serde_json::Value {
    loop {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0, "the events ended");
        if let Some(json) = line.strip_prefix("data: ") {
            return serde_json::from_str(json).unwrap();
        }
    }
}

#[test]
fn events_begin_with_the_state_and_go_on_with_what_happens() {
    let server = server();
    let mut events = BufReader::new(ask(&server, "/api/events", ""));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(events.read_line(&mut head).unwrap() > 0);
    }
    assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
    let state = next(&mut events);
    assert_eq!((state["event"].as_str(), state["data"]["model"].as_str()), (Some("topology"), Some("toy")));
    assert_eq!((state["data"]["chat"].as_bool(), state["data"]["max_positions"].as_u64()), (Some(false), Some(64)));
    let figures = next(&mut events);
    assert_eq!((figures["event"].as_str(), figures["data"]["running"].as_u64()), (Some("figures"), Some(0)));
    assert_eq!(figures["data"]["passes"], serde_json::json!([]));
    // Somebody who does not speak SYN1.
    TcpStream::connect(server.tcp()).unwrap().write_all(&[0xFF; 64]).unwrap();
    let refused = next(&mut events);
    assert_eq!(refused["event"], "refused");
    assert!(refused["data"]["why"].is_string() && refused["at"].as_u64() > Some(1_700_000_000_000), "{refused}");
    assert_eq!(next(&mut events)["event"], "topology");
    // Who comes later is told of it too.
    let mut later = BufReader::new(ask(&server, "/api/events", ""));
    assert_eq!(next(&mut later)["event"], "topology");
    assert_eq!(next(&mut later), refused);
}

#[test]
fn a_watcher_that_goes_away_is_let_go() {
    let server = server();
    // Many more than may watch at a time.
    for _ in 0..300 {
        let mut events = BufReader::new(ask(&server, "/api/events", ""));
        let mut status = String::new();
        events.read_line(&mut status).unwrap();
        if !status.starts_with("HTTP/1.1 200") {
            // The last ones' ends have not been noticed yet.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let begun = std::time::Instant::now();
    loop {
        let mut status = String::new();
        BufReader::new(ask(&server, "/api/events", "")).read_line(&mut status).unwrap();
        if status.starts_with("HTTP/1.1 200") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
