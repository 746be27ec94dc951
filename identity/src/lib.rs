//! Who an end of a SYN1 link is: an Ed25519 key, proved by a signature over both ends' nonces (`SPEC.md` of `syn1-core`,
//! section 6).
//!
//! `syn1-core` carries no cryptography, only the trait [`Identity`]; this is its implementation over `ed25519-dalek`. Without
//! the feature `std` it allocates nothing and builds for microcontrollers; with it, [`Keys::load_or_create`] keeps a
//! key in a file and [`nonce`] draws random bytes.
//!
//! ```
//! use syn1_core::identity::{Identity, Verdict};
//! use syn1_identity::Keys;
//!
//! let (node, coordinator) = (Keys::from_secret(&[7; 32]), Keys::from_secret(&[8; 32]));
//! let signature = node.sign(b"message");
//! assert_eq!(coordinator.verify(&node.key(), b"message", &signature), Verdict::Valid);
//! assert_eq!(coordinator.verify(&node.key(), b"another", &signature), Verdict::Invalid);
//! ```
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "std")]
mod file;
mod key;

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use syn1_core::identity::{Identity, Verdict};

#[cfg(feature = "std")]
pub use file::{KeyFileError, keep, nonce, replace};
pub use key::{Key, KeyError};

/// The secret and the public key of one end.
#[derive(Clone)]
pub struct Keys(SigningKey);

impl Keys {
    /// The keys that follow from 32 secret bytes, which must be random.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The public key: what others know this end by.
    #[must_use]
    pub fn public(&self) -> Key {
        Key(self.0.verifying_key().to_bytes())
    }
}

impl Identity for Keys {
    fn key(&self) -> [u8; 32] {
        self.public().0
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Strict verification: keys of small order and encodings that are not canonical are refused, so a signature is good
    /// for one key and one message only.
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
        let verified =
            VerifyingKey::from_bytes(key).and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)));
        if verified.is_ok() { Verdict::Valid } else { Verdict::Invalid }
    }
}

impl fmt::Debug for Keys {
    /// The public key only: a secret must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.public()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        core::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    /// The first two test vectors of RFC 8032, section 7.1.
    #[test]
    fn signatures_are_those_of_rfc_8032() {
        let vectors: [(&str, &str, &[u8], &str); 2] = [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                &[0x72],
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ];
        for (secret, public, message, signature) in vectors {
            let keys = Keys::from_secret(&bytes(secret));
            assert_eq!(keys.key(), bytes(public));
            assert_eq!(keys.sign(message), bytes(signature));
            assert_eq!(keys.verify(&bytes(public), message, &bytes(signature)), Verdict::Valid);
        }
    }

    #[test]
    fn a_changed_signature_message_or_key_is_invalid() {
        let keys = Keys::from_secret(&[1; 32]);
        let signature = keys.sign(b"m");
        for bit in [0, 200, 511] {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.verify(&keys.key(), b"m", &wrong), Verdict::Invalid);
        }
        assert_eq!(keys.verify(&keys.key(), b"n", &signature), Verdict::Invalid);
        assert_eq!(keys.verify(&Keys::from_secret(&[2; 32]).key(), b"m", &signature), Verdict::Invalid);
    }

    #[test]
    fn keys_of_small_order_prove_nothing() {
        // The neutral element: with it, a signature without a secret passes lax verification.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&neutral);
        assert_eq!(Keys::from_secret(&[1; 32]).verify(&neutral, b"m", &signature), Verdict::Invalid);
    }

    #[test]
    fn debug_output_has_no_secret() {
        let secret = [0xa7; 32];
        let text = format!("{:?}", Keys::from_secret(&secret));
        assert!(!text.contains("a7a7") && !text.contains("167, 167"), "{text}");
    }
}
