//! `vcpu_op` on other vCPUs: what starts one, what does not, and several of them at once.

use crate::domain::{End, Stage};
use crate::hypercall::{Outcome, dispatch, resume};
use crate::machine::{Exit, Root};
use crate::services::Services;
use crate::testing::{BASE, Guest, World, page, syscall};
use crate::vcpu::{Mode, Vcpu};
use pv_abi::guest_context::{GuestContext, GuestContextFlags as F};
use pv_abi::mmu::MmuUpdate;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::vcpu::{RegisterRunstateMemoryArea, RegisterVcpuInfo, Runstate, VcpuOp as Op, VcpuRunstateInfo};
use pv_abi::{DomId, Errno, Mfn};
use std::sync::Barrier;
use zerocopy::{FromZeros, IntoBytes};

/// Where contexts are put.
const AT: u64 = page(8);
const SELF: u64 = DomId::SELF.0 as u64;

fn identity(guest: &Guest, vcpu: usize) -> u64 {
    guest.domain.vcpus()[vcpu].state().lock().context.identity
}

/// A context that a vCPU can start with.
fn context(guest: &Guest) -> Box<GuestContext> {
    let mut first = GuestContext::new_box_zeroed().unwrap();
    first.flags = F::IN_KERNEL.bits();
    (first.user_regs.rip, first.user_regs.rsp) = (BASE + 0x40, page(12));
    (first.user_regs.cs, first.user_regs.ss) = (0xe033, 0xe02b);
    first.ctrlreg[3] = guest.root.address();
    first
}

/// The hypercall `vcpu_op` (number 24), made by vCPU 0 about `vcpu`, with its argument at the address `at`.
fn op(world: &World, guest: &Guest, op: Op, vcpu: u64, at: u64) -> Result<u64, Errno> {
    world.call(guest, 24, &[op.0, vcpu, at])
}

fn initialise(world: &World, guest: &Guest, vcpu: u64, first: &GuestContext) -> Result<u64, Errno> {
    world.poke(guest, AT, first);
    op(world, guest, Op::INITIALISE, vcpu, AT)
}

/// A hypercall by any vCPU that is on no pcpu, to its end.
fn call_by(services: &Services, guest: &Guest, vcpu: usize, number: u64, arguments: &[u64]) -> u64 {
    let handle = &guest.domain.vcpus()[vcpu];
    let mut state = handle.state().lock();
    syscall(&mut state.context, number, arguments);
    let mut outcome = dispatch(services, &guest.domain, handle, &mut state, true).unwrap();
    while outcome == Outcome::Preempted {
        outcome = resume(services, &guest.domain, handle, &mut state).unwrap().unwrap();
    }
    state.context.registers.rax
}

fn on<R>(guest: &Guest, vcpu: usize, act: impl FnOnce(&mut Vcpu) -> R) -> R {
    act(&mut guest.domain.vcpus()[vcpu].state().lock())
}

#[test]
fn a_vcpu_starts_with_the_context_that_it_was_given() {
    let world = World::new();
    let guest = world.guest();
    let mut first = context(&guest);
    first.user_regs.rflags = 0x3000 | 1 << 17 | 1;
    (first.user_regs.r15, first.user_regs.rdi) = (15, 7);
    (first.fs_base, first.gs_base_kernel, first.gs_base_user) = (1, 2, 3);
    (first.event_callback_eip, first.syscall_callback_eip) = (BASE + 1, BASE + 3);
    first.flags |= F::SYSCALL_DISABLES_EVENTS.bits();
    first.trap_ctxt[14].address = BASE + 14;
    first.kernel_sp = page(13);
    first.ctrlreg[1] = guest.user_root.address();
    (first.debugreg[0], first.debugreg[7]) = (BASE, 1);
    (first.ctrlreg[0], first.ctrlreg[4]) = (1 << 3, 1 << 16); // TS, FSGSBASE
    assert_eq!(initialise(&world, &guest, 1, &first), Ok(0));
    on(&guest, 1, |vcpu| {
        let context = &vcpu.context;
        let registers = &context.registers;
        assert_eq!(
            (registers.rip, registers.rsp, registers.r15, registers.rdi),
            (BASE + 0x40, page(12), 15, 7)
        );
        assert_eq!((registers.rflags, vcpu.iopl), (0x203, 3), "its I/O privilege is virtual");
        assert_eq!((context.fs_base, context.gs_base, vcpu.other_gs_base), (1, 2, 3));
        assert_eq!((vcpu.mode, context.root.mfn()), (Mode::Kernel, guest.root));
        assert_eq!((vcpu.roots.user().map(Root::mfn), vcpu.kernel_stack), (Some(guest.user_root), page(13)));
        let callbacks = &vcpu.callbacks;
        assert_eq!(callbacks.event.map(|entry| entry.address), Some(BASE + 1));
        assert!(callbacks.failsafe.is_none() && callbacks.syscall.is_some_and(|entry| entry.masks_events));
        assert_eq!((vcpu.traps.get(14).address, vcpu.traps.get(14).vector), (BASE + 14, 14));
        assert_eq!((vcpu.context.debug.addresses[0], vcpu.context.debug.control), (BASE, 0x401));
        assert!(vcpu.context.fsgsbase, "as a kernel finds it in CR4");
        assert!(vcpu.context.task_switched);
    });
    first.flags = 0;
    first.ctrlreg[0] = !(1 << 3);
    assert_eq!(initialise(&world, &guest, 2, &first), Ok(0));
    on(&guest, 2, |vcpu| {
        assert_eq!((vcpu.mode, vcpu.context.root.mfn()), (Mode::User, guest.user_root));
        assert_eq!((vcpu.context.gs_base, vcpu.other_gs_base), (3, 2));
        assert!(!vcpu.context.task_switched);
    });
    first.flags = (F::IN_KERNEL | F::ONLINE).bits();
    assert_eq!(initialise(&world, &guest, 3, &first), Ok(0));
    assert_eq!((op(&world, &guest, Op::IS_UP, 2, 0), op(&world, &guest, Op::IS_UP, 3, 0)), (Ok(0), Ok(1)));
}

/// A kernel would rely on an exception that never comes.
#[test]
fn no_vcpu_starts_with_ts_where_no_nm_is_raised() {
    let world = World::without_nm();
    let guest = world.guest();
    let mut first = context(&guest);
    first.ctrlreg[0] = 1 << 3;
    assert_eq!(initialise(&world, &guest, 1, &first), Err(Errno::EINVAL));
    first.ctrlreg[0] = 0;
    assert_eq!(initialise(&world, &guest, 1, &first), Ok(0));
}

#[test]
fn a_vcpu_runs_while_it_is_up() {
    let mut world = World::with_pcpus(2);
    let guest = world.guest();
    let scripts = world.scripts.clone();
    let id = identity(&guest, 1);
    scripts.forever(id, |context| syscall(context, 29, &[0]));
    assert_eq!(op(&world, &guest, Op::UP, 1, 0), Err(Errno::EINVAL), "it has no context");
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0));
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Err(Errno::EEXIST));
    assert_eq!((op(&world, &guest, Op::IS_UP, 1, 0), op(&world, &guest, Op::UP, 1, 0)), (Ok(0), Ok(0)));
    assert_eq!((op(&world, &guest, Op::IS_UP, 1, 0), op(&world, &guest, Op::UP, 1, 0)), (Ok(1), Ok(0)));
    scripts.push(id, |context| {
        assert_eq!(context.registers.rip, BASE + 0x40);
        Exit::Kicked
    });
    world.turns(0, 2);
    assert_eq!(scripts.left(id), 0);
    // On another pcpu, once the first has saved it.
    scripts.push(id, |_| Exit::Kicked);
    world.turns(0, 1);
    world.turns(1, 1);
    assert_eq!(scripts.left(id), 0);
    assert_eq!((op(&world, &guest, Op::DOWN, 1, 0), op(&world, &guest, Op::IS_UP, 1, 0)), (Ok(0), Ok(0)));
    scripts.push(id, |_| panic!("it was stopped"));
    world.turns(0, 3);
    world.turns(1, 3);
    world.check_end(vec![guest]);
}

#[test]
fn the_last_vcpu_that_stops_takes_the_domain_with_it() {
    let mut world = World::new();
    let guest = world.guest();
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0));
    assert_eq!(op(&world, &guest, Op::UP, 1, 0), Ok(0));
    assert_eq!(op(&world, &guest, Op::DOWN, 0, 0), Ok(0), "itself");
    assert_eq!(call_by(&world.services, &guest, 1, 24, &[Op::IS_UP.0, 0]), 0);
    let last = world.services.clone();
    on(&guest, 1, |vcpu| {
        syscall(&mut vcpu.context, 24, &[Op::DOWN.0, 1]);
        let outcome = dispatch(&last, &guest.domain, &guest.domain.vcpus()[1], vcpu, true);
        assert_eq!(outcome.unwrap(), Outcome::Ended);
    });
    let stage = guest.domain.life().stage();
    assert!(matches!(stage, Stage::Dying(End::Stopped)), "{stage:?}");
    world.check_end(vec![guest]);
}

/// What no vCPU can start with.
const SPOILT: [fn(&mut GuestContext, &Guest); 18] = [
    |first, _| first.user_regs.rip = 1 << 47,
    |first, _| first.user_regs.rsp = 1 << 63,
    |first, _| first.kernel_sp = 1 << 47,
    |first, _| first.fs_base = 1 << 47,
    |first, _| first.gs_base_kernel = 1 << 47,
    |first, _| first.gs_base_user = 1 << 47,
    |first, _| first.event_callback_eip = 1 << 47,
    |first, _| first.failsafe_callback_eip = 1 << 47,
    |first, _| first.syscall_callback_eip = 1 << 47,
    |first, _| first.trap_ctxt[255].address = 1 << 47,
    |first, _| first.ldt_ents = 1,
    |first, _| first.gdt_ents = 7169,
    |first, _| first.gdt_ents = 1 << 32,
    |first, guest| (first.gdt_ents, first.gdt_frames[0]) = (1, guest.l1),
    |first, _| first.flags = 0,
    |first, guest| first.ctrlreg[3] = guest.pages[20].address(),
    |first, _| first.ctrlreg[3] = u64::MAX,
    |first, guest| first.ctrlreg[1] = guest.l1.address(),
];

#[test]
fn a_context_that_no_vcpu_can_start_with_is_refused() {
    let mut world = World::new();
    let (guest, other) = (world.guest(), world.guest());
    for (row, spoil) in SPOILT.iter().enumerate() {
        let mut first = context(&guest);
        spoil(&mut first, &guest);
        assert!(initialise(&world, &guest, 1, &first).is_err(), "row {row}");
        assert_eq!(op(&world, &guest, Op::UP, 1, 0), Err(Errno::EINVAL), "row {row}");
    }
    let mut first = context(&guest);
    first.ctrlreg[3] = other.root.address();
    assert!(initialise(&world, &guest, 1, &first).is_err(), "another domain's root");
    assert_eq!(op(&world, &guest, Op::INITIALISE, 1, page(31) + 8), Err(Errno::EFAULT));
    assert_eq!(op(&world, &guest, Op::INITIALISE, 1, BASE - 4096), Err(Errno::EFAULT));
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0), "and then it can be started");
    for vcpu in [4, 31, 32, u64::from(u32::MAX), 1 << 32 | 1, u64::MAX] {
        for call in [Op::INITIALISE, Op::UP, Op::DOWN, Op::IS_UP, Op::REGISTER_VCPU_INFO, Op(99)] {
            assert_eq!(op(&world, &guest, call, vcpu, AT), Err(Errno::ENOENT), "{call} of {vcpu}");
        }
    }
    for call in [Op::SET_SINGLESHOT_TIMER, Op::STOP_SINGLESHOT_TIMER, Op::GET_PHYSID] {
        assert_eq!(op(&world, &guest, call, 1, AT), Err(Errno::EINVAL), "{call} of another");
    }
    world.check_end(vec![guest, other]);
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11 ^ self.0 << 40
    }
}

#[test]
fn a_wild_context_is_refused_or_made_harmless() {
    let mut numbers = Numbers(7);
    let mut started = 0;
    for _ in 0..60 {
        let mut world = World::new();
        let guest = world.guest();
        let mut first = context(&guest);
        // A good one of which some words are anything: but for the first, half of them canonical.
        for _ in 0..numbers.next() % 8 {
            let at = 512 + numbers.next() as usize % (5168 - 512) / 8 * 8;
            let value = numbers.next() >> (numbers.next() % 64);
            first.as_mut_bytes()[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        if initialise(&world, &guest, 1, &first).is_ok() {
            started += 1;
            assert_eq!(op(&world, &guest, Op::UP, 1, 0), Ok(0));
            world.scripts.forever(identity(&guest, 1), |context| {
                assert_eq!((context.cs & 3, context.registers.rflags & 0x2_3200), (3, 0x200));
                syscall(context, 29, &[0])
            });
            world.turns(0, 2);
        }
        world.check_end(vec![guest]);
    }
    assert!(started > 5, "only {started} could be started");
}

#[test]
fn two_vcpus_initialise_a_third() {
    let mut world = World::new();
    let guest = world.guest();
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0));
    let start = Barrier::new(2);
    let results = std::thread::scope(|scope| {
        let by = |vcpu| {
            let (services, guest, start) = (&world.services, &guest, &start);
            scope.spawn(move || {
                start.wait();
                call_by(services, guest, vcpu, 24, &[Op::INITIALISE.0, 2, AT])
            })
        };
        [by(0), by(1)].map(|thread| thread.join().unwrap())
    });
    let eexist = Errno::EEXIST.to_return();
    assert!(results == [0, eexist] || results == [eexist, 0], "{results:x?}");
    world.check_end(vec![guest]);
}

fn register(world: &World, guest: &Guest, vcpu: u64, mfn: Mfn, offset: u32) -> Result<u64, Errno> {
    world.poke(guest, page(1), &RegisterVcpuInfo { mfn, offset, reserved: 0 });
    op(world, guest, Op::REGISTER_VCPU_INFO, vcpu, page(1))
}

#[test]
fn vcpu_info_moves_once_to_a_writable_page_of_the_domains() {
    let mut world = World::new();
    let (guest, other) = (world.guest(), world.guest());
    for table in [guest.l1, guest.root, other.pages[5], Mfn(1), Mfn(u64::MAX)] {
        assert_eq!(register(&world, &guest, 0, table, 0), Err(Errno::EINVAL), "{table}");
    }
    for offset in [4096 - 56, 4, 4096, u32::MAX] {
        assert_eq!(register(&world, &guest, 0, guest.pages[5], offset), Err(Errno::ENXIO), "{offset}");
    }
    assert_eq!(op(&world, &guest, Op::REGISTER_VCPU_INFO, 0, BASE - 4096), Err(Errno::EFAULT));
    guest.domain.vcpus()[0].info().set_cr2(5);
    assert_eq!(register(&world, &guest, 0, guest.pages[5], 4096 - 64), Ok(0));
    let info: [u64; 8] = world.peek(&guest, page(6) - 64);
    assert_eq!(
        info[..3],
        [0x0101, u64::MAX, 5],
        "pending, masked, everything worth a look, and the contents"
    );
    assert_eq!(register(&world, &guest, 0, guest.pages[6], 0), Err(Errno::EINVAL), "once");
    world.call(&guest, 14, &[page(5), 0, 2]).unwrap();
    let pin = |mfn| {
        world.services.mmu.pin(guest.domain.id(), mfn, Level::L1, &mut crate::paging::Budget::unlimited())
    };
    assert!(pin(guest.pages[5]).is_err(), "it stays writable, though nobody maps it");
    // Another vCPU's, while that does not run.
    assert_eq!(register(&world, &guest, 1, guest.pages[7], 64), Ok(0));
    assert_eq!(initialise(&world, &guest, 2, &context(&guest)), Ok(0));
    assert_eq!(op(&world, &guest, Op::UP, 2, 0), Ok(0));
    assert_eq!(register(&world, &guest, 2, guest.pages[7], 128), Err(Errno::EINVAL), "it runs");
    world.check_end(vec![guest, other]);
}

/// Two vCPUs change the same entries at once: mappings of the same pages, writable, read-only and none, pins, and
/// roots. Afterwards the books must balance.
#[test]
fn two_vcpus_hammer_the_same_tables() {
    let mut world = World::new();
    let guest = world.guest();
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0));
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for vcpu in 0..2 {
            let (services, guest, start) = (&world.services, &guest, &start);
            scope.spawn(move || {
                start.wait();
                hammer(services, guest, vcpu);
            });
        }
    });
    assert_eq!(world.call(&guest, 26, &[page(1), 0, 0, SELF]), Ok(0), "what is left over is done");
    world.check_end(vec![guest]);
}

fn hammer(services: &Services, guest: &Guest, vcpu: usize) {
    let mut numbers = Numbers(vcpu as u64 + 1);
    let requests = page(1 + vcpu as u64);
    for _ in 0..400 {
        let batch: Vec<MmuUpdate> = (0..16).map(|_| update(guest, &mut numbers)).collect();
        let poked = services.mmu.copy_to_guest(guest.domain.id(), guest.root, requests, batch.as_bytes());
        assert!(poked.is_ok());
        call_by(services, guest, vcpu, 1, &[requests, 16, 0, SELF]);
        let (frame, command) = (guest.pages[16 + numbers.next() as usize % 8], numbers.next() % 5);
        let pin = [command, frame.0, 0];
        assert!(services.mmu.copy_to_guest(guest.domain.id(), guest.root, requests, pin.as_bytes()).is_ok());
        call_by(services, guest, vcpu, 26, &[requests, 1, 0, SELF]);
    }
}

/// An update of an entry of pages 16 to 31, or of a frame among them that may be a table now.
fn update(guest: &Guest, numbers: &mut Numbers) -> MmuUpdate {
    let pick = |numbers: &mut Numbers| 16 + numbers.next() % 16;
    let flags = match numbers.next() % 3 {
        0 => PteFlags::empty(),
        1 => PteFlags::PRESENT,
        _ => PteFlags::PRESENT | PteFlags::WRITABLE,
    };
    let val = Pte::new(guest.pages[pick(numbers) as usize], flags).0;
    let ptr = match numbers.next() % 4 {
        0 => guest.pages[pick(numbers) as usize].address() + numbers.next() % 4 * 8,
        _ => guest.l1.address() + Level::L1.index(page(pick(numbers))) as u64 * 8,
    };
    MmuUpdate { ptr, val }
}

const AREA: u64 = page(9) + 40;

fn register_area(world: &World, guest: &Guest, vcpu: u64, address: u64) -> Result<u64, Errno> {
    world.poke(guest, AT, &RegisterRunstateMemoryArea { address });
    op(world, guest, Op::REGISTER_RUNSTATE_MEMORY_AREA, vcpu, AT)
}

fn runstate(world: &World, guest: &Guest) -> VcpuRunstateInfo {
    world.peek(guest, AREA)
}

/// Two guests want one pcpu all the time: what the one runs, the other is robbed of.
#[test]
fn stolen_time_is_the_time_that_others_ran() {
    let mut world = World::new();
    let (guest, other) = (world.guest(), world.guest());
    assert_eq!(register_area(&world, &guest, 0, AREA), Ok(0));
    let start = world.now();
    for (guest, ran) in [(&guest, 300), (&other, 5_000)] {
        let clock = world.clock.clone();
        world.scripts.forever(guest.identity(), move |context| {
            clock.advance(ran);
            syscall(context, 29, &[0])
        });
    }
    world.turns(0, 8);
    let info = runstate(&world, &guest);
    assert_eq!((info.state, info.padding), (Runstate::RUNNABLE, 0));
    let [running, runnable, blocked, offline] = info.time;
    assert_eq!((blocked, running), (0, 4 * 300), "four of the eight turns were its own");
    assert!((3 * 5_000..=4 * 5_000).contains(&(runnable - (start - offline))), "{info:?}");
    let mut now = info;
    assert_eq!(op(&world, &guest, Op::GET_RUNSTATE_INFO, 0, AREA), Ok(0));
    now.time[1] += world.now() - info.state_entry_time;
    assert_eq!(runstate(&world, &guest), now, "with what it does still");
    world.check_end(vec![guest, other]);
}

#[test]
fn a_vcpu_that_sleeps_is_blocked_and_one_that_was_stopped_is_offline() {
    let mut world = World::new();
    let guest = world.guest();
    assert_eq!(register_area(&world, &guest, 0, AREA), Ok(0));
    world.script(&guest, |context| syscall(context, 29, &[1, 0]));
    world.turns(0, 1);
    assert_eq!(runstate(&world, &guest).state, Runstate::BLOCKED);
    let slept = 7_000;
    world.clock.advance(slept);
    guest.domain.wake(pv_abi::VcpuId(0));
    let ran = runstate(&world, &guest).time[0];
    world.turns(0, 1);
    let info = runstate(&world, &guest);
    assert_eq!((info.state, info.time[2]), (Runstate::RUNNABLE, slept));
    assert!(info.time[0] >= ran);

    // Of a vCPU that never ran, too.
    assert_eq!(op(&world, &guest, Op::GET_RUNSTATE_INFO, 1, AREA), Ok(0));
    let now = world.now();
    let never =
        VcpuRunstateInfo { state: Runstate::OFFLINE, padding: 0, state_entry_time: 0, time: [0, 0, 0, now] };
    assert_eq!(runstate(&world, &guest), never);
    assert_eq!(initialise(&world, &guest, 1, &context(&guest)), Ok(0));
    assert_eq!(op(&world, &guest, Op::UP, 1, 0), Ok(0));
    assert_eq!(op(&world, &guest, Op::GET_RUNSTATE_INFO, 1, AREA), Ok(0));
    assert_eq!(runstate(&world, &guest).state, Runstate::RUNNABLE);
    assert_eq!(op(&world, &guest, Op::DOWN, 1, 0), Ok(0));
    assert_eq!(register_area(&world, &guest, 1, AREA), Ok(0), "one vCPU asks for another");
    assert_eq!(runstate(&world, &guest).state, Runstate::OFFLINE);
    world.check_end(vec![guest]);
}

#[test]
fn a_runstate_area_is_the_kernels_whatever_runs_and_need_not_be_there() {
    let mut world = World::new();
    let guest = world.guest();
    let fault = Err(Errno::EFAULT);
    for address in [0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff, 0xffff_7fff_ffff_ffd1] {
        assert_eq!(register_area(&world, &guest, 0, address), fault, "the hypervisor's");
    }
    assert_eq!(op(&world, &guest, Op::REGISTER_RUNSTATE_MEMORY_AREA, 0, BASE - 4096), fault);
    assert_eq!(op(&world, &guest, Op::GET_RUNSTATE_INFO, 0, BASE - 4096), fault);
    assert_eq!(op(&world, &guest, Op::REGISTER_RUNSTATE_MEMORY_AREA, 4, AT), Err(Errno::ENOENT));
    // What is not mapped, not canonical, or a table.
    let table = MmuUpdate {
        ptr: guest.l1.address() + Level::L1.index(page(30)) as u64 * 8,
        val: guest.l1.address() | 5,
    };
    world.poke(&guest, page(1), &table);
    assert_eq!(world.call(&guest, 1, &[page(1), 1, 0, SELF]), Ok(0));
    for address in [BASE - 4096, BASE - 8, 1 << 63, u64::MAX, page(30)] {
        assert_eq!(register_area(&world, &guest, 0, address), Ok(0), "{address:#x}");
        world.turns(0, 1);
    }
    assert!(!guest.domain.life().has_ended());

    assert_eq!(register_area(&world, &guest, 0, AREA), Ok(0));
    world.poke(&guest, AREA, &[0_u8; 48]);
    let info = VcpuRunstateInfo { state_entry_time: 7, ..runstate(&world, &guest) };
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.user_for_test(&world.services.mmu, guest.user_root);
        vcpu.publish_runstate(&world.services.mmu, AREA, &info);
    });
    assert_eq!(runstate(&world, &guest), info, "also while a program runs");
    crate::testing::recover(&world, &guest);
    assert_eq!(register_area(&world, &guest, 0, 0), Ok(0), "no more of that");
    world.poke(&guest, AREA, &[0_u8; 48]);
    world.turns(0, 1);
    assert_eq!(world.peek::<[u8; 48]>(&guest, AREA), [0; 48]);
    world.check_end(vec![guest]);
}

/// With the assist on, the mark is there before anything else is written, and gone at the end.
#[test]
fn an_update_of_the_runstate_is_marked_where_that_was_asked_for() {
    let mut world = World::new();
    let guest = world.guest();
    // The entry time lies in a page of its own: without that, nothing at all is written.
    let area = page(10) - 8;
    assert_eq!(register_area(&world, &guest, 0, area), Ok(0));
    assert_eq!(world.call(&guest, 21, &[0, 5]), Ok(0));
    world.turns(0, 1);
    let info: VcpuRunstateInfo = world.peek(&guest, area);
    assert_eq!(info.state_entry_time & VcpuRunstateInfo::UPDATE, 0);
    assert_ne!(info.state_entry_time, 0);
    world.poke(&guest, area, &0x77_u32);
    assert_eq!(world.call(&guest, 14, &[page(10), 0, 0]), Ok(0));
    world.turns(0, 1);
    assert_eq!(world.peek::<u32>(&guest, area), 0x77, "the mark comes first");
    assert_eq!(world.call(&guest, 21, &[1, 5]), Ok(0));
    world.turns(0, 1);
    assert_ne!(world.peek::<u32>(&guest, area), 0x77);
    world.check_end(vec![guest]);
}
