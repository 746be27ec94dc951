//! A coordinator with nodes that fetch their shards, asked over HTTP.

use crate::support::{Golden, Model, Node, collect, greedy, ready};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::update::Event;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use syn1_node_host::DeviceChoice;

#[tokio::test]
async fn shards_are_sent_once_and_then_come_from_the_cache() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let mut fetched = Vec::new();
    for _ in 0..2 {
        let server = model.server(Policy::Exactly(2), Form::plain(Codec::F16), 1);
        let mut events = server.events();
        let _nodes = ["a", "b"].map(|name| Node::join(&server, name, &DeviceChoice::Cpu, None, cache.path()));
        ready(&server).await;
        let mut bytes = 0;
        while let Ok(event) = events.try_recv() {
            if let Event::Loaded { fetched_bytes, .. } = event {
                bytes += fetched_bytes;
            }
        }
        fetched.push(bytes);
    }
    assert!(fetched[0] >= model.manifest.total_bytes(), "{fetched:?}");
    assert_eq!(fetched[1], 0);
}

#[tokio::test]
async fn text_streams_over_http() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Auto, Form::plain(Codec::F16), 2);
    let base = format!("http://{}", server.http());
    let url = format!("{base}/ready");
    let before = tokio::task::spawn_blocking(move || ureq::get(&url).call().map(drop)).await.unwrap();
    assert!(matches!(before, Err(ureq::Error::StatusCode(503))), "{before:?}");

    let weights = Some(model.shards.path().to_owned());
    let _node = Node::join(&server, "only", &DeviceChoice::Cpu, weights, cache.path());
    ready(&server).await;
    let golden = Golden::of("models/tiny-rust-docs");
    let (prompt, whole) = (golden.cases[0].prompt.clone().unwrap(), golden.cases[0].text.clone().unwrap());
    let ask = serde_json::json!({ "prompt": prompt, "max_tokens": 64, "sampling": { "temperature": 0.0 } });
    let url = format!("{base}/api/generate");
    let answer = tokio::task::spawn_blocking(move || {
        ureq::post(&url).header("content-type", "application/json").send(ask.to_string())?.body_mut().read_to_string()
    });
    let answer = answer.await.unwrap().unwrap();
    let mut text = prompt;
    for line in answer.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let part = line["token"]["text"].as_str().or(line["finished"]["text"].as_str());
        text.push_str(part.unwrap_or_else(|| panic!("{line}")));
    }
    assert_eq!(text, whole);

    let url = format!("{base}/shards/..%2f..%2fetc%2fpasswd");
    let outside = tokio::task::spawn_blocking(move || ureq::get(&url).call().map(drop)).await.unwrap();
    assert!(matches!(outside, Err(ureq::Error::StatusCode(404))), "{outside:?}");
}

#[tokio::test]
async fn many_requests_at_once_give_what_each_gives_alone() {
    let (golden, model) = (Golden::of("fixtures/gpt2"), Model::split("fixtures/gpt2", WeightFormat::F16));
    let cache = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Exactly(2), Form::plain(Codec::F32), 3);
    let weights = Some(model.shards.path().to_owned());
    let _nodes = ["a", "b"].map(|name| Node::join(&server, name, &DeviceChoice::Cpu, weights.clone(), cache.path()));
    ready(&server).await;
    let cases: Vec<_> = golden.cases.iter().cycle().take(20).collect();
    let asked: Vec<_> = cases.iter().map(|case| server.generate(greedy(&case.ids, 24)).unwrap()).collect();
    // A request that is given up frees its place.
    drop(server.generate(greedy(&[1], 200)).unwrap());
    for (case, generation) in cases.iter().zip(asked) {
        assert_eq!(collect(generation).await.unwrap().0, case.greedy);
    }
    assert_eq!(server.topology().running, 0);
}
