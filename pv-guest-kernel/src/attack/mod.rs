//! Tries to break out of the domain, one way after another, and shows each attempt refused.
//!
//! What a control domain may do is not tried in one: there, frames of other domains and devices are
//! fair game. An attempt that succeeds is not undone; the kernel may not survive it.

mod descriptors;
mod frames;
mod grants;
mod hypercalls;
mod instructions;
mod report;
mod returns;
mod tables;

use alloc::format;
use alloc::string::String;
use core::fmt;

use report::Report;

/// Makes all attempts. An error means that the hypervisor let at least one succeed.
pub async fn run() -> Result<(), String> {
    let mut report = Report::default();
    frames::run(&mut report);
    tables::run(&mut report);
    hypercalls::run(&mut report);
    descriptors::run(&mut report);
    grants::run(&mut report);
    instructions::run(&mut report);
    returns::run(&mut report).await;
    println!("attack: {} tried, {} refused", report.tried, report.refused);
    match report.tried - report.refused {
        0 => Ok(()),
        successes => Err(format!("{successes} attempts succeeded")),
    }
}

/// An address as a place.
#[derive(Clone, Copy)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Addresses that belong to the hypervisor: the start of each of its slots, and where Xen keeps its
/// M2P, its text and its map of all memory.
pub fn hypervisor_addresses() -> impl Iterator<Item = u64> {
    use pv_abi::page_table::{FIRST_HYPERVISOR_SLOT, LAST_HYPERVISOR_SLOT, Level};
    (FIRST_HYPERVISOR_SLOT..=LAST_HYPERVISOR_SLOT)
        .map(|slot| 0xffff << 48 | (slot as u64) << Level::L4.shift())
        .chain([0xffff_82d0_4000_0000, 0xffff_82d0_4020_0000, 0xffff_87ff_ffff_f000])
}
