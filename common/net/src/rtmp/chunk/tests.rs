//! Chunks as bytes: every header form, both conventions of extended timestamps, hostile input, and write-then-read identity.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::rtmp::Limits;

fn limits() -> Limits {
    Limits { max_message: 1 << 20, max_command: 4096, max_chunk_streams: 8, max_buffered: 100_000, ..Limits::default() }
}

/// Reads `bytes` at once, then byte by byte: both results must be equal.
fn read(bytes: &[u8]) -> Result<Vec<RawMessage>, Error> {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = Reader::new(&limits());
        let mut messages = Vec::new();
        for piece in pieces {
            let mut input = piece;
            while let Some(message) = reader.read(&mut input)? {
                messages.push(message);
            }
            assert!(input.is_empty() && reader.buffered() <= limits().max_buffered);
        }
        Ok(messages)
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(whole, read(&mut bytes.chunks(1)));
    whole
}

fn message(kind: u8, stream: u32, timestamp: u32, body: &[u8]) -> RawMessage {
    RawMessage { kind, stream, timestamp, body: Bytes::copy_from_slice(body) }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn header_forms() {
    // Type 0, then 1, 2 and 3 on the same chunk stream: deltas add up, the rest is inherited.
    let bytes = join(&[
        &[0x04, 0, 0, 10, 0, 0, 1, 8, 1, 0, 0, 0, b'a'],
        &[0x44, 0, 0, 5, 0, 0, 2, 9, b'b', b'c'],
        &[0x84, 0, 0, 7, b'd', b'e'],
        &[0xc4, b'f', b'g'],
    ]);
    let expected =
        vec![message(8, 1, 10, b"a"), message(9, 1, 15, b"bc"), message(9, 1, 22, b"de"), message(9, 1, 29, b"fg")];
    assert_eq!(read(&bytes), Ok(expected));
    // Two- and three-byte basic headers; a type 1 chunk that opens a chunk stream; an empty message.
    let bytes = join(&[
        &[0x00, 0xff, 0, 0, 1, 0, 0, 1, 8, 1, 0, 0, 0, b'x'],
        &[0x01, 0x00, 0x01, 0, 0, 2, 0, 0, 1, 8, 1, 0, 0, 0, b'y'],
        &[0x45, 0, 0, 3, 0, 0, 1, 8, b'z'],
        &[0x85, 0, 0, 1, b'w'],
        &[0x06, 0, 0, 4, 0, 0, 0, 9, 1, 0, 0, 0],
    ]);
    let expected = vec![
        message(8, 1, 1, b"x"),
        message(8, 1, 2, b"y"),
        message(8, 0, 3, b"z"),
        message(8, 0, 4, b"w"),
        message(9, 1, 4, b""),
    ];
    assert_eq!(read(&bytes), Ok(expected));
    // A type 3 chunk that begins a message adds the timestamp of the type 0 chunk before it (§5.3.1.2.4), and wraps around.
    let bytes = join(&[
        &[0x04, 0x80, 0, 0, 0, 0, 1, 8, 1, 0, 0, 0, b'a'],
        &[0xc4, b'b'],
        &[0x44],
        &[0xff; 3],
        &[0, 0, 1, 8],
        &[0xff; 4],
        b"c",
    ]);
    let stamps: Vec<u32> = read(&bytes).unwrap().iter().map(|m| m.timestamp).collect();
    assert_eq!(stamps, [0x80_0000, 0x100_0000, 0xff_ffff]);
}

#[test]
fn audio_inside_a_video_message() {
    // rml_rtmp has one payload buffer for all chunk streams and panics here.
    let video: Vec<u8> = (0..300).map(|i| i as u8).collect();
    let bytes = join(&[
        &[0x06, 0, 0, 40, 0, 1, 44, 9, 1, 0, 0, 0],
        &video[..128],
        &[0x04, 0, 0, 39, 0, 0, 3, 8, 1, 0, 0, 0, 1, 2, 3],
        &[0xc6],
        &video[128..256],
        &[0xc4, 4, 5, 6],
        &[0xc6],
        &video[256..],
    ]);
    let expected = vec![message(8, 1, 39, &[1, 2, 3]), message(8, 1, 78, &[4, 5, 6]), message(9, 1, 40, &video)];
    assert_eq!(read(&bytes), Ok(expected));
}

#[test]
fn extended_timestamps_are_read_with_and_without_repetition() {
    let body: Vec<u8> = (0..200).map(|i| i as u8).collect();
    let head = [0x06, 0xff, 0xff, 0xff, 0, 0, 200, 9, 1, 0, 0, 0, 0x01, 0x02, 0x03, 0x04];
    let expected = vec![message(9, 1, 0x0102_0304, &body), message(8, 1, 7, b"a")];
    let tail = [0x04, 0, 0, 7, 0, 0, 1, 8, 1, 0, 0, 0, b'a'];
    // Repeated, as in the specification and FFmpeg.
    let repeated = join(&[&head, &body[..128], &[0xc6, 1, 2, 3, 4], &body[128..], &tail]);
    assert_eq!(read(&repeated).as_ref(), Ok(&expected));
    // Not repeated, as in old librtmp.
    let silent = join(&[&head, &body[..128], &[0xc6], &body[128..], &tail]);
    assert_eq!(read(&silent).as_ref(), Ok(&expected));
    // Not repeated, with less payload left than a timestamp has, and a payload that begins like one.
    let mut short = body[..130].to_vec();
    short[128..].copy_from_slice(&[1, 2]);
    let mut head130 = head;
    head130[6] = 130;
    let silent = join(&[&head130, &short[..128], &[0xc6, 1, 2], &tail]);
    let expected = vec![message(9, 1, 0x0102_0304, &short), message(8, 1, 7, b"a")];
    assert_eq!(read(&silent), Ok(expected));
    // A delta that is extended, repeated as the absolute timestamp.
    let bytes = join(&[
        &[0x06, 0, 0, 1, 0, 0, 1, 9, 1, 0, 0, 0, b'a'],
        &[0x46, 0xff, 0xff, 0xff, 0, 0, 200, 9, 0x01, 0, 0, 0],
        &body[..128],
        &[0xc6, 0x01, 0, 0, 0x01],
        &body[128..],
    ]);
    assert_eq!(read(&bytes), Ok(vec![message(9, 1, 1, b"a"), message(9, 1, 0x0100_0001, &body)]));
}

#[test]
fn chunk_size_and_abort_take_effect_at_once() {
    let set = |size: u32| join(&[&[0x02, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0], &size.to_be_bytes()]);
    let body = [7; 130];
    let bytes = join(&[
        &set(130),
        &[0x04, 0, 0, 0, 0, 0, 130, 8, 1, 0, 0, 0],
        &body,
        &set(1),
        &[0x44, 0, 0, 0, 0, 0, 2, 8, 1, 0xc4, 2],
    ]);
    assert_eq!(read(&bytes), Ok(vec![message(8, 1, 0, &body), message(8, 1, 0, &[1, 2])]));
    // The largest legal size.
    let bytes = join(&[&set(0x7fff_ffff), &[0x04, 0, 0, 0, 0, 0, 130, 8, 1, 0, 0, 0], &body]);
    assert_eq!(read(&bytes), Ok(vec![message(8, 1, 0, &body)]));
    // Illegal sizes, including the high bit.
    for size in [0, 0x8000_0000, u32::MAX] {
        assert_eq!(read(&set(size)), Err(Error::ChunkSize { size }));
    }
    // Abort drops the message in progress on one chunk stream only.
    let bytes = join(&[
        &[0x06, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0],
        &[0; 128],
        &[0x02, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0, 0, 0, 6],
        &[0x06, 0, 0, 9, 0, 0, 1, 9, 1, 0, 0, 0, b'k'],
        &[0x02, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0, 0, 0, 99],
    ]);
    assert_eq!(read(&bytes), Ok(vec![message(9, 1, 9, b"k")]));
    // So does a message that begins before the end of the previous one.
    let bytes =
        join(&[&[0x06, 0, 0, 0, 0, 1, 0, 9, 1, 0, 0, 0], &[0; 128], &[0x06, 0, 0, 9, 0, 0, 1, 9, 1, 0, 0, 0, b'k']]);
    assert_eq!(read(&bytes), Ok(vec![message(9, 1, 9, b"k")]));
}

#[test]
fn hostile_bytes_are_rejected() {
    let many: Vec<u8> =
        (2..12).flat_map(|id| [id, 0, 0, 0, 0, 0, 200, 8, 1, 0, 0, 0].into_iter().chain([0; 128])).collect();
    let fat: Vec<u8> = [
        &[0x02, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..],
        &[0x06, 0, 0, 0, 0x0f, 0xff, 0xff, 9, 1, 0, 0, 0],
        &vec![0; 200_000],
    ]
    .concat();
    for (bytes, expected) in [
        (&[0xc4][..], Error::NoPrecedent { chunk_stream: 4, format: 3 }),
        (&[0x80, 0x00, 0, 0, 0], Error::NoPrecedent { chunk_stream: 64, format: 2 }),
        (
            &[0x06, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0],
            Error::TooLong { kind: 9, length: 0xff_ffff, limit: 1 << 20 },
        ),
        (&[0x03, 0, 0, 0, 0, 0x10, 0x01, 20, 0, 0, 0, 0], Error::TooLong { kind: 20, length: 4097, limit: 4096 }),
        (&[0x03, 0, 0, 0, 0, 0x10, 0x01, 17, 0, 0, 0, 0], Error::TooLong { kind: 17, length: 4097, limit: 4096 }),
        (&[0x02, 0, 0, 0, 0, 0, 17, 1, 0, 0, 0, 0], Error::TooLong { kind: 1, length: 17, limit: 16 }),
        (&[0x02, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 1], Error::Control { kind: 1, length: 3 }),
        (&[0x02, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0], Error::Control { kind: 2, length: 0 }),
        (&many, Error::ChunkStreams { limit: 8 }),
        (&fat, Error::Buffered { limit: 100_000 }),
    ] {
        assert_eq!(read(bytes), Err(expected));
    }
}

/// A message of each type and length with an audio message after each of its chunks, then one more on its chunk stream.
#[test]
fn what_is_too_long_is_skipped_or_ends_the_connection_by_its_type() {
    let begin = |name: &str| [&[2, 0, name.len() as u8], name.as_bytes()].concat();
    let frame = [begin("@setDataFrame"), begin("onMetaData")].concat();
    let amf3 = [&[0][..], &frame].concat();
    for (kind, limit, beginning, is_skipped, name) in [
        (1, 16, &[][..], false, ""),
        (2, 16, &[], false, ""),
        (3, 16, &[], false, ""),
        (4, 64, &[], true, ""),
        (5, 16, &[], false, ""),
        (6, 16, &[], false, ""),
        (8, 1 << 20, &[], false, ""),
        (9, 1 << 20, &[], false, ""),
        (15, 4096, &amf3, true, "onMetaData"),
        (16, 4096, &amf3, true, ""),
        (17, 4096, &[], false, ""),
        (18, 4096, &frame, true, "onMetaData"),
        (18, 4096, &begin("onTextData\n"), true, "onTextData"),
        (18, 4096, &begin(&"x".repeat(200)), true, &"x".repeat(61)),
        (18, 4096, &[2, 0], true, ""),
        (19, 4096, &[], true, ""),
        (20, 4096, &[], false, ""),
        (22, 1 << 20, &[], false, ""),
        (99, 4096, &[], true, ""),
    ] {
        for length in [limit + 1, 70_000, 300_000, 2_000_000, 0xff_ffff].into_iter().filter(|length| *length > limit) {
            let mut body = beginning.to_vec();
            body.resize(length, 7);
            let mut bytes = BytesMut::new();
            write(&mut bytes, 128, 2, kind::SET_CHUNK_SIZE, 0, 0, &60_000u32.to_be_bytes());
            let [size, long, short] = [0, (length >> 16) as u8, 5];
            bytes.put_slice(&[5, size, 0, 1, long, (length >> 8) as u8, length as u8, kind, 1, 0, 0, 0]);
            for (n, chunk) in body.chunks(60_000).enumerate() {
                bytes.put_slice(if n == 0 { &[] } else { &[0xc5] });
                bytes.put_slice(chunk);
                write(&mut bytes, 60_000, 4, kind::AUDIO, 1, 9, b"sound");
            }
            bytes.put_slice(&[5, 0, 0, 2, 0, 0, short, 18, 1, 0, 0, 0]);
            bytes.put_slice(b"short");
            let mut reader = Reader::new(&limits());
            let (mut messages, mut failed) = (Vec::new(), None);
            for piece in bytes.chunks(1000) {
                let mut input = piece;
                while !input.is_empty() && failed.is_none() {
                    match reader.read(&mut input) {
                        Ok(message) => messages.extend(message),
                        Err(error) => failed = Some(error),
                    }
                    assert!(reader.buffered() <= 4096, "type {kind}: {} bytes held", reader.buffered());
                }
            }
            let skipped = Skipped { kind, length, name: name.to_owned(), count: 1 };
            if is_skipped {
                assert_eq!(failed, None, "type {kind}, {length} bytes");
                let sounds = vec![message(8, 1, 9, b"sound"); length.div_ceil(60_000)];
                assert_eq!(
                    messages,
                    [&sounds[..], &[message(18, 1, 2, b"short")]].concat(),
                    "type {kind}, {length} bytes"
                );
                assert_eq!((reader.take_skipped(), reader.take_skipped()), (Some(skipped), None));
            } else {
                assert_eq!(failed, Some(Error::TooLong { kind, length, limit }));
            }
            assert_eq!(reader.buffered(), 0, "type {kind}, {length} bytes");
        }
    }
}

#[test]
fn a_skipped_message_can_be_abandoned() {
    for abort in [&[0x02, 0, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 0, 0, 0, 6][..], &[]] {
        let bytes = join(&[
            &[0x06, 0, 0, 0, 0x0f, 0xff, 0xff, 18, 1, 0, 0, 0],
            &[0; 128],
            abort,
            &[0x06, 0, 0, 9, 0, 0, 1, 9, 1, 0, 0, 0, b'k'],
        ]);
        assert_eq!(read(&bytes), Ok(vec![message(9, 1, 9, b"k")]));
    }
}

#[test]
fn memory_grows_with_received_bytes_not_with_announced_lengths() {
    let mut reader = Reader::new(&limits());
    let bytes: Vec<u8> =
        (2..10).flat_map(|id| [id, 0, 0, 0, 0x0f, 0xff, 0xff, 9, 1, 0, 0, 0].into_iter().chain([0; 128])).collect();
    assert_eq!(reader.read(&mut bytes.as_slice()), Ok(None));
    assert!(reader.buffered() <= 8 * 4096, "{}", reader.buffered());
}

/// A message, and how to write its chunks.
#[derive(Clone, Debug)]
struct Plan {
    chunk_stream: u32,
    kind: u8,
    timestamp: u32,
    body: Vec<u8>,
    /// Number of consecutive turns that this message's chunk stream gets.
    urge: usize,
}

/// Writes messages with the shortest headers that the specification allows, interleaved as in `turns`.
fn write_tersely(plans: &[Plan], chunk_size: usize, repeat: bool, turns: &[usize]) -> (Vec<u8>, Vec<usize>) {
    #[derive(Clone, Copy)]
    struct Last {
        timestamp: u32,
        field: u32,
        length: usize,
        kind: u8,
    }
    let mut out = BytesMut::new();
    let mut last: std::collections::BTreeMap<u32, Last> = Default::default();
    // The queued messages of each chunk stream, in order.
    let mut queues: std::collections::BTreeMap<u32, std::collections::VecDeque<(usize, usize)>> = Default::default();
    for (i, plan) in plans.iter().enumerate() {
        queues.entry(plan.chunk_stream).or_default().push_back((i, 0));
    }
    let mut done = Vec::new();
    let mut turn = turns.iter().cycle();
    while !queues.is_empty() {
        let pick = turn.next().unwrap() % queues.len();
        let id = *queues.keys().nth(pick).unwrap();
        let queue = queues.get_mut(&id).unwrap();
        let (i, at) = queue[0];
        let plan = &plans[i];
        let basic = |out: &mut BytesMut, format: u8| match id {
            0..64 => out.put_u8(format << 6 | id as u8),
            64..320 => out.put_slice(&[format << 6, (id - 64) as u8]),
            _ => out.put_slice(&[format << 6 | 1, ((id - 64) & 255) as u8, ((id - 64) >> 8) as u8]),
        };
        let field;
        if at == 0 {
            let (length, kind) = (plan.body.len(), plan.kind);
            let format = match last.get(&id) {
                None => 0,
                Some(l) => {
                    let delta = plan.timestamp.wrapping_sub(l.timestamp);
                    match (delta == l.field, length == l.length && kind == l.kind) {
                        (true, true) => 3,
                        (_, true) => 2,
                        _ => 1,
                    }
                }
            };
            field = match last.get(&id) {
                Some(l) if format > 0 => plan.timestamp.wrapping_sub(l.timestamp),
                _ => plan.timestamp,
            };
            basic(&mut out, format);
            if format < 3 {
                out.put_uint(field.min(EXTENDED).into(), 3);
            }
            if format < 2 {
                out.put_uint(length as u64, 3);
                out.put_u8(kind);
            }
            if format < 1 {
                out.put_u32_le(1);
            }
            if field >= EXTENDED && (format < 3 || repeat) {
                out.put_u32(field);
            }
            last.insert(id, Last { timestamp: plan.timestamp, field, length, kind });
        } else {
            field = last[&id].field;
            basic(&mut out, 3);
            if field >= EXTENDED && repeat {
                out.put_u32(field);
            }
        }
        let end = plan.body.len().min(at + chunk_size);
        out.put_slice(&plan.body[at..end]);
        queue[0].1 = end;
        if end == plan.body.len() {
            queue.pop_front();
            done.push(i);
        }
        if queue.is_empty() {
            queues.remove(&id);
        }
    }
    (out.to_vec(), done)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let stamp = prop_oneof![0..100u32, 0xff_fff0..0x100_0010u32, any::<u32>()];
    let plan = (
        prop_oneof![3..7u32, Just(64u32), Just(319u32), Just(65_599u32)],
        prop_oneof![Just(8u8), Just(9u8), Just(18u8)],
        stamp,
        proptest::collection::vec(any::<u8>(), 0..400),
        1..4usize,
    )
        .prop_map(|(chunk_stream, kind, timestamp, body, urge)| Plan { chunk_stream, kind, timestamp, body, urge });
    proptest::collection::vec(plan, 1..20)
}

proptest! {
    /// The same messages are read for any interleaving, header form, chunk size, timestamp convention and fragmentation.
    #[test]
    fn write_then_read_is_identity(
        plans in plans(),
        chunk_size in prop_oneof![1..200usize, Just(65_536usize)],
        repeat: bool,
        turns in proptest::collection::vec(0..8usize, 1..40),
        cuts in proptest::collection::vec(1..300usize, 1..20),
    ) {
        let turns: Vec<usize> = turns.iter().zip(plans.iter().cycle()).flat_map(|(t, p)| vec![*t; p.urge]).collect();
        let mut bytes = BytesMut::new();
        write(&mut bytes, 128, 2, kind::SET_CHUNK_SIZE, 0, 0, &(chunk_size as u32).to_be_bytes());
        let (chunks, order) = write_tersely(&plans, chunk_size, repeat, &turns);
        bytes.put_slice(&chunks);
        // The following bytes show that a peer does not repeat timestamps, so the stream must continue.
        write(&mut bytes, chunk_size as u32, 2, kind::ACKNOWLEDGEMENT, 0, 0, &[9; 4]);
        let mut reader = Reader::new(&limits());
        let mut messages = Vec::new();
        let mut rest = &bytes[..];
        let mut cut = cuts.iter().cycle();
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            rest = after;
            while let Some(m) = reader.read(&mut piece).unwrap() {
                messages.push(m);
            }
        }
        prop_assert_eq!(messages.pop().map(|m| m.kind), Some(kind::ACKNOWLEDGEMENT));
        let expected: Vec<_> = order.iter().map(|i| message(plans[*i].kind, 1, plans[*i].timestamp, &plans[*i].body)).collect();
        prop_assert_eq!(messages, expected);
        prop_assert_eq!(reader.buffered(), 0);
    }

    /// The output of our own writer, in any order and at any chunk size.
    #[test]
    fn framed_then_read_is_identity(
        units in proptest::collection::vec((any::<bool>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..16), proptest::collection::vec(any::<u8>(), 0..500)), 1..10),
        chunk_size in 1..600u32,
    ) {
        let mut bytes = BytesMut::new();
        write(&mut bytes, 128, 2, kind::SET_CHUNK_SIZE, 0, 0, &chunk_size.to_be_bytes());
        let mut expected = Vec::new();
        for (video, timestamp, head, payload) in units {
            use media::access_unit::TrackKind::{Audio, Video};
            let payload = Bytes::from(payload);
            let track = if video { Video } else { Audio };
            let framed = crate::rtmp::framing::media_message(track, timestamp, &head, &payload, chunk_size).unwrap();
            prop_assert!(framed.parts.iter().all(|p| !p.is_empty()));
            prop_assert_eq!(framed.len(), framed.to_bytes().len());
            bytes.put_slice(&framed.to_bytes());
            expected.push(message(if video { 9 } else { 8 }, 1, timestamp, &[&head[..], &payload].concat()));
        }
        let mut input = &bytes[..];
        let mut reader = Reader::new(&limits());
        let mut messages = Vec::new();
        while let Some(m) = reader.read(&mut input).unwrap() {
            messages.push(m);
        }
        prop_assert_eq!(messages, expected);
    }

    /// No bytes make the reader panic or hold more than its bound.
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let mut reader = Reader::new(&limits());
        let mut input = &bytes[..];
        while let Ok(Some(_)) = reader.read(&mut input) {}
        prop_assert!(reader.buffered() <= limits().max_buffered);
    }
}
