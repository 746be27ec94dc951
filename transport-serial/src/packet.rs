//! Packets as bytes.

use crate::crc::crc32c;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Data = 2,
    Acknowledge = 3,
    End = 4,
    Gone = 5,
}

/// A packet that was received whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: Kind,
    pub(crate) tag: u32,
    pub(crate) seq: u16,
    pub(crate) ack: u16,
    pub(crate) room: u16,
    pub(crate) data: &'a [u8],
}

/// Bytes of the stream that a packet carries at most: packets of a line that damages one bit in ten thousand still come
/// through.
pub(crate) const MOST_DATA: usize = 200;
const HEAD: usize = 11;
const SUM: usize = 4;
/// Bytes of the longest packet.
pub(crate) const MOST: usize = HEAD + MOST_DATA + SUM;

impl<'a> Packet<'a> {
    /// The packet in `bytes`; none if they are damaged.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (rest, sum) = bytes.split_last_chunk::<SUM>()?;
        if crc32c(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let ([kind, a, b, c, d, s, t, k, l, r, q], data) = rest.split_first_chunk::<HEAD>()?;
        let kind = match kind {
            1 => Kind::Hello,
            2 => Kind::Data,
            3 => Kind::Acknowledge,
            4 => Kind::End,
            5 => Kind::Gone,
            _ => return None,
        };
        let fits = match kind {
            Kind::Hello => data.len() == 4,
            Kind::Data => (1..=MOST_DATA).contains(&data.len()),
            Kind::Acknowledge | Kind::End | Kind::Gone => data.is_empty(),
        };
        let pair = |low: &u8, high: &u8| u16::from_le_bytes([*low, *high]);
        let tag = u32::from_le_bytes([*a, *b, *c, *d]);
        fits.then_some(Self { kind, tag, seq: pair(s, t), ack: pair(k, l), room: pair(r, q), data })
    }

    /// Writes the packet and says how long it is; none if `out` is too short.
    pub(crate) fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let Self { kind, tag, seq, ack, room, data } = *self;
        let ([a, b, c, d], [s, t], [k, l]) = (tag.to_le_bytes(), seq.to_le_bytes(), ack.to_le_bytes());
        let [r, q] = room.to_le_bytes();
        let end = HEAD + data.len();
        out.get_mut(..HEAD)?.copy_from_slice(&[kind as u8, a, b, c, d, s, t, k, l, r, q]);
        out.get_mut(HEAD..end)?.copy_from_slice(data);
        let sum = crc32c(out.get(..end)?);
        out.get_mut(end..end + SUM)?.copy_from_slice(&sum.to_le_bytes());
        Some(end + SUM)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(bytes: &[u8]) -> Packet<'_> {
        Packet { kind: Kind::Data, tag: 0x0403_0201, seq: 0x0605, ack: 0x0807, room: 0x0a09, data: bytes }
    }

    #[test]
    fn a_packet_is_these_bytes() {
        let mut out = [0; MOST];
        let len = data(b"SYN1").emit(&mut out).unwrap();
        assert_eq!(out[..15], [2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, b'S', b'Y', b'N', b'1']);
        assert_eq!(out[15..len], crc32c(&out[..15]).to_le_bytes());
        assert_eq!(Packet::parse(&out[..len]), Some(data(b"SYN1")));
    }

    proptest! {
        #[test]
        fn up_to_five_wrong_bits_are_always_seen(
            bytes in prop::collection::vec(any::<u8>(), 1..=MOST_DATA),
            wrong in prop::collection::btree_set(0usize..8 * (HEAD + SUM + 1), 1..=5),
        ) {
            let mut out = [0; MOST];
            let len = data(&bytes).emit(&mut out).unwrap();
            for bit in wrong {
                out[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert_eq!(Packet::parse(&out[..len]), None);
        }

        #[test]
        fn whatever_comes_is_a_packet_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Packet::parse(&bytes), None);
        }
    }
}
