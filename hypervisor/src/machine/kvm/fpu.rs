//! Extended state: swapped whole and eagerly, since software KVM honours neither CR0.TS nor XCR0.
#![allow(unsafe_code)] // KVM_SET_XSAVE

use super::super::MachineError;
use super::super::context::FpuState;
use super::run::Run;
use kvm_bindings::kvm_xsave;

/// The state that a vCPU starts with.
#[derive(Debug)]
pub struct Fpu {
    initial: Box<kvm_xsave>,
}

impl Fpu {
    /// Takes the state of a vCPU that has never run for the initial one.
    ///
    /// # Errors
    /// The host's.
    pub fn new(run: &Run) -> Result<Self, MachineError> {
        Ok(Self { initial: get(run)? })
    }

    /// Loads `state`.
    ///
    /// # Errors
    /// The host's.
    pub fn load(&self, run: &Run, state: &FpuState) -> Result<(), MachineError> {
        let image =
            state.0.as_ref().and_then(|image| image.downcast_ref::<kvm_xsave>()).unwrap_or(&self.initial);
        // SAFETY: the host's state fits into `kvm_xsave`: `Host::new` refused to start otherwise.
        unsafe { run.vcpu().set_xsave(image) }
            .map_err(|error| MachineError::new("a vCPU's FPU state cannot be loaded", error))
    }

    /// Reads the state that is loaded.
    ///
    /// # Errors
    /// The host's.
    pub fn save(&self, run: &Run) -> Result<FpuState, MachineError> {
        Ok(FpuState(Some(get(run)?)))
    }
}

fn get(run: &Run) -> Result<Box<kvm_xsave>, MachineError> {
    let xsave = run.vcpu().get_xsave();
    xsave.map(Box::new).map_err(|error| MachineError::new("a vCPU's FPU state cannot be read", error))
}
