//! What the flags of the format may do to a text: compression and guesses nothing at all, delta no more than its codec.

use crate::support::{Golden, Model, Node, collect, greedy, ready};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::Server;
use syn1_coordinator::update::Figures;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use syn1_node_host::DeviceChoice;

/// A model on three nodes that talk in `form`.
async fn swarm(split: &Model, form: Form) -> (Server, Vec<Node>) {
    let server = split.server(Policy::Exactly(3), form, 4);
    let cache = tempfile::tempdir().unwrap();
    let weights = Some(split.shards.path().to_owned());
    let join = |n| Node::join(&server, &format!("node-{n}"), &DeviceChoice::Cpu, weights.clone(), cache.path());
    let nodes = (1..=3).map(join).collect();
    ready(&server).await;
    (server, nodes)
}

async fn tokens(server: &Server, ask: Generate) -> (Vec<u32>, Figures) {
    let (ids, _, end) = collect(server.generate(ask).unwrap()).await.unwrap();
    (ids, end.figures)
}

fn form(name: &str) -> Form {
    Form::from_name(name).unwrap()
}

#[tokio::test]
async fn compression_saves_bytes_and_changes_no_token() {
    let (golden, split) =
        (Golden::of("models/tiny-rust-docs"), Model::split("models/tiny-rust-docs", WeightFormat::F16));
    for (plain, compressed) in [("q8", "q8+compressed"), ("q8+delta", "q8+delta+compressed")] {
        let (first, _nodes) = swarm(&split, form(plain)).await;
        let (second, _others) = swarm(&split, form(compressed)).await;
        for case in &golden.cases {
            let (ids, before) = tokens(&first, greedy(&case.ids, 24)).await;
            let (same, after) = tokens(&second, greedy(&case.ids, 24)).await;
            assert_eq!(ids, same, "{compressed}, prompt {:?}", case.ids);
            assert_eq!(before.frames, after.frames);
            assert!(after.bytes < before.bytes, "{compressed}: {} bytes after {}", after.bytes, before.bytes);
        }
    }
}

#[tokio::test]
async fn every_form_begins_with_the_golden_tokens() {
    let (golden, split) =
        (Golden::of("models/tiny-rust-docs"), Model::split("models/tiny-rust-docs", WeightFormat::F16));
    for form in Form::ALL {
        let (server, _nodes) = swarm(&split, form).await;
        let mut same = 0;
        for case in &golden.cases {
            let (ids, _) = tokens(&server, greedy(&case.ids, 8)).await;
            same += ids.iter().zip(&case.greedy).take_while(|(a, b)| a == b).count();
        }
        // Four bits change a token now and then; anything that lost its place would say nonsense at once.
        let floor = if form.codec() == Codec::Q4 { 4 } else { 7 };
        assert!(same >= floor * golden.cases.len(), "{form}: {same} tokens of {} prompts", golden.cases.len());
    }
}

#[tokio::test]
async fn guesses_change_no_token_and_save_passes_where_the_text_repeats_itself() {
    let (golden, split) =
        (Golden::of("models/tiny-rust-docs"), Model::split("models/tiny-rust-docs", WeightFormat::F16));
    for name in ["f32", "q8+compressed"] {
        let (server, _nodes) = swarm(&split, form(name)).await;
        let mut saved = 0;
        for case in &golden.cases {
            let sampled = Sampling { temperature: 0.9, top_k: 20, seed: 11, ..Sampling::default() };
            let full = Sampling { repetition_penalty: 1.05, ..sampled.clone() };
            for sampling in [Sampling { temperature: 0.0, ..sampled.clone() }, sampled, full] {
                let one_by_one = Generate { sampling: sampling.clone(), ..greedy(&case.ids, 40) };
                let ahead = Generate { speculate: 6, ..one_by_one.clone() };
                let (ids, before) = tokens(&server, one_by_one).await;
                let (same, after) = tokens(&server, ahead).await;
                assert_eq!(ids, same, "{name}, {sampling:?}, prompt {:?}", case.ids);
                assert!(after.accepted <= after.guessed && before.guessed == 0);
                // Each right guess is a token that needs no pass of its own; full logits come in a frame for each row.
                saved += before.frames.saturating_sub(after.frames);
            }
        }
        assert!(saved > 0, "{name}: no pass was saved");
    }
}
