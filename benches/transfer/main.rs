//! Measures whole transfers between real processes: throughput, CPU, memory, messages.
//!
//! ```text
//! cargo build --release && cargo run --release -p minibit-benches --bin transfer -- [OPTIONS]
//!   --size MIB         size of the file (default 2048)
//!   --receivers N      receivers at once (default 1)
//!   --runs N           rounds; each runs every contender once (default 5)
//!   --ballast MIB      memory held before each run (default: what is written, and half as much)
//!   --beside A,B,…     contenders, in the order of a round (default: all of them)
//!   --lanes N          lanes of each link of minibit (default: as minibit chooses)
//!   --dir DIR          where a directory for the files is made (default: the temporary one)
//!   --minibit PATH     the binary (default: beside this program)
//! ```
//!
//! | contender | what it does |
//! |---|---|
//! | `cp` | the file into a fresh one, as often as there are receivers |
//! | `pipeline`, `pipeline-reused` | the least that a verified transfer can be: see `bare.rs` |
//! | `nginx` | nginx with sendfile, curl; nothing is verified |
//! | `libtorrent`, `rqbit`, `aria2` | BitTorrent with a tracker, by the settings in `rivals.rs` |
//! | `minibit` | `share` and `get` into a fresh file |
//! | `minibit-reused` | the same onto the pages of the last round's output: see `minibit::begin_again` |
//! | `minibit-one-lane` | the same as `minibit`, one connection |
//!
//! What is not installed is named and left out. All contenders of a round run one after the
//! other, so that drift of the machine hits all alike; ratios are taken within a round, and the
//! table gives median and min–max.
//!
//! Before each run the outputs of the one before are removed, what waits to be written back goes to the disk,
//! and memory is made ready (`ballast.rs` says why). The clock
//! runs from the start of the first receiver
//! until the last says that it is complete. After that the copies are compared with the source.

mod bare;
mod contender;
mod rivals;
mod table;

use minibit_benches::minibit::Minibit;
use minibit_benches::{Flags, Outcome, Scratch, machine, make_source};

use contender::{Contender, Setup};

fn main() -> Outcome<()> {
    let mut flags = Flags::parse(std::env::args().skip(1))?;
    let runs: usize = flags.get("runs", 5)?;
    let size = flags.get::<u64>("size", 2048)? << 20;
    let receivers = flags.get("receivers", 1)?;
    let written = size * receivers as u64;
    let ballast = flags.get::<u64>("ballast", (written + written / 2) >> 20)? << 20;
    let names: Vec<String> = flags.list("beside", &Contender::names())?;
    let scratch = Scratch::new(&mut flags)?;
    let mut minibit = Minibit::new(&mut flags, &scratch)?;
    if let Some(lanes) = flags.text("lanes") {
        minibit = minibit.with(&["--lanes", &lanes]);
    }
    flags.end()?;

    let source = scratch.join("source.bin");
    let setup = Setup { size, receivers, ballast, minibit, source, scratch };
    make_source(&setup.source, size)?;
    let mut contenders = Vec::new();
    for name in &names {
        match Contender::prepare(name, &setup) {
            Ok(contender) => contenders.push(contender),
            Err(why) => eprintln!("without {name}: {why}"),
        }
    }
    let mut rounds = Vec::new();
    for round in 1..=runs {
        let mut figures = Vec::new();
        for contender in &mut contenders {
            let name = contender.name;
            let one = contender.run(&setup).map_err(|error| format!("{name}: {error}"))?;
            eprintln!("round {round}: {name} {:.2} s", one.seconds);
            figures.push(one);
        }
        rounds.push(figures);
    }
    println!("{}\n", machine::describe());
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    table::print(&setup, &names, &rounds);
    Ok(())
}
