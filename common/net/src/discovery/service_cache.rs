//! The instances on the LAN, and those last reported to the caller: the difference is the next event.
//!
//! Pure and bounded: a caller that does not read misses intermediate states, never the last one, and does not increase memory use. The TTLs
//! of records are in mdns-sd's cache (RFC 6762 §10).

use std::collections::{BTreeMap, VecDeque};

use super::event::Event;
use super::service_record::ServiceRecord;

/// The instances held, at most [`MAX_INSTANCES`].
#[derive(Debug, Default)]
pub(super) struct ServiceCache {
    entries: BTreeMap<String, Entry>,
    /// Instances whose state differs from the reported one, oldest first. May contain removed instances.
    changed: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The current record; `None` if the instance is gone.
    current: Option<ServiceRecord>,
    /// The record reported last; `None` if the caller does not know the instance.
    reported: Option<ServiceRecord>,
    /// Whether the instance is in `changed`.
    queued: bool,
    /// Whether the record is from before a restart of mDNS.
    stale: bool,
}

impl ServiceCache {
    /// Adds or updates an instance. False if the cache is full, and the instance is ignored.
    pub(super) fn upsert(&mut self, sighting: ServiceRecord) -> bool {
        let instance = sighting.instance.clone();
        if !self.entries.contains_key(&instance) && self.entries.len() >= MAX_INSTANCES {
            return false;
        }
        let entry = self.entries.entry(instance.clone()).or_default();
        entry.stale = false;
        entry.current = Some(sighting);
        self.queue(instance);
        true
    }

    /// Removes an instance. False if it was unknown.
    pub(super) fn remove(&mut self, instance: &str) -> bool {
        let Some(entry) = self.entries.get_mut(instance) else { return false };
        if entry.reported.is_none() {
            // Its arrival was not reported.
            self.forget(instance);
            return true;
        }
        entry.current = None;
        self.queue(instance.to_owned());
        true
    }

    /// Marks every instance: [`evict_stale`](Self::evict_stale) removes those that are not updated until then.
    pub(super) fn mark_stale(&mut self) {
        for entry in self.entries.values_mut() {
            entry.stale = true;
        }
    }

    /// Removes the instances that were not updated since [`mark_stale`](Self::mark_stale).
    pub(super) fn evict_stale(&mut self) {
        let stale: Vec<String> =
            self.entries.iter().filter(|(_, entry)| entry.stale).map(|(instance, _)| instance.clone()).collect();
        for instance in stale {
            self.remove(&instance);
        }
    }

    /// Whether [`next`](Self::next) may return an event.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The next event, which counts as reported.
    pub(super) fn next(&mut self) -> Option<Event> {
        while let Some(instance) = self.changed.pop_front() {
            let Some(entry) = self.entries.get_mut(&instance) else { continue };
            entry.queued = false;
            let before = std::mem::replace(&mut entry.reported, entry.current.clone());
            match (before, entry.current.clone()) {
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
        if entry.current != entry.reported && !entry.queued {
            entry.queued = true;
            self.changed.push_back(instance);
        }
    }

    fn forget(&mut self, instance: &str) {
        self.entries.remove(instance);
        // A host that appears and leaves repeatedly must not grow the queue.
        self.changed.retain(|queued| queued != instance);
    }
}

/// Bounds the instances. A LAN has a few broadcasters, each with two names during a name change; more are an attack.
pub(super) const MAX_INSTANCES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instance: &str, host: u8) -> ServiceRecord {
        ServiceRecord { instance: instance.to_owned(), addresses: vec![([192, 0, 2, host], 1).into()], version: 1 }
    }

    fn drain(cache: &mut ServiceCache) -> Vec<String> {
        std::iter::from_fn(|| cache.next())
            .map(|event| match event {
                Event::Found { instance, .. } => format!("+{instance}"),
                Event::Changed { instance, .. } => format!("~{instance}"),
                Event::Lost { instance } => format!("-{instance}"),
            })
            .collect()
    }

    #[test]
    fn instances_are_found_changed_and_lost() {
        let mut cache = ServiceCache::default();
        cache.upsert(record("a", 1));
        assert_eq!(drain(&mut cache), ["+a"]);
        cache.upsert(record("a", 1));
        assert!(!cache.has_changes());
        cache.upsert(record("a", 2));
        cache.upsert(record("b", 1));
        assert_eq!(drain(&mut cache), ["~a", "+b"]);
        cache.remove("a");
        cache.remove("c");
        assert_eq!(drain(&mut cache), ["-a"]);
        cache.upsert(record("a", 1));
        assert_eq!(drain(&mut cache), ["+a"]);
    }

    #[test]
    fn a_slow_reader_gets_the_last_state_once() {
        let mut cache = ServiceCache::default();
        for host in 0..100 {
            cache.upsert(record("a", host));
        }
        assert_eq!(
            cache.next(),
            Some(Event::Found { instance: "a".to_owned(), addresses: record("a", 99).addresses, version: 1 })
        );
        cache.upsert(record("a", 1));
        cache.upsert(record("a", 99));
        cache.remove("a");
        cache.upsert(record("a", 99));
        assert_eq!(drain(&mut cache), [""; 0], "an unchanged instance that returns is not reported");
        cache.upsert(record("b", 1));
        cache.remove("b");
        assert_eq!(drain(&mut cache), [""; 0], "an unreported instance that is removed is not reported");
    }

    #[test]
    fn instances_and_the_queue_are_bounded() {
        let mut cache = ServiceCache::default();
        for number in 0..10 * MAX_INSTANCES {
            assert_eq!(cache.upsert(record(&number.to_string(), 1)), number < MAX_INSTANCES);
        }
        assert_eq!(drain(&mut cache).len(), MAX_INSTANCES);
        cache.remove("0");
        assert!(!cache.upsert(record("new", 1)), "capacity is freed only after the removal is reported");
        drain(&mut cache);
        assert!(cache.upsert(record("new", 1)));
        for _ in 0..1000 {
            cache.remove("new");
            cache.upsert(record("new", 1));
        }
        assert_eq!(cache.changed.len(), 1);
    }

    #[test]
    fn after_a_gap_an_instance_that_does_not_return_is_lost() {
        let mut cache = ServiceCache::default();
        for instance in ["a", "b", "c"] {
            cache.upsert(record(instance, 1));
        }
        drain(&mut cache);
        cache.mark_stale();
        cache.upsert(record("b", 1));
        assert_eq!(drain(&mut cache), [""; 0]);
        cache.evict_stale();
        assert_eq!(drain(&mut cache), ["-a", "-c"]);
    }
}
