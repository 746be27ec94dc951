//! What the core tells of its hops while toy nodes answer, by the clock that the test turns.

use std::time::Duration;

use crate::support::Stage;
use syn1_coordinator::placement::Policy;
use syn1_core::{Codec, Header, Kind};

/// A stage whose two nodes answer only when the test says so.
fn held(stage: &mut Stage) -> [syn1_coordinator::core::NodeId; 2] {
    let nodes = [stage.join("a"), stage.join("b")];
    stage.silent.extend(nodes);
    nodes
}

#[test]
fn every_hop_of_a_token_is_timed_and_weighed() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let nodes = held(&mut stage);
    let before = stage.core.passes_after(0).last().map_or(0, |pass| pass.number);
    let request = stage.ask(1, 1);
    let activation = Header::activation(request, 1, 0, Codec::F32, 1, 8).unwrap();
    let output = Header::top(request, 1, 0, 1, 1).unwrap();
    for (node, took_us, header) in [(nodes[0], 300, activation), (nodes[1], 500, output)] {
        stage.now += Duration::from_micros(took_us);
        stage.core.data(stage.now, node, &header, &vec![0; header.payload_len as usize]);
        if node == nodes[1] {
            // They answer that they have closed it.
            stage.silent.clear();
        }
        stage.run();
    }
    let [pass] = &stage.core.passes_after(before)[..] else { panic!("one token passed") };
    assert_eq!((pass.request, pass.rows, pass.total_us), (request, 1, 800.0));
    let hops: Vec<_> = pass.hops.iter().map(|hop| (hop.node.as_str(), hop.sent_us, hop.spent.answer_us)).collect();
    assert_eq!(hops, [("a", 0.0, 300.0), ("b", 300.0, 500.0)]);
    // An id goes to the first, a row of eight f32 on from it.
    let bytes: Vec<_> = pass.hops.iter().map(|hop| (hop.sent_bytes, hop.received_bytes)).collect();
    assert_eq!(bytes, [(28, 24 + 32), (24 + 32, 24 + 16)]);
    // The toys say that each computed 5 us of it.
    let topology = stage.core.topology();
    let computed = |at: usize| topology.nodes[at].traffic.as_ref().unwrap().token.unwrap().compute_us.unwrap();
    assert!(computed(0) <= 300.0 && computed(1) <= 500.0);
    assert_eq!(topology.nodes[0].traffic.as_ref().unwrap().in_flight, 0);
}

#[test]
fn a_node_that_is_gone_is_in_no_figure() {
    let mut stage = Stage::new(Policy::Exactly(2));
    let [a, b] = [stage.join("a"), stage.join("b")];
    stage.ask(3, 4);
    assert!(!stage.core.passes_after(0).is_empty());
    assert!(stage.sent.iter().any(|(node, kind)| *node == b && *kind == Kind::Activation));
    stage.core.gone(stage.now, a, "test");
    stage.run();
    let hops = stage.core.passes_after(0).into_iter().flat_map(|pass| pass.hops);
    assert_eq!(hops.filter(|hop| hop.node == "a").count(), 0);
    assert_eq!(stage.core.topology().nodes.len(), 1);
}

#[test]
fn a_placement_comes_with_its_reason() {
    let mut stage = Stage::new(Policy::Exactly(2));
    stage.join("a");
    assert_eq!(stage.core.topology().reason, None);
    let b = stage.join("b");
    let reason = stage.core.topology().reason.unwrap();
    assert!(reason.starts_with("2 nodes were asked for"), "{reason}");
    stage.core.gone(stage.now, b, "test");
    stage.run();
    assert_ne!(stage.core.topology().reason, Some(reason), "it is placed in another way now");
}
