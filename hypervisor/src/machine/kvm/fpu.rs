//! Extended state: swapped whole and eagerly, since software KVM honours neither CR0.TS nor XCR0.
#![allow(unsafe_code)] // KVM_SET_XSAVE

use super::super::MachineError;
use super::super::context::{FpuState, XsaveArea};
use super::run::Run;
use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};

/// Loads and saves the extended state of one KVM vCPU.
#[derive(Debug)]
pub struct Fpu {
    /// The state that a vCPU starts with.
    initial: Box<kvm_xsave>,
    /// What is loaded is told from here.
    told: Box<kvm_xsave>,
}

impl Fpu {
    /// Takes the state of a vCPU that has never run for the initial one.
    ///
    /// # Errors
    /// The host's.
    pub fn new(run: &Run) -> Result<Self, MachineError> {
        Ok(Self { initial: Box::new(get(run)?), told: Box::default() })
    }

    /// Loads `state`.
    ///
    /// # Errors
    /// The host's.
    pub fn load(&mut self, run: &Run, state: &FpuState) -> Result<(), MachineError> {
        let image = match state {
            FpuState::Initial => &self.initial,
            FpuState::Xsave(area) => {
                self.told.region = area.0;
                &self.told
            }
        };
        // SAFETY: the host's state fits into `kvm_xsave`: `EmptyVm::new` refused to start otherwise.
        unsafe { run.vcpu().set_xsave(image) }
            .map_err(|error| MachineError::new("a vCPU's FPU state cannot be loaded", error))
    }

    /// Reads the state that is loaded.
    ///
    /// # Errors
    /// The host's.
    pub fn save(&self, run: &Run) -> Result<FpuState, MachineError> {
        Ok(FpuState::Xsave(Box::new(XsaveArea(get(run)?.region))))
    }
}

/// XCR0 of a vCPU; 0 where it has none.
///
/// # Errors
/// The host's.
pub fn xcr0(run: &Run) -> Result<u64, MachineError> {
    let xcrs = run.vcpu().get_xcrs().map_err(|error| MachineError::new("KVM_GET_XCRS", error))?;
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or_default();
    let found = xcrs.xcrs.iter().take(count).find(|each| each.xcr == 0);
    Ok(found.map_or(0, |each| each.value))
}

/// Loads XCR0 of a vCPU that has one.
///
/// # Errors
/// The host's.
pub fn set_xcr0(run: &Run, value: u64) -> Result<(), MachineError> {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value };
    run.vcpu().set_xcrs(&xcrs).map_err(|error| MachineError::new("KVM_SET_XCRS", error))
}

fn get(run: &Run) -> Result<kvm_xsave, MachineError> {
    run.vcpu().get_xsave().map_err(|error| MachineError::new("a vCPU's FPU state cannot be read", error))
}
