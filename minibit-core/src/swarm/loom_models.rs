//! The lock-free parts under every order of events that loom can think of.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p minibit-core --release --lib loom`.
