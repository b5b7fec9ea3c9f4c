//! Allocates a link to those who want to send, by strict priority. Pure and stateless.

use super::units::Bytes;

/// What one flow could send now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// The least comes first; equal ones share evenly.
    pub(super) priority: u64,
    /// The most that it could send.
    pub(super) wanted: Bytes,
}

/// Divides `available` among `demands`; returns the allocations in the same order. Nobody gets more than it wants, their sum is `available`
/// at most, and a priority gets something only once all before it have what they want. Of equal priority, whoever wants less than an even
/// share leaves the rest to the others.
pub(super) fn allocate(available: Bytes, demands: &[Demand]) -> Vec<Bytes> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    // Within a priority the smallest demand first: what it leaves is known when the others get theirs.
    order.sort_by(|a, b| {
        let (a, b) = (&demands[*a], &demands[*b]);
        a.priority.cmp(&b.priority).then(a.wanted.get().total_cmp(&b.wanted.get()))
    });
    let mut allocated = vec![Bytes::ZERO; demands.len()];
    let mut left = available.max(Bytes::ZERO);
    for (n, index) in order.iter().enumerate() {
        let demand = &demands[*index];
        let sharing = order[n..].iter().take_while(|other| demands[**other].priority == demand.priority).count();
        let part = demand.wanted.max(Bytes::ZERO).min(left * (1.0 / sharing as f64));
        allocated[*index] = part;
        left -= part;
    }
    allocated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(available: f64, demands: &[(u64, f64)], expected: &[f64]) {
        let demands: Vec<_> = demands
            .iter()
            .map(|(priority, wanted)| Demand { priority: *priority, wanted: Bytes::new(*wanted) })
            .collect();
        let allocated: Vec<f64> = allocate(Bytes::new(available), &demands).into_iter().map(Bytes::get).collect();
        assert_eq!(allocated, expected);
    }

    #[test]
    fn the_first_priority_comes_first_and_equal_ones_share() {
        check(100.0, &[], &[]);
        check(100.0, &[(2, 60.0), (1, 70.0)], &[30.0, 70.0]);
        check(100.0, &[(1, 120.0), (0, 10.0), (1, 20.0), (1, 120.0)], &[35.0, 10.0, 20.0, 35.0]);
        check(-100.0, &[(0, 10.0)], &[0.0]);
    }

    proptest! {
        #[test]
        fn allocations_are_bounded_strict_and_fair(
            available in -1e6..1e6f64,
            demands in prop::collection::vec((0..4u64, -1e5..1e6f64), 0..12),
        ) {
            let demands: Vec<_> =
                demands.into_iter().map(|(priority, wanted)| Demand { priority, wanted: Bytes::new(wanted) }).collect();
            let allocated = allocate(Bytes::new(available), &demands);
            let sum = allocated.iter().copied().sum::<Bytes>().get();
            prop_assert!(sum <= available.max(0.0) * (1.0 + 1e-9), "{sum} of {available}");
            for (a, got) in demands.iter().zip(&allocated) {
                prop_assert!(*got >= Bytes::ZERO && *got <= a.wanted.max(Bytes::ZERO));
                for (b, other) in demands.iter().zip(&allocated) {
                    let is_short = got.get() < a.wanted.get() - 1e-6;
                    prop_assert!(!is_short || b.priority <= a.priority || other.get() < 1e-6, "a later priority starves an earlier one");
                    prop_assert!(!is_short || b.priority != a.priority || other.get() <= got.get() + 1e-6, "{other:?} beside {got:?}");
                }
            }
        }
    }
}
