//! What a client asks of a server, and what it sends.

use std::fmt;

use media::TrackKind;

use crate::rtmp::{Message, url};

/// A client's request to publish or to play.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// The application, with its inner slashes.
    pub app: String,
    /// The stream key or play name, without its query.
    pub name: String,
    /// The pairs of the app's query, then those of the name's.
    pub query: Vec<(String, String)>,
    /// `tcUrl` of `connect`.
    pub tc_url: Option<String>,
    /// `flashVer` of `connect`.
    pub agent: Option<String>,
}

/// Redacts name and query, and all but the first segment of the app: any of them may contain a key.
impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRequest")
            .field("app", &url::shown_app(&self.app))
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// An event from the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// The client requests to publish: answer with [`ServerSession::accept_publish`](super::ServerSession::accept_publish) or [`ServerSession::reject`](super::ServerSession::reject).
    Publish(StreamRequest),
    /// The client requests to play: answer with [`ServerSession::accept_play`](super::ServerSession::accept_play) or [`ServerSession::reject`](super::ServerSession::reject).
    Play(StreamRequest),
    /// A message of the stream that is published.
    Message(Message),
    /// An event of a player.
    Player(PlayerEvent),
}

/// An event of a player after `play`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlayerEvent {
    /// The player paused (true) or resumed (false). The session has answered.
    Pause(bool),
    /// The player wants media of this kind (true) or none of it (false), until it says otherwise. The session has answered.
    Receive(TrackKind, bool),
    /// The player has received this many bytes, modulo 2^32.
    Acknowledged(u32),
    /// The player buffers this many milliseconds.
    BufferLength(u32),
    /// The player ended playback: `closeStream` or `deleteStream`.
    Close,
}
