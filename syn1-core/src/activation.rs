//! Activations to frames and back, in any [`Form`]: what a node or coordinator keeps per request and direction.
//!
//! A plain form needs nothing but the values. Delta needs what the other end has reconstructed so far, and compressed a
//! place for what it compresses: [`Outbound`] and [`Inbound`] hold that in buffers of yours.
//!
//! ```
//! use syn1_core::activation::{Inbound, Outbound, Place};
//! use syn1_core::{Form, Frame};
//!
//! let form = Form::from_name("q8+delta").expect("a form that exists");
//! let mut sender = Outbound::new([0.0; 2 * 16], []);
//! let mut receiver = Inbound::new([0.0; 16]);
//! let mut payload = [0; 64];
//! let mut received = [0.0; 16];
//! for position in 0..5 {
//!     let row: [f32; 16] = core::array::from_fn(|i| (i as f32 + position as f32).sin());
//!     let place = Place { request: 1, epoch: 0, position };
//!     let header = sender.encode(form, place, false, &row, 16, &mut payload)?;
//!     let frame = Frame { header, payload: &payload[..header.payload_len as usize] };
//!     receiver.decode(&frame, &mut received)?;
//!     assert!(row.iter().zip(received).all(|(a, b)| (a - b).abs() < 0.01));
//! }
//! # Ok::<(), syn1_core::CodecError>(())
//! ```

use crate::codec::{self, delta, entropy};
use crate::{CodecError, Flags, Form, Frame, Header, Kind};

/// Where a frame's first row stands.
///
/// ```
/// use syn1_core::Place;
///
/// // The eighth token of request 1, on its first route.
/// let place = Place { request: 1, epoch: 0, position: 7 };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Place {
    /// The request.
    pub request: u32,
    /// The incarnation of the request's route.
    pub epoch: u8,
    /// The position in the request's context.
    pub position: u32,
}

impl Place {
    /// Where the row behind `rows` rows stands.
    fn behind(self, rows: u16) -> Option<Self> {
        Some(Self { position: self.position.checked_add(rows.into())?, ..self })
    }
}

/// The sending end of one request's activations.
///
/// ```
/// use syn1_core::{Form, Outbound, Place};
///
/// // Both buffers are empty where neither delta nor compressed is used.
/// let mut sender = Outbound::new([], []);
/// let form = Form::from_name("q8").expect("a form that exists");
/// let place = Place { request: 1, epoch: 0, position: 7 };
/// let header = sender.encode(form, place, false, &[0.5; 16], 16, &mut [0; 64])?;
/// assert_eq!((header.position, header.payload_len), (7, 36 + 16));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Outbound<R, S> {
    rows: R,
    scratch: S,
    /// Where a row would stand that the reference, at the front of `rows`, can foretell.
    next: Option<Place>,
}

impl<R: AsMut<[f32]>, S: AsMut<[u8]>> Outbound<R, S> {
    /// An end that has sent nothing. `rows` holds two rows (2 x width values) where delta is used, `scratch` a frame's
    /// payload in plain Q8 where compressed is; each may be empty otherwise.
    ///
    /// ```
    /// use syn1_core::Outbound;
    ///
    /// // For delta and compressed, rows of 768 values and frames of up to 4 rows.
    /// let sender = Outbound::new(vec![0.0; 2 * 768], vec![0; 4 * (36 + 768)]);
    /// ```
    pub const fn new(rows: R, scratch: S) -> Self {
        Self { rows, scratch, next: None }
    }

    /// Writes whole rows of `cols` values into `out` and gives the header of the frame, which says what was done:
    /// values that binary16 can't hold go as f32 and without delta, and what compression does not make shorter goes
    /// uncompressed. `out` must hold [`Form::max_len`] bytes, or those of f32.
    ///
    /// `predicted` marks rows of tokens that are not accepted yet.
    ///
    /// ```
    /// # use syn1_core::{Codec, Form, Frame, Inbound, Outbound, Place};
    /// # let place = Place { request: 1, epoch: 0, position: 7 };
    /// # let (row, mut payload) = ([0.5; 16], [0; 64]);
    /// # let mut sender = Outbound::new([0.0; 32], []);
    /// let form = Form::from_name("q8+delta").expect("a form that exists");
    /// let header = sender.encode(form, place, false, &row, 16, &mut payload)?;
    /// assert_eq!(header.payload_len, 4 + 1 + 36 + 16);
    /// // Magnitudes above 65504 go as f32.
    /// let header = sender.encode(form, place, false, &[1e6; 16], 16, &mut payload)?;
    /// assert_eq!((header.codec, header.payload_len), (Codec::F32, 64));
    /// # Ok::<(), syn1_core::CodecError>(())
    /// ```
    ///
    /// # Errors
    /// Values that are not whole rows or not finite, a codec that activations do not travel in, or a buffer that is too
    /// small. The next frame then begins with a key row.
    pub fn encode(
        &mut self,
        form: Form,
        place: Place,
        predicted: bool,
        values: &[f32],
        cols: u16,
        out: &mut [u8],
    ) -> Result<Header, CodecError> {
        let buffers = (self.rows.as_mut(), self.scratch.as_mut());
        let header = outbound(&mut self.next, buffers, form, place, (values, cols), out)?;
        Ok(if predicted { header.predicted() } else { header })
    }
}

/// The receiving end of one request's activations.
///
/// ```
/// # use syn1_core::{Codec, Form, Frame, Inbound, Outbound, Place};
/// # let place = Place { request: 1, epoch: 0, position: 7 };
/// # let (row, mut payload) = ([0.5; 16], [0; 64]);
/// let header = Outbound::new([], []).encode(Form::plain(Codec::F16), place, false, &row, 16, &mut payload)?;
/// let frame = Frame { header, payload: &payload[..header.payload_len as usize] };
/// let mut received = [0.0; 16];
/// Inbound::new([]).decode(&frame, &mut received)?;
/// assert_eq!(received, row);
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Inbound<R> {
    reference: R,
    /// Where a row would stand that the reference can foretell.
    next: Option<Place>,
}

impl<R: AsMut<[f32]>> Inbound<R> {
    /// An end that has received nothing. `reference` holds one row (width values) where delta is used, and may be empty
    /// otherwise.
    ///
    /// ```
    /// use syn1_core::Inbound;
    ///
    /// // For delta with rows of 768 values; `[]` does where it is not used.
    /// let receiver = Inbound::new([0.0; 768]);
    /// ```
    pub const fn new(reference: R) -> Self {
        Self { reference, next: None }
    }

    /// Reads the rows of an activation frame into `out`, which must hold rows x cols values.
    ///
    /// ```
    /// # use syn1_core::{Codec, Form, Frame, Inbound, Outbound, Place};
    /// # let place = Place { request: 1, epoch: 0, position: 7 };
    /// # let (row, mut payload) = ([0.5; 16], [0; 64]);
    /// use syn1_core::CodecError;
    ///
    /// # let form = Form::from_name("q8+delta").expect("a form that exists");
    /// # let mut sender = Outbound::new([0.0; 32], []);
    /// # sender.encode(form, place, false, &row, 16, &mut payload)?;
    /// # let header = sender.encode(form, Place { position: 8, ..place }, false, &row, 16, &mut payload)?;
    /// // The second frame of a stream, whose first one was lost.
    /// let frame = Frame { header, payload: &payload[..header.payload_len as usize] };
    /// let lost = Inbound::new([0.0; 16]).decode(&frame, &mut [0.0; 16]);
    /// assert_eq!(lost, Err(CodecError::Reference));
    /// # Ok::<(), syn1_core::CodecError>(())
    /// ```
    ///
    /// # Errors
    /// A payload that breaks a rule of its form, a delta frame whose previous row is not the one held here
    /// ([`CodecError::Reference`]), or a buffer of another size. `out` then holds unspecified values, and nothing but a
    /// frame that begins with a key row, or is not delta, can be read next.
    pub fn decode(&mut self, frame: &Frame<'_>, out: &mut [f32]) -> Result<(), CodecError> {
        inbound(&mut self.next, self.reference.as_mut(), frame, out)
    }
}

fn outbound(
    next: &mut Option<Place>,
    (rows, scratch): (&mut [f32], &mut [u8]),
    form: Form,
    place: Place,
    (values, cols): (&[f32], u16),
    out: &mut [u8],
) -> Result<Header, CodecError> {
    // SPEC 3.29: nothing but a whole delta frame leaves a reference behind.
    let held = next.take() == Some(place);
    let codec = codec::choose(form.codec(), values)?;
    // SPEC 3.8
    let form = if codec == form.codec() { form } else { Form::plain(codec) };
    let count = codec::whole_rows(values.len(), cols)?;
    let Place { request, epoch, position } = place;
    let plain = Header::activation(request, epoch, position, codec, count, cols).ok_or(CodecError::TooManyBytes)?;
    let payload_len = form.max_len(count, cols).ok_or(CodecError::TooManyBytes)?;
    let header = Header { flags: plain.flags.union(form.flags()), payload_len, ..plain };

    let need = usize::try_from(payload_len).map_err(|_| CodecError::TooManyBytes)?;
    let short = CodecError::Buffer { need, have: out.len() };
    let is_delta = form.flags().contains(Flags::DELTA);
    let prefix = if is_delta { delta::prefix_len(count) as usize } else { 0 };
    let (prefix, body) = out.get_mut(..need).and_then(|out| out.split_at_mut_checked(prefix)).ok_or(short)?;
    if is_delta {
        delta::encode(codec, held, rows, (values, cols), prefix, body)?;
    } else {
        codec::encode(codec, values, cols, body)?;
    }
    let compressed = form.flags().contains(Flags::COMPRESSED);
    let header = if compressed { compress(header, body, scratch)? } else { header };
    *next = if is_delta { place.behind(count) } else { None };
    Ok(header)
}

/// Compresses rows of Q8 where they lie; they stay as they are if that does not make them shorter.
fn compress(header: Header, body: &mut [u8], scratch: &mut [u8]) -> Result<Header, CodecError> {
    let (need, have) = (body.len(), scratch.len());
    let scratch = scratch.get_mut(..need).ok_or(CodecError::Buffer { need, have })?;
    let compressed = entropy::compress(body, header.rows, header.cols, scratch);
    let Some((fixed, stream)) = compressed.filter(|(fixed, stream)| fixed.len() + stream.len() < need) else {
        // SPEC 3.33
        return Ok(Header { flags: header.flags.without(Flags::COMPRESSED), ..header });
    };
    let saved = need - fixed.len() - stream.len();
    codec::copy(fixed, body);
    codec::copy(stream, body.get_mut(fixed.len()..).unwrap_or_default());
    Ok(Header { payload_len: header.payload_len - u32::try_from(saved).unwrap_or_default(), ..header })
}

fn inbound(
    next: &mut Option<Place>,
    reference: &mut [f32],
    frame: &Frame<'_>,
    out: &mut [f32],
) -> Result<(), CodecError> {
    // SPEC 3.29
    let expected = next.take();
    let Header { kind, codec, flags, request, epoch, position, rows, cols, .. } = frame.header;
    let form = Form::new(codec, flags.intersect(FORM)).filter(|_| kind == Kind::Activation);
    let form = form.ok_or(CodecError::NotActivation(codec))?;
    let values = usize::from(rows) * usize::from(cols);
    if out.len() != values {
        return Err(CodecError::Buffer { need: values, have: out.len() });
    }
    let read = |body, out: &mut [f32]| {
        if form.flags().contains(Flags::COMPRESSED) {
            entropy::decompress(body, rows, cols, out)
        } else {
            codec::decode(codec, body, rows, cols, out)
        }
    };
    if !form.flags().contains(Flags::DELTA) {
        return read(frame.payload, out);
    }
    let place = Place { request, epoch, position };
    let have = reference.len();
    let need = usize::from(cols);
    let reference = reference.get_mut(..need).ok_or(CodecError::Buffer { need, have })?;
    let (weights, body) = delta::open(frame.payload, rows, (expected == Some(place)).then_some(&*reference))?;
    read(body, out)?;
    delta::restore(weights, reference, out);
    *next = place.behind(rows);
    Ok(())
}

/// The flags that make a form.
const FORM: Flags = Flags::DELTA.union(Flags::COMPRESSED);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{Codec, F16_MAX, Q8_OVERHEAD};
    use crate::header::{Parsed, parse};
    use crate::{HeaderError, Limits};

    const COLS: u16 = 48;

    struct Ends {
        sender: Outbound<Vec<f32>, Vec<u8>>,
        receiver: Inbound<Vec<f32>>,
    }

    impl Ends {
        fn new() -> Self {
            let width = usize::from(COLS);
            let sender = Outbound::new(vec![0.0; 2 * width], vec![0; 16 * (width + Q8_OVERHEAD)]);
            Self { sender, receiver: Inbound::new(vec![0.0; width]) }
        }

        fn send(&mut self, form: Form, place: Place, values: &[f32]) -> Result<(Header, Vec<u8>), CodecError> {
            let mut out = vec![0xee; 4 * values.len() + 5];
            let header = self.sender.encode(form, place, false, values, COLS, &mut out)?;
            out.truncate(header.payload_len as usize);
            Ok((header, out))
        }

        fn receive(&mut self, (header, payload): &(Header, Vec<u8>)) -> Result<Vec<f32>, CodecError> {
            let mut out = vec![f32::NAN; usize::from(header.rows) * usize::from(header.cols)];
            self.receiver.decode(&Frame { header: *header, payload }, &mut out).map(|()| out)
        }
    }

    /// Rows that drift from one to the next.
    fn drifting(first: u32, rows: u32) -> Vec<f32> {
        let value = |at: u32, column: u32| ((column * 37 % 48) as f32 * 0.7 + at as f32 * 0.2).sin() * 3.0;
        (first..first + rows).flat_map(|at| (0..u32::from(COLS)).map(move |column| value(at, column))).collect()
    }

    fn form(name: &str) -> Form {
        Form::from_name(name).unwrap()
    }

    fn at(position: u32) -> Place {
        Place { request: 1, epoch: 0, position }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_form_comes_back_within_its_bound(
            frames in prop::collection::vec(prop::collection::vec(-50.0..50.0f32, 48..200), 1..6),
            which in 0..8usize,
        ) {
            let form = Form::ALL[which];
            let mut ends = Ends::new();
            let mut position = 0;
            for values in &frames {
                let values = &values[..values.len() - values.len() % 48];
                let frame = ends.send(form, at(position), values).unwrap();
                let limits = Limits { max_payload: 1 << 16, max_rows: 9, width: COLS, vocab: 1, flags: form.flags() };
                prop_assert_eq!(parse(&frame.0.emit(), &limits), Ok(Parsed::Frame(frame.0)));
                let back = ends.receive(&frame).unwrap();
                // A residual is below 150 (weight 1 of a row of 50, and its error), rounding aside.
                let step = match form.codec() {
                    Codec::F32 => 0.0,
                    Codec::F16 => 50.0 / 2048.0,
                    Codec::Q8 => 150.0 / 250.0,
                    _ => 150.0 / 13.9,
                };
                prop_assert!(values.iter().zip(&back).all(|(x, y)| (x - y).abs() <= step));
                position += u32::from(frame.0.rows);
            }
        }

        /// SPEC.md, 3.30: the codec's bound on what a row adds to the one before, and rounding.
        #[test]
        fn the_error_of_delta_is_the_codecs_on_the_residual(
            rows in prop::collection::vec(prop::collection::vec(-9.0..9.0f32, 48), 2..7),
            which in 0..2usize,
        ) {
            let (form, steps) = [(form("q8+delta"), 254.0 / 1.000_04), (form("q4+delta"), 14.0 / 1.001)][which];
            let mut ends = Ends::new();
            let mut previous = vec![0.0; 48];
            for (position, row) in (0..).zip(&rows) {
                let frame = ends.send(form, at(position), row).unwrap();
                let back = ends.receive(&frame).unwrap();
                let weight = f64::from(frame.1[4]) / 128.0;
                let residual: Vec<f64> =
                    row.iter().zip(&previous).map(|(x, p)| f64::from(*x) - weight * f64::from(*p)).collect();
                let mut sorted = residual.clone();
                sorted.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
                for ((x, y), r) in row.iter().zip(&back).zip(&residual) {
                    let bound = (sorted[8].abs() / steps).max(r.abs() / 2048.0) + 2f64.powi(-25);
                    let rounding = 2f64.powi(-23) * (r.abs() + f64::from(y.abs()));
                    prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= bound + rounding);
                }
                previous = back;
            }
        }

        #[test]
        fn loss_and_repetition_are_refused_or_harmless(fates in prop::collection::vec(0..4u8, 1..30), rows in 1..4u32) {
            let mut ends = Ends::new();
            let mut mirror = Inbound::new(vec![0.0; usize::from(COLS)]);
            let mut position = 0;
            for fate in fates {
                let frame = ends.send(form("q8+delta"), at(position), &drifting(position, rows)).unwrap();
                let mut sent = vec![0.0; usize::from(COLS) * rows as usize];
                mirror.decode(&Frame { header: frame.0, payload: &frame.1 }, &mut sent).unwrap();
                let times = [0, 1, 1, 2][usize::from(fate)];
                for _ in 0..times {
                    if let Ok(received) = ends.receive(&frame) {
                        prop_assert_eq!(&received, &sent);
                    }
                }
                position += rows;
            }
        }
    }

    #[test]
    fn a_delta_frame_needs_the_one_before_it() {
        let mut ends = Ends::new();
        let frames: Vec<_> = (0..4).map(|p| ends.send(form("q8+delta"), at(p), &drifting(p, 1)).unwrap()).collect();
        assert_eq!(frames[0].1[..5], [0; 5], "the first row is a key row");
        assert!(frames[1..].iter().all(|(_, payload)| payload[4] > 0));
        ends.receive(&frames[0]).unwrap();
        ends.receive(&frames[1]).unwrap();
        assert_eq!(ends.receive(&frames[3]), Err(CodecError::Reference), "one was lost");
        assert_eq!(ends.receive(&frames[2]), Err(CodecError::Reference), "an error clears the reference");
        ends.receive(&frames[0]).unwrap();
        ends.receive(&frames[1]).unwrap();
        assert_eq!(ends.receive(&frames[1]), Err(CodecError::Reference), "repeated");
    }

    #[test]
    fn another_request_epoch_position_or_content_is_no_reference() {
        let mut ends = Ends::new();
        let first = ends.send(form("q4+delta"), at(0), &drifting(0, 1)).unwrap();
        let second = ends.send(form("q4+delta"), at(1), &drifting(1, 1)).unwrap();
        let other = Ends::new().send(form("q4+delta"), at(0), &drifting(9, 1)).unwrap();
        ends.receive(&other).unwrap();
        assert_eq!(ends.receive(&second), Err(CodecError::Reference));
        for spoil in [
            |header: &mut Header| header.request += 1,
            |header: &mut Header| header.epoch += 1,
            |header: &mut Header| header.position += 1,
        ] {
            let mut spoilt = second.clone();
            spoil(&mut spoilt.0);
            ends.receive(&first).unwrap();
            assert_eq!(ends.receive(&spoilt), Err(CodecError::Reference));
        }
        ends.receive(&first).unwrap();
        ends.receive(&second).unwrap();
    }

    #[test]
    fn a_sender_begins_anew_where_a_receiver_must() {
        let mut ends = Ends::new();
        let delta = form("q8+delta");
        let key =
            |ends: &mut Ends, place: Place| ends.send(delta, place, &drifting(place.position, 1)).unwrap().1[4] == 0;
        assert!(key(&mut ends, at(5)) && !key(&mut ends, at(6)));
        assert!(key(&mut ends, at(3)), "after a rollback");
        assert!(key(&mut ends, Place { epoch: 1, ..at(4) }), "in another epoch");
        assert!(!key(&mut ends, Place { epoch: 1, ..at(5) }));
        ends.send(form("q8"), Place { epoch: 1, ..at(6) }, &drifting(6, 1)).unwrap();
        assert!(key(&mut ends, Place { epoch: 1, ..at(7) }), "after a frame that was not delta");
        ends.send(delta, at(8), &[f32::NAN; 48]).unwrap_err();
        assert!(key(&mut ends, Place { epoch: 1, ..at(8) }), "after an error");
    }

    #[test]
    fn what_binary16_can_not_hold_goes_as_f32_and_without_flags() {
        let mut ends = Ends::new();
        let mut values = drifting(0, 1);
        values[3] = F16_MAX.next_up();
        let frame = ends.send(form("q8+delta+compressed"), at(0), &values).unwrap();
        assert_eq!((frame.0.codec, frame.0.flags), (Codec::F32, Flags::NONE));
        assert_eq!(ends.receive(&frame), Ok(values));
    }

    #[test]
    fn residuals_that_pass_binary16_make_a_key_row() {
        let mut ends = Ends::new();
        let row: Vec<f32> = (0..48).map(|column| if column % 2 == 0 { 60_000.0 } else { -60_000.0 }).collect();
        let mut next = row.clone();
        next[7] = 60_000.0;
        for (position, values) in (0..).zip([&row, &next]) {
            let frame = ends.send(form("q8+delta"), at(position), values).unwrap();
            assert_eq!(frame.1[4], 0);
            ends.receive(&frame).unwrap();
        }
    }

    #[test]
    fn compression_that_does_not_pay_is_left_away() {
        let mut ends = Ends::new();
        let short = ends.send(form("q8+compressed"), at(0), &drifting(0, 1)).unwrap();
        assert_eq!((short.0.flags, short.1.len()), (Flags::QUANTIZED, 84));
        let zeros = ends.send(form("q8+compressed"), at(0), &[0.0; 48 * 8]).unwrap();
        assert!(zeros.0.flags.contains(Flags::COMPRESSED) && zeros.1.len() < 8 * 84);
        assert_eq!(ends.receive(&zeros), Ok(vec![0.0; 48 * 8]));
    }

    #[test]
    fn predicted_marks_the_header_and_changes_nothing_else() {
        let (mut one, mut other) = (Ends::new().sender, Ends::new().sender);
        let (mut plain, mut marked) = (vec![0; 84], vec![0; 84]);
        let header = one.encode(form("q8"), at(2), false, &drifting(2, 1), COLS, &mut plain).unwrap();
        let predicted = other.encode(form("q8"), at(2), true, &drifting(2, 1), COLS, &mut marked).unwrap();
        assert_eq!((predicted, marked), (header.predicted(), plain));
        assert!(predicted.flags.contains(Flags::PREDICTED));
        Ends::new().receive(&(predicted, vec![0; 84])).unwrap_err();
    }

    #[test]
    fn buffers_that_are_too_small_are_refused() {
        let values = drifting(0, 1);
        let mut bare = Outbound::new([], []);
        let mut out = [0; 200];
        assert!(bare.encode(form("q8"), at(0), false, &values, COLS, &mut out).is_ok());
        for name in ["q8+delta", "q8+compressed", "q4+delta"] {
            let short = bare.encode(form(name), at(0), false, &values, COLS, &mut out);
            assert!(matches!(short, Err(CodecError::Buffer { .. })), "{name}");
        }
        let mut sender = Ends::new().sender;
        let header = sender.encode(form("q8+delta"), at(0), false, &values, COLS, &mut out).unwrap();
        let frame = Frame { header, payload: &out[..header.payload_len as usize] };
        assert_eq!(
            Inbound::new([0.0; 47]).decode(&frame, &mut [0.0; 48]),
            Err(CodecError::Buffer { need: 48, have: 47 })
        );
        assert_eq!(
            Inbound::new([0.0; 48]).decode(&frame, &mut [0.0; 47]),
            Err(CodecError::Buffer { need: 48, have: 47 })
        );
    }

    #[test]
    fn a_header_of_a_form_that_does_not_exist_is_refused() {
        let limits = Limits { max_payload: 4096, max_rows: 4, width: 48, vocab: 1, flags: Flags::NEGOTIABLE };
        for (codec, flag) in
            [(Codec::F32, Flags::DELTA), (Codec::F16, Flags::COMPRESSED), (Codec::Q4, Flags::COMPRESSED)]
        {
            let plain = Header::activation(1, 0, 0, codec, 1, 48).unwrap();
            let header = Header { flags: plain.flags.union(flag), ..plain };
            assert_eq!(parse(&header.emit(), &limits), Err(HeaderError::FlagsOfCodec { flags: flag, codec }));
            let frame = Frame { header, payload: &[] };
            assert_eq!(Inbound::new([0.0; 48]).decode(&frame, &mut [0.0; 48]), Err(CodecError::NotActivation(codec)));
        }
    }
}
