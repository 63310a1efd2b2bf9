//! The small families: what they do, and what they refuse.

use crate::testing::{BASE, Guest, World, page};
use crate::vcpu::Callback;
use pv_abi::Errno;
use pv_abi::address::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};
use pv_abi::callback::{CallbackRegister, CallbackType};
use pv_abi::event_channel::{AllocUnbound, BindVirq, PortArgument, Status, Virq};
use pv_abi::page_table::{Pte, PteFlags};
use pv_abi::physdev::SetIoBitmap;
use pv_abi::trap::TrapInfo;
use pv_abi::version::FeatureInfo;
use pv_abi::{DomId, EventPort, VcpuId};
use zerocopy::{FromBytes, IntoBytes};

/// The first address that is not canonical.
const WILD: u64 = 1 << 47;
/// An address in the page below the guest's memory: nothing is mapped there.
const UNMAPPED: u64 = BASE - 4096;

pub fn trap_table(world: &World, guest: &Guest) {
    let entry = |vector, address| TrapInfo { vector, flags: 7, cs: 0xe033, padding: 0, address };
    let entries = [entry(3, BASE + 8), entry(14, BASE + 16), TrapInfo::default()];
    world.poke(guest, page(1), entries.as_slice());
    assert_eq!(world.call(guest, 0, &[page(1)]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!(vcpu.traps.get(14).address, BASE + 16);
        assert!(vcpu.traps.get(3).masks_events() && vcpu.traps.get(3).dpl() == 3);
    });
    world.poke(guest, page(1), [entry(6, BASE + 24), TrapInfo::default()].as_slice());
    assert_eq!(world.call(guest, 0, &[page(1)]), Ok(0), "one more");
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.traps.get(14).address, BASE + 16));
    world.poke(guest, page(1), [entry(7, BASE + 32), entry(6, WILD)].as_slice());
    assert_eq!(world.call(guest, 0, &[page(1)]), Err(Errno::EINVAL));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.traps.get(7).address, 0, "nothing has changed"));
    assert_eq!(world.call(guest, 0, &[UNMAPPED]), Err(Errno::EFAULT));
    world.poke(guest, page(1), [entry(9, BASE); 257].as_slice());
    assert_eq!(world.call(guest, 0, &[page(1)]), Err(Errno::E2BIG), "it does not end");
    assert_eq!(world.call(guest, 0, &[0]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.traps.get(14).address, 0));
}

pub fn stack_switch(world: &World, guest: &Guest) {
    assert_eq!(world.call(guest, 3, &[0xe02b, page(5)]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.kernel_stack, page(5)));
}

pub fn set_callbacks(world: &World, guest: &Guest) {
    assert_eq!(world.call(guest, 4, &[BASE + 1, BASE + 2, 0]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!(vcpu.callbacks.event, Some(Callback { address: BASE + 1, masks_events: true }));
        assert_eq!(vcpu.callbacks.failsafe, Some(Callback { address: BASE + 2, masks_events: false }));
        assert_eq!(vcpu.callbacks.syscall, None);
    });
    assert_eq!(world.call(guest, 4, &[BASE + 3, WILD, 0]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| {
        let entries = [vcpu.callbacks.event, vcpu.callbacks.failsafe].map(|entry| entry.map(|e| e.address));
        assert_eq!(entries, [Some(BASE + 3), Some(BASE + 2)], "what is no address is left out");
    });
}

pub fn callback_op(world: &World, guest: &Guest) {
    let register = |kind, flags, address| {
        world.poke(guest, page(1), &CallbackRegister { kind, flags, padding: 0, address });
        world.call(guest, 30, &[0, page(1)])
    };
    assert_eq!(register(CallbackType::SYSCALL, 1, BASE + 64), Ok(0));
    assert_eq!(register(CallbackType::SYSENTER, 1, BASE), Ok(0));
    assert_eq!(register(CallbackType::SYSCALL32, 0, BASE), Ok(0));
    assert_eq!(register(CallbackType::EVENT, 0, WILD), Err(Errno::EINVAL));
    assert_eq!(register(CallbackType(99), 0, BASE), Err(Errno::ENOSYS));
    let kept = |address, masks_events| Some(Callback { address, masks_events });
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!(vcpu.callbacks.syscall, kept(BASE + 64, true));
        assert_eq!(vcpu.callbacks.sysenter, kept(BASE, true));
        assert_eq!(vcpu.callbacks.syscall32, kept(BASE, false));
    });
    for kind in [CallbackType::SYSENTER, CallbackType::SYSCALL32] {
        world.poke(guest, page(1), &kind);
        assert_eq!(world.call(guest, 30, &[1, page(1)]), Ok(0));
    }
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!((vcpu.callbacks.sysenter, vcpu.callbacks.syscall32), (None, None));
        assert_eq!(vcpu.callbacks.syscall, kept(BASE + 64, true));
    });
    world.poke(guest, page(1), &CallbackType::EVENT);
    assert_eq!(world.call(guest, 30, &[1, page(1)]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 30, &[7, page(1)]), Err(Errno::ENOSYS));
    assert_eq!(world.call(guest, 30, &[0, UNMAPPED]), Err(Errno::EFAULT));
}

pub fn fpu_taskswitch(world: &World, guest: &Guest) {
    let task_switched = |world: &World, guest| world.on_vcpu(guest, |_, vcpu| vcpu.context.task_switched);
    for (set, expected) in [(0, false), (1, true), (2, true), (1 << 32, false), (1 << 31, true), (0, false)] {
        assert_eq!(world.call(guest, 5, &[set]), Ok(0));
        assert_eq!(task_switched(world, guest), expected);
    }
    let without = World::without_nm();
    let guest = without.guest();
    assert_eq!(without.call(&guest, 5, &[1]), Err(Errno::ENOSYS));
    assert_eq!(without.call(&guest, 5, &[0]), Ok(0));
    assert!(!task_switched(&without, &guest));
}

pub fn debug_registers(world: &World, guest: &Guest) {
    let rows = [(0, 0), (1, 0), (2, 0), (3, 0), (6, 0xffff_0ff0), (7, 0x400)];
    for (register, at_rest) in rows {
        assert_eq!(world.call(guest, 9, &[register]), Ok(at_rest), "DR{register} at the start");
        for (value, kept) in [(0x1_0000, 0x1_0000), (0, 0)] {
            assert_eq!(world.call(guest, 8, &[register, value]), Ok(0));
            assert_eq!(world.call(guest, 9, &[register]), Ok(at_rest | kept), "reserved bits stay");
        }
    }
    for register in [4, 5, 8, u64::MAX] {
        assert_eq!(world.call(guest, 8, &[register, 0]), Err(Errno::ENODEV));
        assert_eq!(world.call(guest, 9, &[register]), Err(Errno::ENODEV));
    }
    assert_eq!(world.call(guest, 8, &[7, 1 << 13]), Err(Errno::EPERM), "general detect");
    assert_eq!(world.call(guest, 8, &[1, WILD]), Err(Errno::EPERM));
    for register in 0..4 {
        for address in [HYPERVISOR_VIRT_START, 0xffff_8000_0000_1000, HYPERVISOR_VIRT_END - 1] {
            assert_eq!(world.call(guest, 8, &[register, address]), Err(Errno::EPERM), "the hypervisor's");
        }
        assert_eq!(world.call(guest, 9, &[register]), Ok(0));
        for enabled in [1, 2, 3] {
            let on_io = enabled << (2 * register) | 2 << (16 + 4 * register) | 0x400;
            assert_eq!(world.call(guest, 8, &[7, on_io]), Err(Errno::EPERM), "a breakpoint on I/O");
            world.on_vcpu(guest, |_, vcpu| vcpu.set_cr4(1 << 3));
            assert_eq!(world.call(guest, 8, &[7, on_io]), Ok(0), "with CR4.DE");
            assert_eq!(world.call(guest, 9, &[7]), Ok(on_io));
            world.on_vcpu(guest, |_, vcpu| {
                assert_eq!(vcpu.context.debug.control & 0xff, 0, "it is not loaded");
                vcpu.set_cr4(0);
            });
        }
    }
    for register in [6, 7] {
        assert_eq!(world.call(guest, 8, &[register, 1 << 32]), Err(Errno::EINVAL));
    }
    assert_eq!(world.call(guest, 8, &[7, 0x0000_d801]), Ok(0), "reserved bits are dropped");
    assert_eq!(world.call(guest, 9, &[7]), Ok(0x401));
    assert_eq!(world.call(guest, 8, &[7, 0]), Ok(0));
}

pub fn version(world: &World, guest: &Guest) {
    assert_eq!(world.call(guest, 17, &[0, 0]), Ok(4 << 16 | 17));
    assert_eq!(world.call(guest, 17, &[7, 0]), Ok(4096));
    for (command, text) in [(1, ".0-paravane"), (2, "rustc"), (3, "xen-3.0-x86_64"), (4, "unavailable")] {
        assert_eq!(world.call(guest, 17, &[command, page(1)]), Ok(0));
        let bytes: [u8; 32] = world.peek(guest, page(1));
        assert_eq!(std::ffi::CStr::from_bytes_until_nul(&bytes).unwrap().to_str(), Ok(text));
    }
    assert_eq!(world.call(guest, 17, &[5, page(1)]), Ok(0));
    assert_eq!(world.peek::<u64>(guest, page(1)), 0xffff_8000_0000_0000);
    world.poke(guest, page(1), &FeatureInfo { submap_idx: 0, submap: 99 });
    assert_eq!(world.call(guest, 17, &[6, page(1)]), Ok(0));
    assert_eq!(world.peek::<FeatureInfo>(guest, page(1)).submap, 1 << 5 | 1 << 7);
    world.poke(guest, page(1), &FeatureInfo { submap_idx: 1, submap: 0 });
    assert_eq!(world.call(guest, 17, &[6, page(1)]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 17, &[8, page(1)]), Ok(0));
    assert_eq!(world.call(guest, 17, &[9, page(1)]), Err(Errno::EPERM));
    assert_eq!(world.call(guest, 17, &[10, page(1)]), Err(Errno::ENODATA));
    assert_eq!(world.call(guest, 17, &[11, page(1)]), Err(Errno::ENOSYS));
    assert_eq!(world.call(guest, 17, &[1, UNMAPPED]), Err(Errno::EFAULT));
}

pub fn console(world: &World, guest: &Guest) {
    world.poke(guest, page(1) + 4000, b"over the page's end".as_slice());
    assert_eq!(world.call(guest, 18, &[0, 19, page(1) + 4000]), Ok(0));
    assert_eq!(*guest.console.written.lock().unwrap(), b"over the page's end");
    let all = 12 * 4096;
    assert_eq!(world.call(guest, 18, &[0, all, page(1)]), Ok(0), "more than one run writes");
    assert_eq!(guest.console.written.lock().unwrap().len() as u64, 19 + all);
    guest.console.input.lock().unwrap().extend_from_slice(b"hello");
    assert_eq!(world.call(guest, 18, &[1, 10, UNMAPPED]), Err(Errno::EFAULT));
    assert_eq!(world.call(guest, 18, &[1, 3, page(2)]), Ok(3), "a bad buffer lost nothing");
    assert_eq!(world.call(guest, 18, &[1, 300, page(3)]), Ok(2));
    assert_eq!((world.peek(guest, page(2)), world.peek(guest, page(3))), (*b"hel", *b"lo"));
    assert_eq!(world.call(guest, 18, &[0, 1 << 31, page(1)]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 18, &[0, 1, UNMAPPED]), Err(Errno::EFAULT));
    assert_eq!(world.call(guest, 18, &[5, 1, page(1)]), Err(Errno::ENOSYS));
}

pub fn vm_assist(world: &World, guest: &Guest) {
    assert_eq!(world.call(guest, 21, &[0, 4]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert!(vcpu.shows_iopl()));
    assert_eq!(world.call(guest, 21, &[1, 4]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert!(!vcpu.shows_iopl()));
    for kind in [0, 1, 2, 3, 5] {
        assert_eq!(world.call(guest, 21, &[0, kind]), Ok(0));
    }
    world.on_vcpu(guest, |_, vcpu| assert!(vcpu.writes_page_tables() && vcpu.marks_runstate_updates()));
    assert_eq!(world.call(guest, 21, &[1, 2]), Ok(0));
    assert_eq!(world.call(guest, 21, &[1, 5]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert!(!vcpu.writes_page_tables() && !vcpu.marks_runstate_updates()));
    for kind in [6, 32, 64, u64::MAX] {
        assert_eq!(world.call(guest, 21, &[0, kind]), Err(Errno::EINVAL), "{kind}");
    }
    assert_eq!(world.call(guest, 21, &[2, 4]), Err(Errno::ENOSYS));
}

pub fn segment_bases(world: &World, guest: &Guest) {
    for (which, base) in [(0, 0x10), (1, 0x20), (2, 0x30)] {
        assert_eq!(world.call(guest, 25, &[which, base]), Ok(0));
        assert_eq!(world.call(guest, 25, &[which, WILD]), Err(Errno::EINVAL));
    }
    world.on_vcpu(guest, |_, vcpu| {
        let context = &vcpu.context;
        assert_eq!((context.fs_base, vcpu.other_gs_base, context.gs_base), (0x10, 0x20, 0x30));
    });
    assert_eq!(world.call(guest, 25, &[3, u64::MAX]), Ok(0), "never fails");
    world.on_vcpu(guest, |_, vcpu| assert_eq!((vcpu.other_gs, vcpu.other_gs_base), (0xffff, 0)));
    assert_eq!(world.call(guest, 25, &[4, 0]), Err(Errno::EINVAL));
}

fn ask<T: IntoBytes + FromBytes + zerocopy::Immutable>(
    world: &World,
    guest: &Guest,
    op: u64,
    argument: T,
) -> Result<T, Errno> {
    world.poke(guest, page(2), &argument);
    world.call(guest, 32, &[op, page(2)])?;
    Ok(world.peek(guest, page(2)))
}

pub fn events(world: &World, guest: &Guest) {
    let (virq, vcpu, port) = (Virq::TIMER, VcpuId(0), EventPort(0));
    let bound = ask(world, guest, 1, BindVirq { virq, vcpu, port }).unwrap();
    assert_eq!(bound.port, EventPort(1));
    let (dom, remote_dom) = (DomId::SELF, DomId::HOST);
    let unbound = ask(world, guest, 6, AllocUnbound { dom, remote_dom, port }).unwrap();
    assert_eq!(unbound.port, EventPort(2));
    let asked = Status::new_for_test(unbound.port);
    let status = ask(world, guest, 5, asked).unwrap();
    assert_eq!((status.status.0, status.detail0), (1, 0));
    let of = |port| PortArgument { port };
    assert_eq!(ask(world, guest, 4, of(unbound.port)).map(|_| ()), Ok(()));
    assert_eq!(ask(world, guest, 9, of(unbound.port)).map(|_| ()), Ok(()));
    assert_eq!(ask(world, guest, 3, of(unbound.port)).map(|_| ()), Ok(()));
    assert_eq!(ask(world, guest, 3, of(unbound.port)), Err(Errno::EINVAL));
    assert_eq!(ask(world, guest, 7, pv_abi::event_channel::BindIpi { vcpu, port }).unwrap().port.0, 2);
    assert_eq!(ask(world, guest, 6, AllocUnbound { dom: DomId(9), remote_dom, port }), Err(Errno::EPERM));
    for (op, errno) in [
        (2, Errno::EPERM),
        (11, Errno::EINVAL),
        (12, Errno::EOPNOTSUPP),
        (13, Errno::ENOSYS),
        (14, Errno::ENOSYS),
        (u64::MAX, Errno::ENOSYS),
    ] {
        assert_eq!(world.call(guest, 32, &[op, page(2)]), Err(errno), "{op}");
    }
    // Where the answer cannot be stored, there is no new port.
    let read_only = Pte::new(guest.pages[3], PteFlags::PRESENT);
    world.poke(guest, page(3), &AllocUnbound { dom, remote_dom, port });
    assert_eq!(world.call(guest, 14, &[page(3), read_only.0, 2]), Ok(0));
    let before = guest.domain.ports().lock().len();
    assert_eq!(world.call(guest, 32, &[6, page(3)]), Err(Errno::EFAULT));
    assert_eq!(guest.domain.ports().lock().len(), before);
    for op in 0..14 {
        assert!(world.call(guest, 32, &[op, UNMAPPED]).is_err(), "{op}");
    }
}

trait ForTest {
    fn new_for_test(port: EventPort) -> Self;
}

impl ForTest for Status {
    fn new_for_test(port: EventPort) -> Self {
        let mut status = Self::read_from_bytes(&[0; 24]).unwrap();
        (status.dom, status.port) = (DomId::SELF, port);
        status
    }
}

pub fn physdev(world: &World, guest: &Guest) {
    world.poke(guest, page(1), &1_u32);
    assert_eq!(world.call(guest, 33, &[6, page(1)]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.iopl, 1));
    world.poke(guest, page(1), &4_u32);
    assert_eq!(world.call(guest, 33, &[6, page(1)]), Err(Errno::EINVAL));
    for (nr_ports, expected) in [
        (0, Ok(0)),
        (1, Err(Errno::EOPNOTSUPP)),
        (65_536, Err(Errno::EOPNOTSUPP)),
        (65_537, Err(Errno::EINVAL)),
        (u32::MAX, Err(Errno::EINVAL)),
    ] {
        world.poke(guest, page(1), &SetIoBitmap { bitmap: page(2), nr_ports, padding: 0 });
        assert_eq!(world.call(guest, 33, &[7, page(1)]), expected, "{nr_ports} ports");
    }
    assert_eq!(world.call(guest, 33, &[7, UNMAPPED]), Err(Errno::EFAULT));
    assert_eq!(world.call(guest, 33, &[28, page(1)]), Err(Errno::ENOSYS));
}

pub fn refusals(world: &World, guest: &Guest) {
    for number in [7, 35, 36] {
        assert_eq!(world.call(guest, number, &[page(1)]), Err(Errno::EPERM));
    }
    assert_eq!(world.call(guest, 39, &[]), Err(Errno::ENOSYS));
    assert_eq!(world.call(guest, 40, &[]), Err(Errno::EOPNOTSUPP));
}

pub fn extension(world: &World, guest: &Guest) {
    assert_eq!(world.call(guest, 127, &[0, 42]), Ok(0));
    assert_eq!(guest.domain.exit_status(), 42);
    assert_eq!(world.call(guest, 127, &[0, 256]), Err(Errno::EINVAL));
    // Doorbells: see `event_channel::doorbell_tests`.
    assert_eq!(world.call(guest, 127, &[1, UNMAPPED]), Err(Errno::EFAULT));
    assert_eq!(world.call(guest, 127, &[2, 0]), Err(Errno::ENOSYS));
}

#[test]
fn an_unknown_hypercall_returns_enosys() {
    let world = World::new();
    let guest = world.guest();
    for number in [6, 11, 16, 19, 22, 27, 28, 31, 34, 37, 38, 41, 42, 43, 126, 128, u64::MAX] {
        assert_eq!(world.call(&guest, number, &[page(1); 6]), Err(Errno::ENOSYS), "{number}");
    }
}
