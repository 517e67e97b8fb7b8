//! Measures everything about `minibit` but the throughput of a large transfer (`transfer` does).
//!
//! ```text
//! cargo build --release && cargo run --release -p minibit-benches --bin cells -- CELL [OPTIONS]
//!   start      a small `get` from start to exit; `demo` until its slowest peer has all
//!   links      one transfer while 0, 50, 200 peers are linked to both its ends
//!   pieces     a share of a million pieces: time to link, memory for each piece and peer
//!   small      10,000 small files, and a mixed folder, beside tar over TCP
//!   hash       `share` until its ticket, and `verify`, beside b3sum
//!   sizes      memory of both ends at several sizes of file
//!   disks      a source that is not in memory; an output that is slow
//!   distance   1, 20, 100 ms over a line of 1 Gbit/s
//! every cell:
//!   --runs N           rounds (default: the cell's own)
//!   --dir DIR          where a directory for the files is made (default: the temporary one)
//!   --minibit PATH     the binary (default: beside this program)
//! ```
//!
//! The other options of a cell stand in its file's header. Real processes over loopback; medians
//! with min–max. Linux only.

mod disks;
mod distance;
mod hash;
mod links;
mod pieces;
mod sizes;
mod small;
mod start;

use minibit_benches::minibit::Minibit;
use minibit_benches::{Flags, Outcome, Scratch, machine};

/// What every cell is given.
struct Bench {
    minibit: Minibit,
    scratch: Scratch,
    flags: Flags,
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let cell = args.next().unwrap_or_default();
    let measure = match cell.as_str() {
        "start" => start::measure,
        "links" => links::measure,
        "pieces" => pieces::measure,
        "small" => small::measure,
        "hash" => hash::measure,
        "sizes" => sizes::measure,
        "disks" => disks::measure,
        "distance" => distance::measure,
        other => return Err(format!("no cell is called {other:?}").into()),
    };
    let mut flags = Flags::parse(args)?;
    let scratch = Scratch::new(&mut flags)?;
    let minibit = Minibit::new(&mut flags, &scratch)?;
    println!("{}\n", machine::describe());
    measure(Bench { minibit, scratch, flags })
}
