//! One end of the line without the line: packets in, packets out, time as an argument.

use crate::packet::{Kind, MOST_DATA, Packet};
use crate::ring::Ring;

/// The state of an end with room for `RX` bytes that were received and `TX` that were not acknowledged.
pub(crate) struct End<const RX: usize, const TX: usize> {
    mine: u32,
    /// The other end's number; 0 until it has said hello.
    yours: u32,
    /// Whether the other end knows this one's number.
    known: bool,
    pub(crate) broken: bool,

    pub(crate) received: Ring<RX>,
    expected: u16,
    /// The other end has ended its stream.
    pub(crate) ended: bool,
    /// Nobody reads here any more.
    pub(crate) unread: bool,

    /// What was written and not acknowledged.
    pub(crate) sent: Ring<TX>,
    /// The stream ends behind what is in `sent`.
    pub(crate) finished: bool,
    /// The other end has everything, the end too.
    pub(crate) done: bool,
    /// The packets that are on their way: the number of the first, and the length of each.
    first: u16,
    flying: [u8; WINDOW],
    count: usize,
    /// How many of them have been sent since the last time that it went back.
    next: usize,
    room: usize,
    /// Acknowledgements in a row that have not moved.
    repeated: u8,

    /// What is to be said at once.
    hello: bool,
    acknowledge: bool,
    gone: Option<u32>,
}

/// Packets on their way.
const WINDOW: usize = 8;
/// The length of an end packet in the list of those on their way, which no data packet has.
const END: u8 = 0;

impl<const RX: usize, const TX: usize> End<RX, TX> {
    /// An end with a number that was never used before; 0 counts as 1.
    pub(crate) const fn new(number: u32) -> Self {
        Self {
            mine: if number == 0 { 1 } else { number },
            yours: 0,
            known: false,
            broken: false,
            received: Ring::new(),
            expected: 0,
            ended: false,
            unread: false,
            sent: Ring::new(),
            finished: false,
            done: false,
            first: 0,
            flying: [0; WINDOW],
            count: 0,
            next: 0,
            room: 0,
            repeated: 0,
            hello: true,
            acknowledge: false,
            gone: None,
        }
    }

    /// Whether both ends know each other.
    const fn is_up(&self) -> bool {
        self.yours != 0 && self.known
    }

    const fn tag(&self) -> u32 {
        self.mine ^ self.yours
    }

    /// Takes in a packet; says whether the streams got on by it.
    pub(crate) fn take(&mut self, packet: &Packet<'_>) -> bool {
        if packet.kind == Kind::Hello {
            return self.greeted(packet);
        }
        if self.yours == 0 || packet.tag != self.tag() {
            // Of an earlier start of one of the two: whoever waits for an answer is told that there will be none.
            if matches!(packet.kind, Kind::Data | Kind::End) {
                self.gone = Some(packet.tag);
            }
            return false;
        }
        // Only who knows both numbers makes that tag.
        self.known = true;
        match packet.kind {
            Kind::Hello => false,
            Kind::Gone => {
                self.broken = true;
                true
            }
            Kind::Acknowledge => self.acknowledged(packet),
            Kind::Data | Kind::End => {
                let moved = self.acknowledged(packet);
                self.accept(packet) || moved
            }
        }
    }

    fn greeted(&mut self, packet: &Packet<'_>) -> bool {
        let knows = packet.data.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if self.yours != 0 && packet.tag != self.yours {
            // The other end has lost what it knew. This end's streams are no more; a new one has to be made.
            self.broken = true;
            return true;
        }
        let news = self.yours == 0;
        self.yours = packet.tag;
        if knows == self.mine {
            let up = !self.known;
            self.known = true;
            if up {
                // The other end learns by it that it is known, and how much room there is.
                self.acknowledge = true;
            }
            return up || news;
        }
        self.hello = true;
        news
    }

    fn acknowledged(&mut self, packet: &Packet<'_>) -> bool {
        self.room = packet.room.into();
        let moved = usize::from(packet.ack.wrapping_sub(self.first));
        if moved == 0 {
            // Data packets repeat the acknowledgement without meaning to.
            if packet.kind == Kind::Acknowledge && self.count > 0 {
                self.repeated = self.repeated.saturating_add(1);
                if self.repeated == 3 {
                    self.next = 0;
                }
            }
            return true;
        }
        if moved > self.count {
            return false;
        }
        for len in self.flying.iter().take(moved) {
            self.sent.drop((*len).into());
            self.done |= *len == END;
        }
        self.flying.rotate_left(moved);
        self.first = packet.ack;
        (self.count, self.next, self.repeated) = (self.count - moved, self.next.saturating_sub(moved), 0);
        true
    }

    fn accept(&mut self, packet: &Packet<'_>) -> bool {
        self.acknowledge = true;
        let is_expected = packet.seq == self.expected && !self.ended;
        if self.unread && is_expected && packet.kind == Kind::Data {
            self.gone = Some(self.tag());
            return true;
        }
        if !is_expected || packet.data.len() > self.received.room() {
            return false;
        }
        self.received.push(packet.data);
        self.ended = packet.kind == Kind::End;
        self.expected = self.expected.wrapping_add(1);
        true
    }

    /// The reader has taken something: if the other end was held up, it is told.
    pub(crate) fn read(&mut self, before: usize) {
        self.acknowledge |= before < MOST_DATA && self.received.room() >= MOST_DATA;
    }

    /// An interval has passed without progress.
    pub(crate) const fn timeout(&mut self) {
        if !self.is_up() {
            self.hello = true;
        } else if self.count > 0 {
            self.next = 0;
            // At least the first is tried.
            if self.room == 0 {
                self.room = 1;
            }
        }
    }

    /// Whether something waits for its acknowledgement, or for the other end at all.
    pub(crate) const fn is_waiting(&self) -> bool {
        !self.is_up() || self.count > 0 || self.sent.len() > 0
    }

    /// The next packet to send, with its data in `data`.
    pub(crate) fn next<'d>(&mut self, data: &'d mut [u8; MOST_DATA]) -> Option<Packet<'d>> {
        let plain = |kind, tag| Packet { kind, tag, seq: 0, ack: 0, room: 0, data: &[] };
        if let Some(tag) = self.gone.take() {
            return Some(plain(Kind::Gone, tag));
        }
        if core::mem::take(&mut self.hello) {
            let bytes = data.first_chunk_mut::<4>()?;
            *bytes = self.yours.to_le_bytes();
            return Some(Packet { data: bytes, ..plain(Kind::Hello, self.mine) });
        }
        if !self.is_up() || self.broken {
            return None;
        }
        if let Some((seq, offset, len)) = self.turn() {
            self.acknowledge = false;
            let kind = if len == END { Kind::End } else { Kind::Data };
            let count = self.sent.peek(offset, data.get_mut(..len.into())?);
            let packet = self.with_acknowledgement(plain(kind, self.tag()));
            return Some(Packet { seq, data: data.get(..count)?, ..packet });
        }
        core::mem::take(&mut self.acknowledge).then(|| self.with_acknowledgement(plain(Kind::Acknowledge, self.tag())))
    }

    fn with_acknowledgement<'d>(&self, packet: Packet<'d>) -> Packet<'d> {
        Packet { ack: self.expected, room: u16::try_from(self.received.room()).unwrap_or(u16::MAX), ..packet }
    }

    /// The number, the place in `sent` and the length of the data or end packet whose turn it is.
    fn turn(&mut self) -> Option<(u16, usize, u8)> {
        let lens = self.flying.get(..self.next)?;
        let offset: usize = lens.iter().map(|len| usize::from(*len)).sum();
        if self.next == self.count {
            self.fly(offset)?;
        } else if self.next > 0 && offset + usize::from(*self.flying.get(self.next)?) > self.room {
            return None;
        }
        let len = *self.flying.get(self.next)?;
        let seq = self.first.wrapping_add(u16::try_from(self.next).ok()?);
        self.next += 1;
        Some((seq, offset, len))
    }

    /// Puts another packet on its way, of what stands in `sent` behind those that are.
    fn fly(&mut self, offset: usize) -> Option<()> {
        let is_ending = self.flying.get(..self.count)?.contains(&END);
        let left = self.sent.len() - offset;
        let len = left.min(MOST_DATA).min(self.room.saturating_sub(offset));
        if is_ending || self.done || (len == 0 && !(self.finished && left == 0)) {
            return None;
        }
        *self.flying.get_mut(self.count)? = u8::try_from(len).ok()?;
        self.count += 1;
        Some(())
    }
}

const _: () = assert!(MOST_DATA <= u8::MAX as usize);
