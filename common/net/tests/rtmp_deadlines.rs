//! Server and client over in-memory pipes with paused time: every wait ends, and a stalled peer holds no resources.
#![allow(clippy::unwrap_used)] // All of this crate is tests, its helping functions too.

use std::time::Duration;

use bytes::Bytes;
use media::Epoch;
use media::access_unit::TrackId;
use media::time::{Timestamp, WallClock};
use net::rtmp::client::{self, ClientOptions};
use net::rtmp::server::{self, PlayerEvent, Publisher, Request};
use net::rtmp::{Blame, Error, Limits, Message, Metadata, PublisherTiming, Resume, Url, framing, url};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

fn key() -> Url {
    url::parse("rtmp://host/live/key").unwrap()
}

async fn pair(pipe: usize) -> (client::Publisher<DuplexStream>, Publisher<DuplexStream>) {
    pair_with(pipe, ClientOptions::default()).await
}

async fn pair_with(pipe: usize, options: ClientOptions) -> (client::Publisher<DuplexStream>, Publisher<DuplexStream>) {
    let (near, far) = duplex(pipe);
    let url = key();
    let (client, server) = tokio::join!(client::publish_over(near, &url, options), async {
        match server::accept(far, &Limits::default()).await.unwrap() {
            Request::Publish(request) => request.accept(None).await.unwrap(),
            Request::Play(_) => panic!("asked to play"),
        }
    });
    (client.unwrap(), server)
}

fn video(timestamp: u32, size: usize) -> Message {
    Message::Video { timestamp, body: Bytes::from(vec![7; size]) }
}

#[tokio::test(start_paused = true)]
async fn publishes_through_a_small_pipe() {
    let (mut client, mut server) = pair(64).await;
    assert!(client.server_is_nearcast());
    let metadata = Metadata { epoch: Some(Epoch(5)), clock: Some(WallClock::from_micros(6)), ..Metadata::default() };
    let sent = [Message::Metadata(metadata), video(u32::MAX, 100_000), video(4, 1), Message::EndOfStream];
    let publish = async {
        for message in sent.clone() {
            client.send(message).await.unwrap();
        }
        client.close().await.unwrap();
    };
    let receive = async {
        let mut got = Vec::new();
        while let Some(message) = server.next().await.unwrap() {
            got.push(message);
        }
        drop(server);
        got
    };
    let ((), got) = tokio::join!(publish, receive);
    assert_eq!(got, sent);
}

/// Over TCP, since a pipe in memory has no reset: the publisher closes with our answers unread.
#[tokio::test]
async fn reads_everything_sent_before_a_connection_reset() {
    // All fits into the server's receive buffer: a reset discards what is still in the client's.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(200_000).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let url = key();
    let (client, server) = tokio::join!(client::publish_over(near, &url, ClientOptions::default()), async {
        match server::accept(far, &Limits::default()).await.unwrap() {
            Request::Publish(request) => request.accept(None).await.unwrap(),
            Request::Play(_) => panic!("asked to play"),
        }
    });
    let (mut client, mut server) = (client.unwrap(), server);
    // Each timing message is answered, so the server writes to a closed socket several times before it has read everything.
    let timing = PublisherTiming {
        sent: WallClock::from_micros(1),
        server: None,
        epoch: Epoch(1),
        units: Vec::new(),
        lan_viewers: 0,
    };
    let timing = Message::Timing(timing);
    let sent: Vec<_> = (0..150).flat_map(|i| [timing.clone(), video(i, 1_000)]).chain([Message::EndOfStream]).collect();
    for message in sent.clone() {
        client.send(message).await.unwrap();
    }
    client.flush().await.unwrap();
    drop(client);
    let mut got = Vec::new();
    while let Ok(Some(message)) = server.next().await {
        got.push(message);
    }
    assert!(got == sent, "{} of {} messages", got.len(), sent.len());
}

#[tokio::test(start_paused = true)]
async fn the_publisher_receives_the_resume_position() {
    let (near, far) = duplex(1 << 16);
    let resume = Resume { epoch: Epoch(1), have: vec![(TrackId::AUDIO, Timestamp::from_millis(4))] };
    let url = key();
    let (client, _server) = tokio::join!(client::publish_over(near, &url, ClientOptions::default()), async {
        let Request::Publish(request) = server::accept(far, &Limits::default()).await.unwrap() else { panic!() };
        assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "key"));
        assert!(!format!("{request:?}").contains("key"));
        request.accept(Some(resume.clone())).await.unwrap()
    });
    assert_eq!(client.unwrap().resume(), Some(&resume));
}

#[tokio::test(start_paused = true)]
async fn serves_a_player_before_and_after_into_parts() {
    let (near, far) = duplex(1 << 16);
    let url = url::parse("rtmp://host/live/show?nearcastAfter=v0:1").unwrap();
    let play = async {
        let mut player = client::play_over(near, &url, ClientOptions::default()).await.unwrap();
        let first = player.next().await.unwrap();
        let second = player.next().await.unwrap();
        player.close().await.unwrap();
        (first, second)
    };
    let serve = async {
        let Request::Play(request) = server::accept(far, &Limits::default()).await.unwrap() else { panic!() };
        assert_eq!(request.query, [("nearcastAfter".to_owned(), "v0:1".to_owned())]);
        let mut player = request.accept().await.unwrap();
        player.send(&video(1, 100_000)).await.unwrap();
        let (mut io, mut state) = player.into_parts();
        let Message::Video { timestamp, body } = video(2, 5) else { unreachable!() };
        let kind = media::access_unit::TrackKind::Video;
        let framed = framing::media_message(kind, timestamp, &body[..2], &body.slice(2..), framing::PLAY_CHUNK_SIZE);
        for part in framed.unwrap().parts {
            io.write_all(&part).await.unwrap();
        }
        let mut events = state.input(&[]).unwrap();
        let mut bytes = [0; 1000];
        loop {
            let replies = state.replies();
            if io.write_all(&replies).await.is_err() {
                break;
            }
            match io.read(&mut bytes).await {
                Ok(n) if n > 0 => events.extend(state.input(&bytes[..n]).unwrap()),
                _ => break,
            }
        }
        events
    };
    let ((first, second), events) = tokio::join!(play, serve);
    assert_eq!((first, second), (Some(video(1, 100_000)), Some(video(2, 5))));
    assert_eq!(events.first(), Some(&PlayerEvent::BufferLength(300)));
    assert_eq!(events.last(), Some(&PlayerEvent::Close));
}

#[tokio::test(start_paused = true)]
async fn rejections_arrive_before_the_close() {
    let (near, far) = duplex(1 << 16);
    let url = key();
    let (client, ()) = tokio::join!(client::publish_over(near, &url, ClientOptions::default()), async {
        let Request::Publish(request) = server::accept(far, &Limits::default()).await.unwrap() else { panic!() };
        request.reject("NetStream.Publish.BadName", "No stream has the key key.").await.unwrap();
    });
    let error = client.unwrap_err();
    assert_eq!(error.to_string(), "the server refused: NetStream.Publish.BadName: No stream has the *** ***.");
    assert!(error.retry() && error.blame() == Blame::Peer);

    // Later, too: a publisher that only reads receives it.
    let (mut client, server) = pair(1 << 16).await;
    let (error, closed) = tokio::join!(client.idle(), server.close("NetStream.Publish.Rejected", "Taken over."));
    closed.unwrap();
    assert_eq!(error.to_string(), "the server refused: NetStream.Publish.Rejected: Taken over.");
}

/// How long `accept` waits for a client that sends `bytes`, one each `pause`, and the error after that.
async fn patience(bytes: &[u8], pause: Duration) -> (Duration, String) {
    let (mut near, far) = duplex(64);
    let bytes = bytes.to_vec();
    let trickle = tokio::spawn(async move {
        for byte in bytes {
            if near.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        // Neither reads nor closes.
        std::future::pending::<()>().await;
    });
    let began = Instant::now();
    let error = server::accept(far, &Limits::default()).await.unwrap_err();
    trickle.abort();
    (began.elapsed(), error.to_string())
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_the_whole_handshake() {
    let ten = Duration::from_secs(10);
    let expected = (ten, "no publish or play within 10s".to_owned());
    // Silence; half a handshake; a byte a second.
    assert_eq!(patience(b"", ten).await, expected);
    assert_eq!(patience(&[3; 700], Duration::ZERO).await, expected);
    assert_eq!(patience(&[3; 1537], Duration::from_secs(1)).await, expected);
    // A client that sends C1 and reads nothing: the answer does not fit the pipe.
    assert_eq!(patience(&[3; 1537], Duration::ZERO).await, expected);
    let http = "this is not RTMP: the peer speaks HTTP".to_owned();
    assert_eq!(patience(b"GET / HTTP/1.1\r\n\r\n", Duration::ZERO).await, (Duration::ZERO, http));
}

#[tokio::test(start_paused = true)]
async fn truncated_handshakes_and_closed_sockets() {
    for length in [0, 1, 1000, 1537, 3073] {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(&vec![3; length]).await.unwrap();
        near.shutdown().await.unwrap();
        let error = server::accept(far, &Limits::default()).await.unwrap_err();
        let expected = "the peer closed the connection while we waited for publish or play";
        assert_eq!(error.to_string(), expected, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_publisher_times_out_although_waits_are_cancelled() {
    let (mut client, mut server) = pair(1 << 16).await;
    client.send(video(0, 10)).await.unwrap();
    assert_eq!(server.next().await.unwrap(), Some(video(0, 10)));
    let began = Instant::now();
    let error = loop {
        // Cancelled each second: the state is in the connection.
        if let Ok(result) = tokio::time::timeout(Duration::from_secs(1), server.next()).await {
            break result.unwrap_err();
        }
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_server_that_does_not_read_times_out() {
    let (mut client, server) = pair(1000).await;
    let began = Instant::now();
    let error = client.send(video(0, 100_000)).await.unwrap_err();
    assert_eq!(error.to_string(), "no room to write within 10s");
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert!(error.retry() && error.blame() == Blame::Network);
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn an_idle_nearcast_server_is_distinguished_from_a_dead_one() {
    let (near, far) = duplex(1 << 16);
    let url = url::parse("rtmp://host/live/show").unwrap();
    let (player, server) = tokio::join!(client::play_over(near, &url, ClientOptions::default()), async {
        let Request::Play(request) = server::accept(far, &Limits::default()).await.unwrap() else { panic!() };
        request.accept().await.unwrap()
    });
    let (mut io, mut state) = server.into_parts();
    let mut player = player.unwrap();
    // Ten minutes without media, with pings answered.
    let answering = tokio::spawn(async move {
        let mut bytes = [0; 1000];
        let until = Instant::now() + Duration::from_secs(600);
        while Instant::now() < until {
            let n = io.read(&mut bytes).await.unwrap();
            state.input(&bytes[..n]).unwrap();
            io.write_all(&state.replies()).await.unwrap();
        }
        io
    });
    let began = Instant::now();
    let error = player.next().await.unwrap_err();
    assert!((600..=640).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(matches!(error, Error::Timeout { .. }));
    assert!(player.round_trip().is_some());
    drop(answering.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn unacknowledged_bytes_count_data_that_the_server_has_not_received() {
    let (mut client, mut server) = pair(1 << 20).await;
    assert_eq!(client.unacknowledged_bytes(), None);
    for i in 0..10 {
        client.send(video(i, 10_000)).await.unwrap();
    }
    for i in 0..10 {
        assert_eq!(server.next().await.unwrap(), Some(video(i, 10_000)));
    }
    // The acknowledgement is written with the server's next wait.
    let _ = tokio::time::timeout(Duration::from_millis(1), server.next()).await;
    let _ = tokio::time::timeout(Duration::from_millis(1), client.idle()).await;
    let unacknowledged = client.unacknowledged_bytes().unwrap();
    assert!(unacknowledged < 70_000, "{unacknowledged}");
    assert!(client.round_trip().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_publisher_reads_pending_answers_before_it_times_out() {
    let mut options = ClientOptions::default();
    options.limits.idle = Duration::from_secs(5);
    let (mut client, mut server) = pair_with(1 << 20, options).await;
    let serve = tokio::spawn(async move {
        let mut got = 0;
        while got < 3 {
            got += u32::from(server.next().await.unwrap().is_some());
        }
        server
    });
    client.send(video(0, 10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    client.send(video(1, 10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    client.send(video(2, 10)).await.unwrap();
    drop(serve.await.unwrap());
}
