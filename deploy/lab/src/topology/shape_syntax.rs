//! The text syntax of a [`Shape`] in topology files and commands: `rate = "4M"`, `delay=8ms`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::link::shape::{BurstLoss, Jitter, Shape};

/// `onto` with the settings of `table` applied. The error names the key and the expected value.
pub(crate) fn from_table(mut onto: Shape, table: &BTreeMap<String, toml::Value>) -> Result<Shape> {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) if key == "burst" => onto.burst = Some(burst(inner)?),
            toml::Value::Table(_) => bail!("{key}: a table is only allowed for `burst`"),
            toml::Value::String(text) => apply(&mut onto, key, text)?,
            other => apply(&mut onto, key, &other.to_string())?,
        }
    }
    onto.validate()?;
    Ok(onto)
}

/// Sets one field. The error names the key and the expected value; ranges are not checked.
pub fn apply(shape: &mut Shape, key: &str, value: &str) -> Result<()> {
    let named = |what: &str| format!("{key} {value:?}: {what}");
    match key {
        "rate" if value == "none" => shape.rate = None,
        "rate" => {
            shape.rate = Some(rate(value).with_context(|| named("write bits per second, as 4M or 500k, or none"))?)
        }
        "delay" => shape.delay = duration(value).with_context(|| named("write a time, as 30ms"))?,
        "jitter" => {
            let (kind, width) = value.split_once(' ').unwrap_or(("uniform", value));
            let width =
                duration(width).with_context(|| named("write the greatest deviation, as 5ms, or \"normal 5ms\""))?;
            shape.jitter = match kind {
                _ if width.is_zero() => Jitter::None,
                "uniform" => Jitter::Uniform(width),
                "normal" => Jitter::Normal(width),
                _ => bail!(named("jitter is uniform or normal")),
            };
        }
        "reorder" => shape.reorder = value.parse().with_context(|| named("write true or false"))?,
        "loss" => shape.loss = chance(value).with_context(|| named("write a share, as 1% or 0.01"))?,
        "duplicate" => shape.duplicate = chance(value).with_context(|| named("write a share, as 1% or 0.01"))?,
        "queue" => {
            let size: bytesize::ByteSize =
                value.parse().map_err(anyhow::Error::msg).with_context(|| named("write bytes, as 128KiB"))?;
            shape.queue = usize::try_from(size.as_u64()).context("queue")?;
        }
        // The form for command lines, which have no tables.
        "burst" if value == "none" => shape.burst = None,
        "burst" => {
            let parts: Vec<&str> = value.split('/').collect();
            let [to_bad, to_good, loss_good, loss_bad] = parts[..] else {
                bail!(named("write TO-BAD/TO-GOOD/LOSS-GOOD/LOSS-BAD, as 1%/25%/0%/80%, or none"));
            };
            let part = |text| chance(text).with_context(|| named("each part is a share, as 1%"));
            shape.burst = Some(BurstLoss {
                to_bad: part(to_bad)?,
                to_good: part(to_good)?,
                loss_good: part(loss_good)?,
                loss_bad: part(loss_bad)?,
            });
        }
        _ => bail!("there is no key {key:?}{}; the keys are {}", suggestion(key), KEYS.join(", ")),
    }
    Ok(())
}

/// A shape in the syntax of [`apply`], without settings that have no effect.
pub fn describe(shape: &Shape) -> String {
    let mut words = Vec::new();
    let percent = |share: f64| format!("{}%", (share * 1e6).round() / 1e4);
    if let Some(rate) = shape.rate {
        words.push(match rate {
            _ if rate % 1_000_000 == 0 => format!("rate={}M", rate / 1_000_000),
            _ if rate % 1_000 == 0 => format!("rate={}k", rate / 1_000),
            _ => format!("rate={rate}"),
        });
    }
    words.push(format!("delay={}", humantime::format_duration(shape.delay)));
    match shape.jitter {
        Jitter::None => {}
        Jitter::Uniform(width) => words.push(format!("jitter={}", humantime::format_duration(width))),
        Jitter::Normal(width) => words.push(format!("jitter=\"normal {}\"", humantime::format_duration(width))),
    }
    if shape.reorder {
        words.push("reorder=true".to_owned());
    }
    if shape.loss > 0.0 {
        words.push(format!("loss={}", percent(shape.loss)));
    }
    if let Some(burst) = shape.burst {
        let parts = [burst.to_bad, burst.to_good, burst.loss_good, burst.loss_bad].map(percent);
        words.push(format!("burst={}", parts.join("/")));
    }
    if shape.duplicate > 0.0 {
        words.push(format!("duplicate={}", percent(shape.duplicate)));
    }
    words.push(format!("queue={}KiB", shape.queue as f64 / 1024.0));
    words.join(" ")
}

fn burst(table: &toml::Table) -> Result<BurstLoss> {
    let mut burst = BurstLoss { to_bad: 0.0, to_good: 1.0, loss_good: 0.0, loss_bad: 1.0 };
    for (key, value) in table {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let share = chance(&text).with_context(|| format!("burst.{key} {text:?}: write a share, as 1% or 0.01"))?;
        match key.as_str() {
            "to-bad" => burst.to_bad = share,
            "to-good" => burst.to_good = share,
            "loss-good" => burst.loss_good = share,
            "loss-bad" => burst.loss_bad = share,
            _ => bail!("burst has no key {key:?}; its keys are to-bad, to-good, loss-good, loss-bad"),
        }
    }
    Ok(burst)
}

fn rate(text: &str) -> Result<u64> {
    let (digits, unit) = match text.strip_suffix(['k', 'M', 'G']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, ""),
    };
    let factor = match unit {
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => 1.0,
    };
    let number: f64 = digits.trim().parse()?;
    ensure!(number.is_finite() && number >= 0.0, "not a rate");
    Ok((number * factor).round() as u64)
}

fn duration(text: &str) -> Result<Duration> {
    if text == "0" { Ok(Duration::ZERO) } else { Ok(humantime::parse_duration(text)?) }
}

fn chance(text: &str) -> Result<f64> {
    Ok(match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>()? / 100.0,
        None => text.parse()?,
    })
}

/// A suggestion for a misspelt key.
fn suggestion(key: &str) -> String {
    let near = KEYS.iter().find(|known| {
        let shared = known.chars().zip(key.chars()).take_while(|(a, b)| a == b).count();
        shared >= 2 || known.len() == key.len() && known.chars().filter(|c| key.contains(*c)).count() + 1 >= known.len()
    });
    near.map_or(String::new(), |near| format!(" (do you mean {near:?}?)"))
}

/// The settings of one direction of a link.
pub const KEYS: [&str; 8] = ["rate", "delay", "jitter", "reorder", "loss", "burst", "duplicate", "queue"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_and_formatting_a_shape_round_trip() {
        let words = "rate=4M delay=8ms jitter=2ms reorder=true loss=1% burst=1%/25%/0%/80% duplicate=0.5% queue=64KiB";
        let mut shape = Shape::PERFECT;
        for word in words.split(' ') {
            let (key, value) = word.split_once('=').unwrap();
            apply(&mut shape, key, value).unwrap();
        }
        assert_eq!((shape.rate, shape.delay, shape.loss), (Some(4_000_000), Duration::from_millis(8), 0.01));
        assert_eq!(shape.jitter, Jitter::Uniform(Duration::from_millis(2)));
        assert_eq!((shape.reorder, shape.duplicate, shape.queue), (true, 0.005, 64 << 10));
        assert!((shape.burst.unwrap().mean_loss() - 0.8 / 26.0).abs() < 1e-9);
        assert_eq!(describe(&shape), words);
        apply(&mut shape, "rate", "none").unwrap();
        apply(&mut shape, "burst", "none").unwrap();
        assert_eq!((shape.rate, shape.burst), (None, None));
        apply(&mut shape, "jitter", "normal 3ms").unwrap();
        assert_eq!(shape.jitter, Jitter::Normal(Duration::from_millis(3)));
    }

    #[test]
    fn errors_name_the_key_and_the_expected_value() {
        for (key, value, expected) in [
            ("dealy", "8ms", "do you mean \"delay\"?"),
            ("los", "1%", "do you mean \"loss\"?"),
            ("xyzzy", "1", "the keys are rate, delay"),
            ("rate", "fast", "as 4M or 500k"),
            ("delay", "8", "as 30ms"),
            ("loss", "much", "as 1% or 0.01"),
            ("queue", "big", "as 128KiB"),
            ("burst", "1%/2%", "TO-BAD/TO-GOOD"),
            ("reorder", "yes", "true or false"),
            ("jitter", "odd 3ms", "uniform or normal"),
        ] {
            let error = format!("{:#}", apply(&mut Shape::PERFECT.clone(), key, value).unwrap_err());
            assert!(error.contains(expected), "{key}={value}: {error}");
            assert!(error.contains(key), "{key}={value}: {error}");
        }
    }
}
