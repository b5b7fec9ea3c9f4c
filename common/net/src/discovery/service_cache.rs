//! What is on the LAN, and what the viewer has been reported of it: the difference is the next event.
//!
//! Pure bookkeeping, bounded whatever arrives: a viewer that does not read loses intermediate states, never the last one, and
//! costs no more memory than one that does. Records' lifetimes are not kept here, mdns-sd's cache has them (RFC 6762 §10).

use std::collections::{BTreeMap, VecDeque};

use super::event::Event;
use super::service_record::ServiceRecord;

/// The instances held, at most [`MAX_INSTANCES`].
#[derive(Debug, Default)]
pub(super) struct ServiceCache {
    entries: BTreeMap<String, Entry>,
    /// Instances whose entries differ from what was reported, oldest first. An instance that was forgotten meanwhile may be here
    /// still.
    changed: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Entry {
    /// What it is now, if it is there.
    now: Option<ServiceRecord>,
    /// What the viewer was reported last, if it was reported that it is there.
    reported: Option<ServiceRecord>,
    /// Whether it is in `changed`.
    queued: bool,
    /// Whether it was record before a gap, and not since.
    stale: bool,
}

impl ServiceCache {
    /// An instance is there. False if there is no room for another one, which then is ignored.
    pub(super) fn upsert(&mut self, sighting: ServiceRecord) -> bool {
        let instance = sighting.instance.clone();
        if !self.entries.contains_key(&instance) && self.entries.len() >= MAX_INSTANCES {
            return false;
        }
        let entry = self.entries.entry(instance.clone()).or_default();
        entry.stale = false;
        entry.now = Some(sighting);
        self.queue(instance);
        true
    }

    /// An instance is gone. False if it was not known.
    pub(super) fn remove(&mut self, instance: &str) -> bool {
        let Some(entry) = self.entries.get_mut(instance) else { return false };
        if entry.reported.is_none() {
            // Nobody was reported that it came.
            self.forget(instance);
            return true;
        }
        entry.now = None;
        self.queue(instance.to_owned());
        true
    }

    /// Events were missed: every instance has to be record again before [`evict_stale`](Self::evict_stale).
    pub(super) fn mark_stale(&mut self) {
        for entry in self.entries.values_mut() {
            entry.stale = true;
        }
    }

    /// What was not record since [`mark_stale`](Self::mark_stale) is gone.
    pub(super) fn evict_stale(&mut self) {
        let stale: Vec<String> =
            self.entries.iter().filter(|(_, entry)| entry.stale).map(|(instance, _)| instance.clone()).collect();
        for instance in stale {
            self.remove(&instance);
        }
    }

    /// Whether [`next`](Self::next) may have something to tell.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The next event. The viewer counts as reported.
    pub(super) fn next(&mut self) -> Option<Event> {
        while let Some(instance) = self.changed.pop_front() {
            let Some(entry) = self.entries.get_mut(&instance) else { continue };
            entry.queued = false;
            let before = std::mem::replace(&mut entry.reported, entry.now.clone());
            match (before, entry.now.clone()) {
                (None, Some(ServiceRecord { instance, addresses, version })) => {
                    return Some(Event::Found { instance, addresses, version });
                }
                (Some(before), Some(now)) if before != now => {
                    let ServiceRecord { instance, addresses, version } = now;
                    return Some(Event::Changed { instance, addresses, version });
                }
                (Some(_), None) => {
                    self.entries.remove(&instance);
                    return Some(Event::Lost { instance });
                }
                _ => {}
            }
        }
        None
    }

    fn queue(&mut self, instance: String) {
        let Some(entry) = self.entries.get_mut(&instance) else { return };
        if entry.now != entry.reported && !entry.queued {
            entry.queued = true;
            self.changed.push_back(instance);
        }
    }

    fn forget(&mut self, instance: &str) {
        self.entries.remove(instance);
        // It must not stay queued: a peer that comes and goes would make the queue grow.
        self.changed.retain(|queued| queued != instance);
    }
}

/// Instances held at once. A LAN has a few broadcasters, each with up to two names while it changes from one to the next; what is
/// more comes from somebody who sends them on purpose.
pub(super) const MAX_INSTANCES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instance: &str, host: u8) -> ServiceRecord {
        ServiceRecord { instance: instance.to_owned(), addresses: vec![([192, 0, 2, host], 1).into()], version: 1 }
    }

    fn drain(ledger: &mut ServiceCache) -> Vec<String> {
        std::iter::from_fn(|| ledger.next())
            .map(|event| match event {
                Event::Found { instance, .. } => format!("+{instance}"),
                Event::Changed { instance, .. } => format!("~{instance}"),
                Event::Lost { instance } => format!("-{instance}"),
            })
            .collect()
    }

    #[test]
    fn instances_are_found_changed_and_lost() {
        let mut ledger = ServiceCache::default();
        ledger.upsert(record("a", 1));
        assert_eq!(drain(&mut ledger), ["+a"]);
        ledger.upsert(record("a", 1));
        assert!(!ledger.has_changes());
        ledger.upsert(record("a", 2));
        ledger.upsert(record("b", 1));
        assert_eq!(drain(&mut ledger), ["~a", "+b"]);
        ledger.remove("a");
        ledger.remove("c");
        assert_eq!(drain(&mut ledger), ["-a"]);
        ledger.upsert(record("a", 1));
        assert_eq!(drain(&mut ledger), ["+a"]);
    }

    #[test]
    fn a_slow_reader_gets_the_last_state_once() {
        let mut ledger = ServiceCache::default();
        for host in 0..100 {
            ledger.upsert(record("a", host));
        }
        assert_eq!(
            ledger.next(),
            Some(Event::Found { instance: "a".to_owned(), addresses: record("a", 99).addresses, version: 1 })
        );
        ledger.upsert(record("a", 1));
        ledger.upsert(record("a", 99));
        ledger.remove("a");
        ledger.upsert(record("a", 99));
        assert_eq!(drain(&mut ledger), [""; 0], "what comes back as it was has not changed");
        ledger.upsert(record("b", 1));
        ledger.remove("b");
        assert_eq!(drain(&mut ledger), [""; 0], "what came and went untold is not reported");
    }

    #[test]
    fn instances_and_the_queue_are_bounded() {
        let mut ledger = ServiceCache::default();
        for number in 0..10 * MAX_INSTANCES {
            assert_eq!(ledger.upsert(record(&number.to_string(), 1)), number < MAX_INSTANCES);
        }
        assert_eq!(drain(&mut ledger).len(), MAX_INSTANCES);
        ledger.remove("0");
        assert!(!ledger.upsert(record("new", 1)), "there is room only once the viewer knows");
        drain(&mut ledger);
        assert!(ledger.upsert(record("new", 1)));
        for _ in 0..1000 {
            ledger.remove("new");
            ledger.upsert(record("new", 1));
        }
        assert_eq!(ledger.changed.len(), 1);
    }

    #[test]
    fn after_a_gap_an_instance_that_does_not_return_is_lost() {
        let mut ledger = ServiceCache::default();
        for instance in ["a", "b", "c"] {
            ledger.upsert(record(instance, 1));
        }
        drain(&mut ledger);
        ledger.mark_stale();
        ledger.upsert(record("b", 1));
        assert_eq!(drain(&mut ledger), [""; 0]);
        ledger.evict_stale();
        assert_eq!(drain(&mut ledger), ["-a", "-c"]);
    }
}
