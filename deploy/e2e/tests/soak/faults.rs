//! The faults, one at a time.

use std::time::Duration;

use anyhow::Result;
use e2e::lan_testbed::{LAN, WAN};
use e2e::until;
use lab::link::shape::Shape;
use rustix::process::Signal;

use crate::page::Order;
use crate::{Soak, TIMEOUT};

/// What is broken for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The cable of the broadcaster's LAN is unplugged.
    LanCut,
    /// The server is killed and restarts.
    ServerKilled,
    /// The link of the page and of the viewers of the server is unplugged.
    ViewersCut,
    /// The broadcaster's way to the server loses all packets.
    UplinkCut,
    /// The browser is offline.
    PageOffline,
    /// The broadcaster is killed and starts anew.
    BroadcasterKilled,
    /// The LAN loses three packets of ten.
    LanLoss,
    /// The LAN viewer is kept from running.
    ViewerStopped,
    /// The page is hidden.
    PageHidden,
    /// The server is kept from running.
    ServerStopped,
    /// The broadcaster's LAN loses all packets, and its cable stays.
    LanBlackHole,
    /// The way to the server has 150 ms more delay.
    ServerDelayed,
    /// The broadcaster is kept from running.
    BroadcasterStopped,
    /// The broadcaster is interrupted and starts anew.
    BroadcasterRestarted,
}

impl Fault {
    pub(crate) const ALL: [Self; 14] = [
        Self::LanCut,
        Self::ServerKilled,
        Self::ViewersCut,
        Self::UplinkCut,
        Self::PageOffline,
        Self::BroadcasterKilled,
        Self::LanLoss,
        Self::ViewerStopped,
        Self::PageHidden,
        Self::ServerStopped,
        Self::LanBlackHole,
        Self::ServerDelayed,
        Self::BroadcasterStopped,
        Self::BroadcasterRestarted,
    ];

    /// How long it lasts.
    pub(crate) fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::ServerKilled | Self::BroadcasterKilled | Self::BroadcasterRestarted => 1,
            Self::BroadcasterStopped | Self::ViewerStopped => 2,
            Self::ServerStopped => 3,
            Self::ViewersCut | Self::UplinkCut => 4,
            Self::LanCut | Self::LanLoss | Self::LanBlackHole | Self::PageOffline => 6,
            Self::ServerDelayed | Self::PageHidden => 8,
        })
    }
}

impl Soak {
    pub(crate) fn break_by(&mut self, fault: Fault) -> Result<()> {
        let testbed = &mut self.testbed;
        match fault {
            Fault::LanCut => testbed.direct.cut(),
            Fault::LanLoss => testbed.direct.set_both(Shape { loss: 0.3, ..LAN }),
            Fault::LanBlackHole => testbed.direct.blackhole(),
            Fault::ViewersCut => testbed.second.cut(),
            Fault::UplinkCut => testbed.uplink.blackhole(),
            Fault::ServerDelayed => {
                testbed.wan.set_both(Shape { delay: WAN.delay + Duration::from_millis(150), ..WAN })
            }
            Fault::ServerKilled => testbed.kill_cdn(),
            Fault::ServerStopped => {
                testbed.cdn_process()?.signal(Signal::STOP);
                Ok(())
            }
            Fault::BroadcasterKilled => {
                self.broadcaster.process.kill();
                self.keep_made()
            }
            Fault::BroadcasterRestarted => {
                self.broadcaster.stop()?;
                self.keep_made()
            }
            Fault::BroadcasterStopped => {
                self.broadcaster.process.signal(Signal::STOP);
                Ok(())
            }
            Fault::ViewerStopped => {
                self.watchers[0].viewer.process.signal(Signal::STOP);
                Ok(())
            }
            Fault::PageOffline => self.page.order(Order::Offline(true)),
            Fault::PageHidden => self.page.order(Order::Hide),
        }
    }

    pub(crate) fn mend(&mut self, fault: Fault) -> Result<()> {
        let testbed = &mut self.testbed;
        match fault {
            Fault::LanCut | Fault::LanLoss | Fault::LanBlackHole => {
                testbed.direct.heal()?;
                testbed.direct.set_both(LAN)
            }
            Fault::ViewersCut => testbed.second.heal(),
            Fault::UplinkCut => testbed.uplink.heal(),
            Fault::ServerDelayed => testbed.wan.set_both(WAN),
            Fault::ServerKilled => until(TIMEOUT, "the server's ports to be free", || Ok(testbed.start_cdn().ok())),
            Fault::ServerStopped => {
                testbed.cdn_process()?.signal(Signal::CONT);
                Ok(())
            }
            Fault::BroadcasterKilled | Fault::BroadcasterRestarted => {
                self.broadcaster = self.testbed.broadcast_tiny()?;
                Ok(())
            }
            Fault::BroadcasterStopped => {
                self.broadcaster.process.signal(Signal::CONT);
                Ok(())
            }
            Fault::ViewerStopped => {
                self.watchers[0].viewer.process.signal(Signal::CONT);
                Ok(())
            }
            Fault::PageOffline => self.page.order(Order::Offline(false)),
            Fault::PageHidden => self.page.order(Order::Show),
        }
    }
}
