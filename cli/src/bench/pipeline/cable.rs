//! Links with a round trip and a rate of their own between programs on this machine: a relay takes bytes in and gives them
//! out in their order, later.
//!
//! Blocking threads and the system's own sleep, since the timers of an event loop count whole milliseconds; and the sleep's
//! usual lateness, measured first, is taken off.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a link is like, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cable {
    /// From a byte's departure to the arrival of one that is sent back at once.
    pub(super) round_trip: Duration,
    /// Bits that enter it in a second; as many as come where there is none.
    pub(super) bits_per_second: Option<f64>,
}

impl Cable {
    /// Whether it is no different from none.
    pub(super) fn is_none(&self) -> bool {
        self.round_trip.is_zero() && self.bits_per_second.is_none()
    }

    /// How long bytes take to enter it.
    pub(super) fn entering(&self, bytes: f64) -> Duration {
        let seconds = self.bits_per_second.map_or(0.0, |rate| bytes * 8.0 / rate);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// One direction of a cable. Times count from any fixed moment.
struct Lane {
    cable: Cable,
    /// When all that came before has entered.
    free_at: Duration,
}

impl Lane {
    fn new(cable: Cable) -> Self {
        Self { cable, free_at: Duration::ZERO }
    }

    /// When the last of `bytes` bytes arrives that come at `now`: behind those before it, at the cable's rate, and half a
    /// round trip later.
    fn arrival(&mut self, now: Duration, bytes: usize) -> Duration {
        self.free_at = self.free_at.max(now).saturating_add(self.cable.entering(bytes as f64));
        self.free_at.saturating_add(self.cable.round_trip / 2)
    }
}

/// A port of this machine from which a cable leads to another one. Dropping it cuts all that is connected.
pub(super) struct Relay {
    address: SocketAddr,
    /// Both ends of what is connected; none any more when it is over.
    ends: Arc<Mutex<Option<Vec<TcpStream>>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// A free port, and behind it a cable to `to`.
    ///
    /// # Errors
    /// When the system has no port or no thread left.
    pub(super) fn start(cable: Cable, to: SocketAddr, sleeper: Sleeper) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ends = Arc::new(Mutex::new(Some(Vec::new())));
        let known = ends.clone();
        let accept = move || {
            for near in listener.incoming() {
                let connected = near.and_then(|near| connect(cable, near, to, sleeper));
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *known, connected) {
                    (None, _) => return,
                    (Some(ends), Ok(pair)) => ends.extend(pair),
                    (Some(_), Err(error)) => tracing::warn!("a link to {to}: {error}"),
                }
            }
        };
        let accepting = Some(thread::Builder::new().name("cable".into()).spawn(accept)?);
        Ok(Self { address, ends, accepting })
    }

    /// Where to connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take();
        for end in ends.into_iter().flatten() {
            // One that is closed already has nothing to be cut.
            let _ = end.shutdown(Shutdown::Both);
        }
        // Whoever accepts notices at the next connection that it is over.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            // A panic there has been reported by its own message.
            let _ = accepting.join();
        }
    }
}

/// Joins `near` to a new connection with `to` by both directions of a cable.
fn connect(cable: Cable, near: TcpStream, to: SocketAddr, sleeper: Sleeper) -> io::Result<[TcpStream; 2]> {
    let far = TcpStream::connect(to)?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    let ends = [near.try_clone()?, far.try_clone()?];
    for (from, into) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let (sender, due) = sync_channel(QUEUE);
        thread::Builder::new().name("cable in".into()).spawn(move || take(cable, from, &sender))?;
        thread::Builder::new().name("cable out".into()).spawn(move || give(into, &due, sleeper))?;
    }
    Ok(ends)
}

/// Bytes on their way, and when they arrive.
type Due = (Instant, Vec<u8>);

/// Takes bytes in until there are no more, or nobody who would have them.
fn take(cable: Cable, mut from: TcpStream, sender: &SyncSender<Due>) {
    let (begun, mut lane) = (Instant::now(), Lane::new(cable));
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A connection that was cut ends like one that was closed.
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let due = begun + lane.arrival(begun.elapsed(), count);
        if sender.send((due, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Gives out each part when it is due, and passes the end on.
fn give(mut into: TcpStream, parts: &Receiver<Due>, sleeper: Sleeper) {
    let mut how = Shutdown::Write;
    while let Ok((due, bytes)) = parts.recv() {
        sleeper.until(due);
        if into.write_all(&bytes).is_err() {
            how = Shutdown::Both;
            break;
        }
    }
    // One that is closed already needs no end.
    let _ = into.shutdown(how);
}

/// Sleeps to a moment more closely than the system alone does.
#[derive(Clone, Copy)]
pub(super) struct Sleeper {
    /// By how much a sleep is usually too long.
    late: Duration,
}

impl Sleeper {
    /// Finds out how late this machine wakes a thread.
    pub(super) fn measure() -> Self {
        let nap = Duration::from_micros(100);
        let late = |_| {
            let begun = Instant::now();
            thread::sleep(nap);
            begun.elapsed().saturating_sub(nap)
        };
        let mut late: Vec<Duration> = (0..NAPS).map(late).collect();
        late.sort_unstable();
        Self { late: late[NAPS / 2].min(MOST_LATE) }
    }

    fn until(self, due: Instant) {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match left.checked_sub(self.late) {
                Some(nap) if !nap.is_zero() => thread::sleep(nap),
                _ => thread::yield_now(),
            }
        }
    }
}

/// The round trip of `cable` as it is here: the median of messages of a token's size to an echo and back.
///
/// # Errors
/// When the system has no port or no thread left.
pub(super) fn round_trip(cable: Cable, sleeper: Sleeper) -> io::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let relay = Relay::start(cable, listener.local_addr()?, sleeper)?;
    let echo = thread::Builder::new().name("echo".into()).spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE_BYTES];
        for _ in 0..PINGS {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
        Ok(())
    })?;
    let mut stream = TcpStream::connect(relay.address())?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let mut message = [7; MESSAGE_BYTES];
    for _ in 0..PINGS {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(begun.elapsed());
    }
    drop(stream);
    echo.join().map_err(|_| io::Error::other("the echo broke off"))??;
    times.sort_unstable();
    Ok(times[PINGS / 2])
}

/// Bytes that are taken in at once: a few decode frames, or a part of a bigger one.
const CHUNK_BYTES: usize = 4096;
/// Parts on their way in one direction at most, 4 MiB: more than 100 ms at 300 Mbit/s.
const QUEUE: usize = 1024;
/// Sleeps that are timed.
const NAPS: usize = 31;
/// A machine that wakes later than this is busy, and spinning would make it worse.
const MOST_LATE: Duration = Duration::from_micros(200);
/// A frame of one token.
const MESSAGE_BYTES: usize = 28;
/// Messages that are timed: two seconds on the slowest usual link.
const PINGS: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn cable(round_trip_us: u64, bits_per_second: Option<f64>) -> Cable {
        Cable { round_trip: Duration::from_micros(round_trip_us), bits_per_second }
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn bytes_arrive_half_a_round_trip_later_whatever_their_number() {
        let mut lane = Lane::new(cable(20_000, None));
        assert_eq!(lane.arrival(us(5), 1), us(10_005));
        assert_eq!(lane.arrival(us(5), 1 << 20), us(10_005));
        assert_eq!(lane.arrival(us(6), 1), us(10_006));
    }

    #[test]
    fn a_rate_makes_bytes_wait_for_those_before_them() {
        // 8 Mbit/s: a byte in a microsecond.
        let mut lane = Lane::new(cable(1_000, Some(8e6)));
        assert_eq!(lane.arrival(us(0), 300), us(300 + 500));
        assert_eq!(lane.arrival(us(100), 50), us(350 + 500), "behind the first");
        assert_eq!(lane.arrival(us(2_000), 50), us(2_050 + 500), "the cable was free");
    }

    #[test]
    fn a_rate_of_20_mbit_takes_614_us_for_a_row_of_gpt2_in_f16() {
        assert_eq!(cable(0, Some(20e6)).entering(2.0 * 768.0), Duration::from_nanos(614_400));
        assert_eq!(cable(0, None).entering(1e9), Duration::ZERO);
    }

    #[test]
    fn no_length_and_no_rate_overflow_anything() {
        let mut lane = Lane::new(cable(u64::MAX, Some(1e-300)));
        assert_eq!(lane.arrival(us(1), usize::MAX), Duration::MAX);
        assert_eq!(lane.arrival(us(2), 1), Duration::MAX);
    }

    /// Both ends of a connection through a relay.
    fn connected(cable: Cable) -> (Relay, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::start(cable, listener.local_addr().unwrap(), Sleeper { late: us(50) }).unwrap();
        let near = TcpStream::connect(relay.address()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (relay, near, far)
    }

    #[test]
    fn what_goes_in_comes_out_in_its_order_in_both_directions_and_then_the_end() {
        let (_relay, mut near, mut far) = connected(cable(300, Some(1e9)));
        let bytes: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = bytes.clone();
        let sending = thread::spawn(move || {
            far.write_all(&sent).unwrap();
            let mut back = Vec::new();
            far.read_to_end(&mut back).unwrap();
            back
        });
        let mut came = vec![0; bytes.len()];
        near.read_exact(&mut came).unwrap();
        assert!(came == bytes);
        near.write_all(&bytes[..5_000]).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        assert!(sending.join().unwrap() == bytes[..5_000]);
    }

    #[test]
    fn a_relay_that_is_dropped_cuts_what_is_connected() {
        let (relay, mut near, mut far) = connected(cable(0, None));
        drop(relay);
        for end in [&mut near, &mut far] {
            // Cut off by a reset or by an end.
            assert!(matches!(end.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
    }

    #[test]
    fn the_round_trip_that_is_measured_is_at_least_the_one_asked_for() {
        let asked = us(2_000);
        assert!(round_trip(cable(2_000, None), Sleeper { late: us(0) }).unwrap() >= asked);
    }
}
