//! The bytes of the protocol: write-then-read identity, the vectors of SPEC.md, and malformed input.

use bytes::BytesMut;
use data_encoding::HEXLOWER;
use media::{Epoch, Timestamp, TrackId};
use proptest::prelude::*;

use super::{catalog, unit};
use crate::relay::wire::{self, ClientMessage, GroupHeader, GroupReader, Proof, RefusalCode, ServerMessage, Start};

#[test]
fn messages_round_trip() {
    let have = vec![(TrackId::VIDEO, Timestamp::from_millis(-5)), (TrackId::AUDIO, Timestamp::from_millis(1 << 40))];
    let requests = [
        ClientMessage::Subscribe { name: "live".into(), proof: Proof::None },
        ClientMessage::Subscribe { name: String::new(), proof: Proof::Ticket("abc".into()) },
        ClientMessage::Subscribe { name: "é".into(), proof: Proof::Code([9; 32]) },
        ClientMessage::Start { generation: 7, at: Start::LiveEdge },
        ClientMessage::Start { generation: u32::MAX, at: Start::After { epoch: Epoch(u64::MAX), have } },
        ClientMessage::Stop,
    ];
    for request in requests {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(wire::take_message(&mut BytesMut::from(&bytes[..cut])), Ok(None), "{request:?}");
        }
        let message = wire::take_message(&mut bytes).unwrap().unwrap();
        assert_eq!((wire::client_message(message), bytes.len()), (Ok(request), 0));
    }
    let answers = [
        ServerMessage::Accepted { proof: None },
        ServerMessage::Accepted { proof: Some([3; 32]) },
        ServerMessage::Refused { code: RefusalCode::Other(99), reason: "why".into() },
        ServerMessage::Dropped { generation: 1, track: TrackId::AUDIO, sequence: 1 << 20 },
        ServerMessage::Ended,
    ];
    for answer in answers {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes);
        let message = wire::take_message(&mut bytes).unwrap().unwrap();
        assert_eq!(wire::server_message(message), Ok(answer));
    }
    assert_eq!(format!("{:?}", Proof::Ticket("sekrit".into())), "Ticket(***)");
}

/// A group with its header, a catalog and two units, as bytes.
fn group() -> BytesMut {
    let mut bytes = BytesMut::new();
    GroupHeader { generation: 1, track: TrackId::VIDEO, sequence: 2 }.encode(&mut bytes);
    wire::put_catalog(&mut bytes, &catalog(7));
    for (dts, after) in [(330, Some(297)), (363, Some(330))] {
        let unit = unit(TrackId::VIDEO, dts, dts == 330, 5);
        wire::put_unit_head(&mut bytes, &unit, after.map(Timestamp::from_millis));
        bytes.extend_from_slice(&unit.payload);
    }
    bytes
}

/// Another implementation can be tested against the bytes in SPEC.md §7.
#[test]
fn encoded_bytes_match_the_specification() {
    let encoded = |message: ClientMessage| {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        HEXLOWER.encode(&bytes)
    };
    let have = vec![(TrackId::VIDEO, Timestamp::from_millis(330)), (TrackId::AUDIO, Timestamp::from_millis(321))];
    let vectors = [
        encoded(ClientMessage::Subscribe { name: "live".into(), proof: Proof::None }),
        encoded(ClientMessage::Start { generation: 1, at: Start::After { epoch: Epoch(7), have } }),
        HEXLOWER.encode(&group()),
    ];
    let text = include_str!("../SPEC.md").replace([' ', '\n'], "");
    for vector in vectors {
        assert!(text.contains(&vector), "SPEC.md lacks {vector}");
    }
}

proptest! {
    #[test]
    fn a_group_is_read_in_pieces_of_any_size(cuts in prop::collection::vec(1usize..40, 1..60)) {
        let bytes = group();
        let (mut reader, mut units, mut rest) = (GroupReader::default(), Vec::new(), &bytes[..]);
        let mut cuts = cuts.into_iter().cycle();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            reader.push(piece);
            rest = more;
            while let Some(unit) = reader.unit().unwrap() {
                units.push(unit);
            }
        }
        prop_assert!(reader.is_between_frames());
        let read: Vec<_> = units.iter().map(|u| (u.unit.dts.as_millis(), u.predecessor_dts.map(Timestamp::as_millis))).collect();
        prop_assert_eq!(read, [(330, Some(297)), (363, Some(330))]);
        prop_assert_eq!(&*units[0].catalog, &*catalog(7));
        prop_assert!(units[0].unit.random_access && !units[1].unit.random_access);
    }

    #[test]
    fn malformed_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8)) {
        let mut reader = GroupReader::default();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.unit() {}
        let mut damaged = group();
        for (at, with) in flips {
            let at = at % damaged.len();
            damaged[at] ^= with;
        }
        let mut reader = GroupReader::default();
        reader.push(&damaged);
        while let Ok(Some(_)) = reader.unit() {}
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = wire::take_message(&mut buffer) {
            let _ = (wire::client_message(message.clone()), wire::server_message(message));
        }
    }
}
