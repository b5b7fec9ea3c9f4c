//! The queue between a source and its encoder. It drops the oldest frame when it is full.
//!
//! So a source never blocks, and an encoder that is late works on recent frames. The caller counts what was dropped.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A bounded queue that drops its oldest item when it is full.
#[derive(Debug)]
pub struct DropOldestQueue<T> {
    state: Mutex<Inner<T>>,
    filled: Condvar,
    capacity: usize,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> DropOldestQueue<T> {
    /// An empty queue for `capacity` items, at least one.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { waiting: VecDeque::with_capacity(capacity), closed: false };
        Self { state: Mutex::new(inner), filled: Condvar::new(), capacity: capacity.max(1) }
    }

    /// Adds `item`. Returns the number of items dropped for it: 0 or 1. A closed queue ignores it.
    pub fn push(&self, item: T) -> u64 {
        let mut inner = self.state.lock();
        if inner.closed {
            return 0;
        }
        let dropped = inner.waiting.len() >= self.capacity;
        if dropped {
            inner.waiting.pop_front();
        }
        inner.waiting.push_back(item);
        self.filled.notify_one();
        u64::from(dropped)
    }

    /// Takes the oldest item, blocking until there is one; `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut inner = self.state.lock();
        loop {
            if let Some(item) = inner.waiting.pop_front() {
                return Some(item);
            }
            if inner.closed {
                return None;
            }
            self.filled.wait(&mut inner);
        }
    }

    /// Closes the queue. What is queued can still be taken.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_item_is_dropped_when_full() {
        let queue = DropOldestQueue::new(2);
        assert_eq!([1, 2, 3, 4].map(|n| queue.push(n)), [0, 0, 1, 1]);
        assert_eq!((queue.pop(), queue.pop()), (Some(3), Some(4)));
        queue.push(5);
        queue.close();
        assert_eq!(queue.push(6), 0);
        assert_eq!((queue.pop(), queue.pop()), (Some(5), None));
    }

    #[test]
    fn closing_wakes_a_blocked_reader() {
        let queue = DropOldestQueue::<u8>::new(1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| queue.pop());
            queue.close();
            assert_eq!(reader.join().ok().flatten(), None);
        });
    }
}
