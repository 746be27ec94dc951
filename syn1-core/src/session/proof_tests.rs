//! Keys and their proofs, with a signature that is none: whoever knows the key can make it.

use super::tests::{T0, config, deliver, hear, say};
use super::*;
use crate::Header;

/// An end whose key is one byte repeated.
#[derive(Clone, Copy, Debug)]
struct Toy(u8);

impl Identity for Toy {
    fn key(&self) -> [u8; 32] {
        [self.0; 32]
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        signature(&self.key(), message)
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
        if self::signature(key, message) == *signature { Verdict::Valid } else { Verdict::Invalid }
    }
}

fn signature(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    core::array::from_fn(|_| {
        for byte in key.iter().chain(message) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        (hash >> 56) as u8
    })
}

fn keyed(role: Role, key: u8, nonce: u8) -> Session<Toy> {
    Session::new(config(role), Toy(key), [nonce; 32], T0)
}

fn anonymous(role: Role) -> Session {
    Session::new(config(role), Anonymous, NONE, T0)
}

fn strict<I: Identity>(identity: I) -> Session<I> {
    Session::new(SessionConfig { prove: true, ..config(Role::Coordinator) }, identity, [9; 32], T0)
}

/// What an end has to say, one message after another.
fn said<I: Identity>(session: &mut Session<I>) -> Vec<Vec<u8>> {
    let mut out = [0; 1048];
    core::iter::from_fn(|| session.poll_transmit(&mut out).map(|len| out[Header::LEN..len].to_vec())).collect()
}

fn take<I: Identity>(session: &mut Session<I>, payload: &[u8]) -> Result<(), Fatal> {
    session.handle(T0, Frame { header: Header::control(payload.len() as u32), payload }).map(|_| ())
}

#[test]
fn two_ends_with_keys_are_open_when_both_have_proven_them() {
    let (mut coordinator, mut node) = (keyed(Role::Coordinator, 1, 11), keyed(Role::Node, 2, 22));
    assert_eq!(deliver(&mut coordinator, &mut node, T0), Ok(vec![]));
    assert_eq!(node.peer(), Some(Peer { key: [1; 32], proven: false, model: NONE }));
    assert_eq!((node.negotiated(), node.limits()), (None, Limits::handshake()));
    let established = deliver(&mut node, &mut coordinator, T0).unwrap();
    assert!(established[0].starts_with("Established"), "{established:?}");
    assert_eq!(coordinator.peer(), Some(Peer { key: [2; 32], proven: true, model: NONE }));
    assert_eq!(deliver(&mut coordinator, &mut node, T0).unwrap().len(), 1);
    assert_eq!(node.peer().map(|peer| peer.proven), Some(true));
    assert_eq!(node.negotiated(), coordinator.negotiated());
}

#[test]
fn a_key_is_proven_to_an_end_that_has_none_and_can_not_check_it() {
    let (mut coordinator, mut node) = (anonymous(Role::Coordinator), keyed(Role::Node, 2, 22));
    assert!(deliver(&mut coordinator, &mut node, T0).unwrap()[0].starts_with("Established"));
    assert_eq!(node.peer(), Some(Peer { key: NONE, proven: false, model: NONE }));
    let names: Vec<u8> = said(&mut node).iter().map(|payload| payload[0]).collect();
    // Hello, Prove, Ping: the proof before anything else.
    assert_eq!(names, [0, 14, 2]);
    let (mut coordinator, mut node) = (anonymous(Role::Coordinator), keyed(Role::Node, 2, 22));
    deliver(&mut coordinator, &mut node, T0).unwrap();
    assert_eq!(deliver(&mut node, &mut coordinator, T0).unwrap().len(), 1);
    assert_eq!(coordinator.peer(), Some(Peer { key: [2; 32], proven: false, model: NONE }));
}

#[test]
fn an_end_that_asks_for_a_proof_refuses_who_has_none() {
    let mut coordinator = strict(Toy(1));
    assert_eq!(deliver(&mut anonymous(Role::Node), &mut coordinator, T0), Err(Fatal::Anonymous));
    assert_eq!(Fatal::Anonymous.reason(), Reason::Refused);
    // Nor does it open a link whose proof it can't check.
    let (mut coordinator, mut node) = (strict(Anonymous), keyed(Role::Node, 2, 22));
    deliver(&mut coordinator, &mut node, T0).unwrap();
    assert_eq!(deliver(&mut node, &mut coordinator, T0), Err(Fatal::Anonymous));
    let (mut coordinator, mut node) = (strict(Toy(1)), keyed(Role::Node, 2, 22));
    deliver(&mut coordinator, &mut node, T0).unwrap();
    assert_eq!(deliver(&mut node, &mut coordinator, T0).unwrap().len(), 1);
}

#[test]
fn a_proof_is_worth_nothing_on_another_link_from_another_end_or_to_another_peer() {
    let proof_of = |mut node: Session<Toy>, mut coordinator: Session<Toy>| {
        deliver(&mut coordinator, &mut node, T0).unwrap();
        said(&mut node)[1].clone()
    };
    let fresh = || keyed(Role::Coordinator, 1, 11);
    let hello = said(&mut keyed(Role::Node, 2, 22))[0].clone();
    let judge = |proof: &[u8]| {
        let mut coordinator = fresh();
        take(&mut coordinator, &hello)?;
        take(&mut coordinator, proof)
    };
    assert_eq!(judge(&proof_of(keyed(Role::Node, 2, 22), fresh())), Ok(()));
    // An older link to the same coordinator, whose nonce was another.
    assert_eq!(judge(&proof_of(keyed(Role::Node, 2, 22), keyed(Role::Coordinator, 1, 99))), Err(Fatal::Forged));
    assert_eq!(judge(&proof_of(keyed(Role::Node, 2, 99), fresh())), Err(Fatal::Forged));
    // A third party with a key of its own between the two.
    assert_eq!(judge(&proof_of(keyed(Role::Node, 2, 22), keyed(Role::Coordinator, 3, 11))), Err(Fatal::Forged));
    // Another key, and the coordinator's own proof thrown back.
    assert_eq!(judge(&proof_of(keyed(Role::Node, 3, 22), fresh())), Err(Fatal::Forged));
    let mut coordinator = fresh();
    take(&mut coordinator, &hello).unwrap();
    let own = said(&mut coordinator)[1].clone();
    assert_eq!(take(&mut coordinator, &own), Err(Fatal::Forged));
    assert_eq!(Fatal::Forged.reason(), Reason::Refused);
}

#[test]
fn a_peer_that_named_a_key_may_only_prove_it_or_leave() {
    let hello = Control::Hello(keyed(Role::Node, 2, 22).hello());
    let greeted = || {
        let mut coordinator = keyed(Role::Coordinator, 1, 11);
        assert_eq!(hear(&mut coordinator, &hello), None);
        coordinator
    };
    assert_eq!(hear(&mut greeted(), &Control::Ping(1)), Some(Fatal::Unproven("Ping")));
    assert_eq!(hear(&mut greeted(), &hello), Some(Fatal::SecondHello));
    let data = Frame { header: Header::acknowledge(0, 0, 0), payload: &[] };
    assert_eq!(greeted().handle(T0, data), Err(Fatal::Unproven("data")));
    let bye = Bye { reason: Reason::Refused, text: "" };
    assert_eq!(say(&mut greeted(), &Control::Bye(bye), &mut [0; 99]), Ok(Event::Bye(bye)));
    assert!(!greeted().take_credit());
}

#[test]
fn the_time_for_the_hello_is_that_for_the_proof_too() {
    let (mut coordinator, node) = (keyed(Role::Coordinator, 1, 11), keyed(Role::Node, 2, 22));
    assert_eq!(hear(&mut coordinator, &Control::Hello(node.hello())), None);
    let until = coordinator.poll_timeout();
    assert_eq!(until, T0.plus(HELLO_TIMEOUT_MS));
    assert_eq!(coordinator.handle_timeout(T0.plus(HELLO_TIMEOUT_MS - 1)), Ok(()));
    assert_eq!(coordinator.handle_timeout(until), Err(Fatal::NoProof));
    assert_eq!(Fatal::NoProof.reason(), Reason::Timeout);
}

#[test]
fn proofs_that_are_not_due_are_refused() {
    let prove = Control::Prove { signature: [0; 64] };
    let mut coordinator = keyed(Role::Coordinator, 1, 11);
    assert_eq!(hear(&mut coordinator, &prove), Some(Fatal::BeforeHello("Prove")));
    let mut coordinator = keyed(Role::Coordinator, 1, 11);
    deliver(&mut anonymous(Role::Node), &mut coordinator, T0).unwrap();
    assert_eq!(hear(&mut coordinator, &prove), Some(Fatal::StrayProof));
    let (mut coordinator, mut node) = (keyed(Role::Coordinator, 1, 11), keyed(Role::Node, 2, 22));
    deliver(&mut coordinator, &mut node, T0).unwrap();
    deliver(&mut node, &mut coordinator, T0).unwrap();
    assert_eq!(hear(&mut coordinator, &prove), Some(Fatal::StrayProof));
}
