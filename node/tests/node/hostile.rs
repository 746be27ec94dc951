//! What a dishonest or confused coordinator gets: one request fails, or the link ends with a Bye. Nothing panics.

use syn1_core::control::{Assign, Open, Output};
use syn1_core::{Codec, Control, Flags, Header};
use syn1_node::{Ended, NodeError};

use crate::coordinator::{Coordinator, play};
use crate::machine::{Machine, VOCAB, WIDTH};

/// Sends `open`, then gives the node's answer to it.
async fn refusal(peer: &mut Coordinator, open: Open) -> String {
    peer.tell(&Control::Open(open)).await;
    peer.control().await
}

#[test]
fn an_open_that_cannot_be_served_fails_its_request_by_name() {
    let machine = Machine::default();
    let good = Open { request: 1, epoch: 3, codec: Codec::F32 as u8, flags: 0, output: Output::Top(1), wanted_from: 0 };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        let early = refusal(&mut peer, good).await;
        assert!(early.contains("no shard is loaded"), "{early}");
        peer.ready(1, 0..4).await;
        for (open, part) in [
            (Open { codec: Codec::Ids as u8, ..good }, "codec 8"),
            (Open { codec: 200, ..good }, "codec 200"),
            (Open { flags: Flags::DELTA.bits(), ..good }, "flags delta"),
            (Open { flags: 16, ..good }, "codec 1"),
            (Open { output: Output::Top(0), ..good }, "top 0"),
            (Open { output: Output::Top(VOCAB as u16 + 1), ..good }, "top 98"),
        ] {
            let failed = refusal(&mut peer, open).await;
            assert!(failed.starts_with("Failed { request: 1, epoch: 3") && failed.contains(part), "{failed}");
        }
        peer.tell(&Control::Open(good)).await;
        let twice = refusal(&mut peer, good).await;
        assert!(twice.contains("already open"), "{twice}");
        peer.leave(&machine).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Stopped));
}

#[test]
fn a_frame_that_cannot_be_computed_fails_its_request_by_name() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert!(peer.control().await.contains("no shard is loaded"));
        peer.ready(1, 0..4).await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert!(peer.control().await.contains("request 1 is not open"));
        assert_eq!(peer.close(1).await, 0);
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 1, 0, &[1]).await;
        assert!(peer.control().await.contains("a frame came with epoch 1"));
        peer.tokens(1, 0, 0, &[VOCAB]).await;
        assert!(peer.control().await.contains("token 97 is outside"));
        peer.tokens(1, 0, u32::MAX - 1, &[1]).await;
        assert!(peer.control().await.contains("position 4294967294"));
        peer.tokens(1, 0, 0, &[1; 9]).await;
        assert!(peer.control().await.contains("a step of 9 rows"));
        peer.rows(1, 0, 0, &[0.0; WIDTH as usize]).await;
        assert!(peer.control().await.contains("takes tokens, got activations"));
        peer.leave(&machine).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Stopped));
}

#[test]
fn a_middle_shard_takes_no_tokens_and_no_numbers_that_are_none() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.ready(1, 1..3).await;
        peer.open(1, 0, Output::Full, 0).await;
        peer.tokens(1, 0, 0, &[1]).await;
        assert!(peer.control().await.contains("takes activations, got tokens"));
        let header = Header::activation(1, 0, 0, Codec::F32, 1, WIDTH).unwrap();
        peer.send(&header, &[0xff; 4 * WIDTH as usize]).await;
        assert!(peer.control().await.contains("cannot be decoded"));
        peer.rows(1, 0, 0, &[0.5; WIDTH as usize]).await;
        assert_eq!(peer.activations().await.len(), usize::from(WIDTH));
        peer.leave(&machine).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Stopped));
}

#[test]
fn an_assignment_that_is_impossible_is_declined_and_the_next_one_is_taken() {
    let machine = Machine::default();
    let good = Assign { generation: 0, first_layer: 0, end_layer: 4, max_positions: 32, slots: 1, max_rows: 8 };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        for (generation, (assign, part)) in [
            (Assign { end_layer: 5, ..good }, "layers 0..5"),
            (Assign { first_layer: 2, end_layer: 2, ..good }, "layers 2..2"),
            (Assign { slots: 0, ..good }, "slots of 0"),
            (Assign { max_positions: 0, ..good }, "max_positions of 0"),
            (Assign { max_rows: 17, ..good }, "17 rows"),
        ]
        .into_iter()
        .enumerate()
        {
            peer.tell(&Control::Assign(Assign { generation: generation as u32, ..assign })).await;
            let unable = peer.control().await;
            assert!(unable.starts_with(&format!("Unable {{ generation: {generation},")), "{unable}");
            assert!(unable.contains(part), "{unable}");
        }
        peer.ready(9, 0..4).await;
        peer.leave(&machine).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Stopped));
}

#[test]
fn an_engine_of_other_layers_than_assigned_never_serves() {
    let machine = Machine { wrong_layers: Some(0..2), ..Machine::default() };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.assign(1, 0..4).await;
        assert!(peer.control().await.contains("last layer is 2, the coordinator announced 4"));
        peer.leave(&machine).await;
    };
    assert_eq!(play(&machine, script), Ok(Ended::Stopped));
}

#[test]
fn an_assignment_before_the_profile_and_an_empty_model_end_the_link_with_their_name() {
    let machine = Machine::default();
    let script = async |mut peer: Coordinator| {
        peer.hello().await;
        peer.assign(1, 0..4).await;
        let bye = peer.control().await;
        assert!(bye.starts_with("Bye { reason: Protocol") && bye.contains("an Assign came before"), "{bye}");
    };
    assert!(matches!(play(&machine, script), Err(NodeError::Unexpected(_))));

    let model = syn1_core::control::Model {
        name: "other",
        manifest_sha256: [8; 32],
        http_port: 80,
        width: 0,
        vocab: 0,
        layers: 0,
    };
    let script = async |mut peer: Coordinator| {
        peer.greet().await;
        peer.tell(&Control::Model(model)).await;
        let bye = peer.control().await;
        assert!(bye.contains("a model of width 0"), "{bye}");
    };
    assert!(matches!(play(&Machine::default(), script), Err(NodeError::Unexpected(_))));
}
