//! State shared by all routes.

use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::settings::HttpSettings;
use crate::egress::hls::Hls;
use crate::hub::Hub;

/// The state of one server's HTTP side.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) hls: Arc<Hls>,
    pub(super) settings: HttpSettings,
    pub(super) is_draining: AtomicBool,
    pub(super) responses: ResponseCounters,
    /// Random keys of the hashes that identify HLS clients, so that a hash does not reveal an address.
    pub(super) client_hash_keys: RandomState,
}

/// Remote address of a request's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Number of responses by the first digit of their status, 1 to 5.
#[derive(Debug, Default)]
pub(super) struct ResponseCounters([AtomicU64; 5]);

impl ResponseCounters {
    pub(super) fn count(&self, status: u16) {
        if let Some(class) = self.0.get(usize::from(status / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn load(&self) -> [u64; 5] {
        self.0.each_ref().map(|class| class.load(Relaxed))
    }
}
