//! The program that runs `doctor`.

/// The role of the machine that is checked. It decides how serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A broadcaster: it cannot publish without RTMP.
    Publisher,
    /// A viewer: any one transport is enough.
    Subscriber,
}
