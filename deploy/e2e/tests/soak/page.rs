//! The player page in a browser on one of the hosts, which is told of faults and reports its state.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use e2e::{PlayerPage, PlayerState, TestEnv};
use lab::Host;

use crate::encoders::lock;

/// What is done to the page.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Offline(bool),
    Hide,
    Show,
    Screenshot(PathBuf),
}

/// What it was at one moment, and whether it played at its target since the moment before.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) at: Instant,
    pub(crate) state: PlayerState,
    pub(crate) at_target: bool,
}

/// A page that a thread in the host's network watches, since its processes end with the thread that started them.
pub(crate) struct WatchedPage {
    orders: Option<Sender<Order>>,
    reports: Arc<Mutex<Vec<Report>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl WatchedPage {
    pub(crate) fn open(host: Arc<Host>, url: &str) -> Self {
        let (orders, received) = channel();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (url, told) = (url.to_owned(), reports.clone());
        let thread = std::thread::spawn(move || host.run(move || watch(&url, received, &told))?);
        Self { orders: Some(orders), reports, thread: Some(thread) }
    }

    /// Fails if the browser has ended, with the reason.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        let orders = self.orders.as_ref().context("the page is closed")?;
        if orders.send(order).is_err() {
            self.close()?;
        }
        Ok(())
    }

    /// When it first played at its target after `since`.
    pub(crate) fn at_target_since(&self, since: Instant) -> Option<Instant> {
        lock(&self.reports).iter().find(|report| report.at > since && report.at_target).map(|report| report.at)
    }

    pub(crate) fn last(&self) -> Option<Report> {
        lock(&self.reports).last().cloned()
    }

    /// Seconds behind the live edge between two moments.
    pub(crate) fn latencies(&self, from: Instant, to: Instant) -> Vec<f64> {
        let reports = lock(&self.reports);
        let within = reports.iter().filter(|report| (from..to).contains(&report.at));
        within.filter_map(|report| report.state.latency).collect()
    }

    /// Closes the browser. Fails with the error that ended the watch.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.orders = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread of the page panicked"))?
    }
}

fn watch(url: &str, orders: Receiver<Order>, reports: &Mutex<Vec<Report>>) -> Result<()> {
    // chromedriver listens on both loopback addresses.
    std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0")?;
    let env = TestEnv::new()?;
    let page = PlayerPage::open_url(&env, url)?;
    let mut before: Option<PlayerState> = None;
    loop {
        match orders.recv_timeout(BETWEEN_READINGS) {
            Ok(Order::Offline(offline)) => page.browser.set_offline(offline)?,
            Ok(Order::Hide) => page.browser.hide()?,
            Ok(Order::Show) => page.browser.show()?,
            Ok(Order::Screenshot(path)) => page.browser.screenshot(&path)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // While the page loads, it has no player.
        let Ok(state) = page.state() else { continue };
        let moves = before.is_some_and(|before| state.time > before.time && state.pictures > before.pictures);
        let at_target = moves && !state.paused && state.is_at_target();
        before = Some(state.clone());
        lock(reports).push(Report { at: Instant::now(), state, at_target });
    }
}

/// Reading the state costs the browser time that it needs for playback.
const BETWEEN_READINGS: Duration = Duration::from_millis(500);
