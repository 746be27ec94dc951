//! What every link must do. A failed expectation panics: these functions are tests.

use core::cell::Cell;

use crate::codec::encoded_len;
use crate::testing::{join, poll_once, yield_now};
use crate::{
    Codec, Control, Flags, Header, Limits, Link, LinkError, LinkErrorKind, Receive, Transmit, encode_control,
    encode_frame,
};

/// How the suite gets links of one kind.
#[allow(async_fn_in_trait)]
pub trait Harness {
    /// The links under test. They must take payloads of [`LIMITS`]'s `max_payload`.
    type Link: Link;
    /// The bare sending end of a byte stream; dropping it ends the stream.
    type Raw;

    /// Two links connected with each other.
    async fn pair(&mut self) -> (Self::Link, Self::Link);

    /// A link and the bare bytes that go to it.
    async fn raw(&mut self) -> (Self::Raw, Self::Link);

    /// Sends `bytes` to the link of `raw`.
    async fn write(raw: &mut Self::Raw, bytes: &[u8]);
}

/// The limits that the suite works with: frames of up to 8 MiB, more than any socket buffers.
pub const LIMITS: Limits =
    Limits { max_payload: 1 << 23, max_rows: 2048, width: 1024, vocab: 100_000, flags: Flags::NONE };

/// What every link must do, whatever it is made of.
pub async fn links(harness: &mut impl Harness) {
    every_kind_arrives_unchanged(harness).await;
    both_ends_send_big_frames_at_once(harness).await;
    a_peer_that_is_gone_is_closed(harness).await;
    a_payload_of_another_length_is_refused_and_harmless(harness).await;
    a_dropped_send_leaves_the_link_dead(harness).await;
}

/// What links over byte streams must do as well.
pub async fn streams(harness: &mut impl Harness) {
    bytes_may_come_one_at_a_time_or_all_at_once(harness).await;
    a_cancelled_receive_loses_nothing(harness).await;
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

async fn bytes_may_come_one_at_a_time_or_all_at_once(harness: &mut impl Harness) {
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

async fn a_cancelled_receive_loses_nothing(harness: &mut impl Harness) {
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

async fn an_end_inside_a_frame_is_torn(harness: &mut impl Harness) {
    let bytes = whole(&ping());
    for end in [1, Header::LEN - 1, Header::LEN, bytes.len() - 1] {
        let (mut raw, link) = harness.raw().await;
        let (mut rx, _tx) = link.split();
        write(harness, &mut raw, &bytes).await;
        write(harness, &mut raw, &bytes[..end]).await;
        drop(raw);
        rx.recv().await.expect("the whole frame arrives");
        for _ in 0..2 {
            assert_eq!(rx.recv().await.expect_err("the second frame is cut").kind(), LinkErrorKind::Torn);
        }
    }
}

async fn forbidden_frames_end_the_link_before_their_payload(harness: &mut impl Harness) {
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

async fn another_major_version_is_named(harness: &mut impl Harness) {
    let (mut raw, link) = harness.raw().await;
    let (mut rx, _tx) = link.split();
    let mut bytes = whole(&ping());
    bytes[3] = b'2';
    write(harness, &mut raw, &bytes).await;
    let error = rx.recv().await.expect_err("SYN2 is not SYN1");
    assert_eq!((error.kind(), error.version()), (LinkErrorKind::Protocol, Some(b'2')));
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

async fn write<H: Harness>(_harness: &H, raw: &mut H::Raw, bytes: &[u8]) {
    H::write(raw, bytes).await;
}

type Spoil = fn(&mut [u8]);

type Halves<L> = (<L as Link>::Rx, <L as Link>::Tx);

fn split<L: Link>((a, b): (L, L)) -> (Halves<L>, Halves<L>) {
    (a.split(), b.split())
}
