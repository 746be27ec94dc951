//! Links over a browser's WebSocket.
//!
//! A browser takes whole messages in without asking, and says of what is to go only how many bytes wait. So what came is
//! bounded by the session's credit and by [`MOST_WAITING_BYTES`], and [`WebTx`] waits while more than a frame is under way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use js_sys::{Array, ArrayBuffer, Function, Promise, Reflect, Uint8Array};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Frame, Header, Limits, Link, LinkError as _, LinkErrorKind, Receive, Transmit, encode_frame};
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{BinaryType, CloseEvent, MessageEvent, WebSocket};

use crate::{PROTOCOL, WsError, code_protocol};

/// A node's link in a browser tab. Dropping it closes the WebSocket.
#[derive(Debug)]
pub struct WebLink {
    rx: WebRx,
    tx: WebTx,
}

impl WebLink {
    /// Connects to a coordinator's [`PATH`](crate::PATH), `ws://host:port/node` or `wss://..`, and waits until the
    /// connection is open. `code` is its join code; data payloads of up to `max_payload` bytes are sent and received.
    ///
    /// # Errors
    /// [`WsError::Closed`] with the coordinator's reason, [`WsError::Socket`] where a browser says nothing of why it failed:
    /// the port, the certificate, or an address that the page may not use.
    pub async fn connect(url: &str, code: Option<&str>, max_payload: u32) -> Result<Self, WsError> {
        let protocols = Array::of1(&PROTOCOL.into());
        if let Some(code) = code {
            protocols.push(&code_protocol(code).into());
        }
        let socket = WebSocket::new_with_str_sequence(url, &protocols);
        let socket =
            socket.map_err(|error| WsError::Socket(format!("{url} cannot be asked for: {}", words(&error))))?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let shared = Shared::listen(socket);
        let opened = poll_fn(|context| match &mut *shared.state.borrow_mut() {
            State { ended: Some(error), .. } => Poll::Ready(Err(error.clone())),
            State { open: true, .. } => Poll::Ready(Ok(())),
            state => {
                state.receiver = Some(context.waker().clone());
                Poll::Pending
            }
        });
        opened.await?;
        let longest = Header::control(max_payload.max(MAX_CONTROL)).frame_len();
        let rx = WebRx { shared: shared.clone(), limits: Limits::handshake(), message: Vec::new() };
        Ok(Self { rx, tx: WebTx { shared, longest, frame: Vec::new() } })
    }
}

impl Link for WebLink {
    type Error = WsError;
    type Rx = WebRx;
    type Tx = WebTx;

    fn split(self) -> (WebRx, WebTx) {
        (self.rx, self.tx)
    }
}

/// What the halves and the browser share.
struct Shared {
    socket: WebSocket,
    state: RefCell<State>,
    /// Kept for as long as the browser may call them.
    listeners: Cell<Option<Listeners>>,
}

#[derive(Default)]
struct State {
    open: bool,
    messages: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// Why nothing comes or goes any more.
    ended: Option<WsError>,
    receiver: Option<Waker>,
}

struct Listeners {
    _open: Closure<dyn FnMut()>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _close: Closure<dyn FnMut(CloseEvent)>,
}

impl State {
    fn end(&mut self, error: WsError) {
        self.ended.get_or_insert(error);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    fn take(&mut self, event: &MessageEvent) {
        let Ok(buffer) = event.data().dyn_into::<ArrayBuffer>() else { return self.end(WsError::Text) };
        let bytes = Uint8Array::new(&buffer).to_vec();
        self.waiting_bytes += bytes.len();
        if self.waiting_bytes > MOST_WAITING_BYTES {
            return self.end(WsError::TooLong { bytes: self.waiting_bytes, limit: MOST_WAITING_BYTES });
        }
        self.messages.push_back(bytes);
        self.wake();
    }
}

impl Shared {
    /// Has the browser tell a new socket's events. The listeners know the state and not its owner, which lets go of them.
    fn listen(socket: WebSocket) -> Rc<Self> {
        let shared = Rc::new(Self { socket, state: RefCell::default(), listeners: Cell::new(None) });
        let tell = || {
            let shared = Rc::downgrade(&shared);
            move |what: &dyn Fn(&mut State)| {
                if let Some(shared) = shared.upgrade() {
                    what(&mut shared.state.borrow_mut());
                }
            }
        };
        let (opened, came, closed) = (tell(), tell(), tell());
        let listeners = Listeners {
            _open: Closure::new(move || {
                opened(&|state| {
                    state.open = true;
                    state.wake();
                });
            }),
            _message: Closure::new(move |event: MessageEvent| came(&|state| state.take(&event))),
            _close: Closure::new(move |event: CloseEvent| {
                closed(&|state| {
                    let failed = !state.open && event.reason().is_empty();
                    state.end(if failed { WsError::Socket(UNSAID.into()) } else { WsError::Closed(event.reason()) });
                });
            }),
        };
        shared.socket.set_onopen(Some(listeners._open.as_ref().unchecked_ref::<Function>()));
        shared.socket.set_onmessage(Some(listeners._message.as_ref().unchecked_ref::<Function>()));
        shared.socket.set_onclose(Some(listeners._close.as_ref().unchecked_ref::<Function>()));
        shared.listeners.set(Some(listeners));
        shared
    }

    /// Closes with a reason that fits a close frame. A browser lets pages give only 1000 and codes from 3000 on.
    fn close(&self, error: Option<&WsError>) {
        let (code, reason) = match error {
            Some(error) if error.kind() == LinkErrorKind::Protocol => (BROKE_A_RULE, error.to_string()),
            _ => (1000, String::new()),
        };
        let reason: String = reason
            .char_indices()
            .take_while(|(at, char)| at + char.len_utf8() <= CLOSE_REASON)
            .map(|(_, char)| char)
            .collect();
        // What is closed already needs no closing.
        let _ = self.socket.close_with_code_and_reason(code, &reason);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        self.close(None);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The receiving half of a [`WebLink`].
#[derive(Debug)]
pub struct WebRx {
    shared: Rc<Shared>,
    limits: Limits,
    /// What came last.
    message: Vec<u8>,
}

impl WebRx {
    /// The next message, whole.
    async fn next(&self) -> Result<Vec<u8>, WsError> {
        poll_fn(|context| {
            let mut state = self.shared.state.borrow_mut();
            if let Some(message) = state.messages.pop_front() {
                state.waiting_bytes -= message.len();
                return Poll::Ready(Ok(message));
            }
            if let Some(error) = &state.ended {
                return Poll::Ready(Err(error.clone()));
            }
            state.receiver = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    async fn frame(&mut self) -> Result<Header, WsError> {
        loop {
            self.message = self.next().await?;
            if let Some(Frame { header, .. }) = Frame::from_message(&self.message, &self.limits)? {
                return Ok(header);
            }
        }
    }
}

impl Receive for WebRx {
    type Error = WsError;

    async fn recv(&mut self) -> Result<Frame<'_>, WsError> {
        match self.frame().await {
            Ok(header) => Ok(Frame { header, payload: self.message.get(Header::LEN..).unwrap_or_default() }),
            Err(error) => {
                self.shared.close(Some(&error));
                self.shared.state.borrow_mut().end(error.clone());
                Err(error)
            }
        }
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }
}

/// The sending half of a [`WebLink`].
#[derive(Debug)]
pub struct WebTx {
    shared: Rc<Shared>,
    longest: usize,
    /// Where frames are put together; kept for the next one.
    frame: Vec<u8>,
}

impl Transmit for WebTx {
    type Error = WsError;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), WsError> {
        let len = header.frame_len().min(self.longest);
        if self.frame.len() < len {
            self.frame.resize(len, 0);
        }
        let frame = encode_frame(header, payload, &mut self.frame[..len])?;
        let socket = &self.shared.socket;
        loop {
            if let Some(error) = &self.shared.state.borrow().ended {
                return Err(error.clone());
            }
            if socket.buffered_amount() as usize <= MOST_UNDER_WAY_BYTES {
                break;
            }
            // No event tells that bytes have gone.
            pause(LOOK_EVERY_MS).await;
        }
        socket.send_with_u8_array(frame).map_err(|error| WsError::Socket(words(&error)))
    }
}

/// Lets the browser go on for some milliseconds.
async fn pause(ms: i32) {
    let later = |done: Function, _failed: Function| {
        let timer = Reflect::get(&js_sys::global(), &"setTimeout".into());
        // Every global scope of a browser has it.
        if let Some(timer) = timer.ok().and_then(|timer| timer.dyn_into::<Function>().ok()) {
            let _ = timer.call2(&JsValue::UNDEFINED, &done, &ms.into());
        }
    };
    let _ = JsFuture::from(Promise::new(&mut { later })).await;
}

/// What a browser threw, in words.
fn words(error: &JsValue) -> String {
    let message = Reflect::get(error, &"message".into()).ok().and_then(|message| message.as_string());
    message.unwrap_or_else(|| format!("{error:?}"))
}

/// Bytes of messages that may wait to be looked at: sixteen of the longest frames that nodes take, and more than the credit
/// that tabs give.
pub const MOST_WAITING_BYTES: usize = 64 << 20;

/// Bytes that may wait to go in front of a frame: a prompt's chunk of a wide model, which a slow network takes some seconds
/// for.
const MOST_UNDER_WAY_BYTES: usize = 1 << 20;

/// How often the bytes that wait are looked at.
const LOOK_EVERY_MS: i32 = 4;

/// Bytes of a close frame's reason: what a control frame has beside the code (RFC 6455, section 5.5).
const CLOSE_REASON: usize = 123;

/// The close code of a peer that broke a rule; 1002 is not for pages.
const BROKE_A_RULE: u16 = 4002;

/// All that a page is told of a connection that never opened.
const UNSAID: &str = "the browser does not say why: is the coordinator there, is its certificate trusted, and is the page \
                      from https where the address is wss?";
