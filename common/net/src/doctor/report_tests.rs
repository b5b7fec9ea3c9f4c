//! The report as literal text and JSON.

use super::*;

fn report() -> Report {
    Report::new(vec![
        Check::ok("UDP", "port 40000 is free"),
        Check::warn("mDNS in", "no host answers on the network", "turn off client isolation in the access point")
            .with("heard", 0.0),
        Check::fail("RTMP", "nothing listens on TCP 1935 of h", "start the cdn"),
    ])
}

#[test]
fn the_report_in_columns() {
    for (width, wanted) in [
        (
            None,
            "ok    UDP      port 40000 is free\n\
             warn  mDNS in  no host answers on the network\n               \
                            fix: turn off client isolation in the access point\n\
             FAIL  RTMP     nothing listens on TCP 1935 of h\n               \
                            fix: start the cdn\n",
        ),
        (
            Some(50),
            "ok    UDP      port 40000 is free\n\
             warn  mDNS in  no host answers on the network\n               \
                            fix: turn off client isolation in\n                    \
                                 the access point\n\
             FAIL  RTMP     nothing listens on TCP 1935 of h\n               \
                            fix: start the cdn\n",
        ),
        // Too narrow: the terminal breaks the lines.
        (
            Some(20),
            "ok    UDP      port 40000 is free\n\
             warn  mDNS in  no host answers on the network\n               \
                            fix: turn off client isolation in the access point\n\
             FAIL  RTMP     nothing listens on TCP 1935 of h\n               \
                            fix: start the cdn\n",
        ),
    ] {
        assert_eq!(report().text(width), wanted, "{width:?}");
    }
    assert_eq!(Report::default().text(None), "");
}

#[test]
fn the_report_as_json() {
    let value: Value = serde_json::from_str(&report().json()).unwrap();
    let wanted = json!({ "ok": false, "checks": [
        { "check": "UDP", "status": "ok", "found": "port 40000 is free" },
        { "check": "mDNS in", "status": "warn", "found": "no host answers on the network",
          "fix": "turn off client isolation in the access point", "values": { "heard": 0.0 } },
        { "check": "RTMP", "status": "fail", "found": "nothing listens on TCP 1935 of h", "fix": "start the cdn" },
    ] });
    assert_eq!(value, wanted);
}

#[test]
fn only_failures_fail() {
    for (checks, wanted) in [
        (vec![], false),
        (vec![Check::ok("a", ""), Check::warn("b", "", "")], false),
        (vec![Check::warn("a", "", ""), Check::fail("b", "", "")], true),
        (vec![Check::warn("a", "", "").at_least(Status::Fail)], true),
        (vec![Check::ok("a", "").at_least(Status::Fail)], false),
        (vec![Check::fail("a", "", "").at_least(Status::Warn)], true),
    ] {
        assert_eq!(Report::new(checks.clone()).has_failed(), wanted, "{checks:?}");
    }
}

#[test]
fn control_characters_of_a_server_are_removed() {
    let text = Report::new(vec![Check::ok("a", format!("x\r\n\x1b[2J{}", "y".repeat(1000)))]).text(None);
    assert_eq!(text.lines().count(), 1);
    assert!(text.len() < 420 && !text.contains('\x1b'));
}
