//! Two sessions over a link that loses, repeats and reorders frames, with a peer that says anything and a clock that jumps.
//!
//! Whatever happens: both ends agree if nobody lied, a key counts as proven only if the other end has it, a node never holds
//! more data frames than its credit, an error and a goodbye are final, and what a session has to say is bounded and in
//! order.

use std::collections::VecDeque;

use arbitrary::{Result, Unstructured};
use syn1_core::control::Reason;
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{
    CodecSet, Control, Event, Fatal, Flags, Frame, Header, Identity, Millis, Role, Session, SessionConfig, Verdict,
};

/// Two ends, each `codecs u8 | flags u8 | max_payload u16 | max_rows u8 | credit u8 | model u8 | key u8 | prove u8`, then
/// steps: a byte that says what and to whom, and what it needs. See [`step`].
pub fn session_pair(data: &[u8]) {
    let _end_of_input = run(&mut Unstructured::new(data));
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut ends = [End::new(Role::Coordinator, input)?, End::new(Role::Node, input)?];
    let mut now = Millis(0);
    let mut honest = true;
    while !input.is_empty() {
        step(&mut ends, &mut now, &mut honest, input)?;
        if let [Some(a), Some(b)] = [ends[0].session.negotiated(), ends[1].session.negotiated()]
            && honest
        {
            assert_eq!(a, b, "both ends must agree on the same");
        }
        for (end, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            if let Some(peer) = end.session.peer().filter(|peer| peer.proven) {
                assert_eq!(peer.key, other.key.key(), "a proof by another key");
            }
        }
    }
    Ok(())
}

/// A key of one byte repeated, 0 for none, and a signature that whoever computes can make: nobody does by chance.
#[derive(Clone, Copy)]
struct Key(u8);

impl Identity for Key {
    fn key(&self) -> [u8; 32] {
        [self.0; 32]
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        signature(&self.key(), message)
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
        match self.0 {
            0 => Verdict::Unchecked,
            _ if self::signature(key, message) == *signature => Verdict::Valid,
            _ => Verdict::Invalid,
        }
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

/// One end and the frames on their way to it.
struct End {
    session: Session<Key>,
    key: Key,
    role: Role,
    incoming: VecDeque<Vec<u8>>,
    fatal: Option<Fatal>,
    /// What it has said of itself so far.
    said: usize,
    left: bool,
    /// Data frames that came and are not done with.
    held: u16,
}

impl End {
    fn new(role: Role, input: &mut Unstructured<'_>) -> Result<Self> {
        let (codecs, flags, max_payload, max_rows): (u8, u8, u16, u8) = input.arbitrary()?;
        let (credit, model, key, prove): (u8, u8, u8, u8) = input.arbitrary()?;
        let config = SessionConfig {
            role,
            agent: "fuzz",
            codecs: CodecSet(codecs.into()),
            flags: Flags::from_offer(flags),
            max_payload: max_payload.into(),
            max_rows: max_rows.into(),
            credit: credit.into(),
            model: [model; 32],
            prove: prove & 1 == 1,
        };
        let session = Session::new(config, Key(key), [role as u8 + 1; 32], Millis(0));
        let (incoming, fatal) = (VecDeque::new(), None);
        Ok(Self { session, key: Key(key), role, incoming, fatal, said: 0, left: false, held: 0 })
    }

    /// Takes the session's result; an error must be the first one for ever.
    fn note<T>(&mut self, result: core::result::Result<T, Fatal>) -> Option<T> {
        match (result, self.fatal) {
            (Ok(value), None) => Some(value),
            (Ok(_), Some(fatal)) => panic!("a session lives after {fatal}"),
            (Err(fatal), before) => {
                assert_eq!(before.unwrap_or(fatal), fatal);
                assert!(!fatal.to_string().is_empty());
                let _reason = fatal.reason();
                self.fatal = Some(fatal);
                None
            }
        }
    }

    fn hear(&mut self, now: Millis, message: &[u8]) {
        let limits = self.session.limits();
        let Ok(Some(frame)) = Frame::from_message(message, &limits) else { return };
        let open = self.session.negotiated().is_some();
        let result = self.session.handle(now, frame);
        match self.note(result) {
            Some(Event::Established(_)) => assert!(!open && !self.left),
            Some(Event::Data(_)) => {
                assert!(open && !self.left);
                self.held += 1;
                let credit = self.session.negotiated().expect("it is open").credit;
                assert!(self.role == Role::Coordinator || self.held <= credit, "more than the credit");
            }
            Some(Event::Control(_) | Event::Rtt { .. }) => assert!(open && !self.left),
            Some(Event::Granted) => assert!(open && !self.left && self.role == Role::Coordinator),
            Some(Event::Nothing | Event::Bye(_)) | None => {}
        }
    }

    /// Everything the session has to say.
    fn say(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        let mut buffer = [0xee; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut buffer) {
            assert!(!self.left, "a session says something after its goodbye");
            match (self.said, Control::decode(&buffer[Header::LEN..len])) {
                (0, Ok(Control::Hello(_))) => {}
                (1, Ok(Control::Prove { .. })) => assert_ne!(self.key.0, 0),
                (1.., Ok(Control::Ping(_) | Control::Pong(_) | Control::Grant { .. })) => {
                    assert!(self.said > 1 || self.key.0 == 0, "something before the proof");
                }
                (said, message) => panic!("message {said} of a session is {message:?}"),
            }
            self.said += 1;
            said.push(buffer[..len].to_vec());
        }
        assert!(said.len() <= 8, "what a session has to say is bounded");
        said
    }
}

fn step(ends: &mut [End; 2], now: &mut Millis, honest: &mut bool, input: &mut Unstructured<'_>) -> Result<()> {
    let code: u8 = input.arbitrary()?;
    let to = usize::from(code >> 7);
    match code & 0x1f {
        // What one end has to say is on its way to the other.
        0 | 1 => {
            let said = ends[1 - to].say();
            ends[to].incoming.extend(said);
        }
        // It arrives, is lost, comes twice, or comes late.
        2..=4 => {
            if let Some(message) = ends[to].incoming.pop_front() {
                ends[to].hear(*now, &message);
            }
        }
        5 => drop(ends[to].incoming.pop_front()),
        6 => {
            let again = ends[to].incoming.front().cloned();
            ends[to].incoming.extend(again);
        }
        7 => {
            if let Some(message) = ends[to].incoming.pop_front() {
                ends[to].incoming.push_back(message);
            }
        }
        // Time passes, a little or a lot, or jumps back.
        8 => *now = now.plus(input.arbitrary::<u16>()?.into()),
        9 => *now = Millis(input.arbitrary()?),
        // What is due is done: a session must then wait for later, or be dead.
        10 => {
            let end = &mut ends[to];
            *now = (*now).max(end.session.poll_timeout());
            let result = end.session.handle_timeout(*now);
            if end.note(result).is_some() && !end.left && now.0 < u64::MAX - 20_000 {
                assert!(
                    end.session.poll_timeout() > *now,
                    "a session that asks for the same time again is a busy loop"
                );
            }
        }
        11 => {
            let result = ends[to].session.handle_timeout(*now);
            ends[to].note(result);
        }
        12 => ends[to].session.set_model(input.arbitrary()?, input.arbitrary()?),
        // A coordinator sends data, as far as it may, and the node works on it.
        16 => {
            if ends[0].session.negotiated().is_some() && ends[0].session.take_credit() {
                ends[1].incoming.push_back([&Header::tokens(0, 0, 0, 1).emit()[..], &[0; 4]].concat());
            }
        }
        17 => {
            ends[to].session.done();
            ends[to].held = ends[to].held.saturating_sub(1);
        }
        18 => {
            let mut buffer = [0xee; Header::LEN + MAX_CONTROL as usize];
            let bye = ends[to].session.leave(Reason::Done, "bye", &mut buffer);
            assert_eq!(bye.is_none(), ends[to].left);
            ends[to].left = true;
            ends[1 - to].incoming.extend(bye.map(|len| buffer[..len].to_vec()));
        }
        // A peer that says anything: a control message, or a whole frame.
        13 | 14 => {
            let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
            let payload = input.bytes(len)?;
            let message = [&Header::control(len as u32).emit()[..], payload].concat();
            *honest = false;
            ends[to].hear(*now, &message);
        }
        _ => {
            let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
            let message = input.bytes(len)?;
            *honest = false;
            ends[to].hear(*now, message);
        }
    }
    Ok(())
}
