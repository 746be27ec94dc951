//! Frames to bytes.

use core::fmt;

use crate::codec::copy;
use crate::{Control, ControlError, Header};

/// Writes a header and its payload into `out` and gives the bytes of the frame.
///
/// ```
/// use syn1_core::{Header, encode_frame};
///
/// let mut out = [0; 64];
/// let frame = encode_frame(&Header::tokens(1, 0, 0, 1), &7u32.to_le_bytes(), &mut out)?;
/// assert_eq!((frame.len(), &frame[..4]), (28, &b"SYN1"[..]));
/// # Ok::<(), syn1_core::EncodeError>(())
/// ```
///
/// # Errors
/// `payload` is not `header.payload_len` bytes, or `out` is too short.
pub fn encode_frame<'o>(header: &Header, payload: &[u8], out: &'o mut [u8]) -> Result<&'o [u8], EncodeError> {
    let (need, have) = (header.frame_len(), out.len());
    if payload.len() != need - Header::LEN {
        return Err(EncodeError::Length { payload_len: header.payload_len, have: payload.len() });
    }
    let out = out.get_mut(..need).ok_or(EncodeError::Buffer { need, have })?;
    let (head, body) = out.split_first_chunk_mut().ok_or(EncodeError::Buffer { need, have })?;
    *head = header.emit();
    copy(payload, body);
    Ok(out)
}

/// Writes a control message with its header into `out` and gives the bytes of the frame.
///
/// ```
/// use syn1_core::{Control, encode_control};
///
/// let mut out = [0; 64];
/// assert_eq!(encode_control(&Control::Ping(7), &mut out)?[24..], [2, 7]);
/// # Ok::<(), syn1_core::EncodeError>(())
/// ```
///
/// # Errors
/// The message can't be written, or `out` is too short.
pub fn encode_control<'o>(message: &Control<'_>, out: &'o mut [u8]) -> Result<&'o [u8], EncodeError> {
    let have = out.len();
    let short = EncodeError::Buffer { need: Header::LEN, have };
    let (head, body) = out.split_first_chunk_mut().ok_or(short)?;
    let len = message.encode(body).map_err(EncodeError::Control)?;
    *head = Header::control(u32::try_from(len).map_err(|_| short)?).emit();
    out.get(..Header::LEN + len).ok_or(short)
}

/// Why a frame could not be written.
///
/// ```
/// use syn1_core::{EncodeError, Header, encode_frame};
///
/// let error = encode_frame(&Header::tokens(1, 0, 0, 1), &[0; 3], &mut [0; 64]).unwrap_err();
/// assert_eq!(error, EncodeError::Length { payload_len: 4, have: 3 });
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum EncodeError {
    /// The payload is not as long as its header says.
    Length {
        /// What the header says.
        payload_len: u32,
        /// Bytes given.
        have: usize,
    },
    /// The output is too short.
    Buffer {
        /// Bytes of the frame.
        need: usize,
        /// Bytes of the output.
        have: usize,
    },
    /// The control message can't be written.
    Control(ControlError),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { payload_len, have } => {
                write!(f, "the header says {payload_len} payload bytes and {have} were given")
            }
            Self::Buffer { need, have } => {
                write!(f, "a frame of {need} bytes does not fit the send buffer of {have}: make it larger")
            }
            Self::Control(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for EncodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_header_and_its_payload() {
        let header = Header::tokens(1, 2, 3, 1);
        let mut out = [0xee; 40];
        let frame = encode_frame(&header, &[1, 2, 3, 4], &mut out).unwrap();
        assert_eq!(frame, [&header.emit()[..], &[1, 2, 3, 4]].concat());
        assert_eq!(out[28..], [0xee; 12]);
    }

    #[test]
    fn a_control_frame_is_that_of_its_encoded_message() {
        let mut out = [0; 40];
        let frame = encode_control(&Control::Ping(5), &mut out).unwrap();
        assert_eq!(frame, [&Header::control(2).emit()[..], &[2, 5]].concat());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let header = Header::tokens(1, 2, 3, 1);
        let mut out = [0; 28];
        assert_eq!(encode_frame(&header, &[0; 3], &mut out), Err(EncodeError::Length { payload_len: 4, have: 3 }));
        assert_eq!(encode_frame(&header, &[0; 4], &mut out[..27]), Err(EncodeError::Buffer { need: 28, have: 27 }));
        assert!(encode_control(&Control::Ping(5), &mut out[..23]).is_err());
        assert!(encode_control(&Control::Ping(5), &mut out[..25]).is_err());
    }
}
