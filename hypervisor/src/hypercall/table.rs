//! The table of hypercalls. A number that is not in it returns −ENOSYS.

use super::{
    Handler, callbacks, console, debug, events, extension, grants, memory, mmu, mmuext, multicall, physdev,
    refused, sched, segments, stack, timer, traps, vcpu, version, vm_assist,
};
use pv_abi::extension::HYPERCALL_NUMBER;
use pv_abi::hypercall::HypercallNumber as N;

/// A hypercall, and who carries it out.
#[derive(Clone, Copy, Debug)]
pub struct Hypercall {
    /// The number that the guest gives in RAX.
    pub number: u64,
    /// Its name in Xen's headers.
    pub name: &'static str,
    /// The function that carries it out.
    pub handler: Handler,
}

const fn row(number: N, handler: Handler) -> Hypercall {
    let name = match number.name() {
        Some(name) => name,
        None => "unnamed",
    };
    Hypercall { number: number.0, name, handler }
}

/// All hypercalls, by rising number.
pub static TABLE: &[Hypercall] = &[
    row(N::SET_TRAP_TABLE, traps::set_trap_table),
    row(N::MMU_UPDATE, mmu::mmu_update),
    row(N::SET_GDT, segments::set_gdt),
    row(N::STACK_SWITCH, stack::stack_switch),
    row(N::SET_CALLBACKS, callbacks::set_callbacks),
    row(N::FPU_TASKSWITCH, debug::fpu_taskswitch),
    row(N::PLATFORM_OP, refused::not_permitted),
    row(N::SET_DEBUGREG, debug::set_debugreg),
    row(N::GET_DEBUGREG, debug::get_debugreg),
    row(N::UPDATE_DESCRIPTOR, segments::update_descriptor),
    row(N::MEMORY_OP, memory::memory_op),
    row(N::MULTICALL, multicall::multicall),
    row(N::UPDATE_VA_MAPPING, mmu::update_va_mapping),
    row(N::SET_TIMER_OP, timer::set_timer_op),
    row(N::XEN_VERSION, version::xen_version),
    row(N::CONSOLE_IO, console::console_io),
    row(N::GRANT_TABLE_OP, grants::grant_table_op),
    row(N::VM_ASSIST, vm_assist::vm_assist),
    row(N::IRET, stack::iret),
    row(N::VCPU_OP, vcpu::vcpu_op),
    row(N::SET_SEGMENT_BASE, segments::set_segment_base),
    row(N::MMUEXT_OP, mmuext::mmuext_op),
    row(N::SCHED_OP, sched::sched_op),
    row(N::CALLBACK_OP, callbacks::callback_op),
    row(N::EVENT_CHANNEL_OP, events::event_channel_op),
    row(N::PHYSDEV_OP, physdev::physdev_op),
    row(N::SYSCTL, refused::not_permitted),
    row(N::DOMCTL, refused::not_permitted),
    row(N::ARGO_OP, refused::not_implemented),
    row(N::XENPMU_OP, refused::not_supported),
    Hypercall { number: HYPERCALL_NUMBER, name: "EXTENSION", handler: extension::extension },
];

/// The row of a number; none where no hypercall has it.
pub fn find(number: u64) -> Option<&'static Hypercall> {
    let place = TABLE.binary_search_by_key(&number, |row| row.number).ok()?;
    TABLE.get(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_have_names() {
        assert!(TABLE.is_sorted_by_key(|row| row.number));
        for row in TABLE {
            assert_eq!(find(row.number).map(|found| found.name), Some(row.name));
            assert_ne!(row.name, "unnamed");
        }
        assert!(find(11).is_none() && find(u64::MAX).is_none());
    }
}
