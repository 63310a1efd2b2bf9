//! The kernel tests each mechanism from inside, one line a check.
//!
//! A check states one exact outcome: what Xen does in the same place, an error number included.

mod answers;
mod batches;
mod calls;
pub mod descriptors;
mod disks;
mod events;
pub mod grants;
pub mod laboratory;
pub mod mappings;
mod memory_calls;
mod programs;
pub mod report;
mod returns;
mod scheduling;
mod second;
mod store;
mod tables;
mod timers;
mod traps;
mod vcpus;

use alloc::format;
use alloc::string::String;

use pv_abi::Errno;
use pv_abi::hypercall::HypercallNumber;

use crate::arch::hypercall;
use crate::xenbus;
use report::Report;

/// Runs all checks. An error means that at least one has failed.
pub async fn run() -> Result<(), String> {
    // A device that connects meanwhile takes frames, which the checks count.
    xenbus::settled().await;
    let mut report = Report::default();
    calls::run(&mut report);
    answers::run(&mut report);
    memory_calls::run(&mut report);
    mappings::run(&mut report);
    tables::run(&mut report);
    batches::run(&mut report);
    descriptors::run(&mut report);
    traps::run(&mut report);
    returns::run(&mut report);
    events::run(&mut report).await;
    timers::run(&mut report).await;
    scheduling::run(&mut report);
    vcpus::run(&mut report);
    grants::run(&mut report);
    store::run(&mut report).await;
    disks::run(&mut report).await;
    programs::run(&mut report).await;
    println!("selftest: {} passed, {} failed", report.passed, report.failed);
    match report.failed {
        0 => Ok(()),
        failed => Err(format!("{failed} checks failed")),
    }
}

/// Any hypercall with any arguments: what the checks and the attacks are made of.
pub fn hypercall(number: HypercallNumber, args: [u64; 5]) -> Result<u64, Errno> {
    // SAFETY: each use either passes memory of its own, or asks for what has to be refused.
    unsafe { hypercall::call(number, args) }
}

/// An address at which nothing is ever mapped.
pub const WILD: u64 = 0xdead_0000;
