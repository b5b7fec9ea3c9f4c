//! What is on the LAN, and what the viewer has been told of it: the difference is the next event.
//!
//! Pure bookkeeping, bounded whatever arrives: a viewer that does not read loses intermediate states, never the last one, and
//! costs no more memory than one that does. Records' lifetimes are not kept here, mdns-sd's cache has them (RFC 6762 §10).

use std::collections::{BTreeMap, VecDeque};

use super::browser::Event;
use super::service_record::Sighting;

/// The instances held, at most [`MAX_INSTANCES`].
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// Instances whose entries differ from what was told, oldest first. An instance that was forgotten meanwhile may be here
    /// still.
    news: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Entry {
    /// What it is now, if it is there.
    now: Option<Sighting>,
    /// What the viewer was told last, if it was told that it is there.
    told: Option<Sighting>,
    /// Whether it is in `news`.
    queued: bool,
    /// Whether it was seen before a gap, and not since.
    doubted: bool,
}

impl Ledger {
    /// An instance is there. False if there is no room for another one, which then is ignored.
    pub(super) fn saw(&mut self, sighting: Sighting) -> bool {
        let instance = sighting.instance.clone();
        if !self.entries.contains_key(&instance) && self.entries.len() >= MAX_INSTANCES {
            return false;
        }
        let entry = self.entries.entry(instance.clone()).or_default();
        entry.doubted = false;
        entry.now = Some(sighting);
        self.queue(instance);
        true
    }

    /// An instance is gone. False if it was not known.
    pub(super) fn lost(&mut self, instance: &str) -> bool {
        let Some(entry) = self.entries.get_mut(instance) else { return false };
        if entry.told.is_none() {
            // Nobody was told that it came.
            self.forget(instance);
            return true;
        }
        entry.now = None;
        self.queue(instance.to_owned());
        true
    }

    /// Events were missed: every instance has to be seen again before [`drop_doubted`](Self::drop_doubted).
    pub(super) fn doubt_all(&mut self) {
        for entry in self.entries.values_mut() {
            entry.doubted = true;
        }
    }

    /// What was not seen since [`doubt_all`](Self::doubt_all) is gone.
    pub(super) fn drop_doubted(&mut self) {
        let doubted: Vec<String> =
            self.entries.iter().filter(|(_, entry)| entry.doubted).map(|(instance, _)| instance.clone()).collect();
        for instance in doubted {
            self.lost(&instance);
        }
    }

    /// Whether [`next`](Self::next) may have something to tell.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// The next event. The viewer counts as told.
    pub(super) fn next(&mut self) -> Option<Event> {
        while let Some(instance) = self.news.pop_front() {
            let Some(entry) = self.entries.get_mut(&instance) else { continue };
            entry.queued = false;
            let before = std::mem::replace(&mut entry.told, entry.now.clone());
            match (before, entry.now.clone()) {
                (None, Some(Sighting { instance, addresses, version })) => {
                    return Some(Event::Found { instance, addresses, version });
                }
                (Some(before), Some(now)) if before != now => {
                    let Sighting { instance, addresses, version } = now;
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
        if entry.now != entry.told && !entry.queued {
            entry.queued = true;
            self.news.push_back(instance);
        }
    }

    fn forget(&mut self, instance: &str) {
        self.entries.remove(instance);
        // It must not stay queued: a peer that comes and goes would make the queue grow.
        self.news.retain(|queued| queued != instance);
    }
}

/// Instances held at once. A LAN has a few broadcasters, each with up to two names while it changes from one to the next; what is
/// more comes from somebody who sends them on purpose.
pub(super) const MAX_INSTANCES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(instance: &str, host: u8) -> Sighting {
        Sighting { instance: instance.to_owned(), addresses: vec![([192, 0, 2, host], 1).into()], version: 1 }
    }

    fn drain(ledger: &mut Ledger) -> Vec<String> {
        std::iter::from_fn(|| ledger.next())
            .map(|event| match event {
                Event::Found { instance, .. } => format!("+{instance}"),
                Event::Changed { instance, .. } => format!("~{instance}"),
                Event::Lost { instance } => format!("-{instance}"),
            })
            .collect()
    }

    #[test]
    fn found_changed_lost() {
        let mut ledger = Ledger::default();
        ledger.saw(seen("a", 1));
        assert_eq!(drain(&mut ledger), ["+a"]);
        ledger.saw(seen("a", 1));
        assert!(!ledger.has_news());
        ledger.saw(seen("a", 2));
        ledger.saw(seen("b", 1));
        assert_eq!(drain(&mut ledger), ["~a", "+b"]);
        ledger.lost("a");
        ledger.lost("c");
        assert_eq!(drain(&mut ledger), ["-a"]);
        ledger.saw(seen("a", 1));
        assert_eq!(drain(&mut ledger), ["+a"]);
    }

    #[test]
    fn a_slow_viewer_gets_the_last_state_once() {
        let mut ledger = Ledger::default();
        for host in 0..100 {
            ledger.saw(seen("a", host));
        }
        assert_eq!(
            ledger.next(),
            Some(Event::Found { instance: "a".to_owned(), addresses: seen("a", 99).addresses, version: 1 })
        );
        ledger.saw(seen("a", 1));
        ledger.saw(seen("a", 99));
        ledger.lost("a");
        ledger.saw(seen("a", 99));
        assert_eq!(drain(&mut ledger), [""; 0], "what comes back as it was has not changed");
        ledger.saw(seen("b", 1));
        ledger.lost("b");
        assert_eq!(drain(&mut ledger), [""; 0], "what came and went untold is not told");
    }

    #[test]
    fn instances_and_the_queue_are_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..10 * MAX_INSTANCES {
            assert_eq!(ledger.saw(seen(&number.to_string(), 1)), number < MAX_INSTANCES);
        }
        assert_eq!(drain(&mut ledger).len(), MAX_INSTANCES);
        ledger.lost("0");
        assert!(!ledger.saw(seen("new", 1)), "there is room only once the viewer knows");
        drain(&mut ledger);
        assert!(ledger.saw(seen("new", 1)));
        for _ in 0..1000 {
            ledger.lost("new");
            ledger.saw(seen("new", 1));
        }
        assert_eq!(ledger.news.len(), 1);
    }

    #[test]
    fn after_a_gap_what_is_not_seen_again_is_lost() {
        let mut ledger = Ledger::default();
        for instance in ["a", "b", "c"] {
            ledger.saw(seen(instance, 1));
        }
        drain(&mut ledger);
        ledger.doubt_all();
        ledger.saw(seen("b", 1));
        assert_eq!(drain(&mut ledger), [""; 0]);
        ledger.drop_doubted();
        assert_eq!(drain(&mut ledger), ["-a", "-c"]);
    }
}
