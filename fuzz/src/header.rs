//! Headers.

use arbitrary::{Result, Unstructured};
use syn1_core::header::parse;
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Flags, Form, Header, Kind, Parsed, encoded_len};

/// `limits | 24 bytes`: what is accepted is within the limits and is emitted as it was.
pub fn header(data: &[u8]) {
    let _too_short = check(&mut Unstructured::new(data));
}

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let limits = super::limits(input)?;
    let bytes: [u8; Header::LEN] = input.arbitrary()?;
    match parse(&bytes, &limits) {
        Ok(Parsed::Frame(header)) => {
            assert_eq!(header.emit(), bytes);
            let Header { kind, codec, rows, cols, payload_len, flags, .. } = header;
            assert!(limits.flags.contains(flags.intersect(Flags::NEGOTIABLE)));
            if kind == Kind::Control {
                assert!(payload_len <= MAX_CONTROL);
            } else {
                assert!(limits.width > 0 && payload_len <= limits.max_payload);
                let changed = flags.intersect(Flags::DELTA.union(Flags::COMPRESSED));
                if changed.is_empty() {
                    assert_eq!(encoded_len(codec, rows, cols), Some(payload_len));
                } else {
                    let form = Form::new(codec, changed).expect("no form but those that exist");
                    let most = form.max_len(rows, cols).expect("a length that fits");
                    assert!(payload_len <= most);
                    assert_eq!(payload_len == most, !changed.contains(Flags::COMPRESSED));
                }
            }
        }
        Ok(Parsed::Skip { payload_len }) => {
            assert!(bytes[4] & 0x80 != 0 && payload_len <= limits.max_payload.max(MAX_CONTROL));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Ok(())
}
