//! Several people at one coordinator with real nodes: who asks for much waits behind itself.

use std::sync::mpsc;

use crate::support::{Model, Node};
use syn1_coordinator::access::Access;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::server::Server;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use syn1_node_host::DeviceChoice;

const MUCH: &str = "a-key-that-asks-for-much";
const LITTLE: &str = "a-key-that-asks-for-little";

/// Asks for text and says in the channel when it is complete.
fn ask(server: &Server, key: &'static str, done: &mpsc::Sender<&'static str>) {
    let (url, done) = (format!("http://{}/api/generate", server.http()), done.clone());
    let body = serde_json::json!({ "prompt": "A lifetime", "max_tokens": 40, "ignore_eos": true });
    std::thread::spawn(move || {
        let request = ureq::post(&url).header("authorization", format!("Bearer {key}"));
        let mut answer = request.header("content-type", "application/json").send(body.to_string()).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a text");
        assert!(text.lines().last().is_some_and(|line| line.contains("\"tokens\":40")), "{text}");
        done.send(key).expect("the test waits");
    });
}

async fn until(server: &Server, running: usize, queued: usize) {
    loop {
        let topology = server.topology();
        if (topology.running, topology.queued) == (running, queued) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_question_behind_many_of_somebody_elses_is_the_next_but_one() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let access = Access { users: [MUCH, LITTLE].map(|key| key.parse().unwrap()).into(), ..Access::default() };
    let server =
        model.server_with(Policy::Exactly(1), Form::plain(Codec::F16), 1, Vec::new(), Front::default(), access);
    let weights = Some(model.shards.path().to_owned());
    // Before there is a node everybody waits, so that their order does not hang on how fast it is.
    let (done, order) = mpsc::channel();
    for count in 1..=6 {
        ask(&server, MUCH, &done);
        until(&server, 0, count).await;
    }
    ask(&server, LITTLE, &done);
    until(&server, 0, 7).await;
    let _node = Node::join(&server, "a", &DeviceChoice::Cpu, weights, cache.path());
    // The node computes on this thread's runtime, so another one waits.
    let order = tokio::task::spawn_blocking(move || order.iter().take(7).collect::<Vec<_>>());
    let order = order.await.expect("seven answers");
    assert_eq!(order[1], LITTLE, "{order:?}");
}
