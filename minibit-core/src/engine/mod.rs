//! placeholder

mod frames;
#[cfg_attr(not(test), expect(dead_code, reason = "the node comes with the next merge"))]
mod tracker_client;
#[cfg_attr(not(test), expect(dead_code, reason = "the node comes with the next merge"))]
mod tracker_server;
