//! A publisher of tags that a test made: real media with timestamps, configurations and gaps of any kind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use media::flv::file::{AUDIO, Tag, VIDEO};
use net::rtmp::client::{self, ClientOptions};
use net::rtmp::{Message, Metadata, url};

/// A tag with its time.
#[derive(Clone, Debug)]
pub struct TimedTag {
    /// When it is sent, in milliseconds from the start.
    pub at: u32,
    /// What is sent, with the timestamp that it states.
    pub tag: Tag,
}

impl TimedTag {
    /// Each tag at the time that it states.
    pub fn from_tags(tags: &[Tag]) -> Vec<Self> {
        tags.iter().map(|tag| Self { at: tag.timestamp, tag: tag.clone() }).collect()
    }
}

/// Whether the tag configures its track.
pub fn is_header(tag: &Tag) -> bool {
    match tag.kind {
        AUDIO => tag.body.first().is_some_and(|byte| byte >> 4 == 10) && tag.body.get(1) == Some(&0),
        VIDEO => tag.body.get(1) == Some(&0),
        _ => false,
    }
}

/// Publishes the tags to an RTMP URL, until they or `stop` end.
pub fn replay(target: &str, metadata: Option<Metadata>, tags: &[TimedTag], stop: &AtomicBool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut publisher = client::publish(&url::parse(target)?, ClientOptions::default()).await?;
        let begun = tokio::time::Instant::now();
        if let Some(metadata) = metadata {
            publisher.send(Message::Metadata(metadata)).await?;
        }
        for TimedTag { at, tag } in tags {
            let due = begun + Duration::from_millis((*at).into());
            if let Ok(error) = tokio::time::timeout_at(due, publisher.idle()).await {
                return Err(error.into());
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (timestamp, body) = (tag.timestamp, tag.body.clone());
            match tag.kind {
                AUDIO => publisher.send(Message::Audio { timestamp, body }).await?,
                VIDEO => publisher.send(Message::Video { timestamp, body }).await?,
                _ => {}
            }
        }
        publisher.close().await.context("the end of the tags")
    })
}
