//! What is on its way, of all connections.
//!
//! It is in one place because at any moment it is little, a small part of what there are connections,
//! and stays in the processor's cache; a queue of each connection's own would be cold whenever
//! something comes.
//!
//! What is sent over one line at the same moment arrives as one, but for what is sent apart.
//!
//! Invariant: what goes over one line arrives in the order in which it was sent.
//! Not here: who hears when something arrives (`world`), what it is (`pipe`).

use super::pipe::Item;

/// One way of a connection: the first and the last of what is on its way over it.
#[derive(Debug, Default)]
pub(super) struct Line(Option<(u32, u32)>);

impl Line {
    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[derive(Debug)]
struct Parcel {
    sent: u64,
    arrival: u64,
    /// Whether what comes next over the same line arrives with it.
    next_is_with_it: bool,
    /// What comes after it over the same line.
    next: Option<u32>,
    /// `None` once it has arrived.
    item: Option<Item>,
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Transit {
    parcels: Vec<Parcel>,
    /// Places of those that have arrived; what was freed last is used first.
    free: Vec<u32>,
}

impl Transit {
    /// Sends something over a line, to arrive then, or later if what was sent before it does. Returns when that is;
    /// nothing if it arrives with what was sent before it at the same moment.
    pub(super) fn send(
        &mut self,
        line: &mut Line,
        sent: u64,
        arrival: u64,
        item: Item,
    ) -> Option<u64> {
        if let Some((_, last)) = line.0
            && let last = &mut self.parcels[last as usize]
            && last.sent == sent
        {
            last.next_is_with_it = true;
            let arrival = last.arrival;
            self.send_apart(line, sent, arrival, item);
            return None;
        }
        Some(self.send_apart(line, sent, arrival, item))
    }

    /// The same, but it arrives apart from what was sent before.
    pub(super) fn send_apart(
        &mut self,
        line: &mut Line,
        sent: u64,
        arrival: u64,
        item: Item,
    ) -> u64 {
        let before = line.0.map(|(_, last)| self.parcels[last as usize].arrival);
        let arrival = before.map_or(arrival, |before| arrival.max(before));
        let place = self.keep(Parcel {
            sent,
            arrival,
            next_is_with_it: false,
            next: None,
            item: Some(item),
        });
        line.0 = Some(match line.0 {
            None => (place, place),
            Some((first, last)) => {
                self.parcels[last as usize].next = Some(place);
                (first, place)
            }
        });
        arrival
    }

    fn keep(&mut self, parcel: Parcel) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.parcels[place as usize] = parcel;
                place
            }
            None => {
                self.parcels.push(parcel);
                self.parcels.len() as u32 - 1
            }
        }
    }

    /// The oldest item on a line.
    pub(super) fn first(&self, line: &Line) -> Option<&Item> {
        let (first, _) = line.0?;
        self.parcels[first as usize].item.as_ref()
    }

    /// The oldest item on a line has arrived; and whether the next has with it.
    pub(super) fn take(&mut self, line: &mut Line) -> Option<(Item, bool)> {
        let (first, last) = line.0?;
        let parcel = &mut self.parcels[first as usize];
        line.0 = parcel.next.map(|next| (next, last));
        self.free.push(first);
        let next_is_with_it = parcel.next_is_with_it;
        parcel.item.take().map(|item| (item, next_is_with_it))
    }

    /// When what is on its way over a line arrives, in order; once for what arrives as one.
    pub(super) fn arrivals(&self, line: &Line) -> impl Iterator<Item = u64> + '_ {
        let mut next = line.0.map(|(first, _)| first);
        let mut next_is_with_it = false;
        let arrivals = std::iter::from_fn(move || {
            let parcel = &self.parcels[next? as usize];
            next = parcel.next;
            let is_first = !std::mem::replace(&mut next_is_with_it, parcel.next_is_with_it);
            Some(is_first.then_some(parcel.arrival))
        });
        arrivals.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    fn lanes(count: u8) -> Item {
        Item::Message(Message::Lanes(count))
    }

    fn number(taken: Option<(Item, bool)>) -> Option<u8> {
        match taken? {
            (Item::Message(Message::Lanes(count)), _) => Some(count),
            _ => None,
        }
    }

    #[test]
    fn lines_keep_their_order_and_share_the_places() {
        let (mut transit, mut a, mut b) = (Transit::default(), Line::default(), Line::default());
        assert_eq!(transit.send(&mut a, 1, 30, lanes(1)), Some(30));
        assert_eq!(transit.send(&mut b, 1, 20, lanes(2)), Some(20));
        // It may not overtake what was sent before it.
        assert_eq!(transit.send(&mut a, 2, 10, lanes(3)), Some(30));
        assert_eq!(transit.arrivals(&a).collect::<Vec<_>>(), [30, 30]);
        assert!(matches!(transit.first(&b), Some(Item::Message(Message::Lanes(2)))));
        assert_eq!(number(transit.take(&mut b)), Some(2));
        assert!(b.is_empty() && !a.is_empty());
        assert_eq!(number(transit.take(&mut a)), Some(1));
        // Nothing is before it any more.
        assert_eq!(transit.send(&mut b, 3, 5, lanes(4)), Some(5));
        assert_eq!(number(transit.take(&mut a)), Some(3));
        assert_eq!((number(transit.take(&mut a)), number(transit.take(&mut b))), (None, Some(4)));
        assert_eq!(transit.parcels.len(), 3);
    }

    #[test]
    fn what_is_sent_over_a_line_at_one_moment_arrives_as_one_and_what_is_put_on_it_by_itself() {
        let (mut transit, mut line) = (Transit::default(), Line::default());
        assert_eq!(transit.send(&mut line, 1, 30, lanes(1)), Some(30));
        assert_eq!(transit.send(&mut line, 1, 40, lanes(2)), None);
        assert_eq!(transit.send_apart(&mut line, 1, 50, lanes(3)), 50);
        assert_eq!(transit.send(&mut line, 1, 20, lanes(4)), None);
        assert_eq!(transit.send(&mut line, 2, 20, lanes(5)), Some(50));
        assert_eq!(transit.arrivals(&line).collect::<Vec<_>>(), [30, 50, 50]);
        let taken: Vec<bool> = std::iter::from_fn(|| transit.take(&mut line))
            .map(|(_, next_is_with_it)| next_is_with_it)
            .collect();
        assert_eq!(taken, [true, false, true, false, false]);
    }
}
