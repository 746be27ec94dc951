//! What the coordinator predicts follows what its nodes take, and not what they said of themselves.

use std::time::Duration;

use crate::support::{Stage, config};
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::update::{Event, Update};

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// What the coordinator says that a token takes, in microseconds.
fn predicted(stage: &Stage) -> f64 {
    stage.core.topology().predicted_us.unwrap()
}

/// What a text's tokens take, in microseconds.
fn measured(stage: &mut Stage, prompt: usize) -> f64 {
    let request = stage.ask(prompt, 20);
    let Some(Update::Finished(end)) = stage.updates[&request].last() else { panic!("no end") };
    end.figures.decode.as_nanos() as f64 / 1e3 / (end.figures.tokens - 1) as f64
}

fn assert_near(predicted: f64, measured: f64) {
    assert!((predicted / measured - 1.0).abs() < 0.01, "{predicted} us predicted, {measured} us measured");
}

fn layers_us(stage: &Stage) -> Vec<f64> {
    stage.core.topology().nodes.iter().map(|node| node.layer_us).collect()
}

#[test]
fn a_chain_knows_what_a_token_takes_before_anybody_has_asked_for_one() {
    let mut stage = Stage::new(Policy::Exactly(2));
    // Each measured itself while the other one loaded on the same machine; and no ping tells of the second one's link.
    stage.join_taking("a", 2_500_000, us(1_000), us(200));
    stage.join_taking("b", 2_500_000, us(1_000), us(3_000));
    let first = predicted(&stage);
    assert_near(first, measured(&mut stage, 1));
    assert_near(first, 4.0 * 1_000.0 + 3_200.0);
}

#[test]
fn computing_is_told_from_the_link_by_what_nodes_say_they_computed() {
    let mut stage = Stage::new(Policy::Exactly(2));
    stage.join_taking("a", 1, us(700), us(10_000));
    stage.join_taking("b", 9_000_000, us(300), us(20));
    let nodes = stage.core.topology().nodes;
    // The second has the head besides, as so many layers as that has weights.
    assert!((nodes[0].layer_us / 700.0 - 1.0).abs() < 0.01 && nodes[1].layer_us < 300.0, "{nodes:?}");
    assert!((nodes[0].hop_us / 10_000.0 - 1.0).abs() < 0.01 && (nodes[1].hop_us - 20.0).abs() < 1.0, "{nodes:?}");
}

#[test]
fn a_device_that_becomes_slower_is_noticed_while_it_serves() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join_taking("a", 1_000_000, us(1_000), us(100));
    let before = predicted(&stage);
    stage.toys.get_mut(&node).unwrap().row = us(1_800);
    let texts: Vec<f64> = (0..4).map(|_| measured(&mut stage, 1)).collect();
    assert_near(predicted(&stage), texts[3]);
    assert!(predicted(&stage) > 1.7 * before);
}

#[test]
fn texts_at_the_same_time_and_long_prompts_are_no_measure_of_one_token() {
    let mut stage = Stage::of(CoreConfig { slots: 4, ..config(Policy::Exactly(1)) });
    stage.join_taking("a", 1_000_000, us(1_000), us(100));
    let before = (predicted(&stage), layers_us(&stage));
    measured(&mut stage, 40);
    assert_near(predicted(&stage), before.0);
    assert_eq!(layers_us(&stage), before.1);
}

#[test]
fn a_ping_that_takes_longer_than_before_lengthens_a_hop_that_was_measured() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join_taking("a", 1_000_000, us(1_000), us(2_500));
    stage.pass(1);
    stage.core.round_trip(stage.now, node, us(2_000));
    let before = predicted(&stage);
    for _ in 0..100 {
        stage.core.round_trip(stage.now, node, us(22_000));
    }
    assert!((predicted(&stage) - before - 20_000.0).abs() < 10.0, "{} {before}", predicted(&stage));
    stage.core.round_trip(stage.now, node, us(1_000));
    assert!((before - predicted(&stage) - 1_000.0).abs() < 0.1, "{} {before}", predicted(&stage));
}

#[test]
fn a_ping_that_waited_for_computing_lengthens_no_hop() {
    let mut stage = Stage::new(Policy::Exactly(1));
    let node = stage.join_taking("a", 1_000_000, us(1_000), us(100));
    stage.pass(1);
    stage.core.round_trip(stage.now, node, us(90));
    let before = predicted(&stage);
    stage.ask(1, 20);
    for _ in 0..100 {
        stage.core.round_trip(stage.now, node, us(4_000));
    }
    assert_near(predicted(&stage), before);
}

#[test]
fn layers_do_not_go_back_at_once_to_a_node_that_turns_out_to_be_a_little_faster() {
    let mut stage = Stage::new(Policy::Auto);
    stage.join_taking("first", 1_000_000, us(1_000), us(100));
    stage.pass(1);
    // It says that it is a quarter faster, and is a seventh slower.
    stage.join_taking("second", 800_000, us(1_150), us(100));
    let holder = |stage: &Stage| {
        let nodes = stage.core.topology().nodes;
        nodes.into_iter().find(|node| node.layers.is_some()).map(|node| node.name).unwrap()
    };
    let moves = |stage: &Stage| stage.events.iter().filter(|event| matches!(event, Event::Rebalanced { .. })).count();
    stage.pass(5);
    assert_eq!((holder(&stage).as_str(), moves(&stage)), ("second", 1));
    for _ in 0..5 {
        measured(&mut stage, 1);
    }
    stage.pass(300);
    assert_eq!((holder(&stage).as_str(), moves(&stage)), ("second", 1));
    stage.pass(400);
    assert_eq!((holder(&stage).as_str(), moves(&stage)), ("first", 2));
    // By now both are known by their tokens.
    stage.pass(2_000);
    assert_eq!((holder(&stage).as_str(), moves(&stage)), ("first", 2));
}
