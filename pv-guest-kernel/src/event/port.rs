//! A bound port: counts its events, wakes whoever waits for the next, and notifies the other end: by its doorbell where the
//! hypervisor has given it one, which costs no exit.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_abi::EventPort;
use pv_abi::event_channel::{EventChannelOp, PortArgument, PortStatus};
use pv_abi::extension::{Doorbell, ExtensionFeatures};

use crate::arch::{hypercall, processor};
use crate::sync::Local;

#[derive(Default)]
struct Channel {
    fired: u64,
    waker: Option<Waker>,
    doorbell: Option<Doorbell>,
    counts: Counts,
}

/// What has happened at a port since it was adopted.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Events that were dispatched to the port. One may stand for several notifications.
    pub events: u64,
    /// Notifications of the other end by its doorbell.
    pub rings: u64,
    /// Notifications of the other end by `EVTCHNOP_send`.
    pub sends: u64,
}

static CHANNELS: Local<BTreeMap<u32, Channel>> = Local::new(BTreeMap::new());

/// Notes an event. Ports that nobody adopted are ignored.
pub fn fire(port: EventPort) {
    CHANNELS.with(|channels| {
        if let Some(channel) = channels.get_mut(&port.0) {
            channel.fired += 1;
            channel.counts.events += 1;
            channel.waker.take().into_iter().for_each(Waker::wake);
        }
    });
}

/// The counts of every adopted port that has not been dropped, by the ports' numbers.
pub fn counts() -> Vec<(EventPort, Counts)> {
    CHANNELS.with(|channels| channels.iter().map(|(port, it)| (EventPort(*port), it.counts)).collect())
}

/// The right to wait for a port's events. One task at a time waits.
pub struct Port(EventPort);

impl Port {
    /// Takes over a bound port and unmasks it.
    pub fn adopt(port: EventPort) -> Self {
        CHANNELS.with(|channels| channels.insert(port.0, Channel::default()));
        // The hypervisor raises the event that came while it was masked. A port that it does not know
        // stays silent.
        let _ = hypercall::event_channel_op(EventChannelOp::UNMASK, &mut PortArgument { port });
        Self(port)
    }

    /// The port's number in this domain: hypercalls take it, and a front-end publishes it.
    pub fn number(&self) -> EventPort {
        self.0
    }

    /// Notifies by a doorbell from now on, where the hypervisor has them and gives one for this port: it is connected to
    /// a back-end in domain 0.
    pub fn use_doorbell(&self) {
        if !processor::extensions().contains(ExtensionFeatures::DOORBELL) {
            return;
        }
        // A refusal means that the hypercall is the way.
        let doorbell = hypercall::doorbell(self.0).ok();
        CHANNELS.with(|channels| {
            if let Some(channel) = channels.get_mut(&self.0.0) {
                channel.doorbell = doorbell;
            }
        });
    }

    /// Tells the other end that there is something to do.
    pub fn notify(&self) {
        let doorbell = CHANNELS.with(|channels| {
            let channel = channels.get_mut(&self.0.0)?;
            let doorbell = channel.doorbell;
            *if doorbell.is_some() { &mut channel.counts.rings } else { &mut channel.counts.sends } += 1;
            doorbell
        });
        match doorbell {
            // SAFETY: it was given for this port. It may have been taken down meanwhile, and is heard by nobody then.
            Some(doorbell) => unsafe { processor::ring(&doorbell) },
            // A refusal means that nobody is there to be told.
            None => {
                let _ = hypercall::event_channel_op(EventChannelOp::SEND, &mut PortArgument { port: self.0 });
            }
        }
    }

    /// Whether somebody is at the other end of a port between domains.
    pub fn is_connected(&self) -> bool {
        super::status(self.0).is_ok_and(|status| status.status == PortStatus::INTERDOMAIN)
    }

    /// How many events have come.
    pub fn fired(&self) -> u64 {
        CHANNELS.with(|channels| channels.get(&self.0.0).map_or(0, |channel| channel.fired))
    }

    /// Waits until an event has come since the last `wait`.
    pub async fn wait(&self) {
        poll_fn(|context| {
            CHANNELS.with(|channels| match channels.get_mut(&self.0.0) {
                Some(channel) if channel.fired == 0 => {
                    channel.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(channel) => {
                    channel.fired = 0;
                    Poll::Ready(())
                }
                None => Poll::Pending,
            })
        })
        .await
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        CHANNELS.with(|channels| channels.remove(&self.0.0));
        // Closing fails only for a port that is closed already.
        let _ = hypercall::event_channel_op(EventChannelOp::CLOSE, &mut PortArgument { port: self.0 });
    }
}
