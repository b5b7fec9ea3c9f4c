//! Errors of TLS in the words of whoever gave the URL.

use std::error::Error;
use std::io;

/// What an error means if TLS caused it, and what to do; `None` for other errors. Another attempt fails the same way.
pub fn explain(cause: &(dyn Error + 'static)) -> Option<String> {
    // A socket's error contains that of TLS, or another one that does, and does not name it as its source.
    let mut inner = cause;
    while let Some(contained) = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        inner = contained;
    }
    match inner.downcast_ref()? {
        rustls::Error::InvalidMessage(_) => Some(format!(
            "the server does not speak TLS at this port; try http:// instead of https://, or another port ({cause})"
        )),
        rustls::Error::InvalidCertificate(_) => Some(format!(
            "the server's certificate is not valid: {cause}; check the host's name in the URL, the certificate and this machine's clock"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage};

    use super::*;

    #[test]
    fn errors_of_tls_say_what_to_do() {
        let plain = || rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let within = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, plain()));
        for (error, says) in [
            (&plain() as &(dyn Error + 'static), Some("try http:// instead of https://")),
            (&within, Some("try http:// instead of https://")),
            (&expired, Some("this machine's clock")),
            (&io::Error::from(io::ErrorKind::ConnectionReset), None),
        ] {
            let text = explain(error);
            assert!(
                says.map_or(text.is_none(), |says| text.as_ref().is_some_and(|text| text.contains(says))),
                "{text:?}"
            );
        }
    }
}
