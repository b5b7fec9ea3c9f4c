//! A path to a stream: its transport, described as data, and its target.
//!
//! Selection, statistics, the command line and the supervisor read a [`Transport`]'s fields and know no protocol by name. A transport's module
//! holds its description and its [`PathSource`]; the list of all of them is in [`transport`](super::transport).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use media::latency::DeliveryMode;
use media::select::{Mode, PathProfile};
use net::api::PlaybackInfo;
use quinn::Endpoint;
use tokio::sync::watch;

use super::api_client::ApiClient;
use super::discovery::CandidateAddresses;
use super::http::HttpClient;
use super::{Error, EventSender, Position};

/// A way for a stream to reach the viewer.
pub struct Transport {
    /// The value of `--transport` that asks for it.
    pub name: &'static str,
    /// What `--help` says of it.
    pub help: &'static str,
    /// How logs and statistics begin the name of a path: `RTMP` in `RTMP rtmp://host/live/name`.
    pub(super) label: &'static str,
    /// What path selection goes by.
    pub(super) profile: PathProfile,
    /// Which stages a unit passes on the way here, for the latency breakdown.
    pub(super) delivery: DeliveryMode,
    /// Whether each unit names its predecessor; without that, units follow each other in the order in which the path delivers them.
    pub(super) states_predecessor: bool,
    /// Whose uplink carries it.
    pub(super) cost: Cost,
    /// The paths of a URL that is this transport's own.
    pub(super) from_url: fn(&UrlRequest<'_>) -> UrlPaths,
    /// The path to a stream that a server describes; `None` if the server does not offer this transport.
    pub(super) from_server: fn(&ServerOffer<'_>) -> Option<Source>,
}

/// Whose uplink a path takes, and so how many other viewers share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// The broadcaster's own network: a few viewers.
    Lan,
    /// A server: any number of viewers, which must not all reconnect in the same instant.
    Server,
}

/// A path's address and state, shared by all its openings.
pub(super) type Source = Arc<dyn PathSource>;

/// The paths of a URL, or why it is malformed, in words; `None` if the URL is another transport's.
pub(super) type UrlPaths = Option<Result<Vec<Source>, String>>;

/// The units of one path until it breaks, or until the broadcast is over (`Ok`).
pub(super) type Opening<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Where a path leads. It is opened again after it broke.
pub(super) trait PathSource: fmt::Debug + Send + Sync {
    /// The address, without secrets.
    fn address(&self) -> String;

    /// How the path depends on discovery.
    fn discovery(&self) -> Discovery {
        Discovery::Unused
    }

    /// Connects, and reports units and events to `events`.
    ///
    /// # Errors
    /// When the path fails, now or later; [`Error::retry`] says whether another attempt may succeed.
    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a>;
}

/// How a path depends on discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    /// Its address is known.
    Unused,
    /// Discovered addresses are tried in addition to the known ones.
    Helps,
    /// It takes part in selection only once an address was found.
    Required,
}

/// Context for opening a path.
pub(super) struct OpenContext {
    /// The playback position.
    pub(super) position: Position,
    /// For everything by HTTP.
    pub(super) http: HttpClient,
    /// Whether the stream has no other path.
    pub(super) is_only_path: bool,
    /// After an outage, resume at the oldest unit that the server holds, not at the live edge.
    pub(super) keep_all: bool,
    /// The socket of the relay protocol; `None` where the system gives no UDP socket.
    pub(super) endpoint: Option<Endpoint>,
    /// For a path that can be idle: whether it is to deliver units.
    pub(super) active: watch::Receiver<bool>,
    /// The server's API, if the stream was named by its page.
    pub(super) api: Option<ApiClient>,
    /// Whether the path was open before.
    pub(super) is_reopening: bool,
    /// What discovery has found.
    pub(super) candidates: CandidateAddresses,
}

/// A URL that the user gave.
pub(super) struct UrlRequest<'a> {
    /// As the user gave it.
    pub(super) url: &'a str,
    /// Up to `://`, in lower case.
    pub(super) scheme: &'a str,
    /// The broadcaster's pairing code.
    pub(super) pairing_code: Option<&'a str>,
    /// Whether `--transport` names this transport; else any will do.
    pub(super) is_chosen: bool,
}

/// A stream as a server describes it.
pub(super) struct ServerOffer<'a> {
    /// How it can be played.
    pub(super) info: &'a PlaybackInfo,
    /// The API to request an updated description from.
    pub(super) api: &'a ApiClient,
    /// Addresses of the broadcaster that the user gave.
    pub(super) peer_addresses: &'a [String],
    /// Whether `--transport` names this transport; else any will do.
    pub(super) is_chosen: bool,
}

/// Which transports may be used: all, or the one that `--transport` names.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransportFilter(pub(super) Option<&'static Transport>);

/// The user's options for paths.
#[derive(Clone, Debug, Default)]
pub struct PathOptions {
    /// Which transports may be used.
    pub transport: TransportFilter,
    /// The fallback for the path in use.
    pub mode: Mode,
    /// `HOST:PORT` of the broadcaster, tried in addition to discovered addresses.
    pub peer_addresses: Vec<String>,
    /// The pairing code that the broadcaster shows.
    pub pairing_code: Option<String>,
    /// After an outage, resume at the oldest unit that a server holds, not at the live edge.
    pub keep_all: bool,
}

/// One path to the stream.
#[derive(Clone, Debug)]
pub struct PathDescription {
    /// The transport by which it was found.
    pub(super) transport: &'static Transport,
    /// Its address, and the state kept between openings.
    pub(super) source: Source,
}

impl PathDescription {
    /// The path's name in logs and statistics: `RTMP rtmp://host/live/name`.
    pub fn name(&self) -> String {
        self.name_by(self.transport)
    }

    /// The same, once it is known by which transport the source delivers.
    pub(super) fn name_by(&self, transport: &Transport) -> String {
        format!("{} {}", transport.label, self.source.address())
    }
}

impl TransportFilter {
    /// Every transport may be used.
    pub const AUTO: Self = Self(None);

    /// Whether this is the one transport that may be used.
    pub(super) fn names(self, transport: &Transport) -> bool {
        self.0.is_some_and(|chosen| chosen == transport)
    }

    /// Whether this transport may be used.
    pub(super) fn allows(self, transport: &Transport) -> bool {
        self.0.is_none() || self.names(transport)
    }
}

impl PartialEq for Transport {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
