//! The state of one link, without a socket and without a clock.

use syn1_core::{CodecSet, Event, Millis, Negotiated, Peer, Session, SessionConfig};

use crate::control::{bye, of, reason, role};
use crate::error::{outcome, something, syn1_error};
use crate::header::{self, syn1_flags, syn1_frame, syn1_limits};
use crate::identity::{Callbacks, syn1_identity};
use crate::message::{syn1_bye, syn1_control, syn1_reason, syn1_role};
use crate::object::{begin, object, syn1_session};
use crate::view::{many_mut, one, put, syn1_text};

/// Bytes of the longest frame that a session writes by itself: a Hello with an agent of 256 bytes. Frames of
/// `syn1_session_leave` are shorter.
pub const SYN1_SESSION_FRAME: usize = 400;

/// What this end is and can receive.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_session_config {
    /// Program and version, for the peer's logs. The session keeps the text, which must outlive it.
    pub agent: syn1_text,
    /// The codecs that it can receive: the bits `1 << SYN1_CODEC_...`; f32 must be among them.
    pub codecs: u32,
    /// The longest data payload that it can receive, in bytes.
    pub max_payload: u32,
    /// The most rows of a data frame that it can receive.
    pub max_rows: u16,
    /// A node's: the data frames that it holds at a time; at least 1.
    pub credit: u16,
    /// What this end is.
    pub role: syn1_role,
    /// The negotiable flags that it can receive.
    pub flags: syn1_flags,
    /// 1: a peer must prove that it holds a key; else 0.
    pub prove: u8,
    /// SHA-256 of the manifest of the only model that it wants; zeros: any.
    pub model: [u8; 32],
    /// Fresh random bytes, which keep an old proof of the peer's from being played again; zeros where nothing is checked.
    pub nonce: [u8; 32],
}

/// What both ends can do.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct syn1_negotiated {
    /// Codecs that payloads may use.
    pub codecs: u32,
    /// Longest data payload, in bytes.
    pub max_payload: u32,
    /// Most rows of a data frame.
    pub max_rows: u16,
    /// Data frames that may be on their way or at work at a time.
    pub credit: u16,
    /// The protocol minor.
    pub minor: u8,
    /// Flags that frames may carry beside quantized.
    pub flags: syn1_flags,
}

/// Who the peer is, by its Hello.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct syn1_peer {
    /// Its key; zeros: none.
    pub key: [u8; 32],
    /// SHA-256 of the manifest of the only model that it wants; zeros: any.
    pub model: [u8; 32],
    /// 1: it has proven to hold that key, and this end could check it; else 0.
    pub proven: u8,
}

/// What a frame meant: one of `SYN1_EVENT_...`.
pub type syn1_event_kind = u8;

/// Nothing for the caller.
pub const SYN1_EVENT_NOTHING: syn1_event_kind = 0;
/// The link is open; `body.negotiated`. Send what `syn1_session_poll_transmit` gives before anything else.
pub const SYN1_EVENT_ESTABLISHED: syn1_event_kind = 1;
/// A message for the caller; `body.control`.
pub const SYN1_EVENT_CONTROL: syn1_event_kind = 2;
/// A data frame for the caller; `body.frame`. A node calls `syn1_session_done` when it has finished with it.
pub const SYN1_EVENT_DATA: syn1_event_kind = 3;
/// The node takes more data frames: `syn1_session_take_credit` may be asked again.
pub const SYN1_EVENT_GRANTED: syn1_event_kind = 4;
/// The peer answered a ping; `body.rtt_ms`.
pub const SYN1_EVENT_RTT: syn1_event_kind = 5;
/// The peer closes the link; `body.bye`.
pub const SYN1_EVENT_BYE: syn1_event_kind = 6;

/// What belongs to an event: the field that its kind says.
#[derive(Clone, Copy)]
#[repr(C)]
pub union syn1_event_body {
    /// What both ends can do.
    pub negotiated: syn1_negotiated,
    /// The message; its texts lie in the frame.
    pub control: syn1_control,
    /// The frame.
    pub frame: syn1_frame,
    /// Milliseconds from making the ping to its answer.
    pub rtt_ms: u64,
    /// Why; its text lies in the frame.
    pub bye: syn1_bye,
}

/// What a frame meant.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_event {
    /// Which it is.
    pub kind: syn1_event_kind,
    /// What belongs to it.
    pub body: syn1_event_body,
}

/// Sets up a session on a fresh link at the time `now_ms`, with its Hello ready to be sent. Times are milliseconds since an
/// origin of the caller's choice that never moves back. `identity` may be null: an end without a key that checks nobody's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_init(
    session: *mut syn1_session,
    config: *const syn1_session_config,
    identity: *const syn1_identity,
    now_ms: u64,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let config = unsafe { one(config)? };
        // SAFETY: the rules of the crate.
        let identity = if identity.is_null() { None } else { Some(unsafe { one(identity)? }) };
        let syn1_session_config { agent, codecs, max_payload, max_rows, credit, flags, prove, model, nonce, .. } =
            config;
        let config = SessionConfig {
            role: role(config.role)?,
            // SAFETY: the rules of the crate; the caller keeps the text for the session.
            agent: unsafe { agent.read()? },
            codecs: CodecSet(codecs),
            flags: header::flags(flags)?,
            max_payload,
            max_rows,
            credit,
            model,
            prove: prove != 0,
        };
        let made = Session::new(config, Callbacks::new(identity)?, nonce, Millis(now_ms));
        // SAFETY: the rules of the crate.
        unsafe { begin(session, made) }
    })
}

/// Takes in a received frame; `event` becomes what it meant. What the event points to lies in the frame.
///
/// The first error is final: say goodbye by `syn1_session_leave` with `syn1_error_reason`, and close the link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_handle(
    session: *mut syn1_session,
    now_ms: u64,
    frame: *const syn1_frame,
    event: *mut syn1_event,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (session, frame) = unsafe { (object(session)?, one(frame)?.checked()?) };
        let meant = session.handle(Millis(now_ms), frame)?;
        // SAFETY: the rules of the crate.
        unsafe { put(event, meant.into()) }
    })
}

/// Writes the next frame that the session itself has to send; `written` becomes its bytes. `SYN1_MORE`: there is none.
/// `out` must take `SYN1_SESSION_FRAME` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_poll_transmit(
    session: *mut syn1_session,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (session, out) = unsafe { (object(session)?, many_mut(out, out_len)?) };
        if out.len() < SYN1_SESSION_FRAME {
            return Err(syn1_error::SYN1_ERROR_ENCODE_BUFFER);
        }
        let len = session.poll_transmit(out).ok_or(syn1_error::SYN1_MORE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// `at_ms` becomes the time to call `syn1_session_handle_timeout`; `UINT64_MAX`: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_poll_timeout(session: *mut syn1_session, at_ms: *mut u64) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| unsafe { put(at_ms, object(session)?.poll_timeout().0) })
}

/// Does what is due at `now_ms`; calling it early does nothing. An error is final, as that of `syn1_session_handle`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_handle_timeout(session: *mut syn1_session, now_ms: u64) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| Ok(unsafe { object(session) }?.handle_timeout(Millis(now_ms))?))
}

/// `limits` becomes what to give the decoder: the handshake's limits until the link is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_limits(session: *mut syn1_session, limits: *mut syn1_limits) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| unsafe { put(limits, object(session)?.limits().into()) })
}

/// Says which model's data frames may come from now on; hand the new limits to the decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_set_model(session: *mut syn1_session, width: u16, vocab: u32) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| unsafe { object(session) }.map(|session| session.set_model(width, vocab)))
}

/// What both ends can do, once the link is open; `SYN1_MORE` before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_negotiated(
    session: *mut syn1_session,
    negotiated: *mut syn1_negotiated,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let found = unsafe { object(session) }?.negotiated().ok_or(syn1_error::SYN1_MORE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(negotiated, found.into()) }
    })
}

/// Who the peer is, once its Hello is in; `SYN1_MORE` before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_peer(session: *mut syn1_session, peer: *mut syn1_peer) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let Peer { key, proven, model } = unsafe { object(session) }?.peer().ok_or(syn1_error::SYN1_MORE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(peer, syn1_peer { key, model, proven: proven.into() }) }
    })
}

/// Whether one more data frame may be sent, which the coordinator must ask before each: `SYN1_OK` takes the credit for it,
/// `SYN1_MORE` says to wait for `SYN1_EVENT_GRANTED`. A node only answers, so it may always send.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_take_credit(session: *mut syn1_session) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| something(unsafe { object(session) }?.take_credit()))
}

/// A node has finished with one data frame that came, answered or dropped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_done(session: *mut syn1_session) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| unsafe { object(session) }.map(|session| session.done()))
}

/// Says goodbye: writes a Bye into `out`; `written` becomes the bytes of its frame. From then on the session sends nothing
/// and takes nothing but the peer's Bye. `SYN1_MORE`: it has left already. Of `text` at most 256 bytes are
/// said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_session_leave(
    session: *mut syn1_session,
    reason: syn1_reason,
    text: syn1_text,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (session, text, out) = unsafe { (object(session)?, text.read()?, many_mut(out, out_len)?) };
        if out.len() < SYN1_SESSION_FRAME {
            return Err(syn1_error::SYN1_ERROR_ENCODE_BUFFER);
        }
        let len = session.leave(self::reason(reason)?, text, out).ok_or(syn1_error::SYN1_MORE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

impl From<Negotiated> for syn1_negotiated {
    fn from(negotiated: Negotiated) -> Self {
        let Negotiated { minor, flags, codecs, max_payload, max_rows, credit } = negotiated;
        Self { codecs: codecs.0, max_payload, max_rows, credit, minor, flags: flags.bits() }
    }
}

impl From<Event<'_>> for syn1_event {
    fn from(event: Event<'_>) -> Self {
        let (kind, body) = match event {
            Event::Nothing => (SYN1_EVENT_NOTHING, syn1_event_body { rtt_ms: 0 }),
            Event::Established(negotiated) => {
                (SYN1_EVENT_ESTABLISHED, syn1_event_body { negotiated: negotiated.into() })
            }
            Event::Control(control) => (SYN1_EVENT_CONTROL, syn1_event_body { control: of(&control) }),
            Event::Data(frame) => (SYN1_EVENT_DATA, syn1_event_body { frame: frame.into() }),
            Event::Granted => (SYN1_EVENT_GRANTED, syn1_event_body { rtt_ms: 0 }),
            Event::Rtt { ms } => (SYN1_EVENT_RTT, syn1_event_body { rtt_ms: ms }),
            Event::Bye(m) => (SYN1_EVENT_BYE, syn1_event_body { bye: bye(&m) }),
        };
        Self { kind, body }
    }
}

#[cfg(test)]
mod tests {
    use core::ffi::c_void;
    use core::mem::MaybeUninit;
    use core::{ptr, slice};

    use super::*;
    use crate::header::{SYN1_CODECS_ACTIVATIONS, syn1_frame_from_message, syn1_limits_handshake};
    use crate::identity::{SYN1_VERDICT_INVALID, SYN1_VERDICT_VALID, syn1_verdict};
    use crate::message::{SYN1_REASON_DONE, SYN1_ROLE_COORDINATOR, SYN1_ROLE_NODE};

    const OK: syn1_error = syn1_error::SYN1_OK;

    fn config(role: syn1_role, agent: &str) -> syn1_session_config {
        let (agent, codecs) = (syn1_text::of(agent), SYN1_CODECS_ACTIVATIONS);
        let (max_payload, max_rows, credit) = (u32::MAX, u16::MAX, u16::MAX);
        let (prove, model, nonce) = (0, [0xff; 32], [0xff; 32]);
        syn1_session_config { agent, codecs, max_payload, max_rows, credit, role, flags: 14, prove, model, nonce }
    }

    fn session(config: &syn1_session_config, identity: *const syn1_identity) -> syn1_session {
        let mut session = MaybeUninit::uninit();
        // SAFETY: all pointers are those of values, and the tests' texts and identities live as long as they.
        assert_eq!(unsafe { syn1_session_init(session.as_mut_ptr(), config, identity, 0) }, OK);
        // SAFETY: it was set up.
        unsafe { session.assume_init() }
    }

    /// Moves what `from` has to say to `to`; gives what came of the last frame.
    fn say(from: &mut syn1_session, to: &mut syn1_session) -> syn1_error {
        let (mut out, mut written, mut said) = ([0; SYN1_SESSION_FRAME], 0, OK);
        let (mut frame, mut event) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: all pointers are those of values here, and `frame` is written where there is one.
        unsafe {
            while syn1_session_poll_transmit(from, out.as_mut_ptr(), out.len(), &mut written) == OK {
                let limits = syn1_limits_handshake();
                assert_eq!(syn1_frame_from_message(out.as_ptr(), written, &limits, frame.as_mut_ptr()), OK);
                said = syn1_session_handle(to, 0, frame.as_ptr(), event.as_mut_ptr());
            }
        }
        said
    }

    /// Signs by its context and believes only that.
    unsafe extern "C" fn sign(context: *mut c_void, _: *const u8, _: usize, signature: *mut u8) {
        // SAFETY: the context is a byte, and a signature has 64.
        unsafe { slice::from_raw_parts_mut(signature, 64).fill(*context.cast::<u8>()) };
    }

    unsafe extern "C" fn verify(
        context: *mut c_void,
        _: *const u8,
        _: *const u8,
        _: usize,
        signature: *const u8,
    ) -> syn1_verdict {
        // SAFETY: as in `sign`.
        let same = unsafe { *signature == *context.cast::<u8>() };
        if same { SYN1_VERDICT_VALID } else { SYN1_VERDICT_INVALID }
    }

    #[test]
    fn the_longest_hello_and_bye_fit_the_room_that_is_asked_for() {
        let text = std::string::String::from_utf8(std::vec![b'x'; 300]).unwrap();
        let mut context = 0_u8;
        let identity =
            syn1_identity { key: [0xff; 32], context: (&raw mut context).cast(), sign: Some(sign), verify: None };
        let config = syn1_session_config { codecs: u32::MAX, ..config(SYN1_ROLE_NODE, &text) };
        let mut longest = session(&config, &identity);
        let (mut out, mut hello, mut bye) = ([0; SYN1_SESSION_FRAME], 0, 0);
        // SAFETY: all pointers are those of values here.
        unsafe {
            assert_eq!(syn1_session_poll_transmit(&mut longest, out.as_mut_ptr(), out.len(), &mut hello), OK);
            let (reason, text) = (SYN1_REASON_DONE, syn1_text::of(&text));
            assert_eq!(syn1_session_leave(&mut longest, reason, text, out.as_mut_ptr(), out.len(), &mut bye), OK);
        }
        assert_eq!((hello, bye), (399, 284));
    }

    #[test]
    fn keys_are_proven_by_the_functions_that_c_gives() {
        for (theirs, said) in [(7, OK), (8, syn1_error::SYN1_ERROR_SESSION_FORGED)] {
            let mut contexts = [7_u8, theirs];
            let [ours, theirs] = contexts.each_mut().map(|context| (&raw mut *context).cast());
            let identity =
                |key, context| syn1_identity { key: [key; 32], context, sign: Some(sign), verify: Some(verify) };
            let asking = syn1_session_config { prove: 1, ..config(SYN1_ROLE_COORDINATOR, "a") };
            let mut coordinator = session(&asking, &identity(1, ours));
            let mut node = session(&config(SYN1_ROLE_NODE, "b"), &identity(2, theirs));
            say(&mut coordinator, &mut node);
            assert_eq!(say(&mut node, &mut coordinator), said);
            let mut peer = MaybeUninit::<syn1_peer>::uninit();
            // SAFETY: the pointers are those of values here, and `peer` is written.
            let peer = unsafe {
                assert_eq!(syn1_session_peer(&mut coordinator, peer.as_mut_ptr()), OK);
                peer.assume_init()
            };
            assert_eq!((peer.key, peer.proven == 1), ([2; 32], said == OK));
        }
    }

    #[test]
    fn a_key_that_nobody_can_sign_with_is_refused() {
        let identity = syn1_identity { key: [1; 32], context: ptr::null_mut(), sign: None, verify: None };
        let mut session = MaybeUninit::uninit();
        // SAFETY: all pointers are those of values here.
        let said = unsafe { syn1_session_init(session.as_mut_ptr(), &config(SYN1_ROLE_NODE, "a"), &identity, 0) };
        assert_eq!(said, syn1_error::SYN1_ERROR_NULL);
    }
}
