//! The files of `cdn/web`, embedded in the binary and compressed once, on the first request.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use rust_embed::RustEmbed;

use super::reply::{ContentHeaders, NO_CACHE};
use crate::precompressed::Precompressed;

#[derive(RustEmbed)]
#[folder = "web"]
#[exclude = "*.json"]
#[exclude = "*.test.js"]
#[exclude = "node_modules/*"]
struct Web;

/// A file by its path in `cdn/web`, and how it is served.
pub(super) fn asset(path: &str) -> Option<&'static (Precompressed, ContentHeaders<'static>)> {
    static ASSETS: LazyLock<BTreeMap<String, (Precompressed, ContentHeaders<'static>)>> = LazyLock::new(|| {
        let read = |path: &str| Web::get(path).expect("a path that was just listed").data.into_owned();
        Web::iter().map(|path| (path.to_string(), (Precompressed::new(read(&path)), form(&path)))).collect()
    });
    ASSETS.get(path)
}

fn form(path: &str) -> ContentHeaders<'static> {
    let content_type = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    ContentHeaders { content_type, cache_control: NO_CACHE }
}
