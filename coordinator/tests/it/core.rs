//! The coordinator's core with toy nodes and a clock that the test turns.

use std::time::Duration;

use crate::support::{Stage, Toy, VOCAB, ask, config, negotiated, tokens};
use syn1_coordinator::access::Client;
use syn1_coordinator::core::{CoreConfig, NodeId, Refusal};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::request::Generate;
use syn1_coordinator::update::{Event, Finish, Update};
use syn1_core::control::{Failed, Loaded, Profile, Unable};
use syn1_core::{Codec, Control, Flags, Header, Kind, Negotiated};

#[test]
fn ready_comes_after_a_token_and_not_before() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let first = stage.join("a");
    assert_eq!(stage.core.topology().waiting_for.as_deref(), Some("1 more node of 2 must join"));
    stage.silent.insert(first);
    stage.join("b");
    assert!(!stage.is_ready(), "one node has not loaded");
    stage.silent.clear();
    let loaded = Loaded { generation: 1, fetched_bytes: 0, layer_ns: 1, slots: 2 };
    stage.core.control(stage.now, first, &Control::Loaded(loaded));
    stage.run();
    assert!(stage.is_ready());
    let tokens = stage.sent.iter().filter(|(_, kind)| *kind != Kind::Control).count();
    assert_eq!(tokens, 2 * PROOF, "the proof passed through both nodes");
}

#[test]
fn tokens_that_measure_a_chain_make_room_for_whoever_asks() {
    let mut stage = Stage::of(CoreConfig { slots: 1, ..config(Policy::Exactly(1)) });
    let node = stage.core.connected(stage.now, "a", &negotiated());
    stage.toys.entry(node).or_default().answers = Some(1);
    let profile = Profile { name: "a", device: "toy", memory_bytes: 1 << 30, read_bytes_per_s: 1, layer_ns: 1000 };
    stage.core.control(stage.now, node, &Control::Profile(profile));
    stage.run();
    assert!(stage.is_ready(), "one token is enough");
    assert_eq!((stage.rows[&node], stage.toys[&node].open.len()), (2, 1), "the next one is on its way");
    stage.toys.get_mut(&node).unwrap().answers = None;
    let request = stage.ask(3, 5);
    assert_eq!(stage.ids(request), tokens(2, 5));
    assert_eq!((stage.rows[&node], stage.toys[&node].open.len()), (2 + 3 + 4, 0));
}

#[test]
fn requests_interleave_and_each_gets_its_own_tokens() {
    let mut stage = Stage::new(Policy::Exactly(3));
    for name in ["a", "b", "c"] {
        stage.join(name);
    }
    let requests: Vec<u32> = (1..=6).map(|prompt| stage.ask(prompt * 5, 7)).collect();
    for (request, prompt) in requests.into_iter().zip((1..=6).map(|n| n * 5)) {
        assert_eq!(stage.ids(request), tokens(prompt - 1, 7));
        let Some(Update::Finished(end)) = stage.updates[&request].last() else { panic!("no end") };
        assert_eq!((end.reason, end.figures.compute), (Finish::Length, Some(Duration::from_micros(15))));
    }
}

#[test]
fn right_guesses_save_passes_and_wrong_ones_change_nothing() {
    let mut stage = Stage::new(Policy::Exactly(2));
    for name in ["a", "b"] {
        stage.join(name);
    }
    // What follows a position repeats itself after 15 of them, and the prompt's own tokens never come again.
    for (max_tokens, right) in [(12, 0), (40, 1)] {
        let before = stage.sent.len();
        let plain = stage.ask(3, max_tokens);
        let passes = stage.sent.len() - before;
        let request =
            stage.core.submit(stage.now, Client::Local, Generate { speculate: 3, ..ask(3, max_tokens) }).unwrap();
        let before = stage.sent.len();
        stage.run();
        assert_eq!(stage.ids(request), stage.ids(plain));
        let Some(Update::Finished(end)) = stage.updates[&request].last() else { panic!("no end") };
        let saved = passes.saturating_sub(stage.sent.len() - before);
        assert_eq!(saved > 0, right > 0, "{max_tokens} tokens, {:?}", end.figures);
        // A guess that is right saves one frame to each of two nodes.
        assert_eq!(saved, 2 * end.figures.accepted);
    }
}

#[test]
fn nothing_is_guessed_where_a_node_does_not_know_the_flag() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let old = Negotiated { flags: Flags::NONE, ..negotiated() };
    let id = stage.core.connected(stage.now, "old", &old);
    stage.toys.insert(id, Toy::default());
    let profile = Profile { name: "old", device: "toy", memory_bytes: 1 << 30, read_bytes_per_s: 1, layer_ns: 1000 };
    stage.core.control(stage.now, id, &Control::Profile(profile));
    stage.run();
    let request = stage.core.submit(stage.now, Client::Local, Generate { speculate: 3, ..ask(3, 40) }).unwrap();
    stage.run();
    assert_eq!(stage.ids(request), tokens(2, 40));
    assert!(matches!(stage.updates[&request].last(), Some(Update::Finished(end)) if end.figures.guessed == 0));
}

#[test]
fn activations_in_another_form_than_agreed_are_their_senders_fault() {
    for (codec, flags) in [(Codec::Q8, Flags::NONE), (Codec::F32, Flags::PREDICTED)] {
        let mut stage = Stage::new(Policy::Exactly(2));
        let nodes = [stage.join("a"), stage.join("b")];
        stage.silent.extend(nodes);
        let request = stage.ask(3, 5);
        let header = Header::activation(request, 1, 0, codec, 3, 8).unwrap();
        let header = if flags.is_empty() { header } else { header.predicted() };
        stage.core.data(stage.now, nodes[0], &header, &vec![0; header.payload_len as usize]);
        stage.silent.clear();
        stage.run();
        assert_eq!(stage.closed, [nodes[0]]);
        assert_eq!(stage.ids(request), tokens(2, 5), "the other node takes its layers");
    }
}

#[test]
fn a_full_context_ends_the_text() {
    let mut stage = Stage::new(Policy::Exactly(1));
    stage.join("a");
    let request = stage.ask(60, 100);
    assert_eq!(stage.ids(request), tokens(59, 5));
    assert!(matches!(stage.updates[&request].last(), Some(Update::Finished(end)) if end.reason == Finish::Context));
}

#[test]
fn a_node_outside_the_chain_cannot_harm_a_request() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let worker = stage.join("a");
    let stranger = stage.core.connected(stage.now, "stranger", &negotiated());
    stage.silent.insert(worker);
    let request = stage.ask(3, 5);
    for epoch in 0..3 {
        stage.core.control(stage.now, stranger, &Control::Failed(Failed { request, epoch, text: "ha" }));
    }
    let output = Header::top(request, 1, 2, 1, 1).unwrap();
    stage.core.data(stage.now, stranger, &output, &[0; 16]);
    stage.run();
    assert!(!stage.updates.contains_key(&request));
}

#[test]
fn a_node_that_answers_wrongly_is_sent_away_by_name() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let (_, liar) = (stage.join("a"), stage.join("liar"));
    stage.silent.insert(liar);
    let request = stage.ask(3, 5);
    let elsewhere = Header::top(request, 1, 40, 1, 1).unwrap();
    stage.core.data(stage.now, liar, &elsewhere, &[0; 16]);
    stage.run();
    assert_eq!(stage.closed, [liar]);
    assert_eq!(stage.ids(request), tokens(2, 5));
    let refused = stage.events.iter().any(|event| matches!(event, Event::Refused { node, .. } if node == "liar"));
    assert!(refused, "{:?}", stage.events);
    // What it says afterwards is not listened to.
    stage.core.control(stage.now, liar, &Control::Ping(1));
    assert_eq!(stage.closed, [liar]);
}

#[test]
fn a_spare_takes_the_place_of_a_node_that_is_gone_and_every_request_goes_on() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let (first, second) = (stage.join("a"), stage.join("b"));
    let spare = stage.join("spare");
    stage.silent.insert(second);
    let (running, other, waiting) = (stage.ask(3, 5), stage.ask(30, 5), stage.ask(4, 5));
    stage.core.gone(stage.now, second, "the cable was pulled");
    stage.run();
    assert!(stage.is_ready());
    for (request, from) in [(running, 2), (other, 29), (waiting, 3)] {
        assert_eq!(stage.ids(request), tokens(from, 5));
    }
    assert!(stage.sent.contains(&(spare, Kind::Activation)));
    // Every token of the proof but its last, three prompts, and all tokens but each one's last.
    assert_eq!(stage.rows[&first], PROOF + (3 + 30 + 4) + 3 * 4, "the node that stayed computes nothing twice");
    let recovery = stage.core.recovery();
    assert_eq!((recovery.losses, recovery.healed, recovery.rerouted, recovery.failed), (1, 1, 2, 0));
}

#[test]
fn a_spare_has_the_layers_before_they_are_needed() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let first = stage.join("a");
    let spares = ["b", "c", "d"].map(|name| stage.join(name));
    let loaded = |stage: &Stage| stage.events.iter().filter(|event| matches!(event, Event::Loaded { .. })).count();
    assert_eq!(loaded(&stage), 3, "the holder and two that could take its place");
    stage.silent.insert(first);
    let request = stage.ask(3, 5);
    // Whoever has them is not told again, so it would not answer an assignment.
    stage.sent.clear();
    stage.core.gone(stage.now, first, "the cable was pulled");
    stage.run();
    assert_eq!(stage.ids(request), tokens(2, 5));
    let sent = [Kind::Control, Kind::Control, Kind::Tokens].map(|kind| (spares[0], kind));
    assert_eq!(stage.sent[..3], sent, "its check ends, and behind the Open come tokens: nothing was loaded");
    assert_eq!(loaded(&stage), 4, "and the last one gets ready for the next loss");
}

#[test]
fn a_request_that_brings_down_whoever_takes_it_does_not_bring_down_everybody() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let nodes: Vec<NodeId> = (0..12).map(|number| stage.join(&format!("n{number}"))).collect();
    stage.silent.extend(&nodes);
    let request = stage.ask(3, 5);
    let mut lost = 0;
    while !stage.updates.contains_key(&request) {
        let holder = stage.core.topology().nodes.into_iter().find(|node| node.layers.is_some()).unwrap().name;
        let number: usize = holder[1..].parse().unwrap();
        stage.core.gone(stage.now, nodes[number], "it crashed");
        stage.run();
        lost += 1;
    }
    assert_eq!(lost, 9);
    assert!(stage.failure(request).contains("9 nodes were lost one after the other"), "{}", stage.failure(request));
}

#[test]
fn without_a_spare_the_neighbour_takes_the_layers() {
    let mut stage = Stage::new(Policy::Exactly(3));
    let nodes = ["a", "b", "c"].map(|name| stage.join(name));
    stage.silent.insert(nodes[1]);
    let request = stage.ask(9, 9);
    stage.core.gone(stage.now, nodes[1], "the cable was pulled");
    stage.run();
    assert_eq!(stage.ids(request), tokens(8, 9));
    let placed = stage.events.iter().rev().find_map(|event| match event {
        Event::Placed(parts) => Some(parts.iter().map(|part| part.1.len()).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(placed.unwrap().len(), 2);
}

#[test]
fn a_request_waits_for_a_node_and_fails_by_name_when_none_comes() {
    for comes in [true, false] {
        let mut stage = Stage::new(Policy::Exactly(1));
        let node = stage.join("only");
        stage.silent.insert(node);
        let request = stage.ask(3, 5);
        stage.core.gone(stage.now, node, "the cable was pulled");
        stage.pass(50);
        assert!(!stage.updates.contains_key(&request));
        assert!(stage.core.topology().waiting_for.unwrap().contains("node only"));
        if comes {
            stage.join("successor");
            assert_eq!(stage.ids(request), tokens(2, 5));
        } else {
            stage.pass(15);
            let why = stage.failure(request);
            assert!(why.contains("node only (layers 0..4) is gone") && why.contains("within 60 s"), "{why}");
            assert_eq!(stage.core.recovery().failed, 1);
        }
        assert_eq!(stage.core.recovery().kept_bytes, 0);
    }
}

#[test]
fn a_node_that_stops_answering_is_sent_away_and_the_spare_serves() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let first = stage.join("sleeper");
    stage.join("spare");
    stage.silent.insert(first);
    let stuck = stage.ask(3, 5);
    stage.pass(11);
    assert!(stage.closed.is_empty());
    stage.pass(2);
    assert_eq!(stage.closed, [first]);
    assert_eq!(stage.ids(stuck), tokens(2, 5));
    assert!(stage.is_ready());
}

#[test]
fn a_node_that_says_much_and_answers_nothing_is_sent_away_all_the_same() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let first = stage.join("babbler");
    stage.join("spare");
    stage.silent.insert(first);
    let stuck = stage.ask(3, 5);
    for _ in 0..13 {
        // Of a request that nobody made.
        stage.core.data(stage.now, first, &Header::top(stuck + 100, 1, 2, 1, 1).unwrap(), &[0; 16]);
        stage.pass(1);
    }
    assert_eq!(stage.closed, [first]);
    assert_eq!(stage.ids(stuck), tokens(2, 5));
}

#[test]
fn nobody_is_blamed_for_the_time_in_which_the_coordinator_itself_stood_still() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    stage.silent.insert(node);
    let request = stage.ask(3, 5);
    stage.pass(5);
    stage.now += Duration::from_secs(3600);
    stage.core.tick(stage.now);
    stage.pass(5);
    assert!(stage.closed.is_empty() && !stage.updates.contains_key(&request));
    stage.pass(5);
    assert_eq!(stage.closed, [node], "its own silence counts on");
}

#[test]
fn what_is_kept_stays_within_its_budget_and_what_was_dropped_is_computed_once_more() {
    let config = CoreConfig { relay_bytes: 600, ..config(Policy::Exactly(2)) };
    let mut stage = Stage::of(config);
    let (_, second) = (stage.join("a"), stage.join("b"));
    stage.join("spare");
    stage.silent.insert(second);
    let requests = [stage.ask(30, 5), stage.ask(20, 5)];
    assert!(stage.core.recovery().kept_bytes <= 600);
    assert!(stage.core.recovery().dropped > 0);
    stage.core.gone(stage.now, second, "the cable was pulled");
    stage.run();
    for (request, from) in requests.into_iter().zip([29, 19]) {
        assert_eq!(stage.ids(request), tokens(from, 5));
    }
    assert_eq!(stage.core.recovery().kept_bytes, 0);
}

#[test]
fn a_node_that_fails_a_request_is_fed_everything_once_more_and_no_third_time() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    stage.silent.insert(node);
    let request = stage.ask(3, 5);
    stage.core.control(stage.now, node, &Control::Failed(Failed { request, epoch: 1, text: "lost my memory" }));
    // News of the way before says nothing of the one now.
    stage.core.control(stage.now, node, &Control::Failed(Failed { request, epoch: 1, text: "again" }));
    stage.run();
    assert!(!stage.updates.contains_key(&request));
    stage.core.control(stage.now, node, &Control::Failed(Failed { request, epoch: 2, text: "no" }));
    stage.run();
    assert_eq!(stage.failure(request), "node a failed: no");
}

#[test]
fn a_node_that_never_loads_gives_way() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let slow = stage.core.connected(stage.now, "slow", &negotiated());
    let profile = Profile { name: "slow", device: "toy", memory_bytes: 1 << 30, read_bytes_per_s: 1, layer_ns: 1 };
    stage.core.control(stage.now, slow, &Control::Profile(profile));
    stage.run();
    stage.join("spare");
    assert!(!stage.is_ready());
    stage.pass(125);
    assert!(stage.is_ready());
    assert!(stage.events.iter().any(|event| matches!(event, Event::Unable { node, .. } if node == "slow")));
}

#[test]
fn a_node_that_cannot_load_is_not_asked_again() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let broken = stage.core.connected(stage.now, "broken", &negotiated());
    let profile = Profile { name: "broken", device: "toy", memory_bytes: 1 << 30, read_bytes_per_s: 1, layer_ns: 1 };
    stage.core.control(stage.now, broken, &Control::Profile(profile));
    stage.core.control(stage.now, broken, &Control::Unable(Unable { generation: 1, text: "no room" }));
    stage.pass(5);
    let assigned = stage.events.iter().filter(|event| matches!(event, Event::Placed(_))).count();
    assert_eq!(assigned, 1);
    let waiting = stage.core.topology().waiting_for.unwrap();
    assert!(waiting.contains("no room"), "{waiting}");
}

#[test]
fn a_node_that_says_again_and_again_that_it_has_loaded_is_news_once() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    for _ in 0..3 {
        let loaded = Loaded { generation: 1, fetched_bytes: 0, layer_ns: 1, slots: 2 };
        stage.core.control(stage.now, node, &Control::Loaded(loaded));
    }
    stage.run();
    assert_eq!(stage.events.iter().filter(|event| matches!(event, Event::Loaded { .. })).count(), 1);
    assert!(stage.closed.is_empty());
}

#[test]
fn a_node_that_two_others_contradict_is_sent_away_under_its_name() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let liar = stage.join("liar");
    for name in ["b", "c"] {
        stage.join(name);
    }
    stage.silent.insert(liar);
    let request = stage.ask(3, 5);
    // Another token than the toys', and far likelier.
    let output = Header::top(request, 1, 2, 1, 1).unwrap();
    let row = [&[0; 8][..], &9_u32.to_le_bytes(), &5_f32.to_le_bytes()].concat();
    stage.core.data(stage.now, liar, &output, &row);
    stage.run();
    assert_eq!(stage.quarantined, [(liar, "liar".to_owned())]);
    let right = stage.ids(request);
    assert_eq!(right[right.len() - 5..], tokens(2, 5), "the text that came of it is told anew");
}

#[test]
fn a_missing_last_word_does_not_withhold_the_text() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    stage.never_closed.insert(node);
    let request = stage.ask(3, 5);
    assert_eq!(stage.ids(request), tokens(2, 5));
    assert!(!stage.updates[&request].iter().any(|update| matches!(update, Update::Finished(_))));
    stage.pass(10);
    assert!(stage.updates[&request].iter().any(|update| matches!(update, Update::Finished(_))));
    assert!(stage.is_ready());
}

#[test]
fn a_cancelled_request_frees_its_place_and_its_late_frames_are_dropped() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    stage.silent.insert(node);
    let requests = [stage.ask(3, 5), stage.ask(3, 5)];
    let waiting = stage.ask(5, 2);
    stage.silent.clear();
    for request in requests {
        stage.core.cancel(stage.now, request);
        let late = Header::top(request, 1, 2, 1, 1).unwrap();
        stage.core.data(stage.now, node, &late, &[0; 16]);
    }
    stage.run();
    assert_eq!(stage.ids(waiting), tokens(4, 2));
    assert!(stage.closed.is_empty());
    assert_eq!(stage.core.topology().running, 0);
}

#[test]
fn a_cancelled_request_is_closed_on_every_node_whatever_it_is_at() {
    for silent in 0..3 {
        let mut stage = Stage::new(Policy::Exactly(3));
        let nodes = ["a", "b", "c"].map(|name| stage.join(name));
        // Its frame stands at this node when its owner goes away.
        stage.silent.insert(nodes[silent]);
        let request = stage.ask(9, 5);
        stage.silent.clear();
        stage.core.cancel(stage.now, request);
        stage.run();
        assert!(nodes.iter().all(|node| stage.toys[node].open.is_empty()), "{silent}");
        assert_eq!(stage.core.topology().running, 0);
    }
}

#[test]
fn a_slow_node_is_not_buried_in_chunks() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let (first, second) = (stage.join("a"), stage.join("b"));
    stage.sent.clear();
    stage.silent.insert(second);
    stage.ask(60, 1);
    let waiting = stage.sent.iter().filter(|sent| **sent == (second, Kind::Activation)).count();
    let fed = stage.sent.iter().filter(|sent| **sent == (first, Kind::Tokens)).count();
    assert!(waiting <= 3 && fed <= 3, "{fed} chunks fed, {waiting} wait");
}

#[test]
fn a_model_that_does_not_fit_is_refused_in_numbers() {
    let mut stage = Stage::new(Policy::Auto);
    let request = stage.ask(3, 5);
    stage.join_with("tiny", 1000);
    stage.pass(2);
    let why = stage.failure(request);
    assert!(why.contains("needs") && why.contains("1.0 kB"), "{why}");
}

#[test]
fn nobody_waits_for_ever_for_a_node() {
    let mut stage = Stage::new(Policy::Auto);
    let request = stage.ask(3, 5);
    stage.pass(30);
    assert!(!stage.updates.contains_key(&request));
    stage.pass(40);
    assert!(stage.failure(request).contains("no node has joined"));
}

#[test]
fn bad_requests_are_invalid_and_too_many_are_busy() {
    let mut stage = Stage::new(Policy::Auto);
    let long_stop = Generate { stop: vec!["x".repeat(1000)], ..ask(1, 1) };
    let foreign = Generate { prompt: vec![VOCAB as u32], ..ask(1, 1) };
    for bad in [ask(0, 1), ask(1, 0), ask(64, 1), long_stop, foreign] {
        assert!(matches!(stage.core.submit(stage.now, Client::Local, bad), Err(Refusal::Invalid(_))));
    }
    let refused = (0..1000).find_map(|_| stage.core.submit(stage.now, Client::Local, ask(1, 1)).err());
    assert!(matches!(refused, Some(Refusal::TooMany { .. })));
}

#[test]
fn names_are_plain_and_unique_and_a_second_profile_is_refused() {
    let mut stage = Stage::new(Policy::Exactly(9));
    for name in ["same", "same", "\x1b[31mred", ""] {
        stage.join(name);
    }
    let names: Vec<String> = stage.core.topology().nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["same", "same-2", " [31mred", "nameless"]);
    let again = Profile { name: "x", device: "", memory_bytes: 1, read_bytes_per_s: 1, layer_ns: 1 };
    stage.core.control(stage.now, NodeId(1), &Control::Profile(again));
    stage.run();
    assert_eq!(stage.closed, [NodeId(1)]);
}

#[test]
fn shutting_down_ends_every_request_and_says_goodbye() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join("a");
    stage.silent.insert(node);
    let requests = [stage.ask(3, 5), stage.ask(3, 5), stage.ask(3, 5)];
    stage.core.shut_down("good night");
    stage.run();
    assert!(requests.iter().all(|request| stage.failure(*request) == "good night"));
    assert_eq!(stage.closed, [node]);
}

/// Passes of the coordinator's own: the token that proves a chain, and those that measure it.
const PROOF: usize = 40;
