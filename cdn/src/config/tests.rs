//! Layers, units and bounds, and that the reference file is the defaults.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::{Config, Error, Layers};

fn with_file(text: &str) -> Result<Config, Error> {
    Layers::new().text(text, Path::new("cdn.toml"))?.finish(|_| {})
}

fn with_variables(variables: &[(&str, &str)]) -> Result<Config, Error> {
    let variables = variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    Layers::new().environment(variables)?.finish(|_| {})
}

#[test]
fn without_any_layer_the_defaults_hold() {
    assert_eq!(Layers::new().finish(|_| {}).unwrap(), Config::default());
}

#[test]
fn the_reference_file_is_the_defaults_and_names_every_key() {
    let text = include_str!("../../../deploy/cdn.toml");
    let written: Table = text.parse().unwrap();
    let defaults = Table::try_from(Config::default()).unwrap();
    fn keys(table: &Table, prefix: &str) -> Vec<String> {
        table
            .iter()
            .flat_map(|(key, value)| match value {
                Value::Table(inner) => keys(inner, &format!("{prefix}{key}.")),
                _ => vec![format!("{prefix}{key}")],
            })
            .collect()
    }
    assert_eq!(keys(&written, ""), keys(&defaults, ""));
    assert_eq!(with_file(text).unwrap(), Config::default());
}

#[test]
fn later_layers_override_earlier_ones() {
    let layers = Layers::new().text("[rtmp]\nlisten = '127.0.0.1:1'\nidle_timeout = '1m 30s'", Path::new("x")).unwrap();
    let variables = [
        ("NEARCAST_RTMP_LISTEN", "127.0.0.1:2"),
        ("NEARCAST_FANOUT_SHARDS", "3"),
        ("NEARCAST_DATA", "/d"),
        ("PATH", "x"),
    ];
    let layers = layers.environment(variables.iter().map(|(k, v)| (k.into(), v.into()))).unwrap();
    let config = layers.finish(|c| c.http.listen.set_port(3)).unwrap();
    assert_eq!(config.rtmp.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.rtmp.idle_timeout, Duration::from_secs(90));
    assert_eq!((config.fanout.shards, config.http.listen.port()), (3, 3));
    assert_eq!(config.keys_file(), Path::new("/d/keys.toml"));
}

#[test]
fn wrong_files_are_rejected_with_the_key() {
    for (text, says) in [
        ("colour = 1", "unknown field `colour`"),
        ("[rtmp]\nlissen = '0.0.0.0:1'", "unknown field `lissen`"),
        ("[rtmp]\nlisten = 1935", "invalid type"),
        ("[rtmp]\nidle_timeout = 30", "invalid type"),
        ("[rtmp]\nidle_timeout = '30 parsecs'", "not a duration"),
        ("[rtmp]\nidle_timeout = '0s'", "rtmp.idle_timeout must be longer than 0s"),
        ("[rtmp]\nmax_message = '20 MB'", "rtmp.max_message must be"),
        ("[rtmp]\nmax_connections = 0", "rtmp.max_connections must be at least 1"),
        ("[rtmp]\napp = 'a/b'", "rtmp.app must be"),
        ("[hub]\nbuffer_bytes = '1 MiB'", "hub.buffer_bytes must be"),
        ("[hls]\npart_duration = '3s'", "hls.part_duration must not"),
        ("[hls]\npart_duration = '20ms'", "hls.part_duration must be"),
        ("[hls]\nplaylist_window = '5s'", "hls.playlist_window must be"),
        ("[fanout]\nengine = 'kqueue'", "unknown variant"),
        ("[metrics]\nlisten = 'here'", "invalid socket address"),
        ("[metrics]\nhosts = ['a/b']", "metrics.hosts must be"),
        ("[http]\ntrusted_proxies = ['proxy.example']", "http.trusted_proxies must be"),
        ("[http]\nwatch_origins = ['tv.example']", "http.watch_origins must be"),
        ("[http]\nwatch_origins = ['https://tv.example/']", "http.watch_origins must be"),
        ("[rtmp", "cdn.toml"),
    ] {
        let error = with_file(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn wrong_variables_are_rejected_with_their_name() {
    for (name, value, says) in [
        ("NEARCAST_RTMP_LISSEN", "x", "is not a setting"),
        ("NEARCAST_FANOUT_SHARDS", "many", "a whole number"),
        ("NEARCAST_RTMP_IDLE_TIMEOUT", "soon", "not a duration"),
    ] {
        let error = with_variables(&[(name, value)]).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    assert_eq!(with_variables(&[("NEARCAST_SOMETHING_ELSE", "1")]).unwrap(), Config::default());
    assert_eq!(with_variables(&[("NEARCAST_METRICS_LISTEN", "")]).unwrap().metrics.listen, None);
    let origins = with_variables(&[("NEARCAST_HTTP_WATCH_ORIGINS", "https://a.example, https://b.example:8443,")]);
    assert_eq!(origins.unwrap().http.watch_origins, ["https://a.example", "https://b.example:8443"]);
}
