//! Peers that keep to no rule, at up to half of the swarm.

use minibit_core::sim::{Rates, Report, Role, Scenario};
use minibit_core::types::PieceSize;

use super::{checked, mean_rate};

/// Twenty peers and a seeder; that no honest peer is accused of anything is checked.
fn with(role: Role, part: f64) -> Report {
    checked(Scenario {
        leechers: 20,
        pieces: 40,
        piece_size: PieceSize::new(64 * 1024).expect("a size"),
        upload: Rates::Same(1e6),
        seeder_upload: 1e6,
        hostile: vec![(role, part)],
        ..Scenario::default()
    })
}

#[test]
fn whoever_asks_for_far_too_much_gets_no_more_than_others() {
    for part in [0.1, 0.25, 0.5] {
        let report = with(Role::Flooder, part);
        let (flooders, honest) =
            (mean_rate(&report, Role::Flooder), mean_rate(&report, Role::Leecher));
        assert!(flooders <= honest, "{flooders} instead of {honest}, {part} of them flood");
    }
}
