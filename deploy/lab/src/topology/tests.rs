//! Tests of topology files: parsing, error messages, and the shipped topologies.

use std::time::Duration;

use super::*;
use crate::latency_bound::{FRAMING, LatencyBounds, MEAN_UNIT};

const TWO: &str = r#"
[[host]]
name = "a"
address = "10.1.1.1"
[[host]]
name = "b"
address = "10.1.1.2"
[[link]]
name = "l"
a = "a"
b = "b"
both = { rate = "4M", delay = "8ms", burst = { to-bad = "1%", to-good = 0.5 } }
b-to-a = { loss = 0.5, rate = "none" }
"#;

#[test]
fn a_direction_overrides_the_settings_of_both() {
    let topology: Topology = TWO.parse().unwrap();
    let [there, back] = topology.link("l").unwrap().shapes().unwrap();
    assert_eq!((there.rate, there.loss, there.delay), (Some(4_000_000), 0.0, Duration::from_millis(8)));
    assert_eq!((back.rate, back.loss, back.delay), (None, 0.5, Duration::from_millis(8)));
    assert_eq!(there.burst.unwrap().to_good, 0.5);
    assert_eq!(topology.hops("b", "a").unwrap(), [back.into()]);
}

#[test]
fn errors_name_the_key() {
    let with = |from: &str, to: &str| TWO.replacen(from, to, 1);
    for (text, expected) in [
        (with("address = \"10.1.1.1\"", "adress = \"10.1.1.1\""), "unknown field `adress`"),
        (with("name = \"a\"", "name = \"A b\""), "[[host]] name"),
        (with("name = \"b\"", "name = \"a\""), "\"a\" is used twice"),
        (with("name = \"b\"", "name = \"wire\""), "use another"),
        (with("b = \"b\"", "b = \"c\""), "link l: b: \"c\" is neither a [[host]] nor a [[switch]]"),
        (with("b = \"b\"", "b = \"a\""), "both ends are a"),
        (with("b = \"b\"", "b = \"b 10.1.1.1\""), "already that of a at link l"),
        (with("b = \"b\"", "b = \"b 192.168.1.1\""), "not in 10.0.0.0/8"),
        (with("address = \"10.1.1.2\"", ""), "give it `address`"),
        (with("delay", "dealy"), "link l: both: there is no key \"dealy\" (do you mean \"delay\"?)"),
        (with("loss = 0.5", "loss = 5"), "link l: b-to-a: loss 5 is not a probability"),
        (with("to-bad", "bad"), "its keys are to-bad"),
        (with("\"4M\"", "\"1\""), "link l: both: rate 1 bit/s"),
        (String::new(), "there is no [[host]]"),
    ] {
        let error = format!("{:#}", text.parse::<Topology>().unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn errors_list_the_existing_names() {
    let topology: Topology = TWO.parse().unwrap();
    assert!(topology.link("m").unwrap_err().to_string().ends_with("there are: l"));
    assert!(topology.hops("a", "z").unwrap_err().to_string().ends_with("there are: a, b"));
    let topology: Topology = TWO.split("[[link]]").next().unwrap().parse().unwrap();
    assert!(topology.hops("a", "b").unwrap_err().to_string().contains("no link leads from a to b"));
}

/// The shipped files give the results of the paper's analysis.
#[test]
fn the_paper_topologies_have_the_published_bounds() {
    for (text, wanted) in [
        (include_str!("../../topologies/paper-a.toml"), [93.4, 99.2, 27.6, 36.3]),
        (include_str!("../../topologies/paper-b.toml"), [80.9, 83.2, 20.6, 24.1]),
    ] {
        let topology: Topology = text.parse().unwrap();
        let hops = |from, to| topology.hops(from, to).unwrap();
        let bounds = LatencyBounds::new(
            FRAMING,
            &hops("broadcaster", "cdn"),
            &hops("cdn", "viewer"),
            &hops("broadcaster", "viewer"),
        );
        for ((name, path), wanted) in bounds.named().into_iter().zip(wanted) {
            let got = path.idle_latency(MEAN_UNIT).as_secs_f64() * 1e3;
            assert!((got - wanted).abs() < 0.051, "{name}: {got:.2} for {wanted}");
        }
    }
}

#[test]
fn all_shipped_topologies_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        Topology::read(&path).unwrap();
        count += 1;
    }
    assert!(count >= 2, "{count} topologies");
}
