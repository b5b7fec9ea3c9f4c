//! The harness of the end-to-end tests: runs the real `cdn`, `broadcaster` and `viewer` and third-party programs on loopback, and checks their output
//! and logs.
//!
//! A test creates a [`TestEnv`], starts programs in it, and waits with deadlines for what they print or do. Dropping the environment kills all
//! programs and prints the ends of all logs to standard error, which the test runner shows if the test failed.

mod axe;
mod broadcaster;
mod browser;
mod cdn;
mod external_player;
mod fault_proxy;
mod http;
pub mod lan_testbed;
mod nginx;
mod numbered_clip;
mod player_page;
mod programs;
pub mod qemu_vm;
pub mod replay;
mod reverse_proxy;
mod screen;
mod test_env;
mod unit_log;
mod viewer;

pub use ::lab::{Process, TIMEOUT, until};
pub use axe::Axe;
pub use broadcaster::Broadcaster;
pub use browser::{Browser, from_base64};
pub use cdn::Cdn;
pub use external_player::ExternalPlayer;
pub use fault_proxy::{FaultProxy, ProxyMode};
pub use http::{Response, get};
pub use lan_testbed::LanTestbed;
pub use nginx::Nginx;
pub use numbered_clip::{ClipSpec, NumberedClip, decode_frame_numbers, ensure_consecutive};
pub use player_page::{PlayerPage, PlayerState};
pub use programs::program;
pub use reverse_proxy::ReverseProxy;
pub use screen::{Screen, Screenshot};
pub use test_env::TestEnv;
pub use unit_log::{Unit, compare, compare_to_the_end, read_units};
pub use viewer::{Viewer, ViewerSummary};
