//! Interoperability over loopback: FFmpeg publishes to our server, plays from it, and serves our client; so does nginx-rtmp.
#![allow(clippy::unwrap_used)] // All of this crate is tests, its helping functions too.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use net::rtmp::client::{self, ClientOptions};
use net::rtmp::server::{self, Request};
use net::rtmp::{self, Limits, Message, url};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn ffmpeg(arguments: &[&str]) -> Self {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]).args(arguments);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ffmpeg is installed"))
    }

    fn wait_output(mut self) -> (bool, String) {
        use std::io::Read;
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap().success(), text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SOURCE: &[&str] =
    &["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=44100"];
const ENCODE: &[&str] =
    &["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "2", "-c:a", "aac", "-f", "flv"];

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// All messages until the publisher closes the connection.
async fn receive_all(mut publisher: server::Publisher<TcpStream>) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match publisher.next().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return messages,
            // A peer that closes with our acknowledgements unread resets the connection (RFC 2525 §2.17); it has sent everything.
            Err(rtmp::Error::Io { .. }) if messages.last() == Some(&Message::EndOfStream) => return messages,
            Err(error) => panic!("{error}"),
        }
    }
}

/// All messages that one FFmpeg process publishes in `seconds`.
async fn publish_once(listener: &TcpListener, address: SocketAddr, seconds: &str, more: &[&str]) -> Vec<Message> {
    let target = format!("rtmp://{address}/live/instance/key?token=1");
    let ffmpeg = Process::ffmpeg(&[&["-re"], SOURCE, &["-t", seconds], ENCODE, more, &[&target]].concat());
    let (socket, _) = listener.accept().await.unwrap();
    let Request::Publish(request) = server::accept(socket, &Limits::default()).await.unwrap() else {
        panic!("no publish")
    };
    assert_eq!((request.app.as_str(), request.name.as_str()), ("live/instance", "key"));
    assert_eq!(request.query, [("token".to_owned(), "1".to_owned())]);
    let messages = receive_all(request.accept(None).await.unwrap()).await;
    assert!(ffmpeg.wait_output().0, "ffmpeg ends content");
    messages
}

fn pictures(messages: &[Message]) -> usize {
    // The second byte of an AVC tag distinguishes a frame (1) from a sequence header (0).
    messages.iter().filter(|m| matches!(m, Message::Video { body, .. } if body.get(1) == Some(&1))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_and_plays() {
    let (listener, address) = listen().await;
    let run = async {
        let messages = publish_once(&listener, address, "2", &[]).await;
        assert_eq!(pictures(&messages), 50);
        assert!(matches!(&messages[0], Message::Metadata(m) if m.values.contains_key("encoder") && m.epoch.is_none()));
        assert_eq!(messages.last(), Some(&Message::EndOfStream));

        // Play with ffprobe: every frame, with its timestamps.
        let source = format!("rtmp://{address}/live/show");
        let mut probe = Command::new("ffprobe");
        probe.args([
            "-loglevel",
            "error",
            "-select_streams",
            "v",
            "-show_entries",
            "packet=pts",
            "-of",
            "csv=p=0",
            &source,
        ]);
        let probe = Process(probe.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let (socket, _) = listener.accept().await.unwrap();
        let Request::Play(request) = server::accept(socket, &Limits::default()).await.unwrap() else {
            panic!("no play")
        };
        assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "show"));
        let mut player = request.accept().await.unwrap();
        for message in &messages {
            player.send(message).await.unwrap();
        }
        player.close("NetStream.Play.Stop", "Over.").await.unwrap();
        let (_, packets) = tokio::task::spawn_blocking(|| probe.wait_output()).await.unwrap();
        assert_eq!(packets.lines().filter(|l| !l.is_empty()).count(), 50, "{packets}");
    };
    timeout(Duration::from_secs(60), run).await.expect("within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_crosses_into_extended_timestamps() {
    let (listener, address) = listen().await;
    // The timestamp 2^24 ms is one second after the start. (FFmpeg wraps at 2^31, because it reads FLV timestamps as signed.)
    let run = publish_once(&listener, address, "2", &["-output_ts_offset", "16776.2"]);
    let messages = timeout(Duration::from_secs(60), run).await.expect("within a minute");
    assert_eq!(pictures(&messages), 50);
    let stamps: Vec<u32> = messages
        .iter()
        .filter_map(|message| match message {
            Message::Video { timestamp, body } if body.get(1) == Some(&1) => Some(*timestamp),
            _ => None,
        })
        .collect();
    assert!(stamps[0] < 0xff_ffff && stamps[49] > 0xff_ffff, "{stamps:?}");
    assert!(stamps.windows(2).all(|w| (30..=50).contains(&(w[1] - w[0]))), "{stamps:?}");
}

/// `rtmpsink` uses librtmp, as OBS does; `rtmp2sink` is GStreamer's own implementation.
#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_and_librtmp_publish() {
    for sink in ["rtmp2sink", "rtmpsink"] {
        let (listener, address) = listen().await;
        let pipeline = format!(
            "videotestsrc num-buffers=50 is-live=true ! video/x-raw,width=160,height=120,framerate=25/1 ! \
             x264enc tune=zerolatency ! flvmux streamable=true name=m ! {sink} location=rtmp://{address}/live/key \
             audiotestsrc num-buffers=80 is-live=true ! avenc_aac ! m."
        );
        let mut gstreamer = Command::new("gst-launch-1.0");
        gstreamer.arg("-q").args(pipeline.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::null());
        let gstreamer = Process(gstreamer.spawn().expect("GStreamer is installed"));
        let run = async {
            let (socket, _) = listener.accept().await.unwrap();
            let Request::Publish(request) = server::accept(socket, &Limits::default()).await.unwrap() else { panic!() };
            assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "key"));
            receive_all(request.accept(None).await.unwrap()).await
        };
        let messages = timeout(Duration::from_secs(60), run).await.expect("within a minute");
        assert_eq!(pictures(&messages), 50, "{sink}");
        assert!(messages.iter().any(|m| matches!(m, Message::Audio { .. })), "{sink}");
        drop(gstreamer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_publishes_to_ffmpeg() {
    let run = async {
        let (listener, address) = listen().await;
        let messages = publish_once(&listener, address, "1", &[]).await;
        // FFmpeg's server mode does not accept port 0: bind a free port, release it, and pass it on.
        drop(listener);
        let target = format!("rtmp://{address}/live/key");
        let file = tempfile::Builder::new().suffix(".mkv").tempfile().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let ffmpeg = Process::ffmpeg(&["-listen", "1", "-i", &target, "-c", "copy", "-y", &path]);
        let url = url::parse(&target).unwrap();
        let mut publisher = loop {
            match client::publish(&url, ClientOptions::default()).await {
                Ok(publisher) => break publisher,
                // The server takes a moment to listen.
                Err(error) if error.to_string().starts_with("connecting") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(!publisher.server_is_nearcast() && publisher.resume().is_none());
        for message in &messages {
            publisher.send(message.clone()).await.unwrap();
        }
        publisher.close().await.unwrap();
        let (content, _) = tokio::task::spawn_blocking(|| ffmpeg.wait_output()).await.unwrap();
        assert!(content);
        let mut probe = Command::new("ffprobe");
        probe.args(["-loglevel", "error", "-select_streams", "v", "-count_packets"]);
        probe.args(["-show_entries", "stream=nb_read_packets", "-of", "csv=p=0", &path]);
        let counted = String::from_utf8(probe.output().unwrap().stdout).unwrap();
        assert_eq!(counted.trim(), "25");
    };
    timeout(Duration::from_secs(60), run).await.expect("within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_relays_our_publisher_to_our_player() {
    let run = async {
        let (listener, address) = listen().await;
        let messages = publish_once(&listener, address, "1", &[]).await;
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("nginx.conf");
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/log;\n\
             master_process off;\nevents {{}}\nrtmp {{ server {{ listen {address}; \
             application live {{ live on; wait_key off; wait_video off; }} }} }}\n",
            folder = folder.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let nginx = Process(nginx.spawn().expect("nginx with its RTMP module is installed"));

        let url = url::parse(&format!("rtmp://{address}/live/name")).unwrap();
        let mut publisher = loop {
            match client::publish(&url, ClientOptions::default()).await {
                Ok(publisher) => break publisher,
                Err(error) if error.to_string().starts_with("connecting") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let body = |message: &Message| match message {
            Message::Video { body, .. } | Message::Audio { body, .. } => Some(body.clone()),
            _ => None,
        };
        // Sequence headers first, so that nginx knows the codecs before a player connects.
        let is_header = |m: &Message| body(m).is_some_and(|b| b.get(1) == Some(&0));
        let (mut first, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(|m| is_header(m) || body(m).is_none());
        first.retain(|m| *m != Message::EndOfStream);
        for message in first {
            publisher.send(message).await.unwrap();
        }
        publisher.flush().await.unwrap();
        let mut player = client::play(&url, ClientOptions::default()).await.unwrap();
        assert!(!player.server_is_nearcast());
        for message in &rest {
            publisher.send(message.clone()).await.unwrap();
        }
        let mut expected = rest.iter().filter_map(body);
        let mut wanted = expected.next();
        while let Some(body_wanted) = &wanted {
            let message = player.next().await.unwrap().expect("nginx continues");
            if body(&message).as_ref() == Some(body_wanted) {
                wanted = expected.next();
            }
        }
        publisher.close().await.unwrap();
        player.close().await.unwrap();
        drop(nginx);
    };
    timeout(Duration::from_secs(60), run).await.expect("within a minute");
}
