//! What entered one hop of a request, in order: what is still to be sent to its node, and what was sent, for the node that
//! takes its place.
//!
//! A frame at position p truncates the KV cache to p, so whoever gets these frames in this order holds the KV cache that the
//! hop's node holds.

use std::collections::VecDeque;
use std::mem::size_of;

use syn1_core::{Flags, Header};

/// How frames that were sent are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Their rows: a replay may put the rows of several frames into one, and leaves out what was rolled back.
    Rows,
    /// Each as it was: in a route with delta forms, what a node sends next follows from which frames it was sent before.
    Frames,
    /// Not at all.
    Nothing,
}

/// The frames that enter a hop.
#[derive(Debug)]
pub(crate) struct Inbox {
    keep: Keep,
    frames: VecDeque<Relayed>,
    /// How many of them were sent to the present node.
    sent: usize,
    /// Bytes of those.
    kept: usize,
    /// The highest number that ever came.
    newest: Option<u64>,
}

/// A frame on its way into a hop.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Relayed {
    /// Counts the frames of a request, from the first hop on.
    pub(crate) number: u64,
    /// As it came, with the epoch of the hop before.
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { keep, frames: VecDeque::new(), sent: 0, kept: 0, newest: None }
    }

    /// Takes in a frame.
    pub(crate) fn push(&mut self, frame: Relayed) {
        self.newest = Some(frame.number);
        self.frames.push_back(frame);
    }

    /// The frame with this number need not come: what follows from it is there.
    pub(crate) fn skip(&mut self, number: u64) {
        self.newest = Some(number);
    }

    /// Whether the frame with this number has come, so that its rows need not come again.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.newest.is_some_and(|newest| number <= newest)
    }

    /// The number of the frame that is to be sent next.
    pub(crate) fn due(&self) -> Option<u64> {
        self.frames.get(self.sent).map(|frame| frame.number)
    }

    /// The frame that is to be sent next, which counts as sent.
    pub(crate) fn take(&mut self) -> Option<Relayed> {
        if self.keep == Keep::Nothing {
            return self.frames.pop_front();
        }
        let frame = self.frames.get(self.sent)?.clone();
        self.sent += 1;
        self.kept += frame.bytes();
        Some(frame)
    }

    /// Bytes that are kept for a replay and nothing else.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Whether every frame since position 0 is here.
    pub(crate) fn is_whole(&self) -> bool {
        self.keep != Keep::Nothing
    }

    /// Lets go of what was sent, and keeps nothing from now on.
    pub(crate) fn forget(&mut self) {
        self.frames.drain(..self.sent);
        (self.keep, self.sent, self.kept) = (Keep::Nothing, 0, 0);
    }

    /// All frames are to be sent again, to a node that has none of them, and kept like `keep` from now on. Rows that nobody
    /// waits for (those of frames that are not `live`) are put together, at most `most` to a frame.
    pub(crate) fn rewind(&mut self, keep: Keep, live: &dyn Fn(u64) -> bool, most: u16) {
        (self.keep, self.sent, self.kept) = (keep, 0, 0);
        if self.keep != Keep::Rows {
            return;
        }
        let mut end = u32::MAX;
        for frame in self.frames.iter_mut().rev() {
            frame.truncate(end);
            end = end.min(frame.header.position);
        }
        for frame in std::mem::take(&mut self.frames) {
            match self.frames.back_mut() {
                _ if frame.header.rows == 0 => {}
                Some(last) if !live(last.number) && !live(frame.number) && last.goes_with(&frame, most) => {
                    last.append(frame);
                }
                _ => self.frames.push_back(frame),
            }
        }
    }

    /// Those that were sent to the present node, if none before them is missing: of a request that took over a KV cache, what
    /// that holds never entered here.
    pub(crate) fn history(&self) -> Option<Vec<Relayed>> {
        let begins = self.frames.front().map_or(self.newest.is_none(), |frame| frame.header.position == 0);
        (self.is_whole() && begins).then(|| self.frames.range(..self.sent).cloned().collect())
    }

    /// The frames, oldest first.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Relayed> {
        self.frames.iter()
    }
}

impl Relayed {
    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.payload.len()
    }

    /// One behind its last position.
    pub(crate) fn end(&self) -> u32 {
        self.header.position.saturating_add(self.header.rows.into())
    }

    /// Whether its payload is one row behind the other, each by itself.
    fn is_plain(&self) -> bool {
        self.header.flags.intersect(Flags::DELTA.union(Flags::COMPRESSED)).is_empty()
    }

    /// Cuts the rows from `position` on, which were rolled back, where its form allows it.
    fn truncate(&mut self, position: u32) {
        let Header { position: first, rows, payload_len, .. } = self.header;
        if self.end() <= position || !self.is_plain() || rows == 0 {
            return;
        }
        let left = position.saturating_sub(first) as u16;
        let len = payload_len / u32::from(rows) * u32::from(left);
        self.payload.truncate(len as usize);
        (self.header.rows, self.header.payload_len) = (left, len);
    }

    pub(crate) fn goes_with(&self, next: &Self, most: u16) -> bool {
        let flags = |frame: &Self| frame.header.flags.without(Flags::PREDICTED);
        let rows = u32::from(self.header.rows) + u32::from(next.header.rows);
        self.is_plain()
            && (self.header.codec, flags(self)) == (next.header.codec, flags(next))
            && self.end() == next.header.position
            && rows <= u32::from(most.min(REPLAY_ROWS))
    }

    pub(crate) fn append(&mut self, next: Self) {
        self.number = next.number;
        self.payload.extend(next.payload);
        self.header.rows += next.header.rows;
        self.header.payload_len += next.header.payload_len;
    }
}

/// Rows that a replay puts into one frame. Beyond 32, GPUs compute with matrix units, which round inputs; rows that went one
/// at a time the first time are to meet the same kernels again, as far as that goes.
const REPLAY_ROWS: u16 = 32;

#[cfg(test)]
mod tests {
    use syn1_core::Codec;

    use super::*;

    /// Rows of one f32 column that hold their positions.
    fn frame(number: u64, position: u32, rows: u16) -> Relayed {
        let header = Header::activation(1, 1, position, Codec::F32, rows, 1).unwrap();
        let payload = (position..position + u32::from(rows)).flat_map(|at| (at as f32).to_le_bytes()).collect();
        Relayed { number, header, payload }
    }

    fn inbox(keep: Keep, frames: &[Relayed]) -> Inbox {
        let mut inbox = Inbox::new(keep);
        frames.iter().cloned().for_each(|frame| inbox.push(frame));
        while inbox.take().is_some() {}
        inbox
    }

    fn shapes(inbox: &Inbox) -> Vec<(u64, u32, u16)> {
        inbox.frames().map(|frame| (frame.number, frame.header.position, frame.header.rows)).collect()
    }

    #[test]
    fn a_replay_gives_the_same_rows_in_fewer_frames() {
        let mut inbox = inbox(Keep::Rows, &[frame(1, 0, 64), frame(2, 64, 1), frame(3, 65, 1), frame(4, 66, 1)]);
        assert_eq!((inbox.due(), inbox.has(4), inbox.has(5)), (None, true, false));
        inbox.rewind(Keep::Rows, &|number| number == 4, 64);
        assert_eq!(shapes(&inbox), [(1, 0, 64), (3, 64, 2), (4, 66, 1)]);
        let rows: Vec<u8> = inbox.frames().flat_map(|frame| frame.payload.clone()).collect();
        assert_eq!(rows, frame(0, 0, 67).payload);
        assert!(inbox.frames().all(|frame| frame.header.payload_len as usize == frame.payload.len()));
        assert_eq!((inbox.due(), inbox.kept()), (Some(1), 0));
    }

    #[test]
    fn rows_that_were_rolled_back_are_not_replayed() {
        let mut inbox = inbox(Keep::Rows, &[frame(1, 0, 4), frame(2, 4, 4), frame(3, 5, 1)]);
        inbox.rewind(Keep::Rows, &|_| false, 4);
        assert_eq!(shapes(&inbox), [(1, 0, 4), (3, 4, 2)]);
    }

    #[test]
    fn frames_are_put_together_up_to_what_the_chain_takes() {
        let singles: Vec<Relayed> = (0..100).map(|at| frame(u64::from(at), at, 1)).collect();
        for (most, rows) in [(8, 8), (64, u32::from(REPLAY_ROWS))] {
            let mut inbox = inbox(Keep::Rows, &singles);
            inbox.rewind(Keep::Rows, &|_| false, most);
            assert_eq!(shapes(&inbox).len(), 100u32.div_ceil(rows) as usize);
        }
    }

    #[test]
    fn what_a_delta_stream_was_made_of_stays_as_it_was() {
        let frames = [frame(1, 0, 4), frame(2, 4, 4), frame(3, 5, 1), frame(4, 6, 1)];
        let mut inbox = inbox(Keep::Frames, &frames);
        inbox.rewind(Keep::Frames, &|_| false, 64);
        assert_eq!(inbox.frames().cloned().collect::<Vec<_>>(), frames);
    }

    #[test]
    fn what_is_forgotten_takes_no_memory_and_what_waits_is_still_sent() {
        let mut inbox = Inbox::new(Keep::Rows);
        (0..3).for_each(|at| inbox.push(frame(u64::from(at), at, 1)));
        inbox.take();
        assert!(inbox.kept() > 4);
        inbox.forget();
        assert_eq!((inbox.kept(), inbox.is_whole(), inbox.due()), (0, false, Some(1)));
        assert_eq!(
            [inbox.take(), inbox.take(), inbox.take()].map(|frame| frame.map(|f| f.number)),
            [Some(1), Some(2), None]
        );
        assert!(inbox.has(2));
    }
}
