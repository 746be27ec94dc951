//! The decoder: however a stream is cut, it gives the same frames and the same error.

use arbitrary::{Result, Unstructured};
use syn1_core::{DecodeError, Decoder, Header, Limits};

/// `limits | buffer u16 | pieces u8 | that many lengths u8 | stream`
pub fn decoder_chunks(data: &[u8]) {
    let _too_short = check(&mut Unstructured::new(data));
}

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let limits = super::limits(input)?;
    let buffer = usize::from(input.arbitrary::<u16>()? % 6000);
    let pieces = input.arbitrary::<u8>()?;
    let lengths = input.bytes(pieces.into())?;
    let stream = input.peek_bytes(input.len()).unwrap_or_default();
    let cut = decode(stream, lengths.iter().copied().map(usize::from).chain([1]).cycle(), buffer, limits);
    let whole = decode(stream, core::iter::repeat(usize::MAX), buffer, limits);
    assert_eq!(cut, whole);
    Ok(())
}

type Found = (Vec<(Header, Vec<u8>)>, Result<(), DecodeError>);

fn decode(mut stream: &[u8], mut lengths: impl Iterator<Item = usize>, buffer: usize, limits: Limits) -> Found {
    let mut decoder = Decoder::new(vec![0xee; buffer], limits);
    let mut frames = Vec::new();
    let end = loop {
        match decoder.next() {
            Ok(Some(frame)) => {
                assert_eq!(frame.payload.len(), frame.header.payload_len as usize);
                frames.push((frame.header, frame.payload.to_vec()));
                continue;
            }
            Ok(None) if stream.is_empty() => break decoder.finish(),
            Ok(None) => {}
            Err(error) => break Err(error),
        }
        let spare = decoder.spare();
        assert!(!spare.is_empty(), "a decoder that wants more must have room");
        let count = lengths.next().unwrap_or(1).max(1).min(stream.len()).min(spare.len());
        spare[..count].copy_from_slice(&stream[..count]);
        stream = &stream[count..];
        decoder.commit(count).expect("no more than was offered");
    };
    if let Err(error) = end {
        assert_eq!(decoder.next(), Err(error));
        assert_eq!(decoder.commit(0), Err(error));
        assert_eq!(decoder.finish(), Err(error));
    }
    (frames, end)
}
