//! The control of one link: each message to a fact, and who has been silent too long.
//!
//! Invariant: every number in a fact lies inside the share.
//! Not here: requests and blocks ([`super::Download`], [`super::Upload`]), which each lane
//! has of its own.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{Fact, Violation};
use crate::types::{Geometry, PeerId, PieceSet, limits};
use crate::wire::{Holdings, Message, Run};

/// We say something at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A peer may name each piece so often in news, withdrawals and suggestions: an honest one comes
/// to hold it once, says once that it holds all, suggests it once in a while, and withdraws it
/// once. A run of a million pieces is a dozen bytes to send.
const NAMED_PER_PIECE: u64 = 4;
/// Added to that, for shares of few pieces.
const NAMED_SPARE: u64 = 4096;
/// A peer that is silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Control state of a link after the handshake.
#[derive(Debug)]
pub struct Session {
    geometry: Arc<Geometry>,
    peer: PeerId,
    may_send_bitmap: bool,
    unknown: u32,
    stale_news: u32,
    /// Pieces named in news, withdrawals and suggestions, each time counted.
    named: u64,
    last_heard: Duration,
    last_spoke: Duration,
}

impl Session {
    /// A link to `peer`, whose REGISTRO said whether it is `complete`.
    pub fn new(geometry: Arc<Geometry>, peer: PeerId, complete: bool, now: Duration) -> Self {
        Self {
            geometry,
            peer,
            may_send_bitmap: !complete,
            unknown: 0,
            stale_news: 0,
            named: 0,
            last_heard: now,
            last_spoke: now,
        }
    }

    /// What a control message means.
    ///
    /// # Errors
    /// [`Violation`] if the peer must not send this, here or at all.
    pub fn on_message(&mut self, message: Message) -> Result<Fact, Violation> {
        match message {
            Message::Have { id, .. } if id != self.peer => Err(Violation::WrongIdentity),
            Message::Have { holdings: Holdings::Bitmap(bytes), .. } => self.on_bitmap(&bytes),
            Message::Have { holdings: Holdings::News(runs), .. } => {
                self.may_send_bitmap = false;
                self.inside(&runs).map(Fact::Gained)
            }
            Message::Withdraw(runs) => self.inside(&runs).map(Fact::Withdrew),
            Message::Suggest(runs) => self.inside(&runs).map(Fact::Suggested),
            Message::Interested => Ok(Fact::Interested(true)),
            Message::NotInterested => Ok(Fact::Interested(false)),
            Message::Choke => Ok(Fact::ChokedUs),
            Message::Unchoke => Ok(Fact::UnchokedUs),
            Message::Lanes(lanes) => Ok(Fact::WantsLanes(lanes.clamp(1, limits::LANES_MAX))),
            Message::KeepAlive => Ok(Fact::Nothing),
            Message::Goodbye { id, .. } if id != self.peer => Err(Violation::WrongIdentity),
            Message::Goodbye { reason, .. } => Ok(Fact::Left(reason)),
            Message::Unknown => self.on_unknown(),
            other => Err(Violation::OutOfPlace { what: other.tipo() }),
        }
    }

    fn on_bitmap(&mut self, bytes: &[u8]) -> Result<Fact, Violation> {
        if !std::mem::take(&mut self.may_send_bitmap) {
            return Err(Violation::BitmapOutOfTurn);
        }
        Ok(Fact::Holds(PieceSet::from_wire(bytes, &self.geometry)?))
    }

    fn on_unknown(&mut self) -> Result<Fact, Violation> {
        self.unknown += 1;
        if self.unknown > limits::UNKNOWN_MESSAGES_MAX {
            return Err(Violation::TooManyUnknown);
        }
        Ok(Fact::Nothing)
    }

    /// The runs as ranges inside the share, bounded by what an honest peer has to tell.
    fn inside(&mut self, runs: &[Run]) -> Result<Vec<Range<u32>>, Violation> {
        let ranges = runs
            .iter()
            .map(|run| self.geometry.run(run.first, run.count).ok_or(Violation::OutsideShare))
            .collect::<Result<Vec<_>, _>>()?;
        self.named += ranges.iter().map(|range| range.len() as u64).sum::<u64>();
        if self.named > NAMED_PER_PIECE * u64::from(self.geometry.piece_count()) + NAMED_SPARE {
            return Err(Violation::StaleNews);
        }
        Ok(ranges)
    }

    /// The news just reported told of that many pieces that were not known.
    ///
    /// # Errors
    /// [`Violation::StaleNews`] once too many messages told nothing.
    pub fn on_news_applied(&mut self, fresh: u32) -> Result<(), Violation> {
        self.stale_news += u32::from(fresh == 0);
        if self.stale_news > limits::STALE_NEWS_MAX {
            return Err(Violation::StaleNews);
        }
        Ok(())
    }

    /// Bytes came from the peer, on any of its lanes.
    pub fn heard(&mut self, now: Duration) {
        self.last_heard = now;
    }

    /// Bytes went to the peer on the first lane.
    pub fn spoke(&mut self, now: Duration) {
        self.last_spoke = now;
    }

    /// Whether the peer has been silent for so long that it must be gone.
    pub fn is_dead(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_heard) >= SILENCE_MAX
    }

    /// Whether it is time to say that we are still here.
    pub fn keep_alive_due(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_spoke) >= KEEP_ALIVE
    }

    /// When to ask [`Self::is_dead`] and [`Self::keep_alive_due`] again.
    pub fn next_check(&self) -> Duration {
        (self.last_heard + SILENCE_MAX).min(self.last_spoke + KEEP_ALIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PieceSetError, PieceSize};
    use crate::wire::Penalty;

    fn session(complete: bool) -> Session {
        let size = PieceSize::new(16384).unwrap();
        let geometry = Arc::new(Geometry::new(size, [10 * 16384]).unwrap());
        Session::new(geometry, PeerId::numbered(2), complete, Duration::ZERO)
    }

    fn have(holdings: Holdings) -> Message {
        Message::Have { id: PeerId::numbered(2), holdings }
    }

    fn news(first: u64, count: u64) -> Message {
        have(Holdings::News(vec![Run { first, count }]))
    }

    #[test]
    fn news_inside_the_share_is_a_fact_and_outside_is_banned() {
        let mut session = session(false);
        let runs = std::iter::once(8..10).collect();
        assert_eq!(session.on_message(news(8, 2)), Ok(Fact::Gained(runs)));
        for (first, count) in
            [(10, 1), (9, 2), (0, 0), (u64::MAX, 2), (1 << 53, 1), (u64::from(u32::MAX), 1)]
        {
            let broken = session.on_message(news(first, count)).unwrap_err();
            assert_eq!(broken, Violation::OutsideShare, "{first} {count}");
            assert_eq!(broken.penalty(), Penalty::Ban);
        }
    }

    #[test]
    fn a_bitmap_comes_once_and_before_any_news() {
        let bitmap = || have(Holdings::Bitmap(vec![0x80, 0x40]));
        let mut twice = session(false);
        assert!(matches!(twice.on_message(bitmap()), Ok(Fact::Holds(set)) if set.len() == 2));
        assert_eq!(twice.on_message(bitmap()), Err(Violation::BitmapOutOfTurn));
        let mut late = session(false);
        late.on_message(news(1, 1)).unwrap();
        assert_eq!(late.on_message(bitmap()), Err(Violation::BitmapOutOfTurn));
        assert_eq!(session(true).on_message(bitmap()), Err(Violation::BitmapOutOfTurn));
    }

    #[test]
    fn a_bitmap_with_spare_bits_or_another_length_is_banned() {
        for (bytes, reason) in [
            (vec![0x80], PieceSetError::Length { got: 1, want: 2 }),
            (vec![0x80, 0x20], PieceSetError::SpareBits),
        ] {
            let broken = session(false).on_message(have(Holdings::Bitmap(bytes))).unwrap_err();
            assert_eq!(broken, Violation::Bitmap(reason));
            assert_eq!(broken.penalty(), Penalty::Ban);
        }
    }

    #[test]
    fn unknown_messages_are_ignored_until_there_are_too_many() {
        let mut session = session(false);
        for _ in 0..limits::UNKNOWN_MESSAGES_MAX {
            assert_eq!(session.on_message(Message::Unknown), Ok(Fact::Nothing));
        }
        assert_eq!(session.on_message(Message::Unknown), Err(Violation::TooManyUnknown));
    }

    #[test]
    fn the_same_news_over_and_over_closes_the_link() {
        let mut session = session(false);
        for _ in 0..limits::STALE_NEWS_MAX {
            session.on_news_applied(0).unwrap();
            session.on_news_applied(1).unwrap();
        }
        assert_eq!(session.on_news_applied(0), Err(Violation::StaleNews));
    }

    #[test]
    fn a_peer_cannot_name_the_whole_share_again_and_again() {
        let mut session = session(false);
        let whole = |times| vec![Run { first: 0, count: 10 }; times];
        let told = session.on_message(have(Holdings::News(whole(300))));
        assert!(matches!(told, Ok(Fact::Gained(ranges)) if ranges.len() == 300));
        let withdrawn = session.on_message(Message::Withdraw(whole(200)));
        assert_eq!(withdrawn, Err(Violation::StaleNews));
    }

    #[test]
    fn a_goodbye_in_another_peers_name_does_not_count() {
        let goodbye = |number| Message::Goodbye { id: PeerId::numbered(number), reason: None };
        assert_eq!(session(false).on_message(goodbye(2)), Ok(Fact::Left(None)));
        assert_eq!(session(false).on_message(goodbye(3)), Err(Violation::WrongIdentity));
    }

    #[test]
    fn silence_is_noticed_and_broken_in_time() {
        let mut session = session(false);
        let at = Duration::from_secs;
        assert!(!session.keep_alive_due(at(4)));
        assert!(session.keep_alive_due(at(5)));
        assert!(!session.is_dead(at(14)));
        assert!(session.is_dead(at(15)));
        session.heard(at(14));
        assert!(!session.is_dead(at(28)));
        session.spoke(at(20));
        assert_eq!(session.next_check(), at(25));
    }
}
