//! One link's state under any order of messages, requests, blocks and time.
//!
//! Laws: no panic; every number in a fact lies inside the share; an upload queue holds what was
//! asked for and is no crumb, in order, at most its cap, and while choking only the rest of a piece that was begun; a download takes exactly the
//! blocks it asked for, in order, and its count of bytes in flight is that of a plain list.

#![no_main]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use minibit_core::peer::{Arrival, Download, Fact, Session, Upload, Violation};
use minibit_core::types::{BlockSpan, Geometry, PeerId, PieceSize, limits};
use minibit_core::wire::{BlockHeader, Holdings, Message, RawBlock, RefuseReason, Run};

/// Bytes of a piece, and twice those of a block.
const PIECE: u32 = 32 * 1024;
const BLOCK: u32 = PIECE / 2;
/// The share: whole pieces and a short one.
const PIECES: u32 = 20;
const SHARE_LEN: u64 = (PIECES as u64 - 1) * PIECE as u64 + 5;

#[derive(Arbitrary, Debug)]
enum Op {
    Bitmap(Vec<u8>),
    News(Vec<(u8, u8)>),
    NewsFar(u64, u64),
    Withdraw(Vec<(u8, u8)>),
    Suggest(Vec<(u8, u8)>),
    Plain(u8),
    StrangersGoodbye(u8),
    NewsTold(u8),
    Request(Vec<(u8, bool)>),
    RequestFar(u64, u64, u64),
    Cancel(Vec<(u8, bool)>),
    Choke(bool),
    Send,
    Ask(u8),
    NextBlock { bytes: u16, done: bool },
    AnyBlock { piece: u8, offset: u32, len: u32 },
    Refused(u8),
    GiveUp(u8),
    GiveUpAll,
    Wait(u16),
}

/// The values under test beside the plain lists that judge them.
struct Link {
    geometry: Arc<Geometry>,
    now: Duration,
    session: Session,
    upload: Upload,
    download: Download,
    choking: bool,
    to_send: VecDeque<BlockSpan>,
    /// Piece and end of the block that was sent last.
    sent: Option<(u32, u32)>,
    asked: VecDeque<BlockSpan>,
}

fuzz_target!(|ops: Vec<Op>| {
    let size = PieceSize::new(PIECE).expect("a piece size");
    let geometry = Arc::new(Geometry::new(size, [SHARE_LEN]).expect("a share"));
    let now = Duration::from_secs(1);
    let mut link = Link {
        session: Session::new(Arc::clone(&geometry), PeerId::numbered(2), false, now),
        upload: Upload::default(),
        download: Download::new(BLOCK, now),
        geometry,
        now,
        choking: false,
        to_send: VecDeque::new(),
        sent: None,
        asked: VecDeque::new(),
    };
    for op in ops {
        // A violation ends the link.
        if link.apply(op).is_err() {
            return;
        }
        link.check();
    }
});

fn runs(pairs: &[(u8, u8)]) -> Vec<Run> {
    pairs
        .iter()
        .map(|(first, count)| Run { first: (*first).into(), count: (*count).into() })
        .collect()
}

/// A block of the share, or just beyond it.
fn raw((piece, second): (u8, bool)) -> RawBlock {
    let piece = u64::from(piece % (PIECES as u8 + 1));
    let (offset, len) = if piece == u64::from(PIECES) - 1 { (0, 5) } else { (0, BLOCK) };
    let offset = if second && len == BLOCK { BLOCK } else { offset };
    RawBlock { piece, offset: offset.into(), len: len.into() }
}

impl Link {
    fn apply(&mut self, op: Op) -> Result<(), Violation> {
        let id = PeerId::numbered(2);
        match op {
            Op::Bitmap(bytes) => self.hear(Message::Have { id, holdings: Holdings::Bitmap(bytes) }),
            Op::News(pairs) => {
                self.hear(Message::Have { id, holdings: Holdings::News(runs(&pairs)) })
            }
            Op::NewsFar(first, count) => {
                let news = vec![Run { first, count }];
                self.hear(Message::Have { id, holdings: Holdings::News(news) })
            }
            Op::Withdraw(pairs) => self.hear(Message::Withdraw(runs(&pairs))),
            Op::Suggest(pairs) => self.hear(Message::Suggest(runs(&pairs))),
            Op::Plain(number) => self.hear(match number % 9 {
                0 => Message::Interested,
                1 => Message::NotInterested,
                2 => Message::Choke,
                3 => Message::Unchoke,
                4 => Message::KeepAlive,
                5 => Message::Unknown,
                6 => Message::Lanes(number),
                7 => Message::Goodbye { id, reason: None },
                _ => Message::Announce { id, complete: true },
            }),
            Op::StrangersGoodbye(number) => {
                let id = PeerId::numbered(number.into());
                self.hear(Message::Goodbye { id, reason: Some("bye".into()) })
            }
            Op::NewsTold(fresh) => self.session.on_news_applied(fresh.into()),
            Op::Request(blocks) => self.asked_for(&blocks.into_iter().map(raw).collect::<Vec<_>>()),
            Op::RequestFar(piece, offset, len) => {
                self.asked_for(&[RawBlock { piece, offset, len }])
            }
            Op::Cancel(blocks) => {
                let blocks: Vec<_> = blocks.into_iter().map(raw).collect();
                self.upload.on_cancel(&blocks);
                self.to_send.retain(|span| !blocks.contains(&RawBlock::from(*span)));
                Ok(())
            }
            Op::Choke(choking) => {
                self.choking = choking;
                if choking {
                    self.upload.on_choking();
                    for span in std::mem::take(&mut self.to_send) {
                        if self.goes_on(span) {
                            self.to_send.push_back(span);
                        }
                    }
                }
                Ok(())
            }
            Op::Send => {
                let next = self.to_send.pop_front();
                assert_eq!(self.upload.take_next(), next);
                self.sent = next.map(|span| (span.piece().get(), span.end())).or(self.sent);
                Ok(())
            }
            Op::Ask(first) => self.ask(first),
            Op::NextBlock { bytes, done } => self.next_block(bytes.into(), done),
            Op::AnyBlock { piece, offset, len } => self.any_block(piece.into(), offset, len),
            Op::Refused(number) => {
                self.refused(number.into());
                Ok(())
            }
            Op::GiveUp(piece) => {
                if let Some(piece) = self.geometry.piece(piece.into()) {
                    self.download.give_up(piece);
                    self.asked.retain(|span| span.piece() != piece);
                }
                Ok(())
            }
            Op::GiveUpAll => {
                for piece in self.download.pieces() {
                    self.download.give_up(piece);
                }
                self.asked.clear();
                Ok(())
            }
            Op::Wait(millis) => {
                self.now += Duration::from_millis(millis.into());
                Ok(())
            }
        }
    }

    fn hear(&mut self, message: Message) -> Result<(), Violation> {
        self.session.heard(self.now);
        match self.session.on_message(message)? {
            Fact::Gained(runs) | Fact::Withdrew(runs) => {
                assert!(runs.iter().all(|run| run.start < run.end && run.end <= PIECES));
            }
            Fact::Holds(set) => assert!(set.iter().all(|piece| piece < PIECES)),
            Fact::WantsLanes(lanes) => assert!((1..=limits::LANES_MAX).contains(&lanes)),
            _ => {}
        }
        Ok(())
    }

    /// The other side asks; we hold the even pieces.
    /// Whether a block is the next of the piece that was begun.
    fn goes_on(&self, span: BlockSpan) -> bool {
        let piece = span.piece().get();
        let of_it = |last: &&BlockSpan| last.piece().get() == piece;
        self.sent.is_some_and(|(begun, end)| {
            let end = self.to_send.back().filter(of_it).map_or(end, |last| last.end());
            begun == piece && end == span.offset()
        })
    }

    fn asked_for(&mut self, blocks: &[RawBlock]) -> Result<(), Violation> {
        let held = |piece: u32| piece % 2 == 0;
        let refusals =
            self.upload.on_request(blocks, &self.geometry, BLOCK, self.choking, |piece| {
                held(piece.get())
            })?;
        let mut refused = 0;
        for raw in blocks {
            let span = self.geometry.block(raw.piece, raw.offset, raw.len).expect("was checked");
            let room = self.to_send.len() < limits::REQUESTS_IN_FLIGHT_MAX;
            let ends_piece = span.end() >= self.geometry.piece_len(span.piece());
            let is_crumb = span.len() < limits::REQUEST_LEN_MIN && !ends_piece;
            let answered = !self.choking || self.goes_on(span);
            if answered && held(span.piece().get()) && room && !is_crumb {
                self.to_send.push_back(span);
            } else {
                refused += 1;
            }
        }
        let told: usize = refusals
            .iter()
            .map(|refusal| match refusal {
                Message::Refuse { blocks, .. } => blocks.len(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(told, refused, "each block is queued or refused");
        Ok(())
    }

    /// We ask for pieces from `first` on that we are not asking for yet.
    fn ask(&mut self, first: u8) -> Result<(), Violation> {
        let busy = self.download.pieces();
        let mut free =
            self.geometry.pieces().skip(first.into()).filter(|piece| !busy.contains(piece));
        let new = self.download.top_up(&self.geometry, self.now, || free.next().map(|piece| (piece, 0)));
        self.asked.extend(&new);
        Ok(())
    }

    /// The block comes that must come next, or a part of it.
    fn next_block(&mut self, bytes: u32, done: bool) -> Result<(), Violation> {
        let Some(span) = self.asked.front().copied() else { return Ok(()) };
        let arrival = self.download.on_block(&BlockHeader::of(span), &self.geometry, self.now)?;
        assert_eq!(arrival, Arrival::Take { span });
        self.download.on_bytes(bytes.min(span.len()), self.now);
        if done {
            self.download.on_block_done(span);
            self.asked.pop_front();
        }
        Ok(())
    }

    fn any_block(&mut self, piece: u32, offset: u32, len: u32) -> Result<(), Violation> {
        let header = BlockHeader { piece, offset, len };
        let taken = match self.download.on_block(&header, &self.geometry, self.now)? {
            Arrival::Take { span } => Some(span),
            _ => None,
        };
        let due = self.asked.front().copied().filter(|span| BlockHeader::of(*span) == header);
        assert_eq!(taken, due, "taken exactly if it is the next one asked for");
        Ok(())
    }

    /// The upper half of the numbers is refused by a peer that chokes.
    fn refused(&mut self, number: usize) {
        let reason = if number < 128 { RefuseReason::TooMany } else { RefuseReason::Choked };
        let asked = self.asked.get(number % 128);
        let blocks: Vec<RawBlock> = asked.map(|span| RawBlock::from(*span)).into_iter().collect();
        let gone = self.download.on_refused(&blocks, reason);
        // None if it was given up once before: then the refusal may be for the older request.
        assert!(gone.len() <= blocks.len());
        self.asked.retain(|span| !gone.contains(&span.piece()));
    }

    fn check(&self) {
        assert!(self.to_send.len() <= limits::REQUESTS_IN_FLIGHT_MAX);
        assert_eq!(self.upload.peek(), self.to_send.front().copied());
        assert_eq!(self.upload.is_empty(), self.to_send.is_empty());
        let in_flight: u64 = self.asked.iter().map(|span| u64::from(span.len())).sum();
        assert_eq!(self.download.in_flight(), in_flight);
        // A piece of which blocks are still to be asked for is not nothing.
        assert_eq!(self.download.is_idle(), self.download.pieces().is_empty());
        assert!(!self.download.is_idle() || self.asked.is_empty());
        assert!(self.session.next_check() >= Duration::from_secs(1));
        let _ = (self.download.deadline(), self.download.expected_rest(self.now));
        let _ = (self.session.is_dead(self.now), self.session.keep_alive_due(self.now));
    }
}
