//! Frames of several requests that are there at the same time.

use syn1_core::Control;
use syn1_core::control::{Assign, Output};
use syn1_node::Ended;

use crate::conversation::truth;
use crate::coordinator::{Coordinator, play};
use crate::machine::{Machine, VOCAB};

/// Joins with room for four requests, which are open when it returns: 1 to 4, each with the logits of all rows.
async fn four(peer: &mut Coordinator) {
    peer.greet().await;
    let assign = Assign { generation: 1, first_layer: 0, end_layer: 4, max_positions: 32, slots: 4, max_rows: 8 };
    peer.tell(&Control::Assign(assign)).await;
    assert!(peer.control().await.starts_with("Loaded"));
    for request in 1..=4 {
        peer.open(request, 0, Output::Full, 0).await;
    }
}

fn plays(script: impl AsyncFnOnce(Coordinator, &Machine)) -> Vec<Vec<usize>> {
    let machine = Machine::default();
    assert_eq!(play(&machine, async |peer| script(peer, &machine).await), Ok(Ended::Stopped));
    machine.passes.take()
}

fn row(logits: &[f32], index: usize) -> &[f32] {
    &logits[index * VOCAB as usize..][..VOCAB as usize]
}

#[test]
fn tokens_of_several_requests_are_one_pass_and_answered_in_their_order_as_if_alone() {
    let passes = plays(async |mut peer, machine| {
        four(&mut peer).await;
        for request in [3, 1, 4, 2] {
            peer.tokens(request, 0, 0, &[request, 9]).await;
        }
        for request in [3, 1, 4, 2] {
            for position in 0..2 {
                let (header, logits) = peer.output().await;
                assert_eq!((header.request, header.position), (request, position as u32));
                assert_eq!(logits, row(&truth(&[request, 9]), position));
            }
        }
        peer.tokens(2, 0, 2, &[5]).await;
        peer.tokens(1, 0, 2, &[6]).await;
        for (request, id) in [(2, 5), (1, 6)] {
            let (header, logits) = peer.output().await;
            assert_eq!(header.request, request);
            assert_eq!(logits, row(&truth(&[request, 9, id]), 2));
        }
        peer.leave(machine).await;
    });
    assert_eq!(passes, [vec![2, 2, 2, 2], vec![1, 1]]);
}

#[test]
fn a_second_frame_of_a_request_and_a_control_message_end_a_group() {
    let passes = plays(async |mut peer, machine| {
        four(&mut peer).await;
        peer.tokens(1, 0, 0, &[1]).await;
        peer.tokens(2, 0, 0, &[2]).await;
        peer.tokens(1, 0, 1, &[3]).await;
        peer.tokens(3, 0, 0, &[4]).await;
        for request in [1, 2, 1, 3] {
            assert_eq!(peer.output().await.0.request, request);
        }
        peer.tokens(1, 0, 2, &[1]).await;
        peer.tell(&Control::Close { request: 2 }).await;
        peer.tokens(3, 0, 1, &[2]).await;
        assert_eq!(peer.output().await.0.request, 1);
        assert!(peer.control().await.starts_with("Closed { request: 2"));
        assert_eq!(peer.output().await.0.request, 3);
        peer.leave(machine).await;
    });
    assert_eq!(passes, [vec![1, 1], vec![1, 1], vec![1], vec![1]]);
}

#[test]
fn a_long_frame_is_not_waited_for_by_others_and_no_pass_has_more_rows_than_the_engine() {
    let passes = plays(async |mut peer, machine| {
        four(&mut peer).await;
        peer.tokens(1, 0, 0, &[1, 2, 3]).await;
        peer.tokens(2, 0, 0, &[1, 2, 3]).await;
        peer.tokens(3, 0, 0, &[1, 2, 3]).await;
        peer.tokens(4, 0, 0, &[7]).await;
        for (request, rows) in [(1, 3), (2, 3), (3, 3), (4, 1)] {
            for _ in 0..rows {
                assert_eq!(peer.output().await.0.request, request);
            }
        }
        peer.leave(machine).await;
    });
    assert_eq!(passes, [vec![3, 3], vec![3, 1]]);
}

#[test]
fn a_request_that_fails_in_a_group_fails_alone() {
    let passes = plays(async |mut peer, machine| {
        four(&mut peer).await;
        peer.tokens(1, 0, 0, &[8]).await;
        peer.tokens(2, 0, 5, &[8]).await;
        peer.tokens(3, 0, 0, &[VOCAB]).await;
        peer.tokens(4, 0, 0, &[9]).await;
        assert_eq!(peer.logits().await, truth(&[8]));
        for (request, why) in [(2, "position 5"), (3, "token 97")] {
            let failed = peer.control().await;
            assert!(failed.starts_with(&format!("Failed {{ request: {request}, epoch: 0")), "{failed}");
            assert!(failed.contains(why), "{failed}");
        }
        assert_eq!(peer.logits().await, truth(&[9]));
        // Those that failed go on where they were.
        peer.tokens(2, 0, 0, &[8]).await;
        peer.tokens(7, 0, 0, &[8]).await;
        peer.tokens(1, 0, 1, &[3]).await;
        assert_eq!(peer.logits().await, truth(&[8]));
        assert!(peer.control().await.starts_with("Failed { request: 7"));
        assert_eq!(peer.logits().await, row(&truth(&[8, 3]), 1));
        peer.leave(machine).await;
    });
    assert_eq!(passes, [vec![1, 1, 1, 1], vec![1, 1]]);
}

#[test]
fn a_frame_of_an_older_route_is_dropped_from_a_group() {
    let passes = plays(async |mut peer, machine| {
        four(&mut peer).await;
        peer.open(2, 1, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1]).await;
        peer.tokens(2, 0, 0, &[1]).await;
        peer.tokens(3, 0, 0, &[1]).await;
        peer.tokens(2, 1, 0, &[4]).await;
        for (request, epoch, id) in [(1, 0, 1), (3, 0, 1), (2, 1, 4)] {
            let (header, logits) = peer.output().await;
            assert_eq!((header.request, header.epoch), (request, epoch));
            assert_eq!(logits, truth(&[id]));
        }
        peer.leave(machine).await;
    });
    assert_eq!(passes, [vec![1, 1, 1]]);
}
