//! AMF0 of every form: legal messages are read, and messages that would harm rml_amf0 are rejected.

use super::*;

fn n(number: f64) -> Value {
    Value::Number(number)
}

#[test]
fn legal_messages_are_read() {
    let number = [0, 0x40, 0x08, 0, 0, 0, 0, 0, 0];
    for (bytes, expected) in [
        (vec![], vec![]),
        (number.to_vec(), vec![n(3.0)]),
        (
            vec![1, 7, 1, 0, 5, 6, 0x0d, 7, 0, 1],
            vec![Value::Boolean(true), Value::Boolean(false), Value::Null, Value::Undefined, Value::Null, Value::Null],
        ),
        (b"\x02\0\x02hi\x0c\0\0\0\x02yo\x0f\0\0\0\x01x".to_vec(), vec![string("hi"), string("yo"), string("x")]),
        ([&[0x0b][..], &number[1..], &[0, 0]].concat(), vec![n(3.0)]),
        (b"\x03\0\x01a\x05\0\0\x09".to_vec(), vec![object([("a", Value::Null)])]),
        (b"\x10\0\x03Cls\0\x01a\x05\0\0\x09".to_vec(), vec![object([("a", Value::Null)])]),
        // An ECMA array whose count is wrong, and one without its end.
        (b"\x08\0\0\0\x63\0\x01a\x05\0\0\x09\x05".to_vec(), vec![object([("a", Value::Null)]), Value::Null]),
        (b"\x08\0\0\0\x01\0\x01a\x05".to_vec(), vec![object([("a", Value::Null)])]),
        (
            b"\x0a\0\0\0\x02\x05\x0a\0\0\0\0\x06".to_vec(),
            vec![Value::StrictArray(vec![Value::Null, Value::StrictArray(vec![])]), Value::Undefined],
        ),
        // Not UTF-8.
        (b"\x02\0\x01\xff".to_vec(), vec![string("\u{fffd}")]),
    ] {
        assert_eq!(decode(&bytes), Ok(expected), "{bytes:02x?}");
    }
}

#[test]
fn illegal_messages_are_rejected() {
    let nested = |opener: &[u8], times: usize| opener.repeat(times);
    let bomb = [&[0x0a][..], &u32::MAX.to_be_bytes()].concat();
    for (bytes, expected) in [
        (vec![0], Error::Truncated { at: 1 }),
        (vec![0, 1, 2, 3], Error::Truncated { at: 4 }),
        (b"\x02\xff\xffhi".to_vec(), Error::Truncated { at: 5 }),
        (b"\x0c\xff\xff\xff\xffhi".to_vec(), Error::Truncated { at: 7 }),
        (b"\x03\0\x01a".to_vec(), Error::Truncated { at: 4 }),
        (b"\x03\0\0\x05".to_vec(), Error::Name { at: 1 }),
        (vec![0x09], Error::Marker { marker: 9, at: 0 }),
        (vec![0x11, 1], Error::Marker { marker: 0x11, at: 0 }),
        (vec![0x04], Error::Marker { marker: 4, at: 0 }),
        // 20 kB of nesting overflows rml_amf0's stack and aborts the process.
        (nested(b"\x03\0\x01a", 5000), Error::Depth { at: 16 * 4 }),
        (nested(b"\x0a\0\0\0\x01", 4000), Error::Depth { at: 16 * 5 }),
        (nested(b"\x08\0\0\0\0\0\x01a", 2500), Error::Depth { at: 16 * 8 }),
        // Four billion elements announced, none sent.
        (bomb, Error::Values { at: 0 }),
        (vec![5; 5000], Error::Values { at: 1024 }),
    ] {
        assert_eq!(decode(&bytes), Err(expected), "{:02x?}…", &bytes[..bytes.len().min(16)]);
    }
}

#[test]
fn metadata_round_trips() {
    let metadata: Metadata = [
        ("width".to_owned(), Scalar::Number(1280.0)),
        ("stereo".to_owned(), Scalar::Boolean(true)),
        ("encoder".to_owned(), Scalar::String("über".into())),
    ]
    .into();
    let bytes = encode_metadata(&metadata).unwrap();
    assert_eq!(bytes[..18], *b"\x02\0\x0aonMetaData\x08\0\0\0\x03");
    let values = decode(&bytes).unwrap();
    assert_eq!(values[0], string("onMetaData"));
    assert_eq!(scalars(values[1].clone()), metadata);
    assert_eq!(scalars(Value::Null), Metadata::new());
    let long = [("k".to_owned(), Scalar::String("x".repeat(70_000)))].into();
    assert_eq!(encode_metadata(&long), Err(Error::Unencodable));
}

proptest::proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(0..18u8, 0..200)) {
        let _ = decode(&bytes);
    }

    /// rml_amf0 reads the guard's output completely.
    #[test]
    fn guarding_twice_changes_nothing(bytes in proptest::collection::vec(0..18u8, 0..60)) {
        if let Ok(guarded) = guard(&bytes) {
            proptest::prop_assert_eq!(guard(&guarded).unwrap(), guarded.clone());
            proptest::prop_assert!(rml_amf0::deserialize(&mut guarded.as_slice()).is_ok());
        }
    }
}
