//! Page tables, descriptors, and what memory there is.

use crate::hypercall::Outcome;
use crate::machine::Root;
use crate::testing::{BASE, Guest, PAGES, World, page};
use pv_abi::grant_table::{GrantStatus, QuerySize, SetupTable};
use pv_abi::memory::{E820Entry, MachphysMapping, MemoryMap};
use pv_abi::mmu::{MmuExtCommand as C, MmuExtOp, MmuUpdate};
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::{DomId, Errno, Mfn};
use zerocopy::IntoBytes;

const SELF: u64 = DomId::SELF.0 as u64;
const RO: PteFlags = PteFlags::PRESENT;
const RW: PteFlags = PteFlags::PRESENT.union(PteFlags::WRITABLE);
const UNMAPPED: u64 = BASE - 4096;

/// Machine address of the L1 entry that maps a page.
fn entry_of(guest: &Guest, index: u64) -> u64 {
    guest.l1.address() + Level::L1.index(page(index)) as u64 * 8
}

fn put<T: IntoBytes + zerocopy::Immutable>(world: &World, guest: &Guest, requests: &[T]) {
    world.poke(guest, page(1), requests);
    world.poke(guest, page(2), &0xaaaa_aaaa_u32);
}

fn done(world: &World, guest: &Guest) -> u32 {
    world.peek(guest, page(2))
}

pub fn mmu_update(world: &World, guest: &Guest) {
    let set = |index: u64, to: u64, flags| MmuUpdate {
        ptr: entry_of(guest, index),
        val: Pte::new(guest.pages[to as usize], flags).0,
    };
    put(world, guest, &[set(30, 31, RO), set(29, 28, RW)]);
    assert_eq!(world.call(guest, 1, &[page(1), 2, page(2), SELF]), Ok(0));
    assert_eq!(done(world, guest), 2);
    world.poke(guest, page(31), &77_u64);
    assert_eq!(world.peek::<u64>(guest, page(30)), 77);

    let bad = MmuUpdate { ptr: entry_of(guest, 27), val: Pte::new(guest.root, RW).0 };
    put(world, guest, &[set(30, 30, RW), bad, set(29, 29, RW)]);
    assert!(world.call(guest, 1, &[page(1), 3, page(2), SELF]).is_err(), "a table is never writable");
    assert_eq!(done(world, guest), 1, "what came before is done, what comes after is not");
    assert_eq!(world.peek::<u64>(guest, page(30)), 0);
    put(world, guest, &[set(30, 31, RO)]);
    assert_eq!(world.call(guest, 1, &[page(1), 1, 0, 0]), Err(Errno::EPERM), "another domain");
    assert_eq!(world.call(guest, 1, &[page(1), 1, 0, SELF]), Ok(0), "nobody asks how many");
    assert_eq!(world.call(guest, 1, &[page(1), 0, page(2), SELF]), Ok(0));
    assert_eq!(world.call(guest, 1, &[UNMAPPED, 1, page(2), SELF]), Err(Errno::EFAULT));
    assert_eq!(done(world, guest), 0);
    assert_eq!(world.call(guest, 1, &[page(1), 1, UNMAPPED, SELF]), Err(Errno::EFAULT));
}

/// Requests are read many at a time; what can be read of a list is still carried out, as if they were read singly.
#[test]
fn a_list_that_ends_in_an_unmapped_page_is_carried_out_up_to_there() {
    let mut world = World::new();
    let guest = world.guest();
    let set =
        |to: u64| MmuUpdate { ptr: entry_of(&guest, 30), val: Pte::new(guest.pages[to as usize], RO).0 };
    let end = page(PAGES); // the first address that is not mapped
    world.poke(&guest, end - 48, [set(20), set(21), set(22)].as_slice());
    assert_eq!(world.call(&guest, 1, &[end - 48, 5, page(2), SELF]), Err(Errno::EFAULT));
    assert_eq!(done(&world, &guest), 3);
    world.poke(&guest, page(22), &5_u64);
    assert_eq!(world.peek::<u64>(&guest, page(30)), 5, "the third was carried out");
    world.check_end(vec![guest]);
}

#[test]
fn a_long_batch_is_interrupted_and_goes_on() {
    let mut world = World::new();
    let guest = world.guest();
    let request = MmuUpdate { ptr: entry_of(&guest, 30), val: Pte::new(guest.pages[30], RW).0 };
    for place in 0..16 {
        world.poke(&guest, page(8 + place), [request; 256].as_slice());
    }
    world.poke(&guest, page(24) - 16, &MmuUpdate { ptr: entry_of(&guest, 30), val: 0 });
    world.on_vcpu(&guest, |handle, vcpu| {
        let registers = &mut vcpu.context.registers;
        (registers.rax, registers.rdi, registers.rsi) = (1, page(8), 4096);
        (registers.rdx, registers.r10) = (page(2), SELF);
        let services = &world.services;
        let mut runs = 0;
        let mut outcome = crate::hypercall::dispatch(services, &guest.domain, handle, vcpu, true).unwrap();
        while outcome == Outcome::Preempted {
            assert_eq!(vcpu.context.registers.rax, 1, "it has not returned");
            outcome = crate::hypercall::resume(services, &guest.domain, handle, vcpu).unwrap().unwrap();
            runs += 1;
        }
        assert!(runs >= 3, "{runs}");
        assert_eq!((outcome, vcpu.context.registers.rax, vcpu.continuation), (Outcome::Done(0), 0, None));
    });
    assert_eq!(done(&world, &guest), 4096);
    assert!(world.services.mmu.translate(guest.domain.id(), guest.root, page(30)).is_err());
    world.check_end(vec![guest]);
}

pub fn update_va_mapping(world: &World, guest: &Guest) {
    let to = |index: usize| Pte::new(guest.pages[index], RW).0;
    world.poke(guest, page(31), &5_u64);
    for flags in [0, 1, 2, 5, 6, page(1) | 1] {
        assert_eq!(world.call(guest, 14, &[page(30), to(31), flags]), Ok(0), "{flags:#x}");
    }
    assert_eq!(world.peek::<u64>(guest, page(30)), 5);
    assert_eq!(world.call(guest, 14, &[page(30), to(31), UNMAPPED | 1]), Err(Errno::EFAULT), "a wild mask");
    assert!(world.call(guest, 14, &[page(30), Pte::new(guest.l1, RW).0, 0]).is_err());
    assert!(world.call(guest, 14, &[0x1000, to(31), 0]).is_err(), "no table there");
    assert_eq!(world.call(guest, 14, &[page(30), 0, 2]), Ok(0));
    assert!(world.services.mmu.translate(guest.domain.id(), guest.root, page(30)).is_err());
}

fn ext(world: &World, guest: &Guest, ops: &[MmuExtOp]) -> Result<u64, Errno> {
    put(world, guest, ops);
    world.call(guest, 26, &[page(1), ops.len() as u64, page(2), SELF])
}

/// Turns page `index` into an empty page that nobody maps; its frame.
fn unmap(world: &World, guest: &Guest, index: u64) -> Mfn {
    assert_eq!(world.call(guest, 14, &[page(index), 0, 2]), Ok(0));
    guest.pages[index as usize]
}

pub fn mmuext(world: &World, guest: &Guest) {
    let one = |cmd, arg1: u64| ext(world, guest, &[MmuExtOp::new(cmd, arg1)]);
    for (index, cmd) in (24..).zip([C::PIN_L1_TABLE, C::PIN_L2_TABLE, C::PIN_L3_TABLE, C::PIN_L4_TABLE]) {
        let table = unmap(world, guest, index);
        assert_eq!(one(cmd, table.0), Ok(0), "{cmd}");
        assert!(one(cmd, table.0).is_err(), "pinned already");
        assert_eq!(one(C::UNPIN_TABLE, table.0), Ok(0));
        assert!(one(C::UNPIN_TABLE, table.0).is_err());
    }
    assert_eq!(one(C::NEW_USER_BASEPTR, guest.user_root.0), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.roots.user().map(Root::mfn), Some(guest.user_root)));
    assert_eq!(one(C::NEW_USER_BASEPTR, 0), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.roots.user(), None));
    assert!(one(C::NEW_BASEPTR, guest.pages[3].0).is_err(), "a writable page");
    assert!(one(C::NEW_BASEPTR, 3).is_err(), "the hypervisor's");
    assert!(one(C::PIN_L4_TABLE, u64::MAX).is_err());
    for cmd in [C::TLB_FLUSH_LOCAL, C::INVLPG_LOCAL, C::TLB_FLUSH_ALL, C::INVLPG_ALL, C::SET_LDT] {
        assert_eq!(one(cmd, page(1)), Ok(0), "{cmd}");
    }
    for (address, entries, errno) in
        [(page(1), 8, Errno::EOPNOTSUPP), (page(1), 8193, Errno::EINVAL), (page(1) + 8, 8, Errno::EINVAL)]
    {
        let local = MmuExtOp { arg2: entries, ..MmuExtOp::new(C::SET_LDT, address) };
        assert_eq!(ext(world, guest, &[local]), Err(errno), "{entries} local descriptors");
    }
    for cmd in [C::TLB_FLUSH_MULTI, C::INVLPG_MULTI] {
        assert_eq!(ext(world, guest, &[MmuExtOp { arg2: page(3), ..MmuExtOp::new(cmd, 0) }]), Ok(0));
        assert_eq!(
            ext(world, guest, &[MmuExtOp { arg2: UNMAPPED, ..MmuExtOp::new(cmd, 0) }]),
            Err(Errno::EINVAL)
        );
    }
    assert_eq!(one(C::FLUSH_CACHE, 0), Err(Errno::EACCES));
    assert_eq!(one(C::MARK_SUPER, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(one(MmuExtCommand::UNKNOWN, 0), Err(Errno::ENOSYS));
    let flush = MmuExtOp::new(C::TLB_FLUSH_LOCAL, 0);
    assert!(ext(world, guest, &[flush, MmuExtOp::new(MmuExtCommand::UNKNOWN, 0), flush]).is_err());
    assert_eq!(done(world, guest), 1);
    // To a new root last: it maps what the old one does.
    let root = unmap(world, guest, 23);
    let slot = Level::L4.index(BASE);
    let entry = world.machine.memory.entry(guest.root, slot).unwrap();
    world.machine.memory.exchange_entry(root, slot, entry, 0).unwrap();
    assert_eq!(one(C::NEW_BASEPTR, root.0), Ok(0));
    world.on_vcpu(guest, |_, vcpu| {
        assert_eq!((vcpu.context.root.mfn(), vcpu.roots.kernel().map(Root::mfn)), (root, Some(root)));
    });
    assert_eq!(world.call(guest, 26, &[page(1), 1, page(2), 0]), Err(Errno::EPERM));
}

/// An operation that nobody knows.
struct MmuExtCommand;

impl MmuExtCommand {
    const UNKNOWN: C = C(77);
}

const CODE: u64 = 0x00af_9b00_0000_ffff;
const CODE_DPL3: u64 = 0x00af_fb00_0000_ffff;

pub fn gdt(world: &World, guest: &Guest) {
    world.poke(guest, page(4), [0, CODE, 0].as_slice());
    let frame = unmap(world, guest, 4);
    let at = frame.address();
    world.poke(guest, page(1), &[frame.0]);
    assert_eq!(world.call(guest, 2, &[page(1), 3]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.context.descriptors, [0, CODE_DPL3, 0]));
    assert!(
        world.call(guest, 14, &[page(4), Pte::new(frame, RW).0, 0]).is_err(),
        "descriptors, not writable"
    );
    assert_eq!(world.call(guest, 10, &[at + 16, CODE]), Ok(0));
    world.on_vcpu(guest, |handle, vcpu| {
        assert!(handle.take_descriptors_stale());
        vcpu.reload_descriptors(&world.services.mmu);
        assert_eq!(vcpu.context.descriptors, [0, CODE_DPL3, CODE_DPL3]);
    });
    assert!(world.call(guest, 10, &[at, 0x0000_8c00_0000_0000]).is_err(), "a call gate");
    assert!(world.call(guest, 10, &[at + 4, CODE]).is_err());
    assert!(world.call(guest, 10, &[!7, CODE]).is_err());
    assert_eq!(world.call(guest, 2, &[page(1), 7169]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 2, &[UNMAPPED, 1]), Err(Errno::EFAULT));
    world.poke(guest, page(1), &[guest.l1.0]);
    assert!(world.call(guest, 2, &[page(1), 3]).is_err(), "a page table");
    world.on_vcpu(guest, |_, vcpu| assert_eq!(vcpu.context.descriptors.len(), 3, "nothing has changed"));
    // A selector for user mode brings the base that its descriptor has.
    const DATA: u64 = 0x12cf_f334_5678_ffff;
    assert_eq!(world.call(guest, 10, &[at + 16, DATA]), Ok(0));
    for (selector, base) in [(0x13, 0x1234_5678), (0x0b, 0), (0x1b, 0), (0x17, 0), (0xe02b, 0)] {
        assert_eq!(world.call(guest, 25, &[3, selector]), Ok(0));
        world.on_vcpu(guest, |_, vcpu| {
            assert_eq!((u64::from(vcpu.other_gs), vcpu.other_gs_base), (selector, base), "{selector:#x}");
        });
    }
    assert_eq!(world.call(guest, 2, &[0, 0]), Ok(0));
    world.on_vcpu(guest, |_, vcpu| assert!(vcpu.context.descriptors.is_empty()));
    assert_eq!(world.call(guest, 14, &[page(4), Pte::new(frame, RW).0, 0]), Ok(0), "writable again");
}

/// XSA-195, 298, where it is not the first frame that is bad.
#[test]
fn a_gdt_of_several_frames_is_checked_and_loaded_to_its_end() {
    let world = World::new();
    let guest = world.guest();
    const GATE: u64 = 0x0000_ec00_0008_0000;
    const ENTRIES: u64 = 512 * 2 + 3;
    let frames = [4, 5, 6].map(|n| {
        world.poke(&guest, page(n), [0, CODE, n].as_slice());
        unmap(&world, &guest, n)
    });
    world.poke(&guest, page(1), &frames.map(|frame| frame.0));
    let memory = world.services.mmu.memory();
    memory.store_u64(frames[2], 8 * 2, GATE).unwrap();
    assert!(world.call(&guest, 2, &[page(1), ENTRIES]).is_err(), "a call gate at the end");
    world.on_vcpu(&guest, |_, vcpu| assert!(vcpu.context.descriptors.is_empty()));
    for (n, frame) in (4..).zip(frames) {
        assert_eq!(world.call(&guest, 14, &[page(n), Pte::new(frame, RW).0, 0]), Ok(0), "its page again");
        assert_eq!(world.call(&guest, 14, &[page(n), 0, 0]), Ok(0));
    }
    memory.store_u64(frames[2], 8 * 2, 0).unwrap();
    assert_eq!(world.call(&guest, 2, &[page(1), ENTRIES]), Ok(0));
    world.on_vcpu(&guest, |_, vcpu| {
        assert_eq!(vcpu.context.descriptors.len() as u64, ENTRIES);
        let seconds: Vec<_> = [1, 513, 1025].map(|at| vcpu.context.descriptors[at]).into();
        assert_eq!(seconds, [CODE_DPL3; 3]);
    });
    for (n, frame) in (4..).zip(frames) {
        let writable = world.call(&guest, 14, &[page(n), Pte::new(frame, RW).0, 0]);
        assert!(writable.is_err(), "descriptors in all of them: {n}");
        assert!(world.call(&guest, 10, &[frame.address() + 16, GATE]).is_err(), "{n}");
    }
}

pub fn memory_op(world: &World, guest: &Guest) {
    world.poke(guest, page(1), &DomId::SELF);
    assert_eq!(world.call(guest, 12, &[3, page(1)]), Ok(PAGES + 10));
    assert_eq!(world.call(guest, 12, &[4, page(1)]), Ok(64));
    world.poke(guest, page(1), &DomId(77));
    assert_eq!(world.call(guest, 12, &[4, page(1)]), Err(Errno::EPERM));
    assert_eq!(world.call(guest, 12, &[12, page(1)]), Ok(0));
    let map: MachphysMapping = world.peek(guest, page(1));
    assert_eq!((map.v_start, map.max_mfn), (0xffff_8100_0000_0000, 511));
    world.poke(guest, page(1), &MemoryMap { nr_entries: 8, padding: 0, buffer: page(2) + 4090 });
    assert_eq!(world.call(guest, 12, &[9, page(1)]), Ok(0));
    assert_eq!(world.peek::<MemoryMap>(guest, page(1)).nr_entries, 1);
    let entry: E820Entry = world.peek(guest, page(2) + 4090);
    assert_eq!(entry, E820Entry { addr: 0, size: 64 << 12, kind: 1 });
    world.poke(guest, page(1), &MemoryMap { nr_entries: 0, padding: 0, buffer: page(2) });
    assert_eq!(world.call(guest, 12, &[9, page(1)]), Err(Errno::EINVAL));
    assert_eq!(world.call(guest, 12, &[2, 0]), Ok(512), "the frames of the machine");
    for op in [5, 7, 10, 14, 63] {
        assert_eq!(world.call(guest, 12, &[op, page(1)]), Err(Errno::ENOSYS), "{op}");
    }
}

pub fn grants(world: &World, guest: &Guest) {
    let set_up = |dom, nr_frames, frame_list| {
        let status = GrantStatus(77);
        let request = SetupTable { dom, padding0: 0, nr_frames, status, padding1: [0; 3], frame_list };
        world.poke(guest, page(1), &request);
        assert_eq!(world.call(guest, 20, &[2, page(1), 1]), Ok(0));
        world.peek::<SetupTable>(guest, page(1)).status
    };
    assert_eq!(set_up(DomId::SELF, 2, page(2)), GrantStatus::OKAY);
    let frames: [u64; 2] = world.peek(guest, page(2));
    assert_eq!(world.call(guest, 14, &[page(30), Pte::new(Mfn(frames[1]), RW).0, 2]), Ok(0), "it maps them");
    world.poke(guest, page(30), &1_u64);
    assert_eq!(set_up(DomId(9), 1, page(2)), GrantStatus::PERMISSION_DENIED);
    assert_eq!(set_up(DomId::SELF, 33, page(2)), GrantStatus::GENERAL_ERROR);
    assert_eq!(set_up(DomId::SELF, u32::MAX, page(2)), GrantStatus::GENERAL_ERROR);
    assert_eq!(set_up(DomId::SELF, 3, UNMAPPED), GrantStatus::BAD_VIRT_ADDR);
    assert_eq!(set_up(DomId::SELF, 3, u64::MAX - 7), GrantStatus::BAD_VIRT_ADDR);
    assert_eq!(world.call(guest, 20, &[2, page(1), 2]), Err(Errno::EINVAL));
    world.poke(guest, page(1), &DomId::SELF);
    assert_eq!(world.call(guest, 20, &[6, page(1), 1]), Ok(0));
    let size: QuerySize = world.peek(guest, page(1));
    assert_eq!((size.nr_frames, size.max_nr_frames, size.status), (3, 32, GrantStatus::OKAY));
    assert_eq!(world.call(guest, 20, &[10, page(1), 1]), Ok(0));
    assert_eq!(world.peek::<u32>(guest, page(1) + 4), 1);
    for (version, answer) in [(1, Ok(0)), (2, Err(Errno::ENOSYS)), (0, Err(Errno::EINVAL))] {
        world.poke(guest, page(1), &(version as u32));
        assert_eq!(world.call(guest, 20, &[8, page(1), 1]), answer, "{version}");
    }
    for op in [3, 4, 9, 11, 12, 99] {
        assert_eq!(world.call(guest, 20, &[op, page(1), 1]), Err(Errno::ENOSYS), "{op}");
    }
}
