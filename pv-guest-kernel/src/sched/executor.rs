//! The executor: one queue of tasks that are ready, and the idle loop of each vCPU.
//!
//! Each turn of the loop is a safe point: events are dispatched and timers expired there, with no task
//! in the middle of anything, or with one that waits in [`block_on`], or that runs a program on another vCPU.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use super::{idle, vcpus};
use crate::arch::vcpu;
use crate::sync::Local;
use crate::{event, time};

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    number: u32,
    name: String,
    /// It runs on the first vCPU only.
    on_first: bool,
    /// The vCPU that it last ran on.
    vcpu: AtomicU32,
    /// None once it has finished.
    work: Local<Option<Work>>,
    queued: AtomicBool,
    nanoseconds: AtomicU64,
}

impl Task {
    /// Whether it has its turn, on any vCPU: then its work is lent.
    fn is_running(&self) -> bool {
        self.work.try_with(|_| ()).is_none()
    }

    fn state(&self) -> &'static str {
        match self.is_running() {
            true => "running",
            false if self.queued.load(Ordering::Relaxed) => "ready",
            false => "waiting",
        }
    }

    /// Whether it can have its turn, on a vCPU that is the first or is not.
    fn fits(&self, is_first: bool) -> bool {
        (is_first || !self.on_first) && !self.is_running()
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.is_running() {
            vcpus::interrupt(self.vcpu.load(Ordering::Relaxed));
        }
        if !self.queued.swap(true, Ordering::Relaxed) {
            READY.with(|ready| ready.push_back(self));
        }
    }
}

static READY: Local<VecDeque<Arc<Task>>> = Local::new(VecDeque::new());
static TASKS: Local<(u32, BTreeMap<u32, Arc<Task>>)> = Local::new((0, BTreeMap::new()));

/// Starts a task and gives its number.
pub fn spawn(name: &str, work: impl Future<Output = ()> + 'static) -> u32 {
    spawn_on(name, false, work)
}

/// The same for one that runs on the first vCPU only: it deals with what is that vCPU's own.
pub fn spawn_on_first(name: &str, work: impl Future<Output = ()> + 'static) -> u32 {
    spawn_on(name, true, work)
}

fn spawn_on(name: &str, on_first: bool, work: impl Future<Output = ()> + 'static) -> u32 {
    let task = TASKS.with(|(last, tasks)| {
        *last += 1;
        let task = Arc::new(Task {
            number: *last,
            name: name.into(),
            on_first,
            vcpu: AtomicU32::new(vcpus::FIRST),
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
    pub vcpu: u32,
    pub nanoseconds: u64,
}

/// What is told of each task that has not finished.
pub fn tasks() -> Vec<Entry> {
    let entry = |task: &Arc<Task>| Entry {
        number: task.number,
        name: task.name.clone(),
        state: task.state(),
        vcpu: task.vcpu.load(Ordering::Relaxed),
        nanoseconds: task.nanoseconds.load(Ordering::Relaxed),
    };
    TASKS.with(|(_, tasks)| tasks.values().map(entry).collect())
}

/// Whether a task waits for its turn that this vCPU can take.
pub fn others_are_ready() -> bool {
    let (for_any, for_first) = waiting();
    for_any || for_first && vcpu::number() == vcpus::FIRST
}

/// Whether a task waits for its turn on any vCPU, and whether on the first.
pub fn waiting() -> (bool, bool) {
    READY.with(|ready| {
        let for_any = ready.iter().any(|task| task.fits(false));
        (for_any, ready.iter().any(|task| task.on_first && task.fits(true)))
    })
}

/// Takes the next task that this vCPU can run.
fn next() -> Option<Arc<Task>> {
    let is_first = vcpu::number() == vcpus::FIRST;
    READY.with(|ready| {
        let index = ready.iter().position(|task| task.fits(is_first))?;
        ready.remove(index)
    })
}

/// Runs tasks for ever, on the vCPU that calls it.
pub fn run() -> ! {
    loop {
        event::dispatch();
        idle::look();
        time::expire();
        match next() {
            Some(task) => turn(&task),
            None => idle::rest(),
        }
        vcpus::give_way();
    }
}

/// Runs a future to its end without giving way to other tasks on this vCPU: for code that cannot wait, such as file systems
/// that were written for disks which answer at once. What the future waits for must not be another task's to do.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = vcpus::waker();
    let mut context = Context::from_waker(&waker);
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
    task.vcpu.store(vcpu::number(), Ordering::Relaxed);
    vcpus::count_own(|counts| counts.turns += 1);
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
