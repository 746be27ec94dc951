//! Bytes to frames: a push parser over a buffer that the caller owns.
//!
//! Read into [`spare`](Decoder::spare), tell [`commit`](Decoder::commit) how much came, take frames with
//! [`next`](Decoder::next) until it gives `None`. All progress is in the decoder, so a read may be cancelled at any point.
//! A header is checked as soon as its 24 bytes are in, before the decoder asks for more. The first error is final: the
//! decoder gives it for ever, because after it no byte can be trusted to start a frame.

use core::fmt;

use crate::header::{Parsed, parse};
use crate::{Header, HeaderError, Limits};

/// Finds frames in a stream of bytes.
///
/// ```
/// # let mut buffer = [0; 64];
/// # let ping = syn1_core::encode_control(&syn1_core::Control::Ping(7), &mut buffer).unwrap();
/// use syn1_core::{Decoder, Header, Kind, Limits};
///
/// let mut decoder = Decoder::new([0; Header::LEN + 1024], Limits::handshake());
/// let mut kinds = Vec::new();
/// for piece in ping.chunks(5) {
///     decoder.spare()[..piece.len()].copy_from_slice(piece);
///     decoder.commit(piece.len())?;
///     while let Some(frame) = decoder.next()? {
///         kinds.push(frame.header.kind);
///     }
/// }
/// decoder.finish()?;
/// assert_eq!(kinds, [Kind::Control]);
/// # Ok::<(), syn1_core::DecodeError>(())
/// ```
#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Decoder<B> {
    buffer: B,
    /// The bytes of `buffer` that hold input not yet consumed.
    start: usize,
    end: usize,
    /// Bytes of an ignorable frame still to pass over.
    skip: usize,
    limits: Limits,
    failed: Option<DecodeError>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Decoder<B> {
    /// A decoder at the start of a stream. `buffer` must hold the longest frame: a header and
    /// [`Limits::max_payload`] bytes.
    ///
    /// ```
    /// use syn1_core::{Decoder, Header, Limits};
    ///
    /// // An array, a slice or a `Vec`, for control messages and payloads of up to 4096 bytes.
    /// let decoder = Decoder::new([0; Header::LEN + 4096], Limits::handshake());
    /// ```
    pub const fn new(buffer: B, limits: Limits) -> Self {
        Self { buffer, start: 0, end: 0, skip: 0, limits, failed: None }
    }

    /// What frames must obey from the next one on.
    ///
    /// ```
    /// use syn1_core::{Decoder, Flags, Header, Limits};
    ///
    /// let mut decoder = Decoder::new([0; Header::LEN + 4096], Limits::handshake());
    /// // The model is known now.
    /// let flags = Flags::NONE;
    /// decoder.set_limits(Limits { max_payload: 4096, max_rows: 8, width: 64, vocab: 1000, flags });
    /// ```
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where the next bytes of the stream go. Not empty after [`next`](Self::next) has given `None`.
    ///
    /// ```
    /// use syn1_core::{Decoder, Header, Limits};
    ///
    /// let mut decoder = Decoder::new([0; Header::LEN + 1024], Limits::handshake());
    /// assert_eq!(decoder.spare().len(), Header::LEN + 1024);
    /// ```
    pub fn spare(&mut self) -> &mut [u8] {
        let buffer = self.buffer.as_mut();
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.end <= buffer.len() {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Says that the first `count` bytes of [`spare`](Self::spare) now hold input.
    ///
    /// ```
    /// use syn1_core::{DecodeError, Decoder, Limits};
    ///
    /// let mut decoder = Decoder::new([0; 100], Limits::handshake());
    /// decoder.commit(10)?;
    /// let overcommitted = decoder.commit(100);
    /// assert_eq!(overcommitted, Err(DecodeError::Overcommitted { count: 100, offered: 90 }));
    /// # Ok::<(), syn1_core::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// `count` is more than `spare` offered, or the decoder has failed before.
    pub fn commit(&mut self, count: usize) -> Result<(), DecodeError> {
        self.alive()?;
        let offered = self.buffer.as_ref().len().saturating_sub(self.end);
        if count > offered {
            return self.fail(DecodeError::Overcommitted { count, offered });
        }
        self.end += count;
        Ok(())
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// ```
    /// # let mut buffer = [0; 64];
    /// # let ping = syn1_core::encode_control(&syn1_core::Control::Ping(7), &mut buffer).unwrap();
    /// use syn1_core::{Control, Decoder, Limits};
    ///
    /// let mut decoder = Decoder::new([0; 100], Limits::handshake());
    /// assert_eq!(decoder.next()?, None);
    /// decoder.spare()[..ping.len()].copy_from_slice(ping);
    /// decoder.commit(ping.len())?;
    /// let frame = decoder.next()?.expect("the frame is whole");
    /// assert_eq!(Control::decode(frame.payload)?, Control::Ping(7));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A header that breaks a rule, or a frame longer than the buffer.
    #[allow(clippy::should_implement_trait, reason = "frames borrow from the decoder, which Iterator can't say")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        match self.poll()? {
            Some(complete) => Ok(Some(self.take(complete))),
            None => Ok(None),
        }
    }

    /// Whether a whole frame is there, without borrowing it: for loops that read until there is one and then return it.
    ///
    /// ```
    /// use syn1_core::{DecodeError, Decoder, Frame};
    ///
    /// /// Reads until a frame is there, which borrows the decoder only once it is.
    /// fn receive<'d>(
    ///     decoder: &'d mut Decoder<Vec<u8>>,
    ///     mut read: impl FnMut(&mut [u8]) -> usize,
    /// ) -> Result<Frame<'d>, DecodeError> {
    ///     let complete = loop {
    ///         if let Some(complete) = decoder.poll()? {
    ///             break complete;
    ///         }
    ///         let count = read(decoder.spare());
    ///         decoder.commit(count)?;
    ///     };
    ///     Ok(decoder.take(complete))
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn poll(&mut self) -> Result<Option<Complete>, DecodeError> {
        Ok(self.advance()?.ok().map(Complete))
    }

    /// The complete frame at the front, or how many bytes what stands there needs: none where nothing does.
    fn advance(&mut self) -> Result<Result<Header, usize>, DecodeError> {
        self.alive()?;
        loop {
            // SPEC 7.1: progress lies in `self`, whatever came at a time.
            let skipped = self.skip.min(self.end.saturating_sub(self.start));
            self.start += skipped;
            self.skip -= skipped;
            let have = self.buffer.as_ref().len();
            let held = self.buffer.as_ref().get(self.start..self.end).unwrap_or_default();
            let Some((bytes, payload)) = held.split_first_chunk() else {
                let need = if held.is_empty() { self.skip } else { Header::LEN };
                return if have < Header::LEN { self.too_long(Header::LEN, have) } else { Ok(Err(need)) };
            };
            // SPEC 1.15
            match parse(bytes, &self.limits) {
                Ok(Parsed::Frame(header)) if header.frame_len() > have => {
                    // SPEC 7.5
                    return self.too_long(header.frame_len(), have);
                }
                Ok(Parsed::Frame(header)) if header.frame_len() - Header::LEN > payload.len() => {
                    return Ok(Err(header.frame_len()));
                }
                Ok(Parsed::Frame(header)) => return Ok(Ok(header)),
                Ok(Parsed::Skip { payload_len }) => {
                    self.start += Header::LEN;
                    self.skip = usize::try_from(payload_len).unwrap_or(usize::MAX);
                }
                Err(error) => return self.fail(DecodeError::Header(error)),
            }
        }
    }

    /// Takes the frame that [`poll`](Self::poll) has found.
    ///
    /// ```
    /// # let mut buffer = [0; 64];
    /// # let ping = syn1_core::encode_control(&syn1_core::Control::Ping(7), &mut buffer).unwrap();
    /// use syn1_core::{Decoder, Limits};
    ///
    /// let mut decoder = Decoder::new([0; 100], Limits::handshake());
    /// decoder.spare()[..ping.len()].copy_from_slice(ping);
    /// decoder.commit(ping.len())?;
    /// let complete = decoder.poll()?.expect("the frame is whole");
    /// assert_eq!(decoder.take(complete).payload, [2, 7]);
    /// # Ok::<(), syn1_core::DecodeError>(())
    /// ```
    pub fn take(&mut self, complete: Complete) -> Frame<'_> {
        let Complete(header) = complete;
        let (start, len) = (self.start, header.frame_len());
        self.start = start.saturating_add(len).min(self.end);
        let payload = self.buffer.as_ref().get(start + Header::LEN..self.start).unwrap_or_default();
        Frame { header, payload }
    }

    /// Says that the stream has ended; call it after [`next`](Self::next) has given `None`.
    ///
    /// ```
    /// use syn1_core::{DecodeError, Decoder, Header, Limits};
    ///
    /// let mut decoder = Decoder::new([0; 100], Limits::handshake());
    /// decoder.finish()?;
    /// decoder.spare()[..4].copy_from_slice(b"SYN1");
    /// decoder.commit(4)?;
    /// assert_eq!(decoder.next()?, None);
    /// assert_eq!(decoder.finish(), Err(DecodeError::Torn { have: 4, need: Header::LEN }));
    /// # Ok::<(), syn1_core::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// The stream ended inside a frame, or the decoder has failed before.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        let Some(need) = self.advance()?.err().filter(|need| *need > 0) else { return Ok(()) };
        // SPEC 7.3
        self.fail(DecodeError::Torn { have: self.end.saturating_sub(self.start), need })
    }

    fn alive(&self) -> Result<(), DecodeError> {
        // SPEC 7.4
        self.failed.map_or(Ok(()), Err)
    }

    fn too_long<T>(&mut self, need: usize, have: usize) -> Result<T, DecodeError> {
        self.fail(DecodeError::Buffer { need, have })
    }

    fn fail<T>(&mut self, error: DecodeError) -> Result<T, DecodeError> {
        self.failed = Some(error);
        Err(error)
    }
}

/// The header of a frame that lies whole in a [`Decoder`]'s buffer.
///
/// ```
/// use syn1_core::{Decoder, Limits};
///
/// let mut decoder = Decoder::new([0; 100], Limits::handshake());
/// assert_eq!(decoder.poll()?, None, "nothing has come");
/// # Ok::<(), syn1_core::DecodeError>(())
/// ```
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Complete(Header);

/// A checked header and its payload.
///
/// ```
/// # let mut buffer = [0; 64];
/// # let ping = syn1_core::encode_control(&syn1_core::Control::Ping(7), &mut buffer).unwrap();
/// use syn1_core::{Control, Frame, Limits};
///
/// let Frame { header, payload } = Frame::from_message(ping, &Limits::handshake())?.expect("not to ignore");
/// assert_eq!(header.payload_len as usize, payload.len());
/// assert_eq!(Control::decode(payload)?, Control::Ping(7));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Frame<'a> {
    /// What the payload is.
    pub header: Header,
    /// `header.payload_len` bytes.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that a message of a message transport holds, or `None` for one to ignore.
    ///
    /// ```
    /// use syn1_core::{DecodeError, Frame, Header, Limits};
    ///
    /// let limits = Limits::handshake();
    /// // A kind with bit 7 set that this version does not know is passed over.
    /// let mut message = Header::control(0).emit();
    /// message[4] = 0x99;
    /// assert_eq!(Frame::from_message(&message, &limits), Ok(None));
    /// let cut = Frame::from_message(&message[..10], &limits);
    /// assert_eq!(cut, Err(DecodeError::Torn { have: 10, need: Header::LEN }));
    /// ```
    ///
    /// # Errors
    /// A header that breaks a rule, or a message that is not exactly one frame.
    pub fn from_message(message: &'a [u8], limits: &Limits) -> Result<Option<Self>, DecodeError> {
        let have = message.len();
        let (bytes, payload) = message.split_first_chunk().ok_or(DecodeError::Torn { have, need: Header::LEN })?;
        match parse(bytes, limits).map_err(DecodeError::Header)? {
            Parsed::Skip { .. } => Ok(None),
            // SPEC 7.2
            Parsed::Frame(header) if header.frame_len() == have => Ok(Some(Self { header, payload })),
            Parsed::Frame(header) => Err(DecodeError::Torn { have, need: header.frame_len() }),
        }
    }
}

/// Why bytes are not frames.
///
/// ```
/// use syn1_core::{DecodeError, Frame, HeaderError, Limits};
///
/// let error = Frame::from_message(b"GET / HTTP/1.1\r\nHost: a.example", &Limits::handshake()).unwrap_err();
/// assert_eq!(error, DecodeError::Header(HeaderError::Magic(*b"GET ")));
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum DecodeError {
    /// A header breaks a rule.
    Header(HeaderError),
    /// The stream or message ends inside a frame.
    Torn {
        /// Bytes of the frame that came.
        have: usize,
        /// Bytes that the frame has (its header's, as long as that is not complete).
        need: usize,
    },
    /// A frame is longer than the buffer.
    Buffer {
        /// Bytes of the frame.
        need: usize,
        /// Bytes of the buffer.
        have: usize,
    },
    /// The caller committed more bytes than were offered.
    Overcommitted {
        /// Bytes committed.
        count: usize,
        /// Bytes offered.
        offered: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header(error) => error.fmt(f),
            Self::Torn { have, need } => write!(f, "the link ended inside a frame, after {have} of {need} bytes"),
            Self::Buffer { need, have } => {
                write!(f, "a frame of {need} bytes does not fit the receive buffer of {have}: make it larger")
            }
            Self::Overcommitted { count, offered } => write!(f, "{count} bytes committed where {offered} were offered"),
        }
    }
}

impl core::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Header(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Codec, Flags, encode_frame};

    const LIMITS: Limits = Limits { max_payload: 400, max_rows: 4, width: 24, vocab: 100, flags: Flags::NONE };

    type Owned = (Header, Vec<u8>);

    fn frame() -> impl Strategy<Value = Owned> {
        let header = prop_oneof![
            (0..300u32).prop_map(Header::control),
            (any::<(u32, u8, u16)>(), 1..5u16).prop_map(|((r, e, p), rows)| Header::tokens(r, e, p.into(), rows)),
            (any::<(u32, u8, u16)>(), 1..4u16).prop_map(|((r, e, p), rows)| Header::activation(
                r,
                e,
                p.into(),
                Codec::F32,
                rows,
                24
            )
            .unwrap()),
            any::<(u32, u8, u32)>().prop_map(|(r, e, p)| Header::acknowledge(r, e, p)),
        ];
        header.prop_flat_map(|header| (Just(header), prop::collection::vec(any::<u8>(), header.payload_len as usize)))
    }

    fn bytes((header, payload): &Owned) -> Vec<u8> {
        let mut out = vec![0; header.frame_len()];
        encode_frame(header, payload, &mut out).unwrap();
        out
    }

    fn decode(
        stream: &[u8],
        mut chunks: impl Iterator<Item = usize>,
        buffer: usize,
    ) -> Result<Vec<Owned>, DecodeError> {
        let mut decoder = Decoder::new(vec![0; buffer], LIMITS);
        let (mut frames, mut rest) = (Vec::new(), stream);
        loop {
            while let Some(frame) = decoder.next()? {
                frames.push((frame.header, frame.payload.to_vec()));
            }
            if rest.is_empty() {
                return decoder.finish().map(|()| frames);
            }
            let spare = decoder.spare();
            let count = chunks.next().unwrap().clamp(1, rest.len()).min(spare.len());
            assert!(count > 0, "a decoder that wants more must have room");
            spare[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            decoder.commit(count)?;
        }
    }

    proptest! {
        #[test]
        fn the_same_bytes_give_the_same_frames_in_any_chunks(
            frames in prop::collection::vec((frame(), any::<bool>()), 0..8),
            chunks in prop::collection::vec(1..500usize, 1..20),
            buffer in 424..1000usize,
        ) {
            let mut stream = Vec::new();
            for (frame, after_an_ignorable) in &frames {
                if *after_an_ignorable {
                    let mut skipped = bytes(&(Header::control(777), vec![9; 777]));
                    skipped[4] = 0xc0;
                    stream.extend(skipped);
                }
                stream.extend(bytes(frame));
            }
            let expected: Vec<Owned> = frames.into_iter().map(|(frame, _)| frame).collect();
            prop_assert_eq!(decode(&stream, chunks.into_iter().cycle(), buffer), Ok(expected));
        }

        #[test]
        fn garbage_never_panics_and_fails_for_ever(
            garbage in prop::collection::vec(any::<u8>(), 24..200),
            start in prop::sample::select(vec![&b"SYN1"[..], b"SYN1\x04", b"SYN1\x01\0\x08", b""]),
        ) {
            let mut stream = [start, &garbage].concat();
            stream.truncate(200);
            let mut decoder = Decoder::new([0; 424], LIMITS);
            decoder.spare()[..stream.len()].copy_from_slice(&stream);
            decoder.commit(stream.len()).unwrap();
            let error = loop {
                match decoder.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break decoder.finish().err(),
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = error {
                prop_assert_eq!(decoder.next(), Err(error));
                prop_assert_eq!(decoder.commit(0), Err(error));
                prop_assert_eq!(decoder.finish(), Err(error));
            }
        }
    }

    #[test]
    fn the_end_of_a_stream_says_what_is_missing() {
        let whole = bytes(&(Header::tokens(1, 0, 0, 2), vec![0; 8]));
        let all_at_once = || core::iter::repeat(usize::MAX);
        for end in 0..=whole.len() {
            let expected = match end {
                0 => Ok(0),
                1..24 => Err(DecodeError::Torn { have: end, need: 24 }),
                24..32 => Err(DecodeError::Torn { have: end, need: 32 }),
                _ => Ok(1),
            };
            assert_eq!(decode(&whole[..end], all_at_once(), 424).map(|frames| frames.len()), expected);
        }
        let mut ignorable = bytes(&(Header::control(100), vec![0; 100]));
        ignorable[4] = 0xff;
        let cut = decode(&ignorable[..84], all_at_once(), 424);
        assert_eq!(cut, Err(DecodeError::Torn { have: 0, need: 40 }));
    }

    #[test]
    fn a_frame_that_the_buffer_can_not_hold_is_an_error_before_its_payload() {
        let header = Header::control(401);
        assert_eq!(
            decode(&header.emit(), core::iter::repeat(1), 424),
            Err(DecodeError::Buffer { need: 425, have: 424 })
        );
        let mut tiny = Decoder::new([0; 23], LIMITS);
        assert_eq!(tiny.next(), Err(DecodeError::Buffer { need: 24, have: 23 }));
    }

    #[test]
    fn new_limits_apply_to_frames_already_in_the_buffer() {
        let stream = [bytes(&(Header::control(1), vec![0])), bytes(&(Header::tokens(0, 0, 0, 1), vec![0; 4]))].concat();
        let mut decoder = Decoder::new([0; 424], Limits::handshake());
        decoder.spare()[..stream.len()].copy_from_slice(&stream);
        decoder.commit(stream.len()).unwrap();
        assert!(decoder.next().unwrap().is_some());
        decoder.set_limits(LIMITS);
        assert_eq!(decoder.next().unwrap().unwrap().header, Header::tokens(0, 0, 0, 1));
    }

    #[test]
    fn committing_more_than_was_offered_is_an_error() {
        let mut decoder = Decoder::new([0; 30], LIMITS);
        assert_eq!(decoder.commit(31), Err(DecodeError::Overcommitted { count: 31, offered: 30 }));
    }

    #[test]
    fn a_message_is_exactly_one_frame() {
        let mut message = bytes(&(Header::tokens(1, 0, 0, 2), vec![7; 8]));
        let frame = Frame { header: Header::tokens(1, 0, 0, 2), payload: &[7; 8] };
        assert_eq!(Frame::from_message(&message, &LIMITS), Ok(Some(frame)));
        for end in 0..32 {
            let need = if end < 24 { 24 } else { 32 };
            assert_eq!(Frame::from_message(&message[..end], &LIMITS), Err(DecodeError::Torn { have: end, need }));
        }
        message.push(0);
        assert_eq!(Frame::from_message(&message, &LIMITS), Err(DecodeError::Torn { have: 33, need: 32 }));
        message[4] = 0x81;
        assert_eq!(Frame::from_message(&message, &LIMITS), Ok(None));
    }
}
