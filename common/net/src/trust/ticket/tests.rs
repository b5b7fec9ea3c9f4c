//! Every refusal, altered tickets, and the bound of the memory with clocks that differ or jump.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

fn verifier(signer: &Signer) -> TicketVerifier {
    TicketVerifier::new(signer.public_key(), "garden", 7)
}

fn ticket() -> Ticket {
    Ticket { stream: "garden".to_owned(), epoch: 7, expires: NOW + LIFETIME, nonce: [9; 16] }
}

fn numbered(expires: u64, number: usize) -> Ticket {
    Ticket { expires, nonce: (number as u128).to_be_bytes(), ..ticket() }
}

#[test]
fn an_issued_ticket_admits_once() {
    let signer = Signer::generate().unwrap();
    let mut verifier = verifier(&signer);
    let [one, other] = [(); 2].map(|()| signer.issue("garden", 7, NOW).unwrap());
    assert_ne!(one, other);
    assert_eq!(verifier.redeem(&one, NOW), Ok(()));
    assert_eq!(verifier.redeem(&one, NOW), Err(Refusal::Replayed));
    assert_eq!(verifier.redeem(&other, NOW + LIFETIME), Ok(()));
    assert_eq!(verifier.redeem(&one, NOW + LIFETIME + SKEW), Err(Refusal::Replayed));
    assert_eq!(verifier.redeem(&one, NOW + LIFETIME + SKEW + 1), Err(Refusal::Expired));
}

#[test]
fn each_rejection_has_its_own_error() {
    let signer = Signer::generate().unwrap();
    let sign = |ticket: Ticket| signer.sign(&ticket.body());
    let good = sign(ticket());
    let body = ticket().body();
    let other_version = [&[2], &body[1..]].concat();
    let nameless = [&[VERSION, 0], &body[8..]].concat();
    let not_text = [&[VERSION, 2, 0xff, 0xff], &body[8..]].concat();
    let too_long = [&[VERSION, 65], [b'x'; 65].as_slice(), &body[8..]].concat();
    let cases: [(&str, String, Refusal); 27] = [
        ("empty", String::new(), Refusal::Malformed),
        ("words", "let me in".to_owned(), Refusal::Malformed),
        ("no signature", BASE64URL_NOPAD.encode(&body), Refusal::Malformed),
        ("a signature of nothing", signer.sign(b""), Refusal::Malformed),
        ("a version alone", signer.sign(&[VERSION]), Refusal::Malformed),
        ("padded", format!("{good}="), Refusal::Malformed),
        ("a space before", format!(" {good}"), Refusal::Malformed),
        ("a line end after", format!("{good}\n"), Refusal::Malformed),
        ("base64 of the other alphabet", format!("+/{}", &good[2..]), Refusal::Malformed),
        ("cut", good[..good.len() - 4].to_owned(), Refusal::Malformed),
        ("huge", "A".repeat(1 << 20), Refusal::Malformed),
        ("one past the bound", "A".repeat(MAX_TEXT + 1), Refusal::Malformed),
        ("another version", signer.sign(&other_version), Refusal::Malformed),
        ("a byte too many", signer.sign(&[&body[..], &[0]].concat()), Refusal::Malformed),
        ("a byte too few", signer.sign(&body[..body.len() - 1]), Refusal::Malformed),
        ("a stream without name", signer.sign(&nameless), Refusal::Malformed),
        ("a stream that is not UTF-8", signer.sign(&not_text), Refusal::Malformed),
        ("a stream's name too long", signer.sign(&too_long), Refusal::Malformed),
        ("of another CDN", Signer::generate().unwrap().issue("garden", 7, NOW).unwrap(), Refusal::BadSignature),
        ("unsigned", BASE64URL_NOPAD.encode(&[&body[..], &[0; 64]].concat()), Refusal::BadSignature),
        (
            "signed for no domain",
            BASE64URL_NOPAD.encode(&[&body[..], signer.0.sign(&body).as_ref()].concat()),
            Refusal::BadSignature,
        ),
        ("another stream", sign(Ticket { stream: "Garden".to_owned(), ..ticket() }), Refusal::WrongStream),
        ("an older broadcast", sign(Ticket { epoch: 6, ..ticket() }), Refusal::WrongEpoch),
        ("over", sign(Ticket { expires: NOW - SKEW - 1, ..ticket() }), Refusal::Expired),
        ("of 1970", sign(Ticket { expires: 0, ..ticket() }), Refusal::Expired),
        ("ahead", sign(Ticket { expires: NOW + LIFETIME + SKEW + 1, ..ticket() }), Refusal::TooFarAhead),
        ("forever", sign(Ticket { expires: u64::MAX, ..ticket() }), Refusal::TooFarAhead),
    ];
    let mut verifier = verifier(&signer);
    for (what, text, refusal) in cases {
        assert_eq!(verifier.redeem(&text, NOW), Err(refusal), "{what}");
    }
    assert!(verifier.used.is_empty(), "a refused ticket is remembered");
    assert_eq!(verifier.redeem(&good, NOW), Ok(()));
}

#[test]
fn time_limits_are_inclusive() {
    let signer = Signer::generate().unwrap();
    let mut verifier = verifier(&signer);
    for (number, expires) in [NOW - SKEW, NOW, NOW + LIFETIME, NOW + LIFETIME + SKEW].into_iter().enumerate() {
        assert_eq!(verifier.redeem(&signer.sign(&numbered(expires, number).body()), NOW), Ok(()), "{expires}");
    }
    // A broken clock must not panic.
    let issued = signer.issue("garden", 7, u64::MAX).unwrap();
    assert_eq!(verifier.redeem(&issued, u64::MAX), Ok(()));
    assert_eq!(verifier.redeem(&issued, 0), Err(Refusal::TooFarAhead));
}

#[test]
fn a_rejected_ticket_is_not_marked_used() {
    let signer = Signer::generate().unwrap();
    let text = signer.issue("garden", 7, NOW).unwrap();
    let mut verifier = verifier(&signer);
    assert_eq!(verifier.redeem(&text, NOW - SKEW - 1), Err(Refusal::TooFarAhead));
    assert_eq!(verifier.redeem(&text, NOW - SKEW), Ok(()));
}

#[test]
fn a_new_key_replaces_the_old() {
    let (old, new) = (Signer::generate().unwrap(), Signer::generate().unwrap());
    let mut verifier = verifier(&old);
    let used = old.issue("garden", 7, NOW).unwrap();
    assert_eq!(verifier.redeem(&used, NOW), Ok(()));
    verifier.set_key(new.public_key());
    assert_eq!(verifier.redeem(&old.issue("garden", 7, NOW).unwrap(), NOW), Err(Refusal::BadSignature));
    assert_eq!(verifier.redeem(&new.issue("garden", 7, NOW).unwrap(), NOW), Ok(()));
    verifier.set_key(old.public_key());
    assert_eq!(verifier.redeem(&used, NOW), Err(Refusal::Replayed));
}

#[test]
fn the_memory_is_bounded() {
    let signer = Signer::generate().unwrap();
    let mut verifier = verifier(&signer);
    let text = |expires, number| signer.sign(&numbered(expires, number).body());
    for number in 0..MEMORY {
        verifier.used.insert((NOW + LIFETIME + number as u64 % 2, numbered(0, number).nonce));
    }
    assert_eq!(verifier.redeem(&text(NOW + LIFETIME, MEMORY), NOW), Err(Refusal::Busy));
    assert_eq!(verifier.redeem(&text(NOW + LIFETIME, 0), NOW), Err(Refusal::Replayed));
    // One second after the oldest can no longer be replayed, each new ticket replaces one of them.
    let later = NOW + LIFETIME + SKEW + 1;
    for number in 0..MEMORY / 2 {
        assert_eq!(verifier.redeem(&text(later + LIFETIME, MEMORY + number), later), Ok(()));
        assert_eq!(verifier.used.len(), MEMORY);
    }
    assert_eq!(verifier.redeem(&text(later + LIFETIME, 2 * MEMORY), later), Err(Refusal::Busy));
    // Those that expire a second later are all still known.
    assert_eq!(verifier.redeem(&text(NOW + LIFETIME + 1, 1), later), Err(Refusal::Replayed));
}

#[test]
fn a_clock_that_is_set_back_admits_no_ticket_twice() {
    let signer = Signer::generate().unwrap();
    let mut verifier = verifier(&signer);
    let text = |expires, number| signer.sign(&numbered(expires, number).body());
    let first = text(NOW + 10, 0);
    assert_eq!(verifier.redeem(&first, NOW), Ok(()));
    for number in 1..MEMORY {
        verifier.used.insert((NOW + 20, numbered(0, number).nonce));
    }
    // A clock that is an hour ahead makes room for one; then it is correct again.
    let wrong = NOW + 3600;
    assert_eq!(verifier.redeem(&text(wrong, MEMORY), wrong), Ok(()));
    assert_eq!(verifier.redeem(&first, NOW), Err(Refusal::Expired));
    assert_eq!(verifier.redeem(&text(NOW + 20, 1), NOW), Err(Refusal::Replayed));
}

#[test]
fn stream_names_are_length_limited() {
    let signer = Signer::generate().unwrap();
    let longest = "é".repeat(MAX_STREAM / 2);
    for (name, can) in [("g", true), (longest.as_str(), true), ("", false), (&format!("{longest}x"), false)] {
        let issued = signer.issue(name, 0, NOW);
        assert_eq!(issued.is_ok(), can, "{name}");
        let Ok(text) = issued else { continue };
        assert!(text.len() <= MAX_TEXT);
        assert_eq!(TicketVerifier::new(signer.public_key(), name, 0).redeem(&text, NOW), Ok(()));
    }
    assert_eq!(signer.issue(&longest, 0, NOW).unwrap().len(), MAX_TEXT);
}

#[test]
fn public_keys_round_trip_as_text() {
    let key = Signer::generate().unwrap().public_key();
    assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
    assert_eq!(PublicKey::from(*key.as_bytes()), key);
    assert!(key.to_string()[1..].parse::<PublicKey>().is_err());
}

#[test]
fn the_layout_is_fixed() {
    // A test vector: the bytes that another implementation must write.
    let body = b"\x01\x06garden\0\0\0\0\0\0\0\x07\0\0\0\0\x6b\x49\xd2\x3c\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t";
    assert_eq!(ticket().body(), body);
    assert_eq!(Ticket::parse(body), Some(ticket()));
}

#[test]
fn debug_shows_no_secret() {
    let signer = Signer::generate().unwrap();
    let key = signer.public_key();
    assert_eq!(format!("{signer:?}"), format!("Signer {{ public_key: PublicKey({key}), .. }}"));
    let mut verifier = verifier(&signer);
    verifier.redeem(&signer.issue("garden", 7, NOW).unwrap(), NOW).unwrap();
    let expected = format!("TicketVerifier {{ key: PublicKey({key}), stream: \"garden\", epoch: 7, used: 1, .. }}");
    assert_eq!(format!("{verifier:?}"), expected);
}

proptest! {
    #[test]
    fn an_altered_byte_is_rejected(place: prop::sample::Index, with in 1u8..) {
        let signer = Signer::generate().unwrap();
        let mut bytes = BASE64URL_NOPAD.decode(signer.issue("garden", 7, NOW).unwrap().as_bytes()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= with;
        let refusal = verifier(&signer).redeem(&BASE64URL_NOPAD.encode(&bytes), NOW).unwrap_err();
        prop_assert!(matches!(refusal, Refusal::Malformed | Refusal::BadSignature), "{}: {}", place, refusal);
    }

    #[test]
    fn an_altered_character_is_rejected(place: prop::sample::Index, with in "[A-Za-z0-9_-]") {
        let signer = Signer::generate().unwrap();
        let mut text = signer.issue("garden", 7, NOW).unwrap();
        let place = place.index(text.len());
        prop_assume!(text[place..=place] != with);
        text.replace_range(place..=place, &with);
        let refusal = verifier(&signer).redeem(&text, NOW).unwrap_err();
        prop_assert!(matches!(refusal, Refusal::Malformed | Refusal::BadSignature), "{}: {}", place, refusal);
    }

    #[test]
    fn hostile_text_is_rejected(text in "\\PC{0,300}") {
        prop_assert_eq!(verifier(&Signer::generate().unwrap()).redeem(&text, NOW), Err(Refusal::Malformed));
    }

    #[test]
    fn ticket_bodies_round_trip(stream in "\\PC{1,16}", epoch: u64, expires: u64, nonce: [u8; 16]) {
        let ticket = Ticket { stream, epoch, expires, nonce };
        prop_assert_eq!(Ticket::parse(&ticket.body()), Some(ticket));
    }

    #[test]
    fn each_ticket_has_one_encoding(body: Vec<u8>) {
        if let Some(ticket) = Ticket::parse(&body) {
            prop_assert_eq!(ticket.body(), body);
        }
    }
}
