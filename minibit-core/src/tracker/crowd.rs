//! Peers of one share, and samples of them that no one owner of addresses can fill.
//!
//! Identities cost nothing and ports nearly so; what one machine cannot have at will is addresses.
//! So a sample takes addresses first and then a peer of each: three thousand registrations from one
//! address are one voice beside the seeder's. Among peers of different addresses, or all of one,
//! everybody is equally likely.
//!
//! Invariant: a peer is in a crowd once; a network without peers is not kept. A sample costs as
//! much as it is long, however large the crowd.

use std::collections::HashMap;
use std::net::IpAddr;

use super::registry::ConnId;
use super::sample::sample;
use crate::types::PeerId;
use crate::wire::PeerAddr;

/// A registered peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) conn: ConnId,
    pub(super) addr: PeerAddr,
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    networks: Vec<(IpAddr, Vec<Member>)>,
    /// Where in `networks` each lies.
    at: HashMap<IpAddr, usize>,
    /// Where in its network each peer lies.
    places: HashMap<PeerId, (IpAddr, usize)>,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, id: PeerId) -> Option<Member> {
        let (network, at) = self.place(id)?;
        Some(self.networks[network].1[at])
    }

    /// How many come from the network of this address.
    pub(super) fn of_network(&self, ip: IpAddr) -> usize {
        self.at.get(&network(ip)).map_or(0, |at| self.networks[*at].1.len())
    }

    /// Adds a member whose id is not here yet.
    pub(super) fn insert(&mut self, member: Member) {
        let ip = network(member.addr.ip);
        let at = *self.at.entry(ip).or_insert_with(|| {
            self.networks.push((ip, Vec::new()));
            self.networks.len() - 1
        });
        let members = &mut self.networks[at].1;
        members.push(member);
        self.places.insert(member.addr.id, (ip, members.len() - 1));
    }

    /// Takes a member out, if it is here.
    pub(super) fn remove(&mut self, id: PeerId) {
        let Some((at, place)) = self.place(id) else { return };
        self.places.remove(&id);
        let (ip, members) = &mut self.networks[at];
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            self.places.insert(moved.addr.id, (*ip, place));
        } else if members.is_empty() {
            self.at.remove(ip);
            self.networks.swap_remove(at);
            if let Some((moved, _)) = self.networks.get(at) {
                self.at.insert(*moved, at);
            }
        }
    }

    /// The place of its network, and its place there.
    fn place(&self, id: PeerId) -> Option<(usize, usize)> {
        let (ip, place) = self.places.get(&id)?;
        Some((*self.at.get(ip)?, *place))
    }

    /// Up to `count` others than this one, of as many networks as there are, in random order.
    pub(super) fn others_of(
        &self,
        id: PeerId,
        count: usize,
        rng: &mut fastrand::Rng,
    ) -> Vec<Member> {
        let itself = self.place(id);
        let count = count.min(self.len());
        let mut chosen = Vec::with_capacity(count);
        for (network, quota) in self.quotas(itself, count, rng) {
            let members = &self.networks[network].1;
            let except = itself.filter(|(own, _)| *own == network).map(|(_, place)| place);
            let places = sample(members.len(), except, quota, rng);
            chosen.extend(places.into_iter().map(|place| members[place]));
        }
        rng.shuffle(&mut chosen);
        chosen
    }

    /// How many to take of which network: of none a second one before each has given one.
    fn quotas(
        &self,
        itself: Option<(usize, usize)>,
        count: usize,
        rng: &mut fastrand::Rng,
    ) -> Vec<(usize, usize)> {
        let others = |network: usize| {
            let own = itself.is_some_and(|(own, _)| own == network);
            self.networks[network].1.len() - usize::from(own)
        };
        let alone = itself.map(|(own, _)| own).filter(|own| others(*own) == 0);
        let mut quotas: Vec<_> = sample(self.networks.len(), alone, count, rng)
            .into_iter()
            .map(|network| (network, 1))
            .collect();
        let mut left = count.saturating_sub(quotas.len());
        let mut open: Vec<usize> = (0..quotas.len()).collect();
        while left > 0 && !open.is_empty() {
            open.retain(|at| {
                let (network, quota) = &mut quotas[*at];
                let takes = left > 0 && *quota < others(*network);
                *quota += usize::from(takes);
                left -= usize::from(takes);
                takes
            });
        }
        quotas
    }
}

/// What one owner of addresses is counted by: an IPv4 address, or the /64 network of IPv6, in
/// which one machine may have any address it likes.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Peer `number` at an address that ends so.
    fn member(number: u64, last: u8) -> Member {
        let ip = IpAddr::from([192, 0, 2, last]);
        let addr = PeerAddr { id: PeerId::numbered(number), ip, port: 4000 };
        Member { conn: ConnId(number), addr }
    }

    #[test]
    fn a_flood_from_one_address_hides_nobody() {
        let mut crowd = Crowd::default();
        (0..3000).for_each(|number| crowd.insert(member(number, 1)));
        crowd.insert(member(5000, 2));
        let rng = &mut fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let seen = crowd.others_of(PeerId::numbered(9999), 50, rng);
            assert_eq!(seen.len(), 50);
            assert!(seen.contains(&member(5000, 2)));
        }
    }

    proptest! {
        #[test]
        fn a_sample_has_others_once_each_and_no_network_gives_two_while_one_gives_none(
            peers in prop::collection::btree_map(0u64..40, 1u8..6, 0..30),
            gone in prop::collection::vec(0u64..40, 0..20),
            count in 0usize..40, asker in 0u64..45, seed: u64,
        ) {
            let mut crowd = Crowd::default();
            peers.iter().for_each(|(number, last)| crowd.insert(member(*number, *last)));
            let mut here = peers;
            for number in gone {
                here.remove(&number);
                crowd.remove(PeerId::numbered(number));
            }
            prop_assert_eq!(crowd.len(), here.len());
            for (number, last) in &here {
                prop_assert_eq!(crowd.get(PeerId::numbered(*number)), Some(member(*number, *last)));
                let ip = member(0, *last).addr.ip;
                let of_network = here.values().filter(|other| *other == last).count();
                prop_assert_eq!(crowd.of_network(ip), of_network);
            }
            let rng = &mut fastrand::Rng::with_seed(seed);
            let seen = crowd.others_of(PeerId::numbered(asker), count, rng);
            here.remove(&asker);
            prop_assert_eq!(seen.len(), count.min(here.len()));
            let numbers: BTreeSet<_> = seen.iter().map(|member| member.conn.0).collect();
            prop_assert_eq!(numbers.len(), seen.len());
            prop_assert!(numbers.iter().all(|number| here.contains_key(number)));
            let given = |last: u8| numbers.iter().filter(|number| here[number] == last).count();
            let of: BTreeSet<u8> = here.values().copied().collect();
            let most = of.iter().map(|last| given(*last)).max().unwrap_or(0);
            for last in of {
                let all = here.values().filter(|other| **other == last).count();
                prop_assert!(given(last) + 1 >= most.min(all), "{last} gave {}", given(last));
            }
        }
    }
}
