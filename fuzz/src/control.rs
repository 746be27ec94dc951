//! Control messages.

use syn1_core::limits::{MAX_CONTROL, MAX_TEXT};
use syn1_core::{Control, clip};

/// The input is a payload: what can be read can be written and read again, and its shortest form stays what it is.
pub fn control(data: &[u8]) {
    match Control::decode(data) {
        Ok(message) => {
            let (first, second) = (written(&message), Control::decode(data).map(|message| written(&message)));
            assert_eq!(second, Ok(first.clone()));
            let again = Control::decode(&first).expect("what was written can be read");
            assert_eq!(written(&again), first);
            // Texts are cut when they are written, and numbers shortened; nothing grows.
            assert!(first.len() <= data.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(text) = core::str::from_utf8(data) {
        let clipped = clip(text);
        assert!(text.starts_with(clipped) && clipped.len() <= MAX_TEXT);
        assert!(clipped.len() + 4 > text.len().min(MAX_TEXT));
    }
}

fn written(message: &Control<'_>) -> Vec<u8> {
    let mut out = [0xee; MAX_CONTROL as usize];
    let len = message.encode(&mut out).expect("MAX_CONTROL bytes are always enough");
    out[..len].to_vec()
}
