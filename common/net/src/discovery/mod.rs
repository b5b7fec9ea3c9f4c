//! The LAN's discovery room: a broadcaster says that it is here, a viewer who has the broadcast's secret recognises it.
//!
//! Multicast DNS (RFC 6762) carries DNS-Based Service Discovery (RFC 6763): one service type, [`SERVICE`], one instance for each
//! broadcast. [`Announcer`] registers it, [`Browser`] finds it, [`name`] says whose it is. mdns-sd is beneath: packets, the cache,
//! interfaces that come and go.
//!
//! # What a stranger on the LAN learns
//! That somebody here broadcasts, from which addresses and on which port; not what, and not for whom. The instance name is an HMAC
//! under a secret that the CDN gives to admitted viewers only, and another every ten minutes; the host name is random and goes
//! with it; the TXT record is `v=1`. Who compares addresses still links one slot's name to the next's.
//!
//! # What it is worth
//! A hint, and never more. Anybody on the LAN can answer: with a name heard a moment ago and an address of their own, with records
//! that never expire, with goodbyes for others. So an address from here is one to try, and whoever answers there proves by the
//! transport's own authentication that they are the broadcaster; a `Lost` does not end a connection that still delivers; and a LAN
//! where nothing is found (many drop multicast) is no error but a reason to come by another way.
//!
//! It is not the transport, and it does not connect.

pub mod name;

mod addresses;
mod announcer;
mod browse_task;
mod browser;
mod daemon;
mod error;
mod event;
mod options;
mod service_cache;
mod service_record;

pub use addresses::own_addresses;
pub use announcer::Announcer;
pub use browser::Browser;
pub use error::Error;
pub use event::Event;
pub use name::{NameMatcher, instance_name, slot_at};
pub use options::{AnnouncerOptions, BrowserOptions, Clock, Interfaces};

/// The service type, fully qualified (RFC 6763 §4.1.2, §7). QUIC runs over UDP, hence `_udp`.
pub const SERVICE: &str = "_nearcast._udp.local.";

/// The version of what is announced: the value of the TXT record's only key, `v` (RFC 6763 §6).
pub const VERSION: u8 = 1;
