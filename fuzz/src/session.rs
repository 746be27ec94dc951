//! Two sessions over a link that loses, repeats and reorders frames, with a peer that says anything and a clock that jumps.

use std::collections::VecDeque;

use arbitrary::{Result, Unstructured};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{CodecSet, Event, Fatal, Flags, Frame, Header, Millis, Role, Session, SessionConfig};

/// `two ends, each: codecs u8 | flags u8 | max_payload u16 | max_rows u8`, then steps: a byte that says what and to whom,
/// and what it needs. See [`step`].
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
    }
    Ok(())
}

/// One end and the frames on their way to it.
struct End {
    session: Session,
    incoming: VecDeque<Vec<u8>>,
    fatal: Option<Fatal>,
}

impl End {
    fn new(role: Role, input: &mut Unstructured<'_>) -> Result<Self> {
        let (codecs, flags, max_payload, max_rows): (u8, u8, u16, u8) = input.arbitrary()?;
        let config = SessionConfig {
            role,
            agent: "fuzz",
            codecs: CodecSet(codecs.into()),
            flags: Flags::from_offer(flags),
            max_payload: max_payload.into(),
            max_rows: max_rows.into(),
        };
        Ok(Self { session: Session::new(config, Millis(0)), incoming: VecDeque::new(), fatal: None })
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
            Some(Event::Established(_)) => assert!(!open),
            Some(Event::Data(_) | Event::Control(_) | Event::Rtt { .. }) => assert!(open),
            Some(Event::Nothing | Event::Bye(_)) | None => {}
        }
    }

    /// Everything the session has to say.
    fn say(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        let mut buffer = [0xee; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut buffer) {
            said.push(buffer[..len].to_vec());
        }
        assert!(said.len() <= 4, "a session's own queue is bounded");
        said
    }
}

fn step(ends: &mut [End; 2], now: &mut Millis, honest: &mut bool, input: &mut Unstructured<'_>) -> Result<()> {
    let code: u8 = input.arbitrary()?;
    let to = usize::from(code >> 7);
    match code & 0x0f {
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
            if end.note(result).is_some() && now.0 < u64::MAX - 20_000 {
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
