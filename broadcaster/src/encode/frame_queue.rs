//! Between a source and its encoder: a place for few pictures, where the newest wins.
//!
//! A source never waits. When the encoder is late, the oldest picture that waits makes room, and is counted.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A queue of at most `capacity` that drops its oldest.
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
    /// An empty queue of at least one place.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { waiting: VecDeque::with_capacity(capacity), closed: false };
        Self { state: Mutex::new(inner), filled: Condvar::new(), capacity: capacity.max(1) }
    }

    /// Adds `item`. Returns how many it dropped: 0 or 1.
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

    /// Waits for an item; `None` once the queue is closed and empty.
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

    /// Nothing more will come; what waits can still be taken.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins() {
        let queue = DropOldestQueue::new(2);
        assert_eq!([1, 2, 3, 4].map(|n| queue.push(n)), [0, 0, 1, 1]);
        assert_eq!((queue.pop(), queue.pop()), (Some(3), Some(4)));
        queue.push(5);
        queue.close();
        assert_eq!(queue.push(6), 0);
        assert_eq!((queue.pop(), queue.pop()), (Some(5), None));
    }

    #[test]
    fn closing_wakes_the_taker() {
        let queue = DropOldestQueue::<u8>::new(1);
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| queue.pop());
            queue.close();
            assert_eq!(taker.join().ok().flatten(), None);
        });
    }
}
