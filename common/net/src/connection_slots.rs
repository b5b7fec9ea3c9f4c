//! The connection slots of a listener that anyone may connect to: which connections may hold one, and which are evicted when all are taken.
//!
//! Whoever serves or is served must be able to connect whatever strangers do. A full listener evicts a connection for each new one: a subscriber
//! that waits, or a connection that has not sent its request. The address that holds the most of these loses one first, the oldest
//! first, of the kind that the listener prefers. Publishers, and subscribers that are sent media, are never evicted. A share of the slots can be reserved, so
//! that subscribers never hold all of them.

mod eviction_order;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::connection_limit::{ConnectionLimiter, ConnectionPermit, Rejected, client_prefix};
pub use eviction_order::Evictable;
use eviction_order::EvictionOrder;

/// The slots of one listener.
#[derive(Debug)]
pub struct ConnectionSlots {
    limiter: Arc<ConnectionLimiter>,
    /// Kept free of subscribers.
    reserved: usize,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    next_id: u64,
    by_id: HashMap<u64, Connection>,
    /// The connections that may be evicted.
    order: EvictionOrder,
    subscribers: usize,
    undeclared: usize,
    evicted: u64,
    subscribers_rejected: u64,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    role: Role,
    evicted: CancellationToken,
    /// Called when the connection is evicted, if its holder waits outside the async runtime.
    waker: Option<Waker>,
    _permit: ConnectionPermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has sent no request yet, or its key has not been accepted yet.
    Undeclared,
    Publisher,
    Subscriber {
        is_waiting: bool,
    },
}

/// One connection's slot, released on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    id: u64,
    evicted: CancellationToken,
}

/// There is no slot for the connection in its new role, or it was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSlot;

impl ConnectionSlots {
    /// The slots of a listener whose connections `limiter` limits. `reserved` of them are kept free of subscribers. Of the connections of one
    /// address, those of the kind `first` are evicted first.
    pub fn new(limiter: Arc<ConnectionLimiter>, reserved: usize, first: Evictable) -> Arc<Self> {
        let (next_id, by_id, order) = (0, HashMap::new(), EvictionOrder::new(first));
        let held = Held { next_id, by_id, order, subscribers: 0, undeclared: 0, evicted: 0, subscribers_rejected: 0 };
        Arc::new(Self { limiter, reserved, held: Mutex::new(held) })
    }

    /// The limiter of its connections, which counts them.
    pub fn limiter(&self) -> &Arc<ConnectionLimiter> {
        &self.limiter
    }

    /// Whether all slots are taken, so that a new connection would evict another one.
    pub fn is_full(&self) -> bool {
        self.limiter.count() >= self.limiter.total()
    }

    /// Number of connections that have not sent their request.
    pub fn undeclared(&self) -> usize {
        self.held.lock().undeclared
    }

    /// Number of connections that were evicted for another one.
    pub fn evicted(&self) -> u64 {
        self.held.lock().evicted
    }

    /// Number of subscribers that were rejected because there was no slot.
    pub fn subscribers_rejected(&self) -> u64 {
        self.held.lock().subscribers_rejected
    }

    /// A slot for a new connection from `peer`. If all are taken, another connection may be evicted for it: validate the address first.
    ///
    /// # Errors
    /// [`Rejected`] if a limit is reached and no connection can be evicted; the rejection is counted.
    pub fn try_acquire(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionSlot, Rejected> {
        let address = client_prefix(peer);
        if self.is_full() {
            let gone = {
                let mut held = self.held.lock();
                let own = held.order.size(address);
                let first = held.order.first(own);
                held.evict(first)
            };
            // Its permit is released here, before the new connection asks for one.
            gone.into_iter().for_each(Connection::evict);
        }
        let permit = self.limiter.try_acquire(peer)?;
        let evicted = CancellationToken::new();
        let connection =
            Connection { address, role: Role::Undeclared, evicted: evicted.clone(), waker: None, _permit: permit };
        let id = self.held.lock().add(connection);
        Ok(ConnectionSlot { slots: self.clone(), id, evicted })
    }

    fn change(&self, id: u64, role: Role) -> Result<(), NoSlot> {
        // The limit can change while the server runs.
        let max_subscribers = self.limiter.total().saturating_sub(self.reserved);
        let mut held = self.held.lock();
        let gone = held.change(id, role, max_subscribers);
        drop(held);
        gone.map(|gone| gone.into_iter().for_each(Connection::evict))
    }
}

impl ConnectionSlot {
    /// Waits until the connection is evicted: then it must be closed. Cancel safe.
    pub fn evicted(&self) -> impl Future<Output = ()> + use<> {
        self.evicted.clone().cancelled_owned()
    }

    /// The connection publishes, which it has proved that it may. From now on it is not evicted.
    ///
    /// # Errors
    /// [`NoSlot`] if it was evicted.
    pub fn set_publisher(&self) -> Result<(), NoSlot> {
        self.slots.change(self.id, Role::Publisher)
    }

    /// The connection subscribes. While it `is_waiting`, because it is sent nothing, it may be evicted.
    ///
    /// # Errors
    /// [`NoSlot`] if it was evicted, or if it did not subscribe before and no subscriber can be evicted for it.
    pub fn set_subscriber(&self, is_waiting: bool) -> Result<(), NoSlot> {
        self.slots.change(self.id, Role::Subscriber { is_waiting })
    }

    /// Calls `waker`, which must only signal, once the connection is evicted; at once if it was.
    pub fn on_evicted(&self, waker: Waker) {
        let mut held = self.slots.held.lock();
        match held.by_id.get_mut(&self.id) {
            Some(connection) => connection.waker = Some(waker),
            None => {
                drop(held);
                waker.wake();
            }
        }
    }

    /// Whether the connection was evicted.
    pub fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let gone = self.slots.held.lock().remove(self.id);
        drop(gone);
    }
}

impl Held {
    fn add(&mut self, connection: Connection) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.enter(id, connection.address, connection.role);
        self.by_id.insert(id, connection);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        self.leave(id, connection.address, connection.role);
        Some(connection)
    }

    /// Gives a connection another role. Returns the player that was evicted for that, if one was.
    fn change(&mut self, id: u64, role: Role, max_subscribers: usize) -> Result<Option<Connection>, NoSlot> {
        let Some(Connection { address, role: before, .. }) = self.by_id.get(&id) else { return Err(NoSlot) };
        let (address, before) = (*address, *before);
        let mut gone = None;
        if let Role::Subscriber { is_waiting } = role
            && !before.subscribes()
            && self.subscribers >= max_subscribers
        {
            // One that waits itself takes no slot from another one that does, unless that one's address holds more of them.
            let own = self.order.size(address) + usize::from(is_waiting);
            let first = self.order.first_waiting(own);
            gone = self.evict(first);
            if gone.is_none() {
                self.subscribers_rejected += 1;
                return Err(NoSlot);
            }
        }
        self.leave(id, address, before);
        self.enter(id, address, role);
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.role = role;
        }
        Ok(gone)
    }

    /// Removes the connection that is evicted, if there is one.
    fn evict(&mut self, id: Option<u64>) -> Option<Connection> {
        let gone = self.remove(id?);
        self.evicted += u64::from(gone.is_some());
        gone
    }

    fn enter(&mut self, id: u64, address: IpAddr, role: Role) {
        self.subscribers += usize::from(role.subscribes());
        self.undeclared += usize::from(role == Role::Undeclared);
        if let Some(why) = role.evictable() {
            self.order.add(address, id, why);
        }
    }

    fn leave(&mut self, id: u64, address: IpAddr, role: Role) {
        self.subscribers -= usize::from(role.subscribes());
        self.undeclared -= usize::from(role == Role::Undeclared);
        if let Some(why) = role.evictable() {
            self.order.remove(address, id, why);
        }
    }
}

impl Role {
    fn subscribes(self) -> bool {
        matches!(self, Self::Subscriber { .. })
    }

    /// Why a connection in this role may be evicted; `None` if it may not.
    fn evictable(self) -> Option<Evictable> {
        match self {
            Self::Undeclared => Some(Evictable::Undeclared),
            Self::Subscriber { is_waiting: true } => Some(Evictable::Waiting),
            Self::Publisher | Self::Subscriber { is_waiting: false } => None,
        }
    }
}

impl Connection {
    /// Tells the holder, and releases the permit.
    fn evict(self) {
        self.evicted.cancel();
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const WAITING: bool = true;

    fn slots(max: usize, per_address: usize) -> Arc<ConnectionSlots> {
        ConnectionSlots::new(
            ConnectionLimiter::new(max, per_address),
            (max / 8).max(1).min(max - 1),
            Evictable::Waiting,
        )
    }

    fn connect(slots: &Arc<ConnectionSlots>, address: &str) -> Result<ConnectionSlot, Rejected> {
        slots.try_acquire(address.parse().unwrap())
    }

    fn player(slots: &Arc<ConnectionSlots>, address: &str, is_waiting: bool) -> ConnectionSlot {
        let slot = connect(slots, address).unwrap();
        slot.set_subscriber(is_waiting).unwrap();
        slot
    }

    fn evicted(slots: &[ConnectionSlot]) -> Vec<bool> {
        slots.iter().map(ConnectionSlot::is_evicted).collect()
    }

    #[test]
    fn players_leave_a_share_of_the_slots_to_publishers() {
        let slots = slots(16, 100);
        let players: Vec<_> = (0..14).map(|n| player(&slots, &format!("192.0.2.{n}"), !WAITING)).collect();
        let another = connect(&slots, "192.0.2.99").unwrap();
        assert_eq!((another.set_subscriber(!WAITING), another.set_subscriber(WAITING)), (Err(NoSlot), Err(NoSlot)));
        assert_eq!(another.set_publisher(), Ok(()));
        assert_eq!((slots.subscribers_rejected(), slots.evicted()), (2, 0));
        drop(players);
        assert_eq!(connect(&slots, "192.0.2.98").unwrap().set_subscriber(!WAITING), Ok(()));
    }

    #[test]
    fn thirty_three_addresses_do_not_shut_a_broadcaster_out() {
        for is_silent in [true, false] {
            let slots = slots(33 * 8, 8);
            let mut held = Vec::new();
            for address in 0..33 {
                for _ in 0..8 {
                    let slot = connect(&slots, &format!("203.0.113.{address}")).unwrap();
                    let _ = is_silent || slot.set_subscriber(WAITING).is_ok();
                    held.push(slot);
                }
            }
            let broadcaster = connect(&slots, "192.0.2.1").unwrap();
            // More of them come at once; the broadcaster has said nothing yet.
            for address in 0..33 {
                held.push(connect(&slots, &format!("198.51.100.{address}")).unwrap());
            }
            assert!(!broadcaster.is_evicted());
            assert_eq!(broadcaster.set_publisher(), Ok(()), "silent: {is_silent}");
            let open = held.iter().filter(|slot| !slot.is_evicted()).count();
            assert_eq!(slots.limiter.count(), open + 1);
            assert!(open < 33 * 8, "{open}");
        }
    }

    #[test]
    fn a_full_listener_evicts_waiting_players_first() {
        let slots = slots(4, 4);
        let held = [
            player(&slots, "192.0.2.1", !WAITING),
            connect(&slots, "192.0.2.2").unwrap(),
            player(&slots, "192.0.2.3", WAITING),
            player(&slots, "192.0.2.4", WAITING),
        ];
        let _first = connect(&slots, "192.0.2.5").unwrap();
        assert_eq!(evicted(&held), [false, false, true, false], "the oldest of them");
        let second = connect(&slots, "192.0.2.6").unwrap();
        assert_eq!(evicted(&held), [false, false, true, true]);
        second.set_publisher().unwrap();
        let third = connect(&slots, "192.0.2.7").unwrap();
        assert_eq!(evicted(&held), [false, true, true, true]);
        third.set_publisher().unwrap();
        assert_eq!(slots.evicted(), 3);
        assert_eq!(held[2].set_subscriber(!WAITING), Err(NoSlot), "what is evicted stays evicted");
    }

    #[test]
    fn publishers_and_players_that_are_sent_media_keep_their_slots() {
        let slots = slots(3, 3);
        let held = [
            player(&slots, "192.0.2.1", !WAITING),
            player(&slots, "192.0.2.1", WAITING),
            connect(&slots, "192.0.2.1").unwrap(),
        ];
        held[1].set_subscriber(!WAITING).unwrap();
        held[2].set_publisher().unwrap();
        assert!(matches!(connect(&slots, "192.0.2.2"), Err(Rejected::Total { .. })));
        assert_eq!(evicted(&held), [false; 3]);
        held[1].set_subscriber(WAITING).unwrap();
        assert!(connect(&slots, "192.0.2.2").is_ok());
        assert_eq!(evicted(&held), [false, true, false]);
    }

    #[test]
    fn an_address_takes_no_slot_from_one_that_holds_fewer() {
        let slots = slots(4, 4);
        let group: Vec<_> = (0..3).map(|_| connect(&slots, "203.0.113.1").unwrap()).collect();
        let single = connect(&slots, "192.0.2.1").unwrap();
        let _another = connect(&slots, "203.0.113.1").unwrap();
        assert_eq!((evicted(&group), single.is_evicted()), (vec![true, false, false], false));
        single.set_publisher().unwrap();
        let _third = connect(&slots, "192.0.2.2").unwrap();
        assert_eq!(evicted(&group), [true, true, false]);
    }

    #[test]
    fn a_player_of_a_live_stream_goes_before_one_that_waits() {
        let slots = slots(3, 3);
        let held = [player(&slots, "192.0.2.1", WAITING), player(&slots, "192.0.2.2", !WAITING)];
        let waits = connect(&slots, "192.0.2.3").unwrap();
        assert_eq!(waits.set_subscriber(WAITING), Err(NoSlot), "players that wait do not evict each other");
        assert_eq!(evicted(&held), [false, false]);
        assert_eq!(waits.set_subscriber(!WAITING), Ok(()));
        assert_eq!(evicted(&held), [true, false]);
    }

    #[tokio::test]
    async fn the_holder_learns_that_it_was_evicted() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let slots = slots(1, 1);
        let woken = Arc::new(Count::default());
        let first = connect(&slots, "192.0.2.1").unwrap();
        first.on_evicted(Waker::from(woken.clone()));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        let _second = connect(&slots, "192.0.2.2").unwrap();
        first.evicted().await;
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        first.on_evicted(Waker::from(woken.clone()));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "also if it registers afterwards");
        drop(first);
        assert_eq!((slots.limiter.count(), slots.held.lock().by_id.len()), (1, 1));
    }
}
