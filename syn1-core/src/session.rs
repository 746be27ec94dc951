//! The state of one link, without a socket and without a clock.
//!
//! Put every received frame into [`handle`](Session::handle), send what [`poll_transmit`](Session::poll_transmit) gives,
//! call [`handle_timeout`](Session::handle_timeout) when [`poll_timeout`](Session::poll_timeout) is reached: that is the
//! whole contract. The session greets, negotiates, pings, and refuses what comes too early, twice, or from the wrong role;
//! everything else it hands on.

use heapless::Deque;

use crate::codec::{Codec, CodecSet};
use crate::control::{Bye, Control, Hello, Role};
use crate::encode::encode_control;
use crate::limits::{HELLO_TIMEOUT_MS, MINORS, PING_INTERVAL_MS, SILENCE_TIMEOUT_MS};
use crate::{Fatal, Flags, Frame, Kind, Limits, Millis};

/// One end of a link.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    state: State,
    outgoing: Deque<Outgoing, QUEUE>,
    width: u16,
    vocab: u32,
    next_ping: Millis,
    last_heard: Millis,
    /// The number of the ping that waits for its answer, and when it was made.
    pinged: Option<(u64, Millis)>,
    pings: u64,
}

/// What this end is and can receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionConfig {
    /// What this end is.
    pub role: Role,
    /// Program and version, for the peer's logs.
    pub agent: &'static str,
    /// The codecs it can receive; F32 must be among them, because senders fall back to it.
    pub codecs: CodecSet,
    /// The negotiable flags it can receive.
    pub flags: Flags,
    /// The longest data payload it can receive, in bytes.
    pub max_payload: u32,
    /// The most rows of a data frame it can receive.
    pub max_rows: u16,
}

/// What both ends can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Negotiated {
    /// The protocol minor.
    pub minor: u8,
    /// Flags that frames may carry beside `quantized`.
    pub flags: Flags,
    /// Codecs that payloads may use.
    pub codecs: CodecSet,
    /// Longest data payload, in bytes.
    pub max_payload: u32,
    /// Most rows of a data frame.
    pub max_rows: u16,
}

/// What a frame meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'f> {
    /// Nothing for the caller.
    Nothing,
    /// The peer's Hello is in: the link is open.
    Established(Negotiated),
    /// A message for the caller.
    Control(Control<'f>),
    /// A data frame for the caller.
    Data(Frame<'f>),
    /// The peer answered a ping.
    Rtt {
        /// Milliseconds from making the ping to its answer.
        ms: u64,
    },
    /// The peer closes the link.
    Bye(Bye<'f>),
}

impl Session {
    /// A session on a fresh link, with its Hello ready to be sent.
    #[must_use]
    pub fn new(config: SessionConfig, now: Millis) -> Self {
        let mut session = Self {
            config,
            state: State::Greeting { until: now.plus(HELLO_TIMEOUT_MS) },
            outgoing: Deque::new(),
            width: 0,
            vocab: 0,
            next_ping: now,
            last_heard: now,
            pinged: None,
            pings: 0,
        };
        // SPEC 6.1
        session.queue(Outgoing::Hello);
        session
    }

    /// Takes in a received frame.
    ///
    /// # Errors
    /// The frame breaks the conversation; the session is dead and gives the same error for ever.
    pub fn handle<'f>(&mut self, now: Millis, frame: Frame<'f>) -> Result<Event<'f>, Fatal> {
        self.alive()?;
        self.last_heard = self.last_heard.max(now);
        let result = if frame.header.kind == Kind::Control {
            Control::decode(frame.payload).map_err(Fatal::Control).and_then(|message| self.control(now, message))
        } else {
            self.data(frame)
        };
        // SPEC 6.16
        result.inspect_err(|&fatal| self.state = State::Dead(fatal))
    }

    /// Writes the next frame that the session itself has to send into `out` and says how long it is; `None` when there
    /// is none. `out` must take a control frame: a header and [`MAX_CONTROL`](crate::limits::MAX_CONTROL) bytes.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        let message = match self.outgoing.pop_front()? {
            Outgoing::Hello => Control::Hello(self.hello()),
            Outgoing::Ping(number) => Control::Ping(number),
            Outgoing::Pong(number) => Control::Pong(number),
        };
        encode_control(&message, out).ok().map(<[u8]>::len)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        match self.state {
            State::Greeting { until } => until,
            State::Open(_) => self.next_ping.min(self.last_heard.plus(SILENCE_TIMEOUT_MS)),
            State::Dead(_) => Millis(u64::MAX),
        }
    }

    /// Does what is due at `now`; calling it early does nothing.
    ///
    /// # Errors
    /// The peer did not greet, or was silent for too long.
    pub fn handle_timeout(&mut self, now: Millis) -> Result<(), Fatal> {
        self.alive()?;
        let silent = now.since(self.last_heard);
        let fatal = match self.state {
            // SPEC 6.3
            State::Greeting { until } if now >= until => Fatal::NoHello,
            // SPEC 6.13
            State::Open(_) if silent >= SILENCE_TIMEOUT_MS => Fatal::Silent { ms: silent },
            _ => {
                self.ping(now);
                return Ok(());
            }
        };
        self.state = State::Dead(fatal);
        Err(fatal)
    }

    /// What both ends can do, once the peer's Hello is in.
    #[must_use]
    pub const fn negotiated(&self) -> Option<Negotiated> {
        match self.state {
            State::Open(negotiated) => Some(negotiated),
            _ => None,
        }
    }

    /// What to give the link: the handshake's limits until the peer's Hello is in.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        match self.negotiated() {
            // SPEC 6.9
            None => Limits::handshake(),
            Some(Negotiated { flags, max_payload, max_rows, .. }) => {
                Limits { max_payload, max_rows, width: self.width, vocab: self.vocab, flags }
            }
        }
    }

    /// Says which model's data frames may come from now on; hand the new [`limits`](Self::limits) to the link.
    pub const fn set_model(&mut self, width: u16, vocab: u32) {
        (self.width, self.vocab) = (width, vocab);
    }

    fn control<'f>(&mut self, now: Millis, message: Control<'f>) -> Result<Event<'f>, Fatal> {
        match message {
            // A peer that can't greet us may still say why.
            Control::Bye(bye) => return Ok(Event::Bye(bye)),
            Control::Hello(hello) => {
                let negotiated = self.negotiate(&hello)?;
                self.state = State::Open(negotiated);
                self.next_ping = now;
                self.ping(now);
                return Ok(Event::Established(negotiated));
            }
            // SPEC 6.2
            _ if self.negotiated().is_none() => return Err(Fatal::BeforeHello(message.name())),
            _ => {}
        }
        match message {
            Control::Ping(number) => {
                // SPEC 6.11
                self.queue(Outgoing::Pong(number));
                Ok(Event::Nothing)
            }
            Control::Pong(number) => Ok(match self.pinged.take_if(|(waiting, _)| *waiting == number) {
                Some((_, made)) => Event::Rtt { ms: now.since(made) },
                None => Event::Nothing,
            }),
            // SPEC 6.14
            _ if message.sender() == Some(self.config.role) => {
                Err(Fatal::WrongWay { what: message.name(), peer: self.peer() })
            }
            _ => Ok(Event::Control(message)),
        }
    }

    fn data<'f>(&self, frame: Frame<'f>) -> Result<Event<'f>, Fatal> {
        let header = frame.header;
        let Some(negotiated) = self.negotiated() else {
            // SPEC 6.2
            return Err(Fatal::BeforeHello("data"));
        };
        // SPEC 6.15
        let offered = negotiated.codecs.contains(header.codec) || header.kind != Kind::Activation;
        match (header.kind, self.config.role) {
            _ if !offered => Err(Fatal::Codec(header.codec)),
            // SPEC 6.14
            (Kind::Tokens, Role::Coordinator) => Err(Fatal::WrongWay { what: "tokens", peer: self.peer() }),
            (Kind::Output, Role::Node) => Err(Fatal::WrongWay { what: "output", peer: self.peer() }),
            _ => Ok(Event::Data(frame)),
        }
    }

    fn negotiate(&self, hello: &Hello<'_>) -> Result<Negotiated, Fatal> {
        let config = &self.config;
        if self.negotiated().is_some() {
            // SPEC 6.4
            return Err(Fatal::SecondHello);
        }
        if hello.role == config.role {
            // SPEC 6.5
            return Err(Fatal::SameRole(config.role));
        }
        // SPEC 6.6
        let minor = hello.minor_max.min(MINORS.1);
        if minor < hello.minor_min.max(MINORS.0) {
            return Err(Fatal::NoCommonMinor { theirs: (hello.minor_min, hello.minor_max) });
        }
        let codecs = config.codecs.intersect(CodecSet(hello.codecs));
        // SPEC 6.7
        if !codecs.contains(Codec::F32) {
            return Err(Fatal::NoCommonCodec { theirs: CodecSet(hello.codecs) });
        }
        let max_payload = config.max_payload.min(hello.max_payload);
        let max_rows = config.max_rows.min(hello.max_rows);
        // SPEC 6.8
        if max_payload == 0 || max_rows == 0 {
            return Err(Fatal::NothingFits { max_payload, max_rows });
        }
        // SPEC 6.10
        let flags = config.flags.intersect(Flags::from_offer(hello.flags));
        Ok(Negotiated { minor, flags, codecs, max_payload, max_rows })
    }

    fn hello(&self) -> Hello<'static> {
        let SessionConfig { role, agent, codecs, flags, max_payload, max_rows } = self.config;
        let (minor_min, minor_max) = MINORS;
        Hello { minor_min, minor_max, role, flags: flags.bits(), codecs: codecs.0, max_payload, max_rows, agent }
    }

    fn ping(&mut self, now: Millis) {
        // SPEC 6.12
        if matches!(self.state, State::Open(_)) && now >= self.next_ping {
            self.pings = self.pings.wrapping_add(1);
            self.pinged = Some((self.pings, now));
            self.next_ping = now.plus(PING_INTERVAL_MS);
            self.queue(Outgoing::Ping(self.pings));
        }
    }

    /// A full queue means that we can't send as fast as the peer pings: the surplus answers are worth nothing to it.
    fn queue(&mut self, outgoing: Outgoing) {
        let _full = self.outgoing.push_back(outgoing);
    }

    const fn peer(&self) -> Role {
        match self.config.role {
            Role::Coordinator => Role::Node,
            Role::Node => Role::Coordinator,
        }
    }

    const fn alive(&self) -> Result<(), Fatal> {
        match self.state {
            State::Dead(fatal) => Err(fatal),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
enum State {
    Greeting { until: Millis },
    Open(Negotiated),
    Dead(Fatal),
}

#[derive(Clone, Copy, Debug)]
enum Outgoing {
    Hello,
    Ping(u64),
    Pong(u64),
}

/// A Hello, a ping, and answers to the two pings that may cross it.
const QUEUE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Assign, Reason};
    use crate::limits::MAX_CONTROL;
    use crate::{ControlError, Header};

    const T0: Millis = Millis(1_000);

    fn config(role: Role) -> SessionConfig {
        let (max_payload, max_rows) = (1 << 20, 128);
        SessionConfig { role, agent: "test", codecs: CodecSet::ACTIVATIONS, flags: Flags::NONE, max_payload, max_rows }
    }

    fn pair() -> (Session, Session) {
        (Session::new(config(Role::Coordinator), T0), Session::new(config(Role::Node), T0))
    }

    /// Everything `from` has to send goes to `to`; the events that are not `Nothing`, as text.
    fn deliver(from: &mut Session, to: &mut Session, now: Millis) -> Result<Vec<String>, Fatal> {
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

    fn say<'e>(to: &mut Session, message: &Control<'_>, buffer: &'e mut [u8]) -> Result<Event<'e>, Fatal> {
        let len = message.encode(buffer).unwrap();
        to.handle(T0, Frame { header: Header::control(len as u32), payload: &buffer[..len] })
    }

    fn hear(to: &mut Session, message: &Control<'_>) -> Option<Fatal> {
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
        let mut node = Session::new(limited, T0);
        let mut coordinator = Session::new(SessionConfig { max_rows: 7, ..config(Role::Coordinator) }, T0);
        assert_eq!(coordinator.limits(), Limits::handshake());
        assert_eq!(coordinator.negotiated(), None);
        deliver(&mut coordinator, &mut node, T0).unwrap();
        deliver(&mut node, &mut coordinator, T0).unwrap();
        let codecs = CodecSet::of(&[Codec::F32]);
        let agreed = Negotiated { minor: 0, flags: Flags::NONE, codecs, max_payload: 5000, max_rows: 7 };
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
        for number in [1, 1, 99] {
            let event = say(&mut coordinator, &Control::Pong(number), &mut [0; 99]).map(|event| format!("{event:?}"));
            let expected = if number == 1 && coordinator.pings == 1 { "Rtt { ms: 0 }" } else { "Nothing" };
            coordinator.pings = 2;
            assert_eq!(event.unwrap(), expected);
        }
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
        assert!(sent <= QUEUE);
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
        let good = Session::new(config(Role::Node), T0).hello();
        let f16 = CodecSet::of(&[Codec::F16]);
        let cases = [
            (Hello { role: Role::Coordinator, ..good }, Fatal::SameRole(Role::Coordinator), Reason::Refused),
            (Hello { minor_min: 1, minor_max: 2, ..good }, Fatal::NoCommonMinor { theirs: (1, 2) }, Reason::Version),
            (Hello { codecs: f16.0, ..good }, Fatal::NoCommonCodec { theirs: f16 }, Reason::Refused),
            (Hello { max_rows: 0, ..good }, Fatal::NothingFits { max_payload: 1 << 20, max_rows: 0 }, Reason::Refused),
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
        let mut node = Session::new(SessionConfig { codecs: CodecSet::of(&[Codec::F32]), ..config(Role::Node) }, T0);
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
}
