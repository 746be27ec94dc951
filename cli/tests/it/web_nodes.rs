//! Nodes that join at the HTTP port, with and without TLS, by the link and its code.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Golden, Model, Node, Running, collect, greedy, node, ready, syn1};
use syn1_coordinator::access::Access;
use syn1_coordinator::door::JoinCode;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::Server;
use syn1_coordinator::tls::Tls;
use syn1_coordinator::update::Event;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use syn1_node_host::{DeviceChoice, Digest, HostConfig, HostError, Trust};

const F32: Form = Form::plain(Codec::F32);

/// A front with an authority of its own and the code "ABCD-EFGH".
fn front(folder: &Path) -> Front {
    let lasts = Duration::from_secs(3600);
    let code = JoinCode::Chosen { code: "ABCDEFGH".parse().unwrap(), lasts };
    Front { tls: Tls::Auto { folder: folder.to_owned() }, code, ..Front::default() }
}

/// A link that is spelled otherwise: another way, name or code.
fn link(server: &Server, scheme: &str, host: &str, code: &str) -> String {
    format!("{scheme}://{host}:{}/join#{code}", server.http().port())
}

/// What plain HTTP gives for a path at `localhost`.
fn plain(http: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

async fn fate(config: HostConfig) -> HostError {
    let serving = syn1_node_host::serve(config, |_| {}, std::future::pending());
    tokio::time::timeout(crate::support::PATIENCE, serving).await.expect("an end in time").expect_err("it may not join")
}

#[tokio::test]
async fn nodes_by_tcp_by_web_socket_and_by_either_with_tls_write_the_golden_text_together() {
    let (golden, model) =
        (Golden::of("models/tiny-rust-docs"), Model::split("models/tiny-rust-docs", WeightFormat::F16));
    let (data, caches) = (tempfile::tempdir().unwrap(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
    let server = model.server_with(Policy::Exactly(4), F32, 1, Vec::new(), front(data.path()), Access::default());
    let mut events = server.events();
    let invitation = server.join_link();
    assert!(invitation.url().starts_with("https://127.0.0.1:") && invitation.url().ends_with("/join#ABCD-EFGH"));
    let fingerprint = Trust::Fingerprint(invitation.authority.unwrap());
    let joins = [
        (format!("tcp://{}", server.tcp()), Trust::System),
        (format!("tls://{}", server.tcp()), fingerprint.clone()),
        // To localhost without TLS, as browsers may.
        (link(&server, "ws", "localhost", "abcd-efgh"), Trust::System),
        (invitation.url(), fingerprint),
    ];
    // Each has a cache of its own, so each fetches its layers, those with TLS by HTTPS.
    let _nodes: Vec<Node> = joins
        .into_iter()
        .zip(&caches)
        .map(|((join, trust), cache)| Node::start(node(&join, trust, &join, &DeviceChoice::Cpu, None, cache.path())))
        .collect();
    ready(&server).await;
    let case = &golden.cases[0];
    let (ids, _, _) = collect(server.generate(greedy(&case.ids, case.greedy.len())).unwrap()).await.unwrap();
    assert_eq!(ids, case.greedy);
    let mut fetched = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Loaded { fetched_bytes, .. } = event {
            fetched.push(fetched_bytes);
        }
    }
    assert!(fetched.len() == 4 && fetched.iter().all(|bytes| *bytes > 0), "{fetched:?}");
}

#[tokio::test]
async fn an_authority_is_trusted_by_its_file_or_its_fingerprint_and_by_nothing_else() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F32);
    let data = tempfile::tempdir().unwrap();
    let server = model.server_with(Policy::Exactly(1), F32, 1, Vec::new(), front(data.path()), Access::default());
    let url = server.join_link().url();
    let join = |url: &str, trust| node(url, trust, "tester", &DeviceChoice::Cpu, None, data.path());

    for (trust, word) in
        [(Trust::System, "nobody that this machine trusts"), (Trust::Fingerprint(Digest([7; 32])), "that fingerprint")]
    {
        let error = fate(join(&url, trust)).await;
        assert!(matches!(error, HostError::Untrusted { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(word) && error.contains("--tls-fingerprint") && error.contains("/ca.crt"), "{error}");
    }

    let file = data.path().join("ca.crt");
    let http = server.http();
    std::fs::write(&file, tokio::task::spawn_blocking(move || plain(http, "/ca.crt")).await.unwrap()).unwrap();
    let _node = Node::start(join(&url, Trust::Authority(file.clone())));
    ready(&server).await;

    // Whoever asks for the plan trusts in the same ways.
    let at = format!("https://{http}");
    let authority = server.join_link().authority.unwrap().to_string();
    let plan = |trust: [&str; 2]| {
        let mut command = syn1(data.path());
        command.args(["plan", "--json", "--coordinator", &at]).args(trust);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    for trust in [["--tls-ca", file.to_str().unwrap()], ["--tls-fingerprint", &authority]] {
        let output = plan(trust).await.unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(plan["taken"][0]["name"], "tester");
    }
    let output = plan(["--tls-fingerprint", &"07".repeat(32)]).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&format!("has the SHA-256 {authority}, not 0707")), "{said}");
}

#[tokio::test]
async fn a_wrong_join_code_is_refused_with_a_sentence_and_guessing_ends() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F32);
    let data = tempfile::tempdir().unwrap();
    let server = model.server_with(Policy::Exactly(1), F32, 1, Vec::new(), front(data.path()), Access::default());
    let join = |code: &str| {
        let url = link(&server, "http", "127.0.0.1", code);
        node(&url, Trust::System, "tester", &DeviceChoice::Cpu, None, data.path())
    };
    let error = fate(join("")).await;
    assert!(
        matches!(error, HostError::Unwanted { .. }) && error.to_string().contains("a join code is needed"),
        "{error}"
    );
    for _ in 0..5 {
        let error = fate(join("WRONGONE")).await;
        assert!(matches!(error, HostError::Unwanted { .. }), "{error}");
        assert!(error.to_string().contains("the join code is wrong or has expired"), "{error}");
    }
    let error = fate(join("ABCDEFGH")).await.to_string();
    assert!(error.contains("too many wrong join codes"), "{error}");
    assert!(server.topology().nodes.is_empty());
}

#[tokio::test]
async fn what_is_no_coordinator_is_named_with_what_to_do() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F32);
    let data = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Auto, F32, 1);
    let join = |url: &str| node(url, Trust::System, "tester", &DeviceChoice::Cpu, None, data.path());
    let error = fate(join(&format!("wss://{}", server.http()))).await.to_string();
    assert!(error.contains("speaks no TLS: join by ws://"), "{error}");
    let error = fate(join(&format!("tls://{}", server.tcp()))).await.to_string();
    assert!(error.contains("speaks no TLS: join by tcp://"), "{error}");
    let error = fate(join(&format!("ws://{}", server.tcp()))).await.to_string();
    assert!(error.contains("is that the HTTP port of a syn1 coordinator?"), "{error}");
}

#[test]
fn the_link_that_the_program_prints_lets_another_one_in_and_is_shown_to_this_machine_alone() {
    let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut coordinator = syn1(data.path());
    coordinator.args(["coordinator", "--json", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--nodes", "1"]);
    coordinator.args(["--tls", "auto", "--join-code", "auto"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut coordinator = Running(coordinator.spawn().unwrap());
    let mut lines = BufReader::new(coordinator.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    let (url, fingerprint) = (first["join"].as_str().unwrap(), first["ca_sha256"].as_str().unwrap());
    let (page, code) = url.split_once('#').unwrap();

    let http: SocketAddr = first["http"].as_str().unwrap().parse().unwrap();
    let join: serde_json::Value = serde_json::from_str(&plain(http, "/api/join")).unwrap();
    assert_eq!((join["url"].as_str(), join["code"].as_str()), (Some(page), Some(code)));
    assert_eq!(join["ca_fingerprint"].as_str(), Some(fingerprint));
    assert!(join["qr_svg"].as_str().unwrap().starts_with("<svg"), "{join}");

    let mut node = syn1(cache.path());
    node.args(["node", "--once", "--json", "--device", "cpu", "--join", url, "--tls-fingerprint", fingerprint]);
    let mut node = Running(node.stdout(Stdio::piped()).spawn().unwrap());
    let news = BufReader::new(node.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let news: Vec<String> = news.take_while(|line| !line.contains("\"event\":\"ready\"")).collect();
    assert!(news.iter().any(|line| line.contains("\"event\":\"joined\"")), "{news:?}");
    assert!(!news.iter().any(|line| line.contains(code)), "a code is not for logs: {news:?}");
    assert!(lines.any(|line| line.contains("\"ready\":true")));
}
