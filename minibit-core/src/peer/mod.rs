//! One link to one peer: what its messages mean, and what may be asked of it.
//!
//! A link is one or more connections ("lanes"). [`Session`] is the control of the link and
//! lives on the first lane; each lane has a [`Download`] and an [`Upload`] of its own, so
//! that lanes on different cores share nothing on the hot path. All of them are values:
//! messages and time go in, facts and verdicts come out, and the same code runs behind real
//! sockets and in a simulated swarm.
//!
//! Not here: which piece to fetch or whom to unchoke (`swarm`), sockets (`engine`).

mod chatter;
mod download;
pub mod facts;
mod handshake;
mod meter;
mod repeats;
mod session;
mod upload;

pub use chatter::Chatter;
pub(crate) use download::BLOCK_TIME;
pub use download::{Arrival, Download};
pub use facts::{Fact, Violation};
pub use handshake::{Agreed, HandshakeError, Introduction};
pub(crate) use meter::{FAR, LANE_WORTH};
pub use meter::{RateMeter, lanes_wanted};
pub use repeats::Repeats;
pub use session::Session;
pub use upload::Upload;
