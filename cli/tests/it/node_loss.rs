//! Nodes that are killed, or leave, in mid-sentence: the text is that of an undisturbed run, to the last byte.

use std::process::Stdio;

use crate::support::{Model, Running, collect, greedy, ready, syn1};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::Update;
use syn1_core::{Codec, Form};
use syn1_model::plan::WeightFormat;
use tempfile::TempDir;

fn node(server: &Server, name: &str, cache: &TempDir) -> Running {
    let join = format!("tcp://{}", server.tcp());
    let args = ["node", "--once", "--quiet", "--device", "cpu", "--threads", "1", "--join", &join, "--name", name];
    let key = cache.path().join(format!("{name}.key"));
    let mut command = syn1(cache.path());
    command.args(args).arg("--key").arg(key).stdin(Stdio::null());
    Running(command.spawn().expect("the program starts"))
}

/// Nodes by their names.
struct Fleet(Vec<(String, Running)>);

impl Fleet {
    async fn join(server: &Server, names: &[&str], cache: &TempDir) -> Self {
        let mut fleet = Vec::new();
        for (index, name) in names.iter().enumerate() {
            fleet.push(((*name).to_owned(), node(server, name, cache)));
            // One after the other, so that it is known who is the spare.
            while server.topology().nodes.iter().filter(|node| node.state != "joining").count() <= index {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        ready(server).await;
        Self(fleet)
    }

    /// Takes out the node at this place of the chain.
    fn holder(&mut self, server: &Server, place: usize) -> Running {
        let mut parts: Vec<_> = server.topology().nodes.into_iter().filter(|node| node.layers.is_some()).collect();
        parts.sort_by_key(|node| node.layers);
        let at = self.0.iter().position(|(name, _)| *name == parts[place].name).expect("a node that was started");
        self.0.remove(at).1
    }
}

const TOKENS: usize = 240;

fn asks() -> [Generate; 2] {
    let sampling = Sampling { temperature: 0.9, top_k: 20, seed: 11, ..Sampling::default() };
    let ask = greedy(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], TOKENS);
    [ask.clone(), Generate { sampling, ..ask }]
}

/// What comes of both requests when `disturb` happens behind the first tokens of both.
async fn texts(server: &Server, disturb: impl FnOnce()) -> Vec<(Vec<u32>, String)> {
    let mut running: Vec<Generation> = asks().map(|ask| server.generate(ask).unwrap()).into();
    let mut begun = Vec::new();
    for generation in &mut running {
        let Some(Update::Token { id, text, .. }) = generation.next().await else { panic!("no token") };
        begun.push((id, text));
    }
    disturb();
    let mut texts = Vec::new();
    for (generation, (id, text)) in running.into_iter().zip(begun) {
        let (ids, rest, end) = collect(generation).await.expect("a text to the end");
        assert_eq!(end.figures.tokens, TOKENS);
        texts.push(([vec![id], ids].concat(), text + &rest));
    }
    texts
}

#[tokio::test]
async fn a_killed_node_changes_no_byte_where_a_spare_takes_its_layers() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    // In a delta form what a node sends follows from all that it has sent before.
    for (form, place) in [("f16", 1), ("q8+delta+compressed", 1), ("q8+delta+compressed", 0)] {
        let server = model.server(Policy::Exactly(3), Form::from_name(form).unwrap(), 2);
        let mut fleet = Fleet::join(&server, &["first", "second", "third", "spare"], &cache).await;
        let undisturbed = texts(&server, || ()).await;
        let victim = fleet.holder(&server, place);
        assert_eq!(texts(&server, || drop(victim)).await, undisturbed, "{form}");
        let recovery = server.recovery();
        assert_eq!((recovery.losses, recovery.healed, recovery.restarted, recovery.failed), (1, 1, 0, 0));
        assert!(recovery.rerouted > 0 && recovery.replayed_rows > 0, "in mid-sentence: {recovery:?}");
        assert_eq!(recovery.kept_bytes, 0);
    }
}

#[tokio::test]
async fn a_killed_node_changes_no_byte_where_survivors_take_its_layers_and_the_wire_rounds_nothing() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Exactly(3), Form::plain(Codec::F32), 2);
    let mut fleet = Fleet::join(&server, &["first", "second", "third"], &cache).await;
    let undisturbed = texts(&server, || ()).await;
    for (losses, place) in [1, 0].into_iter().enumerate() {
        let victim = fleet.holder(&server, place);
        assert_eq!(texts(&server, || drop(victim)).await, undisturbed);
        let recovery = server.recovery();
        assert_eq!((recovery.losses, recovery.failed), (losses as u64 + 1, 0), "{recovery:?}");
        assert!(recovery.rerouted > losses as u64, "in mid-sentence: {recovery:?}");
    }
    // The last one goes, and only then somebody comes.
    let last = fleet.holder(&server, 0);
    let mut late = None;
    let lost_all = || {
        drop(last);
        late = Some(node(&server, "late", &cache));
    };
    assert_eq!(texts(&server, lost_all).await, undisturbed);
    assert_eq!(server.recovery().failed, 0);
}

#[tokio::test]
async fn survivors_of_a_delta_stream_that_breaks_compute_once_more_and_no_token_is_taken_back() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Exactly(3), Form::from_name("q8+delta").unwrap(), 2);
    let mut fleet = Fleet::join(&server, &["first", "second", "third"], &cache).await;
    let victim = fleet.holder(&server, 0);
    // Where a boundary is gone, what was rounded there is not any more: the rest of the text may be another one.
    texts(&server, || drop(victim)).await;
    let recovery = server.recovery();
    assert_eq!((recovery.losses, recovery.failed, recovery.kept_bytes), (1, 0, 0), "{recovery:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_node_that_is_interrupted_hands_its_layers_over() {
    let model = Model::split("models/tiny-rust-docs", WeightFormat::F16);
    let cache = tempfile::tempdir().unwrap();
    let server = model.server(Policy::Exactly(2), Form::plain(Codec::F16), 2);
    let mut events = server.events();
    let mut fleet = Fleet::join(&server, &["first", "second", "spare"], &cache).await;
    let undisturbed = texts(&server, || ()).await;
    let mut leaves = fleet.holder(&server, 1);
    let interrupt = || {
        let done = std::process::Command::new("kill").args(["-INT", &leaves.0.id().to_string()]).status();
        assert!(done.expect("kill runs").success());
    };
    assert_eq!(texts(&server, interrupt).await, undisturbed);
    assert_eq!(leaves.0.wait().unwrap().code(), Some(130));
    let mut said = Vec::new();
    while let Ok(event) = events.try_recv() {
        said.push(format!("{event:?}"));
    }
    assert!(said.iter().any(|event| event.contains("Left") && event.contains("goodbye")), "{said:?}");
}
