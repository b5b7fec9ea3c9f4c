//! The RTMP listener, one port for publishers and players: authorises each connection's request, and hands publishers to ingest and players
//! to the fan-out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use media::Cursor;
use net::connection_limit::{ConnectionLimiter, ConnectionPermit};
use net::rtmp::Limits;
use net::rtmp::server::{self, PlayRequest, PublishRequest, Publisher, Request};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::auth::{Keyring, StreamName};
use crate::config::Config;
use crate::egress::rtmp::{AcceptedPlayer, Fanout, ResumePoint};
use crate::hub::{Hub, PublishState, PublisherInfo, RevokeReason};
use crate::ingest::{self, PendingLimits};
use crate::listener::LimitedListener;
use crate::rendezvous::PeerDirectory;

/// The RTMP listener of one server.
#[derive(Debug)]
pub struct RtmpServer {
    hub: Arc<Hub>,
    keys: Arc<Keyring>,
    fanout: Arc<Fanout>,
    peers: Arc<PeerDirectory>,
    limiter: Arc<ConnectionLimiter>,
    limits: Limits,
    pending_limits: PendingLimits,
    app: String,
    notsent_lowat: u32,
    auth_failures: AtomicU64,
}

impl RtmpServer {
    /// Creates a listener for the streams of `hub`. `limiter` bounds its connections.
    pub fn new(
        hub: Arc<Hub>,
        keys: Arc<Keyring>,
        fanout: Arc<Fanout>,
        peers: Arc<PeerDirectory>,
        limiter: Arc<ConnectionLimiter>,
        config: &Config,
    ) -> Arc<Self> {
        let rtmp = &config.rtmp;
        let max_message = rtmp.max_message.as_u64() as usize;
        let limits = Limits {
            handshake: rtmp.handshake_timeout,
            idle: rtmp.idle_timeout,
            write: rtmp.write_timeout,
            max_message,
            // One incomplete message per kind of media, and room for commands.
            max_buffered: max_message.saturating_add(max_message / 2),
            ..Limits::default()
        };
        let pending_limits = PendingLimits { track_wait: config.hub.track_wait, max_pending_bytes: max_message };
        let notsent_lowat = config.fanout.notsent_lowat.as_u64() as u32;
        Arc::new(Self {
            hub,
            keys,
            fanout,
            peers,
            limiter,
            limits,
            pending_limits,
            app: rtmp.app.clone(),
            notsent_lowat,
            auth_failures: AtomicU64::new(0),
        })
    }

    /// Number of publishers refused because their stream key is not valid.
    pub fn auth_failures(&self) -> u64 {
        self.auth_failures.load(Ordering::Relaxed)
    }

    /// Accepts connections until `stop` is cancelled; returns when the last publisher has disconnected.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let listener = LimitedListener::new(listener, self.limiter.clone());
        let connections = TaskTracker::new();
        let mut id = 0u64;
        loop {
            let (socket, peer, permit) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            id += 1;
            let span = tracing::info_span!("conn", id, %peer);
            let (server, stop) = (self.clone(), stop.clone());
            connections.spawn(async move { server.connection(socket, peer, permit, stop).await }.instrument(span));
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, socket: TcpStream, peer: SocketAddr, permit: ConnectionPermit, stop: CancellationToken) {
        if let Err(error) = prepare(&socket) {
            tracing::debug!(%error, "cannot configure the socket");
            return;
        }
        let request = tokio::select! {
            () = stop.cancelled() => return,
            request = server::accept(socket, &self.limits) => request,
        };
        let mut next = request.map(Some);
        loop {
            match next {
                Ok(Some(Request::Publish(request))) => {
                    let Some(publisher) = self.publish(request, peer).await else { return };
                    // Closing first would reset the connection while the peer still writes; and it may publish again.
                    next = tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(NEXT_REQUEST_TIMEOUT) => return,
                        next = publisher.next_request() => next,
                    };
                }
                Ok(Some(Request::Play(request))) => return self.play(request, permit).await,
                Ok(None) => return,
                Err(error) => return tracing::info!(%error, "handshake or request failed"),
            }
        }
    }

    /// Returns the connection if it may carry another request.
    async fn publish(&self, request: PublishRequest<TcpStream>, peer: SocketAddr) -> Option<Publisher<TcpStream>> {
        let stream = self.publisher_stream(&request);
        let Some(stream) = stream.and_then(|name| self.hub.stream(name.as_str())) else {
            self.auth_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(app = %self.redacted_app(&request.app), agent = request.agent.as_deref(), "publisher rejected: invalid key");
            let why = "The stream key is not valid. Create one with: cdn key new NAME";
            // Not `BadName`, which servers also send for a key in use: an encoder must not wait for this key to become free.
            if let Err(error) = request.reject("NetStream.Publish.Denied", why).await {
                tracing::debug!(%error, "the publisher disconnected before the rejection was sent");
            }
            return None;
        };
        let span = tracing::info_span!("stream", name = stream.name());
        async {
            let agent = request.agent.clone();
            tracing::info!(agent = agent.as_deref(), "publisher connected");
            let publish = stream.publish(PublisherInfo { peer: peer.to_string(), agent, protocol: "rtmp" });
            // The key may have been revoked after the lookup, before there was a publisher to kick.
            let has_key = self.find_publisher(&request).is_some_and(|name| name.as_str() == stream.name());
            if let Some(why) = publish.revoke_reason().or((!has_key).then_some(RevokeReason::KeyRevoked)) {
                tracing::info!(reason = ?why, "publisher rejected");
                let (code, description) = ingest::rtmp::rejection_status(why);
                if let Err(error) = request.reject(code, description).await {
                    tracing::debug!(%error, "the publisher disconnected before the rejection was sent");
                }
                return None;
            }
            let tickets = self.peers.tickets(stream.name());
            match request.accept_with(ingest::rtmp::resume(&publish), Some(&tickets)).await {
                Ok(publisher) => {
                    let context = ingest::rtmp::PublisherContext { from: peer.ip(), peers: &self.peers };
                    let (ended, connection) = ingest::rtmp::run(publisher, publish, self.pending_limits, context).await;
                    tracing::info!(reason = ?ended, "publisher disconnected");
                    connection
                }
                Err(error) => {
                    tracing::info!(%error, "the publisher disconnected during the handshake");
                    None
                }
            }
        }
        .instrument(span)
        .await
    }

    async fn play(&self, request: PlayRequest<TcpStream>, permit: ConnectionPermit) {
        let (app, rest) = split_app(&request.app);
        let name = if request.name.is_empty() { rest } else { &request.name };
        let names = if app == self.app { played_names(name) } else { Vec::new() };
        let names = names.into_iter().filter_map(|name| name.parse::<StreamName>().ok());
        let Some(stream) = { names }.find_map(|name| self.hub.stream(name.as_str())) else {
            tracing::debug!("player rejected: no such stream");
            if let Err(error) = request.reject("NetStream.Play.StreamNotFound", "There is no such stream.").await {
                tracing::debug!(%error, "the player disconnected before the rejection was sent");
            }
            return;
        };
        let resume_point = ResumePoint::from_query(&request.query);
        let agent = request.agent.clone();
        let player = match request.accept().await {
            Ok(player) => player,
            Err(error) => return tracing::debug!(%error, "the player disconnected during the handshake"),
        };
        let (socket, play) = player.into_parts();
        let is_on_air = matches!(stream.state(), PublishState::Live { .. });
        let position =
            resume_point.and_then(|resume_point| stream.with_window(|window| resume_point.position(window, is_on_air)));
        tracing::debug!(
            stream = stream.name(),
            agent = agent.as_deref(),
            resumes = position.is_some(),
            "player connected"
        );
        let socket = match self.detach_socket(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::debug!(%error, "cannot configure the player's socket"),
        };
        let start = position.map_or_else(Cursor::at_live_edge, Cursor::at);
        let player =
            AcceptedPlayer { socket, play, stream, start, is_resuming: position.is_some(), permit: Box::new(permit) };
        if let Err(error) = self.fanout.add(player) {
            tracing::debug!(%error, "cannot hand the player to a fan-out thread");
        }
    }

    /// The stream of the publisher's key. The key is given as the stream name, in the query, or in the app after the slash. A stream name given
    /// together with a key in the query must be the key's.
    fn publisher_stream(&self, request: &PublishRequest<TcpStream>) -> Option<StreamName> {
        self.find_publisher(request).or_else(|| {
            // The key may be newer than the last reload.
            reload_keys(&self.keys, &self.hub);
            self.find_publisher(request)
        })
    }

    /// The same, by the loaded keys only.
    fn find_publisher(&self, request: &PublishRequest<TcpStream>) -> Option<StreamName> {
        let (app, rest) = split_app(&request.app);
        if app == self.app { self.find_key(&request.name, rest, &request.query) } else { None }
    }

    fn find_key(&self, name: &str, rest: &str, query: &[(String, String)]) -> Option<StreamName> {
        let named = if name.is_empty() { rest } else { name };
        if let Some(stream) = self.keys.resolve(named) {
            return Some(stream);
        }
        let in_query =
            query.iter().filter(|(key, _)| QUERY_KEYS.contains(&key.as_str())).map(|(_, value)| value.as_str());
        let in_app = (!name.is_empty()).then_some(rest).filter(|rest| !rest.is_empty());
        let stream = in_query.chain(in_app).take(MAX_KEY_CANDIDATES).find_map(|key| self.keys.resolve(key))?;
        (stream.as_str() == named).then_some(stream)
    }

    /// The app without its part after the slash, which may be a key, for the log.
    fn redacted_app<'a>(&self, app: &'a str) -> &'a str {
        let (first, _) = split_app(app);
        if first == self.app { first } else { "another" }
    }

    fn detach_socket(&self, socket: TcpStream) -> io::Result<std::net::TcpStream> {
        SockRef::from(&socket).set_tcp_notsent_lowat(self.notsent_lowat)?;
        socket.into_std()
    }
}

/// The stream names that a player may mean by `name`, the likeliest first. Flash players put `mp4:` or `flv:` before the name of a file, and others
/// add `.flv`.
fn played_names(name: &str) -> Vec<&str> {
    let mut names = vec![name];
    let bare = PLAY_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    names.extend([bare, bare.strip_suffix(".flv").unwrap_or(bare)]);
    names.dedup();
    names
}

/// Reloads the keys if the file changed. Opens the streams of added keys, ends those of removed keys, and revokes publishers of replaced keys.
pub fn reload_keys(keys: &Keyring, hub: &Hub) {
    match keys.reload() {
        Ok(changes) => {
            for name in &changes.added {
                tracing::info!(stream = %name, "key added");
                hub.open(name.as_str());
            }
            for name in &changes.replaced {
                tracing::info!(stream = %name, "key replaced");
                hub.kick(name.as_str());
            }
            for name in &changes.removed {
                tracing::info!(stream = %name, "key removed");
                hub.end(name.as_str());
            }
        }
        Err(error) => tracing::warn!(%error, "cannot reload the keys: the loaded ones stay valid"),
    }
}

/// Splits an app at its first slash and drops the query: `live/x?y` gives `live` and `x`.
fn split_app(app: &str) -> (&str, &str) {
    let path = app.split('?').next().unwrap_or_default().trim_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    // Detects peers that disappeared while nothing is written to them.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3))
}

/// What players put before the name of a stream.
const PLAY_PREFIXES: &[&str] = &["mp4:", "flv:"];
/// Query parameters in which encoders send a key.
const QUERY_KEYS: &[&str] = &["key", "streamkey", "stream_key"];
/// Maximum number of possible keys that are checked per publisher.
const MAX_KEY_CANDIDATES: usize = 4;
/// Idle time before the kernel sends TCP keepalive probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a publisher that unpublished may take to close the connection, or to publish again.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_may_name_a_stream_like_a_file() {
        for (name, expected) in [
            ("live", vec!["live"]),
            ("mp4:live", vec!["mp4:live", "live"]),
            ("flv:live.flv", vec!["flv:live.flv", "live.flv", "live"]),
            ("live.flv", vec!["live.flv", "live"]),
            ("", vec![""]),
        ] {
            assert_eq!(played_names(name), expected);
        }
    }

    #[test]
    fn an_app_is_split_at_its_first_slash() {
        for (app, expected) in [
            ("live", ("live", "")),
            ("live/", ("live", "")),
            ("/live/key", ("live", "key")),
            ("live/key?a=b/c", ("live", "key")),
            ("", ("", "")),
            ("live/a/b", ("live", "a/b")),
        ] {
            assert_eq!(split_app(app), expected, "{app}");
        }
    }
}
