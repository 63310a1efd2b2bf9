//! The smallest program that gets an instruction out of KVM: what making a machine is measured against.

use super::super::{MachineError, MachineMemory};
use super::vm::{HostError, failed, open_error};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use pv_abi::{Mfn, PAGE_SIZE};
use std::io;
use std::time::Instant;

/// `out 0x10, al`, in real mode.
const CODE: [u8; 2] = [0xe6, 0x10];
const PORT: u16 = 0x10;

/// Makes a VM with memory of `frames` pages and one vCPU, and runs its first instruction, in real mode. The moment at
/// which that was done; all is undone afterwards.
///
/// # Errors
/// The host's.
#[allow(unsafe_code)]
pub fn first_instruction(frames: u64) -> Result<Instant, HostError> {
    let kvm = Kvm::new().map_err(open_error)?;
    let vm = kvm.create_vm().map_err(open_error)?;
    let memory = MachineMemory::new(frames)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: frames * PAGE_SIZE as u64,
        userspace_addr: memory.host_address(),
    };
    // SAFETY: the range is the mapping of `memory`, which outlives the last KVM_RUN below, and which no Rust
    // reference points into.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("a memory slot"))?;
    let written = memory.write(Mfn(0), 0, &CODE);
    written.map_err(|error| MachineError::new("the first instruction", io::Error::other(error)))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?;
    regs.rip = 0;
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    match vcpu.run().map_err(failed("KVM_RUN"))? {
        VcpuExit::IoOut(PORT, _) => Ok(Instant::now()),
        other => {
            let error = io::Error::other(format!("{other:?}"));
            Err(MachineError::new("the first instruction", error).into())
        }
    }
}
