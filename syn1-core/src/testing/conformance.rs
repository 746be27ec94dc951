//! What every link must do. A failed expectation panics: these functions are tests.

use core::cell::Cell;
use core::future::Future;
use core::pin::pin;

use crate::codec::encoded_len;
use crate::testing::{join, poll_once, yield_now};
use crate::{
    Codec, Control, Flags, Header, Limits, Link, LinkError, LinkErrorKind, Receive, Transmit, encode_control,
    encode_frame,
};

/// How the suite gets links of one kind.
///
/// ```
/// use syn1_core::testing::{Harness, LIMITS, MemoryLink, memory_pair};
///
/// struct Memory;
///
/// impl Harness for Memory {
///     type Link = MemoryLink;
///
///     async fn pair(&mut self) -> (MemoryLink, MemoryLink) {
///         memory_pair(LIMITS.max_payload, 1 << 16)
///     }
/// }
/// ```
#[allow(async_fn_in_trait)]
pub trait Harness {
    /// The links under test. They must take payloads of [`LIMITS`]'s `max_payload`.
    type Link: Link;

    /// Two links connected with each other.
    async fn pair(&mut self) -> (Self::Link, Self::Link);
}

/// How the suite gets at the bytes of links over byte streams.
///
/// ```
/// use syn1_core::testing::{Harness, LIMITS, MemoryLink, PipeWriter, StreamHarness, memory_pair, pipe};
///
/// struct Memory;
///
/// impl Harness for Memory {
///     type Link = MemoryLink;
///
///     async fn pair(&mut self) -> (MemoryLink, MemoryLink) {
///         memory_pair(LIMITS.max_payload, 1 << 16)
///     }
/// }
///
/// impl StreamHarness for Memory {
///     type Raw = PipeWriter;
///
///     async fn raw(&mut self) -> (PipeWriter, MemoryLink) {
///         let (writer, reader) = pipe(1 << 16);
///         (writer, MemoryLink::new(reader, pipe(1).0, LIMITS.max_payload))
///     }
///
///     async fn write(raw: &mut PipeWriter, bytes: &[u8]) {
///         raw.write_all(bytes).await.expect("the link reads");
///     }
/// }
/// ```
#[allow(async_fn_in_trait)]
pub trait StreamHarness: Harness {
    /// The bare sending end of a byte stream; dropping it ends the stream.
    type Raw;

    /// A link and the bare bytes that go to it.
    async fn raw(&mut self) -> (Self::Raw, Self::Link);

    /// Sends `bytes` to the link of `raw`.
    async fn write(raw: &mut Self::Raw, bytes: &[u8]);
}

/// The limits that the suite works with: frames of up to 8 MiB, more than any socket buffers.
pub const LIMITS: Limits =
    Limits { max_payload: 1 << 23, max_rows: 2048, width: 1024, vocab: 100_000, flags: Flags::NONE };

/// What every link must do, whatever it is made of.
///
/// ```
/// use syn1_core::testing::{Harness, LIMITS, MemoryLink, block_on, links, memory_pair};
///
/// struct Memory;
///
/// impl Harness for Memory {
///     type Link = MemoryLink;
///
///     async fn pair(&mut self) -> (MemoryLink, MemoryLink) {
///         memory_pair(LIMITS.max_payload, 1 << 16)
///     }
/// }
///
/// block_on(links(&mut Memory));
/// ```
pub async fn links(harness: &mut impl Harness) {
    every_kind_arrives_unchanged(harness).await;
    frames_that_are_sent_together_arrive_one_by_one(harness).await;
    both_ends_send_big_frames_at_once(harness).await;
    a_slow_reader_gets_everything_and_holds_up_one_direction_only(harness).await;
    a_cancelled_receive_loses_no_frame(harness).await;
    a_peer_that_is_gone_is_closed(harness).await;
    sends_to_a_peer_that_is_gone_are_closed(harness).await;
    a_payload_of_another_length_is_refused_and_harmless(harness).await;
    a_dropped_send_leaves_the_link_dead(harness).await;
}

/// What links over byte streams must do as well.
pub async fn streams(harness: &mut impl StreamHarness) {
    bytes_may_come_one_at_a_time_or_all_at_once(harness).await;
    a_cancelled_receive_loses_nothing(harness).await;
    a_receive_cancelled_after_any_byte_loses_nothing(harness).await;
    a_half_closed_stream_still_carries_the_other_direction(harness).await;
    an_end_inside_a_frame_is_torn(harness).await;
    forbidden_frames_end_the_link_before_their_payload(harness).await;
    another_major_version_is_named(harness).await;
}

async fn every_kind_arrives_unchanged(harness: &mut impl Harness) {
    let ((_, mut tx), (mut rx, _)) = split(harness.pair().await);
    rx.set_limits(LIMITS);
    let frames = frames();
    let send = async {
        for (header, payload) in &frames {
            tx.send(header, payload).await.expect("a frame is sent");
        }
    };
    let receive = async {
        for (header, payload) in &frames {
            let frame = rx.recv().await.expect("a frame arrives");
            assert_eq!((&frame.header, frame.payload), (header, &payload[..]));
        }
    };
    join(send, receive).await;
}

async fn frames_that_are_sent_together_arrive_one_by_one(harness: &mut impl Harness) {
    let ((_, mut tx), (mut rx, _)) = split(harness.pair().await);
    rx.set_limits(LIMITS);
    // More than any one write takes, and a frame that does not fit its header behind them.
    let frames: Vec<_> = (0..200).flat_map(|_| frames()).collect();
    let wrong = [(Header::control(1), vec![0]), (Header::control(2), vec![0])];
    let send = async {
        tx.send_all(&frames).await.expect("frames are sent");
        assert!(tx.send_all(&wrong).await.is_err());
        tx.send_all(&frames[..0]).await.expect("nothing is sent");
    };
    let receive = async {
        for (header, payload) in frames.iter().chain(&wrong[..1]) {
            let frame = rx.recv().await.expect("a frame arrives");
            assert_eq!((&frame.header, frame.payload), (header, &payload[..]));
        }
    };
    join(send, receive).await;
}

async fn both_ends_send_big_frames_at_once(harness: &mut impl Harness) {
    let ((mut a_rx, mut a_tx), (mut b_rx, mut b_tx)) = split(harness.pair().await);
    a_rx.set_limits(LIMITS);
    b_rx.set_limits(LIMITS);
    let (header, payload) = big();
    let sends = join(a_tx.send(&header, &payload), b_tx.send(&header, &payload));
    let ((sent_a, sent_b), (got_a, got_b)) = join(sends, join(a_rx.recv(), b_rx.recv())).await;
    sent_a.expect("a big frame is sent");
    sent_b.expect("a big frame is sent");
    assert!(got_a.expect("a big frame arrives").payload == payload);
    assert!(got_b.expect("a big frame arrives").payload == payload);
}

async fn a_slow_reader_gets_everything_and_holds_up_one_direction_only(harness: &mut impl Harness) {
    let ((mut a_rx, mut a_tx), (mut b_rx, mut b_tx)) = split(harness.pair().await);
    b_rx.set_limits(LIMITS);
    let ((header, payload), (ping, number)) = (big(), ping());
    let sent = Cell::new(0);
    let send = async {
        for _ in 0..FRAMES {
            a_tx.send(&header, &payload).await.expect("a slow peer is no dead one");
            sent.set(sent.get() + 1);
        }
    };
    let slow = async {
        for _ in 0..FRAMES {
            b_tx.send(&ping, &number).await.expect("this direction is free");
            assert_eq!(a_rx.recv().await.expect("this direction is free").header, ping);
        }
        assert!(sent.get() < FRAMES, "nobody has read, so the sender must wait");
        for _ in 0..FRAMES {
            for _ in 0..PATIENCE {
                yield_now().await;
            }
            assert!(b_rx.recv().await.expect("a big frame arrives").payload == payload);
        }
    };
    join(send, slow).await;
}

async fn a_cancelled_receive_loses_no_frame(harness: &mut impl Harness) {
    for polls in POLLS {
        let ((_a_rx, mut tx), (mut rx, _b_tx)) = split(harness.pair().await);
        rx.set_limits(LIMITS);
        let frames = frames();
        let send = async {
            for (header, payload) in &frames {
                tx.send(header, payload).await.expect("a frame is sent");
                yield_now().await;
            }
        };
        let (_, received) = join(send, receive_cancelling(&mut rx, frames.len(), polls)).await;
        assert!(received == frames);
    }
}

async fn a_peer_that_is_gone_is_closed(harness: &mut impl Harness) {
    let ((mut rx, _tx), (b_rx, mut b_tx)) = split(harness.pair().await);
    let (header, payload) = ping();
    b_tx.send(&header, &payload).await.expect("a frame is sent");
    drop((b_rx, b_tx));
    assert_eq!(rx.recv().await.expect("what was sent before the end arrives").header, header);
    for _ in 0..2 {
        assert_eq!(rx.recv().await.expect_err("the peer is gone").kind(), LinkErrorKind::Closed);
    }
}

async fn sends_to_a_peer_that_is_gone_are_closed(harness: &mut impl Harness) {
    let ((_a_rx, mut tx), b) = split(harness.pair().await);
    drop(b);
    let (header, payload) = big();
    let mut sent = 0;
    let error = loop {
        match tx.send(&header, &payload).await {
            Err(error) => break error,
            // What the system buffers before it hears of the end.
            Ok(()) => sent += 1,
        }
        assert!(sent < 1000, "nobody can receive this");
    };
    assert_eq!(error.kind(), LinkErrorKind::Closed);
}

async fn a_payload_of_another_length_is_refused_and_harmless(harness: &mut impl Harness) {
    let ((_, mut tx), (mut rx, _)) = split(harness.pair().await);
    let (header, payload) = ping();
    tx.send(&header, &payload[1..]).await.expect_err("a payload shorter than its header says");
    tx.send(&header, &payload).await.expect("the link still works");
    assert_eq!(rx.recv().await.expect("a frame arrives").payload, payload);
}

async fn a_dropped_send_leaves_the_link_dead(harness: &mut impl Harness) {
    let ((_a_rx, mut tx), (_b_rx, _b_tx)) = split(harness.pair().await);
    let (header, payload) = big();
    let mut sent = 0;
    while poll_once(tx.send(&header, &payload)).await.is_some() {
        sent += 1;
        assert!(sent < 1000, "nobody reads, so a send must wait at some point");
    }
    let (header, payload) = ping();
    tx.send(&header, &payload).await.expect_err("half a frame was sent");
}

async fn bytes_may_come_one_at_a_time_or_all_at_once(harness: &mut impl StreamHarness) {
    for chunk in [1, 7, 1 << 20] {
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        rx.set_limits(LIMITS);
        let frames = frames();
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend(ignorable());
            bytes.extend(whole(frame));
        }
        let send = async {
            for chunk in bytes.chunks(chunk) {
                write(harness, &mut raw, chunk).await;
            }
        };
        let receive = async {
            for (header, payload) in &frames {
                let frame = rx.recv().await.expect("a frame arrives");
                assert_eq!((&frame.header, frame.payload), (header, &payload[..]));
            }
        };
        join(send, receive).await;
    }
}

async fn a_cancelled_receive_loses_nothing(harness: &mut impl StreamHarness) {
    for (header, payload) in frames() {
        let bytes = whole(&(header, payload.clone()));
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        rx.set_limits(LIMITS);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let written = Cell::new(false);
        let send = async {
            write(harness, &mut raw, first).await;
            written.set(true);
        };
        let cancel = async {
            let mut more = 20;
            while more > 0 {
                assert!(poll_once(rx.recv()).await.is_none(), "half a frame is no frame");
                yield_now().await;
                more -= i32::from(written.get());
            }
        };
        join(send, cancel).await;
        let (_, frame) = join(write(harness, &mut raw, second), rx.recv()).await;
        let frame = frame.expect("the frame arrives");
        assert_eq!((frame.header, frame.payload), (header, &payload[..]));
    }
}

/// A receive that is dropped whenever it waits, or every second or third time, while the bytes come one by one: every
/// point at which it can wait is met.
async fn a_receive_cancelled_after_any_byte_loses_nothing(harness: &mut impl StreamHarness) {
    let one = Header::activation(1, 2, 3, Codec::Q8, 1, LIMITS.width).expect("small");
    let frames = [ping(), (one, payload(one.payload_len)), (Header::acknowledge(1, 2, 3), Vec::new()), ping()];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| [whole(frame), ignorable()].concat()).collect();
    for polls in POLLS {
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        rx.set_limits(LIMITS);
        let send = async {
            for byte in bytes.chunks(1) {
                write(harness, &mut raw, byte).await;
                yield_now().await;
            }
        };
        let (_, received) = join(send, receive_cancelling(&mut rx, frames.len(), polls)).await;
        assert!(received == frames);
    }
}

async fn a_half_closed_stream_still_carries_the_other_direction(harness: &mut impl Harness) {
    let ((mut a_rx, a_tx), (mut b_rx, mut b_tx)) = split(harness.pair().await);
    drop(a_tx);
    for _ in 0..2 {
        assert_eq!(b_rx.recv().await.expect_err("this direction has ended").kind(), LinkErrorKind::Closed);
    }
    let (header, payload) = ping();
    for _ in 0..FRAMES {
        b_tx.send(&header, &payload).await.expect("the other direction is open");
        assert_eq!(a_rx.recv().await.expect("the other direction is open").header, header);
    }
}

async fn an_end_inside_a_frame_is_torn(harness: &mut impl StreamHarness) {
    let (bytes, passed_over) = (whole(&ping()), ignorable());
    let ends = (1..bytes.len()).map(|end| &bytes[..end]);
    let ends = ends.chain([1, Header::LEN, passed_over.len() - 1].map(|end| &passed_over[..end]));
    for torn in ends {
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        write(harness, &mut raw, &bytes).await;
        write(harness, &mut raw, torn).await;
        drop(raw);
        assert_eq!(rx.recv().await.expect("the whole frame arrives").payload, &bytes[Header::LEN..]);
        for _ in 0..2 {
            assert_eq!(rx.recv().await.expect_err("the second frame is cut").kind(), LinkErrorKind::Torn);
        }
    }
}

async fn forbidden_frames_end_the_link_before_their_payload(harness: &mut impl StreamHarness) {
    let forbidden: [(&str, Spoil); 6] = [
        ("a longer payload than agreed", |header| header[16..20].copy_from_slice(&u32::MAX.to_le_bytes())),
        ("a payload that is not its shape's", |header| header[16] ^= 4),
        ("another width", |header| header[22] ^= 1),
        ("an unknown kind", |header| header[4] = 99),
        ("a reserved flag", |header| header[5] = 128),
        ("another protocol", |header| header[..4].copy_from_slice(b"GET ")),
    ];
    for (what, spoil) in forbidden {
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        rx.set_limits(LIMITS);
        let header = Header::activation(1, 0, 0, Codec::F32, 1, LIMITS.width).expect("a small frame");
        let mut bytes = header.emit();
        spoil(&mut bytes);
        write(harness, &mut raw, &bytes).await;
        for _ in 0..2 {
            assert_eq!(rx.recv().await.expect_err(what).kind(), LinkErrorKind::Protocol, "{what}");
        }
    }
}

async fn another_major_version_is_named(harness: &mut impl StreamHarness) {
    let (mut raw, link) = harness.raw().await;
    let (mut rx, _tx) = link.split();
    let mut bytes = whole(&ping());
    bytes[3] = b'2';
    write(harness, &mut raw, &bytes).await;
    let error = rx.recv().await.expect_err("SYN2 is not SYN1");
    assert_eq!((error.kind(), error.version()), (LinkErrorKind::Protocol, Some(b'2')));
}

/// Receives frames by futures that are dropped after some polls.
async fn receive_cancelling(rx: &mut impl Receive, count: usize, polls: usize) -> Vec<(Header, Vec<u8>)> {
    let mut received = Vec::new();
    while received.len() < count {
        if let Some(frame) = poll_some(rx.recv(), polls).await {
            let frame = frame.expect("a frame arrives");
            received.push((frame.header, frame.payload.to_vec()));
        }
        yield_now().await;
    }
    received
}

/// Polls a future some times and drops it: its output if it was ready by then.
async fn poll_some<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 1..polls {
        if let Some(output) = poll_once(future.as_mut()).await {
            return Some(output);
        }
        yield_now().await;
    }
    poll_once(future).await
}

/// One frame of each kind and codec.
fn frames() -> Vec<(Header, Vec<u8>)> {
    let headers = [
        Header::tokens(1, 2, 3, 5),
        Header::activation(1, 2, 3, Codec::F32, 2, LIMITS.width).expect("small"),
        Header::activation(1, 2, 3, Codec::F16, 3, LIMITS.width).expect("small"),
        Header::activation(u32::MAX, 255, 7, Codec::Q8, 4, LIMITS.width).expect("small"),
        Header::top(1, 2, 3, 2, 40).expect("small"),
        Header::full(1, 2, 3, LIMITS.vocab).expect("small"),
        Header::acknowledge(1, 2, 3),
    ];
    let data = headers.map(|header| (header, payload(header.payload_len)));
    data.into_iter().chain([ping()]).collect()
}

fn ping() -> (Header, Vec<u8>) {
    let mut buffer = [0; 64];
    let frame = encode_control(&Control::Ping(7), &mut buffer).expect("a ping is small");
    let payload = frame[Header::LEN..].to_vec();
    (Header::control(payload.len() as u32), payload)
}

fn big() -> (Header, Vec<u8>) {
    let Limits { max_rows, width, max_payload, .. } = LIMITS;
    assert_eq!(encoded_len(Codec::F32, max_rows, width), Some(max_payload));
    let header = Header::activation(1, 0, 0, Codec::F32, max_rows, width).expect("8 MiB");
    (header, payload(max_payload))
}

/// A frame of a kind that is marked as ignorable.
fn ignorable() -> Vec<u8> {
    let mut bytes = whole(&(Header::control(300), payload(300)));
    bytes[4] = 0xfe;
    bytes
}

fn whole((header, payload): &(Header, Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; header.frame_len()];
    encode_frame(header, payload, &mut out).expect("the output has the frame's length");
    out
}

/// Bytes that differ from place to place; links do not look into payloads.
fn payload(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn write<H: StreamHarness>(_harness: &H, raw: &mut H::Raw, bytes: &[u8]) {
    H::write(raw, bytes).await;
}

/// How many frames a slow peer gets.
const FRAMES: usize = 4;

/// How often a slow peer lets others run before it reads.
const PATIENCE: usize = 100;

/// After how many polls receives are cancelled.
const POLLS: [usize; 3] = [1, 2, 3];

type Spoil = fn(&mut [u8]);

type Halves<L> = (<L as Link>::Rx, <L as Link>::Tx);

fn split<L: Link>((a, b): (L, L)) -> (Halves<L>, Halves<L>) {
    (a.split(), b.split())
}
