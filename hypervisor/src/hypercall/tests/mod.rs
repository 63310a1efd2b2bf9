//! Every hypercall, as a guest makes it.

mod bounds;
mod families;
mod fuzz;
mod hostile;
mod memory;
mod reservation;
mod scheduling;
mod vcpus;

use super::TABLE;
use crate::testing::{Guest, World};
use std::collections::BTreeMap;

/// What exercises a row of the table.
type Exercise = fn(&World, &Guest);

fn exercises() -> BTreeMap<&'static str, Exercise> {
    let all: [(&str, Exercise); 31] = [
        ("SET_TRAP_TABLE", families::trap_table),
        ("MMU_UPDATE", memory::mmu_update),
        ("SET_GDT", memory::gdt),
        ("STACK_SWITCH", families::stack_switch),
        ("SET_CALLBACKS", families::set_callbacks),
        ("FPU_TASKSWITCH", families::fpu_taskswitch),
        ("PLATFORM_OP", families::refusals),
        ("SET_DEBUGREG", families::debug_registers),
        ("GET_DEBUGREG", families::debug_registers),
        ("UPDATE_DESCRIPTOR", memory::gdt),
        ("MEMORY_OP", memory::memory_op),
        ("MULTICALL", scheduling::multicall),
        ("UPDATE_VA_MAPPING", memory::update_va_mapping),
        ("SET_TIMER_OP", scheduling::timers),
        ("XEN_VERSION", families::version),
        ("CONSOLE_IO", families::console),
        ("GRANT_TABLE_OP", memory::grants),
        ("VM_ASSIST", families::vm_assist),
        ("IRET", scheduling::iret),
        ("VCPU_OP", scheduling::timers),
        ("SET_SEGMENT_BASE", families::segment_bases),
        ("MMUEXT_OP", memory::mmuext),
        ("SCHED_OP", scheduling::sched_op),
        ("CALLBACK_OP", families::callback_op),
        ("EVENT_CHANNEL_OP", families::events),
        ("PHYSDEV_OP", families::physdev),
        ("SYSCTL", families::refusals),
        ("DOMCTL", families::refusals),
        ("ARGO_OP", families::refusals),
        ("XENPMU_OP", families::refusals),
        ("EXTENSION", families::extension),
    ];
    BTreeMap::from(all)
}

#[test]
fn every_row_is_exercised() {
    let exercises = exercises();
    assert_eq!(exercises.len(), TABLE.len(), "an exercise for no row");
    for row in TABLE {
        let exercise = exercises.get(row.name);
        let exercise = exercise.unwrap_or_else(|| panic!("nothing exercises {}", row.name));
        let mut world = World::new();
        let guest = world.guest();
        exercise(&world, &guest);
        assert!(guest.domain.statistics().hypercalls_of(row.number) > 0, "{} was not called", row.name);
        world.check_end(vec![guest]);
    }
}
