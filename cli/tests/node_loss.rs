//! A node that is killed in mid-sentence fails its requests by name; what waits is served by the next chain.

mod support;

use std::process::Stdio;

use support::{Model, Running, collect, greedy, ready, syn1};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::Server;
use syn1_coordinator::update::Update;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use tempfile::TempDir;

fn node(server: &Server, name: &str, cache: &TempDir) -> Running {
    let join = format!("tcp://{}", server.tcp());
    let args = ["node", "--once", "--quiet", "--device", "cpu", "--join", &join, "--name", name];
    Running(syn1(cache.path()).args(args).stdin(Stdio::null()).spawn().expect("the program starts"))
}

#[tokio::test]
async fn a_killed_node_is_named_and_waiting_requests_are_served_by_its_successor() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let server = model.server(Policy::Exactly(2), Form::plain(Codec::F16), 1);
    let cache = tempfile::tempdir().unwrap();
    let _first = node(&server, "first", &cache);
    let second = node(&server, "second", &cache);
    ready(&server).await;

    let mut running = server.generate(greedy(&[1, 2, 3], 500)).unwrap();
    let waiting = server.generate(greedy(&[1, 2, 3], 8)).unwrap();
    for _ in 0..3 {
        assert!(matches!(running.next().await, Some(Update::Token { .. })));
    }
    drop(second);
    let failed = collect(running).await.expect_err("the text cannot go on without its node");
    assert!(failed.contains("second"), "{failed}");
    let topology = server.topology();
    assert!(!topology.ready && topology.nodes.len() == 1, "{topology:?}");

    let _third = node(&server, "third", &cache);
    let (ids, _, end) = collect(waiting).await.expect("the waiting request is served");
    assert_eq!((ids.len(), end.figures.tokens), (8, 8));
}
