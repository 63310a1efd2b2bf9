//! What a domain did, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Hypercall numbers that have a counter of their own; those above share the last.
pub const HYPERCALLS: usize = 129;

/// Kinds of exits, as statistics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// The instruction `syscall`.
    Syscall,
    /// A store to the doorbell.
    Doorbell,
    /// A ring of a doorbell that does not hang there.
    Unanswered,
    /// An exception that the processor has raised.
    Exception,
    /// A kick: somebody wanted the pcpu back.
    Kicked,
    /// What the machine cannot carry out.
    Unhandled,
}

impl ExitKind {
    /// All kinds, in the order in which they are told.
    pub const ALL: [Self; 6] =
        [Self::Syscall, Self::Doorbell, Self::Unanswered, Self::Exception, Self::Kicked, Self::Unhandled];
}

/// Counters; each is exact, and they are read one after the other.
#[derive(Debug)]
pub struct Statistics {
    exits: [AtomicU64; ExitKind::ALL.len()],
    hypercalls: [AtomicU64; HYPERCALLS],
    upcalls: AtomicU64,
    guest_time: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            exits: Default::default(),
            hypercalls: [const { AtomicU64::new(0) }; HYPERCALLS],
            upcalls: AtomicU64::new(0),
            guest_time: AtomicU64::new(0),
        }
    }
}

/// [`Statistics`] at one moment, with what the paging code counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatisticsSnapshot {
    /// Exits by kind, in the order of [`ExitKind::ALL`].
    pub exits: Vec<(&'static str, u64)>,
    /// Hypercalls made, by number; those never made are left out.
    pub hypercalls: Vec<(u64, u64)>,
    /// Events delivered as upcalls.
    pub upcalls: u64,
    /// Nanoseconds between entering the guest and the end of its exits.
    pub time: u64,
    /// Page-table entries that passed validation.
    pub validated: u64,
    /// Page-table operations refused.
    pub refused: u64,
}

impl StatisticsSnapshot {
    /// How many exits of a kind there were.
    pub fn exits_of(&self, kind: ExitKind) -> u64 {
        self.exits.get(kind as usize).map_or(0, |(_, count)| *count)
    }
}

impl Statistics {
    /// Counts an exit of that kind.
    pub fn exit(&self, kind: ExitKind) {
        if let Some(counter) = self.exits.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a hypercall of that number.
    pub fn hypercall(&self, number: u64) {
        let index = usize::try_from(number).unwrap_or(usize::MAX).min(HYPERCALLS - 1);
        if let Some(counter) = self.hypercalls.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an upcall that was delivered.
    pub fn upcall(&self) {
        self.upcalls.fetch_add(1, Ordering::Relaxed);
    }

    /// Accounts time that a vCPU used.
    pub fn ran(&self, nanoseconds: u64) {
        self.guest_time.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How often a hypercall was made.
    pub fn hypercalls_of(&self, number: u64) -> u64 {
        let index = usize::try_from(number).unwrap_or(usize::MAX).min(HYPERCALLS - 1);
        self.hypercalls.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// All counters, each as it is at its moment.
    pub fn snapshot(&self) -> StatisticsSnapshot {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let names = ["syscall", "doorbell", "unanswered", "exception", "kicked", "unhandled"];
        StatisticsSnapshot {
            exits: names.into_iter().zip(self.exits.iter().map(value)).collect(),
            hypercalls: (0u64..).zip(self.hypercalls.iter().map(value)).filter(|(_, n)| *n != 0).collect(),
            upcalls: value(&self.upcalls),
            time: value(&self.guest_time),
            ..StatisticsSnapshot::default()
        }
    }
}
