//! Bytes in the order in which they came.

/// A queue of up to `N` bytes.
pub(crate) struct Ring<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], first: 0, len: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn room(&self) -> usize {
        N - self.len
    }

    /// Takes in as many of `bytes` as there is room for, and says how many.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let begin = (self.first + self.len) % N.max(1);
        for (at, byte) in bytes.iter().take(count).enumerate() {
            if let Some(place) = self.bytes.get_mut((begin + at) % N.max(1)) {
                *place = *byte;
            }
        }
        self.len += count;
        count
    }

    /// Copies what stands from `offset` on into `out`, and says how many bytes that are.
    pub(crate) fn peek(&self, offset: usize, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len.saturating_sub(offset));
        for (at, out) in out.iter_mut().take(count).enumerate() {
            *out = self.bytes.get((self.first + offset + at) % N.max(1)).copied().unwrap_or(0);
        }
        count
    }

    /// Lets go of the first `count` bytes.
    pub(crate) fn drop(&mut self, count: usize) {
        let count = count.min(self.len);
        (self.first, self.len) = ((self.first + count) % N.max(1), self.len - count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_around_the_end() {
        let mut ring = Ring::<5>::new();
        assert_eq!(ring.push(&[1, 2, 3, 4]), 4);
        ring.drop(3);
        assert_eq!(ring.push(&[5, 6, 7, 8, 9]), 4);
        let mut out = [0; 8];
        assert_eq!((ring.peek(0, &mut out), ring.len(), ring.room()), (5, 5, 0));
        assert_eq!(out[..5], [4, 5, 6, 7, 8]);
        assert_eq!((ring.peek(3, &mut out), ring.peek(9, &mut out)), (2, 0));
        ring.drop(9);
        assert_eq!((ring.len(), ring.room()), (0, 5));
    }
}
