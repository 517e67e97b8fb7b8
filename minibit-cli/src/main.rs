//! The `minibit` command.

fn main() {}
