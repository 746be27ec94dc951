//! A node behind a short link joins one behind a long link in mid-text: it takes the layers, and no byte changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::{Model, Running, collect, greedy, ready, syn1};
use serde_json::Value;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::Server;
use syn1_coordinator::update::{Event, Update};
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use tempfile::TempDir;

fn node(address: SocketAddr, name: &str, cache: &TempDir) -> Running {
    let join = format!("tcp://{address}");
    let args = ["node", "--once", "--quiet", "--device", "cpu", "--threads", "1", "--join", &join, "--name", name];
    let mut command = syn1(cache.path());
    command.args(args).arg("--key").arg(cache.path().join(format!("{name}.key"))).stdin(Stdio::null());
    Running(command.spawn().expect("the program starts"))
}

/// A port behind which everything takes [`LATE`] more on its way to `to`. It ends with the test's process.
fn far(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                into.set_nodelay(true).unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 1 << 16];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        thread::sleep(LATE);
                        if into.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    address
}

async fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} in time"));
}

#[tokio::test]
async fn a_node_with_a_shorter_link_takes_the_layers_in_mid_text_and_no_byte_changes() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let server: Server = model.server(Policy::Auto, Form::plain(Codec::F16), 1);
    let mut events = server.events();
    let _far = node(far(server.tcp()), "far", &cache);
    ready(&server).await;
    // As many tokens as fit: with each taking its time on the long link, the other node comes long before the end.
    let ask = greedy(&[1, 2, 3, 4, 5], TOKENS);
    let mut generation = server.generate(ask.clone()).unwrap();
    let mut ids = Vec::new();
    while ids.len() < 10 {
        let Some(Update::Token { id, .. }) = generation.next().await else { panic!("no token") };
        ids.push(id);
    }
    let _near = node(server.tcp(), "near", &cache);
    let (rest, _, end) = collect(generation).await.expect("a text to the end");
    ids.extend(rest);
    assert_eq!(end.figures.tokens, TOKENS);
    let why = loop {
        if let Event::Rebalanced { why } = events.try_recv().expect("an event of the move") {
            break why;
        }
    };
    assert!(why.starts_with("near takes layers 0..8: a token is to take "), "{why}");
    let recovery = server.recovery();
    assert_eq!((recovery.rebalanced, recovery.losses, recovery.restarted, recovery.failed), (1, 0, 0, 0));
    assert!(recovery.rerouted == 1 && recovery.replayed_rows > 0, "in mid-text: {recovery:?}");
    // The same text once more, on the near node alone.
    let (undisturbed, ..) = collect(server.generate(ask).unwrap()).await.unwrap();
    assert_eq!(ids, undisturbed);

    wait_for("the far node is a spare", || server.topology().nodes.iter().any(|node| node.state == "spare")).await;
    let url = format!("http://{}", server.http());
    let output = tokio::task::spawn_blocking(move || {
        let cache = tempfile::tempdir().unwrap();
        syn1(cache.path()).args(["plan", "--json", "--coordinator", &url]).output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["taken"][0]["name"], "near");
    let left = &plan["left_out"][0];
    assert!(left["name"] == "far" && left["why"].as_str().unwrap().contains("would take"), "{plan}");
}

/// Nearly the whole context.
const TOKENS: usize = 500;
/// Half a round trip.
const LATE: Duration = Duration::from_millis(25);
