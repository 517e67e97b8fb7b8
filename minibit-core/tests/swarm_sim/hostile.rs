//! Peers that keep to no rule, at up to half of the swarm.

use minibit_core::sim::{Faults, Rates, Report, Role, Scenario};
use minibit_core::types::PieceSize;

use super::{checked, last, mean_rate};

/// Twenty peers and a seeder; that no honest peer is accused of anything is checked.
fn with(role: Role, part: f64) -> Report {
    checked(swarm(role, part))
}

fn swarm(role: Role, part: f64) -> Scenario {
    Scenario {
        leechers: 20,
        pieces: 40,
        piece_size: PieceSize::new(64 * 1024).expect("a size"),
        upload: Rates::Same(1e6),
        seeder_upload: 1e6,
        hostile: vec![(role, part)],
        ..Scenario::default()
    }
}

#[test]
fn whoever_asks_for_far_too_much_has_its_pieces_no_sooner_and_only_so_many_requests_are_kept() {
    // That no more are kept than may be is checked after every step.
    for part in [0.1, 0.25, 0.5] {
        let report = with(Role::Flooder, part);
        let (flooders, honest) =
            (mean_rate(&report, Role::Flooder), mean_rate(&report, Role::Leecher));
        // By no more than chance does.
        assert!(flooders <= 1.05 * honest, "{flooders} instead of {honest}, {part} of them flood");
    }
}

#[test]
fn whoever_asks_for_the_same_again_and_again_is_not_sent_it_again_and_again() {
    for part in [0.1, 0.25, 0.5] {
        let report = with(Role::Flooder, part);
        let share = report.scenario.share_len();
        // In the mean: what one of them gets more than another is chance. A piece more from each of
        // twenty neighbours is half of this small share.
        let came = report.of_role(Role::Flooder).map(|m| (m.downloaded + m.wasted) as f64);
        let came = came.sum::<f64>() / share / report.of_role(Role::Flooder).count() as f64;
        assert!(came <= 2.5, "{came} shares came, {part} of them flood");
    }
}

#[test]
fn a_corrupt_sender_is_believed_once_by_each_and_keeps_nobody_from_finishing() {
    for part in [0.1, 0.25, 0.5] {
        let report = with(Role::Corrupt, part);
        last(&report);
        let senders = report.of_role(Role::Corrupt).count() as u64;
        for (number, member) in report.of_role(Role::Leecher).enumerate() {
            let refused = member.refused;
            assert!(refused <= senders, "{number} got {refused} wrong pieces of {senders} senders");
        }
        assert_eq!(report.honest_banned(), 0);
        // But for one, perhaps, of which nobody happened to fetch a whole piece.
        let banned = report.of_role(Role::Corrupt).filter(|member| member.banned).count() as u64;
        assert!(banned + 1 >= senders, "{banned} of {senders}");
        let refused: u64 = report.of_role(Role::Leecher).map(|member| member.refused).sum();
        assert!(refused > 0, "nothing wrong was ever sent, {part} of them would");
    }
}

#[test]
fn corrupt_senders_spoil_little_where_connections_break_and_nobody_honest_is_accused() {
    // That no honest peer is accused is checked after every step.
    for part in [0.1, 0.25, 0.5] {
        let report = checked(Scenario {
            faults: Faults { broken_links: 300.0, ..Faults::default() },
            ..swarm(Role::Corrupt, part)
        });
        last(&report);
        let senders = report.of_role(Role::Corrupt).count() as u64;
        for (number, member) in report.of_role(Role::Leecher).enumerate() {
            let refused = member.refused;
            // Each may have a part in three wrong pieces, one by itself, and is banned for the next.
            assert!(refused <= 5 * senders, "{number} got {refused} wrong pieces of {senders}");
        }
    }
}

#[test]
fn whoever_lies_drips_or_only_takes_keeps_nobody_from_finishing() {
    for role in [Role::Liar, Role::Drip, Role::FreeRider, Role::LargeView] {
        for part in [0.1, 0.25, 0.5] {
            let report = with(role, part);
            last(&report);
            assert_eq!(report.honest_banned(), 0, "{part} of them are {role:?}");
        }
    }
}
