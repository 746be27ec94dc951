//! What two ends do to each other, and what one end does to a peer that breaks the rules.

use super::*;
use crate::control::Assign;
use crate::limits::MAX_CONTROL;
use crate::{ControlError, Header};

pub(super) const T0: Millis = Millis(1_000);

pub(super) fn config(role: Role) -> SessionConfig {
    SessionConfig {
        role,
        agent: "test",
        codecs: CodecSet::ACTIVATIONS,
        flags: Flags::NONE,
        max_payload: 1 << 20,
        max_rows: 128,
        credit: 4,
        model: NONE,
        prove: false,
    }
}

fn session(config: SessionConfig) -> Session {
    Session::new(config, Anonymous, NONE, T0)
}

fn pair() -> (Session, Session) {
    (session(config(Role::Coordinator)), session(config(Role::Node)))
}

/// Everything `from` has to send goes to `to`; the events that are not `Nothing`, as text.
pub(super) fn deliver<A: Identity, B: Identity>(
    from: &mut Session<A>,
    to: &mut Session<B>,
    now: Millis,
) -> Result<Vec<String>, Fatal> {
    let mut events = Vec::new();
    let mut buffer = [0; Header::LEN + MAX_CONTROL as usize];
    while let Some(len) = from.poll_transmit(&mut buffer) {
        let frame = Frame::from_message(&buffer[..len], &to.limits()).unwrap().unwrap();
        match to.handle(now, frame)? {
            Event::Nothing => {}
            event => events.push(format!("{event:?}")),
        }
    }
    Ok(events)
}

pub(super) fn say<'e, I: Identity>(
    to: &mut Session<I>,
    message: &Control<'_>,
    buffer: &'e mut [u8],
) -> Result<Event<'e>, Fatal> {
    let len = message.encode(buffer).unwrap();
    to.handle(T0, Frame { header: Header::control(len as u32), payload: &buffer[..len] })
}

pub(super) fn hear<I: Identity>(to: &mut Session<I>, message: &Control<'_>) -> Option<Fatal> {
    say(to, message, &mut [0; 1024]).err()
}

fn established() -> (Session, Session) {
    let (mut coordinator, mut node) = pair();
    deliver(&mut coordinator, &mut node, T0).unwrap();
    deliver(&mut node, &mut coordinator, T0).unwrap();
    (coordinator, node)
}

#[test]
fn two_hellos_agree_on_what_both_can_do() {
    let limited = SessionConfig { max_payload: 5000, codecs: CodecSet::of(&[Codec::F32]), ..config(Role::Node) };
    let mut node = session(limited);
    let mut coordinator = session(SessionConfig { max_rows: 7, ..config(Role::Coordinator) });
    assert_eq!(coordinator.limits(), Limits::handshake());
    assert_eq!(coordinator.negotiated(), None);
    deliver(&mut coordinator, &mut node, T0).unwrap();
    deliver(&mut node, &mut coordinator, T0).unwrap();
    let codecs = CodecSet::of(&[Codec::F32]);
    let agreed = Negotiated { minor: 0, flags: Flags::NONE, codecs, max_payload: 5000, max_rows: 7, credit: 4 };
    assert_eq!((coordinator.negotiated(), node.negotiated()), (Some(agreed), Some(agreed)));
    node.set_model(768, 50_257);
    let limits = Limits { max_payload: 5000, max_rows: 7, width: 768, vocab: 50_257, flags: Flags::NONE };
    assert_eq!(node.limits(), limits);
}

#[test]
fn each_side_pings_at_once_and_measures_the_round_trip() {
    let (mut coordinator, mut node) = established();
    assert_eq!(deliver(&mut coordinator, &mut node, T0.plus(8)).unwrap(), ["Rtt { ms: 8 }"]);
    assert_eq!(deliver(&mut node, &mut coordinator, T0.plus(12)).unwrap(), ["Rtt { ms: 12 }"]);
    assert_eq!(deliver(&mut coordinator, &mut node, T0.plus(20)).unwrap(), [""; 0]);
}

#[test]
fn an_answer_to_no_ping_measures_nothing() {
    let (mut coordinator, _) = established();
    let mut events = Vec::new();
    for number in [99, 1, 1] {
        let event = say(&mut coordinator, &Control::Pong(number), &mut [0; 99]).map(|event| format!("{event:?}"));
        events.push(event.unwrap());
    }
    assert_eq!(events, ["Nothing", "Rtt { ms: 0 }", "Nothing"]);
}

#[test]
fn a_flood_of_pings_can_not_grow_the_queue() {
    let (mut coordinator, _) = established();
    for number in 0..1000 {
        assert_eq!(hear(&mut coordinator, &Control::Ping(number)), None);
    }
    let mut sent = 0;
    while coordinator.poll_transmit(&mut [0; 99]).is_some() {
        sent += 1;
    }
    // A Ping of its own, and four answers.
    assert_eq!(sent, 5);
}

#[test]
fn a_peer_that_does_not_greet_is_given_up() {
    let (mut coordinator, _) = pair();
    assert_eq!(coordinator.poll_timeout(), T0.plus(HELLO_TIMEOUT_MS));
    assert_eq!(coordinator.handle_timeout(T0.plus(HELLO_TIMEOUT_MS - 1)), Ok(()));
    assert_eq!(coordinator.handle_timeout(T0.plus(HELLO_TIMEOUT_MS)), Err(Fatal::NoHello));
    assert_eq!(Fatal::NoHello.reason(), Reason::Timeout);
    assert_eq!(hear(&mut coordinator, &Control::Ping(1)), Some(Fatal::NoHello));
    assert_eq!(coordinator.poll_timeout(), Millis(u64::MAX));
}

#[test]
fn silence_ends_a_link_and_answers_keep_it() {
    let (mut coordinator, mut node) = established();
    let mut now = T0;
    for _ in 0..20 {
        now = coordinator.poll_timeout().max(now);
        coordinator.handle_timeout(now).unwrap();
        deliver(&mut coordinator, &mut node, now).unwrap();
        deliver(&mut node, &mut coordinator, now).unwrap();
    }
    assert!(now >= T0.plus(19 * PING_INTERVAL_MS));
    let last = now;
    let error = loop {
        now = coordinator.poll_timeout();
        if let Err(error) = coordinator.handle_timeout(now) {
            break error;
        }
    };
    assert_eq!((error, now), (Fatal::Silent { ms: SILENCE_TIMEOUT_MS }, last.plus(SILENCE_TIMEOUT_MS)));
}

#[test]
fn nothing_but_bye_comes_before_hello() {
    let mut buffer = [0; 99];
    let (mut coordinator, _) = pair();
    let bye = Bye { reason: Reason::Version, text: "too old" };
    assert_eq!(say(&mut coordinator, &Control::Bye(bye), &mut buffer), Ok(Event::Bye(bye)));
    assert_eq!(hear(&mut coordinator, &Control::Ping(1)), Some(Fatal::BeforeHello("Ping")));
    let (_, mut node) = pair();
    let data = Frame { header: Header::tokens(0, 0, 0, 1), payload: &[0; 4] };
    assert_eq!(node.handle(T0, data), Err(Fatal::BeforeHello("data")));
    assert_eq!(node.handle_timeout(T0), Err(Fatal::BeforeHello("data")));
}

#[test]
fn hellos_that_do_not_fit_are_refused_with_their_cause() {
    let good = session(config(Role::Node)).hello();
    let f16 = CodecSet::of(&[Codec::F16]);
    let cases = [
        (Hello { role: Role::Coordinator, ..good }, Fatal::SameRole(Role::Coordinator), Reason::Refused),
        (Hello { minor_min: 1, minor_max: 2, ..good }, Fatal::NoCommonMinor { theirs: (1, 2) }, Reason::Version),
        (Hello { codecs: f16.0, ..good }, Fatal::NoCommonCodec { theirs: f16 }, Reason::Refused),
        (
            Hello { credit: 0, ..good },
            Fatal::NothingFits { max_payload: 1 << 20, max_rows: 128, credit: 0 },
            Reason::Refused,
        ),
        (
            Hello { max_rows: 0, ..good },
            Fatal::NothingFits { max_payload: 1 << 20, max_rows: 0, credit: 4 },
            Reason::Refused,
        ),
    ];
    for (hello, fatal, reason) in cases {
        let (mut coordinator, _) = pair();
        assert_eq!(hear(&mut coordinator, &Control::Hello(hello)), Some(fatal));
        assert_eq!(fatal.reason(), reason);
    }
    let (mut coordinator, _) = established();
    assert_eq!(hear(&mut coordinator, &Control::Hello(good)), Some(Fatal::SecondHello));
}

#[test]
fn what_a_newer_peer_offers_beyond_us_is_left_out() {
    let (mut coordinator, node) = pair();
    let newer = Hello { minor_max: 9, flags: 0xff, codecs: u32::MAX, ..node.hello() };
    assert_eq!(hear(&mut coordinator, &Control::Hello(newer)), None);
    let agreed = coordinator.negotiated().unwrap();
    assert_eq!((agreed.minor, agreed.flags, agreed.codecs), (0, Flags::NONE, CodecSet::ACTIVATIONS));
}

#[test]
fn messages_and_data_reach_the_caller_from_the_right_role_only() {
    let mut buffer = [0; 99];
    let (mut coordinator, mut node) = established();
    let assign = Control::Assign(Assign {
        generation: 1,
        first_layer: 0,
        end_layer: 4,
        max_positions: 512,
        slots: 1,
        max_rows: 8,
    });
    assert_eq!(say(&mut node, &assign, &mut buffer), Ok(Event::Control(assign)));
    let wrong = Fatal::WrongWay { what: "Assign", peer: Role::Node };
    assert_eq!(hear(&mut coordinator, &assign), Some(wrong));

    let (mut coordinator, mut node) = established();
    let tokens = Frame { header: Header::tokens(0, 0, 0, 1), payload: &[0; 4] };
    assert_eq!(node.handle(T0, tokens), Ok(Event::Data(tokens)));
    assert_eq!(coordinator.handle(T0, tokens), Err(Fatal::WrongWay { what: "tokens", peer: Role::Node }));
    let output = Frame { header: Header::acknowledge(0, 0, 0), payload: &[] };
    assert_eq!(node.handle(T0, output), Err(Fatal::WrongWay { what: "output", peer: Role::Coordinator }));
}

#[test]
fn activations_come_in_agreed_codecs_only() {
    let mut node = session(SessionConfig { codecs: CodecSet::of(&[Codec::F32]), ..config(Role::Node) });
    let (mut coordinator, _) = pair();
    deliver(&mut coordinator, &mut node, T0).unwrap();
    let q8 = Frame { header: Header::activation(0, 0, 0, Codec::Q8, 1, 4).unwrap(), payload: &[0; 40] };
    assert_eq!(node.handle(T0, q8), Err(Fatal::Codec(Codec::Q8)));
}

#[test]
fn a_message_that_can_not_be_read_is_fatal() {
    let (mut coordinator, _) = established();
    let frame = Frame { header: Header::control(1), payload: &[99] };
    assert_eq!(coordinator.handle(T0, frame), Err(Fatal::Control(ControlError::Unknown(99))));
}

#[test]
fn an_end_that_wants_one_model_refuses_who_wants_another() {
    let meet = |ours, theirs| {
        let mut coordinator = session(SessionConfig { model: ours, ..config(Role::Coordinator) });
        let mut node = session(SessionConfig { model: theirs, ..config(Role::Node) });
        let result = deliver(&mut node, &mut coordinator, T0).map(|_| ());
        (result, coordinator.peer().map(|peer| peer.model))
    };
    let other = Fatal::OtherModel { ours: 0x0101_0101, theirs: 0x0202_0202 };
    assert_eq!(meet([1; 32], [2; 32]), (Err(other), None));
    assert_eq!(other.reason(), Reason::Refused);
    for (ours, theirs) in [([1; 32], [1; 32]), (NONE, [2; 32]), ([1; 32], NONE), (NONE, NONE)] {
        assert_eq!(meet(ours, theirs), (Ok(()), Some(theirs)));
    }
}

/// A data frame from the coordinator.
const TOKENS: Frame<'static> = Frame { header: Header::tokens(0, 0, 0, 1), payload: &[0; 4] };

#[test]
fn a_coordinator_sends_as_much_as_the_node_takes_ahead() {
    let (mut coordinator, mut node) = established();
    deliver(&mut node, &mut coordinator, T0).unwrap();
    for _ in 0..4 {
        assert!(coordinator.take_credit());
        assert_eq!(node.handle(T0, TOKENS), Ok(Event::Data(TOKENS)));
    }
    assert!(!coordinator.take_credit());
    node.done();
    assert_eq!(deliver(&mut node, &mut coordinator, T0).unwrap(), [""; 0]);
    node.done();
    assert_eq!(deliver(&mut node, &mut coordinator, T0).unwrap(), ["Granted"]);
    assert_eq!([0; 3].map(|_| coordinator.take_credit()), [true, true, false]);
    // Answers need no credit.
    assert!([0; 99].iter().all(|_| node.take_credit()));
}

#[test]
fn data_beyond_the_credit_and_grants_beyond_the_hello_are_refused() {
    let (_, mut node) = established();
    for _ in 0..4 {
        node.handle(T0, TOKENS).unwrap();
    }
    assert_eq!(node.handle(T0, TOKENS), Err(Fatal::NoCredit { credit: 4 }));
    let (mut coordinator, _) = established();
    assert!(coordinator.take_credit());
    let mut buffer = [0; 9];
    assert_eq!(say(&mut coordinator, &Control::Grant { frames: 1 }, &mut buffer), Ok(Event::Granted));
    let over = Fatal::Overgranted { frames: 1 };
    assert_eq!(hear(&mut coordinator, &Control::Grant { frames: 1 }), Some(over));
    assert_eq!((over.reason(), Fatal::NoCredit { credit: 4 }.reason()), (Reason::Protocol, Reason::Protocol));
    let (_, mut node) = established();
    let wrong = Fatal::WrongWay { what: "Grant", peer: Role::Coordinator };
    assert_eq!(hear(&mut node, &Control::Grant { frames: 1 }), Some(wrong));
}

#[test]
fn a_grant_is_not_lost_to_a_flood_of_pings() {
    let (mut coordinator, mut node) = established();
    for number in 100..200 {
        assert_eq!(hear(&mut node, &Control::Ping(number)), None);
    }
    for _ in 0..2 {
        assert!(coordinator.take_credit());
        node.handle(T0, TOKENS).unwrap();
        node.done();
    }
    // What does not fit the buffer stays where it is.
    assert_eq!(node.poll_transmit(&mut [0; 24]), None);
    let events = deliver(&mut node, &mut coordinator, T0).unwrap();
    assert_eq!(events, ["Granted"]);
}

#[test]
fn after_its_goodbye_an_end_says_nothing_and_takes_nothing_but_a_goodbye() {
    let (mut coordinator, _) = established();
    assert_eq!(hear(&mut coordinator, &Control::Ping(1)), None);
    let mut out = [0; 99];
    assert_eq!(coordinator.leave(Reason::Done, "", &mut [0; 24]), None);
    let len = coordinator.leave(Reason::Shutdown, "later", &mut out).unwrap();
    let bye = Control::Bye(Bye { reason: Reason::Shutdown, text: "later" });
    assert_eq!(Control::decode(&out[Header::LEN..len]), Ok(bye));
    assert_eq!(coordinator.leave(Reason::Done, "", &mut out), None);
    assert_eq!(coordinator.poll_transmit(&mut out), None);
    assert_eq!(coordinator.poll_timeout(), Millis(u64::MAX));
    assert_eq!(coordinator.handle_timeout(Millis(u64::MAX)), Ok(()));
    for payload in [&[2, 1][..], &[99], &[]] {
        let frame = Frame { header: Header::control(payload.len() as u32), payload };
        assert_eq!(coordinator.handle(T0, frame), Ok(Event::Nothing));
    }
    assert_eq!(coordinator.handle(T0, TOKENS), Ok(Event::Nothing));
    assert!(matches!(say(&mut coordinator, &bye, &mut out), Ok(Event::Bye(_))));
}

#[test]
fn an_end_that_failed_can_still_say_why() {
    let (mut coordinator, mut node) = established();
    let fatal = hear(&mut coordinator, &Control::Hello(node.hello())).unwrap();
    let mut out = [0; 99];
    let len = coordinator.leave(fatal.reason(), "", &mut out).unwrap();
    let frame = Frame { header: Header::control((len - Header::LEN) as u32), payload: &out[Header::LEN..len] };
    assert_eq!(node.handle(T0, frame), Ok(Event::Bye(Bye { reason: Reason::Protocol, text: "" })));
    assert_eq!(hear(&mut coordinator, &Control::Ping(1)), Some(Fatal::SecondHello));
}
