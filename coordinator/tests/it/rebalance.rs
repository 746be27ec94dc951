//! Layers move while the core serves: only for a gain, never in the middle of a recovery, and no text changes.

use std::time::Duration;

use crate::support::{Stage, config, tokens};
use syn1_coordinator::core::{CoreConfig, NodeId};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::update::Event;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form, Header};

const NEAR: Duration = Duration::from_micros(100);
const ALL: u64 = 1 << 30;

/// Who has layers, in their order.
fn holders(stage: &Stage) -> Vec<String> {
    let mut nodes: Vec<_> = stage.core.topology().nodes.into_iter().filter(|node| node.layers.is_some()).collect();
    nodes.sort_by_key(|node| node.layers);
    nodes.into_iter().map(|node| node.name).collect()
}

fn moves(stage: &Stage) -> Vec<&str> {
    let events = stage.events.iter();
    events.filter_map(|event| if let Event::Rebalanced { why } = event { Some(why.as_str()) } else { None }).collect()
}

#[test]
fn a_faster_node_that_joins_later_takes_all_layers_in_mid_text_and_the_text_stays() {
    let mut stage = Stage::new(Policy::Auto);
    let slow = stage.join_at("slow", ALL, 1_000_000, NEAR);
    stage.pass(1);
    assert!(stage.is_ready());
    stage.silent.insert(slow);
    let request = stage.ask(9, 9);
    stage.join_at("fast", ALL, 100_000, NEAR);
    assert_eq!(holders(&stage), ["slow"]);
    stage.pass(5);
    assert_eq!(holders(&stage), ["fast"]);
    assert_eq!(stage.ids(request), tokens(8, 9));
    assert_eq!((stage.core.recovery().rebalanced, stage.core.recovery().losses), (1, 0));
    assert!(stage.is_ready());
    let why = moves(&stage)[0];
    assert!(why.starts_with("fast takes layers 0..4: a token is to take ") && why.contains(" in place of "), "{why}");
}

#[test]
fn a_node_that_is_hardly_faster_changes_nothing() {
    let mut stage = Stage::new(Policy::Auto);
    stage.join_at("first", ALL, 1_000_000, NEAR);
    stage.pass(1);
    stage.join_at("second", ALL, 930_000, NEAR);
    stage.pass(100);
    assert_eq!((holders(&stage), moves(&stage).len()), (vec!["first".to_owned()], 0));
}

#[test]
fn a_node_is_left_for_one_with_a_shorter_link_also_when_that_is_known_late() {
    let mut stage = Stage::new(Policy::Auto);
    let far = stage.join_at("far", ALL, 1_000_000, NEAR);
    stage.pass(1);
    stage.join_at("near", ALL, 1_000_000, NEAR);
    stage.pass(40);
    assert_eq!(holders(&stage), ["far"]);
    // Not at once: one late answer is no longer link.
    stage.core.round_trip(stage.now, far, Duration::from_millis(20));
    for _ in 0..20 {
        stage.core.round_trip(stage.now, far, Duration::from_millis(20));
    }
    stage.pass(40);
    assert_eq!((holders(&stage), moves(&stage).len()), (vec!["near".to_owned()], 1));
}

#[test]
fn of_two_asked_for_the_slower_one_is_replaced_and_the_other_keeps_its_layers() {
    let mut stage = Stage::new(Policy::Exactly(2));
    stage.join_at("steady", ALL, 1_000_000, NEAR);
    stage.join_at("slow", ALL, 1_000_000, NEAR);
    assert!(stage.is_ready());
    let parts = |stage: &Stage| {
        let nodes = stage.core.topology().nodes;
        nodes.into_iter().filter_map(|node| Some((node.name, node.layers?))).collect::<Vec<_>>()
    };
    let before = parts(&stage);
    stage.join_at("quick", ALL, 650_000, NEAR);
    stage.pass(5);
    let after = parts(&stage);
    assert_eq!(moves(&stage).len(), 1, "{before:?} {after:?}");
    let kept = after.iter().filter(|part| before.contains(part)).count();
    assert_eq!((after.len(), kept), (2, 1), "{before:?} {after:?}");
    assert!(after.iter().any(|part| part.0 == "quick"));
}

#[test]
fn layers_do_not_move_while_a_loss_is_made_up_for() {
    let mut stage = Stage::new(Policy::Auto);
    let first = stage.join_at("first", ALL, 1_000_000, NEAR);
    stage.pass(1);
    let request = stage.ask(9, 3);
    assert_eq!(stage.ids(request).len(), 3);
    stage.silent.insert(first);
    let request = stage.ask(9, 4);
    stage.core.gone(stage.now, first, "the cable was pulled");
    stage.run();
    // Nobody can take the layers: whoever comes heals the chain, which is no move.
    stage.join_at("second", ALL, 500_000, NEAR);
    stage.pass(10);
    assert_eq!(stage.ids(request), tokens(8, 4));
    assert_eq!((holders(&stage), moves(&stage).len()), (vec!["second".to_owned()], 0));
}

#[test]
fn where_boundaries_move_over_a_wire_that_rounds_running_texts_are_waited_for() {
    let f16 = Wire::everywhere(Form::plain(Codec::F16));
    let mut stage = Stage::of(CoreConfig { wire: f16, ..config(Policy::Auto) });
    // Two that hold the model only together, by their layers' bytes.
    let whole = stage.core.topology().needed_bytes;
    let a = stage.join_at("a", whole - 1, 1_000_000, NEAR);
    stage.join_at("b", whole - 1, 1_000_000, NEAR);
    stage.pass(1);
    assert_eq!(holders(&stage).len(), 2);
    stage.silent.insert(a);
    let running = stage.ask(9, 9);
    stage.join_at("whole", ALL, 100_000, NEAR);
    stage.pass(8);
    assert_eq!((holders(&stage).len(), moves(&stage).len()), (2, 0), "a text runs over the boundary");
    stage.core.cancel(stage.now, running);
    stage.run();
    stage.pass(2);
    assert_eq!((holders(&stage), moves(&stage).len()), (vec!["whole".to_owned()], 1));
    let request = stage.ask(9, 9);
    assert_eq!(stage.ids(request), tokens(8, 9));
}

/// Two nodes that hold the model only together, over a wire that rounds, the first of which answers when a test says so; and
/// a text that runs on them.
fn shared(tokens: usize) -> (Stage, NodeId, u32) {
    let f16 = Wire::everywhere(Form::plain(Codec::F16));
    let mut stage = Stage::of(CoreConfig { wire: f16, ..config(Policy::Auto) });
    let whole = stage.core.topology().needed_bytes;
    let first = stage.join_at("a", whole - 1, 1_000_000, NEAR);
    stage.join_at("b", whole - 1, 1_000_000, NEAR);
    stage.pass(1);
    stage.silent.insert(first);
    let running = stage.ask(1, tokens);
    (stage, first, running)
}

#[test]
fn others_do_not_wait_for_a_move_as_long_as_a_long_text_runs() {
    let (mut stage, first, running) = shared(60);
    stage.join_at("whole", ALL, 100_000, NEAR);
    let mut later = None;
    for second in 0..50 {
        if second == 30 {
            later = Some(stage.ask(1, 5));
            assert_eq!(stage.core.topology().queued, 1, "the move has been waited for, and now has its turn");
        }
        // A token a second, and nothing of the text that comes later.
        let header = Header::activation(running, 1, second, Codec::F16, 1, 8).unwrap();
        stage.core.data(stage.now, first, &header, &[0; 16]);
        stage.run();
        stage.pass(1);
    }
    assert_eq!((stage.ids(running).len(), moves(&stage).len()), (50, 0));
    assert_eq!(stage.core.topology().queued, 0, "{later:?} waits for a text that is not its own");
}
