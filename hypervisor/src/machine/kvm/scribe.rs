//! The scribe: a KVM vCPU that never leaves the stub and stores into page tables.
//!
//! A KVM that shadows page tables notices stores made in guest mode and no others. So where an upper-level entry
//! that was present changes, or a table is retired, the scribe stores the words once more after the host did:
//! KVM then drops what it derived from them, on every pcpu.
//!
//! It is the only user of the direct map, which stands in its root and in no other, so that no guest's CPU ever
//! sees one. Any thread may use it, one at a time.

use super::super::{MachineError, MachineMemory};
use super::area::{Area, DIRECT_MAP, PcpuPages, STUB};
use super::run::{Reason, Run};
use super::stub::{self, PORT_DONE};
use kvm_bindings::kvm_regs;
use pv_abi::trap::rflags;
use pv_abi::{Mfn, PAGE_SIZE};
use std::io;
use std::sync::Arc;

/// Pairs that fit into the scribe's page.
const PAIRS: usize = PAGE_SIZE / 16;

/// See the head of this file.
#[derive(Debug)]
pub struct Scribe {
    run: Run,
    memory: Arc<MachineMemory>,
    pages: PcpuPages,
}

impl Scribe {
    pub(super) fn new(run: Run, memory: Arc<MachineMemory>, area: &Area) -> Self {
        Self { run, memory, pages: area.scribe() }
    }

    /// Stores each word at its machine address, in guest mode.
    ///
    /// # Errors
    /// The host's.
    pub fn store(&mut self, words: &[(u64, u64)]) -> Result<(), MachineError> {
        for chunk in words.chunks(PAIRS) {
            self.store_chunk(chunk)?;
        }
        Ok(())
    }

    fn store_chunk(&mut self, words: &[(u64, u64)]) -> Result<(), MachineError> {
        let failed = |error: String| {
            MachineError::new("the scribe cannot store into a page table", io::Error::other(error))
        };
        let (list, list_address) = self.pages.stack();
        for (n, (address, value)) in words.iter().enumerate() {
            let pair = [DIRECT_MAP.wrapping_add(*address), *value];
            let bytes: Vec<u8> = pair.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.memory.write(list, n * 16, &bytes).map_err(|error| failed(error.to_string()))?;
        }
        self.run.set_regs(&kvm_regs {
            rip: STUB + stub::offsets().write_list,
            rsi: list_address,
            rcx: words.len() as u64,
            rflags: rflags::RESERVED1,
            ..Default::default()
        });
        loop {
            match self.run.run()? {
                Reason::Out { port: PORT_DONE } => return Ok(()),
                // A kick that was meant for a pcpu whose thread is using the scribe.
                Reason::Interrupted => {}
                reason => return Err(failed(format!("{reason:?} at {:#x}", self.run.regs().rip))),
            }
        }
    }
}

/// The machine address of a table's entry.
pub fn entry_address(table: Mfn, index: u16) -> u64 {
    table.address() + u64::from(index) * 8
}
