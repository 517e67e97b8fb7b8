//! Peers and trackers that lie, stall, flood and break off, against real nodes over real sockets.
//!
//! The other side of each test is scripted: it speaks the real protocol (`scripted`, `holder`)
//! and breaks one rule of it. `docs/protocol.md` section 7 and the tables of bad input say what
//! must follow; after it an honest transfer on the same node still has to come through.
//!
//! ```text
//! world     shares, nodes, waiting          scripted  one connection, frame by frame
//! leechers  who connects and misbehaves     holder    a scripted peer that holds the share
//! liars     who holds and lies              sources   files edited while they are shared
//! lanes     pieces given up in the middle  selections  one share, file by file
//! trackers  hostile ones, and hostile peers at an honest one
//! rules     rules that no lie would show: whom to ask first, whom to answer, when to part
//! ```

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod holder;
mod lanes;
mod leechers;
mod liars;
mod rules;
mod scripted;
mod selections;
mod sources;
mod trackers;
mod world;
