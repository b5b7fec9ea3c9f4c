//! The connections that may be evicted, by address: which one goes first. Every operation takes logarithmic time, since a flood of
//! connections makes one for each.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The connections of all addresses that may be evicted. A connection is a number that rises with time.
#[derive(Debug)]
pub(super) struct EvictionOrder {
    /// Of the connections of one address, these go first.
    first: Evictable,
    by_address: HashMap<IpAddr, AddressGroup>,
    /// Of each address: size of its group, whether it has one of those that go first, and the connection that goes first. The last one is the next to
    /// go.
    order: BTreeSet<(usize, bool, Reverse<u64>, IpAddr)>,
    /// The same of the addresses of which a subscriber waits.
    waiting_order: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct AddressGroup {
    waiting: BTreeSet<u64>,
    undeclared: BTreeSet<u64>,
}

/// Why a connection may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evictable {
    /// It has not sent its request.
    Undeclared,
    /// It is a subscriber that waits.
    Waiting,
}

impl EvictionOrder {
    /// No connections. Of those of one address, the connections of the kind `first` go first.
    pub(super) fn new(first: Evictable) -> Self {
        let (by_address, order, waiting_order) = Default::default();
        Self { first, by_address, order, waiting_order }
    }

    /// Number of connections of `address`.
    pub(super) fn size(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, AddressGroup::len)
    }

    pub(super) fn add(&mut self, address: IpAddr, id: u64, why: Evictable) {
        self.change(address, |group| group.set(why).insert(id));
    }

    pub(super) fn remove(&mut self, address: IpAddr, id: u64, why: Evictable) {
        self.change(address, |group| group.set(why).remove(&id));
    }

    /// The connection that goes first: of the address with the most of them, those of the kind that goes first, the oldest before younger
    /// ones. `None` if no address has at least `least`.
    pub(super) fn first(&self, least: usize) -> Option<u64> {
        let (size, _, Reverse(id), _) = self.order.last()?;
        (*size >= least).then_some(*id)
    }

    /// The same among waiting subscribers only.
    pub(super) fn first_waiting(&self, least: usize) -> Option<u64> {
        let (size, Reverse(id), _) = self.waiting_order.last()?;
        (*size >= least).then_some(*id)
    }

    fn change(&mut self, address: IpAddr, edit: impl FnOnce(&mut AddressGroup) -> bool) {
        let first = self.first;
        let rank = |group: &AddressGroup| {
            let id = group.first(first)?;
            Some((group.len(), !group.of(first).is_empty(), Reverse(id), address))
        };
        let waiting_rank = |group: &AddressGroup| Some((group.len(), Reverse(*group.waiting.first()?), address));
        let group = self.by_address.entry(address).or_default();
        if let Some(rank) = rank(group) {
            self.order.remove(&rank);
        }
        if let Some(rank) = waiting_rank(group) {
            self.waiting_order.remove(&rank);
        }
        edit(group);
        self.order.extend(rank(group));
        self.waiting_order.extend(waiting_rank(group));
        if group.len() == 0 {
            self.by_address.remove(&address);
        }
    }
}

impl AddressGroup {
    fn len(&self) -> usize {
        self.waiting.len() + self.undeclared.len()
    }

    fn first(&self, first: Evictable) -> Option<u64> {
        self.of(first).first().or(self.waiting.first()).or(self.undeclared.first()).copied()
    }

    fn of(&self, why: Evictable) -> &BTreeSet<u64> {
        match why {
            Evictable::Undeclared => &self.undeclared,
            Evictable::Waiting => &self.waiting,
        }
    }

    fn set(&mut self, why: Evictable) -> &mut BTreeSet<u64> {
        match why {
            Evictable::Undeclared => &mut self.undeclared,
            Evictable::Waiting => &mut self.waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn the_largest_group_goes_first_and_waiting_subscribers_before_others() {
        use Evictable::{Undeclared, Waiting};
        let mut order = EvictionOrder::new(Waiting);
        assert_eq!((order.first(0), order.first_waiting(0)), (None, None));
        for (id, address, why) in
            [(1, 1, Undeclared), (2, 2, Waiting), (3, 3, Undeclared), (4, 3, Undeclared), (5, 4, Waiting)]
        {
            order.add(ip(address), id, why);
        }
        assert_eq!((order.first(0), order.first(2), order.first(3)), (Some(3), Some(3), None));
        assert_eq!((order.first_waiting(1), order.first_waiting(2)), (Some(2), None));
        order.remove(ip(3), 3, Undeclared);
        assert_eq!(order.first(0), Some(2), "of equal order a waiting subscriber, the oldest");
        order.remove(ip(2), 2, Waiting);
        order.remove(ip(4), 5, Waiting);
        assert_eq!((order.first(0), order.first_waiting(0)), (Some(1), None));
    }

    /// An address, whether the connection waits, whether one is added, and which one is removed otherwise.
    fn step() -> impl Strategy<Value = (u8, bool, bool, prop::sample::Index)> {
        (0u8..4, any::<bool>(), any::<bool>(), any::<prop::sample::Index>())
    }

    fn agrees_with_a_search_of_all(
        kind: Evictable,
        steps: &[(u8, bool, bool, prop::sample::Index)],
    ) -> Result<(), TestCaseError> {
        let mut order = EvictionOrder::new(kind);
        let mut all: Vec<(u64, IpAddr, Evictable)> = Vec::new();
        for (id, (address, waits, adds, which)) in (0..).zip(steps.iter().copied()) {
            let why = if waits { Evictable::Waiting } else { Evictable::Undeclared };
            if adds || all.is_empty() {
                order.add(ip(address), id, why);
                all.push((id, ip(address), why));
            } else {
                let (id, address, why) = all.swap_remove(which.index(all.len()));
                order.remove(address, id, why);
            }
            let size = |address| all.iter().filter(|(_, other, _)| *other == address).count();
            let waits = |why| why == Evictable::Waiting;
            let rank = |(id, address, why): &&(u64, IpAddr, Evictable)| {
                let has_first = all.iter().any(|(_, other, why)| other == address && *why == kind);
                (size(*address), has_first, *why == kind, Reverse(*id))
            };
            let first = all.iter().max_by_key(rank).map(|(id, ..)| *id);
            prop_assert_eq!(order.first(0), first);
            let waiting = all.iter().filter(|(_, _, why)| waits(*why));
            let first = waiting.max_by_key(|(id, address, _)| (size(*address), Reverse(*id))).map(|(id, ..)| *id);
            prop_assert_eq!(order.first_waiting(0), first);
            for (_, address, _) in &all {
                prop_assert_eq!(order.size(*address), size(*address));
            }
        }
        for (id, address, why) in all {
            order.remove(address, id, why);
        }
        prop_assert!(order.by_address.is_empty() && order.order.is_empty() && order.waiting_order.is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_search_of_all(steps in prop::collection::vec(step(), 1..80)) {
            for kind in [Evictable::Waiting, Evictable::Undeclared] {
                agrees_with_a_search_of_all(kind, &steps)?;
            }
        }
    }
}
