//! Where units come from: the paths of a stream, which of them are open, and what they bring.
//!
//! A path is one way to one server. Each runs as a task of its own and says what happens in [`PathEvent`]s; the supervisor opens
//! and closes paths as [`media::select`] decides, and hands everything on through one bounded channel, so that a reader who
//! does not keep up holds back the sockets. Nothing is merged here: that is the merger's work, one room on.

mod api_client;
mod discovery;
mod hls;
mod http;
mod lan_list;
mod path;
mod peer;
mod relay;
mod resolve;
mod rtmp;
mod stamped;
mod supervisor;
mod timing_poll;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use media::latency::{self, Delivery, Exchange};
use media::path_merge::{PathId, Predecessor};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, WallClock};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use self::lan_list::{list_broadcasters, render_broadcasters};
pub use self::path::{PathDescription, PathOptions, Transport, TransportFilter};
pub use self::resolve::{ResolvedPaths, resolve};
pub use self::supervisor::run;
pub use self::transport::{AUTO, TRANSPORTS};

/// What the supervisor tells.
#[derive(Debug)]
pub enum Event {
    /// A path was opened, or opened anew, and will bring units.
    Opened {
        /// Which.
        path: PathId,
        /// What to call it: the protocol and the address.
        source: String,
        /// How much media it brings at once.
        burst: Duration,
        /// Whether it is all there already, from the first unit to the last: nothing is live about it.
        complete: bool,
        /// How it brings units.
        delivery: Delivery,
    },
    /// What the path brings next was asked for then.
    RequestSent {
        /// Which.
        path: PathId,
        /// When.
        at: WallClock,
    },
    /// Whoever serves the path told how units came there.
    Timing {
        /// Which.
        path: PathId,
        /// What.
        report: Box<latency::TimingReport>,
        /// When the question went, and the answer came.
        exchange: Exchange,
    },
    /// What the path brings next does not follow on what it brought: something between is lost.
    Gap(PathId),
    /// A path has fallen silent: others are asked to stand in.
    Stalled(PathId),
    /// Whoever serves a path has no room for this viewer: others are asked to stand in.
    NoCapacity(PathId),
    /// A path was told to bring nothing; it stays connected.
    Idle(PathId),
    /// A path was closed.
    Closed {
        /// Which.
        path: PathId,
        /// Because it failed; else it was not wanted any more.
        failed: bool,
    },
    /// A unit came.
    Unit {
        /// By which path.
        path: PathId,
        /// What it belongs to.
        catalog: Arc<Catalog>,
        /// The unit.
        unit: AccessUnit,
        /// Which unit it follows.
        predecessor: Predecessor,
    },
    /// Something that people want to know.
    State(State),
    /// The stream has ended for good; nothing follows.
    Ended,
    /// No path will ever work; nothing follows.
    Failed(Error),
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Connecting to a server.
    Connecting,
    /// Connected, but nobody is broadcasting.
    Waiting,
    /// Units are coming.
    Live,
    /// A path broke; another attempt follows.
    Reconnecting {
        /// What broke it.
        reason: String,
    },
}

/// Why a path brings nothing (any more).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// RTMP failed.
    #[error("{address}: {source}")]
    Rtmp {
        /// Where to.
        address: String,
        /// How.
        source: net::rtmp::Error,
    },
    /// The relay protocol failed.
    #[error("{address}: {source}")]
    Relay {
        /// Where to.
        address: String,
        /// How.
        source: net::relay::Error,
    },
    /// No address of the broadcaster answers.
    #[error("{address} does not answer: {reason}")]
    Unreachable {
        /// All that were tried.
        address: String,
        /// Of the last one, in words.
        reason: String,
    },
    /// The broadcaster does not know the pairing code.
    #[error(
        "{address} did not prove that it knows the pairing code: the code is wrong, or somebody intercepts the connection"
    )]
    Impostor {
        /// `HOST:PORT`.
        address: String,
    },
    /// An HTTP request failed.
    #[error("{url}: {reason}")]
    Http {
        /// What was requested.
        url: String,
        /// What went wrong, in words.
        reason: String,
        /// Whether trying again may help.
        retry: bool,
    },
    /// The server knows no stream of this name.
    #[error(
        "{address} knows no stream named '{name}'. Check the spelling; the server lists what it has on its first page. \
         To make this stream, run `cdn key new {name}` on the server"
    )]
    UnknownStream {
        /// Which server.
        address: String,
        /// Which stream.
        name: String,
    },
    /// The stream exists, but is not on the air.
    #[error("{address} is not on the air")]
    NotLive {
        /// Which.
        address: String,
    },
    /// The server sends what this viewer does not understand.
    #[error("{url}: {reason}")]
    Unsupported {
        /// Where.
        url: String,
        /// What.
        reason: String,
    },
    /// The URL makes no sense.
    #[error("{url}: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether trying again may help.
    pub fn retry(&self) -> bool {
        match self {
            Self::Rtmp { source, .. } => source.retry(),
            Self::Relay { source, .. } => source.retry(),
            Self::Unreachable { .. } => true,
            Self::Http { retry, .. } => *retry,
            Self::NotLive { .. } => true,
            Self::Impostor { .. } | Self::UnknownStream { .. } | Self::Unsupported { .. } | Self::Url { .. } => false,
        }
    }
}

/// What playback tells the paths: the last units that were put out, where a path that is opened anew may go on; and how much is buffered.
#[derive(Clone, Debug, Default)]
pub struct Position(Arc<Mutex<PositionState>>);

#[derive(Debug, Default)]
struct PositionState {
    last: Option<ResumePoint>,
    date: Option<WallClock>,
    buffer: Duration,
    shown: Option<Timestamp>,
}

/// An epoch, and the last DTS of each track.
pub type ResumePoint = (Epoch, Vec<(TrackId, Timestamp)>);

impl Position {
    /// Notes the last units, and when the earliest of them was captured, if the broadcaster's clock is known.
    pub fn set(&self, epoch: Epoch, last: Vec<(TrackId, Timestamp)>, date: Option<WallClock>) {
        let mut noted = self.0.lock();
        (noted.last, noted.date) = (Some((epoch, last)), date);
    }

    /// A silence of so long is one that nobody sees.
    pub fn set_buffer(&self, buffer: Duration) {
        self.0.lock().buffer = buffer;
    }

    /// The last picture that was presented.
    pub fn set_presented(&self, dts: Option<Timestamp>) {
        self.0.lock().shown = dts;
    }

    fn last_presented(&self) -> Option<Timestamp> {
        self.0.lock().shown
    }

    fn resume_point(&self) -> Option<ResumePoint> {
        self.0.lock().last.clone()
    }

    fn captured_at(&self) -> Option<WallClock> {
        self.0.lock().date
    }

    fn buffer(&self) -> Duration {
        self.0.lock().buffer
    }
}

/// What a path's task tells its supervisor.
#[derive(Debug)]
enum PathEvent {
    /// Connected: units will come after this.
    Opened {
        /// How much media comes at once: a segment's or part's duration, or zero.
        burst: Duration,
        /// Whether the broadcast is over, and all of it there.
        complete: bool,
        /// By which transport it delivers, where that is known only now; else by the path's own.
        transport: Option<&'static Transport>,
    },
    /// The server has nothing to send for now: the stream has ended, as far as it knows.
    NotLive,
    /// The server answers, but has had nothing new for too long.
    Stalled,
    /// Connected, and idle as wished.
    Idle,
    /// Whether whoever serves this path has room for this viewer.
    Capacity(bool),
    /// What comes next does not follow on what came.
    Gap,
    /// What comes next was asked for then.
    RequestSent(WallClock),
    /// How units came to whoever serves this path.
    Timing(Box<latency::TimingReport>, Exchange),
    /// With the unit that it follows.
    Unit(Arc<Catalog>, AccessUnit, Predecessor),
    /// The task is over. `Ok` means that the stream itself is.
    Closed(Result<(), Error>),
}

/// A path's end of the channel to its supervisor.
#[derive(Clone, Debug)]
struct EventSender {
    path: PathId,
    /// Tells this opening of the path from earlier ones, whose last reports may still be on their way.
    opening: u64,
    events: mpsc::Sender<(PathId, u64, PathEvent)>,
}

/// The supervisor is gone: there is nobody to work for.
#[derive(Debug)]
struct Closed;

impl EventSender {
    /// Waits while the channel is full: that is what holds back the socket.
    async fn send(&self, event: PathEvent) -> Result<(), Closed> {
        self.events.send((self.path, self.opening, event)).await.map_err(|_| Closed)
    }
}

/// A number for a broadcast that has none.
fn random_epoch() -> Epoch {
    Epoch(rand::random())
}
