//! KV caches of answered requests, taken over by prompts that begin with the same tokens: on real nodes, with and without.

use crate::support::{Model, Node, collect, greedy, ready};
use syn1_coordinator::access::Access;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::Server;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use syn1_node_host::DeviceChoice;
use tempfile::TempDir;

/// A server with nodes that compute on the CPU.
async fn swarm(model: &Model, nodes: &[&str], form: Form, slots: usize, cache: &TempDir) -> (Server, Vec<Node>) {
    let server = model.server(Policy::Exactly(nodes.len()), form, slots);
    let weights = Some(model.shards.path().to_owned());
    let join = |name: &&str| Node::join(&server, name, &DeviceChoice::Cpu, weights.clone(), cache.path());
    let nodes = nodes.iter().map(join).collect();
    ready(&server).await;
    (server, nodes)
}

/// How the tokens of a conversation are chosen.
fn samplings() -> [Sampling; 3] {
    let likeliest = Sampling { temperature: 0.0, ..Sampling::default() };
    let drawn = Sampling { temperature: 0.9, top_k: 20, seed: 7, ..Sampling::default() };
    // All logits in place of the likeliest: the last node is told anew what its outputs hold.
    let all =
        Sampling { temperature: 1.1, top_k: 0, top_p: 1.0, repetition_penalty: 1.2, seed: 9, ..Sampling::default() };
    [likeliest, drawn, all]
}

/// Three turns, each with the whole conversation before it as its prompt; each draws in its own way. Gives what each answered
/// and how many tokens of its prompt were there.
async fn conversation(server: &Server, first: u32, speculate: usize) -> Vec<(Vec<u32>, usize)> {
    let mut ids: Vec<u32> = (0..40).map(|at| first + at * 3).collect();
    let mut turns = Vec::new();
    for sampling in samplings() {
        let ask = Generate { sampling, speculate, ..greedy(&ids, 30) };
        let (answer, _, end) = collect(server.generate(ask).unwrap()).await.unwrap();
        ids.extend(&answer);
        ids.extend((0..5).map(|at| 200 + at));
        turns.push((answer, end.figures.cached));
    }
    turns
}

#[tokio::test]
async fn a_text_is_the_same_with_what_an_earlier_one_left_and_without() {
    for (nodes, form) in [(&["a"][..], "f16"), (&["a", "b"], "f32"), (&["a", "b", "c"], "q8+compressed")] {
        // On a busy machine nodes that are alike find each other's pace changed, and layers move, which drops what is kept.
        let mut tries = 1;
        while !compared(nodes, Form::from_name(form).unwrap()).await {
            tries += 1;
            assert!(tries <= 5, "layers moved under every conversation on {nodes:?}");
        }
    }
}

/// Conversations on a swarm that keeps KV caches, beside one that does not. Says whether layers stayed where they were; if not,
/// only the texts are compared.
async fn compared(nodes: &[&'static str], form: Form) -> bool {
    let cache = tempfile::tempdir().unwrap();
    let with = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let without = Model { prefix_cache: PrefixCache::Off, ..Model::split("models/tiny-rust-docs", WeightFormat::F16) };
    let (plain, _plain) = swarm(&without, nodes, form, 2, &cache).await;
    let (server, _nodes) = swarm(&with, nodes, form, 2, &cache).await;
    let mut cached = Vec::new();
    for (first, speculate) in [(1, 0), (2, 4)] {
        let expected = conversation(&plain, first, speculate).await;
        let found = conversation(&server, first, speculate).await;
        let texts = |turns: &[(Vec<u32>, usize)]| turns.iter().map(|turn| turn.0.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&found), texts(&expected), "{form}");
        cached.push(found.iter().map(|turn| turn.1).collect::<Vec<_>>());
        assert!(expected.iter().all(|turn| turn.1 == 0));
    }
    assert_eq!((server.recovery().restarted, plain.prefixes().kept), (0, 0));
    if server.recovery().rebalanced > 0 {
        return false;
    }
    // All that was there: prompt and answer, but the answer's last token, which nobody has computed.
    assert_eq!(cached, [[0, 40 + 29, 40 + 30 + 5 + 29]; 2]);
    let prefixes = server.prefixes();
    assert_eq!((prefixes.hits, prefixes.kept, prefixes.dropped), (4, 2, 0), "{prefixes:?}");
    true
}

#[tokio::test]
async fn what_is_kept_gives_way_to_whoever_comes() {
    let cache = tempfile::tempdir().unwrap();
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let (server, _nodes) = swarm(&model, &["a", "b"], Form::plain(Codec::F16), 2, &cache).await;
    let ask = |first: u32| greedy(&(0..20).map(|at| first + at * 3).collect::<Vec<_>>(), 5);
    for first in 1..=5 {
        collect(server.generate(ask(first)).unwrap()).await.unwrap();
    }
    let prefixes = server.prefixes();
    assert_eq!((prefixes.kept, prefixes.hits, prefixes.evicted), (2, 0, 3));
    // The two that were used last are there, and a request that runs has its place beside others.
    let both = [5, 4].map(|first| server.generate(ask(first)).unwrap());
    for generation in both {
        let (_, _, end) = collect(generation).await.unwrap();
        assert_eq!(end.figures.cached, 19);
    }
    assert_eq!(server.prefixes().evicted, 3);
}

#[tokio::test]
async fn a_lost_node_takes_what_was_kept_with_it_and_the_next_turn_is_computed() {
    let cache = tempfile::tempdir().unwrap();
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let (server, mut nodes) = swarm(&model, &["a", "b"], Form::plain(Codec::F32), 2, &cache).await;
    let prompt: Vec<u32> = (0..40).collect();
    let (first, _, _) = collect(server.generate(greedy(&prompt, 30)).unwrap()).await.unwrap();
    let longer = [prompt.clone(), first.clone()].concat();
    let (second, _, end) = collect(server.generate(greedy(&longer, 30)).unwrap()).await.unwrap();
    assert_eq!(end.figures.cached, 69);
    drop(nodes.pop());
    while server.prefixes().kept > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let weights = Some(model.shards.path().to_owned());
    nodes.push(Node::join(&server, "c", &DeviceChoice::Cpu, weights, cache.path()));
    ready(&server).await;
    let (again, _, end) = collect(server.generate(greedy(&longer, 30)).unwrap()).await.unwrap();
    assert_eq!((again, end.figures.cached), (second, 0));
    assert_eq!(server.prefixes().dropped, 1);
}

#[tokio::test]
async fn nobody_sees_what_another_key_has_asked() {
    let cache = tempfile::tempdir().unwrap();
    let keys = ["the-key-of-somebody", "the-key-of-another"];
    for (sharing, foreign) in [(PrefixCache::Own, 0), (PrefixCache::Shared, 39)] {
        let model = Model { prefix_cache: sharing, ..Model::split("models/tiny-rust-docs", WeightFormat::F16) };
        let access = Access { users: keys.map(|key| key.parse().unwrap()).into(), ..Access::default() };
        let form = Form::plain(Codec::F16);
        let server = model.server_with(Policy::Exactly(1), form, 4, Vec::new(), Front::default(), access);
        let weights = Some(model.shards.path().to_owned());
        let _node = Node::join(&server, "a", &DeviceChoice::Cpu, weights, cache.path());
        ready(&server).await;
        let url = format!("http://{}/v1/completions", server.http());
        let cached = async |key: &str| {
            let prompt: Vec<u32> = (0..40).collect();
            let body = serde_json::json!({ "prompt": prompt, "max_tokens": 2, "temperature": 0 }).to_string();
            let request = ureq::post(&url).header("authorization", format!("Bearer {key}"));
            let request = request.header("content-type", "application/json");
            let answer = tokio::task::spawn_blocking(move || request.send(body)?.body_mut().read_to_string());
            let answer: serde_json::Value = serde_json::from_str(&answer.await.unwrap().unwrap()).unwrap();
            answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
        };
        assert_eq!([cached(keys[0]).await, cached(keys[1]).await, cached(keys[0]).await], [0, foreign, 39]);
    }
}
