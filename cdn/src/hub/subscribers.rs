//! Viewer counts of one stream, by protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Viewers of one stream by protocol.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Mutex<BTreeMap<&'static str, usize>>);

impl Subscribers {
    pub(super) fn enter(this: &Arc<Self>, protocol: &'static str) -> SubscriberGuard {
        *this.0.lock().entry(protocol).or_default() += 1;
        SubscriberGuard { subscribers: this.clone(), protocol }
    }

    pub(super) fn set(&self, protocol: &'static str, count: usize) {
        self.0.lock().insert(protocol, count);
    }

    pub(super) fn by_protocol(&self) -> BTreeMap<&'static str, usize> {
        self.0.lock().clone()
    }
}

/// One viewer, counted until this is dropped.
#[derive(Debug)]
pub struct SubscriberGuard {
    subscribers: Arc<Subscribers>,
    protocol: &'static str,
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        if let Some(count) = self.subscribers.0.lock().get_mut(self.protocol) {
            *count = count.saturating_sub(1);
        }
    }
}
