//! A running program: a context, an address space, and the loop that lets it run until it ends.
//!
//! Whatever a program does ends in one of three ways: it exits, it is killed, or it faults. A fault is
//! reported in a line and is nobody else's problem.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::{Errno, PAGE_SIZE};

use super::address_space::{AddressSpace, CODE, DATA};
use super::program::Program;
use super::system_call;
use crate::arch::trap::{EVENT, FAILSAFE, Frame, SYSTEM_CALL};
use crate::arch::user_mode::{Context, FloatingPoint};
use crate::panic::Cause;
use crate::sched::future::{Signal, yield_now};
use crate::sched::{executor, idle, vcpus};
use crate::sync::Local;
use crate::time;

/// How long a program runs while others are ready.
const SLICE: u64 = 10 * time::MILLISECOND;

/// Where a program's code starts.
pub const CODE_START: u64 = 0x40_0000;
/// Where the memory that it asks for starts.
pub const HEAP_START: u64 = 0x100_0000;
const STACK_TOP: u64 = 0x80_0000;
const STACK_PAGES: u64 = 4;

/// How a program ended: by its own `exit` with a code, by [`Process::kill`], or by a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(u64),
    Killed,
    Faulted(Fault),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(0) => f.write_str("exited"),
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Killed => f.write_str("killed"),
            Self::Faulted(fault) => write!(f, "killed: {}", fault.description),
        }
    }
}

/// What a program was stopped for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: u64,
    pub error: u64,
    pub description: String,
}

/// What others see of a program.
pub struct Process {
    pub program: &'static Program,
    /// What it wrote, where that is kept rather than printed.
    pub captured: Option<Local<String>>,
    preemptions: AtomicU64,
    kill: Signal<()>,
    outcome: Signal<Outcome>,
}

impl Process {
    /// Ends it at the next opportunity.
    pub fn kill(&self) {
        self.kill.set(());
    }

    /// How often an event interrupted it.
    pub fn preemptions(&self) -> u64 {
        self.preemptions.load(Ordering::Relaxed)
    }

    /// Waits until it has been asked to end.
    pub async fn killed(&self) {
        self.kill.wait().await;
    }

    /// Waits until it has ended.
    pub async fn outcome(&self) -> Outcome {
        self.outcome.wait().await
    }

    /// Writes on the program's behalf.
    pub fn write(&self, text: &str) {
        match &self.captured {
            Some(captured) => captured.with(|all| all.push_str(text)),
            None => print!("{text}"),
        }
    }
}

/// The parts of a program that only its own task uses.
pub struct Running {
    pub process: Arc<Process>,
    pub space: AddressSpace,
    pub context: Context,
    /// The end of the memory that it has asked for.
    pub heap_end: u64,
}

/// Starts a program with a number as its argument. `capture` keeps its output instead of printing it.
pub fn start(program: &'static Program, argument: u64, capture: bool) -> Result<Arc<Process>, Errno> {
    start_changed(program, argument, capture, |_| {})
}

/// Starts a program with registers that `change` has had a hand in.
pub fn start_changed(
    program: &'static Program,
    argument: u64,
    capture: bool,
    change: impl FnOnce(&mut Frame),
) -> Result<Arc<Process>, Errno> {
    let captured = capture.then(|| Local::new(String::new()));
    let process = Arc::new(Process {
        program,
        captured,
        preemptions: AtomicU64::new(0),
        kill: Signal::new(),
        outcome: Signal::new(),
    });
    let mut running = Running {
        process: process.clone(),
        space: load(program)?,
        context: Context {
            frame: Frame { rdi: argument, ..Frame::user(CODE_START, STACK_TOP) },
            floating_point: FloatingPoint::new(),
        },
        heap_end: HEAP_START,
    };
    change(&mut running.context.frame);
    executor::spawn(program.name, async move {
        let outcome = running.run().await;
        let Running { process, space, .. } = running;
        drop(space);
        process.outcome.set(outcome);
    });
    Ok(process)
}

/// Builds the address space: code, and a stack.
fn load(program: &Program) -> Result<AddressSpace, Errno> {
    let mut space = AddressSpace::new()?;
    crate::memory::linear::store(space.map(CODE_START, CODE)?, program.code);
    space.map_pages(STACK_TOP - STACK_PAGES * PAGE_SIZE as u64, STACK_PAGES, DATA)?;
    space.activate()?;
    Ok(space)
}

impl Running {
    async fn run(&mut self) -> Outcome {
        loop {
            // Who kills it interrupts it, on whatever vCPU it runs.
            if self.process.kill.watch().await {
                return Outcome::Killed;
            }
            // An answer that has come is another task's, which has its turn first.
            if idle::ask() {
                yield_now().await;
                continue;
            }
            if let Err(error) = self.space.load() {
                return self.fault(format!("its address space was refused: {error}"));
            }
            time::arm(executor::others_are_ready().then(|| time::now() + SLICE));
            vcpus::run_program(&mut self.context);
            match self.context.frame.vector {
                EVENT => {
                    self.process.preemptions.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                }
                SYSTEM_CALL | system_call::LEGACY_VECTOR => {
                    if let Some(outcome) = system_call::handle(self).await {
                        return outcome;
                    }
                }
                _ => return self.fault(self.describe_fault()),
            }
        }
    }

    fn fault(&self, description: String) -> Outcome {
        let frame = &self.context.frame;
        Outcome::Faulted(Fault { vector: frame.vector, error: frame.error, description })
    }

    fn describe_fault(&self) -> String {
        let frame = &self.context.frame;
        match frame.vector {
            FAILSAFE => format!("cannot be resumed at {:#x}", frame.rip),
            _ => format!("{} at instruction {:#x}", Cause(frame), frame.rip),
        }
    }
}
