//! `/api/v1/streams/NAME/timing`: how a stream's last units came here, and what this server's clock shows, for viewers by RTMP and HLS and for
//! the page. Those of the relay protocol ask on their own connection.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::HeaderMap;
use axum::http::{Response, StatusCode};
use media::Timestamp;
use media::latency::{Stage, TimingReport};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Shared;
use super::api::{ErrorJson, json};

/// What is asked for.
#[derive(Deserialize)]
pub(super) struct TimingQuery {
    /// DTS of the last unit to tell of, in milliseconds; without, the newest.
    at: Option<i64>,
}

#[derive(Serialize)]
struct TimingJson {
    /// When the question was read, and answered: microseconds of Unix time, by this server's clock.
    received_us: i64,
    answered_us: i64,
    /// Of the units: 16 hexadecimal digits.
    epoch: String,
    /// What `captured`, `encoded` and `sent` are by; without, they are by this server's clock too.
    broadcaster: Option<ClockJson>,
    /// In order of DTS; at most eight.
    units: Vec<UnitJson>,
}

#[derive(Serialize)]
struct ClockJson {
    /// What the broadcaster's clock shows when this server's shows zero.
    offset_us: i64,
    /// How wrong that may be.
    uncertainty_us: u64,
}

#[derive(Serialize)]
struct UnitJson {
    track: String,
    dts: i64,
    /// `captured_us`, `ingested_us` …: microseconds of Unix time. A stage that nobody told of is left out.
    #[serde(flatten)]
    stages: Map<String, Value>,
}

pub(super) async fn timing(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    question: Result<Query<TimingQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response<Body> {
    let missing = |error| json(StatusCode::NOT_FOUND, &ErrorJson { error }, &headers);
    let Some(stream) = shared.hub.stream(&name) else {
        return missing("there is no stream of this name here");
    };
    let Ok(Query(TimingQuery { at })) = question else {
        let error = "at is the DTS of a unit, in milliseconds";
        return json(StatusCode::BAD_REQUEST, &ErrorJson { error }, &headers);
    };
    match stream.latency().report(at.map(Timestamp::from_millis)) {
        Some(report) => json(StatusCode::OK, &TimingJson::of(&report), &headers),
        None => missing("nothing of this stream has come yet"),
    }
}

impl TimingJson {
    fn of(report: &TimingReport) -> Self {
        let unit = |unit: &media::latency::UnitTiming| {
            let known = Stage::ALL.into_iter().filter_map(|stage| Some((stage, unit.stamps.at(stage)?)));
            let stages = known.map(|(stage, at)| (format!("{}_us", stage.name()), at.as_micros().into())).collect();
            UnitJson { track: unit.track.to_string(), dts: unit.dts.as_millis(), stages }
        };
        Self {
            received_us: report.received.as_micros(),
            answered_us: report.answered.as_micros(),
            epoch: report.epoch.to_string(),
            broadcaster: report
                .broadcaster
                .map(|clock| ClockJson { offset_us: clock.micros, uncertainty_us: clock.uncertainty }),
            units: report.units.iter().map(unit).collect(),
        }
    }
}
