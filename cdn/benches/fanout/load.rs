//! The publisher: 30 video and 47 audio units per second, 1.08 Mbit/s, an IDR every two seconds. Each video frame carries its send time.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use media::codec::{Codec, CodecConfig};
use media::{AccessUnit, Epoch, Timestamp, Track, TrackId};
use net::rtmp::client::{self, ClientOptions};
use net::rtmp::{Message, Metadata, url};

use crate::Address;

/// A publisher on a separate thread.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    pictures: AtomicU64,
}

impl Publisher {
    pub(crate) fn start(server: Address, key: &str) -> anyhow::Result<Self> {
        let url = url::parse(&format!("rtmp://{server}/live/{key}"))?;
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let publisher = runtime.block_on(client::publish(&url, ClientOptions::default()))?;
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                let result = runtime.block_on(publish(publisher, &shared));
                if let Err(error) = result.filter_stop(&shared) {
                    eprintln!("publisher: {error}");
                }
            }
        });
        Ok(Self { shared, thread })
    }

    /// Number of video frames sent so far.
    pub(crate) fn pictures(&self) -> u64 {
        self.shared.pictures.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

trait FilterStop {
    fn filter_stop(self, shared: &Shared) -> Self;
}

impl FilterStop for Result<(), net::rtmp::Error> {
    /// Ignores errors after the stop, when the server closes the connection.
    fn filter_stop(self, shared: &Shared) -> Self {
        if shared.stop.load(Ordering::Relaxed) { Ok(()) } else { self }
    }
}

async fn publish(mut publisher: client::Publisher, shared: &Shared) -> Result<(), net::rtmp::Error> {
    let (video, audio) = (video_track(), audio_track());
    let values = ["videocodecid", "audiocodecid"].map(|key| (key.to_owned(), media::catalog::Value::Number(0.0)));
    let metadata = Metadata { values: values.into(), epoch: Some(Epoch(1)), clock: None, dts: Some(Timestamp::ZERO) };
    publisher.send(Message::Metadata(metadata)).await?;
    publisher.send_track(0, &video).await?;
    publisher.send_track(0, &audio).await?;
    let start = Instant::now();
    let (mut pictures, mut sounds) = (0u32, 0u32);
    while !shared.stop.load(Ordering::Relaxed) {
        let picture_at = Duration::from_secs(1) * pictures / PICTURES_A_SECOND;
        let sound_at = Duration::from_secs(1) * sounds * 1024 / 48_000;
        tokio::time::sleep_until((start + picture_at.min(sound_at)).into()).await;
        if sound_at < picture_at {
            publisher.send_unit(&audio, &sound(sound_at)).await?;
            sounds += 1;
        } else {
            publisher.send_unit(&video, &picture(picture_at, pictures.is_multiple_of(GOP))).await?;
            pictures += 1;
            shared.pictures.store(pictures.into(), Ordering::Relaxed);
        }
        publisher.flush().await?;
    }
    Ok(())
}

pub(crate) fn video_track() -> Track {
    let sps = [
        0x67, 0x64, 0, 0x15, 0xac, 0xd9, 0x41, 0x43, 0x3f, 0x26, 2, 0, 0, 3, 0, 2, 0, 0, 3, 2, 0x83, 0xe2, 0x85, 0x32,
        0xc0,
    ];
    let mut record = vec![1, 0x64, 0, 0x15, 0xff, 0xe1, 0, sps.len() as u8];
    record.extend(sps);
    record.extend([1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0]);
    let config = CodecConfig::from_record(Codec::H264, record.into()).expect("a valid record");
    Track { id: TrackId::VIDEO, config }
}

pub(crate) fn audio_track() -> Track {
    let config = CodecConfig::from_record(Codec::Aac, vec![0x11, 0x90].into()).expect("a valid record");
    Track { id: TrackId::AUDIO, config }
}

/// A video frame that carries the time `at`.
pub(crate) fn picture(at: Duration, is_idr: bool) -> AccessUnit {
    let size = if is_idr { IDR_BYTES } else { PICTURE_BYTES };
    let mut payload = vec![0xa5; size];
    payload[..4].copy_from_slice(&(size as u32 - 4).to_be_bytes());
    payload[4] = if is_idr { 0x65 } else { 0x41 };
    payload[5..13].copy_from_slice(MARK);
    payload[13..21].copy_from_slice(&nanos().to_be_bytes());
    unit(TrackId::VIDEO, at, is_idr, payload)
}

pub(crate) fn sound(at: Duration) -> AccessUnit {
    unit(TrackId::AUDIO, at, true, vec![0x21; SOUND_BYTES])
}

fn unit(track: TrackId, at: Duration, random_access: bool, payload: Vec<u8>) -> AccessUnit {
    let dts = Timestamp::from_millis(at.as_millis() as i64);
    AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload: payload.into() }
}

/// Nanoseconds on a clock that publisher and players share.
pub(crate) fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Precedes the time in a video frame.
pub(crate) const MARK: &[u8; 8] = b"nearcast";
const PICTURES_A_SECOND: u32 = 30;
/// Video frames from one IDR to the next.
const GOP: u32 = 60;
/// Size of a frame other than an IDR: with the IDRs, 1 Mbit/s.
const PICTURE_BYTES: usize = 3730;
const IDR_BYTES: usize = 30_000;
/// Size of an audio unit: at 47 per second, 80 kbit/s.
const SOUND_BYTES: usize = 213;
