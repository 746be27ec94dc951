//! Nodes that compute garbage, and what that means for texts that run.

mod support;

use std::time::Duration;

use support::Stage;
use syn1_coordinator::core::NodeId;
use syn1_coordinator::placement::Policy;
use syn1_identity::Key;

const NEAR: Duration = Duration::from_micros(100);

/// A node joins as `key`.
fn join_as(stage: &mut Stage, name: &str, key: u8) -> NodeId {
    let id = stage.join_at(name, 1 << 30, 1_000_000, NEAR);
    stage.core.proven(id, Key([key; 32]));
    id
}

/// Texts that were computed once more when a spare was found to lie that had come as `key`; one that came as 1 had a part of
/// the chain when the text began, and left.
fn rewound_by_a_liar_that_comes_as(key: u8) -> u64 {
    let mut stage = Stage::new(Policy::Exactly(2));
    let served = join_as(&mut stage, "served", 1);
    let last = join_as(&mut stage, "last", 2);
    let layers = |stage: &Stage, name: &str| {
        stage.core.topology().nodes.into_iter().find(|node| node.name == name).and_then(|node| node.layers)
    };
    assert_eq!(layers(&stage, "served"), Some((0, 2)));
    join_as(&mut stage, "third", 3);
    // The text stands still behind its first tokens.
    stage.release(last, Some(3));
    let request = stage.ask(4, 9);
    assert_eq!(stage.ids(request).len(), 3);
    stage.core.gone(stage.now, served, "it left");
    stage.run();
    stage.release(last, Some(1));
    assert_eq!((layers(&stage, "third"), stage.ids(request).len()), (Some((0, 2)), 4));
    let liar = join_as(&mut stage, "liar", key);
    stage.toys.get_mut(&liar).unwrap().lies = true;
    join_as(&mut stage, "judge", 5);
    stage.pass(1);
    stage.release(last, Some(1));
    stage.pass(3);
    assert_eq!((stage.quarantined.as_slice(), stage.ids(request).len()), (&[liar][..], 5), "{:?}", stage.events);
    stage.core.checks().rewound
}

#[test]
fn texts_that_ran_while_a_liar_had_a_part_are_computed_once_more_also_if_it_left_and_came_back() {
    assert_eq!(rewound_by_a_liar_that_comes_as(1), 1);
    assert_eq!(rewound_by_a_liar_that_comes_as(4), 0, "what never had a part is in no text");
}
