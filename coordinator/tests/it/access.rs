//! Who is let in over HTTP, asked as a program would that knows no better: by hand, byte for byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::time::Duration;

use syn1_coordinator::access::Access;
use syn1_coordinator::front::Front;
use syn1_coordinator::server::{Server, ServerConfig};

const USER: &str = "user-key-0123456789";
const ADMIN: &str = "admin-key-0123456789";

fn server(access: Access) -> Server {
    let front = Front { names: vec!["syn1.example.org".into()], ..Front::default() };
    Server::start(ServerConfig { front, access, ..crate::support::server_config() }).unwrap()
}

fn locked() -> Access {
    Access { users: vec![USER.parse().unwrap()], admins: vec![ADMIN.parse().unwrap()], ..Access::default() }
}

/// Status and the whole answer, head included.
fn ask(server: &Server, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut link = TcpStream::connect(server.http()).unwrap();
    link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut request = format!("{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in [("host", "127.0.0.1"), ("content-type", "application/json")].iter().chain(headers) {
        let is_replaced = headers.iter().filter(|(its, _)| its == name).count() > 0;
        if !is_replaced || headers.contains(&(*name, *value)) {
            request += &format!("{name}: {value}\r\n");
        }
    }
    link.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    link.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer}")), answer.to_ascii_lowercase())
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[test]
fn text_needs_a_users_key_and_figures_an_admins() {
    let server = server(locked());
    let status = |line: &str, key: Option<&str>| {
        let bearer = key.map(bearer);
        let headers: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        ask(&server, line, &headers, "").0
    };
    for line in ["GET /v1/models", "POST /api/generate", "POST /v1/completions", "POST /v1/chat/completions", "GET /v1"]
    {
        assert_eq!(status(line, None), 401, "{line}");
        assert_eq!(status(line, Some("user-key-0123456780")), 401, "{line}");
    }
    assert_eq!([None, Some(USER), Some(ADMIN)].map(|key| status("GET /v1/models", key)), [401, 200, 200]);
    assert_eq!([None, Some(USER), Some(ADMIN)].map(|key| status("GET /metrics", key)), [401, 401, 200]);
    // Nodes have keys of their own, and whoever looks after the process needs none.
    for (line, wanted) in [("GET /health", 200), ("GET /ready", 503), ("GET /api/join", 200), ("GET /shards/x", 404)] {
        assert_eq!(status(line, None), wanted, "{line}");
    }
    // Who computes what is for those who may ask for text.
    assert_eq!([None, Some(USER), Some(ADMIN)].map(|key| status("GET /api/topology", key)), [401, 200, 200]);
    assert_eq!([None, Some(USER), Some(ADMIN)].map(|key| status("GET /api/plan", key)), [401, 503, 503]);
    assert_eq!(status("GET /api/events", None), 401);
    let (_, home) = ask(&server, "GET /", &[], "");
    assert!(home.contains("serves toy") && home.contains("api key"), "{home}");
    let (_, refused) = ask(&server, "GET /v1/models", &[], "");
    assert!(refused.contains("www-authenticate: bearer") && refused.contains("invalid_api_key"), "{refused}");
    let (_, metrics) = ask(&server, "GET /metrics", &[("authorization", &bearer(ADMIN))], "");
    assert!(metrics.contains("syn1_http_refused_total{status=\"401\"}"), "{metrics}");
}

#[test]
fn a_name_that_a_stranger_owns_is_no_way_in() {
    let server = server(Access::default());
    let status = |line: &str, host: &str| ask(&server, line, &[("host", host)], "").0;
    for line in ["GET /api/topology", "GET /v1/models", "GET /metrics", "GET /"] {
        assert_eq!(status(line, "evil.example:7780"), 403, "{line}");
        assert_eq!(status(line, "syn1.example.org"), 200, "{line}");
        assert_eq!(status(line, "localhost:7780"), 200, "{line}");
    }
    // A node may have any name for its coordinator.
    assert_eq!(status("GET /shards/x", "evil.example"), 404);
}

#[test]
fn pages_of_other_sites_ask_only_where_that_is_allowed() {
    let origin = ("origin", "https://chat.example.org");
    let closed = server(Access::default());
    let (status, answer) = ask(&closed, "GET /v1/models", &[origin], "");
    assert!(status == 403 && answer.contains("--cors") && !answer.contains("access-control-allow"), "{answer}");
    let own = format!("http://{}", closed.http());
    let host = closed.http().to_string();
    assert_eq!(ask(&closed, "GET /v1/models", &[("host", &host), ("origin", &own)], "").0, 200);

    let allowed = Access { origins: vec!["https://chat.example.org".parse().unwrap()], ..locked() };
    let server = server(allowed);
    let preflight = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-stainless-lang"),
    ];
    // A browser asks first, and sends no key with it.
    let (status, answer) = ask(&server, "OPTIONS /v1/chat/completions", &preflight, "");
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://chat.example.org"), "{answer}");
    assert!(answer.contains("x-stainless-lang"), "{answer}");
    assert_eq!(ask(&server, "GET /v1/models", &[origin], "").0, 401);
    assert_eq!(ask(&server, "GET /v1/models", &[origin, ("authorization", &bearer(USER))], "").0, 200);
    assert_eq!(ask(&server, "GET /v1/models", &[("origin", "null"), ("authorization", &bearer(USER))], "").0, 403);
    // A form of a page would be sent without asking first: it is not read.
    let form =
        ask(&server, "POST /v1/completions", &[("content-type", "text/plain"), ("authorization", &bearer(USER))], "{}");
    assert!((400..500).contains(&form.0), "{}", form.1);
}

#[test]
fn whoever_asks_too_often_waits_and_others_do_not() {
    let other = "other-key-0123456789";
    let users = vec![USER.parse().unwrap(), other.parse().unwrap()];
    let server = server(Access { per_minute: NonZeroU32::new(6), users, ..Access::default() });
    let models = |key: &str| ask(&server, "GET /v1/models", &[("authorization", &bearer(key))], "");
    assert_eq!(models(USER).0, 200);
    let (status, answer) = models(USER);
    assert_eq!(status, 429, "{answer}");
    let wait: u64 = answer.split("retry-after: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok()).unwrap();
    assert!((1..=10).contains(&wait) && answer.contains("rate_limit_exceeded"), "{answer}");
    assert_eq!(models(other).0, 200);
    // Whoever guesses keys is slowed down as well, by address.
    assert_eq!([0, 1].map(|n| models(&format!("guessed-key-01234{n}")).0), [401, 429]);
    assert_eq!(ask(&server, "GET /ready", &[], "").0, 503, "what is open has no rate");
    let state = |_| ask(&server, "GET /api/topology", &[("authorization", &bearer(USER))], "").0;
    assert_eq!([0, 1].map(state), [200, 200], "nor has looking on");
}

#[test]
fn what_is_not_there_is_told_in_the_shape_of_the_api() {
    let server = server(Access::default());
    let (status, answer) = ask(&server, "POST /v1/completions", &[], "{\"prompt\": [1, 2]}");
    // The toy has no tokenizer.
    assert!(status == 400 && answer.contains("/api/generate"), "{answer}");
    for (line, wanted) in [("GET /v1/nothing", 404), ("GET /v1/completions", 405), ("GET /v1/models/other", 404)] {
        let (status, answer) = ask(&server, line, &[], "");
        assert!(status == wanted && answer.contains("\"error\":{"), "{line}: {answer}");
    }
}

/// Asks for text that nobody computes; the status and what the head says, and the connection, on which it is waited.
fn wait(server: &Server, key: &str) -> (u16, String, TcpStream) {
    let mut link = TcpStream::connect(server.http()).unwrap();
    link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = r#"{"ids": [1], "max_tokens": 1}"#;
    let head = "POST /api/generate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n";
    let request = format!("{head}authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    link.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        link.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, link)
}

#[test]
fn who_asks_for_too_much_is_turned_away_and_others_are_heard_until_all_lines_are_full() {
    let users: Vec<String> = (0..5).map(|user| format!("user-key-000000000{user}")).collect();
    let server = server(Access { users: users.iter().map(|key| key.parse().unwrap()).collect(), ..Access::default() });
    let mut waiting = Vec::new();
    for user in &users[..4] {
        for _ in 0..64 {
            let (status, head, link) = wait(&server, user);
            assert_eq!(status, 200, "{head}");
            waiting.push(link);
        }
        let (status, head, _) = wait(&server, user);
        assert!(status == 429 && head.contains("retry-after: "), "{head}");
    }
    assert_eq!(server.topology().queued, 256);
    let (status, head, _) = wait(&server, &users[4]);
    assert!(status == 503 && head.contains("retry-after: "), "{head}");
    // Whoever goes away makes room at once.
    drop(waiting.pop());
    while server.topology().queued == 256 {
        std::thread::yield_now();
    }
    assert_eq!(wait(&server, &users[4]).0, 200);
    let key = bearer(&users[0]);
    let (_, figures) = ask(&server, "GET /metrics", &[("authorization", &key)], "");
    for line in ["syn1_http_refused_total{status=\"429\"} 4", "syn1_http_refused_total{status=\"503\"} 1"] {
        assert!(figures.contains(line), "{line} is not in {figures}");
    }
}

#[test]
fn what_is_kept_for_replays_and_what_moved_are_among_the_figures() {
    let server = server(Access::default());
    let (_, figures) = ask(&server, "GET /metrics", &[], "");
    for name in ["syn1_replay_bytes", "syn1_replays_dropped_total", "syn1_rows_replayed_total", "syn1_rebalanced_total"]
    {
        assert!(figures.contains(&format!("{name} 0\n")), "{name} is not in {figures}");
    }
}

#[test]
fn whoever_waits_when_the_coordinator_ends_is_told_to_ask_again() {
    let server = server(locked());
    let (status, head, mut link) = wait(&server, USER);
    assert_eq!(status, 200, "{head}");
    drop(server);
    let mut rest = String::new();
    link.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("repeat the request"), "{rest:?}");
}
