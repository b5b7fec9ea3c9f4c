//! A player's HTTP client: a few persistent connections to one server (RFC 9112 §9.3). Plain HTTP, no redirects.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

type Sender = SendRequest<Empty<Bytes>>;

/// The idle connections of one player.
#[derive(Clone, Debug)]
pub(super) struct Http {
    server: SocketAddr,
    authority: Rc<str>,
    idle: Rc<RefCell<Vec<Sender>>>,
}

/// A response whose body has not been read yet.
#[derive(Debug)]
pub(super) struct HttpResponse {
    body: Incoming,
    is_compressed: bool,
    sender: Option<Sender>,
    idle: Rc<RefCell<Vec<Sender>>>,
}

impl Http {
    pub(super) fn new(server: SocketAddr, authority: &str) -> Self {
        Self { server, authority: authority.into(), idle: Rc::default() }
    }

    /// Requests a path. Fails unless the response is 200 and arrives within [`READ_TIMEOUT`].
    pub(super) async fn get(&self, path: &str) -> Result<HttpResponse> {
        timeout(READ_TIMEOUT, self.answer(path))
            .await
            .with_context(|| format!("{path}: no response within {READ_TIMEOUT:?}"))?
    }

    async fn answer(&self, path: &str) -> Result<HttpResponse> {
        let mut sender = self.connection().await?;
        let request = Request::get(path)
            .header(HOST, &*self.authority)
            .header(ACCEPT_ENCODING, "gzip")
            .body(Empty::new())
            .with_context(|| format!("{path} is not a valid path"))?;
        let response = sender.send_request(request).await.with_context(|| format!("GET {path}"))?;
        ensure!(response.status() == StatusCode::OK, "GET {path}: {}", response.status());
        let is_compressed = response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
        Ok(HttpResponse { body: response.into_body(), is_compressed, sender: Some(sender), idle: self.idle.clone() })
    }

    /// The whole body, decompressed.
    pub(super) async fn whole(&self, path: &str) -> Result<Bytes> {
        let mut answer = self.get(path).await?;
        let mut whole = BytesMut::new();
        while let Some(bytes) = answer.bytes().await.with_context(|| path.to_owned())? {
            whole.extend_from_slice(&bytes);
            ensure!(whole.len() <= MAX_BODY, "{path} is longer than {MAX_BODY} bytes");
        }
        if !answer.is_compressed {
            return Ok(whole.freeze());
        }
        let mut plain = Vec::new();
        let mut decoder = std::io::Read::take(flate2::read::GzDecoder::new(&whole[..]), MAX_BODY as u64);
        std::io::Read::read_to_end(&mut decoder, &mut plain).with_context(|| format!("{path}: gzip"))?;
        Ok(plain.into())
    }

    async fn connection(&self) -> Result<Sender> {
        loop {
            let Some(mut sender) = self.idle.borrow_mut().pop() else { break };
            // The server may have closed it meanwhile.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.server)).await;
        let socket =
            connected.with_context(|| format!("{}: no connection within {CONNECT_TIMEOUT:?}", self.server))??;
        socket.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        // Its error is reported to the user of the connection.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }
}

impl HttpResponse {
    /// The next bytes of the body; `None` at its end, after which the connection is idle again.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame =
                timeout(READ_TIMEOUT, self.body.frame()).await.context("the response stopped before its end")?;
            match frame {
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                None => {
                    self.idle.borrow_mut().extend(self.sender.take());
                    return Ok(None);
                }
            }
        }
    }
}

/// Splits a URL that begins with `http://` into socket address, authority and path. Fails on other schemes, and if the name does not resolve.
pub(super) async fn locate(url: &str) -> Result<(SocketAddr, String, String)> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("{url}: a URL that begins with http:// is expected");
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let found = tokio::net::lookup_host(&place).await.with_context(|| format!("look up {place}"))?.next();
    Ok((found.with_context(|| format!("{place} has no address"))?, authority.to_owned(), path.to_owned()))
}

/// Timeout of the TCP handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of each read: a blocking reload takes three target durations at most.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a playlist, an init segment or an API response.
const MAX_BODY: usize = 4 << 20;
