//! How much a link takes of what is handed to it, told by how long that waits: pure.
//!
//! What is handed over while the wait grows arrives over a longer time than it was handed over in, by just so much as the wait grew. So
//! bytes by that longer time is what the link takes, before the queue has grown to anything that would be felt. Once there has been a queue
//! for a while, there is a better measure: what has arrived meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The last seconds of one link.
#[derive(Debug, Default)]
pub(crate) struct DeliveryRateEstimator {
    looks: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// All bytes by then.
    all: f64,
    /// Those that were known to have arrived.
    arrived: f64,
    /// How long the last of which that is known waited.
    wait: Duration,
}

impl DeliveryRateEstimator {
    /// So many `bytes` went since the last look; what is known of now waited for `wait` on a way that takes `way` there and back.
    pub(crate) fn note(&mut self, bytes: f64, wait: Duration, way: Duration, now: Instant) {
        let last = self.looks.back().copied();
        let all = last.map_or(0.0, |last| last.all) + bytes;
        self.looks.push_back(Sample { at: now, all, arrived: 0.0, wait });
        let arrived = now.checked_sub(wait + way).map_or(0.0, |then| self.handed_by(then));
        if let Some(look) = self.looks.back_mut() {
            look.arrived = arrived.max(last.map_or(0.0, |last| last.arrived));
        }
        while self.looks.len() > MOST {
            self.looks.pop_front();
        }
    }

    /// So many bytes went besides before the looks so far, the last of them first.
    pub(crate) fn note_before(&mut self, bytes: impl IntoIterator<Item = f64>) {
        for (n, bytes) in bytes.into_iter().enumerate() {
            let since = self.looks.len().saturating_sub(1 + n);
            self.looks.range_mut(since..).for_each(|look| look.all += bytes);
        }
    }

    /// All bytes by `then`, evenly between two looks; before the first, none.
    fn handed_by(&self, then: Instant) -> f64 {
        let after = self.looks.partition_point(|look| look.at <= then);
        let Some(before) = after.checked_sub(1).map(|last| self.looks[last]) else { return 0.0 };
        let Some(next) = self.looks.get(after) else { return before.all };
        let part = (then - before.at).as_secs_f64() / (next.at - before.at).as_secs_f64();
        before.all + (next.all - before.all) * part
    }

    /// How much the link takes, in bytes per second; of one that is not full, what there was. Since the moment that gives most: a link that was idle
    /// before its queue began takes more than it took then. `None` in the beginning.
    pub(crate) fn rate(&self) -> Option<f64> {
        let to = self.looks.back()?;
        let since = |from: &Sample| {
            let time = to.at.saturating_duration_since(from.at);
            // A wait that falls is told late, and would make a narrow link of no width at all.
            let arriving = time.as_secs_f64() + (to.wait.as_secs_f64() - from.wait.as_secs_f64()).max(0.0);
            (time >= LEAST).then(|| (to.all - from.all) / arriving)
        };
        let older = self.looks.partition_point(|look| to.at.saturating_duration_since(look.at) >= OVER);
        self.looks.iter().skip(older.saturating_sub(1)).filter_map(since).max_by(f64::total_cmp)
    }

    /// How much has arrived since there is a queue, in bytes per second: all that the link takes. `None` while there is none, or not for long
    /// enough.
    pub(crate) fn full(&self) -> Option<f64> {
        let to = self.looks.back()?;
        let queued = self.looks.iter().rev().take_while(|look| look.wait >= QUEUED);
        let from = queued.take_while(|look| to.at.saturating_duration_since(look.at) <= FULL_OVER).last()?;
        let time = to.at.saturating_duration_since(from.at);
        (time >= FULL_LEAST).then(|| (to.arrived - from.arrived) / time.as_secs_f64())
    }
}

/// Several pictures and pings: less is a burst's, more is another time's.
const OVER: Duration = Duration::from_millis(500);
/// Less tells nothing.
const LEAST: Duration = Duration::from_millis(90);
/// A wait that is a queue's: less is pictures' that meet.
const QUEUED: Duration = Duration::from_millis(20);
/// What has arrived is measured over so long at least and at most: two pictures are an accident.
const FULL_LEAST: Duration = Duration::from_millis(190);
const FULL_OVER: Duration = Duration::from_millis(600);
/// Looks that are kept: six seconds of them, and more waits in no queue.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(looks: &[(u64, f64, u64)], taken: Option<f64>) {
        let start = Instant::now();
        let mut of = DeliveryRateEstimator::default();
        for (at, bytes, wait) in looks {
            of.note(*bytes, Duration::from_millis(*wait), Duration::ZERO, start + Duration::from_millis(*at));
        }
        assert_eq!(of.rate().map(f64::round), taken);
    }

    #[test]
    fn what_a_growing_wait_tells() {
        check(&[], None);
        check(&[(0, 500.0, 0)], None);
        check(&[(0, 500.0, 0), (20, 100.0, 0)], None);
        // No queue: the link takes what there is.
        check(&[(0, 0.0, 0), (100, 100.0, 0), (200, 100.0, 0)], Some(1000.0));
        // Two fit in the time of three.
        check(&[(0, 0.0, 0), (100, 300.0, 50), (200, 300.0, 100)], Some(2000.0));
        // It was idle before.
        check(&[(0, 0.0, 0), (100, 0.0, 0), (200, 300.0, 50)], Some(2000.0));
        // A queue that is being emptied tells no more than what was handed over.
        check(&[(0, 0.0, 400), (100, 50.0, 200), (200, 50.0, 0)], Some(500.0));
        // Only the last half second counts, and nothing that went before its first look.
        let looks: Vec<_> = (0..20).map(|n| (n * 100, if n < 10 { 900.0 } else { 100.0 }, 0)).collect();
        check(&looks, Some(1000.0));
    }
    #[test]
    fn what_arrives_while_there_is_a_queue_is_all_that_a_link_takes() {
        let start = Instant::now();
        let way = Duration::from_millis(50);
        let mut of = DeliveryRateEstimator::default();
        // 2000 bytes a second, until a second has passed; then the link takes 700, so that what is sent x after that waits 1.857 x.
        let mut full = Vec::new();
        for n in 0..22u64 {
            let now = n as f64 * 0.1;
            // What is sent at `then` is known at `then` + its wait + the way.
            let then = (1.0 + (now - 1.0 - 0.05) / (2000.0 / 700.0)).min(now - 0.05);
            let wait = (now - 0.05 - then).max(0.0);
            of.note(200.0, Duration::from_secs_f64(wait), way, start + Duration::from_millis(n * 100));
            full.push(of.full());
        }
        assert!(full[..13].iter().all(Option::is_none), "{full:?}");
        for rate in &full[13..] {
            assert!(rate.is_some_and(|rate| (rate - 700.0).abs() < 30.0), "{full:?}");
        }
    }
    #[test]
    fn what_is_learnt_of_later_went_when_it_went() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut of = DeliveryRateEstimator::default();
        for n in 0..4 {
            of.note(100.0, ms(0), ms(0), start + ms(n * 100));
        }
        // The last of them first: 30 in the last hundred milliseconds, 20 in those before.
        of.note_before([30.0, 20.0]);
        let all: Vec<f64> = of.looks.iter().map(|look| look.all).collect();
        assert_eq!(all, [100.0, 200.0, 320.0, 450.0]);
        // More than there are looks: then all of it went before.
        DeliveryRateEstimator::default().note_before([30.0, 20.0]);
    }
}
