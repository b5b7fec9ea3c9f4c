//! The paths of a stream: finds them, opens them, and receives their units.
//!
//! A path leads to one server (or the broadcaster) by one transport. Each runs in its own task and reports `PathEvent`s. The supervisor opens and
//! closes paths as [`media::select`] decides, and forwards all events through one bounded channel, so that a slow reader applies backpressure to
//! the sockets. The [`pipeline`](crate::pipeline) merges the paths.

mod api_client;
mod discovery;
mod hls;
mod http;
mod lan_list;
mod path;
mod path_task;
mod peer;
mod port_probe;
mod reach;
mod relay;
mod resolve;
mod rtmp;
mod running_clock;
mod supervisor;
mod timing_poll;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use media::latency::{self, DeliveryMode, Exchange};
use media::path_merge::{PathId, Predecessor};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, WallClock};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use self::lan_list::{list_broadcasters, render_broadcasters};
pub use self::path::{PathDescription, PathOptions, Transport, TransportFilter};
pub use self::resolve::check;
pub use self::supervisor::run;
pub use self::transport::{AUTO, TRANSPORTS};

/// What the source reports to the pipeline.
#[derive(Debug)]
pub enum Event {
    /// A path was opened or reopened, and will deliver units.
    Opened {
        /// The path that was opened.
        path: PathId,
        /// Its name: transport and address.
        source: String,
        /// How much media it delivers at once: the duration of a segment or part, or zero.
        burst: Duration,
        /// Whether the broadcast is over and available from its first unit to its last.
        complete: bool,
        /// Which stages its units pass.
        delivery: DeliveryMode,
    },
    /// The path delivers another amount of media at once from now on.
    BurstChanged {
        /// The path.
        path: PathId,
        /// The duration of a segment or part.
        burst: Duration,
    },
    /// The data that the path delivers next was requested.
    RequestSent {
        /// The path that sent the request.
        path: PathId,
        /// By this host's wall clock.
        at: WallClock,
    },
    /// The server (or broadcaster) of the path reported when units passed its stages.
    Timing {
        /// The path whose server reported.
        path: PathId,
        /// Stages of some of its latest units.
        report: Box<latency::TimingReport>,
        /// When the request was sent and answered, by both clocks.
        exchange: Exchange,
    },
    /// The next unit of the path does not follow its last one.
    Gap(PathId),
    /// No unit has arrived by the path within its stall timeout; a fallback was started.
    Stalled(PathId),
    /// The server (or broadcaster) of the path has no capacity for this viewer.
    NoCapacity(PathId),
    /// The path delivers nothing on request; it stays connected.
    Idle(PathId),
    /// A path was closed.
    Closed {
        /// The path that was closed.
        path: PathId,
        /// Whether it failed; else it is not needed any more.
        failed: bool,
    },
    /// A unit arrived.
    Unit {
        /// The path that delivered it.
        path: PathId,
        /// The catalog that applies to it.
        catalog: Arc<Catalog>,
        /// The unit, as the path delivered it.
        unit: AccessUnit,
        /// The preceding unit of its track, if the path states it.
        predecessor: Predecessor,
    },
    /// The state of the stream changed.
    State(State),
    /// The stream has ended for good; nothing follows.
    Ended,
    /// No path will ever work; nothing follows.
    Failed(Error),
}

/// The state of the stream, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Connecting to a server.
    Connecting,
    /// Connected, but the stream is not on air.
    Waiting,
    /// Units arrive by at least one path.
    Live,
    /// A path failed; another attempt follows.
    Reconnecting {
        /// The error, in words.
        reason: String,
    },
}

/// Why a path failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The RTMP connection failed.
    #[error("{address}{}: {source}", source.advice())]
    Rtmp {
        /// The URL, without secrets.
        address: String,
        /// The protocol's error.
        source: net::rtmp::Error,
    },
    /// The relay connection failed.
    #[error("{address}: {source}")]
    Relay {
        /// Address of the relay as `HOST:PORT`.
        address: String,
        /// The protocol's error.
        source: net::relay::Error,
    },
    /// No address answers.
    #[error("{address} does not answer: {reason}")]
    Unreachable {
        /// Name of the server or broadcaster.
        address: String,
        /// Why the last address did not answer, in words.
        reason: String,
    },
    /// The broadcaster has another pairing code.
    #[error(
        "{address}: the pairing code is wrong. The broadcaster's terminal (or log) shows the right one: give it with --pairing-code"
    )]
    WrongCode {
        /// Address of the broadcaster as `HOST:PORT`.
        address: String,
    },
    /// The broadcaster does not know the pairing code.
    #[error(
        "{address} did not prove that it knows the pairing code: the code is wrong, or the connection is intercepted"
    )]
    Impostor {
        /// Address of the broadcaster as `HOST:PORT`.
        address: String,
    },
    /// An HTTP request failed.
    #[error("{url}: {reason}")]
    Http {
        /// The URL that was requested.
        url: String,
        /// The reason, in words.
        reason: String,
        /// Whether another attempt may succeed.
        retry: bool,
    },
    /// The server knows no stream of this name.
    #[error(
        "{address} has no stream named '{name}'. Check the spelling; the server's first page lists its streams. \
         To create this stream, run `cdn key new {name}` on the server"
    )]
    UnknownStream {
        /// The server, as `scheme://host:port`.
        address: String,
        /// The stream's name.
        name: String,
    },
    /// The stream exists, but is not on air.
    #[error("{address} is not live")]
    NotLive {
        /// URL or name of the stream.
        address: String,
    },
    /// The server sends something that this viewer cannot play.
    #[error("{url}: {reason}")]
    Unsupported {
        /// URL of what cannot be played.
        url: String,
        /// What it is, in words.
        reason: String,
    },
    /// The URL cannot be played.
    #[error("{url}: {reason}")]
    Url {
        /// As the user gave it.
        url: String,
        /// What is wrong with it, in words.
        reason: String,
    },
}

impl Error {
    /// Whether a path that fails so is closed for good, even if it has worked: the server and this viewer disagree about the protocol, or the
    /// broadcaster has another pairing code.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Relay { source, .. } => source.is_violation(),
            Self::WrongCode { .. } => true,
            _ => false,
        }
    }

    /// Whether the server knows no stream of this name. It may in a moment: a server, a proxy or a key file is being changed.
    pub fn is_unknown_stream(&self) -> bool {
        let is_unknown = |source: &net::relay::Error| {
            matches!(source, net::relay::Error::Refused { code: net::relay::RefusalCode::UnknownStream, .. })
        };
        match self {
            Self::UnknownStream { .. } => true,
            Self::Relay { source, .. } => is_unknown(source),
            _ => false,
        }
    }

    /// Whether another attempt may succeed.
    pub fn retry(&self) -> bool {
        match self {
            Self::Rtmp { source, .. } => source.retry(),
            Self::Relay { source, .. } => source.retry(),
            Self::Unreachable { .. } => true,
            Self::Http { retry, .. } => *retry,
            Self::NotLive { .. } => true,
            Self::WrongCode { .. } | Self::Impostor { .. } | Self::UnknownStream { .. } => false,
            Self::Unsupported { .. } | Self::Url { .. } => false,
        }
    }
}

/// The playback position, shared with the paths: the last merged units, after which a reopened path resumes, and the size of the buffer.
#[derive(Clone, Debug, Default)]
pub struct Position(Arc<Mutex<PositionState>>);

#[derive(Debug, Default)]
struct PositionState {
    last: Option<ResumePoint>,
    date: Option<WallClock>,
    buffer: Duration,
    shown: Option<Timestamp>,
}

/// Where to resume: an epoch, and the last DTS of each track.
pub type ResumePoint = (Epoch, Vec<(TrackId, Timestamp)>);

impl Position {
    /// Sets the last merged units, and the capture time of the earliest of them, if the capture clock is known.
    pub fn set(&self, epoch: Epoch, last: Vec<(TrackId, Timestamp)>, date: Option<WallClock>) {
        let mut noted = self.0.lock();
        (noted.last, noted.date) = (Some((epoch, last)), date);
    }

    /// Sets how much media is buffered: a stall of that length is not seen.
    pub fn set_buffer(&self, buffer: Duration) {
        self.0.lock().buffer = buffer;
    }

    /// Sets the DTS of the last picture that was presented.
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

/// What a path's task reports to the supervisor.
#[derive(Debug)]
enum PathEvent {
    /// Connected: units will come after this.
    Opened {
        /// How much media comes at once: a segment's or part's duration, or zero.
        burst: Duration,
        /// Whether the broadcast is over, and all of it there.
        complete: bool,
        /// The transport that it delivers by, if that is known only after opening; `None` for the path's own.
        transport: Option<&'static Transport>,
    },
    /// How much media comes at once from now on.
    BurstChanged(Duration),
    /// The server reports that the stream has ended. It may start again.
    NotLive,
    /// The server responds, but has had no new media for too long.
    Stalled,
    /// Connected, and idle as requested.
    Idle,
    /// Whether the server (or broadcaster) has capacity for this viewer.
    Capacity(bool),
    /// The next unit does not follow the last one.
    Gap,
    /// The data that arrives next was requested at this time.
    RequestSent(WallClock),
    /// When units passed the server's stages.
    Timing(Box<latency::TimingReport>, Exchange),
    /// A unit, its catalog, and the preceding unit, if the path states it.
    Unit(Arc<Catalog>, AccessUnit, Predecessor),
    /// The task has ended. `Ok` means that the broadcast is over.
    Closed(Result<(), Error>),
}

/// A path's end of the channel to the supervisor.
#[derive(Clone, Debug)]
struct EventSender {
    path: PathId,
    /// Number of this opening: events of earlier ones may still be queued.
    opening: u64,
    events: mpsc::Sender<(PathId, u64, PathEvent)>,
}

/// The supervisor has ended.
#[derive(Debug)]
struct Closed;

impl EventSender {
    /// Waits while the channel is full, which holds back the socket.
    async fn send(&self, event: PathEvent) -> Result<(), Closed> {
        self.events.send((self.path, self.opening, event)).await.map_err(|_| Closed)
    }
}

/// An epoch for a broadcast that states none.
fn random_epoch() -> Epoch {
    Epoch(rand::random())
}
