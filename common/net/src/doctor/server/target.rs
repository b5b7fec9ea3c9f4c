//! Parses the URL that the user gave. Pure. Errors never show the URL, which may contain a key.

use reqwest::Url;

use crate::doctor::role::Role;
use crate::rtmp;

/// The target that a URL names.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A server and one of its streams.
    Server(Box<Server>),
    /// A broadcaster: `HOST:PORT`, one or several.
    Broadcaster(Vec<String>),
}

/// A server, as far as a URL describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    pub(super) host: String,
    /// The origin of its HTTP API.
    pub(super) origin: Url,
    /// Whether the origin is a guess.
    pub(super) is_guess: bool,
    /// The stream's name; never a key.
    pub(super) name: Option<String>,
    /// Host and port of RTMP, if the URL is `rtmp://`.
    pub(super) rtmp: Option<(String, u16)>,
    /// The playlist that the URL names.
    pub(super) hls: Option<Url>,
}

/// Why a URL cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scheme is not supported.
    #[error("the URL must start with http://, https:// or rtmp:// (or, for a viewer, nearcast://)")]
    Scheme,
    /// The URL is malformed, or has no host.
    #[error("the URL is malformed: give http://HOST:8080/NAME or rtmp://HOST/APP")]
    Malformed,
    /// The `rtmp://` URL is invalid.
    #[error(transparent)]
    Rtmp(#[from] rtmp::url::Error),
    /// The URL of a server names no stream.
    #[error("name a stream: http://HOST:8080/NAME")]
    Name,
    /// The URL of a broadcaster has no port.
    #[error("give the port too: nearcast://HOST:PORT")]
    Port,
}

impl Target {
    /// Parses `url`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(url: &str, role: Role) -> Result<Self, Error> {
        let (scheme, rest) = url.trim().split_once("://").ok_or(Error::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "rtmp" | "rtmps" => rtmp_server(url.trim(), role).map(|server| Self::Server(Box::new(server))),
            "http" | "https" => http_server(url.trim(), role).map(|server| Self::Server(Box::new(server))),
            "nearcast" if role == Role::Subscriber => {
                // The pairing code follows the `#`.
                let names = rest.split('#').next().unwrap_or_default().trim_end_matches('/');
                let names: Vec<String> = names.split(',').map(str::to_owned).collect();
                let has_port =
                    |name: &String| name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                if names.iter().all(has_port) { Ok(Self::Broadcaster(names)) } else { Err(Error::Port) }
            }
            _ => Err(Error::Scheme),
        }
    }
}

/// Redacted: the stream name may be a key in the wrong place.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Broadcaster(_) => "Broadcaster",
        })
    }
}

fn rtmp_server(url: &str, role: Role) -> Result<Server, Error> {
    let parsed = match rtmp::url::parse(url) {
        // A publisher's key may be given elsewhere. It is not checked, because publishing with it would end the current broadcast.
        Err(rtmp::url::Error::Name) if role == Role::Publisher => {
            rtmp::url::parse(&format!("{}/app/key", url.trim_end_matches('/')))?
        }
        parsed => parsed?,
    };
    let host = if parsed.host.contains(':') { format!("[{}]", parsed.host) } else { parsed.host.clone() };
    let origin = Url::parse(&format!("http://{host}:{HTTP_PORT}/")).map_err(|_| Error::Malformed)?;
    let name = parsed.name.split('?').next().unwrap_or_default().to_owned();
    Ok(Server {
        rtmp: Some((parsed.host.clone(), parsed.port)),
        host: parsed.host,
        origin,
        is_guess: true,
        // The last segment of a publisher's URL is its key.
        name: Some(name).filter(|_| role == Role::Subscriber),
        hls: None,
    })
}

fn http_server(url: &str, role: Role) -> Result<Server, Error> {
    let parsed = Url::parse(url).map_err(|_| Error::Malformed)?;
    let host = parsed.host_str().ok_or(Error::Malformed)?.trim_matches(['[', ']']).to_owned();
    let mut origin = parsed.clone();
    origin.set_query(None);
    origin.set_fragment(None);
    let path = parsed.path().trim_matches('/').to_owned();
    let lower = path.to_ascii_lowercase();
    let is_playlist = lower.ends_with(".m3u8") || lower.ends_with(".m3u");
    // A proxy may serve all paths below one of its own.
    let (prefix, name) = match path.split('/').collect::<Vec<_>>()[..] {
        [""] if role == Role::Publisher => (String::new(), None),
        [""] => return Err(Error::Name),
        // A Nearcast playlist is below its stream's page.
        [name, _] if is_playlist => (String::new(), Some(name.to_owned())),
        _ if is_playlist => (String::new(), None),
        [ref prefix @ .., name] => (prefix.join("/"), Some(name.to_owned())),
        [] => return Err(Error::Malformed),
    };
    origin.set_path(&if prefix.is_empty() { "/".to_owned() } else { format!("/{prefix}/") });
    Ok(Server { host, origin, is_guess: false, name, rtmp: None, hls: is_playlist.then_some(parsed) })
}

/// Scheme, host and port of a URL: the rest may contain secrets and must not be shown.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| format!("{}://{host}", url.scheme()), |port| format!("{}://{host}:{port}", url.scheme()))
}

/// The default HTTP port of `cdn`.
const HTTP_PORT: u16 = 8080;
