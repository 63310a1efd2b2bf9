//! Hypercalls: the calling convention, and a typed function for each that the kernel uses.
//!
//! A call goes through the hypercall page, so the kernel does not know which gate the hypervisor uses.

use core::arch::asm;

use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType};
use pv_abi::console_io::ConsoleIoOp;
use pv_abi::event_channel::EventChannelOp;
use pv_abi::extension::{self, Doorbell, ExtensionOp};
use pv_abi::grant_table::GrantTableOp;
use pv_abi::hypercall::{HYPERCALL_PAGE_ENTRY_SIZE, HypercallNumber, MulticallEntry};
use pv_abi::memory::{MachphysMapping, MemoryOp};
use pv_abi::mmu::{MmuExtOp, MmuUpdate, UpdateVaMappingFlags};
use pv_abi::page_table::Pte;
use pv_abi::sched::{Poll, SchedOp, Shutdown, ShutdownReason};
use pv_abi::segment::FLAT_RING3_SS64;
use pv_abi::trap::TrapInfo;
use pv_abi::vcpu::{SetSingleshotTimer, VcpuOp};
use pv_abi::version::VersionOp;
use pv_abi::{DomId, Errno, EventPort, VcpuId};

use super::vcpu;

unsafe extern "C" {
    static hypercall_page: u8;
}

/// Makes any hypercall.
///
/// # Safety
///
/// The call must not make the hypervisor write memory that Rust owns otherwise, nor change a mapping
/// that is in use.
pub unsafe fn call(number: HypercallNumber, args: [u64; 5]) -> Result<u64, Errno> {
    let entry = (&raw const hypercall_page as u64) + number.0 * HYPERCALL_PAGE_ENTRY_SIZE as u64;
    let result: u64;
    // SAFETY: the caller vouches for the effects; the clobbers are those of any gate.
    unsafe {
        asm!(
            "call rax",
            inlateout("rax") entry => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            lateout("r9") _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    Errno::from_return(result)
}

/// A call with an operation number and a structure that the hypervisor reads, and may write.
fn with_structure<T>(number: HypercallNumber, op: u64, structure: &mut T) -> Result<u64, Errno> {
    // SAFETY: the structure is the one that `op` takes, and exclusively ours during the call.
    unsafe { call(number, [op, structure as *mut T as u64, 0, 0, 0]) }
}

pub fn set_trap_table(table: &[TrapInfo]) -> Result<u64, Errno> {
    debug_assert!(table.last().is_some_and(|last| last.address == 0));
    // SAFETY: reads the table up to its terminating entry.
    unsafe { call(HypercallNumber::SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]) }
}

pub fn register_callback(kind: CallbackType, address: u64) -> Result<u64, Errno> {
    let flags = CallbackFlags::MASK_EVENTS.bits();
    let mut argument = CallbackRegister { kind, flags, padding: 0, address };
    with_structure(HypercallNumber::CALLBACK_OP, CallbackOp::REGISTER.0, &mut argument)
}

/// Where the hypervisor puts the frame when it enters the kernel from user mode.
pub fn stack_switch(top: u64) -> Result<u64, Errno> {
    // SAFETY: the stack is the trap code's own.
    unsafe { call(HypercallNumber::STACK_SWITCH, [u64::from(FLAT_RING3_SS64), top, 0, 0, 0]) }
}

/// Applies page-table updates in order. On failure, those before the failing one have been made.
///
/// # Safety
///
/// No mapping that is in use may change under it.
pub unsafe fn mmu_update(updates: &[MmuUpdate]) -> Result<u64, Errno> {
    let args = [updates.as_ptr() as u64, updates.len() as u64, 0, u64::from(DomId::SELF.0), 0];
    // SAFETY: reads the slice; the caller vouches for the mappings.
    unsafe { call(HypercallNumber::MMU_UPDATE, args) }
}

/// Applies extended operations in order.
///
/// # Safety
///
/// As for [`mmu_update`]: a new root must map what is in use.
pub unsafe fn mmuext_op(operations: &[MmuExtOp]) -> Result<u64, Errno> {
    let args = [operations.as_ptr() as u64, operations.len() as u64, 0, u64::from(DomId::SELF.0), 0];
    // SAFETY: reads the slice; the caller vouches for the mappings.
    unsafe { call(HypercallNumber::MMUEXT_OP, args) }
}

/// Changes the L1 entry for `address` in the current address space.
///
/// # Safety
///
/// As for [`mmu_update`].
pub unsafe fn update_va_mapping(address: u64, entry: Pte, flags: UpdateVaMappingFlags) -> Result<u64, Errno> {
    // SAFETY: the caller vouches for the mapping.
    unsafe { call(HypercallNumber::UPDATE_VA_MAPPING, [address, entry.0, flags.bits(), 0, 0]) }
}

/// Makes the calls of the batch; each entry receives its own result.
///
/// # Safety
///
/// As for [`call`], for each entry.
pub unsafe fn multicall(entries: &mut [MulticallEntry]) -> Result<u64, Errno> {
    let args = [entries.as_mut_ptr() as u64, entries.len() as u64, 0, 0, 0];
    // SAFETY: writes the entries' results; the caller vouches for the calls.
    unsafe { call(HypercallNumber::MULTICALL, args) }
}

pub fn machphys_mapping() -> Result<MachphysMapping, Errno> {
    let mut mapping = MachphysMapping { v_start: 0, v_end: 0, max_mfn: 0 };
    with_structure(HypercallNumber::MEMORY_OP, MemoryOp::MACHPHYS_MAPPING.0, &mut mapping)?;
    Ok(mapping)
}

pub fn sched_yield() {
    // SAFETY: no memory is involved. It cannot fail.
    let _ = unsafe { call(HypercallNumber::SCHED_OP, [SchedOp::YIELD.0, 0, 0, 0, 0]) };
}

/// Unmasks events and waits for one. Returns with events masked: see `trap::from_kernel`.
pub fn sched_block() {
    // SAFETY: the event entry saves and restores everything but what a call may clobber.
    let _ = unsafe { call(HypercallNumber::SCHED_OP, [SchedOp::BLOCK.0, 0, 0, 0, 0]) };
}

pub fn sched_poll(ports: &[EventPort], timeout: u64) -> Result<u64, Errno> {
    let mut poll = Poll { ports: ports.as_ptr() as u64, nr_ports: ports.len() as u32, padding: 0, timeout };
    with_structure(HypercallNumber::SCHED_OP, SchedOp::POLL.0, &mut poll)
}

pub fn shutdown(reason: ShutdownReason) -> ! {
    loop {
        let _ = with_structure(HypercallNumber::SCHED_OP, SchedOp::SHUTDOWN.0, &mut Shutdown { reason });
    }
}

/// Paravane's own: the status that powering off reports.
pub fn set_exit_status(status: u8) -> Result<u64, Errno> {
    let args = [ExtensionOp::EXIT_STATUS.0, u64::from(status), 0, 0, 0];
    // SAFETY: no memory is involved.
    unsafe { call(HypercallNumber(extension::HYPERCALL_NUMBER), args) }
}

/// Paravane's own: a doorbell for a port.
pub fn doorbell(port: EventPort) -> Result<Doorbell, Errno> {
    let mut doorbell = Doorbell { port, value: 0, address: 0 };
    let number = HypercallNumber(extension::HYPERCALL_NUMBER);
    with_structure(number, ExtensionOp::DOORBELL.0, &mut doorbell).map(|_| doorbell)
}

/// An event channel operation with the structure that it takes.
pub fn event_channel_op<T>(op: EventChannelOp, argument: &mut T) -> Result<u64, Errno> {
    with_structure(HypercallNumber::EVENT_CHANNEL_OP, op.0, argument)
}

/// A grant-table operation on each element. What became of one stands in its status.
///
/// # Safety
///
/// No mapping that is in use may change under it.
pub unsafe fn grant_table_op<T>(op: GrantTableOp, elements: &mut [T]) -> Result<u64, Errno> {
    let args = [op.0, elements.as_mut_ptr() as u64, elements.len() as u64, 0, 0];
    // SAFETY: the elements are those that `op` takes, and ours during the call; the caller vouches for the mappings.
    unsafe { call(HypercallNumber::GRANT_TABLE_OP, args) }
}

/// An operation on a vCPU; `argument` is what `op` takes, or nothing.
pub fn vcpu_op<T>(op: VcpuOp, vcpu: VcpuId, argument: Option<&T>) -> Result<u64, Errno> {
    let at = argument.map_or(0, |argument| &raw const *argument as u64);
    // SAFETY: reads the structure.
    unsafe { call(HypercallNumber::VCPU_OP, [op.0, u64::from(vcpu.0), at, 0, 0]) }
}

/// An event for the vCPU that calls at a system time, in nanoseconds; the past means now.
pub fn set_singleshot_timer_of(vcpu: VcpuId, timeout_abs_ns: u64) -> Result<u64, Errno> {
    let timer = SetSingleshotTimer { timeout_abs_ns, flags: 0, padding: 0 };
    vcpu_op(VcpuOp::SET_SINGLESHOT_TIMER, vcpu, Some(&timer))
}

/// The same for the vCPU that this runs on.
pub fn set_singleshot_timer(timeout_abs_ns: u64) -> Result<u64, Errno> {
    set_singleshot_timer_of(VcpuId(vcpu::number()), timeout_abs_ns)
}

/// Ends the timer events of a vCPU that nobody asked for.
pub fn stop_periodic_timer(vcpu: VcpuId) -> Result<u64, Errno> {
    vcpu_op::<()>(VcpuOp::STOP_PERIODIC_TIMER, vcpu, None)
}

/// The older form of [`set_singleshot_timer`].
pub fn set_timer_op(timeout_abs_ns: u64) -> Result<u64, Errno> {
    // SAFETY: no memory is involved.
    unsafe { call(HypercallNumber::SET_TIMER_OP, [timeout_abs_ns, 0, 0, 0, 0]) }
}

pub fn xen_version() -> Result<u64, Errno> {
    // SAFETY: no memory is involved.
    unsafe { call(HypercallNumber::XEN_VERSION, [VersionOp::VERSION.0, 0, 0, 0, 0]) }
}

/// A `xen_version` query whose answer is a structure.
pub fn xen_version_query<T>(op: VersionOp, answer: &mut T) -> Result<u64, Errno> {
    with_structure(HypercallNumber::XEN_VERSION, op.0, answer)
}

pub fn console_write(bytes: &[u8]) {
    let args = [ConsoleIoOp::WRITE.0, bytes.len() as u64, bytes.as_ptr() as u64, 0, 0];
    // SAFETY: reads the slice. Where the emergency console is switched off, the output is lost.
    let _ = unsafe { call(HypercallNumber::CONSOLE_IO, args) };
}

/// Reads what was typed on the emergency console: the number of bytes.
pub fn console_read(buffer: &mut [u8]) -> usize {
    let args = [ConsoleIoOp::READ.0, buffer.len() as u64, buffer.as_mut_ptr() as u64, 0, 0];
    // SAFETY: writes at most the slice.
    let count = unsafe { call(HypercallNumber::CONSOLE_IO, args) }.unwrap_or(0);
    (count as usize).min(buffer.len())
}
