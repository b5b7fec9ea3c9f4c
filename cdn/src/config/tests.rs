//! Layers, units and bounds, and that the reference file is the defaults.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use net::listen::ListenAddress;
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
    let config = layers.finish(|c| c.http.listen = ListenAddress::AnyAddress(3)).unwrap();
    assert_eq!(config.rtmp.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.rtmp.idle_timeout, Duration::from_secs(90));
    assert_eq!((config.fanout.shards, config.http.listen.port()), (3, 3));
    assert_eq!(config.keys_file(), Path::new("/d/keys.toml"));
}

#[test]
fn errors_in_files_name_the_place_and_the_fix() {
    for (text, says) in [
        ("colour = 1", "cdn.toml:1:1: colour is not a setting; deploy/cdn.toml lists all settings"),
        ("\n[rtmp]\nlissen = '0.0.0.0:1'", "cdn.toml:3:1: rtmp.lissen is not a setting; did you mean rtmp.listen?"),
        (
            "[http]\nsegment_duration = '1s'",
            "cdn.toml:2:1: http.segment_duration is not a setting; did you mean hls.segment_duration?",
        ),
        ("[htp]\nlisten = ':1'", "cdn.toml:1:2: htp is not a setting; did you mean http?"),
        ("rtmp = 1", "cdn.toml:1:8: rtmp: is a section: write [rtmp], and its settings on the lines below"),
        ("[rtmp]\nlisten = true", "cdn.toml:2:10: rtmp.listen: must be a string, in quotes"),
        (
            "[rtmp]\nlisten = 'here'",
            "cdn.toml:2:10: rtmp.listen: \"here\" is no address to listen on: write a port (1935 or :1935)",
        ),
        (
            "[rtmp]\nidle_timeout = 30",
            "cdn.toml:2:16: rtmp.idle_timeout: \"30\" is not a duration: time unit needed, for example 30sec",
        ),
        ("[rtmp]\nidle_timeout = '30 parsecs'", "cdn.toml:2:16: rtmp.idle_timeout: \"30 parsecs\" is not a duration"),
        ("[rtmp]\nidle_timeout = '0s'", "cdn.toml:2:16: rtmp.idle_timeout: must be longer than 0s"),
        ("# é\n[rtmp]\nmax_message = '20 MB'", "cdn.toml:3:15: rtmp.max_message: must be from 64 KiB"),
        ("[rtmp]\nmax_connections = 0", "cdn.toml:2:19: rtmp.max_connections: must be at least 1"),
        ("[rtmp]\nmax_connections = 'many'", "cdn.toml:2:19: rtmp.max_connections: must be a whole number"),
        ("[hls]\nlow_latency = 1", "cdn.toml:2:15: hls.low_latency: must be true or false"),
        ("[rtmp]\napp = 'a/b'", "cdn.toml:2:7: rtmp.app: must be"),
        ("[hub]\nbuffer_bytes = '1 MiB'", "cdn.toml:2:16: hub.buffer_bytes: must be"),
        ("[hls]\npart_duration = '3s'", "cdn.toml:2:17: hls.part_duration: must not"),
        ("[hls]\npart_duration = '20ms'", "hls.part_duration: must be"),
        ("[hls]\nplaylist_window = '5s'", "hls.playlist_window: must be"),
        (
            "[fanout]\nengine = 'kqueue'",
            "cdn.toml:2:10: fanout.engine: unknown variant `kqueue`, expected one of `auto`, `uring`, `epoll`",
        ),
        ("[http]\ntrusted_proxies = '::1'", "cdn.toml:2:19: http.trusted_proxies: must be a list of strings"),
        (
            "[http]\ntrusted_proxies = ['all']",
            "cdn.toml:2:19: http.trusted_proxies: \"all\" is no address and no network",
        ),
        (
            "[log]\nlevel = 'verbose'",
            "cdn.toml:2:9: log.level: \"verbose\" is no log level: use off, error, warn, info, debug, trace",
        ),
        ("[metrics]\nhosts = ['a/b']", "cdn.toml:2:9: metrics.hosts: must be"),
        ("[http]\nwatch_origins = ['tv.example']", "cdn.toml:2:17: http.watch_origins: must be"),
        ("[http]\nwatch_origins = ['https://tv.example/']", "cdn.toml:2:17: http.watch_origins: must be"),
        ("[rtmp", "cdn.toml:1:6: "),
        ("[rtmp]\nlisten = ':1'\nlisten = ':2'", "cdn.toml:3:1: duplicate key"),
    ] {
        let error = with_file(text).expect_err(text);
        let shown = error.to_string();
        assert!(shown.contains(says), "{text}: {shown}");
        assert!(!shown.contains('\n'), "{text}: one line: {shown}");
        // The command prints an error with its sources: what is in both would be printed twice.
        assert!(std::error::Error::source(&error).is_none(), "{text}");
    }
}

#[test]
fn errors_in_variables_and_flags_name_their_source() {
    for (name, value, says) in [
        (
            "NEARCAST_RTMP_LISSEN",
            "x",
            "environment: NEARCAST_RTMP_LISSEN is not a setting; did you mean NEARCAST_RTMP_LISTEN?",
        ),
        ("NEARCAST_FANOUT_SHARDS", "many", "environment: NEARCAST_FANOUT_SHARDS: must be a whole number"),
        ("NEARCAST_FANOUT_SHARDS", "999", "environment: NEARCAST_FANOUT_SHARDS: must be at most 256"),
        ("NEARCAST_RTMP_IDLE_TIMEOUT", "soon", "environment: NEARCAST_RTMP_IDLE_TIMEOUT: \"soon\" is not a duration"),
        ("NEARCAST_LOG_LEVEL", "loud", "environment: NEARCAST_LOG_LEVEL: \"loud\" is no log level"),
    ] {
        let error = with_variables(&[(name, value)]).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    assert_eq!(with_variables(&[("NEARCAST_SOMETHING_ELSE", "1")]).unwrap(), Config::default());
    assert_eq!(with_variables(&[("NEARCAST_METRICS_LISTEN", "")]).unwrap().metrics.listen, None);
    let origins = with_variables(&[("NEARCAST_HTTP_WATCH_ORIGINS", "https://a.example, https://b.example:8443,")]);
    assert_eq!(origins.unwrap().http.watch_origins, ["https://a.example", "https://b.example:8443"]);
    let layers = Layers::new().text("[log]\nlevel = 'debug'", Path::new("cdn.toml")).unwrap();
    let error = layers.finish(|config| config.log.level = "loud".into()).unwrap_err().to_string();
    assert!(error.starts_with("command line: log.level: \"loud\" is no log level"), "{error}");
}

#[test]
fn a_port_alone_and_lists_may_be_set_in_each_layer() {
    let config =
        with_file("[rtmp]\nlisten = 1936\n[http]\nlisten = ':8081'\ntrusted_proxies = ['10.0.0.1', 'fd00::/8']")
            .unwrap();
    assert_eq!((config.rtmp.listen.to_string(), config.http.listen.to_string()), (":1936".into(), ":8081".into()));
    let config = with_variables(&[
        ("NEARCAST_RTMP_LISTEN", "1937"),
        ("NEARCAST_HTTP_TRUSTED_PROXIES", "192.0.2.1, 198.51.100.0/24"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.rtmp.listen.port(), 1937);
    let networks: Vec<String> = config.http.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["192.0.2.1/32", "198.51.100.0/24"]);
    assert_eq!(with_variables(&[("NEARCAST_HTTP_TRUSTED_PROXIES", "")]).unwrap().http.trusted_proxies, []);
}

#[test]
fn changes_are_named_by_their_keys() {
    let mut other = Config::default();
    assert_eq!(Config::default().changes(&other), Vec::<String>::new());
    (other.public_host, other.rtmp.app, other.hls.low_latency) = ("h".into(), "a".into(), false);
    let mut changes = Config::default().changes(&other);
    changes.sort();
    assert_eq!(changes, ["hls.low_latency", "public_host", "rtmp.app"]);
}
