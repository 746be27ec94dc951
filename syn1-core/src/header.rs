//! The 24 bytes in front of every payload.
//!
//! ```text
//!  0 magic "SYN" + major version | 4 kind u8 | 5 flags u8 | 6 codec u8 | 7 epoch u8
//!  8 position u32 | 12 request u32 | 16 payload_len u32 | 20 rows u16 | 22 cols u16        (little endian)
//! ```
//! [`parse`] checks every field against the others and against the receiver's [`Limits`], so whoever holds a [`Header`]
//! from the wire can trust its shape.

use core::fmt;

use crate::codec::{Codec, CodecSet, encoded_len};
use crate::limits::MAX_CONTROL;
use crate::output::logits_grid;
use crate::{Flags, Form, HAS_ROOM, HeaderError, Limits};

/// What a frame is, for which request and where in it.
///
/// ```
/// use syn1_core::{Codec, Flags, Header, Kind};
///
/// let header = Header::activation(1, 0, 7, Codec::Q8, 2, 768).expect("two rows are short");
/// assert_eq!((header.kind, header.flags), (Kind::Activation, Flags::QUANTIZED));
/// assert_eq!(header.payload_len, 2 * (36 + 768));
/// assert_eq!(header.emit()[..4], *b"SYN1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Header {
    /// What the payload means.
    pub kind: Kind,
    /// How the payload was made.
    pub flags: Flags,
    /// How the payload's numbers are written.
    pub codec: Codec,
    /// The incarnation of the request's route; a frame of an older one is dropped by whoever gets it.
    pub epoch: u8,
    /// Position of the first row in the request's context. The receiver first truncates its KV cache to it.
    pub position: u32,
    /// Which request, among those open on this link.
    pub request: u32,
    /// Bytes after the header.
    pub payload_len: u32,
    /// Positions in the payload.
    pub rows: u16,
    /// Numbers per position.
    pub cols: u16,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 24;

    /// The header of a control message of `len` bytes.
    ///
    /// ```
    /// use syn1_core::{Header, Kind};
    ///
    /// assert_eq!(Header::control(10).kind, Kind::Control);
    /// ```
    #[must_use]
    pub const fn control(len: u32) -> Self {
        Self { payload_len: len, ..Self::empty(Kind::Control, Codec::Bytes, 0, 0, 0) }
    }

    /// The header of `rows` token ids, the first of which stands at `position`.
    ///
    /// ```
    /// let header = syn1_core::Header::tokens(1, 0, 0, 5);
    /// assert_eq!((header.rows, header.payload_len), (5, 20));
    /// ```
    #[must_use]
    pub const fn tokens(request: u32, epoch: u8, position: u32, rows: u16) -> Self {
        let payload_len = 4 * rows as u32;
        Self { rows, cols: 1, payload_len, ..Self::empty(Kind::Tokens, Codec::Ids, request, epoch, position) }
    }

    /// The header of `rows` activations of `cols` elements; `None` when `codec` is not one for activations or the payload
    /// passes `u32`.
    ///
    /// ```
    /// use syn1_core::{Codec, Header};
    ///
    /// assert!(Header::activation(1, 0, 7, Codec::F16, 1, 768).is_some());
    /// assert!(Header::activation(1, 0, 7, Codec::Ids, 1, 768).is_none());
    /// ```
    #[must_use]
    pub fn activation(request: u32, epoch: u8, position: u32, codec: Codec, rows: u16, cols: u16) -> Option<Self> {
        let flags = if codec.is_quantized() { Flags::QUANTIZED } else { Flags::NONE };
        let header = Self { flags, ..Self::empty(Kind::Activation, codec, request, epoch, position) };
        codec.is_activation().then_some(header)?.shaped(rows, cols)
    }

    /// The header of the `k` most likely tokens after each of `rows` positions; `None` when the payload passes `u32`.
    ///
    /// ```
    /// let header = syn1_core::Header::top(1, 0, 7, 1, 40).expect("short");
    /// assert_eq!(header.payload_len, 8 + 40 * 8);
    /// ```
    #[must_use]
    pub fn top(request: u32, epoch: u8, position: u32, rows: u16, k: u16) -> Option<Self> {
        Self::empty(Kind::Output, Codec::Top, request, epoch, position).shaped(rows, k)
    }

    /// The header of all `vocab` logits after one position, laid out by [`logits_grid`]; `None` when they pass `u32`
    /// bytes.
    ///
    /// ```
    /// let header = syn1_core::Header::full(1, 0, 7, 100_000).expect("short");
    /// assert_eq!((header.rows, header.cols), (2, 50_000));
    /// ```
    #[must_use]
    pub fn full(request: u32, epoch: u8, position: u32, vocab: u32) -> Option<Self> {
        let (rows, cols) = logits_grid(vocab);
        Self::empty(Kind::Output, Codec::F32, request, epoch, position).shaped(rows, cols)
    }

    /// The frame that says: positions below `position` are in the KV cache.
    ///
    /// ```
    /// let header = syn1_core::Header::acknowledge(1, 0, 32);
    /// assert_eq!((header.position, header.payload_len), (32, 0));
    /// ```
    #[must_use]
    pub const fn acknowledge(request: u32, epoch: u8, position: u32) -> Self {
        Self::empty(Kind::Output, Codec::Top, request, epoch, position)
    }

    /// The same header, marked as that of rows of tokens that are not accepted yet.
    ///
    /// ```
    /// use syn1_core::{Flags, Header};
    ///
    /// assert!(Header::tokens(1, 0, 8, 4).predicted().flags.contains(Flags::PREDICTED));
    /// ```
    #[must_use]
    pub const fn predicted(self) -> Self {
        Self { flags: self.flags.union(Flags::PREDICTED), ..self }
    }

    /// Whether this is an [`acknowledge`](Self::acknowledge) frame.
    ///
    /// ```
    /// use syn1_core::Header;
    ///
    /// assert!(Header::acknowledge(1, 0, 32).is_acknowledge());
    /// assert!(!Header::tokens(1, 0, 0, 5).is_acknowledge());
    /// ```
    #[must_use]
    pub fn is_acknowledge(&self) -> bool {
        self.kind == Kind::Output && self.codec == Codec::Top && self.rows == 0
    }

    /// Bytes of the whole frame, saturating where `usize` is too small for it.
    ///
    /// ```
    /// assert_eq!(syn1_core::Header::tokens(1, 0, 0, 5).frame_len(), 24 + 20);
    /// ```
    #[must_use]
    pub fn frame_len(&self) -> usize {
        usize::try_from(self.payload_len).unwrap_or(usize::MAX).saturating_add(Self::LEN)
    }

    /// The bytes of this header. [`parse`] gives the same header back if its limits admit it.
    ///
    /// ```
    /// let bytes = syn1_core::Header::tokens(0x11223344, 0, 7, 5).emit();
    /// assert_eq!((&bytes[..5], &bytes[12..16]), (&b"SYN1\x01"[..], &[0x44, 0x33, 0x22, 0x11][..]));
    /// ```
    #[must_use]
    pub const fn emit(&self) -> [u8; Self::LEN] {
        // SPEC 1.1
        let [p0, p1, p2, p3] = self.position.to_le_bytes();
        let [q0, q1, q2, q3] = self.request.to_le_bytes();
        let [n0, n1, n2, n3] = self.payload_len.to_le_bytes();
        let ([r0, r1], [c0, c1]) = (self.rows.to_le_bytes(), self.cols.to_le_bytes());
        let (kind, flags, codec, epoch) = (self.kind as u8, self.flags.bits(), self.codec as u8, self.epoch);
        #[rustfmt::skip]
        let bytes = [
            b'S', b'Y', b'N', MAJOR, kind, flags, codec, epoch,
            p0, p1, p2, p3, q0, q1, q2, q3,
            n0, n1, n2, n3, r0, r1, c0, c1,
        ];
        bytes
    }

    const fn empty(kind: Kind, codec: Codec, request: u32, epoch: u8, position: u32) -> Self {
        Self { kind, flags: Flags::NONE, codec, epoch, position, request, payload_len: 0, rows: 0, cols: 0 }
    }

    fn shaped(self, rows: u16, cols: u16) -> Option<Self> {
        let payload_len = encoded_len(self.codec, rows, cols)?;
        Some(Self { payload_len, rows, cols, ..self })
    }
}

/// What a payload means.
///
/// ```
/// use syn1_core::{Header, Kind};
///
/// assert_eq!(Header::acknowledge(1, 0, 32).kind, Kind::Output);
/// assert_eq!(Kind::Control as u8, 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Kind {
    /// Token ids, from the coordinator to the first node of a route.
    Tokens = 1,
    /// The residual stream between two nodes.
    Activation = 2,
    /// Logits or an acknowledgement, from the last node to the coordinator.
    Output = 3,
    /// A [`Control`](crate::Control) message.
    Control = 4,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens",
            Self::Activation => "activation",
            Self::Output => "output",
            Self::Control => "control",
        })
    }
}

/// What 24 bytes announce.
///
/// ```
/// use syn1_core::header::parse;
/// use syn1_core::{Header, Limits, Parsed};
///
/// let mut bytes = Header::control(300).emit();
/// assert_eq!(parse(&bytes, &Limits::handshake())?, Parsed::Frame(Header::control(300)));
/// bytes[4] |= syn1_core::header::IGNORABLE;
/// assert_eq!(parse(&bytes, &Limits::handshake())?, Parsed::Skip { payload_len: 300 });
/// # Ok::<(), syn1_core::HeaderError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Parsed {
    /// A frame that this version knows.
    Frame(Header),
    /// A frame of an unknown kind that its sender marked as ignorable (bit 7 of the kind).
    Skip {
        /// Bytes to pass over.
        payload_len: u32,
    },
}

/// Reads and checks a header.
///
/// ```
/// use syn1_core::header::parse;
/// use syn1_core::{Header, HeaderError, Limits, Parsed};
///
/// let header = Header::control(10);
/// assert_eq!(parse(&header.emit(), &Limits::handshake()), Ok(Parsed::Frame(header)));
/// let mut newer = header.emit();
/// newer[3] = b'2';
/// assert_eq!(parse(&newer, &Limits::handshake()), Err(HeaderError::Version(b'2')));
/// ```
///
/// # Errors
/// The first rule that is broken; nothing about the payload needs to be looked at to know it.
pub fn parse(bytes: &[u8; Header::LEN], limits: &Limits) -> Result<Parsed, HeaderError> {
    let ([magic, [kind, flags, codec, epoch], position, request, payload_len, [r0, r1, c0, c1]], []) =
        bytes.as_chunks()
    else {
        return Err(HeaderError::Magic([0; 4]));
    };
    if *magic != [b'S', b'Y', b'N', MAJOR] {
        let [s, y, n, major] = *magic;
        // SPEC 1.2
        // SPEC 1.3
        return Err(if [s, y, n] == *b"SYN" { HeaderError::Version(major) } else { HeaderError::Magic(*magic) });
    }
    let (kind, flags, codec) = (*kind, *flags, *codec);
    let payload_len = u32::from_le_bytes(*payload_len);
    let kind = match kind {
        1 => Kind::Tokens,
        2 => Kind::Activation,
        3 => Kind::Output,
        4 => Kind::Control,
        // SPEC 1.5
        _ if kind & IGNORABLE != 0 => {
            let limit = limits.max_payload.max(MAX_CONTROL);
            return if payload_len <= limit {
                Ok(Parsed::Skip { payload_len })
            } else {
                Err(HeaderError::TooLong { payload_len, limit })
            };
        }
        // SPEC 1.4
        _ => return Err(HeaderError::Kind(kind)),
    };
    let header = Header {
        kind,
        // SPEC 2.1
        flags: Flags::from_bits(flags).ok_or(HeaderError::ReservedFlags(flags))?,
        // SPEC 3.2
        codec: Codec::from_byte(codec).ok_or(HeaderError::Codec(codec))?,
        epoch: *epoch,
        position: u32::from_le_bytes(*position),
        request: u32::from_le_bytes(*request),
        payload_len,
        rows: u16::from_le_bytes([*r0, *r1]),
        cols: u16::from_le_bytes([*c0, *c1]),
    };
    check(&header, limits)?;
    Ok(Parsed::Frame(header))
}

fn check(header: &Header, limits: &Limits) -> Result<(), HeaderError> {
    let Header { kind, flags, codec, payload_len, rows, cols, .. } = *header;
    let (meaningful, codecs) = match kind {
        Kind::Tokens => (Flags::PREDICTED, const { CodecSet::of(&[Codec::Ids]) }),
        Kind::Activation => (Flags::NEGOTIABLE, CodecSet::ACTIVATIONS),
        Kind::Output => (Flags::PREDICTED, const { CodecSet::of(&[Codec::Top, Codec::F32]) }),
        Kind::Control => (Flags::NONE, const { CodecSet::of(&[Codec::Bytes]) }),
    };
    check_flags(header, meaningful, limits)?;
    // SPEC 1.6
    if !codecs.contains(codec) {
        return Err(HeaderError::CodecOfKind { kind, codec });
    }
    if kind == Kind::Control {
        return check_control(header);
    }
    // SPEC 2.6
    let flags = flags.intersect(Flags::DELTA.union(Flags::COMPRESSED));
    let form = if flags.is_empty() { Some(Form::plain(codec)) } else { Form::new(codec, flags) };
    let form = form.ok_or(HeaderError::FlagsOfCodec { flags, codec })?;
    // SPEC 1.14
    if limits.width == 0 || limits.vocab == 0 {
        return Err(HeaderError::NoModel(kind));
    }
    check_shape(header, limits)?;
    // The general way serves every frame; most have no flags, and a bigger machine has room for a short cut.
    let plain = || encoded_len(codec, rows, cols).map(|len| (len, len));
    let lengths = if flags.is_empty() && HAS_ROOM { plain() } else { form.lengths(rows, cols) };
    let limit = limits.max_payload;
    let (least, most) = lengths.ok_or(HeaderError::TooLong { payload_len, limit })?;
    // SPEC 1.10
    if payload_len < least || payload_len > most {
        return Err(HeaderError::Length { payload_len, len: if payload_len < least { least } else { most } });
    }
    // SPEC 1.11
    if payload_len <= limit { Ok(()) } else { Err(HeaderError::TooLong { payload_len, limit }) }
}

fn check_flags(header: &Header, meaningful: Flags, limits: &Limits) -> Result<(), HeaderError> {
    let Header { kind, flags, codec, .. } = *header;
    // SPEC 2.2
    if flags.contains(Flags::QUANTIZED) != codec.is_quantized() {
        return Err(HeaderError::Quantized { flags, codec });
    }
    // SPEC 2.3
    let asked = flags.without(Flags::QUANTIZED);
    let unknown = asked.without(limits.flags);
    if !unknown.is_empty() {
        return Err(HeaderError::NotNegotiated(unknown));
    }
    // SPEC 2.4
    let misplaced = asked.without(meaningful);
    if misplaced.is_empty() { Ok(()) } else { Err(HeaderError::FlagsOfKind { kind, flags: misplaced }) }
}

fn check_control(header: &Header) -> Result<(), HeaderError> {
    // SPEC 1.12
    if *header != Header::control(header.payload_len) {
        return Err(HeaderError::ControlFields);
    }
    // SPEC 1.13
    let (payload_len, limit) = (header.payload_len, MAX_CONTROL);
    if payload_len <= limit { Ok(()) } else { Err(HeaderError::TooLong { payload_len, limit }) }
}

// Apart from `parse`, which would otherwise spill what it holds: a microcontroller has few registers.
#[cfg_attr(target_os = "none", inline(never))]
fn check_shape(header: &Header, limits: &Limits) -> Result<(), HeaderError> {
    let Header { kind, codec, rows, cols, position, .. } = *header;
    // SPEC 1.7
    let (full, fits) = match kind {
        Kind::Activation => (false, cols == limits.width),
        Kind::Output if codec == Codec::F32 => (true, (rows, cols) == logits_grid(limits.vocab)),
        // An acknowledgement.
        Kind::Output if (rows, cols) == (0, 0) => return Ok(()),
        Kind::Output => (false, cols > 0 && u32::from(cols) <= limits.vocab),
        Kind::Tokens | Kind::Control => (false, cols == 1),
    };
    let positions = if full { 1 } else { rows };
    // SPEC 1.8
    if !full && !(1..=limits.max_rows).contains(&rows) {
        return Err(HeaderError::Rows { rows, limit: limits.max_rows });
    }
    // SPEC 1.9
    if position.checked_add(u32::from(positions)).is_none() {
        return Err(HeaderError::Position { position, rows });
    }
    if fits { Ok(()) } else { Err(HeaderError::Shape { kind, rows, cols }) }
}

/// The protocol's major version, the fourth byte of the magic.
pub const MAJOR: u8 = b'1';

/// The bit of a kind that lets a receiver pass over a frame it does not know.
pub const IGNORABLE: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { max_payload: 1 << 20, max_rows: 64, width: 768, vocab: 100_000, flags: Flags::NONE };

    fn q8() -> Header {
        Header::activation(0x0102_0304, 5, 0x0607_0809, Codec::Q8, 2, 768).unwrap()
    }

    fn refused(header: Header) -> HeaderError {
        parse(&header.emit(), &LIMITS).unwrap_err()
    }

    #[test]
    fn bytes_lie_where_the_format_says() {
        #[rustfmt::skip]
        let golden = [
            b'S', b'Y', b'N', b'1', 2, 1, 3, 5,
            0x09, 0x08, 0x07, 0x06, 0x04, 0x03, 0x02, 0x01,
            0x48, 0x06, 0, 0, 2, 0, 0x00, 0x03,
        ];
        assert_eq!(q8().payload_len, 2 * 804);
        assert_eq!(q8().emit(), golden);
    }

    #[test]
    fn every_constructor_gives_what_the_parser_accepts() {
        let headers = [
            Header::control(MAX_CONTROL),
            Header::tokens(1, 2, 3, 64),
            Header::activation(1, 2, 3, Codec::F32, 64, 768).unwrap(),
            Header::activation(1, 2, 3, Codec::F16, 1, 768).unwrap(),
            q8(),
            Header::top(1, 2, 3, 64, 40).unwrap(),
            Header::full(1, 2, 3, 100_000).unwrap(),
            Header::acknowledge(1, 2, 3),
        ];
        for header in headers {
            assert_eq!(parse(&header.emit(), &LIMITS), Ok(Parsed::Frame(header)));
        }
    }

    #[test]
    fn shapes_that_pass_u32_bytes_have_no_header() {
        assert_eq!(Header::activation(0, 0, 0, Codec::F32, u16::MAX, u16::MAX), None);
        assert_eq!(Header::top(0, 0, 0, u16::MAX, u16::MAX), None);
        assert_eq!(Header::full(0, 0, 0, u32::MAX), None);
        assert_eq!(Header::activation(0, 0, 0, Codec::Ids, 1, 1), None);
    }

    #[test]
    fn another_protocol_and_another_version_are_told_apart() {
        let mut bytes = q8().emit();
        bytes[3] = b'2';
        assert_eq!(parse(&bytes, &LIMITS), Err(HeaderError::Version(b'2')));
        bytes[0] = b'G';
        assert_eq!(parse(&bytes, &LIMITS), Err(HeaderError::Magic(*b"GYN2")));
    }

    #[test]
    fn unknown_kinds_are_skipped_only_if_ignorable_and_bounded() {
        let mut bytes = Header::control(1 << 20).emit();
        bytes[5..16].fill(0xff);
        bytes[4] = 0x85;
        assert_eq!(parse(&bytes, &LIMITS), Ok(Parsed::Skip { payload_len: 1 << 20 }));
        assert_eq!(
            parse(&bytes, &Limits::handshake()),
            Err(HeaderError::TooLong { payload_len: 1 << 20, limit: MAX_CONTROL })
        );
        for kind in [0, 5, 0x7f] {
            bytes[4] = kind;
            assert_eq!(parse(&bytes, &LIMITS), Err(HeaderError::Kind(kind)));
        }
    }

    #[test]
    fn flags_need_negotiation_and_a_kind_that_has_them() {
        for flag in [Flags::COMPRESSED, Flags::DELTA, Flags::PREDICTED] {
            let payload_len = match flag {
                Flags::COMPRESSED => 1600,
                Flags::DELTA => 2 * 804 + 6,
                _ => 2 * 804,
            };
            let header = Header { flags: q8().flags.union(flag), payload_len, ..q8() };
            assert_eq!(refused(header), HeaderError::NotNegotiated(flag));
            assert!(refused(header).to_string().contains("was not negotiated"));
            let agreed = Limits { flags: flag, ..LIMITS };
            assert_eq!(parse(&header.emit(), &agreed), Ok(Parsed::Frame(header)));
            let control = Header { flags: flag, ..Header::control(0) };
            let misplaced = HeaderError::FlagsOfKind { kind: Kind::Control, flags: flag };
            assert_eq!(parse(&control.emit(), &agreed), Err(misplaced));
        }
        let mut bytes = q8().emit();
        bytes[5] = 16;
        assert_eq!(parse(&bytes, &LIMITS), Err(HeaderError::ReservedFlags(16)));
    }

    #[test]
    fn the_quantized_flag_must_be_the_codecs() {
        assert!(matches!(refused(Header { flags: Flags::NONE, ..q8() }), HeaderError::Quantized { .. }));
        let tokens = Header { flags: Flags::QUANTIZED, ..Header::tokens(0, 0, 0, 1) };
        assert!(matches!(refused(tokens), HeaderError::Quantized { .. }));
    }

    #[test]
    fn each_kind_has_its_codecs() {
        let wrong = Header { codec: Codec::Ids, flags: Flags::NONE, ..q8() };
        assert_eq!(refused(wrong), HeaderError::CodecOfKind { kind: Kind::Activation, codec: Codec::Ids });
        let wrong = Header { codec: Codec::F16, ..Header::full(0, 0, 0, 1).unwrap() };
        assert_eq!(refused(wrong), HeaderError::CodecOfKind { kind: Kind::Output, codec: Codec::F16 });
        let mut bytes = q8().emit();
        bytes[6] = 7;
        assert_eq!(parse(&bytes, &LIMITS), Err(HeaderError::Codec(7)));
    }

    #[test]
    fn control_frames_have_a_length_and_nothing_else() {
        let plain = Header::control(8);
        for odd in [
            Header { epoch: 1, ..plain },
            Header { position: 1, ..plain },
            Header { request: 1, ..plain },
            Header { rows: 1, ..plain },
            Header { cols: 1, ..plain },
        ] {
            assert_eq!(refused(odd), HeaderError::ControlFields);
        }
        let long = Header::control(MAX_CONTROL + 1);
        assert_eq!(refused(long), HeaderError::TooLong { payload_len: MAX_CONTROL + 1, limit: MAX_CONTROL });
    }

    #[test]
    fn data_before_a_model_is_refused() {
        for header in [q8(), Header::tokens(0, 0, 0, 1), Header::acknowledge(0, 0, 0)] {
            assert_eq!(parse(&header.emit(), &Limits::handshake()), Err(HeaderError::NoModel(header.kind)));
        }
    }

    #[test]
    fn shapes_must_be_the_models() {
        assert_eq!(refused(Header::tokens(0, 0, 0, 65)), HeaderError::Rows { rows: 65, limit: 64 });
        assert_eq!(refused(Header::tokens(0, 0, 0, 0)), HeaderError::Rows { rows: 0, limit: 64 });
        assert_eq!(refused(Header::tokens(0, 0, u32::MAX, 1)), HeaderError::Position { position: u32::MAX, rows: 1 });
        for header in [
            Header::activation(0, 0, 0, Codec::F16, 1, 769).unwrap(),
            Header::full(0, 0, 0, 100_002).unwrap(),
            Header::top(0, 0, 0, 1, 0).unwrap(),
        ] {
            assert!(matches!(refused(header), HeaderError::Shape { .. }), "{header:?}");
        }
        let small = Limits { vocab: 39, ..LIMITS };
        assert!(parse(&Header::top(0, 0, 0, 1, 40).unwrap().emit(), &small).is_err());
    }

    #[test]
    fn the_payloads_length_is_the_shapes() {
        let longer = Header { payload_len: 2 * 804 + 1, ..q8() };
        assert_eq!(refused(longer), HeaderError::Length { payload_len: 1609, len: 1608 });
        let tight = Limits { max_payload: 1607, ..LIMITS };
        assert_eq!(parse(&q8().emit(), &tight), Err(HeaderError::TooLong { payload_len: 1608, limit: 1607 }));
    }

    #[test]
    fn a_compressed_payload_is_shorter_than_plain_and_has_its_fixed_parts() {
        let agreed = Limits { flags: Flags::COMPRESSED, ..LIMITS };
        let of = |payload_len| Header { flags: Flags::QUANTIZED.union(Flags::COMPRESSED), payload_len, ..q8() };
        let fixed = 2 * (36 + 1 + 384) + 10;
        for (payload_len, len) in [(fixed - 1, fixed), (1608, 1607)] {
            assert_eq!(parse(&of(payload_len).emit(), &agreed), Err(HeaderError::Length { payload_len, len }));
        }
        for payload_len in [fixed, 1607] {
            assert_eq!(parse(&of(payload_len).emit(), &agreed), Ok(Parsed::Frame(of(payload_len))));
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_emitted_as_it_was(bytes: [u8; 24], known in 1u8..5, codec in 0u8..10, flags in 0u8..16) {
            let limits = Limits { max_payload: u32::MAX, max_rows: u16::MAX, flags: Flags::NEGOTIABLE, ..LIMITS };
            let mut near = bytes;
            near[..4].copy_from_slice(b"SYN1");
            let mut nearer = near;
            nearer[4..7].copy_from_slice(&[known, flags, codec]);
            // The shape that goes with the length, so that frames get through.
            let mut valid = nearer;
            valid[20..].copy_from_slice(&[bytes[20], 0, 0, 3]);
            if let Some(len) = Codec::from_byte(codec).and_then(|codec| encoded_len(codec, u16::from(bytes[20]), 768)) {
                valid[16..20].copy_from_slice(&len.to_le_bytes());
            }
            for bytes in [bytes, near, nearer, valid] {
                if let Ok(Parsed::Frame(header)) = parse(&bytes, &limits) {
                    prop_assert_eq!(header.emit(), bytes);
                }
            }
        }
    }
}
