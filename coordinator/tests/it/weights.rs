//! Which format the core has packed and places, with toy nodes of little memory.

use crate::support::{Stage, config, negotiated, tokens};
use syn1_coordinator::core::{CoreConfig, NodeId};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::update::{Event, Update};
use syn1_core::Control;
use syn1_core::control::{Profile, Unable};
use syn1_model::plan::WeightFormat::{self, F16, Int4, Int8};
use syn1_model::plan::{Plan, all_pieces, piece_bytes};
use syn1_model::spec::Spec;

/// A stage that begins with f16 and may fall back.
fn stage(policy: Policy) -> Stage {
    Stage::of(CoreConfig { smaller: vec![Int8, Int4], ..heavy(policy) })
}

/// A model whose weights are most of what it needs.
fn heavy(policy: Policy) -> CoreConfig {
    let config = config(policy);
    let spec = Spec { ffn: 512, ..config.spec };
    CoreConfig { spec, format: F16, max_positions: 16, slots: 1, ..config }
}

/// Bytes that it needs.
fn need(format: WeightFormat) -> u64 {
    let CoreConfig { spec, max_positions, slots, .. } = heavy(Policy::Auto);
    let weights: u64 = all_pieces(&spec, format).into_iter().map(|piece| piece_bytes(&spec, format, piece)).sum();
    weights + Plan::new(&spec, format, 0..spec.layers).kv_bytes(max_positions, slots)
}

/// The shell has packed what the core asked for last.
fn packed(stage: &mut Stage) {
    let format = *stage.packs.last().unwrap();
    stage.core.packed(stage.now, format, [format as u8; 32]);
    stage.run();
}

fn weights(stage: &Stage) -> WeightFormat {
    stage.core.topology().weights
}

/// A Profile of `node` that the test sends in place of its toy.
fn profile(stage: &mut Stage, node: NodeId, memory_bytes: u64) {
    let profile = Profile { name: "x", device: "toy", memory_bytes, read_bytes_per_s: 1, layer_ns: 1000 };
    stage.core.control(stage.now, node, &Control::Profile(profile));
    stage.run();
}

#[test]
fn what_fits_at_once_is_not_packed_anew() {
    let mut stage = stage(Policy::Auto);
    stage.join_with("a", need(F16));
    stage.pass(1);
    assert!(stage.is_ready());
    assert_eq!((weights(&stage), stage.packs.len()), (F16, 0));
}

#[test]
fn the_best_format_that_fits_is_packed_announced_and_served() {
    for (memory, format) in [(need(F16) - 1, Int8), (need(Int8), Int8), (need(Int8) - 1, Int4), (need(Int4), Int4)] {
        let mut stage = stage(Policy::Exactly(1));
        let request = stage.ask(3, 5);
        stage.join_with("a", memory);
        assert_eq!(stage.packs, [format], "{memory}");
        let told = stage.events.iter().any(|event| match event {
            Event::Packing { format: packing, needed_bytes, why } => {
                *packing == format && *needed_bytes == need(format) && why.contains("(f16)")
            }
            _ => false,
        });
        assert!(told && !stage.is_ready(), "{:?}", stage.events);
        let waiting = stage.core.topology().waiting_for.unwrap();
        assert!(waiting.contains(&format!("packing {format}")), "{waiting}");
        packed(&mut stage);
        assert!(stage.is_ready());
        assert_eq!(weights(&stage), format);
        assert_eq!(stage.ids(request), tokens(2, 5), "a request outlasts the packing");
        assert!(!stage.events.iter().any(|event| matches!(event, Event::Unplaced { .. })), "{:?}", stage.events);
    }
}

#[test]
fn when_no_format_fits_the_need_of_each_is_named() {
    let mut stage = stage(Policy::Auto);
    let request = stage.ask(3, 5);
    stage.join_with("a", need(Int4) - 1);
    stage.pass(1);
    assert!(stage.packs.is_empty());
    let why = stage.failure(request);
    assert!(["(f16)", "(int8)", "(int4)", "the node offers"].iter().all(|part| why.contains(part)), "{why}");
}

#[test]
fn a_format_that_was_named_is_kept() {
    let mut stage = Stage::of(heavy(Policy::Exactly(1)));
    let request = stage.ask(3, 5);
    stage.join_with("a", need(F16) - 1);
    assert!(stage.packs.is_empty());
    let why = stage.failure(request);
    assert!(why.contains("(f16)") && !why.contains("int8"), "{why}");
}

#[test]
fn packing_that_fails_is_named_and_tried_again_when_a_node_comes() {
    let mut stage = stage(Policy::Exactly(1));
    let request = stage.ask(3, 5);
    stage.join_with("a", need(Int8));
    stage.core.not_packed(Int8, "the disk is full");
    stage.run();
    let why = stage.failure(request).to_owned();
    assert!(why.contains("packing int8") && why.contains("failed: the disk is full"), "{why}");
    assert!(matches!(stage.events.last(), Some(Event::Unplaced { waiting: false, .. })));
    stage.join_with("b", need(Int8));
    assert_eq!(stage.packs, [Int8, Int8]);
    packed(&mut stage);
    assert!(stage.is_ready());
}

#[test]
fn a_node_that_joins_while_a_format_is_packed_takes_part_and_brings_no_better_one_back() {
    let mut stage = stage(Policy::Auto);
    stage.join_with("small", need(Int8));
    stage.pass(1);
    // One that is slow to tell what it is, as the old format asks it to.
    let slow = stage.core.connected(stage.now, "slow", &negotiated());
    stage.join_with("large", 1 << 30);
    stage.pass(1);
    assert_eq!(stage.packs, [Int8]);
    assert!(!stage.is_ready(), "nothing is placed while a format is packed");
    packed(&mut stage);
    stage.pass(1);
    assert!(stage.is_ready());
    assert_eq!((weights(&stage), stage.packs.len()), (Int8, 1));
    // Its Profile answers the old Model, so it is told of the new one and answers that too.
    for _ in 0..2 {
        profile(&mut stage, slow, 1 << 30);
    }
    assert!(stage.closed.is_empty());
    profile(&mut stage, slow, 1 << 30);
    assert_eq!(stage.closed, [slow]);
}

#[test]
fn a_node_that_leaves_while_a_format_is_packed_is_not_counted_on() {
    let mut stage = stage(Policy::Auto);
    // Both together hold it in int8, the second alone in int4.
    let first = stage.join_with("a", need(Int8) * 5 / 8);
    stage.join_with("b", need(Int4));
    stage.pass(1);
    assert_eq!(stage.packs, [Int8]);
    stage.core.gone(stage.now, first, "the lid was closed");
    stage.pass(1);
    packed(&mut stage);
    stage.pass(1);
    assert!(!stage.is_ready());
    assert_eq!(stage.packs, [Int8, Int4]);
    packed(&mut stage);
    stage.pass(1);
    assert!(stage.is_ready());
    assert_eq!(weights(&stage), Int4);
}

#[test]
fn everybody_leaves_while_a_format_is_packed_and_the_next_one_is_served() {
    let mut stage = stage(Policy::Exactly(1));
    let first = stage.join_with("a", need(Int8));
    stage.core.gone(stage.now, first, "the lid was closed");
    packed(&mut stage);
    stage.pass(1);
    assert_eq!(stage.core.topology().waiting_for.as_deref(), Some("1 more node of 1 must join"));
    stage.join_with("b", need(Int8));
    assert!(stage.is_ready());
    assert_eq!((weights(&stage), stage.packs.len()), (Int8, 1));
}

#[test]
fn a_second_profile_is_accepted_only_after_a_second_model_and_all_are_waited_for() {
    let mut stage = stage(Policy::Exactly(2));
    let memory = need(Int8) * 2 / 3;
    let nodes = [stage.join_with("a", memory), stage.join_with("b", memory)];
    assert_eq!(stage.packs, [Int8]);
    stage.silent.extend(nodes);
    packed(&mut stage);
    assert!(stage.core.topology().nodes.iter().all(|node| node.state == "joining"));
    let before = stage.sent.len();
    profile(&mut stage, nodes[0], memory);
    stage.pass(1);
    assert_eq!(stage.sent.len(), before, "nothing is assigned before both have answered");
    stage.silent.clear();
    profile(&mut stage, nodes[1], memory);
    assert!(stage.is_ready());
    assert_eq!(stage.events.iter().filter(|event| matches!(event, Event::Joined { .. })).count(), 2);
    profile(&mut stage, nodes[1], memory);
    assert_eq!(stage.closed, [nodes[1]]);
}

#[test]
fn a_node_that_never_answers_the_second_model_is_not_waited_for_for_ever() {
    let mut stage = stage(Policy::Auto);
    let mute = stage.join_with("mute", need(Int8) / 8);
    stage.join_with("a", need(Int8));
    stage.pass(1);
    stage.silent.insert(mute);
    packed(&mut stage);
    stage.pass(30);
    assert!(!stage.is_ready());
    stage.pass(40);
    assert_eq!(stage.closed, [mute]);
    assert!(stage.is_ready());
}

#[test]
fn what_a_node_could_not_take_in_the_old_format_does_not_count_in_the_new_one() {
    let mut stage = stage(Policy::Exactly(1));
    let node = stage.join_with("a", 1 << 30);
    assert!(stage.is_ready());
    // Its memory is gone, and so is the chain.
    stage.core.control(stage.now, node, &Control::Unable(Unable { generation: 1, text: "no room" }));
    stage.run();
    stage.join_with("b", need(Int8));
    stage.pass(1);
    assert_eq!(stage.packs, [Int8]);
    packed(&mut stage);
    assert!(stage.is_ready());
    // Late news of what was assigned before.
    stage.core.control(stage.now, node, &Control::Unable(Unable { generation: 1, text: "no room" }));
    stage.run();
    assert!(stage.is_ready() && stage.core.topology().nodes.iter().all(|node| node.state != "unable"));
}

#[test]
fn a_request_that_waits_too_long_for_the_packing_is_told_what_it_waited_for() {
    let mut stage = stage(Policy::Exactly(1));
    let request = stage.ask(3, 5);
    stage.join_with("a", need(Int8));
    stage.pass(65);
    assert!(stage.failure(request).contains("packing int8"), "{}", stage.failure(request));
    packed(&mut stage);
    let next = stage.ask(3, 5);
    assert!(matches!(stage.updates[&next].last(), Some(Update::Finished(_))));
}
