//! What speaks at a port whose answer was none of the expected protocol: a server of the other one says nothing, or closes the connection.

use std::time::Duration;

use net::rtmp;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Error;

/// Names the protocol of whoever answers at `url`, the user's own, if it is another than the URL says; such an error is final. Returns
/// `error` otherwise. To be called before anything was played.
pub(super) async fn explain(url: &str, error: Error) -> Error {
    let may_be_another = match &error {
        Error::Http { retry, .. } => *retry,
        Error::Rtmp { source, .. } => {
            matches!(source, rtmp::Error::Closed { .. } | rtmp::Error::Timeout { .. } | rtmp::Error::Io { .. })
        }
        _ => false,
    };
    let Some((url, is_http)) = Url::parse(url).ok().filter(|_| may_be_another).and_then(|url| {
        let is_http = url.scheme() == "http";
        (is_http || url.scheme() == "rtmp").then_some((url, is_http))
    }) else {
        return error;
    };
    let Some(host) = url.host_str() else { return error };
    let port = url.port_or_known_default().unwrap_or(RTMP_PORT);
    let address = format!("{host}:{port}");
    match is_http {
        true if answers(&address, &rtmp_handshake(), |answer| answer[0] == RTMP_VERSION).await => Error::Http {
            url: url.to_string(),
            reason: "what answers at this port is RTMP; try rtmp://HOST/live/NAME, or the port of HTTP".to_owned(),
            retry: false,
        },
        false if answers(&address, HTTP_REQUEST, |answer| answer.starts_with(b"HTTP/")).await => match error {
            Error::Rtmp { address, .. } => Error::Rtmp { address, source: rtmp::Error::NotRtmp { protocol: "HTTP" } },
            error => error,
        },
        _ => error,
    }
}

/// Whether the first bytes of the answer to `request` are as expected.
async fn answers(address: &str, request: &[u8], is_expected: fn(&[u8; 5]) -> bool) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request).await.ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.ok()?;
        Some(is_expected(&answer))
    };
    timeout(TIMEOUT, ask).await.ok().flatten().unwrap_or(false)
}

/// C0 and C1 (RTMP 1.0 §5.2.2, §5.2.3): any bytes will do as the random ones.
fn rtmp_handshake() -> Vec<u8> {
    let mut handshake = vec![0; 1 + 1536];
    handshake[0] = RTMP_VERSION;
    handshake
}

const RTMP_VERSION: u8 = 3;
const RTMP_PORT: u16 = 1935;
/// Any server of HTTP answers it, if only with an error.
const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// For name resolution, connecting and the first bytes of the answer.
const TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_protocol_that_answers_is_named() {
        let http = Error::Http { url: "u".to_owned(), reason: "closed".to_owned(), retry: true };
        let rtmp = Error::Rtmp { address: "a".to_owned(), source: rtmp::Error::Closed { waiting_for: "S0" } };
        for (scheme, error, answer, is_final, says) in [
            ("http", http, &b"\x03\0\0\0\0\0"[..], true, "is RTMP; try rtmp://"),
            ("rtmp", rtmp, b"HTTP/1.1 400 Bad Request\r\n\r\n", true, "the peer speaks HTTP"),
        ] {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}/live/name", server.local_addr().unwrap());
            let serving = tokio::spawn(async move {
                let (mut socket, _) = server.accept().await.unwrap();
                socket.write_all(answer).await.unwrap();
                // Until the client has read it.
                let _ = socket.read_to_end(&mut Vec::new()).await;
            });
            let error = explain(&url, error).await;
            assert!(error.retry() != is_final && error.to_string().contains(says), "{error}");
            serving.await.unwrap();
            let error = Error::Http { url: "u".to_owned(), reason: "closed".to_owned(), retry: true };
            assert!(explain(&url, error).await.retry(), "nobody listens any more");
        }
    }
}
