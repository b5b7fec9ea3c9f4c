//! `/api/v1/streams/NAME/timing`, and the delays in `/metrics`.

use media::WallClock;

use super::*;

#[tokio::test]
async fn unit_times_come_with_the_clock() {
    let fixture = Fixture::new();
    fixture.hub.open("live");
    let path = "/api/v1/streams/live/timing";
    assert_eq!(fixture.fetch(path, &[]).await.status, StatusCode::NOT_FOUND, "no units yet");
    assert_eq!(fixture.fetch("/api/v1/streams/nobody/timing", &[]).await.status, StatusCode::NOT_FOUND);
    let publishing = fixture.publish();
    push(&publishing, 7, 0..10);
    let hls_stream = fixture.hls.stream("live").unwrap();
    hls_stream.playable(Duration::from_secs(5)).await.unwrap();
    for bad in ["?at=x", "?at=", "?at=99999999999999999999"] {
        assert_eq!(fixture.fetch(&format!("{path}{bad}"), &[]).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let before = net::clock::now().as_micros();
    let reply = fixture.fetch(&format!("{path}?at=1000"), &[]).await;
    assert_eq!((reply.status, reply.header("cache-control")), (StatusCode::OK, "no-store"));
    let said = reply.json();
    let clock = said["received_us"].as_i64().unwrap();
    assert!((before..=net::clock::now().as_micros()).contains(&clock));
    assert_eq!((said["epoch"].as_str(), &said["broadcaster"]), (Some("0000000000000007"), &serde_json::Value::Null));
    let units = said["units"].as_array().unwrap();
    let dts: Vec<_> = units.iter().map(|unit| unit["dts"].as_i64().unwrap()).collect();
    assert_eq!(dts, [40, 360, 680, 1000], "evenly spaced, up to the requested unit");
    for unit in units {
        assert_eq!(unit["track"], "v0");
        let dts = unit["dts"].as_i64().unwrap();
        assert_eq!(unit["captured_us"].as_i64(), Some(1_795_352_493_250_000 + dts * 1000));
        let (ingested, in_part) = (unit["ingested_us"].as_i64().unwrap(), unit["in_part_us"].as_i64().unwrap());
        let in_segment = unit["in_segment_us"].as_i64().unwrap();
        assert!(ingested <= in_part && in_part <= in_segment, "{unit}");
        assert!(unit.get("encoded_us").is_none() && unit.get("presented_us").is_none());
    }
    let delays = metrics::Delays::new(fixture.hub.clone());
    let mut metrics = Metrics::default();
    metrics.register(delays.clone());
    delays.observe(WallClock::from_micros(net::clock::now().as_micros() + 60_000_000));
    let text = metrics.render();
    for line in [
        "# TYPE nearcast_stream_delay_seconds histogram",
        "nearcast_stream_delay_seconds_bucket{stream=\"live\",delivery=\"all\",component=\"upload\",le=\"+Inf\"} 250",
        "nearcast_stream_delay_seconds_count{stream=\"live\",delivery=\"parts\",component=\"chunking\"} ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
