//! What a viewer of the load generator reports: each unit and each response, to the tally that all viewers share.

use std::cell::RefCell;
use std::rc::Rc;

use media::{AccessUnit, WallClock};

use super::tally::Tally;

/// One viewer, by its number.
pub(super) struct LoadViewer {
    pub(super) number: usize,
    pub(super) tally: Rc<RefCell<Tally>>,
}

impl LoadViewer {
    /// Reports a received unit; `clock` is the wall-clock time of PTS 0.
    pub(super) fn unit(&self, unit: &AccessUnit, clock: Option<WallClock>) {
        let captured = clock.map(|clock| clock.at(unit.pts));
        self.tally.borrow_mut().unit(self.number, unit, captured, net::clock::system());
    }

    /// Reports a completely received playlist, part or segment.
    pub(super) fn request(&self) {
        self.tally.borrow_mut().request(self.number);
    }
}
