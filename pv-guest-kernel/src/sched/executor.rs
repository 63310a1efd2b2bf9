//! The executor: one queue of tasks that are ready, and the idle loop.
//!
//! Each turn of the loop is a safe point: events are dispatched and timers expired there, with no task
//! in the middle of anything, or with one that waits in [`block_on`].

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use super::idle;
use crate::sync::Local;
use crate::{event, time};

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    number: u32,
    name: String,
    /// None once it has finished.
    work: Local<Option<Work>>,
    queued: AtomicBool,
    nanoseconds: AtomicU64,
}

impl Task {
    fn state(&self) -> &'static str {
        // The work is lent to `turn` while it runs.
        match self.work.try_with(|_| ()) {
            None => "running",
            Some(()) if self.queued.load(Ordering::Relaxed) => "ready",
            Some(()) => "waiting",
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            READY.with(|ready| ready.push_back(self));
        }
    }
}

static READY: Local<VecDeque<Arc<Task>>> = Local::new(VecDeque::new());
static TASKS: Local<(u32, BTreeMap<u32, Arc<Task>>)> = Local::new((0, BTreeMap::new()));

/// Starts a task and gives its number.
pub fn spawn(name: &str, work: impl Future<Output = ()> + 'static) -> u32 {
    let task = TASKS.with(|(last, tasks)| {
        *last += 1;
        let task = Arc::new(Task {
            number: *last,
            name: name.into(),
            work: Local::new(Some(Box::pin(work))),
            queued: AtomicBool::new(false),
            nanoseconds: AtomicU64::new(0),
        });
        tasks.insert(*last, task.clone());
        task
    });
    let number = task.number;
    task.wake();
    number
}

/// A line of the list of tasks.
pub struct Entry {
    pub number: u32,
    pub name: String,
    pub state: &'static str,
    pub nanoseconds: u64,
}

/// The tasks that exist.
pub fn tasks() -> Vec<Entry> {
    let entry = |task: &Arc<Task>| Entry {
        number: task.number,
        name: task.name.clone(),
        state: task.state(),
        nanoseconds: task.nanoseconds.load(Ordering::Relaxed),
    };
    TASKS.with(|(_, tasks)| tasks.values().map(entry).collect())
}

/// Whether a task waits for its turn.
pub fn others_are_ready() -> bool {
    READY.with(|ready| !ready.is_empty())
}

/// Runs tasks for ever.
pub fn run() -> ! {
    loop {
        event::dispatch();
        idle::look();
        time::expire();
        match READY.with(VecDeque::pop_front) {
            Some(task) => turn(&task),
            None => idle::rest(),
        }
    }
}

/// Runs a future to its end without giving way to other tasks: for code that cannot wait, such as file systems that
/// were written for disks which answer at once. What the future waits for must not be another task's to do.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        time::expire();
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        if !event::dispatch() {
            idle::rest();
        }
    }
}

/// Lets a task run until it waits.
fn turn(task: &Arc<Task>) {
    task.queued.store(false, Ordering::Relaxed);
    let before = time::now();
    let waker = Waker::from(task.clone());
    let finished = task.work.with(|work| {
        let Some(future) = work else { return false };
        let finished = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if finished {
            *work = None;
        }
        finished
    });
    task.nanoseconds.fetch_add(time::now() - before, Ordering::Relaxed);
    if finished {
        TASKS.with(|(_, tasks)| tasks.remove(&task.number));
    }
}
