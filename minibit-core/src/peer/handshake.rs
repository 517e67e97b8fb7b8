//! REGISTRO: what two peers tell each other first, and what they agree on.
//!
//! Not here: finding the share or the link that a REGISTRO names; the engine knows those.

use crate::types::{PeerId, ShareId, limits};
use crate::wire::{Destination, LaneKey, Register};

pub(super) use crate::wire::PROTOCOL_VERSION as VERSION;

/// What this peer says of itself.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Our identity.
    pub id: PeerId,
    /// The share that the link is for.
    pub share: ShareId,
    /// The port we listen on; 0 if we do not.
    pub port: u16,
    /// Whether we hold every piece.
    pub complete: bool,
}

/// What both sides know after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The other side's identity.
    pub peer: PeerId,
    /// The port it listens on; 0 if it does not.
    pub port: u16,
    /// Longest block on this link, in bytes.
    pub block_len: u32,
    /// Most lanes that the link may have.
    pub lanes_max: u8,
    /// Whether it holds every piece.
    pub complete: bool,
    /// Whether it answers our requests from the start.
    pub unchoked: bool,
    /// The key with which further lanes join (only from the accepting side).
    pub key: Option<LaneKey>,
}

/// Why a REGISTRO was not accepted; the connection is closed without penalty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Another protocol version.
    #[error("speaks protocol version {theirs}, this is version {VERSION}")]
    Version {
        /// The version it named.
        theirs: u32,
    },
    /// The link is for another share.
    #[error("wants another share")]
    OtherShare,
    /// It has our own identity: we have met ourselves.
    #[error("is ourselves")]
    Ourselves,
    /// A block length or lane count outside the protocol.
    #[error("offers a block length or lane count outside the protocol")]
    BadOffer,
}

impl Introduction {
    /// The REGISTRO to send; `unchoked` tells the other side that it may ask at once.
    pub fn register(&self, unchoked: bool) -> Register {
        Register {
            id: self.id,
            version: VERSION,
            share: self.share,
            port: self.port,
            destination: Destination::Peer,
            block_max: limits::BLOCK_LEN_MAX,
            lanes_max: limits::LANES_MAX,
            complete: self.complete,
            unchoked,
            lane: None,
            key: None,
        }
    }

    /// Checks the other side's REGISTRO.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is to be closed.
    pub fn check(&self, theirs: &Register) -> Result<Agreed, HandshakeError> {
        if theirs.version != VERSION {
            return Err(HandshakeError::Version { theirs: theirs.version });
        }
        if theirs.share != self.share {
            return Err(HandshakeError::OtherShare);
        }
        if theirs.id == self.id {
            return Err(HandshakeError::Ourselves);
        }
        let block_ok = (limits::BLOCK_LEN_MIN..=limits::BLOCK_LEN_MAX).contains(&theirs.block_max)
            && theirs.block_max.is_power_of_two();
        if !block_ok || theirs.lanes_max == 0 {
            return Err(HandshakeError::BadOffer);
        }
        Ok(Agreed {
            peer: theirs.id,
            port: theirs.port,
            block_len: theirs.block_max.min(limits::BLOCK_LEN_MAX),
            lanes_max: theirs.lanes_max.min(limits::LANES_MAX),
            complete: theirs.complete,
            unchoked: theirs.unchoked,
            key: theirs.key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(number: u64) -> Introduction {
        Introduction {
            id: PeerId::numbered(number),
            share: ShareId([7; 32]),
            port: 4000,
            complete: false,
        }
    }

    #[test]
    fn two_peers_of_one_share_agree() {
        let theirs = introduction(2).register(true);
        let agreed = introduction(1).check(&theirs).unwrap();
        assert_eq!(agreed.peer, PeerId::numbered(2));
        assert_eq!(agreed.block_len, limits::BLOCK_LEN_MAX);
        assert!(agreed.unchoked && !agreed.complete);
    }

    #[test]
    fn each_bad_introduction_has_its_own_reason() {
        let us = introduction(1);
        let good = introduction(2).register(false);
        type Case = (fn(&mut Register), HandshakeError);
        let cases: [Case; 6] = [
            (|r| r.version = 2, HandshakeError::Version { theirs: 2 }),
            (|r| r.share = ShareId([8; 32]), HandshakeError::OtherShare),
            (|r| r.id = PeerId::numbered(1), HandshakeError::Ourselves),
            (|r| r.block_max = 8192, HandshakeError::BadOffer),
            (|r| r.block_max = 100_000, HandshakeError::BadOffer),
            (|r| r.lanes_max = 0, HandshakeError::BadOffer),
        ];
        for (spoil, reason) in cases {
            let mut theirs = good.clone();
            spoil(&mut theirs);
            assert_eq!(us.check(&theirs), Err(reason));
        }
    }
}
