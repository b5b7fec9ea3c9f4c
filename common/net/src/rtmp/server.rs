//! An RTMP server connection, from accept to publish or play.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Deadline};
use super::framing::{self, Framed, PLAY_CHUNK_SIZE};
pub use super::session::PlayerEvent;
use super::session::{ServerEvent, ServerSession, StreamRequest};
use super::{Error, Limits, Message, Resume, TicketIssuer, url};
use crate::clock;

/// A client's request.
#[derive(Debug)]
pub enum Request<S> {
    /// A request to publish.
    Publish(PublishRequest<S>),
    /// A request to play.
    Play(PlayRequest<S>),
}

/// A client's request to publish. Dropping it closes the connection without an answer.
pub struct PublishRequest<S> {
    /// The application, with its inner slashes.
    pub app: String,
    /// The stream key: the part before `?`.
    pub name: String,
    /// The query pairs of the app, then those of the name.
    pub query: Vec<(String, String)>,
    /// `tcUrl` of `connect`.
    pub tc_url: Option<String>,
    /// `flashVer` of `connect`.
    pub agent: Option<String>,
    connection: Connection<S, ServerSession>,
}

/// A client's request to play. Dropping it closes the connection without an answer.
pub struct PlayRequest<S> {
    /// The application, with its inner slashes.
    pub app: String,
    /// The name of the stream: the part before `?`.
    pub name: String,
    /// The query pairs of the app, then those of the name.
    pub query: Vec<(String, String)>,
    /// `tcUrl` of `connect`.
    pub tc_url: Option<String>,
    /// `flashVer` of `connect`.
    pub agent: Option<String>,
    connection: Connection<S, ServerSession>,
}

/// Handles the handshake, `connect` and `createStream` up to `publish` or `play`, all within `limits.handshake`.
///
/// # Errors
/// Protocol and limit violations of the peer, and [`Error::Timeout`].
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(io: S, limits: &Limits) -> Result<Request<S>, Error> {
    let deadline = Deadline::after("publish or play", limits.handshake);
    let connection = Connection::new(io, ServerSession::new(limits), limits);
    next_request(connection, deadline).await?.ok_or(Error::Closed { waiting_for: "publish or play" })
}

/// The next request on a connection; `None` if the client closes it.
async fn next_request<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S, ServerSession>,
    deadline: Deadline,
) -> Result<Option<Request<S>>, Error> {
    loop {
        match connection.session.event() {
            Some(ServerEvent::Publish(request)) => {
                let StreamRequest { app, name, query, tc_url, agent } = request;
                let request = PublishRequest { app, name, query, tc_url, agent, connection };
                return Ok(Some(Request::Publish(request)));
            }
            Some(ServerEvent::Play(request)) => {
                let StreamRequest { app, name, query, tc_url, agent } = request;
                return Ok(Some(Request::Play(PlayRequest { app, name, query, tc_url, agent, connection })));
            }
            Some(ServerEvent::Message(_) | ServerEvent::Player(_)) => continue,
            None => {}
        }
        connection.flush(deadline).await?;
        if !connection.fill(deadline).await? {
            return Ok(None);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PublishRequest<S> {
    /// Accepts the publisher, and states where to resume.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn accept(self, resume: Option<Resume>) -> Result<Publisher<S>, Error> {
        self.accept_with(resume, None).await
    }

    /// Accepts the publisher, and states where to resume and which key signs its viewers' tickets.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn accept_with(
        mut self,
        resume: Option<Resume>,
        ticket_issuer: Option<&TicketIssuer>,
    ) -> Result<Publisher<S>, Error> {
        self.connection.session.accept_publish(resume.as_ref(), ticket_issuer);
        self.connection.flush(self.connection.write_deadline()).await?;
        Ok(Publisher { connection: self.connection })
    }

    /// Rejects the publisher with a code such as `NetStream.Publish.BadName`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn reject(mut self, code: &str, description: &str) -> Result<(), Error> {
        self.connection.session.reject(code, description);
        self.connection.close().await
    }
}

/// A connection whose client publishes.
pub struct Publisher<S> {
    connection: Connection<S, ServerSession>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Publisher<S> {
    /// The next message; `None` once the peer has closed the connection. Cancel safe. Answers protocol messages internally.
    ///
    /// # Errors
    /// Protocol and limit violations of the peer, and [`Error::Timeout`] after `limits.idle` without data.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        let connection = &mut self.connection;
        loop {
            match connection.session.event() {
                Some(ServerEvent::Message(message)) => {
                    if let Message::Timing(timing) = &message {
                        connection.session.answer_timing(timing.sent, clock::now());
                    }
                    return Ok(Some(message));
                }
                Some(ServerEvent::Publish(_) | ServerEvent::Play(_)) => {
                    return Err(Error::Protocol { what: "the publisher requests another stream on this connection" });
                }
                Some(ServerEvent::Player(_)) => continue,
                None => {}
            }
            match connection.flush(connection.write_deadline()).await {
                // A publisher that is gone reads no answers. What it sent before is still in the socket's buffer.
                Err(Error::Io { .. }) => connection.discard_queue(),
                flushed => flushed?,
            }
            if !connection.fill(connection.idle_deadline()).await? {
                return Ok(None);
            }
        }
    }

    /// Waits up to `limits.idle` for another request on the same connection, after [`Message::EndOfStream`]; `None` if the client closes it.
    ///
    /// # Errors
    /// As for [`accept`].
    pub async fn next_request(self) -> Result<Option<Request<S>>, Error> {
        let deadline = Deadline::after("publish or play", self.connection.limits.idle);
        next_request(self.connection, deadline).await
    }

    /// Sends `onStatus` of level `error`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn close(mut self, code: &str, description: &str) -> Result<(), Error> {
        self.connection.session.reject(code, description);
        self.connection.close().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PlayRequest<S> {
    /// Accepts the player with `StreamBegin`, `NetStream.Play.Reset`, `NetStream.Play.Start`; media may follow in chunks of
    /// [`PLAY_CHUNK_SIZE`].
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn accept(mut self) -> Result<Player<S>, Error> {
        self.connection.session.accept_play();
        self.connection.flush(self.connection.write_deadline()).await?;
        Ok(Player { connection: self.connection })
    }

    /// Rejects the player with a code such as `NetStream.Play.StreamNotFound`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn reject(mut self, code: &str, description: &str) -> Result<(), Error> {
        self.connection.session.reject(code, description);
        self.connection.close().await
    }
}

/// A connection whose client plays.
pub struct Player<S> {
    connection: Connection<S, ServerSession>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Player<S> {
    /// Sends one message.
    ///
    /// # Errors
    /// Write errors, protocol and limit violations of the peer, and [`Error::Unsendable`].
    pub async fn send(&mut self, message: &Message) -> Result<(), Error> {
        self.send_framed(&framing::message(message, PLAY_CHUNK_SIZE)?).await
    }

    /// Sends a message that was serialised once for many players.
    ///
    /// # Errors
    /// Write errors, and protocol and limit violations of the peer.
    pub async fn send_framed(&mut self, framed: &Framed) -> Result<(), Error> {
        self.connection.queue(Some(framed));
        self.connection.flush(self.connection.write_deadline()).await
    }

    /// The next event from the client.
    pub fn event(&mut self) -> Option<PlayerEvent> {
        player_event(&mut self.connection.session)
    }

    /// Sends `onStatus` of level `error`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn close(mut self, code: &str, description: &str) -> Result<(), Error> {
        self.connection.session.reject(code, description);
        self.connection.close().await
    }

    /// The socket, with nothing unsent unless a send was cancelled, and the state that parses the client's bytes: for a fan-out that writes to
    /// the socket itself.
    pub fn into_parts(self) -> (S, PlayState) {
        let (io, mut session) = self.connection.into_parts();
        let early = std::iter::from_fn(|| player_event(&mut session)).collect();
        (io, PlayState { session, early })
    }
}

fn player_event(session: &mut ServerSession) -> Option<PlayerEvent> {
    loop {
        if let ServerEvent::Player(event) = session.event()? {
            return Some(event);
        }
    }
}

/// Parses what a player sends while its caller writes the media.
#[derive(Debug)]
pub struct PlayState {
    session: ServerSession,
    /// Events from before [`Player::into_parts`].
    early: VecDeque<PlayerEvent>,
}

impl PlayState {
    /// Parses bytes from the client; `&[]` returns the events from before [`Player::into_parts`]. Afterwards [`PlayState::replies`] may have
    /// bytes to write between two messages.
    ///
    /// # Errors
    /// Protocol and limit violations of the peer: close the connection.
    pub fn input(&mut self, bytes: &[u8]) -> Result<Vec<PlayerEvent>, Error> {
        if !bytes.is_empty() {
            self.session.input(bytes)?;
        }
        let mut events: Vec<_> = self.early.drain(..).collect();
        events.extend(std::iter::from_fn(|| player_event(&mut self.session)));
        Ok(events)
    }

    /// Takes the bytes to write to the client between two messages; empty if there are none.
    pub fn replies(&mut self) -> Bytes {
        self.session.output()
    }

    /// The bytes that end playback, an `onStatus` with a code such as `NetStream.Play.Failed`.
    pub fn close_message(&mut self, code: &str, description: &str) -> Bytes {
        self.session.reject(code, description);
        self.session.output()
    }
}

impl<S> fmt::Debug for PublishRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRequest")
            .field("app", &url::shown_app(&self.app))
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for PlayRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A user who plays instead of publishing by mistake puts the stream key in the same places.
        f.debug_struct("PlayRequest")
            .field("app", &url::shown_app(&self.app))
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Publisher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Player<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Player").finish_non_exhaustive()
    }
}
