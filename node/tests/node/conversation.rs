//! What an honest coordinator sees.

use syn1_core::control::{Bye, Open, Output};
use syn1_core::output::top_decode;
use syn1_core::testing::{MemoryLink, block_on, join, pipe};
use syn1_core::{Codec, Control, Flags, Form, Header, Kind, Reason};
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};
use syn1_node::{Ended, NodeConfig, NodeError, NodeEvent, run};

use crate::coordinator::{Coordinator, MAX_PAYLOAD, play, play_expecting};
use crate::machine::{LAYERS, Machine, VOCAB, WIDTH, engine};

/// Every row's logits, from an engine without a node around it.
pub(crate) fn truth(ids: &[u32]) -> Vec<f32> {
    let mut engine = engine(0..LAYERS, EngineConfig { max_positions: 32, slots: 1, max_rows: 8 });
    let slot = engine.open().unwrap();
    let mut out = Vec::new();
    block_on(engine.run(Step { slot, position: 0, input: Input::Tokens(ids), wanted: 0 }, &mut out)).unwrap();
    out
}

fn last_row(logits: &[f32]) -> &[f32] {
    &logits[logits.len() - VOCAB as usize..]
}

fn stopped(ended: Result<Ended, NodeError>) -> bool {
    ended == Ok(Ended::Stopped)
}

#[test]
fn from_hello_to_bye_with_exactly_the_engines_logits_between() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(9, 0, Output::Full, 4).await;
        peer.tokens(9, 0, 0, &[1, 2, 3]).await;
        assert_eq!(peer.data().await, (Header::acknowledge(9, 0, 3), Vec::new()));
        peer.tokens(9, 0, 3, &[4, 5]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2, 3, 4, 5])));
        peer.tokens(9, 0, 5, &[6]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2, 3, 4, 5, 6])));
        peer.close(9).await;
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
    let events = machine.events.take();
    assert_eq!(events.first(), Some(&NodeEvent::Met { key: None }));
    assert!(matches!(events.get(1), Some(NodeEvent::Joined { .. })), "{events:?}");
    assert!(matches!(events.last(), Some(NodeEvent::Left { .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, NodeEvent::Ready { layers, .. } if *layers == (0..4))));
}

#[test]
fn the_top_k_of_every_wanted_row_come_in_as_few_frames_as_the_limit_allows() {
    let machine = Machine::default();
    let k: u16 = 90;
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(1, 0, Output::Top(k), 1).await;
        let ids = [5, 6, 7, 8, 9, 10, 11, 12];
        peer.tokens(1, 0, 0, &ids).await;
        let truth = truth(&ids);
        let mut row = 1;
        // A row takes 8 + 8 * 90 bytes, so 4,096 bytes hold five.
        for rows in [5, 2] {
            let (header, payload) = peer.data().await;
            assert_eq!((header.kind, header.codec, header.cols), (Kind::Output, Codec::Top, k));
            assert_eq!((usize::from(header.rows), header.position), (rows, row as u32));
            for top in top_decode(&payload, k, VOCAB).unwrap() {
                let logits = &truth[row * VOCAB as usize..][..VOCAB as usize];
                let best = top.entries().next().unwrap();
                assert_eq!(best.1, logits.iter().copied().fold(f32::MIN, f32::max));
                assert!(top.entries().all(|(id, logit)| logits[id as usize] == logit));
                row += 1;
            }
        }
        assert_eq!(row, ids.len());
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn two_shards_in_a_row_are_the_whole_model() {
    let (first, second) = (Machine::default(), Machine::default());
    let ids = [11, 22, 33, 44];
    let mut between = Vec::new();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..3).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &ids).await;
        between = peer.activations().await;
        peer.leave(&first).await;
    };
    assert!(stopped(play(&first, script)));
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 3..4).await;
        peer.open(1, 0, Output::Full, 3).await;
        peer.rows(1, 0, 0, &between).await;
        assert_eq!(peer.logits().await, last_row(&truth(&ids)));
        peer.leave(&second).await;
    };
    assert!(stopped(play(&second, script)));
}

#[test]
fn answers_to_guesses_say_so_and_a_lower_position_forgets_them() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert_eq!(peer.logits().await, truth(&[1]));
        let header = Header::tokens(1, 0, 1, 3).predicted();
        peer.send(&header, &[2, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]).await;
        for (position, ids) in [(1, &[1, 2][..]), (2, &[1, 2, 8]), (3, &[1, 2, 8, 9])] {
            let (header, logits) = peer.output().await;
            assert_eq!(header, Header::full(1, 0, position, VOCAB).unwrap().predicted());
            assert_eq!(logits, last_row(&truth(ids)));
        }
        peer.tokens(1, 0, 2, &[3]).await;
        let (header, logits) = peer.output().await;
        assert_eq!(header, Header::full(1, 0, 2, VOCAB).unwrap());
        assert_eq!(logits, last_row(&truth(&[1, 2, 3])));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn activations_leave_in_the_form_of_their_request_and_are_read_in_any() {
    let (first, second) = (Machine::default(), Machine::default());
    let ids = [11, 22, 33, 44, 55];
    let form = Form::from_name("q8+delta").unwrap();
    let mut between = Vec::new();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..3).await;
        let (codec, flags) = (form.codec() as u8, form.flags().bits());
        let open = Open { request: 1, epoch: 0, codec, flags, output: Output::Full, wanted_from: 0 };
        peer.tell(&Control::Open(open)).await;
        peer.tokens(1, 0, 0, &ids[..3]).await;
        between.push(peer.data().await);
        peer.tokens(1, 0, 3, &ids[3..]).await;
        between.push(peer.data().await);
        peer.leave(&first).await;
    };
    assert!(stopped(play(&first, script)));
    assert!(between.iter().all(|(header, _)| header.codec == Codec::Q8 && header.flags.contains(Flags::DELTA)));
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 3..4).await;
        peer.open(1, 0, Output::Full, 4).await;
        for (header, payload) in &between {
            peer.send(header, payload).await;
        }
        peer.data().await;
        let close = |a: &f32, b: &f32| (a - b).abs() < 0.05;
        assert!(peer.logits().await.iter().zip(last_row(&truth(&ids))).all(|(a, b)| close(a, b)));
        // The second frame again: the row that it adds to is no longer the last one here.
        let (header, payload) = &between[1];
        peer.send(header, payload).await;
        let failed = peer.control().await;
        assert!(failed.starts_with("Failed") && failed.contains("position 3"), "{failed}");
        peer.leave(&second).await;
    };
    assert!(stopped(play(&second, script)));
}

#[test]
fn a_coordinator_that_proves_another_key_than_the_expected_is_left() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        let greeting = peer.recv().await;
        assert!(greeting.is_ok());
        peer.say_hello().await;
        let bye = peer.control().await;
        assert!(bye.starts_with("Bye { reason: Refused"), "{bye}");
    };
    let ended = play_expecting(&machine, Some([5; 32]), script);
    assert!(ended.is_err(), "{ended:?}");
}

#[test]
fn frames_of_an_older_epoch_are_dropped_and_the_kv_cache_survives_the_new_one() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(1, 255, Output::Full, 2).await;
        peer.tokens(1, 255, 0, &[1, 2]).await;
        peer.data().await;
        peer.open(1, 0, Output::Full, 2).await;
        peer.tokens(1, 255, 2, &[9]).await;
        peer.tokens(1, 0, 2, &[3]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2, 3])));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn a_frame_at_an_earlier_position_cuts_the_kv_cache() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1, 2, 3, 4, 5]).await;
        for _ in 0..5 {
            peer.logits().await;
        }
        peer.tokens(1, 0, 2, &[60]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2, 60])));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn a_failed_request_leaves_others_alone() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        peer.open(1, 0, Output::Full, 1).await;
        peer.open(2, 0, Output::Full, 2).await;
        peer.tokens(1, 0, 0, &[1]).await;
        peer.data().await;
        peer.tokens(2, 0, 0, &[4, 5]).await;
        peer.data().await;
        peer.tokens(1, 0, 7, &[2]).await;
        let failed = peer.control().await;
        assert!(failed.starts_with("Failed { request: 1, epoch: 0") && failed.contains("position 7"), "{failed}");
        peer.tokens(2, 0, 2, &[6]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[4, 5, 6])));
        peer.tokens(1, 0, 1, &[2]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2])));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn a_closed_request_frees_its_kv_cache() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 0..4).await;
        for request in 0..2 {
            peer.open(request, 0, Output::Full, 0).await;
        }
        peer.open(2, 0, Output::Full, 0).await;
        assert!(peer.control().await.contains("all 2 KV caches"));
        peer.close(0).await;
        peer.open(3, 0, Output::Full, 0).await;
        peer.tokens(3, 0, 0, &[1]).await;
        assert_eq!(peer.logits().await, truth(&[1]));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn pings_are_answered_and_progress_is_told_while_a_shard_loads() {
    let machine = Machine { load_ms: 1000, ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.assign(1, 0..4).await;
        peer.tell(&Control::Ping(77)).await;
        assert_eq!(peer.control().await, "Pong(77)");
        machine.advance(600);
        assert_eq!(peer.control().await, "Loading { generation: 1, done_bytes: 10, total_bytes: 20 }");
        machine.advance(400);
        assert!(peer.control().await.starts_with("Loaded { generation: 1, fetched_bytes: 20, layer_ns: 5, slots: 2"));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
}

#[test]
fn a_higher_generation_replaces_a_load_and_a_lower_one_is_ignored() {
    let machine = Machine { load_ms: 1000, ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.assign(5, 0..4).await;
        peer.tell(&Control::Ping(1)).await;
        peer.control().await;
        peer.assign(4, 0..1).await;
        peer.assign(6, 0..2).await;
        peer.tell(&Control::Ping(2)).await;
        peer.control().await;
        machine.advance(1000);
        let loaded = peer.control().await;
        assert!(loaded.starts_with("Load") && loaded.contains("generation: 6"), "{loaded}");
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
    assert_eq!(machine.loads.take(), [(5, false), (6, true)]);
    assert!(machine.events.take().contains(&NodeEvent::Replaced { generation: 5 }));
}

#[test]
fn another_model_replaces_the_shard_and_its_requests_and_is_answered_by_one_profile() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(5, 0..4).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert_eq!(peer.logits().await, truth(&[1]));
        // The same again says nothing.
        peer.model().await;
        peer.tokens(1, 0, 1, &[2]).await;
        assert_eq!(peer.logits().await, last_row(&truth(&[1, 2])));
        peer.other_model(8, WIDTH).await;
        assert!(peer.control().await.starts_with("Profile"));
        peer.tokens(1, 0, 2, &[3]).await;
        let failed = peer.control().await;
        assert!(failed.starts_with("Failed { request: 1"), "{failed}");
        // Generations go on: this one was for the model before.
        peer.assign(5, 0..4).await;
        peer.ready(6, 0..4).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert_eq!(peer.logits().await, truth(&[1]));
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
    assert!(machine.events.take().contains(&NodeEvent::Replaced { generation: 5 }));
    assert_eq!(machine.loads.take(), [(5, true), (6, true)]);
}

#[test]
fn another_model_ends_a_load() {
    let machine = Machine { load_ms: 1000, ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.assign(1, 0..4).await;
        peer.tell(&Control::Ping(1)).await;
        peer.control().await;
        peer.other_model(8, WIDTH).await;
        assert!(peer.control().await.starts_with("Profile"));
        machine.advance(1000);
        peer.tell(&Control::Ping(2)).await;
        assert_eq!(peer.control().await, "Pong(2)", "nothing of the old model may be loaded");
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
    assert_eq!(machine.loads.take(), [(1, false)]);
}

#[test]
fn after_another_model_only_frames_of_its_width_are_taken() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.other_model(8, 2 * WIDTH).await;
        assert!(peer.control().await.starts_with("Profile"));
        peer.rows(1, 0, 0, &[0.0; WIDTH as usize]).await;
        let bye = peer.control().await;
        assert!(bye.starts_with("Bye { reason: Protocol"), "{bye}");
    };
    assert!(play(&machine, script).is_err());
}

#[test]
fn a_refused_generation_ends_the_older_load_and_stays_the_newest() {
    let machine = Machine { load_ms: 1000, ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.assign(5, 0..4).await;
        peer.tell(&Control::Ping(1)).await;
        peer.control().await;
        peer.assign(7, 0..9).await;
        let unable = peer.control().await;
        assert!(unable.starts_with("Unable { generation: 7"), "{unable}");
        peer.assign(6, 0..4).await;
        machine.advance(1000);
        peer.tell(&Control::Ping(2)).await;
        assert_eq!(peer.control().await, "Pong(2)", "no load of 5 or 6 may end");
        peer.assign(8, 0..4).await;
        peer.tell(&Control::Ping(3)).await;
        peer.control().await;
        machine.advance(1000);
        let loaded = peer.control().await;
        assert!(loaded.starts_with("Load") && loaded.contains("generation: 8"), "{loaded}");
        peer.leave(&machine).await;
    };
    assert!(stopped(play(&machine, script)));
    assert_eq!(machine.loads.take(), [(5, false), (8, true)]);
    assert!(machine.events.take().contains(&NodeEvent::Replaced { generation: 5 }));
}

#[test]
fn a_coordinator_that_speaks_another_major_is_refused_with_both_versions_named() {
    let machine = Machine::default();
    let (mut raw, reader) = pipe(1 << 16);
    let (writer, _answers) = pipe(1 << 16);
    let link = MemoryLink::new(reader, writer, MAX_PAYLOAD);
    let config =
        NodeConfig { name: "n".into(), agent: "test", max_payload: MAX_PAYLOAD, max_rows: 8, credit: 4, expect: None };
    let mut header = Header::control(8).emit();
    header[3] = b'2';
    let (ended, sent) = block_on(join(run(link, &machine, &config), raw.write_all(&header)));
    sent.unwrap();
    let err = ended.unwrap_err();
    assert_eq!(err, NodeError::Version { theirs: b'2' });
    assert_eq!(err.to_string(), "the coordinator speaks SYN2, this node speaks SYN1: update the older one");
}

#[test]
fn a_bye_ends_the_node_with_its_words() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.tell(&Control::Bye(Bye { reason: Reason::Refused, text: "full" })).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Bye { reason: Reason::Refused, text: "full".into(), open: true }));
}

#[test]
fn a_coordinator_that_falls_silent_or_goes_away_ends_the_node() {
    let machine = Machine::default();
    let silent = async |mut peer: Coordinator| {
        peer.greet().await;
        machine.advance(60_000);
        assert!(peer.control().await.starts_with("Bye { reason: Timeout"));
    };
    assert!(matches!(play(&machine, silent), Err(NodeError::Session(_))));
    let gone = async |mut peer: Coordinator| peer.greet().await;
    assert!(matches!(play(&Machine::default(), gone), Err(NodeError::Link { .. })));
}

#[test]
fn a_machine_that_cannot_be_measured_says_why() {
    let machine = Machine { profile_error: Some("the manifest is gone"), ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.hello().await;
        peer.model().await;
        let bye = peer.control().await;
        assert!(bye.contains("Internal") && bye.contains("the manifest is gone"), "{bye}");
    };
    assert_eq!(play(&machine, script), Err(NodeError::Profile("the manifest is gone".into())));
}
