//! Who an end is: a key, and the proof that it holds it.
//!
//! The format names Ed25519 (SPEC 6.20); this crate carries no cryptography of its own, so the three operations come
//! from outside. An end without them is [`Anonymous`].

use crate::codec::copy;
use crate::control::Role;

/// What an end can prove and check: Ed25519 over bytes that the session chooses.
///
/// ```
/// use syn1_core::identity::{Anonymous, Identity, Verdict};
///
/// assert_eq!(Anonymous.key(), [0; 32]);
/// assert_eq!(Anonymous.verify(&[7; 32], b"message", &[0; 64]), Verdict::Unchecked);
/// ```
pub trait Identity {
    /// This end's public key of 32 bytes; zeros: it has none, and is never asked to sign.
    ///
    /// ```
    /// use syn1_core::{Anonymous, Identity};
    ///
    /// let has_key = |identity: &dyn Identity| identity.key() != [0; 32];
    /// assert!(!has_key(&Anonymous));
    /// ```
    fn key(&self) -> [u8; 32];

    /// The signature of `message` by this end's key.
    ///
    /// ```
    /// use syn1_core::{Control, Identity};
    ///
    /// fn prove(identity: &impl Identity, message: &[u8]) -> Control<'static> {
    ///     Control::Prove { signature: identity.sign(message) }
    /// }
    /// ```
    fn sign(&self, message: &[u8]) -> [u8; 64];

    /// Whether `signature` is that of `message` by `key`.
    ///
    /// ```
    /// use syn1_core::{Anonymous, Identity, Verdict};
    ///
    /// assert_eq!(Anonymous.verify(&[7; 32], b"message", &[0; 64]), Verdict::Unchecked);
    /// ```
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict;
}

impl<T: Identity + ?Sized> Identity for &T {
    fn key(&self) -> [u8; 32] {
        (**self).key()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        (**self).sign(message)
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
        (**self).verify(key, message, signature)
    }
}

/// What is known of a signature.
///
/// ```
/// use syn1_core::Verdict;
///
/// /// The verdict of a library whose checks fail or pass.
/// fn verdict<E>(checked: Result<(), E>) -> Verdict {
///     if checked.is_ok() { Verdict::Valid } else { Verdict::Invalid }
/// }
/// assert_eq!(verdict(Err("forged")), Verdict::Invalid);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Verdict {
    /// The key's holder signed the message.
    Valid,
    /// It did not.
    Invalid,
    /// This end carries no cryptography.
    Unchecked,
}

/// An end without a key that checks nobody's.
///
/// ```
/// use syn1_core::{Anonymous, Identity};
///
/// assert_eq!(Anonymous.key(), [0; 32], "no key");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Anonymous;

impl Identity for Anonymous {
    fn key(&self) -> [u8; 32] {
        [0; 32]
    }

    fn sign(&self, _: &[u8]) -> [u8; 64] {
        [0; 64]
    }

    fn verify(&self, _: &[u8; 32], _: &[u8], _: &[u8; 64]) -> Verdict {
        Verdict::Unchecked
    }
}

/// What an end signs to prove that it holds its key: the words `SYN1 link proof` and a zero byte, its role, both nonces
/// and both keys, 145 bytes.
///
/// The nonces make the proof one of this link, the role keeps it from being thrown back at its signer, and the peer's key
/// keeps a third party with a key of its own from handing it on.
///
/// ```
/// use syn1_core::Role;
/// use syn1_core::identity::proof_message;
///
/// let message = proof_message(Role::Node, &[1; 32], &[2; 32], &[3; 32], &[4; 32]);
/// assert_eq!(message[..17], *b"SYN1 link proof\0\x01");
/// assert_eq!((message[17], message[49], message[81], message[113]), (1, 2, 3, 4));
/// ```
#[must_use]
pub fn proof_message(
    signer: Role,
    nonce_of_signer: &[u8; 32],
    nonce_of_peer: &[u8; 32],
    key_of_signer: &[u8; 32],
    key_of_peer: &[u8; 32],
) -> [u8; PROOF_LEN] {
    let mut message = [0; PROOF_LEN];
    // SPEC 6.20
    let parts: [&[u8]; 6] =
        [b"SYN1 link proof\0", &[signer as u8], nonce_of_signer, nonce_of_peer, key_of_signer, key_of_peer];
    let mut rest = &mut message[..];
    for part in parts {
        if let Some((to, tail)) = core::mem::take(&mut rest).split_at_mut_checked(part.len()) {
            copy(part, to);
            rest = tail;
        }
    }
    message
}

/// Bytes of a [`proof_message`].
pub const PROOF_LEN: usize = 16 + 1 + 4 * 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_proof_stands_at_its_place_and_nowhere_else() {
        let message = |role, parts: [u8; 4]| {
            let [a, b, c, d] = parts.map(|part| [part; 32]);
            proof_message(role, &a, &b, &c, &d)
        };
        let zeros = message(Role::Coordinator, [0; 4]);
        assert_eq!(&zeros[..16], b"SYN1 link proof\0");
        let differ = |other: [u8; PROOF_LEN]| {
            let at: Vec<usize> = (0..PROOF_LEN).filter(|&at| other[at] != zeros[at]).collect();
            (at.first().copied(), at.len())
        };
        assert_eq!(differ(message(Role::Node, [0; 4])), (Some(16), 1));
        for (part, at) in [17, 49, 81, 113].into_iter().enumerate() {
            let mut parts = [0; 4];
            parts[part] = 0xff;
            assert_eq!(differ(message(Role::Coordinator, parts)), (Some(at), 32));
        }
    }
}
