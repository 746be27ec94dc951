//! Streams over lines that lose, damage and repeat bytes; SYN1's conformance suite over a good one.
//!
//! There is no clock: an interval is so many turns of the executor in which nothing else has ended it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use embedded_hal_async::delay::DelayNs;
use embedded_io_async::{ErrorType, Read, Write};
use syn1_core::Header;
use syn1_core::testing::{
    Harness, LIMITS, PipeReader, PipeWriter, StreamHarness, block_on, join, links, pipe, streams, yield_now,
};
use syn1_transport_serial::{Broken, Lost, Reader, Serial, Writer, link};
use syn1_transport_tcp::StreamLink;

const RX: usize = 1 << 14;
const TX: usize = 1 << 13;

type OwnLink = StreamLink<Reader<'static, RX, TX>, Writer<'static, RX, TX>, Vec<u8>>;

/// Futures that run for as long as the test does.
type Tasks = Rc<RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>>;

/// A wait that counts the executor's turns.
struct Turns;

impl DelayNs for Turns {
    async fn delay_ns(&mut self, ns: u32) {
        for _ in 0..ns / 1_000_000 {
            yield_now().await;
        }
    }
}

/// What a line does to a byte.
type Harm = Box<dyn FnMut(u8) -> Vec<u8>>;

struct LineIn(PipeReader);

struct LineOut {
    pipe: PipeWriter,
    harm: Harm,
}

impl ErrorType for LineIn {
    type Error = Infallible;
}

impl ErrorType for LineOut {
    type Error = Infallible;
}

impl Read for LineIn {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        Ok(self.0.read(out).await)
    }
}

impl Write for LineOut {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let bytes: Vec<u8> = bytes.iter().flat_map(|byte| (self.harm)(*byte)).collect();
        // A line has no other end: what nobody listens to is lost.
        let _ = self.pipe.write_all(&bytes).await;
        Ok(bytes.len().max(1))
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn sound() -> Harm {
    Box::new(|byte| vec![byte])
}

/// One bit in about `one_in` bits is wrong, and now and then a byte is lost or comes twice.
fn noisy(seed: u64, one_in: u64) -> Harm {
    let mut state = seed;
    let mut random = move |below: u64| {
        // SplitMix64 (Steele, Lea and Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below
    };
    Box::new(move |byte| {
        let wrong = (0..8).filter(|_| random(one_in) == 0).fold(0, |bits, bit| bits | 1 << bit);
        match random(one_in * 40) {
            0 => vec![],
            1 => vec![byte, byte],
            _ => vec![byte ^ wrong],
        }
    })
}

/// Runs a test to its end, and everything beside it meanwhile.
fn beside<F: Future>(tasks: Tasks, test: F) -> F::Output {
    let mut test = pin!(test);
    block_on(poll_fn(move |cx| {
        if let Poll::Ready(output) = test.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        let mut running = std::mem::take(&mut *tasks.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        tasks.borrow_mut().append(&mut running);
        Poll::Pending
    }))
}

type Halves = (Reader<'static, RX, TX>, Writer<'static, RX, TX>);

/// An end of a line; its runner is among the tasks.
fn end(tasks: &Tasks, number: u32, line: (LineIn, LineOut)) -> Halves {
    // As on a microcontroller, it lives for ever.
    let serial = Box::leak(Box::new(Serial::<RX, TX>::new(number, 300)));
    let (reader, writer, mut runner) = serial.start();
    tasks.borrow_mut().push(Box::pin(async move {
        let lost = runner.run(line.0, line.1, Turns).await;
        assert!(matches!(lost, Lost::Done | Lost::Ended), "{lost:?}");
    }));
    (reader, writer)
}

fn lines(mut harm: impl FnMut() -> Harm) -> [(LineIn, LineOut); 2] {
    let ((a_out, b_in), (b_out, a_in)) = (pipe(1000), pipe(1000));
    let out = |pipe, harm| LineOut { pipe, harm };
    [(LineIn(a_in), out(a_out, harm())), (LineIn(b_in), out(b_out, harm()))]
}

fn pair(tasks: &Tasks, harm: impl FnMut() -> Harm) -> (Halves, Halves) {
    let [a, b] = lines(harm);
    (end(tasks, 7, a), end(tasks, 9, b))
}

fn framed((reader, writer): Halves) -> OwnLink {
    let longest = Header::control(LIMITS.max_payload).frame_len();
    link(reader, writer, vec![0; longest], vec![0; longest])
}

struct Sound {
    tasks: Tasks,
}

impl Harness for Sound {
    type Link = OwnLink;

    async fn pair(&mut self) -> (OwnLink, OwnLink) {
        let (a, b) = pair(&self.tasks, sound);
        (framed(a), framed(b))
    }
}

impl StreamHarness for Sound {
    /// The reader stays as long as the writer: else the other end would be told that nobody reads.
    type Raw = Halves;

    async fn raw(&mut self) -> (Halves, OwnLink) {
        let (a, b) = pair(&self.tasks, sound);
        (a, framed(b))
    }

    async fn write(raw: &mut Halves, bytes: &[u8]) {
        raw.1.write_all(bytes).await.unwrap();
    }
}

#[test]
fn serial_links_conform() {
    let tasks = Tasks::default();
    let mut sound = Sound { tasks: tasks.clone() };
    beside(tasks, async {
        links(&mut sound).await;
        streams(&mut sound).await;
    });
}

/// Bytes that differ from place to place.
fn text(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn send(mut writer: Writer<'static, RX, TX>, text: &[u8]) {
    writer.write_all(text).await.unwrap();
}

async fn receive(reader: &mut Reader<'static, RX, TX>) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 333]);
    loop {
        match reader.read(&mut part).await.unwrap() {
            0 => return all,
            count => all.extend(&part[..count]),
        }
    }
}

#[test]
fn everything_arrives_unharmed_over_lines_that_damage_lose_and_repeat() {
    for (seed, one_in) in [(1, 100_000), (2, 10_000), (3, 3_000)] {
        let tasks = Tasks::default();
        let (there, back) = (text(60_000), text(50_000));
        beside(tasks.clone(), async {
            let mut seeds = seed;
            let harm = || {
                seeds += 100;
                noisy(seeds, one_in)
            };
            let ((mut a_rx, a_tx), (mut b_rx, b_tx)) = pair(&tasks, harm);
            let sends = join(send(a_tx, &there), send(b_tx, &back));
            let (_, (at_a, at_b)) = join(sends, join(receive(&mut a_rx), receive(&mut b_rx))).await;
            assert!(at_b == there && at_a == back, "one bit in {one_in}");
        });
    }
}

#[test]
fn a_line_that_damages_everything_carries_nothing() {
    let tasks = Tasks::default();
    beside(tasks.clone(), async {
        let ((mut rx, _a), (_b, mut tx)) = pair(&tasks, || Box::new(|byte| vec![byte ^ 0x10]));
        tx.write_all(b"nobody hears this").await.unwrap();
        for _ in 0..5_000 {
            assert!(syn1_core::testing::poll_once(rx.read(&mut [0; 8])).await.is_none());
            yield_now().await;
        }
    });
}

#[test]
fn a_line_that_was_cut_for_a_while_goes_on_where_it_was() {
    let tasks = Tasks::default();
    let (cut, carried) = (Rc::new(Cell::new(false)), text(20_000));
    beside(tasks.clone(), async {
        let harm = || -> Harm {
            let cut = cut.clone();
            Box::new(move |byte| if cut.get() { vec![] } else { vec![byte] })
        };
        let ((_a_rx, a_tx), (mut b_rx, _b_tx)) = pair(&tasks, harm);
        let mut got: Vec<u8> = Vec::new();
        let receive = async {
            let mut part = [0; 100];
            while got.len() < carried.len() {
                let count = b_rx.read(&mut part).await.unwrap();
                got.extend(&part[..count]);
            }
        };
        let trouble = async {
            for _ in 0..5 {
                for is_cut in [true, false] {
                    cut.set(is_cut);
                    for _ in 0..700 {
                        yield_now().await;
                    }
                }
            }
        };
        join(join(send(a_tx, &carried), receive), trouble).await;
        assert!(got == carried);
    });
}

#[test]
fn an_end_that_has_started_anew_breaks_the_streams_of_before() {
    let tasks = Tasks::default();
    beside(tasks.clone(), async {
        let ((a_out, mut b_in), (mut b_out, a_in)) = (pipe(1000), pipe(1000));
        let (mut rx, mut tx) = end(&tasks, 7, (LineIn(a_in), LineOut { pipe: a_out, harm: sound() }));
        tx.write_all(b"before").await.unwrap();
        // The other end's two starts, by hand: its packets over the same line.
        for number in [9, 10] {
            let serial = Box::leak(Box::new(Serial::<RX, TX>::new(number, 300)));
            let (mut reader, mut writer, mut runner) = serial.start();
            let talk = async {
                writer.write_all(b"hello").await.unwrap();
                let mut heard = [0; 6];
                if number == 9 {
                    reader.read_exact(&mut heard).await.unwrap();
                    assert_eq!(&heard, b"before");
                    let mut said = [0; 5];
                    rx.read_exact(&mut said).await.unwrap();
                } else {
                    assert_eq!(rx.read(&mut heard).await, Err(Broken));
                    assert_eq!(tx.write(b"x").await, Err(Broken));
                }
            };
            let run = runner.run(Borrowed(&mut b_in), BorrowedOut(&mut b_out), Turns);
            let mut talk = pin!(talk);
            let mut run = pin!(run);
            poll_fn(|cx| {
                let _ = run.as_mut().poll(cx);
                talk.as_mut().poll(cx)
            })
            .await;
        }
    });
}

struct Borrowed<'p>(&'p mut PipeReader);

struct BorrowedOut<'p>(&'p mut PipeWriter);

impl ErrorType for Borrowed<'_> {
    type Error = Infallible;
}

impl ErrorType for BorrowedOut<'_> {
    type Error = Infallible;
}

impl Read for Borrowed<'_> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        Ok(self.0.read(out).await)
    }
}

impl Write for BorrowedOut<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let _ = self.0.write_all(bytes).await;
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
