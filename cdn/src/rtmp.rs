//! The RTMP listener, one port for publishers and players: authorises each connection's request, and hands publishers to ingest and players
//! to the fan-out.

mod authorizer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::Cursor;
use net::connection_limit::ConnectionLimiter;
use net::connection_slots::{ConnectionSlot, ConnectionSlots, Evictable};
use net::rtmp::server::{self, PlayRequest, PublishRequest, Publisher, Request};
use net::rtmp::{INVALID_APP, Limits};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::auth::{Keyring, LastPublish, LastPublishes, StreamName};
use crate::config::Config;
use crate::egress::rtmp::{AcceptedPlayer, Fanout, ResumePoint};
use crate::hub::{Hub, PublishState, PublisherInfo, RevokeReason};
use crate::ingest::{self, PendingLimits};
use crate::listener::LimitedListener;
use crate::rendezvous::PeerDirectory;
use authorizer::{Authorizer, Credentials, split_app};
pub use authorizer::{check_keys, reload_keys};

/// The RTMP listener of one server.
#[derive(Debug)]
pub struct RtmpServer {
    hub: Arc<Hub>,
    authorizer: Authorizer,
    fanout: Arc<Fanout>,
    peers: Arc<PeerDirectory>,
    last_publishes: Arc<LastPublishes>,
    slots: Arc<ConnectionSlots>,
    limits: Limits,
    pending_limits: PendingLimits,
    app: String,
    notsent_lowat: u32,
}

impl RtmpServer {
    /// Creates a listener for the streams of `hub`. `limiter` bounds its connections, and `last_publishes` records the use of `keys`.
    pub fn new(
        hub: Arc<Hub>,
        keys: Arc<Keyring>,
        fanout: Arc<Fanout>,
        peers: Arc<PeerDirectory>,
        last_publishes: Arc<LastPublishes>,
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
            authorizer: Authorizer::new(hub.clone(), keys, &rtmp.app),
            hub,
            fanout,
            peers,
            last_publishes,
            slots: ConnectionSlots::new(limiter, reserved_slots(rtmp.max_connections), Evictable::Waiting),
            limits,
            pending_limits,
            app: rtmp.app.clone(),
            notsent_lowat,
        })
    }

    /// Number of publishers refused because their stream key is not valid.
    pub fn auth_failures(&self) -> u64 {
        self.authorizer.failed()
    }

    /// Number of connections closed because another one needed their slot: players that waited, and connections that had sent no request.
    pub fn connections_evicted(&self) -> u64 {
        self.slots.evicted()
    }

    /// Number of players rejected because all slots of players were taken.
    pub fn players_rejected(&self) -> u64 {
        self.slots.subscribers_rejected()
    }

    /// Logs the totals of failures to authenticate that are not logged yet, at the end.
    pub fn finish_reports(&self) {
        self.authorizer.finish(Instant::now());
    }

    /// Logs how often each address failed, when its interval is over. Never returns.
    pub async fn keep_reporting(&self) {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        loop {
            ticks.tick().await;
            self.authorizer.report(Instant::now());
        }
    }

    /// Accepts connections until `stop` is cancelled; returns when the last publisher has disconnected.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let listener = LimitedListener::new(listener, self.slots.clone());
        let connections = TaskTracker::new();
        let mut id = 0u64;
        loop {
            let (socket, peer, slot) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            id += 1;
            let span = tracing::info_span!("conn", id, %peer);
            let (server, stop) = (self.clone(), stop.clone());
            connections.spawn(async move { server.connection(socket, peer, slot, stop).await }.instrument(span));
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, socket: TcpStream, peer: SocketAddr, slot: ConnectionSlot, stop: CancellationToken) {
        tokio::select! {
            () = slot.evicted() => tracing::debug!("disconnected: another connection needed the slot"),
            () = self.serve_connection(socket, peer, slot, stop) => {}
        }
    }

    async fn serve_connection(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        slot: ConnectionSlot,
        stop: CancellationToken,
    ) {
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
                    let Some(publisher) = self.publish(request, peer, &slot).await else { return };
                    // Closing first would reset the connection while the peer still writes; and it may publish again.
                    next = tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(NEXT_REQUEST_TIMEOUT) => return,
                        next = publisher.next_request() => next,
                    };
                }
                Ok(Some(Request::Play(request))) => return self.play(request, slot).await,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "handshake or request failed"),
            }
        }
    }

    /// Returns the connection if it may carry another request.
    async fn publish(
        &self,
        request: PublishRequest<TcpStream>,
        peer: SocketAddr,
        slot: &ConnectionSlot,
    ) -> Option<Publisher<TcpStream>> {
        if split_app(&request.app).0 != self.app {
            tracing::info!(
                agent = request.agent.as_deref(),
                "publisher rejected: no such application; it is {}",
                self.app
            );
            let why = format!("There is no such application. Publish to rtmp://HOST/{}", self.app);
            if let Err(error) = request.reject(INVALID_APP, &why).await {
                tracing::debug!(%error, "the publisher disconnected before the rejection was sent");
            }
            return None;
        }
        let Some((key, stream)) = self.authorizer.authorize(credentials(&request), peer.ip()) else {
            tracing::debug!(app = %self.redacted_app(&request.app), agent = request.agent.as_deref(), "publisher rejected: invalid key");
            let why = "The stream key is not valid. Create one with: cdn key new NAME";
            // Not `BadName`, which servers also send for a key in use: an encoder must not wait for this key to become free.
            if let Err(error) = request.reject("NetStream.Publish.Denied", why).await {
                tracing::debug!(%error, "the publisher disconnected before the rejection was sent");
            }
            return None;
        };
        if slot.set_publisher().is_err() {
            return None;
        }
        let span = tracing::info_span!("stream", name = stream.name());
        async {
            let agent = request.agent.clone();
            tracing::info!(agent = agent.as_deref(), "publisher connected");
            let info = PublisherInfo { peer: peer.to_string(), agent, protocol: "rtmp", key: Some(key.clone()) };
            let publish = stream.publish(info);
            // The key may have been revoked after the lookup, before there was a publisher to kick.
            let has_key = self.authorizer.is_valid(&key);
            if let Some(why) = publish.revoke_reason().or((!has_key).then_some(RevokeReason::KeyRevoked)) {
                tracing::info!(reason = %why, "publisher rejected");
                let (code, description) = ingest::rtmp::rejection_status(why);
                if let Err(error) = request.reject(code, description).await {
                    tracing::debug!(%error, "the publisher disconnected before the rejection was sent");
                }
                return None;
            }
            let tickets = self.peers.tickets(stream.name());
            match request.accept_with(ingest::rtmp::resume(&publish), Some(&tickets)).await {
                Ok(publisher) => {
                    let at = net::clock::now();
                    self.last_publishes.record(key.id, LastPublish { at, from: peer.ip().to_canonical() });
                    let context = ingest::rtmp::PublisherContext { from: peer.ip(), peers: &self.peers };
                    let (ended, connection) = ingest::rtmp::run(publisher, publish, self.pending_limits, context).await;
                    tracing::info!(reason = %ended, "publisher disconnected");
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

    async fn play(&self, request: PlayRequest<TcpStream>, slot: ConnectionSlot) {
        let (app, rest) = split_app(&request.app);
        let name = if request.name.is_empty() { rest } else { &request.name };
        if app != self.app {
            tracing::info!(
                agent = request.agent.as_deref(),
                "player rejected: no such application; it is {}",
                self.app
            );
            let why = format!("There is no such application. Play rtmp://HOST/{}/NAME", self.app);
            if let Err(error) = request.reject(INVALID_APP, &why).await {
                tracing::debug!(%error, "the player disconnected before the rejection was sent");
            }
            return;
        }
        let names = played_names(name).into_iter().filter_map(|name| name.parse::<StreamName>().ok());
        let Some(stream) = { names }.find_map(|name| self.hub.stream(name.as_str())) else {
            tracing::debug!("player rejected: no such stream");
            if let Err(error) = request.reject("NetStream.Play.StreamNotFound", "There is no such stream.").await {
                tracing::debug!(%error, "the player disconnected before the rejection was sent");
            }
            return;
        };
        if slot.set_subscriber(!is_on_air(stream.state())).is_err() {
            tracing::debug!("player rejected: no slot");
            let why = "The server has no slot for another player.";
            if let Err(error) = request.reject("NetStream.Play.Failed", why).await {
                tracing::debug!(%error, "the player disconnected before the rejection was sent");
            }
            return;
        }
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
        let player = AcceptedPlayer { socket, play, stream, start, is_resuming: position.is_some(), slot };
        if let Err(error) = self.fanout.add(player) {
            tracing::debug!(%error, "cannot hand the player to a fan-out thread");
        }
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

fn credentials(request: &PublishRequest<TcpStream>) -> Credentials<'_> {
    Credentials { app: &request.app, name: &request.name, query: &request.query }
}

/// Number of slots out of `max` that players do not get.
fn reserved_slots(max: usize) -> usize {
    (max / RESERVED_SHARE).max(1).min(max.saturating_sub(1))
}

/// Whether players of the stream get media, or will once its publisher has reconnected.
fn is_on_air(state: PublishState) -> bool {
    matches!(state, PublishState::Live { .. } | PublishState::Disconnected { .. })
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    // Detects peers that disappeared while nothing is written to them.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3))
}

/// What players put before the name of a stream.
const PLAY_PREFIXES: &[&str] = &["mp4:", "flv:"];
/// The part of the slots that is kept free of players, for publishers: one in eight.
const RESERVED_SHARE: usize = 8;
/// Idle time before the kernel sends TCP keepalive probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How late a report of failures may be.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a publisher that unpublished may take to close the connection, or to publish again.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_in_eight_is_kept_free_of_players() {
        for (max, expected) in [(1, 0), (2, 1), (7, 1), (16, 2), (8192, 1024)] {
            assert_eq!(reserved_slots(max), expected, "{max}");
        }
    }

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
}
