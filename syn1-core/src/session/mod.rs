//! The state of one link, without a socket and without a clock.
//!
//! Put every received frame into [`handle`](Session::handle), send what [`poll_transmit`](Session::poll_transmit) gives,
//! call [`handle_timeout`](Session::handle_timeout) when [`poll_timeout`](Session::poll_timeout) is reached: that is the
//! whole contract. The session greets, proves its key, negotiates, counts credit, pings, says goodbye, and refuses what
//! comes too early, twice, beyond the credit or from the wrong role; everything else it hands on.
//!
//! ```
//! use syn1_core::{
//!     Anonymous, CodecSet, Event, Flags, Frame, Millis, Role, Session, SessionConfig,
//! };
//!
//! let config = SessionConfig {
//!     role: Role::Node,
//!     agent: "example 1.0",
//!     codecs: CodecSet::ACTIVATIONS,
//!     flags: Flags::NONE,
//!     max_payload: 1 << 20,
//!     max_rows: 32,
//!     credit: 2,
//!     model: [0; 32],
//!     prove: false,
//! };
//! let now = Millis(0);
//! let mut node = Session::new(config, Anonymous, [0; 32], now);
//! let mut coordinator =
//!     Session::new(SessionConfig { role: Role::Coordinator, ..config }, Anonymous, [0; 32], now);
//!
//! // The node's Hello reaches the coordinator, by whatever link.
//! let mut out = [0; 1048];
//! let len = node.poll_transmit(&mut out).expect("a Hello is ready at once");
//! let frame = Frame::from_message(&out[..len], &coordinator.limits())?.expect("no frame to ignore");
//! let Event::Established(negotiated) = coordinator.handle(now, frame)? else { panic!("no Hello") };
//! assert_eq!((negotiated.max_rows, negotiated.credit), (32, 2));
//!
//! // Two data frames may be on their way.
//! assert!(coordinator.take_credit() && coordinator.take_credit());
//! assert!(!coordinator.take_credit());
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod credit;
mod own;
#[cfg(test)]
mod proof_tests;
mod terms;
#[cfg(test)]
mod tests;

use credit::Credit;
use own::{Outbox, Own};

use crate::codec::{Codec, CodecSet};
use crate::control::{Bye, Control, Hello, Reason, Role};
use crate::encode::encode_control;
use crate::identity::{Anonymous, Identity, Verdict, proof_message};
use crate::limits::{HELLO_TIMEOUT_MS, MINORS, PING_INTERVAL_MS, SILENCE_TIMEOUT_MS};
use crate::{Fatal, Flags, Frame, Kind, Limits, Millis};

pub use terms::{Event, Negotiated, Peer, SessionConfig};

/// One end of a link. `I` is what it can prove and check.
///
/// ```
/// use syn1_core::{Anonymous, Session};
///
/// /// A node that carries no cryptography.
/// type Node = Session<Anonymous>;
/// ```
// A few of its functions are never inlined, which keeps a microcontroller's code and stack frames small.
#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Session<I = Anonymous> {
    config: SessionConfig,
    identity: I,
    nonce: [u8; 32],
    state: State,
    /// What came of the peer's Hello.
    greeted: Option<Greeted>,
    credit: Credit,
    outbox: Outbox,
    /// Whether this end has said its Bye.
    left: bool,
    width: u16,
    vocab: u32,
    /// When the peer must have greeted and proven its key.
    until: Millis,
    next_ping: Millis,
    last_heard: Millis,
    /// When the ping was made that waits for its answer; its number is `pings`.
    pinged: Option<Millis>,
    pings: u64,
}

impl<I: Identity> Session<I> {
    /// A session on a fresh link, with its Hello ready to be sent.
    ///
    /// `nonce` is 32 fresh random bytes, which keep an old proof of the peer's from being played again; an end that checks
    /// no proofs may give zeros.
    ///
    /// ```
    /// use syn1_core::{Anonymous, Millis, Session, SessionConfig};
    ///
    /// fn open(config: SessionConfig, nonce: [u8; 32]) -> Session {
    ///     Session::new(config, Anonymous, nonce, Millis(0))
    /// }
    /// ```
    #[must_use]
    pub fn new(config: SessionConfig, identity: I, nonce: [u8; 32], now: Millis) -> Self {
        Self {
            config,
            identity,
            // SPEC 6.18
            nonce,
            state: State::Greeting,
            greeted: None,
            credit: Credit::default(),
            outbox: Outbox::new(),
            left: false,
            width: 0,
            vocab: 0,
            until: now.plus(HELLO_TIMEOUT_MS),
            next_ping: now,
            last_heard: now,
            pinged: None,
            pings: 0,
        }
    }

    /// Takes in a received frame.
    ///
    /// ```
    /// use syn1_core::{Event, Fatal, Frame, Millis, Session};
    ///
    /// fn receive(session: &mut Session, now: Millis, frame: Frame<'_>) -> Result<(), Fatal> {
    ///     match session.handle(now, frame)? {
    ///         Event::Data(frame) => println!("{} rows for request {}", frame.header.rows, frame.header.request),
    ///         Event::Bye(bye) => println!("the peer leaves: {}", bye.text),
    ///         _ => {}
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The frame breaks the conversation; the session is dead and gives the same error for ever.
    #[inline(never)]
    pub fn handle<'f>(&mut self, now: Millis, frame: Frame<'f>) -> Result<Event<'f>, Fatal> {
        self.alive()?;
        self.last_heard = self.last_heard.max(now);
        let message = (frame.header.kind == Kind::Control).then(|| Control::decode(frame.payload));
        let result = match message {
            // A peer that can't greet us may still say why.
            Some(Ok(Control::Bye(bye))) => Ok(Event::Bye(bye)),
            // SPEC 6.28
            _ if self.left => Ok(Event::Nothing),
            Some(Ok(message)) => self.control(now, message),
            Some(Err(error)) => Err(Fatal::Control(error)),
            None => self.data(frame),
        };
        // SPEC 6.16
        result.inspect_err(|&fatal| self.state = State::Dead(fatal))
    }

    /// Writes the next frame that the session itself has to send into `out` and says how long it is; `None` when there
    /// is none. `out` must take a control frame: a header and [`MAX_CONTROL`](crate::limits::MAX_CONTROL) bytes.
    ///
    /// ```
    /// fn flush(session: &mut syn1_core::Session, mut send: impl FnMut(&[u8])) {
    ///     let mut out = [0; 1048];
    ///     while let Some(len) = session.poll_transmit(&mut out) {
    ///         send(&out[..len]);
    ///     }
    /// }
    /// ```
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        // SPEC 6.27
        if self.left {
            return None;
        }
        // A grant waits behind what is said once; pings can't crowd it out.
        let own = match (self.outbox.first(), self.credit.due()) {
            (None | Some(Own::Pong(_)), Some(frames)) => Own::Grant(frames),
            (own, _) => own?,
        };
        let message = match own {
            Own::Hello => Control::Hello(self.hello()),
            Own::Prove => self.prove()?,
            Own::Ping => Control::Ping(self.pings),
            Own::Grant(frames) => Control::Grant { frames },
            Own::Pong(number) => Control::Pong(number),
        };
        let len = encode_control(&message, out).ok()?.len();
        match own {
            Own::Grant(_) => self.credit.grant(),
            own => self.outbox.said(own),
        }
        Some(len)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    ///
    /// ```
    /// use syn1_core::{Millis, Session};
    ///
    /// fn wait_ms(session: &Session, now: Millis) -> u64 {
    ///     session.poll_timeout().since(now)
    /// }
    /// ```
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        match self.state {
            _ if self.left => Millis(u64::MAX),
            State::Greeting | State::Proving => self.until,
            State::Open => self.next_ping.min(self.last_heard.plus(SILENCE_TIMEOUT_MS)),
            State::Dead(_) => Millis(u64::MAX),
        }
    }

    /// Does what is due at `now`; calling it early does nothing.
    ///
    /// ```
    /// use syn1_core::{Fatal, Millis, Session};
    ///
    /// fn tick(session: &mut Session, now: Millis) -> Result<(), Fatal> {
    ///     if now >= session.poll_timeout() { session.handle_timeout(now) } else { Ok(()) }
    /// }
    /// ```
    ///
    /// # Errors
    /// The peer did not greet, did not prove its key, or was silent for too long.
    pub fn handle_timeout(&mut self, now: Millis) -> Result<(), Fatal> {
        self.alive()?;
        let silent = now.since(self.last_heard);
        let late = now >= self.until;
        let fatal = match self.state {
            _ if self.left => return Ok(()),
            // SPEC 6.3
            State::Greeting if late => Fatal::NoHello,
            // SPEC 6.21
            State::Proving if late => Fatal::NoProof,
            // SPEC 6.13
            State::Open if silent >= SILENCE_TIMEOUT_MS => Fatal::Silent { ms: silent },
            _ => {
                self.ping(now);
                return Ok(());
            }
        };
        self.state = State::Dead(fatal);
        Err(fatal)
    }

    /// What both ends can do, once the link is open.
    ///
    /// ```
    /// use syn1_core::{Codec, Session};
    ///
    /// fn knows_q4(session: &Session) -> bool {
    ///     session.negotiated().is_some_and(|agreed| agreed.codecs.contains(Codec::Q4))
    /// }
    /// ```
    #[must_use]
    pub const fn negotiated(&self) -> Option<Negotiated> {
        match (&self.state, &self.greeted) {
            (State::Open, Some(greeted)) => Some(greeted.negotiated),
            _ => None,
        }
    }

    /// Who the peer is, once its Hello is in.
    ///
    /// ```
    /// fn is_known(session: &syn1_core::Session, known: &[[u8; 32]]) -> bool {
    ///     session.peer().is_some_and(|peer| peer.proven && known.contains(&peer.key))
    /// }
    /// ```
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.greeted.as_ref().map(|greeted| greeted.peer)
    }

    /// What to give the link: the handshake's limits until the link is open.
    ///
    /// ```
    /// use syn1_core::{Receive, Session};
    ///
    /// fn keep_in_step(session: &Session, rx: &mut impl Receive) {
    ///     rx.set_limits(session.limits());
    /// }
    /// ```
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
    ///
    /// ```
    /// use syn1_core::{Control, Session};
    ///
    /// fn learn(session: &mut Session, message: &Control<'_>) {
    ///     if let Control::Model(model) = message {
    ///         session.set_model(model.width, model.vocab);
    ///     }
    /// }
    /// ```
    pub const fn set_model(&mut self, width: u16, vocab: u32) {
        (self.width, self.vocab) = (width, vocab);
    }

    /// Whether one more data frame may be sent, which the coordinator must ask before each: true takes the credit for it,
    /// false says to wait for [`Event::Granted`]. A node only answers, so it may always send.
    ///
    /// ```
    /// fn send_what_may_go(session: &mut syn1_core::Session, waiting: &mut Vec<Vec<u8>>, mut send: impl FnMut(Vec<u8>)) {
    ///     while !waiting.is_empty() && session.take_credit() {
    ///         send(waiting.remove(0));
    ///     }
    /// }
    /// ```
    pub fn take_credit(&mut self) -> bool {
        // SPEC 6.24
        self.config.role == Role::Node || self.credit.take()
    }

    /// A node has finished with one data frame that came, answered or dropped, and can hold another one. At a coordinator
    /// this does nothing.
    ///
    /// ```
    /// fn work(session: &mut syn1_core::Session, frame: syn1_core::Frame<'_>, mut run: impl FnMut(&[u8])) {
    ///     run(frame.payload);
    ///     session.done();
    /// }
    /// ```
    pub fn done(&mut self) {
        if self.config.role == Role::Node {
            self.credit.done();
        }
    }

    /// Says goodbye: writes a Bye into `out` and says how long its frame is. From then on the session sends nothing and
    /// takes nothing but the peer's Bye, so that the link can be drained and closed. Also what a session that has failed
    /// says last, with the error's [`reason`](Fatal::reason).
    ///
    /// `None` if it has left already, or if `out` is too short for the frame. `text` is [`clip`](crate::clip)ped.
    ///
    /// ```
    /// use syn1_core::{Reason, Session};
    ///
    /// fn shut_down(session: &mut Session, mut send: impl FnMut(&[u8])) {
    ///     let mut out = [0; 1048];
    ///     if let Some(len) = session.leave(Reason::Shutdown, "back in a minute", &mut out) {
    ///         send(&out[..len]);
    ///     }
    /// }
    /// ```
    pub fn leave(&mut self, reason: Reason, text: &str, out: &mut [u8]) -> Option<usize> {
        if self.left {
            return None;
        }
        let len = encode_control(&Control::Bye(Bye { reason, text }), out).ok()?.len();
        self.left = true;
        Some(len)
    }

    fn control<'f>(&mut self, now: Millis, message: Control<'f>) -> Result<Event<'f>, Fatal> {
        match (self.state, message) {
            (_, Control::Hello(hello)) => self.greet(now, &hello),
            // SPEC 6.2
            (State::Greeting, _) => Err(Fatal::BeforeHello(message.name())),
            (State::Proving, Control::Prove { signature }) => self.verify(now, &signature),
            // SPEC 6.21
            (State::Proving, _) => Err(Fatal::Unproven(message.name())),
            // SPEC 6.23
            (_, Control::Prove { .. }) => Err(Fatal::StrayProof),
            (_, Control::Ping(number)) => {
                // SPEC 6.11
                self.outbox.pong(number);
                Ok(Event::Nothing)
            }
            (_, Control::Pong(number)) => Ok(match self.pinged.take_if(|_| number == self.pings) {
                Some(made) => Event::Rtt { ms: now.since(made) },
                None => Event::Nothing,
            }),
            // SPEC 6.14
            _ if message.sender() == Some(self.config.role) => {
                Err(Fatal::WrongWay { what: message.name(), peer: self.other() })
            }
            // SPEC 6.26
            (_, Control::Grant { frames }) if !self.credit.granted(frames) => Err(Fatal::Overgranted { frames }),
            (_, Control::Grant { .. }) => Ok(Event::Granted),
            _ => Ok(Event::Control(message)),
        }
    }

    #[inline(never)]
    fn data<'f>(&mut self, frame: Frame<'f>) -> Result<Event<'f>, Fatal> {
        let header = frame.header;
        let Some(negotiated) = self.negotiated() else {
            return Err(match self.state {
                // SPEC 6.21
                State::Proving => Fatal::Unproven("data"),
                // SPEC 6.2
                _ => Fatal::BeforeHello("data"),
            });
        };
        // SPEC 6.15
        let offered = negotiated.codecs.contains(header.codec) || header.kind != Kind::Activation;
        match (header.kind, self.config.role) {
            _ if !offered => Err(Fatal::Codec(header.codec)),
            // SPEC 6.14
            (Kind::Tokens, Role::Coordinator) => Err(Fatal::WrongWay { what: "tokens", peer: self.other() }),
            (Kind::Output, Role::Node) => Err(Fatal::WrongWay { what: "output", peer: self.other() }),
            // SPEC 6.25
            (_, Role::Node) if !self.credit.take() => Err(Fatal::NoCredit { credit: negotiated.credit }),
            _ => Ok(Event::Data(frame)),
        }
    }

    #[inline(never)]
    fn greet<'f>(&mut self, now: Millis, hello: &Hello<'_>) -> Result<Event<'f>, Fatal> {
        let negotiated = self.negotiate(hello)?;
        let Hello { key, model, nonce, .. } = *hello;
        if key == NONE && self.config.prove {
            // SPEC 6.22
            return Err(Fatal::Anonymous);
        }
        self.greeted = Some(Greeted { peer: Peer { key, proven: false, model }, nonce, negotiated });
        // SPEC 6.19
        self.outbox.prove = self.identity.key() != NONE;
        if key == NONE {
            return Ok(self.open(now, negotiated));
        }
        self.state = State::Proving;
        Ok(Event::Nothing)
    }

    fn negotiate(&self, hello: &Hello<'_>) -> Result<Negotiated, Fatal> {
        let config = &self.config;
        if self.greeted.is_some() {
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
        let credit = if config.role == Role::Node { config.credit } else { hello.credit };
        // SPEC 6.8
        if max_payload == 0 || max_rows == 0 || credit == 0 {
            return Err(Fatal::NothingFits { max_payload, max_rows, credit });
        }
        // SPEC 6.17
        if config.model != NONE && hello.model != NONE && config.model != hello.model {
            return Err(Fatal::OtherModel { ours: start(&config.model), theirs: start(&hello.model) });
        }
        // SPEC 6.10
        let flags = config.flags.intersect(Flags::from_offer(hello.flags));
        Ok(Negotiated { minor, flags, codecs, max_payload, max_rows, credit })
    }

    /// Whether the peer holds the key that its Hello named.
    fn verify<'f>(&mut self, now: Millis, signature: &[u8; 64]) -> Result<Event<'f>, Fatal> {
        let other = self.other();
        let Some(Greeted { peer, nonce, negotiated }) = &mut self.greeted else { return Ok(Event::Nothing) };
        let negotiated = *negotiated;
        let message = proof_message(other, nonce, &self.nonce, &peer.key, &self.identity.key());
        match self.identity.verify(&peer.key, &message, signature) {
            Verdict::Valid => peer.proven = true,
            // SPEC 6.22
            Verdict::Unchecked if self.config.prove => return Err(Fatal::Anonymous),
            Verdict::Unchecked => {}
            // SPEC 6.22
            Verdict::Invalid => return Err(Fatal::Forged),
        }
        Ok(self.open(now, negotiated))
    }

    fn open<'f>(&mut self, now: Millis, negotiated: Negotiated) -> Event<'f> {
        self.state = State::Open;
        self.credit = Credit::new(negotiated.credit);
        self.next_ping = now;
        self.ping(now);
        Event::Established(negotiated)
    }

    fn hello(&self) -> Hello<'static> {
        let SessionConfig { role, agent, codecs, flags, max_payload, max_rows, credit, model, prove: _ } = self.config;
        let (minor_min, minor_max) = MINORS;
        let (flags, codecs, key, nonce) = (flags.bits(), codecs.0, self.identity.key(), self.nonce);
        Hello { minor_min, minor_max, role, flags, codecs, max_payload, max_rows, credit, model, key, nonce, agent }
    }

    fn prove<'f>(&self) -> Option<Control<'f>> {
        let Greeted { peer, nonce, .. } = self.greeted.as_ref()?;
        // SPEC 6.20
        let message = proof_message(self.config.role, &self.nonce, nonce, &self.identity.key(), &peer.key);
        Some(Control::Prove { signature: self.identity.sign(&message) })
    }

    #[inline(never)]
    fn ping(&mut self, now: Millis) {
        // SPEC 6.12
        if matches!(self.state, State::Open) && now >= self.next_ping {
            self.pings = self.pings.wrapping_add(1);
            self.pinged = Some(now);
            self.next_ping = now.plus(PING_INTERVAL_MS);
            self.outbox.ping = true;
        }
    }

    const fn other(&self) -> Role {
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

/// The peer's Hello, as far as it is needed later.
#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Greeted {
    peer: Peer,
    nonce: [u8; 32],
    negotiated: Negotiated,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
enum State {
    Greeting,
    /// The peer's Hello is in and named a key that is not proven yet.
    Proving,
    Open,
    Dead(Fatal),
}

/// The start of a hash, as people compare it.
fn start(hash: &[u8; 32]) -> u32 {
    hash.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// No key, no model.
const NONE: [u8; 32] = [0; 32];
