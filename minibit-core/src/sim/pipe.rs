//! A connection between two members: its ends, and what may be on its way between them.

use super::transit::Line;
use crate::trade::Told;
use crate::types::BlockSpan;
use crate::wire::{BlockHeader, Message, Register};

/// Payload bytes under way in one direction before the sender has to wait: what the buffers of
/// a connection hold.
pub(super) const UNDER_WAY_MAX: u32 = 1024 * 1024;

/// Something on its way.
#[derive(Debug)]
pub(super) enum Item {
    /// Whoever dials introduces itself.
    Hello(Box<Register>),
    /// The answer.
    Answer(Box<Register>),
    Message(Message),
    /// The head of a block, when the first byte of it is sent.
    Head(BlockHeader),
    /// Some bytes of it, while it waits for its turn on the receiver's way in.
    Part {
        span: BlockSpan,
        bytes: u32,
    },
    /// The rest of it, when the last byte of it has come.
    Body {
        span: BlockSpan,
        /// Bytes of it that were reported as they came.
        credited: u32,
        wrong: bool,
    },
    /// The other side has closed.
    Close,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) member: u32,
    /// Which of the member's lives it belongs to.
    pub(super) life: u32,
    /// The lane at this end, while there is one.
    pub(super) lane: Option<u32>,
    pub(super) open: bool,
    /// What is on its way to this end.
    pub(super) coming: Line,
    /// Payload bytes that this end has sent and the other has not got.
    pub(super) under_way: u32,
    /// A block is being sent from here; messages wait behind it.
    pub(super) sending: bool,
    pub(super) behind: Vec<Message>,
    /// What comes here is held up by a split of the network.
    pub(super) held_up: bool,
}

impl End {
    fn new(member: u32, life: u32) -> Self {
        Self {
            member,
            life,
            lane: None,
            open: true,
            coming: Line::default(),
            under_way: 0,
            sending: false,
            behind: Vec::new(),
            held_up: false,
        }
    }
}

/// A connection; end 0 made it.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) ends: [End; 2],
    /// What end 0 said of itself.
    pub(super) told: Told,
}

impl Pipe {
    pub(super) fn new(from: (u32, u32), to: (u32, u32)) -> Self {
        Self { told: Told::default(), ends: [End::new(from.0, from.1), End::new(to.0, to.1)] }
    }

    /// Whether it has lanes, or is about to have them.
    #[cfg(test)]
    pub(super) fn is_used(&self) -> bool {
        self.ends.iter().any(|end| end.lane.is_some() || !end.coming.is_empty())
    }

    /// Whether nobody will ever look at it again.
    pub(super) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| !end.open && end.coming.is_empty())
    }
}
