//! The KVM VM and its vCPUs, before anything runs on them.

use super::super::cpuid::{Leaf, MachineCpuid, Processor, Registers};
use super::super::{CR0, MachineError, MachineMemory};
use super::area::{AREA, Area, DoorbellAddresses, LSTAR, PcpuPages};
use super::cpuid::{self, CpuidAnswer};
use super::descriptors;
use super::device;
use super::entry;
use super::probe::ProbeReport;
use super::run::Run;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_dtable, kvm_msr_entry, kvm_sregs, kvm_userspace_memory_region,
    kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use pv_abi::{Mfn, PAGE_SIZE};
use std::io;
use std::sync::Arc;

/// Bytes of one memory slot.
const SLOT_SIZE: u64 = 1 << 30;
/// Pages that KVM may use to shadow page tables, where it does; its default is made for small tables.
const SHADOW_PAGES: u64 = 1 << 16;

// PAE OSFXSR OSXMMEXCPT. SMEP and SMAP stay off on purpose: the stub touches no page of a guest, KVM allows them
// only to a machine whose guests see them, and PV guests must not. PGE stays off so that loading a root flushes
// everything.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Its first bit makes `cpuid` fault outside CPL0. KVM has it for all guests, whatever the processor has.
const MSR_MISC_FEATURES_ENABLES: u32 = 0x140;

/// Why there is no machine. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The device node `/dev/kvm` does not exist, or no driver is behind it.
    #[error(
        "/dev/kvm does not exist: load the module (modprobe kvm-intel or kvm-amd), and enable virtualisation in the firmware or for this virtual machine; one without VMX and SVM can have kvm_pvm (modprobe kvm-pvm), where its kernel does"
    )]
    Missing,
    /// This user may not open `/dev/kvm`; the text says what to do.
    #[error("/dev/kvm may not be opened by this user: {0}")]
    NotPermitted(String),
    /// Another hypervisor uses the CPU's virtualisation.
    #[error(
        "/dev/kvm is busy: another hypervisor (VirtualBox, VMware, Xen) holds the CPU's virtualisation; stop it and try again"
    )]
    Busy,
    /// Something that this machine needs.
    #[error("this host's KVM lacks {0}; a Linux kernel of 5.17 or later has it")]
    Lacks(&'static str),
    /// More memory than this host's processors can address below the doorbells.
    #[error(
        "a machine of {} MiB is more than this host's processors can address: it can have at most {} MiB",
        .frames.div_ceil(256), .most / 256
    )]
    TooLarge {
        /// Pages that it was to have.
        frames: u64,
        /// Pages that it can have.
        most: u64,
    },
    /// A start-up probe failed: no guest can be isolated on this host.
    #[error(
        "start-up probe `{probe}` failed: {why}; guests cannot be isolated on this host, so none is started"
    )]
    Probe {
        /// The name of the probe that failed.
        probe: &'static str,
        /// What the probe saw in place of what it should see.
        why: String,
    },
    /// The host failed in another way.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// An open `/dev/kvm` that has what the machine needs, and a VM on it that has no memory yet.
#[derive(Debug)]
pub struct EmptyVm {
    kvm: Kvm,
    vm: Arc<VmFd>,
    supported: CpuId,
    leaves: fn(&MachineCpuid, u32) -> Vec<Leaf>,
}

/// A VM with the machine's memory.
#[derive(Debug)]
pub struct Vm {
    empty: EmptyVm,
    memory: Arc<MachineMemory>,
}

pub(super) fn open_error(error: kvm_ioctls::Error) -> HostError {
    match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => HostError::Missing,
        libc::EACCES | libc::EPERM => HostError::NotPermitted(device::remedy()),
        libc::EBUSY => HostError::Busy,
        _ => MachineError::new("/dev/kvm cannot be used", error).into(),
    }
}

pub(super) fn failed(what: &str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    let what = what.to_owned();
    move |error| MachineError::new(what, error)
}

impl EmptyVm {
    /// Opens `/dev/kvm` and makes a VM without memory.
    ///
    /// # Errors
    /// [`HostError`], with a remedy.
    pub fn new(leaves: fn(&MachineCpuid, u32) -> Vec<Leaf>) -> Result<Self, HostError> {
        let kvm = Kvm::new().map_err(open_error)?;
        for (cap, name) in [
            (Cap::ImmediateExit, "immediate_exit"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::UserMemory, "user memory slots"),
            (Cap::Xcrs, "KVM_CAP_XCRS"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(HostError::Lacks(name));
            }
        }
        if kvm.check_extension_int(Cap::SyncRegs) & 7 != 7 {
            return Err(HostError::Lacks("all of KVM_CAP_SYNC_REGS"));
        }
        let vm = kvm.create_vm().map_err(open_error)?;
        if vm.check_extension_int(Cap::Xsave2) > size_of::<kvm_bindings::kvm_xsave>() as i32 {
            return Err(HostError::Lacks("an FPU state of at most 4 KiB"));
        }
        let supported: CpuId =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { kvm, vm: Arc::new(vm), supported, leaves })
    }

    /// What KVM is told, and answers where it is KVM that answers.
    fn told(&self, tsc_khz: u32) -> MachineCpuid {
        let facts = Processor { tsc_khz, fsgsbase: true, honours_xcr0: true, xcr0: self.xcr0() };
        self.policy(cpuid::kvm(&self.supported), facts)
    }

    /// The extended state that KVM switches.
    fn xcr0(&self) -> u64 {
        let [low, .., high] = cpuid::kvm(&self.supported)(0xd, 0);
        u64::from(high) << 32 | u64::from(low)
    }

    fn policy(&self, ask: impl Fn(u32, u32) -> Registers, facts: Processor) -> MachineCpuid {
        let policy = MachineCpuid::new(ask, facts);
        let leaves = (self.leaves)(&policy, facts.tsc_khz);
        policy.with(leaves)
    }

    /// Where the doorbells of a machine on this host are.
    pub fn doorbells(&self) -> DoorbellAddresses {
        const ANY_RATE: u32 = 1; // the size of an address does not depend on it
        DoorbellAddresses::on_host(self.told(ANY_RATE).physical_address_bits())
    }

    /// Gives the VM its memory, in slots of a fixed size. It keeps the memory, and so does each of its vCPUs.
    ///
    /// # Errors
    /// The host's.
    #[allow(unsafe_code)]
    pub fn map(self, memory: Arc<MachineMemory>) -> Result<Vm, MachineError> {
        let end = memory.frames() * PAGE_SIZE as u64;
        for (slot, start) in (0..end).step_by(SLOT_SIZE as usize).enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start,
                memory_size: SLOT_SIZE.min(end - start),
                userspace_addr: memory.host_address() + start,
            };
            // SAFETY: the range lies in the mapping of `memory`, which no Rust reference points into. Whatever can run
            // the VM keeps it: `Vm`, and each `Run`.
            unsafe { self.vm.set_user_memory_region(region) }.map_err(failed("a memory slot"))?;
        }
        self.set_shadow_pages();
        Ok(Vm { empty: self, memory })
    }

    /// Tells a KVM that shadows page tables how many it may keep. Others refuse or ignore it.
    #[allow(unsafe_code)]
    fn set_shadow_pages(&self) {
        use std::os::fd::AsRawFd;
        vmm_sys_util::ioctl_io_nr!(KVM_SET_NR_MMU_PAGES, kvm_bindings::KVMIO, 0x44);
        // SAFETY: the descriptor is a VM's, and this ioctl takes a number.
        unsafe { libc::ioctl(self.vm.as_raw_fd(), KVM_SET_NR_MMU_PAGES(), SHADOW_PAGES) };
    }
}

impl Vm {
    /// What guests get on a machine whose probes found this. Where the processor answers them by itself it also executes
    /// what they execute by itself, and KVM's opinion on what there is counts for no more than the state that it keeps.
    pub fn cpuid(&self, report: &ProbeReport) -> MachineCpuid {
        let (tsc_khz, fsgsbase) = (report.tsc_khz, report.fsgsbase);
        let honours_xcr0 = report.cpuid != CpuidAnswer::Processor;
        let facts = Processor { tsc_khz, fsgsbase, honours_xcr0, xcr0: self.empty.xcr0() };
        match report.cpuid {
            CpuidAnswer::Hypervisor | CpuidAnswer::Machine => {
                self.empty.policy(cpuid::kvm(&self.empty.supported), facts)
            }
            CpuidAnswer::Processor => self.empty.policy(cpuid::processor, facts),
        }
    }

    /// The VM's descriptor, for what is done to a VM that runs.
    pub fn descriptor(&self) -> Arc<VmFd> {
        Arc::clone(&self.empty.vm)
    }

    /// Makes KVM vCPU `number`, in 64-bit mode at CPL0 on `root`, with the descriptor tables of `pages`.
    ///
    /// # Errors
    /// The host's.
    pub fn create_vcpu(
        &self,
        number: u64,
        root: Mfn,
        pages: &PcpuPages,
    ) -> Result<(Run, kvm_sregs), MachineError> {
        let vcpu = self.empty.vm.create_vcpu(number).map_err(failed("KVM_CREATE_VCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?;
        let told = self.empty.told(tsc_khz);
        let cpuid = cpuid::to_kvm(&told)
            .ok_or_else(|| MachineError::new("the CPUID policy", io::Error::other("too many leaves")))?;
        vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;

        let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        sregs.cr0 = CR0;
        sregs.cr3 = root.address();
        sregs.cr4 = CR4 | if told.has_xsave() { CR4_OSXSAVE } else { 0 };
        sregs.efer = entry::EFER;
        sregs.cs = descriptors::stub_code();
        sregs.ss = descriptors::stub_stack();
        for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ldt] {
            *data = descriptors::null_segment();
        }
        sregs.tr = descriptors::task_register(pages);
        let (base, limit) = descriptors::gdtr(pages);
        sregs.gdt = kvm_dtable { base, limit, ..Default::default() };
        let (base, limit) = descriptors::idtr();
        sregs.idt = kvm_dtable { base, limit, ..Default::default() };
        vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;

        if told.has_xsave() {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
            xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: told.xcr0() };
            vcpu.set_xcrs(&xcrs).map_err(failed("KVM_SET_XCRS"))?;
        }
        let msrs = entry::MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let list =
            Msrs::from_entries(&msrs).map_err(|_| MachineError::new("MSRs", io::Error::other("too many")))?;
        let set = vcpu.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))?;
        if set != msrs.len() {
            return Err(MachineError::new(
                "KVM_SET_MSRS",
                io::Error::other("an MSR of syscall or sysenter is refused"),
            ));
        }
        // Where KVM refuses, it answers `cpuid` itself, with what it was told.
        let faults = kvm_msr_entry { index: MSR_MISC_FEATURES_ENABLES, data: 1, ..Default::default() };
        if let Ok(list) = Msrs::from_entries(&[faults]) {
            let _ = vcpu.set_msrs(&list);
        }
        let length = self.empty.kvm.get_vcpu_mmap_size().map_err(failed("KVM_GET_VCPU_MMAP_SIZE"))?;
        let sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        Ok((Run::new(vcpu, length, Arc::clone(&self.memory))?, sregs))
    }
}

const _: () = assert!(LSTAR > AREA);

/// Writes what the area's pages hold: tables, descriptor tables, code.
///
/// # Errors
/// Where the machine is too small.
pub fn write_area(memory: &MachineMemory, area: &Area, vcpus: u64) -> Result<(), MachineError> {
    let write = || {
        area.write_tables(memory)?;
        descriptors::write_idt(memory, area)?;
        for number in 0..vcpus {
            descriptors::write_pcpu(memory, &area.pcpu(number))?;
        }
        memory.write(area.stub(), 0, super::stub::code())?;
        memory.write(area.lstar(), 0, super::stub::gate_code())
    };
    write().map_err(|error| MachineError::new("the hypervisor's own pages", io::Error::other(error)))
}
