//! Values that readers derive from a unit and share, such as framing that is the same for all of them.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// One value of each type that a reader has derived from a unit. Without a lock; the first value of a type is kept.
#[derive(Default)]
pub(crate) struct Derived {
    value: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// The value of the next type. There are as many types as kinds of readers: a few.
    next: OnceLock<Box<Derived>>,
}

impl Derived {
    pub(crate) fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut slot = self;
        let mut make = Some(make);
        loop {
            let value = slot.value.get_or_init(|| {
                let make = make.take().expect("a value that was made here is of this type, and ends the search");
                Arc::new(make())
            });
            match value.clone().downcast() {
                Ok(value) => return value,
                Err(_) => slot = slot.next.get_or_init(Box::default),
            }
        }
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_each_type_is_made_once() {
        let derived = Derived::default();
        let mut made = 0;
        let mut word = |text: &'static str| {
            derived.get_or_make(|| {
                made += 1;
                text
            })
        };
        assert_eq!([*word("one"), *word("other")], ["one", "one"]);
        assert_eq!(made, 1);
        assert_eq!(*derived.get_or_make(|| 7u64), 7);
        assert_eq!(*derived.get_or_make(|| 8u64), 7);
        assert_eq!(*derived.get_or_make(|| 'c'), 'c');
        assert_eq!(*derived.get_or_make(|| "again"), "one");
    }
}
