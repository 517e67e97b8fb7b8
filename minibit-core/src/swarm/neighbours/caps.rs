//! How many links to have, how many of our own choice, and how fast to try for them.

/// How many links to have, and how fast to try for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Links at most, whoever made them.
    pub links_max: usize,
    /// We dial listed addresses while there are fewer links than this.
    pub links_aim: usize,
    /// And while there are fewer than this that we have made ourselves, however many others have: whoever connects to
    /// us is not our choice, and those who take and never give may be first with everybody. As long as there is
    /// somebody to dial, so many places are for these, a quarter of all at most; and as many again at most in place of those
    /// of these links that are with who only takes.
    pub links_made: usize,
    /// We dial addresses that were only pushed (NOVO_PEER) while there are fewer links than
    /// this: whoever is new dials us, so we need not both do it.
    pub links_min: usize,
    /// But we dial nobody in the first two seconds while there are this many.
    pub links_first: usize,
    /// Dials under way at once.
    pub dials_max: usize,
}

impl Caps {
    /// The same for a share of so many pieces: where there is little to trade it may be over
    /// before many links are made, and making them would be most of the work. To begin with one
    /// for every 32 pieces, at least 3.
    pub fn for_share(self, pieces: u32) -> Self {
        Self { links_first: (pieces as usize / 32).max(3), ..self }
    }

    /// The same for a node that may have no more connections than this in each share, those that
    /// it is making included: with fewer links it dials fewer, so that others find room.
    #[must_use]
    pub fn within(self, connections: usize) -> Self {
        let dials_max = self.dials_max.min(connections / 8).max(1);
        let links_max = self.links_max.min(connections.saturating_sub(dials_max)).max(1);
        Self {
            links_max,
            links_aim: self.links_aim.min(links_max.div_ceil(2)),
            links_min: self.links_min.min(links_max.div_ceil(2)),
            dials_max,
            ..self
        }
    }

    /// The classic setting: the tracker's sample, and no more dials once 4 links are there.
    pub fn classic() -> Self {
        Self { links_min: 4, ..Self::default() }
    }
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            links_max: 200,
            links_aim: 40,
            links_made: 20,
            links_min: 8,
            links_first: 40,
            dials_max: 16,
        }
    }
}
