//! Readers that live outside the async runtime (threads that own many sockets) and the news that they are woken for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

/// Which news wakes a reader. What concerns everybody (a change of state, say) is told as news of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Every access unit.
    EveryUnit,
    /// Video only: sound is picked up on the way, or by the reader's own deadline.
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

    /// Wakes those whom `news` concerns: pictures concern everybody.
    pub(crate) fn wake(&self, news: Interest) {
        for (interest, waker) in self.registered.lock().wakers.values() {
            if news == Interest::Pictures || *interest == Interest::EveryUnit {
                waker.wake_by_ref();
            }
        }
    }
}

/// A registered waker, until this is dropped.
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
