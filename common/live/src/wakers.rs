//! Wakers of readers outside the async runtime: threads that own many sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

/// The events that wake a reader. An event that concerns all readers, such as a change of state, is sent as `Pictures`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every access unit, audio included.
    EveryUnit,
    /// Video units only: the reader takes audio along with them, or at a deadline of its own.
    Pictures,
}

#[derive(Debug, Default)]
pub(crate) struct Wakers {
    registered: Mutex<Registered>,
}

#[derive(Debug, Default)]
struct Registered {
    next_id: u64,
    wakers: BTreeMap<u64, (Interest, Waker)>,
}

impl Wakers {
    pub(crate) fn register(this: &Arc<Self>, interest: Interest, waker: Waker) -> WakerGuard {
        let mut registered = this.registered.lock();
        let id = registered.next_id;
        registered.next_id += 1;
        registered.wakers.insert(id, (interest, waker));
        WakerGuard { wakers: this.clone(), id }
    }

    /// Wakes the readers that `news` concerns; `Pictures` concerns all.
    pub(crate) fn wake(&self, news: Interest) {
        for (interest, waker) in self.registered.lock().wakers.values() {
            if news == Interest::Pictures || *interest == Interest::EveryUnit {
                waker.wake_by_ref();
            }
        }
    }
}

/// Keeps a waker registered until it is dropped.
#[derive(Debug)]
pub struct WakerGuard {
    wakers: Arc<Wakers>,
    id: u64,
}

impl Drop for WakerGuard {
    fn drop(&mut self) {
        self.wakers.registered.lock().wakers.remove(&self.id);
    }
}
