//! How far a domain's life has come, and how it ended.

use super::{CrashReport, StatisticsSnapshot};
use crate::lock::{Rank, Ranked};
use crate::sync::Condvar;
use crate::sync::atomic::{AtomicBool, Ordering};
use pv_abi::sched::ShutdownReason;
use std::fmt;
use std::time::Duration;

/// How a domain has ended.
#[derive(Clone, Debug)]
pub enum End {
    /// It said that it is done.
    Shutdown(ShutdownReason),
    /// Its last vCPU was stopped, and nobody is left to start one: it said nothing of being done.
    Stopped,
    /// It did something that leaves it no way to go on.
    Crashed(Box<CrashReport>),
    /// The host failed, or the hypervisor has a defect; the guest is not to blame.
    HostFailed(Box<CrashReport>),
    /// Somebody on the host has ended it.
    Destroyed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown(reason) => write!(f, "shut down ({reason})"),
            Self::Stopped => f.write_str("stopped its last vCPU"),
            Self::Crashed(report) => write!(f, "crashed: {}", report.reason),
            Self::HostFailed(report) => write!(f, "the host failed: {}", report.reason),
            Self::Destroyed => f.write_str("destroyed"),
        }
    }
}

/// Where a domain's life is:
/// ```text
///   Built ──start──▶ Running ──end──▶ Dying ──▶ Dead
///     │             pause│ ▲unpause     ▲
///     │                  ▼ │            │
///     │                 Paused ───end───┤
///     └────────────────end──────────────┘
/// ```
#[derive(Clone, Debug, Default)]
pub enum Stage {
    /// Being built; no vCPU has run.
    #[default]
    Built,
    /// Its vCPUs run when they are ready.
    Running,
    /// Its vCPUs leave their pcpus and get none. What happens to them meanwhile (events, timers) is not lost.
    Paused,
    /// It has ended; its frames are being returned.
    Dying(End),
    /// All its frames are returned.
    Dead(End),
}

/// What is left of a domain.
#[derive(Clone, Debug)]
pub struct DomainEnd {
    /// How the domain has ended.
    pub end: End,
    /// What it reports to whoever started it.
    pub status: u8,
    /// What the domain did in its life, counted.
    pub statistics: StatisticsSnapshot,
}

impl DomainEnd {
    /// The reason of its end in Xen's terms.
    pub fn reason(&self) -> ShutdownReason {
        match &self.end {
            End::Shutdown(reason) => *reason,
            End::Crashed(_) | End::HostFailed(_) => ShutdownReason::CRASH,
            // As on Xen.
            End::Destroyed | End::Stopped => ShutdownReason::POWEROFF,
        }
    }

    /// The report of a crash, or of a failure of the host.
    pub fn report(&self) -> Option<&CrashReport> {
        match &self.end {
            End::Crashed(report) | End::HostFailed(report) => Some(report),
            _ => None,
        }
    }
}

/// A domain's [`Stage`], and who waits for it to change.
#[derive(Debug)]
pub struct Life {
    stage: Ranked<Stage>,
    changed: Condvar,
    /// What can be asked for without the lock: whether it is [`Stage::Paused`], and whether it has ended.
    paused: AtomicBool,
    ended: AtomicBool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            stage: Ranked::new(Rank::Life, Stage::Built),
            changed: Condvar::new(),
            paused: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }
}

impl Life {
    /// Where the life is now. It may have moved on when the caller looks.
    pub fn stage(&self) -> Stage {
        self.stage.lock().clone()
    }

    /// Whether no vCPU of it may run any more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Lets it run. False where it does already, or has ended.
    pub fn start(&self) -> bool {
        let mut stage = self.stage.lock();
        let starts = matches!(*stage, Stage::Built);
        if starts {
            *stage = Stage::Running;
        }
        starts
    }

    /// Whether its vCPUs are to get no pcpu for now.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// From now on its vCPUs get no pcpu. True where it is [`Stage::Paused`]; false where it does not run.
    pub fn pause(&self) -> bool {
        self.set_paused(true)
    }

    /// Its vCPUs may run again. True where it is [`Stage::Running`]; false where it has not started, or has ended.
    pub fn unpause(&self) -> bool {
        self.set_paused(false)
    }

    fn set_paused(&self, paused: bool) -> bool {
        let mut stage = self.stage.lock();
        let lives = matches!(*stage, Stage::Running | Stage::Paused);
        if lives {
            *stage = if paused { Stage::Paused } else { Stage::Running };
            self.paused.store(paused, Ordering::SeqCst);
        }
        lives
    }

    /// Ends it. The first end counts: true for that one.
    pub fn end(&self, end: End) -> bool {
        let mut stage = self.stage.lock();
        let first = matches!(*stage, Stage::Built | Stage::Running | Stage::Paused);
        if first {
            *stage = Stage::Dying(end);
            // In this order: who sees that it is not paused any more sees why.
            self.ended.store(true, Ordering::SeqCst);
            self.paused.store(false, Ordering::SeqCst);
            self.changed.notify_all();
        }
        first
    }

    /// All frames of the ended domain are returned.
    pub fn set_dead(&self) {
        let mut stage = self.stage.lock();
        if let Stage::Dying(end) = &*stage {
            *stage = Stage::Dead(end.clone());
            self.changed.notify_all();
        }
    }

    /// Waits until all frames are returned, or for `timeout`.
    pub fn wait_dead(&self, timeout: Option<Duration>) -> Option<End> {
        let deadline = timeout.and_then(|limit| std::time::Instant::now().checked_add(limit));
        let mut stage = self.stage.lock();
        loop {
            if let Stage::Dead(end) = &*stage {
                return Some(end.clone());
            }
            let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            stage = stage.wait(&self.changed, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let life = Life::default();
        assert!(life.start() && !life.start());
        assert!(life.end(End::Shutdown(ShutdownReason::POWEROFF)));
        assert!(!life.end(End::Destroyed));
        assert!(life.has_ended() && !life.start());
        assert!(life.wait_dead(Some(Duration::from_millis(1))).is_none());
        life.set_dead();
        assert!(matches!(life.wait_dead(None), Some(End::Shutdown(ShutdownReason::POWEROFF))));
    }

    #[test]
    fn only_who_runs_can_be_paused_and_an_end_ends_a_pause() {
        let life = Life::default();
        assert!(!life.pause() && !life.unpause() && matches!(life.stage(), Stage::Built));
        life.start();
        assert!(life.pause() && life.pause() && life.is_paused() && matches!(life.stage(), Stage::Paused));
        assert!(!life.start(), "it has");
        assert!(
            life.unpause() && life.unpause() && !life.is_paused() && matches!(life.stage(), Stage::Running)
        );
        assert!(life.pause() && life.end(End::Destroyed));
        assert!(!life.is_paused() && !life.pause() && !life.unpause() && life.has_ended());
    }
}
