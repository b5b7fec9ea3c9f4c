//! Codes as people type them, proofs over real QUIC connections, and a man in the middle that relays them.

use proptest::prelude::*;
use quinn::Connection;

use super::super::loopback::pair;
use super::super::{Identity, loopback, tls};
use super::*;

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

#[test]
fn codes_are_read_in_any_case_and_spacing() {
    let expected = "01AB-CDEF-GHJK-MNPQ";
    for text in [
        expected,
        "01abcdefghjkmnpq",
        "O1AB-CDEF-GHJK-MNPQ",
        "oIab-cdef-ghjk-mnpq",
        "olab cdef ghjk mnpq",
        "0LAB-CDEF-GHJK-MNPQ",
        "  01ab cdef-ghjk\tmnpq\r\n",
        "0-1-A-B-C-D-E-F-G-H-J-K-M-N-P-Q",
        "01AB--CDEF----GHJK\u{a0}MNPQ",
    ] {
        assert_eq!(code(text).to_string(), expected, "{text}");
    }
    assert_eq!(code("ZZZZ-ZZZZ-ZZZZ-ZZZZ").0, [255; 10]);
    assert_eq!(code("0000-0000-0000-0001").0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(code("G000-0000-0000-0000").0, [128, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn malformed_codes_are_rejected() {
    let long = "1".repeat(17);
    let spaced = format!("{}1111111111111111", " ".repeat(MAX_TEXT));
    for text in [
        "",
        "----",
        "01AB-CDEF-GHJK-MNP",
        "01AB-CDEF-GHJK-MNPQR",
        "U1AB-CDEF-GHJK-MNPQ",
        "01AB_CDEF_GHJK_MNPQ",
        "01AB-CDEF-GHJK-MNP!",
        "01AB-CDEF-GHJK-MNPé",
        "01AB-CDEF-GHJK-MNPſ",
        &long,
        &spaced,
    ] {
        assert!(matches!(text.parse::<Code>(), Err(Error::Code)), "{text}");
    }
}

#[test]
fn codes_are_new_and_hidden_in_debug() {
    let (one, other) = (Code::generate(), Code::generate());
    assert_ne!(one.0, other.0);
    assert_eq!(format!("{one:?}"), "Code(redacted)");
    let shown = one.to_string();
    assert_eq!((shown.len(), shown.matches('-').count()), (19, 3));
}

#[test]
fn a_proof_is_for_one_end_one_session_and_one_code() {
    let (right, wrong) = (Code::generate(), Code::generate());
    let (here, there) = ([1; 32], [2; 32]);
    let viewers = viewer_proof(&right, &here);
    let broadcasters = broadcaster_proof(&right, &here);
    assert_ne!(viewers, broadcasters);

    let now = Instant::now();
    let viewer =
        |code, exporter, proof: &[u8]| AttemptLimiter::default().verify_viewer(code, exporter, proof, now).is_ok();
    let broadcaster = |code, exporter, proof: &[u8]| verify_broadcaster(code, exporter, proof).is_ok();
    let flipped = |mut proof: [u8; 32]| {
        proof[31] ^= 1;
        proof
    };
    assert!(viewer(&right, &here, &viewers) && broadcaster(&right, &here, &broadcasters));
    // Reflected to the end that made it.
    assert!(!viewer(&right, &here, &broadcasters) && !broadcaster(&right, &here, &viewers));
    // In another session, with another code, altered, cut, absent.
    assert!(!viewer(&right, &there, &viewers) && !broadcaster(&right, &there, &broadcasters));
    assert!(!viewer(&wrong, &here, &viewers) && !broadcaster(&wrong, &here, &broadcasters));
    assert!(!viewer(&right, &here, &flipped(viewers)) && !broadcaster(&right, &here, &flipped(broadcasters)));
    assert!(!viewer(&right, &here, &viewers[..16]) && !broadcaster(&right, &here, &broadcasters[..16]));
    assert!(!viewer(&right, &here, b"") && !broadcaster(&right, &here, b""));
}

#[test]
fn guesses_are_limited() {
    let (code, exporter, start) = (Code::generate(), [3; 32], Instant::now());
    let right = viewer_proof(&code, &exporter);
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut limiter = AttemptLimiter::default();
    let mut verify = |proof: &[u8], seconds| limiter.verify_viewer(&code, &exporter, proof, after(seconds));
    for second in 0..MAX_WRONG as u64 {
        assert!(matches!(verify(b"guess", second), Err(Error::WrongProof)));
        if second + 1 < MAX_WRONG as u64 {
            assert!(verify(&right, second).is_ok(), "the right one is not counted");
        }
    }
    // A guesser learns nothing now, not even from the right code.
    for second in [MAX_WRONG as u64, 59] {
        assert!(matches!(verify(&right, second), Err(Error::TooManyAttempts)));
        assert!(matches!(verify(b"guess", second), Err(Error::TooManyAttempts)));
    }
    // A minute after the first wrong proof another one is allowed; refused ones were not counted.
    assert!(verify(&right, 60).is_ok());
    assert!(matches!(verify(b"guess", 60), Err(Error::WrongProof)));
    assert!(matches!(verify(b"guess", 60), Err(Error::TooManyAttempts)));
    // A clock that is set back does not bypass the limit.
    assert!(matches!(verify(b"guess", 30), Err(Error::TooManyAttempts)));
    assert_eq!(limiter.wrong.len(), MAX_WRONG);
}

async fn send(connection: &Connection, proof: &[u8]) {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(proof).await.unwrap();
    stream.finish().unwrap();
}

async fn receive(connection: &Connection) -> Vec<u8> {
    connection.accept_uni().await.unwrap().read_to_end(32).await.unwrap()
}

#[tokio::test]
async fn both_ends_prove_themselves() {
    let code = Code::generate();
    let [(_viewers, viewer), (_broadcasters, broadcaster)] = pair(&Identity::generate().unwrap()).await;
    let (at_viewer, at_broadcaster) = (exporter(&viewer).unwrap(), exporter(&broadcaster).unwrap());
    assert_eq!(at_viewer, at_broadcaster);

    send(&viewer, &viewer_proof(&code, &at_viewer)).await;
    let proof = receive(&broadcaster).await;
    AttemptLimiter::default().verify_viewer(&code, &at_broadcaster, &proof, Instant::now()).unwrap();
    send(&broadcaster, &broadcaster_proof(&code, &at_broadcaster)).await;
    verify_broadcaster(&code, &at_viewer, &receive(&viewer).await).unwrap();
}

#[tokio::test]
async fn a_man_in_the_middle_is_rejected() {
    let code = Code::generate();
    // Two sessions, each between a party that knows the code and one that does not.
    let [(_a, viewer), (_b, front)] = pair(&Identity::generate().unwrap()).await;
    let [(_c, back), (_d, broadcaster)] = pair(&Identity::generate().unwrap()).await;

    let at_viewer = exporter(&viewer).unwrap();
    send(&viewer, &viewer_proof(&code, &at_viewer)).await;
    send(&back, &receive(&front).await).await;
    let passed_on = receive(&broadcaster).await;
    assert_eq!(passed_on, viewer_proof(&code, &at_viewer), "it arrived unaltered");
    let at_broadcaster = exporter(&broadcaster).unwrap();
    let refused = AttemptLimiter::default().verify_viewer(&code, &at_broadcaster, &passed_on, Instant::now());
    assert!(matches!(refused, Err(Error::WrongProof)));

    // The viewer rejects even the proof of a broadcaster that proves itself first, and its own proof reflected.
    send(&broadcaster, &broadcaster_proof(&code, &at_broadcaster)).await;
    send(&front, &receive(&back).await).await;
    assert!(matches!(verify_broadcaster(&code, &at_viewer, &receive(&viewer).await), Err(Error::WrongProof)));
    send(&front, &viewer_proof(&code, &at_viewer)).await;
    assert!(matches!(verify_broadcaster(&code, &at_viewer, &receive(&viewer).await), Err(Error::WrongProof)));
}

#[tokio::test]
async fn each_session_has_its_own_exporter() {
    let identity = Identity::generate().unwrap();
    let address = loopback::serve(tls::server_config(&identity, loopback::ALPN));
    let config = tls::client_config(identity.pin(), loopback::ALPN);
    let (_one, first) = loopback::connect(address, config.clone()).await.unwrap();
    let (_other, second) = loopback::connect(address, config).await.unwrap();
    assert_ne!(exporter(&first).unwrap(), exporter(&second).unwrap());
}

proptest! {
    #[test]
    fn displayed_codes_are_parsed_back(bytes: [u8; 10]) {
        prop_assert_eq!(code(&Code(bytes).to_string()).0, bytes);
        prop_assert_eq!(code(&Code(bytes).to_string().to_lowercase()).0, bytes);
    }

    #[test]
    fn hostile_codes_do_not_panic(text in "\\PC*") {
        let _ = text.parse::<Code>();
    }
}
