//! Consistent overhead byte stuffing, with a zero between packets.

/// Bytes that `len` bytes take when they are stuffed, zeros around them included.
pub(crate) const fn stuffed(len: usize) -> usize {
    len + len / 254 + 3
}

/// Writes `packet` stuffed between two zeros, and says how many bytes that are; none if `out` is shorter than [`stuffed`].
pub(crate) fn stuff(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    *out.first_mut()? = 0;
    let (mut count, mut code, mut at) = (1u8, 1, 2);
    for byte in packet {
        if count == 0xff {
            *out.get_mut(code)? = count;
            (count, code, at) = (1, at, at + 1);
        }
        if *byte == 0 {
            *out.get_mut(code)? = count;
            (count, code, at) = (1, at, at + 1);
        } else {
            *out.get_mut(at)? = *byte;
            (count, at) = (count + 1, at + 1);
        }
    }
    *out.get_mut(code)? = count;
    *out.get_mut(at)? = 0;
    Some(at + 1)
}

/// Takes packets of up to `N` bytes out of a stream of bytes.
pub(crate) struct Unstuffer<const N: usize> {
    packet: [u8; N],
    len: usize,
    /// Bytes until the next code; none when the packet is damaged.
    left: Option<u8>,
    /// Whether a zero stands in front of the next code.
    zero: bool,
}

impl<const N: usize> Unstuffer<N> {
    pub(crate) const fn new() -> Self {
        // What comes before the first zero is the rest of a packet that began earlier.
        Self { packet: [0; N], len: 0, left: None, zero: false }
    }

    /// Takes a byte; the packet that it ends, if it ends one.
    pub(crate) fn take(&mut self, byte: u8) -> Option<&[u8]> {
        if byte == 0 {
            let whole = self.left == Some(0) && self.len > 0;
            let len = self.len;
            (self.len, self.left, self.zero) = (0, Some(0), false);
            return if whole { self.packet.get(..len) } else { None };
        }
        match self.left {
            None => {}
            Some(0) => {
                if self.zero {
                    self.push(0);
                }
                if self.left.is_some() {
                    (self.left, self.zero) = (Some(byte - 1), byte != 0xff);
                }
            }
            Some(left) => {
                self.left = Some(left - 1);
                self.push(byte);
            }
        }
        None
    }

    fn push(&mut self, byte: u8) {
        match self.packet.get_mut(self.len) {
            Some(place) => (*place, self.len) = (byte, self.len + 1),
            None => self.left = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn wire(packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0xaa; stuffed(packet.len())];
        let len = stuff(packet, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn packets(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut unstuffer = Unstuffer::<600>::new();
        bytes.iter().filter_map(|byte| unstuffer.take(*byte).map(<[u8]>::to_vec)).collect()
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_behind_whatever_stood_before(
            noise in prop::collection::vec(any::<u8>(), 0..40),
            first in prop::collection::vec(0u8..4, 1..600),
            second in prop::collection::vec(1u8..=255, 1..600),
        ) {
            let bytes = [&noise[..], &wire(&first), &wire(&second)].concat();
            let found = packets(&bytes);
            prop_assert_eq!(&found[found.len() - 2..], &[first, second][..]);
        }

        #[test]
        fn no_packet_holds_the_byte_that_ends_it(packet in prop::collection::vec(any::<u8>(), 1..600)) {
            let bytes = wire(&packet);
            prop_assert!(bytes[1..bytes.len() - 1].iter().all(|byte| *byte != 0));
            prop_assert!(bytes.len() <= stuffed(packet.len()));
        }
    }

    #[test]
    fn what_is_cut_or_too_long_is_no_packet() {
        let mut bytes = wire(&[1, 2, 3, 0, 5]);
        bytes.remove(3);
        assert_eq!(packets(&bytes), [[0u8; 0]; 0]);
        assert_eq!(packets(&wire(&[7; 601])), [[0u8; 0]; 0]);
        assert_eq!(packets(&[0, 0, 0, 5, 1, 0]), [[0u8; 0]; 0]);
    }
}
