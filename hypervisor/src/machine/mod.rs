//! The machine: one KVM VM whose guest-physical memory is machine memory, and its pcpus.
//!
//! What lies above sees five things and no KVM:
//! - [`MachineMemory`], the one door to memory that a guest can write;
//! - [`Translations`], which makes changed page tables take effect everywhere;
//! - [`Context`] and [`Exit`] with [`Pcpu::enter`]: run a vCPU until something happens;
//! - [`Doorbells`], stores that signal a thread of the host without an exit;
//! - [`Layout`], what the hypervisor itself keeps in machine memory and in every address space.
//!
//! All `unsafe` blocks of the hypervisor are below this module, but those of `bench`.

mod context;
#[allow(clippy::arithmetic_side_effects, reason = "on what the processor answers, not on what a guest asks")]
pub mod cpuid;
mod doorbells;
mod layout;
mod memory;
mod root;
mod sanitise;
mod translations;

#[allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "no guest runs on it"
)]
pub mod fake;
#[allow(clippy::arithmetic_side_effects, reason = "on places and sizes of the machine's own")]
pub mod kvm;

pub use context::{
    CR0, CR0_TS, CR4_FSGSBASE, Context, DebugRegisters, Exit, FpuState, Kick, Pcpu, Registers, Unhandled,
    XsaveArea, descriptor_base, is_valid_xcr0,
};
pub use doorbells::Doorbells;
pub use layout::{DOORBELL_ADDRESS, DOORBELL_SLOT, DOORBELLS_PER_PAGE, Layout};
pub use memory::{MachineMemory, NoSuchFrame};
pub use root::Root;
pub use sanitise::Sanitised;
pub use translations::{Change, Translations};

/// The host failed, or the machine is not what it was: nothing that a guest did. Whoever gets one ends the
/// domain (or the machine) and tells the user.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct MachineError {
    /// What was being done, and on what.
    pub what: String,
    /// The error that the host returned.
    pub source: std::io::Error,
}

impl MachineError {
    /// `what` failed with `source`.
    pub fn new(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}
