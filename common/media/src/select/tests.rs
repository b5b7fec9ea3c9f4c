//! Which paths are open and active, over a virtual clock: start, upgrade, fallback, false alarms.

use super::*;

const PEER: PathId = PathId(0);
const RTMP: PathId = PathId(1);
const HLS: PathId = PathId(2);
const RELAY: PathId = PathId(3);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Paths like those that a viewer has: two that can idle, one that cannot, and one that delivers segments.
const PEER_LIKE: PathProfile = profile(0, true, 40);
const RELAY_LIKE: PathProfile = profile(1, true, 60);
const RTMP_LIKE: PathProfile = profile(2, false, 300);
const HLS_LIKE: PathProfile = profile(3, false, 6_000);

const fn profile(rank: u8, can_idle: bool, min_stall_ms: u64) -> PathProfile {
    PathProfile { rank, can_idle, min_stall_timeout: Duration::from_millis(min_stall_ms) }
}

fn selector(mode: Mode, paths: &[(PathId, PathProfile)]) -> Selector {
    Selector::new(SelectorConfig { mode, ..SelectorConfig::default() }, paths.iter().copied())
}

fn both() -> Selector {
    selector(Mode::Warm, &[(HLS, HLS_LIKE), (RTMP, RTMP_LIKE)])
}

fn lan(mode: Mode) -> Selector {
    selector(mode, &[(RELAY, RELAY_LIKE), (PEER, PEER_LIKE), (RTMP, RTMP_LIKE)])
}

/// A unit arrives that follows the one 20 ms before.
fn arrived(selector: &mut Selector, path: PathId, at: u64, dts: i64) {
    let [dts, after] = [dts, dts - 20].map(Timestamp::from_millis);
    selector.on_unit(path, ms(at), TrackKind::Video, dts, Some(after));
}

/// A unit arrives every 20 ms from `from` to `to` on each path, which is `behind` by so many ms. Returns the actions and their times.
fn feed(selector: &mut Selector, paths: &[(PathId, i64)], from: u64, to: u64) -> Vec<(u64, Action)> {
    let mut actions = Vec::new();
    for at in (from..to).step_by(20) {
        for (path, behind) in paths {
            arrived(selector, *path, at, at as i64 - behind);
        }
        actions.extend(selector.poll(ms(at)).into_iter().map(|action| (at, action)));
    }
    actions
}

fn only(actions: Vec<(u64, Action)>) -> Vec<Action> {
    actions.into_iter().map(|(_, action)| action).collect()
}

#[test]
fn starts_on_the_preferred_path_and_opens_the_next_after_the_head_start() {
    let mut selector = both();
    assert_eq!(selector.poll(ms(0)), [Action::Open(RTMP)]);
    assert_eq!(selector.poll(ms(1)), []);
    assert_eq!(selector.deadline(ms(1)), Some(ms(400)));
    assert_eq!(selector.poll(ms(400)), [Action::Open(HLS)]);
    // The path that answers first plays; the preferred one takes over after its probation.
    assert_eq!(feed(&mut selector, &[(HLS, 0)], 420, 1000), []);
    assert_eq!(only(feed(&mut selector, &[(HLS, 0), (RTMP, 0)], 1000, 2100)), [Action::Close(HLS)]);
}

#[test]
fn falls_back_to_the_next_path_and_upgrades_after_probation() {
    let mut selector = both();
    selector.poll(ms(0));
    selector.on_failed(RTMP, ms(10));
    assert_eq!(selector.poll(ms(10)), [Action::Open(HLS)]);
    assert_eq!(feed(&mut selector, &[(HLS, 0)], 20, 1000), []);
    assert_eq!(feed(&mut selector, &[(HLS, 0)], 1020, 1100), [(1020, Action::Open(RTMP))]);
    assert_eq!(only(feed(&mut selector, &[(HLS, 0), (RTMP, 0)], 1100, 4000)), [Action::Close(HLS)]);
}

#[test]
fn a_discovered_peer_becomes_active_and_the_relay_stays_on_standby() {
    let mut selector = selector(Mode::Warm, &[(RELAY, RELAY_LIKE), (RTMP, RTMP_LIKE)]);
    assert_eq!(selector.poll(ms(0)), [Action::Open(RELAY)]);
    assert_eq!(feed(&mut selector, &[(RELAY, 60)], 20, 2000), []);
    selector.add(PEER, PEER_LIKE);
    assert_eq!(only(feed(&mut selector, &[(RELAY, 60)], 2000, 2100)), [Action::Open(PEER)]);
    let actions = feed(&mut selector, &[(RELAY, 60), (PEER, 0)], 2100, 4000);
    assert_eq!(actions, [(3100, Action::Stop(RELAY))]);
    assert_eq!(feed(&mut selector, &[(PEER, 0)], 4000, 9000), [], "nothing more to do");
}

#[test]
fn a_stall_is_detected_within_three_pictures_and_the_idle_path_starts() {
    let mut selector = lan(Mode::Warm);
    assert_eq!(selector.poll(ms(0)), [Action::Open(PEER)]);
    let actions = feed(&mut selector, &[(PEER, 0)], 20, 5000);
    assert_eq!(actions, [(1020, Action::OpenIdle(RELAY))]);
    selector.on_idle(RELAY);
    assert_eq!(feed(&mut selector, &[(PEER, 0)], 5000, 6000), []);
    let last = 5980;
    let at = selector.deadline(ms(last)).unwrap();
    assert!(at <= ms(last + 100), "{at:?}: more than three pictures of 33 ms");
    assert_eq!(selector.poll(at), [Action::Start(RELAY)]);
    assert_eq!(selector.poll(at), [], "once");
    // The peer stays open for a second, in case of a false alarm; then it has failed.
    let actions = feed(&mut selector, &[(RELAY, 60)], 6100, 9000);
    assert_eq!(actions[0].1, Action::Close(PEER));
    assert!((7000..7100).contains(&actions[0].0), "{actions:?}");
    assert_eq!(actions[1].1, Action::Open(PEER), "tried again: {actions:?}");
}

#[test]
fn the_idle_path_starts_at_once_when_the_peer_fails() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_idle(RELAY);
    selector.on_failed(PEER, ms(2001));
    assert_eq!(selector.poll(ms(2001)), [Action::Start(RELAY)]);
    // Without an idle path, the next one is opened.
    let mut selector = lan(Mode::Cold);
    selector.poll(ms(0));
    assert_eq!(feed(&mut selector, &[(PEER, 0)], 20, 2000), []);
    selector.on_failed(PEER, ms(2001));
    assert_eq!(selector.poll(ms(2001)), [Action::Open(RELAY)]);
}

#[test]
fn a_false_alarm_raises_the_stall_timeout() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_idle(RELAY);
    selector.set_buffered(ms(500));
    let first = selector.stall_timeout(PEER).unwrap();
    assert_eq!(selector.poll(ms(1980) + first), [Action::Start(RELAY)]);
    feed(&mut selector, &[(PEER, 0)], 2040, 2120);
    let actions = feed(&mut selector, &[(RELAY, 60), (PEER, 0)], 2120, 6000);
    assert_eq!(actions, [(2120, Action::Stop(RELAY))], "at once: one false alarm is not enough");
    assert!(selector.stall_timeout(PEER).unwrap() > first);
}

/// A unit every 20 ms, but nothing for 120 ms of every second, and then all delayed units at once.
fn halting(selector: &mut Selector, at: u64) {
    match at % 1000 {
        0..120 => {}
        120 => (0..=120).step_by(20).for_each(|n| {
            arrived(selector, PEER, at, (at - 120 + n) as i64);
        }),
        _ => arrived(selector, PEER, at, at as i64),
    }
}

/// The relay has delivered hours of an earlier broadcast, the peer none of it.
#[test]
fn a_new_epoch_with_smaller_timestamps_is_not_older() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    selector.on_failed(PEER, ms(10));
    selector.poll(ms(10));
    for at in (20..1200).step_by(20) {
        arrived(&mut selector, RELAY, at, 10_000_000 + at as i64);
    }
    selector.on_new_epoch();
    let actions = feed(&mut selector, &[(RELAY, 60), (PEER, 0)], 1200, 4000);
    assert!(actions.iter().any(|(_, action)| *action == Action::Stop(RELAY)), "{actions:?}");
}

/// Lost packets delay large units first: audio arrives, and video does not.
#[test]
fn missing_video_is_a_stall_although_audio_continues() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    let sound = |selector: &mut Selector, at: u64| {
        let [dts, after] = [at as i64, at as i64 - 20].map(Timestamp::from_millis);
        selector.on_unit(PEER, ms(at), TrackKind::Audio, dts, Some(after));
    };
    for at in (20..2000).step_by(20) {
        sound(&mut selector, at);
        feed(&mut selector, &[(PEER, 0)], at, at + 20);
    }
    selector.on_idle(RELAY);
    let mut actions = Vec::new();
    for at in (2000..2200).step_by(20) {
        sound(&mut selector, at);
        actions.extend(selector.poll(ms(at)).into_iter().map(|action| (at, action)));
    }
    assert_eq!(actions, [(2020, Action::Start(RELAY))]);
    // No other path has video either: the broadcast has none, and the relay is stopped.
    actions.clear();
    for at in (2200..8000).step_by(20) {
        sound(&mut selector, at);
        let [dts, after] = [at as i64 - 60, at as i64 - 80].map(Timestamp::from_millis);
        if !actions.iter().any(|(_, action)| *action == Action::Stop(RELAY)) {
            selector.on_unit(RELAY, ms(at), TrackKind::Audio, dts, Some(after));
        }
        actions.extend(selector.poll(ms(at)).into_iter().map(|action| (at, action)));
    }
    assert_eq!(only(actions), [Action::Stop(RELAY)]);
    // Video is back, and is missed again when it stops.
    for at in (8000..8200).step_by(20) {
        sound(&mut selector, at);
        assert_eq!(feed(&mut selector, &[(PEER, 0)], at, at + 20), []);
    }
    selector.on_idle(RELAY);
    assert!(selector.is_stalled(PEER, ms(8300)));
}

#[test]
fn after_repeated_false_alarms_the_fallback_keeps_running() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_idle(RELAY);
    selector.set_buffered(ms(60));
    let mut calls = 0;
    let mut relay = false;
    for at in (2000..22_000).step_by(20) {
        halting(&mut selector, at);
        if relay {
            arrived(&mut selector, RELAY, at, at as i64 - 200);
        }
        for action in selector.poll(ms(at)) {
            match action {
                Action::Start(RELAY) => (relay, calls) = (true, calls + 1),
                Action::Stop(RELAY) => {
                    relay = false;
                    selector.on_idle(RELAY);
                }
                other => panic!("{other:?} at {at}"),
            }
        }
        assert!(selector.stall_timeout(PEER).unwrap() <= ms(60), "three intervals of 20 ms, whatever happened before");
    }
    assert!((1..=8).contains(&calls), "{calls} calls of the relay for 20 pauses: it is to stay for a while");
    // A buffer that covers the pauses makes the fallback unnecessary.
    selector.set_buffered(ms(400));
    let late = (22_000..60_000).step_by(20).filter(|at| {
        if at % 1000 > 120 {
            arrived(&mut selector, PEER, *at, *at as i64);
        }
        let actions = selector.poll(ms(*at));
        if actions.contains(&Action::Stop(RELAY)) {
            selector.on_idle(RELAY);
        }
        *at > 30_000 && actions.contains(&Action::Start(RELAY))
    });
    assert_eq!(late.count(), 0);
}

#[test]
fn a_real_stall_does_not_raise_the_stall_timeout() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_idle(RELAY);
    let first = selector.deadline(ms(1990)).unwrap() - ms(1980);
    assert_eq!(selector.poll(ms(1980) + first), [Action::Start(RELAY)]);
    feed(&mut selector, &[(RELAY, 60)], 2120, 2500);
    feed(&mut selector, &[(RELAY, 60), (PEER, 0)], 2500, 20_000);
    assert!(selector.stall_deadline(&selector.paths[0]).unwrap() - ms(19_980) <= first);
}

#[test]
fn hot_standby_keeps_two_paths_active() {
    let mut selector = lan(Mode::Hot);
    selector.poll(ms(0));
    assert_eq!(feed(&mut selector, &[(PEER, 0)], 20, 1100), [(1020, Action::Open(RELAY))]);
    assert_eq!(feed(&mut selector, &[(PEER, 0), (RELAY, 60)], 1100, 9000), []);
    selector.on_failed(PEER, ms(9000));
    let actions = feed(&mut selector, &[(RELAY, 60)], 9000, 9900);
    assert_eq!(actions, [(9000, Action::Open(RTMP))], "the relay is never interrupted");
}

#[test]
fn a_gap_starts_the_idle_path() {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    assert_eq!(selector.on_gap(PEER, ms(2000)), []);
    selector.on_idle(RELAY);
    assert_eq!(selector.on_gap(PEER, ms(2000)), [Action::Start(RELAY)]);
    assert_eq!(selector.on_gap(PEER, ms(2000)), []);
}

#[test]
fn failures_in_a_row_are_spaced_out() {
    let mut selector = selector(Mode::Warm, &[(RTMP, RTMP_LIKE)]);
    let mut now = ms(0);
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert_eq!(selector.poll(now), [Action::Open(RTMP)]);
        selector.on_failed(RTMP, now);
        let next = selector.deadline(now).unwrap();
        waits.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
}

/// The times at which `path` is opened within ten minutes, while it delivers nothing.
fn openings(selector: &mut Selector, path: PathId, connects: bool, failing: &[PathId]) -> Vec<u64> {
    let mut openings = Vec::new();
    for at in (0..600_000).step_by(50) {
        let actions = selector.poll(ms(at));
        failing.iter().for_each(|failing| selector.on_failed(*failing, ms(at)));
        if actions.contains(&Action::Open(path)) {
            openings.push(at);
            if connects {
                selector.on_connected(path);
            }
        }
        assert!(selector.deadline(ms(at)).is_some(), "it waits without a deadline at {at}");
    }
    openings
}

#[test]
fn a_path_that_never_delivers_is_opened_again_after_growing_times() {
    for connects in [false, true] {
        let mut alone = selector(Mode::Warm, &[(HLS, HLS_LIKE)]);
        let times = openings(&mut alone, HLS, connects, &[]);
        assert_eq!(times, [0, 15_000, 45_000, 105_000, 225_000, 345_000, 465_000, 585_000], "connected: {connects}");
        // A unit ends the waiting, and the next wait begins anew.
        arrived(&mut alone, HLS, 600_000, 0);
        assert_eq!(only(feed(&mut alone, &[(HLS, 0)], 600_010, 604_000)), []);
        let silent: Vec<u64> =
            (604_000..640_000).filter(|at| alone.poll(ms(*at)).contains(&Action::Open(HLS))).collect();
        assert!(silent.len() == 2 && silent[1] - silent[0] == 15_000, "{silent:?}");
    }
    // The others fail.
    let times = openings(&mut both(), RTMP, true, &[HLS]);
    assert_eq!(times, [0, 15_000, 45_000, 105_000, 225_000, 345_000, 465_000, 585_000]);
}

#[test]
fn connected_paths_wait_together_for_the_stream_to_start() {
    let mut selector = both();
    selector.poll(ms(0));
    selector.on_connected(RTMP);
    selector.poll(ms(400));
    selector.on_failed(HLS, ms(410));
    let opened: Vec<Action> = (410..15_000).step_by(50).flat_map(|at| selector.poll(ms(at))).collect();
    assert!(!opened.contains(&Action::Close(RTMP)) && !opened.contains(&Action::Open(RTMP)), "{opened:?}");
    let actions = only(feed(&mut selector, &[(RTMP, 0)], 14_990, 30_000));
    assert!(!actions.contains(&Action::Open(HLS)) && !actions.contains(&Action::Close(RTMP)), "{actions:?}");
}

#[test]
fn a_path_that_never_delivers_is_closed_after_the_open_timeout() {
    let mut selector = both();
    selector.poll(ms(0));
    selector.poll(ms(400));
    assert_eq!(selector.poll(ms(5000)), [Action::Close(RTMP)]);
}

/// The peer is active and the relay idle; then the peer has no capacity.
fn without_capacity() -> Selector {
    let mut selector = lan(Mode::Warm);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_idle(RELAY);
    selector.on_capacity(PEER, false);
    assert_eq!(selector.poll(ms(2000)), [Action::Start(RELAY)], "it flows until the other does");
    let actions = feed(&mut selector, &[(PEER, 0), (RELAY, 60)], 2020, 4000);
    assert_eq!(only(actions), [Action::Stop(PEER)]);
    selector
}

#[test]
fn a_path_without_capacity_is_stopped_when_another_delivers_and_started_again_with_capacity() {
    let mut selector = without_capacity();
    assert_eq!(feed(&mut selector, &[(RELAY, 60)], 4000, 30_000), [], "no capacity request");
    selector.on_capacity(PEER, true);
    assert_eq!(selector.poll(ms(30_000)), [Action::Start(PEER)]);
    let actions = feed(&mut selector, &[(PEER, 0), (RELAY, 60)], 30_020, 40_000);
    assert_eq!(only(actions), [Action::Stop(RELAY)]);
}

#[test]
fn a_path_that_drops_units_does_not_supersede_another() {
    let mut selector = without_capacity();
    selector.on_capacity(PEER, true);
    assert_eq!(selector.poll(ms(4000)), [Action::Start(PEER)]);
    // Ten of its units are missing twice a second.
    for at in (4020..9000).step_by(20) {
        arrived(&mut selector, RELAY, at, at as i64 - 60);
        if at % 500 >= 200 {
            arrived(&mut selector, PEER, at, at as i64);
        }
        let actions = selector.poll(ms(at));
        assert!(!actions.contains(&Action::Stop(RELAY)), "{actions:?} at {at}");
    }
}

#[test]
fn an_incomplete_path_is_used_if_it_is_the_only_one() {
    let mut selector = without_capacity();
    selector.on_failed(RELAY, ms(4000));
    let mut actions = selector.poll(ms(4000));
    assert!(actions.contains(&Action::Start(PEER)), "{actions:?}");
    // Other paths are tried in parallel.
    actions = only(feed(&mut selector, &[(PEER, 0)], 4020, 5000));
    assert!(actions.contains(&Action::Open(RTMP)), "{actions:?}");
    assert!(!actions.contains(&Action::Stop(PEER)), "{actions:?}");
}

#[test]
fn the_only_path_is_kept_without_capacity() {
    let mut selector = selector(Mode::Warm, &[(PEER, PEER_LIKE)]);
    selector.poll(ms(0));
    feed(&mut selector, &[(PEER, 0)], 20, 2000);
    selector.on_capacity(PEER, false);
    assert_eq!(feed(&mut selector, &[(PEER, 0)], 2000, 9000), []);
}

#[test]
fn a_silent_last_path_is_opened_again() {
    // The only one, and one whose fallbacks cannot be opened.
    let (mut alone, mut last) = (selector(Mode::Warm, &[(RELAY, RELAY_LIKE)]), lan(Mode::Warm));
    for (selector, path, failing) in [(&mut alone, RELAY, &[][..]), (&mut last, PEER, &[RELAY, RTMP][..])] {
        assert_eq!(selector.poll(ms(0)), [Action::Open(path)]);
        feed(selector, &[(path, 0)], 10, 1000);
        let mut reopened = None;
        let mut at = 1000;
        while reopened.is_none() && at < 60_000 {
            for failing in failing {
                selector.on_failed(*failing, ms(at));
            }
            let actions = selector.poll(ms(at));
            if let Some(close) = actions.iter().position(|action| *action == Action::Close(path)) {
                assert_eq!(actions.get(close + 1), Some(&Action::Open(path)), "{actions:?}");
                reopened = Some(at);
            }
            assert!(reopened.is_some() || selector.deadline(ms(at)).is_some());
            at += 20;
        }
        let after = reopened.expect("it is opened again") - 1000;
        assert!((15_000..16_500).contains(&after), "{after}");
        // It is not opened again and again while it waits for units, and it plays on.
        assert_eq!(selector.poll(ms(at + 14_900)).iter().filter(|action| **action == Action::Open(path)).count(), 0);
        arrived(selector, path, at + 14_900, 31_000);
        assert!(!selector.is_stalled(path, ms(at + 14_901)));
    }
}

#[test]
fn a_path_whose_fallback_is_live_is_not_opened_again_for_its_silence_alone() {
    let mut selector = lan(Mode::Hot);
    selector.poll(ms(0));
    let actions = only(feed(&mut selector, &[(PEER, 0), (RELAY, 0)], 10, 40_000));
    assert!(!actions.contains(&Action::Close(PEER)) && !actions.contains(&Action::Close(RELAY)), "{actions:?}");
}
