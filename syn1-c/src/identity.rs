//! A key and its cryptography, which firmware links for itself.

use core::ffi::c_void;

use syn1_core::{Identity, Verdict};

use crate::error::syn1_error;

/// What is known of a signature: one of `SYN1_VERDICT_...`.
pub type syn1_verdict = u8;

/// The key's holder signed the message.
pub const SYN1_VERDICT_VALID: syn1_verdict = 0;
/// It did not.
pub const SYN1_VERDICT_INVALID: syn1_verdict = 1;
/// This end carries no cryptography.
pub const SYN1_VERDICT_UNCHECKED: syn1_verdict = 2;

/// A key, and Ed25519 by whatever library the program has. The session copies it; `context` must outlive the session.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_identity {
    /// The public key; zeros: none, and `sign` is never called.
    pub key: [u8; 32],
    /// Handed to both functions.
    pub context: *mut c_void,
    /// Writes the 64 bytes of the signature of `message` by this key.
    pub sign: Option<unsafe extern "C" fn(context: *mut c_void, message: *const u8, len: usize, signature: *mut u8)>,
    /// Whether `signature` (64 bytes) is that of `message` by `key` (32 bytes); null: nothing is checked.
    pub verify: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            key: *const u8,
            message: *const u8,
            len: usize,
            signature: *const u8,
        ) -> syn1_verdict,
    >,
}

/// The session's copy of it; without an identity a key of zeros and no functions.
pub(crate) struct Callbacks(Option<syn1_identity>);

impl Callbacks {
    /// What a session can prove by `identity`.
    pub(crate) fn new(identity: Option<syn1_identity>) -> Result<Self, syn1_error> {
        match identity {
            Some(identity) if identity.key != [0; 32] && identity.sign.is_none() => Err(syn1_error::SYN1_ERROR_NULL),
            identity => Ok(Self(identity)),
        }
    }
}

impl Identity for Callbacks {
    fn key(&self) -> [u8; 32] {
        self.0.map_or([0; 32], |identity| identity.key)
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        if let Some(syn1_identity { context, sign: Some(sign), .. }) = self.0 {
            // SAFETY: the function is the caller's, and takes what its type says.
            unsafe { sign(context, message.as_ptr(), message.len(), signature.as_mut_ptr()) };
        }
        signature
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
        let Some(syn1_identity { context, verify: Some(verify), .. }) = self.0 else { return Verdict::Unchecked };
        // SAFETY: the function is the caller's, and takes what its type says.
        match unsafe { verify(context, key.as_ptr(), message.as_ptr(), message.len(), signature.as_ptr()) } {
            SYN1_VERDICT_VALID => Verdict::Valid,
            SYN1_VERDICT_UNCHECKED => Verdict::Unchecked,
            // Whatever else a function says is no proof.
            _ => Verdict::Invalid,
        }
    }
}
