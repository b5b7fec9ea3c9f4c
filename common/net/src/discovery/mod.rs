//! LAN discovery: a broadcaster announces itself, and a viewer that has the broadcast's secret recognises it.
//!
//! Multicast DNS (RFC 6762) carries DNS-Based Service Discovery (RFC 6763): one service type, [`SERVICE`], one instance for each
//! broadcast. [`Announcer`] registers it, [`Browser`] finds it, [`name`] derives the names. The mdns-sd crate handles packets, the cache, and changing
//! interfaces.
//!
//! # Privacy
//! Other hosts on the LAN learn that a broadcast exists, its addresses and its port, but neither the stream nor its viewers. The instance
//! name is an HMAC with a secret that the CDN gives to admitted viewers only, and changes every ten minutes; the host name is random and
//! changes with it; the TXT record is `v=1`. The names of successive slots can still be linked by their addresses.
//!
//! # Trust
//! Results are hints. Any host on the LAN can answer with a name that it has received and an address of its own, with records that never
//! expire, or with goodbyes for others. So the transport authenticates the broadcaster; a `Lost` event does not end a connection that still
//! delivers; and an empty result (many networks drop multicast) is not an error but a reason to use another path.
//!
//! This module does not connect.

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

/// The version of the announcement: the value of the TXT record's only key, `v` (RFC 6763 §6).
pub const VERSION: u8 = 1;
