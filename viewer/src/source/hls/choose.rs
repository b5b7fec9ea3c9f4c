//! Chooses the media playlist among those that a multivariant playlist lists (RFC 8216 §4.3.4).

use media::hls::client::resolve;
use media::hls::{self, AudioRendition, Multivariant, ParsedPlaylist, Variant};
use reqwest::{StatusCode, header};
use tracing::{debug, warn};

use super::super::Error;
use super::super::http::HttpClient;
use super::requests::{checked, request, text, unsupported};

/// The media playlist to play: `url` itself, or the best variant that it lists.
pub(super) async fn choose(url: &str, http: &HttpClient) -> Result<String, Error> {
    let response = request(url, None, http).await?;
    // A server that knows the stream says with Retry-After that it is not on air yet (RFC 9110 §10.2.3).
    if response.status() == StatusCode::NOT_FOUND && !response.headers().contains_key(header::RETRY_AFTER) {
        let reason =
            "404 Not Found, without Retry-After: the server does not know this stream. Check the spelling".to_owned();
        return Err(Error::Http { url: url.to_owned(), reason, retry: false });
    }
    let (text, base) = text(checked(response, url)?, url).await?;
    match hls::parse(&text).map_err(|error| unsupported(&base, error))? {
        // The URL before redirects: they may lead elsewhere the next time.
        ParsedPlaylist::Media(_) => Ok(url.to_owned()),
        ParsedPlaylist::Multivariant(list) => {
            let best = best(&list).ok_or_else(|| unsupported(&base, "no variant has a supported codec"))?;
            debug!(uri = best.uri, bandwidth = best.bandwidth, "chose a variant");
            if let Some(sound) = separate_sound(&list, best) {
                warn!(
                    rendition = sound.name,
                    "the audio is a separate rendition, which this viewer does not support: playing without audio"
                );
            }
            Ok(resolve(&base, &best.uri))
        }
    }
}

/// The best variant: one with video before one without, then one that contains its audio, then the highest bandwidth.
fn best(list: &Multivariant) -> Option<&Variant> {
    let playable = list.variants.iter().filter(|variant| is_playable(variant));
    playable.max_by_key(|v| (has_pictures(v), separate_sound(list, v).is_none(), v.bandwidth))
}

fn has_pictures(variant: &Variant) -> bool {
    let video = ["avc", "hvc1", "hev1", "av01", "vp09"];
    let is_video = |codec: &str| video.iter().any(|video| codec.trim().to_ascii_lowercase().starts_with(video));
    variant.resolution.is_some() || variant.codecs.as_ref().is_none_or(|codecs| codecs.split(',').any(is_video))
}

/// The rendition with the audio of a variant, if the variant itself does not contain it (RFC 8216 §4.3.4.2.1).
fn separate_sound<'a>(list: &'a Multivariant, variant: &Variant) -> Option<&'a AudioRendition> {
    let group = variant.audio.as_ref()?;
    let mut renditions = list.audio.iter().filter(|rendition| rendition.group == *group);
    // A rendition without a URI is contained in the variant.
    let has_own = renditions.clone().any(|rendition| rendition.uri.is_none());
    renditions
        .find(|rendition| rendition.default)
        .or_else(|| list.audio.iter().find(|r| r.group == *group))
        .filter(|_| !has_own)
}

/// Whether all of the codecs are supported.
fn is_playable(variant: &Variant) -> bool {
    let known = ["avc1", "avc3", "hvc1", "hev1", "av01", "vp09", "mp4a", "opus", "flac", "mp3"];
    variant.codecs.as_ref().is_none_or(|codecs| {
        codecs.split(',').all(|codec| {
            let codec = codec.trim().to_ascii_lowercase();
            known.iter().any(|known| codec.starts_with(known))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_with_supported_codecs_and_its_own_audio_is_preferred() {
        let own = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English\",DEFAULT=YES,URI=\"a.m3u8\"\n";
        let within = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"b\",NAME=\"English\",DEFAULT=YES\n";
        let variant = |rate: u32, codecs: &str, group: &str| {
            let group = if group.is_empty() { String::new() } else { format!(",AUDIO=\"{group}\"") };
            format!("#EXT-X-STREAM-INF:BANDWIDTH={rate},CODECS=\"{codecs}\"{group}\n{rate}.m3u8\n")
        };
        let av = "avc1.42001e,mp4a.40.2";
        for (variants, wanted, silent) in [
            (vec![variant(1, av, ""), variant(3, av, ""), variant(2, av, "")], Some("3.m3u8"), None),
            (vec![variant(1, av, ""), variant(3, "xyz1", "")], Some("1.m3u8"), None),
            (vec![variant(3, "xyz1", "")], None, None),
            (vec![variant(1, av, ""), variant(3, av, "a")], Some("1.m3u8"), None),
            (vec![variant(1, av, ""), variant(3, av, "b")], Some("3.m3u8"), None),
            (vec![variant(1, "mp4a.40.2", ""), variant(3, av, "a")], Some("3.m3u8"), Some("English")),
        ] {
            let text = format!("#EXTM3U\n{own}{within}{}", variants.concat());
            let list = hls::parse_multivariant(&text).unwrap();
            let best = best(&list);
            assert_eq!(best.map(|v| v.uri.as_str()), wanted, "{text}");
            assert_eq!(best.and_then(|v| separate_sound(&list, v)).map(|r| r.name.as_str()), silent, "{text}");
        }
    }
}
