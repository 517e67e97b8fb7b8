//! Identities: who a peer is, which share is meant, what some bytes hash to.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! hex_identity {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), HEXLOWER.encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = InvalidHex;

            fn from_str(text: &str) -> Result<Self, InvalidHex> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidHex)?;
                bytes.try_into().map(Self).map_err(|_| InvalidHex)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// A text was not the lower-case hexadecimal form of an identity of the right length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not lower-case hexadecimal of the right length")]
pub struct InvalidHex;

hex_identity!(
    /// Who a peer says it is: 16 bytes, random unless the user gave a number.
    PeerId,
    16
);
hex_identity!(
    /// Which share is meant: the BLAKE3 hash (32 bytes) of its encoded manifest.
    ShareId,
    32
);
hex_identity!(
    /// A BLAKE3 output of 32 bytes: a file's root or the chaining value of a piece.
    Digest,
    32
);

impl PeerId {
    /// A fresh random identity.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u128(..).to_be_bytes())
    }

    /// The identity of a peer that the user gave a small number (`minibit peer --id 3`).
    pub fn numbered(number: u64) -> Self {
        Self(u128::from(number).to_be_bytes())
    }

    /// A short form for logs and tables: the number of a numbered peer, else 8 hex digits.
    pub fn short(&self) -> String {
        match u64::try_from(u128::from_be_bytes(self.0)) {
            Ok(number) => number.to_string(),
            Err(_) => HEXLOWER.encode(&self.0[..4]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_text() {
        let id = PeerId::random(&mut fastrand::Rng::with_seed(1));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<PeerId>(&format!("\"{id}\"")).unwrap(), id);
    }

    #[test]
    fn a_text_of_another_length_or_alphabet_is_refused() {
        for text in ["", "00", &"0".repeat(33), &"G".repeat(32), &"A".repeat(32)] {
            assert_eq!(text.parse::<PeerId>(), Err(InvalidHex), "{text}");
        }
    }

    #[test]
    fn a_numbered_peer_is_shown_by_its_number() {
        assert_eq!(PeerId::numbered(7).short(), "7");
    }
}
