//! Stores of a kernel to an L1 table, in a guest's memory.

use super::super::exception;
use super::*;
use crate::machine::Registers;
use crate::testing::{
    BASE, Guest, STACK, USER_BASE, World, at_each_look, change_what_is_read, meanwhile, page,
};
use pv_abi::Mfn;
use pv_abi::page_table::{Level, Pte, PteFlags};
use pv_abi::trap::TrapInfo;
use std::cell::Cell;
use std::rc::Rc;

const HANDLER: u64 = BASE + 0x800;
/// Where the L1 table is mapped read-only.
const TABLE: u64 = page(31);
/// The page whose entry is stored to.
const SLOT: u64 = 5;
const ASSIST: u64 = 2;
/// Present, a write, at CPL3.
const STORE: u64 = 0b111;

const RO: PteFlags = PteFlags::PRESENT.union(PteFlags::USER);
const RW: PteFlags = RO.union(PteFlags::WRITABLE);

fn guest(world: &World) -> Guest {
    let guest = world.guest();
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.traps.set(TrapInfo { vector: 14, flags: 0, cs: 0xe033, padding: 0, address: HANDLER });
        vcpu.kernel_stack = page(20);
    });
    map(world, &guest, TABLE, Pte::new(guest.l1, RO));
    assert_eq!(world.call(&guest, 21, &[0, ASSIST]), Ok(0));
    guest
}

fn map(world: &World, guest: &Guest, address: u64, entry: Pte) {
    assert_eq!(world.call(guest, 14, &[address, entry.0, 0]), Ok(0));
}

/// The address of a page's entry in the mapped table.
fn entry_of(index: u64) -> u64 {
    TABLE + Level::L1.index(page(index)) as u64 * 8
}

fn entry(world: &World, guest: &Guest, index: u64) -> Pte {
    world.services.mmu.memory().entry(guest.l1, Level::L1.index(page(index))).unwrap()
}

/// The entry of [`SLOT`], before anything is stored to it.
fn first(guest: &Guest) -> Pte {
    Pte::new(guest.pages[SLOT as usize], RW)
}

fn set(world: &World, guest: &Guest) {
    map(world, guest, page(SLOT), first(guest));
}

/// The kernel executes `code`, which raises a #PF at `cr2`; its registers then. RDI is the address of the entry where
/// `registers` says nothing else.
fn raise(
    world: &World,
    guest: &Guest,
    code: &[u8],
    registers: Registers,
    (error_code, cr2): (u64, u64),
) -> Registers {
    world.poke(guest, BASE, code);
    world.on_vcpu(guest, |handle, vcpu| {
        vcpu.context.registers = Registers { rip: BASE, rsp: STACK, rflags: 0x202, ..registers };
        exception(&world.services, vcpu, handle.info(), Fault { vector: 14, error_code, cr2 }).unwrap();
        vcpu.context.registers
    })
}

/// The kernel stores to the entry of [`SLOT`].
fn store(world: &World, guest: &Guest, code: &[u8], registers: Registers) -> Registers {
    let at = entry_of(SLOT);
    raise(world, guest, code, Registers { rdi: at, ..registers }, (STORE, at))
}

const MOV: &[u8] = &[0x48, 0x89, 0x07]; // mov [rdi], rax
const XCHG: &[u8] = &[0x48, 0x87, 0x07]; // xchg [rdi], rax
const LOCK_CMPXCHG: &[u8] = &[0xf0, 0x48, 0x0f, 0xb1, 0x0f]; // lock cmpxchg [rdi], rcx
const REP_STOS: &[u8] = &[0xf3, 0x48, 0xab];
const REP_MOVS: &[u8] = &[0xf3, 0x48, 0xa5];

/// An instruction, RAX and RCX before, the entry after, the same registers after, and the arithmetic flags.
type Form<'a> = (&'a str, &'a [u8], [u64; 2], u64, [u64; 2], u64);

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
/// Those that are set before.
const BEFORE: u64 = CF | ZF | 1 << 11;

#[test]
fn each_form_does_what_the_processor_does() {
    let world = World::new();
    let guest = guest(&world);
    let old = first(&guest).0;
    let other = Pte::new(guest.pages[6], RW).0;
    let (a, d, nx) = (1 << 5, 1 << 6, 1 << 63);
    let forms: &[Form<'_>] = &[
        ("mov reg", MOV, [other, 0], other, [other, 0], BEFORE),
        (
            "mov reg, absent",
            MOV,
            [0x1234_5678_9abc_def0, 0],
            0x1234_5678_9abc_def0,
            [0x1234_5678_9abc_def0, 0],
            BEFORE,
        ),
        ("mov imm", &[0x48, 0xc7, 0x07, 0x30, 0, 0, 0x80], [0; 2], 0xffff_ffff_8000_0030, [0; 2], BEFORE),
        ("mov 32", &[0x89, 0x07], [other | nx, 0], other, [other | nx, 0], BEFORE),
        ("mov 16", &[0x66, 0x89, 0x07], [0, 0], old & !0xffff, [0, 0], BEFORE),
        ("mov 8", &[0x88, 0x07], [0x27, 0], old | a, [0x27, 0], BEFORE),
        (
            "mov ah",
            &[0x88, 0x67, 0x01],
            [old & 0xff00 | 0xe00, 0],
            old | 0xe00,
            [old & 0xff00 | 0xe00, 0],
            BEFORE,
        ),
        ("movnti", &[0x48, 0x0f, 0xc3, 0x07], [other, 0], other, [other, 0], BEFORE),
        ("xchg", XCHG, [other, 0], other, [old, 0], BEFORE),
        ("xchg with nothing", XCHG, [0, 0], 0, [old, 0], BEFORE),
        ("xchg 32", &[0x87, 0x07], [nx | old & !2, 0], old & !2, [old & 0xffff_ffff, 0], BEFORE),
        ("cmpxchg", LOCK_CMPXCHG, [old, other], other, [old, other], ZF | PF),
        ("cmpxchg without lock", &LOCK_CMPXCHG[1..], [old, 0], 0, [old, 0], ZF | PF),
        ("cmpxchg of another", LOCK_CMPXCHG, [old + 1, other], old, [old, other], 0),
        ("cmpxchg of less", LOCK_CMPXCHG, [old - 1, other], old, [old, other], CF | AF | SF | PF),
        ("cmpxchg 32", &[0xf0, 0x0f, 0xb1, 0x0f], [nx | old, other], other, [nx | old, other], ZF | PF),
        ("cmpxchg 32 of another", &[0xf0, 0x0f, 0xb1, 0x0f], [nx, other], old, [old, other], u64::MAX),
        ("and 8", &[0xf0, 0x80, 0x27, 0xfd], [0; 2], old & !2, [0; 2], PF),
        ("and 8, all", &[0xf0, 0x80, 0x27, 0x00], [0; 2], old & !0xff, [0; 2], ZF | PF),
        ("and 64", &[0xf0, 0x48, 0x21, 0x07], [!2, 0], old & !2, [!2, 0], PF),
        ("and 64 imm", &[0xf0, 0x48, 0x83, 0x27, 0xfd], [0; 2], old & !2, [0; 2], PF),
        ("or 8", &[0xf0, 0x80, 0x0f, 0x20], [0; 2], old | a, [0; 2], PF),
        ("or 8, two bits", &[0xf0, 0x80, 0x0f, 0x60], [0; 2], old | a | d, [0; 2], 0),
        ("or 64", &[0xf0, 0x48, 0x09, 0x07], [nx | d, 0], old | nx | d, [nx | d, 0], SF | PF),
        ("xor 64", &[0x48, 0x31, 0x07], [2, 0], old & !2, [2, 0], PF),
        ("btr imm", &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x41], [0; 2], old & !2, [0; 2], BEFORE),
        ("btr imm of a clear bit", &[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], [0; 2], old, [0; 2], BEFORE & !CF),
        ("bts imm", &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 9], [0; 2], old | 1 << 9, [0; 2], BEFORE & !CF),
        ("btc imm", &[0xf0, 0x48, 0x0f, 0xba, 0x3f, 1], [0; 2], old & !2, [0; 2], BEFORE),
        ("btr reg", &[0xf0, 0x48, 0x0f, 0xb3, 0x07], [1, 0], old & !2, [1, 0], BEFORE),
        ("bts reg", &[0xf0, 0x48, 0x0f, 0xab, 0x07], [63, 0], old | nx, [63, 0], BEFORE & !CF),
        ("bts 32 reg, above", &[0xf0, 0x0f, 0xab, 0x07], [58, 0], old | 1 << 58, [58, 0], BEFORE & !CF),
        (
            "btr reg, from behind",
            &[0xf0, 0x48, 0x0f, 0xb3, 0x47, 0x10],
            [u64::MAX - 126, 0],
            old & !2,
            [u64::MAX - 126, 0],
            BEFORE,
        ),
        ("stos", &REP_STOS[1..], [other, 0], other, [other, 0], BEFORE),
    ];
    for &(name, code, [rax, rcx], new, after, flags) in forms {
        set(&world, &guest);
        let at = entry_of(SLOT);
        world.poke(&guest, BASE, code);
        let registers = Registers {
            rax,
            rcx,
            rdi: at,
            rip: BASE,
            rsp: STACK,
            rflags: 0x202 | BEFORE,
            ..Registers::default()
        };
        let end = world.on_vcpu(&guest, |handle, vcpu| {
            vcpu.context.registers = registers;
            exception(&world.services, vcpu, handle.info(), Fault { vector: 14, error_code: STORE, cr2: at })
                .unwrap();
            vcpu.context.registers
        });
        assert_eq!(end.rip, BASE + code.len() as u64, "{name}");
        assert_eq!(entry(&world, &guest, SLOT), Pte(new), "{name}");
        assert_eq!([end.rax, end.rcx], after, "{name}");
        let arithmetic = CF | PF | AF | ZF | SF | 1 << 11;
        if flags != u64::MAX {
            assert_eq!(end.rflags & arithmetic, flags, "{name}");
        }
        assert_eq!(end.rflags & !arithmetic, 0x202, "{name}");
        assert_eq!(
            Registers { rax, rcx, rdi: at, rip: BASE, rflags: 0x202 | BEFORE, ..end },
            registers,
            "{name}"
        );
    }
    finish(world, guest);
}

/// The processor's answer to nothing of this: the kernel gets its fault, and all is as it was.
fn check_bounced(world: &World, guest: &Guest, what: &str, code: &[u8], rax: u64, fault: (u64, u64)) {
    let old = entry(world, guest, SLOT);
    let registers = Registers { rax, rcx: 3, rdi: fault.1, ..Registers::default() };
    let end = raise(world, guest, code, registers, fault);
    assert_eq!((end.rip, end.rax, end.rcx, end.rdi), (HANDLER, rax, 3, fault.1), "{what}");
    assert_eq!(entry(world, guest, SLOT), old, "{what}");
    let cr2 = world.on_vcpu(guest, |handle, _| {
        let mut bytes = [0; 8];
        let frame = guest.domain.shared().frame();
        assert_eq!(handle.key().domain, guest.domain.id());
        world.services.mmu.memory().read(frame, 16, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    assert_eq!(cr2, fault.1, "{what}");
}

#[test]
fn an_update_that_is_refused_is_the_guests_fault() {
    let world = World::new();
    let (guest, other) = (guest(&world), world.guest());
    let layout = world.services.mmu.layout().clone();
    let at = entry_of(SLOT);
    let entries = [
        ("another domain's page", Pte::new(other.pages[0], RO)),
        ("another domain's table", Pte::new(other.l1, RO)),
        ("a writable mapping of this table", Pte::new(guest.l1, RW)),
        ("a writable mapping of the root", Pte::new(guest.root, RW)),
        ("the hypervisor's first frame", Pte::new(Mfn(0), RO)),
        ("the M2P, writable", Pte::new(Mfn(layout.m2p.start), RW)),
        ("a frame beyond memory", Pte::new(Mfn(layout.frames), RO)),
        ("a protection key", Pte(first(&guest).0 | 1 << 59)),
    ];
    for (what, value) in entries {
        set(&world, &guest);
        for code in [MOV, XCHG, &[0x48, 0xab], REP_STOS] {
            check_bounced(&world, &guest, what, code, value.0, (STORE, at));
        }
        let expected = Registers { rax: first(&guest).0, rcx: value.0, ..Registers::default() };
        assert_eq!(store(&world, &guest, LOCK_CMPXCHG, expected).rip, HANDLER, "{what}");
        assert_eq!(entry(&world, &guest, SLOT), first(&guest), "{what}");
    }
    let root_read_only = Pte::new(guest.root, RO);
    map(&world, &guest, page(SLOT), root_read_only);
    for code in [&[0xf0, 0x48, 0x0f, 0xba, 0x2f, 1][..], &[0xf0, 0x80, 0x0f, 2], &[0x48, 0x83, 0x37, 2]] {
        check_bounced(&world, &guest, "the bit that makes a table writable", code, 0, (STORE, at));
    }
    let mut world = world;
    world.end(vec![other]);
    finish(world, guest);
}

#[test]
fn only_such_a_store_is_carried_out() {
    let world = World::new();
    let guest = guest(&world);
    set(&world, &guest);
    let (at, new) = (entry_of(SLOT), Pte::new(guest.pages[6], RW).0);
    for (what, code) in [
        ("a load", &[0x48, 0x8b, 0x07][..]),
        ("add", &[0x48, 0x01, 0x07]),
        ("cmpxchg16b", &[0xf0, 0x48, 0x0f, 0xc7, 0x0f]),
        ("a store of 16 bytes", &[0x0f, 0x11, 0x07]),
        ("a segment register", &[0x8c, 0x1f]),
        ("lock mov", &[0xf0, 0x48, 0x89, 0x07]),
        ("no instruction", &[0x06]),
        ("bts in another page", &[0x48, 0x0f, 0xab, 0x87, 0, 0x10, 0, 0]),
        ("mov to another page", &[0x48, 0x89, 0x87, 0, 0x10, 0, 0]),
        ("mov that is not aligned", &[0x48, 0x89, 0x47, 4]),
        ("stos with 32-bit addresses", &[0x67, 0x48, 0xab]),
        ("stos of 4 bytes", &[0xf3, 0xab]),
        ("push", &[0x50]),
        ("call", &[0xff, 0x17]),
    ] {
        check_bounced(&world, &guest, what, code, new, (STORE, at));
    }
    for (what, error_code) in
        [("not present", 0b110), ("a read", 0b101), ("a fetch", 0b1_0111), ("reserved", 0b1111)]
    {
        check_bounced(&world, &guest, what, MOV, new, (error_code, at));
    }
    // It would leave the entry what it is.
    check_bounced(&world, &guest, "zeros across two entries", &[0x48, 0x89, 0x47, 4], 0, (STORE, at));
    // Nor where the fault was not, though the table is mapped there, too.
    map(&world, &guest, page(30), Pte::new(guest.l1, RO));
    let before = &[0x48, 0x89, 0x87, 0, 0xf0, 0xff, 0xff]; // mov [rdi-0x1000], rax
    check_bounced(&world, &guest, "another mapping", before, new, (STORE, at));
    // Nor anywhere else.
    let root = Pte::new(guest.root, RO);
    map(&world, &guest, page(29), root);
    check_bounced(&world, &guest, "a root table", MOV, 0, (STORE, page(29)));
    map(&world, &guest, page(29), Pte::new(guest.pages[7], RO));
    check_bounced(&world, &guest, "a page that is no table", MOV, new, (STORE, page(29)));
    map(&world, &guest, page(29), Pte(0));
    check_bounced(&world, &guest, "nothing", MOV, new, (STORE, page(29)));
    check_bounced(&world, &guest, "a writable page", MOV, new, (STORE, page(9)));
    check_bounced(&world, &guest, "the hypervisor's range", MOV, new, (STORE, 0xffff_8000_0000_0000));
    check_bounced(&world, &guest, "no canonical address", MOV, new, (STORE, 0x8000_0000_0000_0000));
    assert_eq!(world.call(&guest, 21, &[1, ASSIST]), Ok(0));
    check_bounced(&world, &guest, "the assist is off", MOV, new, (STORE, at));
    finish(world, guest);
}

#[test]
fn code_of_32_bits_is_not_looked_at() {
    let world = World::new();
    let guest = guest(&world);
    set(&world, &guest);
    world.on_vcpu(&guest, |_, vcpu| vcpu.context.cs = 0xe023);
    check_bounced(&world, &guest, "32-bit code", MOV, 0, (STORE, entry_of(SLOT)));
}

#[test]
fn a_program_never_writes_a_table() {
    let world = World::new();
    let guest = guest(&world);
    let user_l1 = world.services.mmu.translate(guest.domain.id(), guest.user_root, USER_BASE).unwrap().table;
    let mapped = USER_BASE + 4096;
    let mmu = &world.services.mmu;
    let mut batch = Batch::new(guest.domain.id(), Budget::unlimited());
    let window = mmu.update_va_mapping(guest.user_root, mapped, Pte::new(user_l1, RO), &mut batch);
    assert_eq!(window.unwrap(), Progress::Done);
    mmu.finish(batch).unwrap();
    let memory = mmu.memory();
    memory.write(guest.user_pages[0], 0, MOV).unwrap();
    let index = Level::L1.index(USER_BASE);
    let old = memory.entry(user_l1, index).unwrap();
    world.on_vcpu(&guest, |handle, vcpu| {
        vcpu.user_for_test(mmu, guest.user_root);
        let at = mapped + index as u64 * 8;
        let registers = &mut vcpu.context.registers;
        (registers.rip, registers.rdi, registers.rax) = (USER_BASE, at, 0);
        exception(&world.services, vcpu, handle.info(), Fault { vector: 14, error_code: STORE, cr2: at })
            .unwrap();
        assert_eq!((vcpu.mode, vcpu.context.registers.rip), (Mode::Kernel, HANDLER));
    });
    let accessed = PteFlags::ACCESSED.bits();
    assert_eq!(memory.entry(user_l1, index).unwrap().0 | accessed, old.0 | accessed);
}

/// Of another domain's table that it lends, nothing more than reading is lent.
#[test]
fn a_table_that_another_domain_lends_is_not_written() {
    let world = World::new();
    let (guest, other) = (guest(&world), world.guest());
    set(&world, &guest);
    let mmu = &world.services.mmu;
    let lent = mmu.hold(other.domain.id(), other.l1, false).unwrap();
    let mut batch = Batch::new(guest.domain.id(), Budget::unlimited());
    let target = crate::paging::EntryTarget::Linear { root: guest.root, address: page(29) };
    mmu.map_lent(target, lent, PteFlags::empty(), &mut batch).unwrap().unwrap();
    mmu.finish(batch).unwrap();
    let at = page(29) + Level::L1.index(BASE) as u64 * 8;
    let old = mmu.memory().entry(other.l1, Level::L1.index(BASE)).unwrap();
    check_bounced(&world, &guest, "a lent table", MOV, 0, (STORE, at));
    assert_eq!(mmu.memory().entry(other.l1, Level::L1.index(BASE)).unwrap(), old);
    let free = Level::L1.index(page(crate::testing::PAGES));
    check_bounced(&world, &guest, "what maps nothing", MOV, 0x1230, (STORE, page(29) + free as u64 * 8));
    assert_eq!(mmu.memory().entry(other.l1, free).unwrap(), Pte(0));
    let mut world = world;
    world.end(vec![guest, other]);
}

#[test]
fn what_was_a_table_is_a_page_again() {
    let world = World::new();
    let guest = guest(&world);
    set(&world, &guest);
    let mmu = &world.services.mmu;
    let (domain, table) = (guest.domain.id(), guest.pages[8]);
    map(&world, &guest, page(8), Pte::new(table, RO));
    mmu.memory().zero(table).unwrap();
    assert_eq!(mmu.pin(domain, table, Level::L1, &mut Budget::unlimited()).unwrap(), Progress::Done);
    let registers = Registers { rax: first(&guest).0, rdi: page(8), ..Registers::default() };
    assert_eq!(raise(&world, &guest, MOV, registers, (STORE, page(8))).rip, BASE + 3);
    assert_eq!(mmu.memory().entry(table, 0).unwrap(), first(&guest));
    assert_eq!(mmu.unpin(domain, table, &mut Budget::unlimited()).unwrap(), Progress::Done);
    check_bounced(&world, &guest, "no table any more", MOV, 0, (STORE, page(8)));
    assert_eq!(mmu.memory().entry(table, 0).unwrap(), first(&guest));
    finish(world, guest);
}

/// At any moment a CPU marks the entry as used, between the look at it and its exchange among others. The mark is neither
/// lost nor untold.
#[test]
fn what_a_cpu_marks_meanwhile_is_not_lost() {
    const USED: u64 = PteFlags::ACCESSED.union(PteFlags::DIRTY).bits();
    let world = World::new();
    let guest = guest(&world);
    let (old, other) = (first(&guest).0, Pte::new(guest.pages[6], RW).0);
    let clears: [&[u8]; 3] =
        [&[0xf0, 0x80, 0x27, 0xfd], &[0xf0, 0x48, 0x0f, 0xba, 0x37, 1], &[0xc6, 0x47, 3, 0]];
    for (look, &code) in (0..12).flat_map(|look| clears.iter().map(move |code| (look, code))) {
        let (_, end, marked) = marked_at(&world, &guest, look, code, [0, 0]);
        let kept = if code[0] == 0xc6 { old & !0xff00_0000 } else { old & !2 };
        assert_eq!(end.0 | USED, kept | USED, "{code:x?} {look}");
        assert_eq!(end.0 & USED == USED, marked, "{code:x?} {look}");
    }
    let mut outcomes = std::collections::BTreeSet::new();
    for look in 0..12 {
        let (registers, end, marked) = marked_at(&world, &guest, look, XCHG, [other, 0]);
        assert_eq!((registers.rax & !USED, end.0 & !USED), (old, other));
        assert_eq!((registers.rax | end.0) & USED == USED, marked, "{look}");
        let (registers, end, _) = marked_at(&world, &guest, look, LOCK_CMPXCHG, [old, other]);
        let exchanged = registers.rflags & ZF != 0;
        outcomes.insert(exchanged);
        match exchanged {
            true => assert_eq!((registers.rax, end.0 & !USED), (old, other), "{look}"),
            false => assert_eq!((registers.rax, end.0), (old | USED, old | USED), "{look}"),
        }
    }
    assert_eq!(outcomes.len(), 2, "marked before and behind it");
    finish(world, guest);
}

/// The kernel executes `code`, with RAX and RCX, and when a frame's word is looked at for the time number `look`, a CPU
/// marks the entry of [`SLOT`]. The registers and the entry then, and whether there was such a look.
fn marked_at(
    world: &World,
    guest: &Guest,
    look: u32,
    code: &[u8],
    [rax, rcx]: [u64; 2],
) -> (Registers, Pte, bool) {
    set(world, guest);
    world.poke(guest, BASE, code);
    let (memory, table, looks) = (world.machine.memory.clone(), guest.l1, Rc::new(Cell::new(0)));
    let (offset, made) = (Level::L1.index(page(SLOT)) * 8, looks.clone());
    let end = world.on_vcpu(guest, |handle, vcpu| {
        let at = entry_of(SLOT);
        vcpu.context.registers =
            Registers { rax, rcx, rip: BASE, rsp: STACK, rdi: at, ..Registers::default() };
        at_each_look(Rc::new(move || {
            if looks.replace(looks.get() + 1) == look {
                memory.fetch_or_u64(table, offset, (PteFlags::ACCESSED | PteFlags::DIRTY).bits()).unwrap();
            }
        }));
        let fault = Fault { vector: 14, error_code: STORE, cr2: at };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        meanwhile(|| ());
        vcpu.context.registers
    });
    assert_eq!(end.rip, BASE + code.len() as u64, "{code:x?} {look}");
    (end, entry(world, guest, SLOT), made.get() > look)
}

/// Another vCPU writes over an instruction as soon as it was read. What is carried out is what was read, as a whole.
#[test]
fn a_store_is_what_it_was_when_it_was_fetched() {
    let world = World::new();
    let guest = guest(&world);
    let new = Pte::new(guest.pages[6], RW);
    for seed in 1..=300 {
        set(&world, &guest);
        world.poke(&guest, BASE, &[0x90_u8; 16]);
        change_what_is_read(Some((guest.domain.id(), seed)));
        let end = store(&world, &guest, XCHG, Registers { rax: new.0, ..Registers::default() });
        change_what_is_read(None);
        assert_eq!((end.rip, end.rax), (BASE + 3, first(&guest).0), "seed {seed}");
        assert_eq!(entry(&world, &guest, SLOT), new, "seed {seed}");
    }
    finish(world, guest);
}

#[test]
fn a_store_whose_end_is_gone_is_the_guests_fault() {
    let world = World::new();
    let guest = guest(&world);
    set(&world, &guest);
    // The window is the last page that is mapped, so this is in the one before it.
    map(&world, &guest, page(2), Pte(0));
    let at = page(2) - 2;
    world.poke(&guest, at, &MOV[..2]);
    let end = world.on_vcpu(&guest, |handle, vcpu| {
        let registers = Registers { rip: at, rsp: STACK, rdi: entry_of(SLOT), ..Registers::default() };
        vcpu.context.registers = registers;
        let fault = Fault { vector: 14, error_code: STORE, cr2: entry_of(SLOT) };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        vcpu.context.registers.rip
    });
    assert_eq!((end, entry(&world, &guest, SLOT)), (HANDLER, first(&guest)));
    // An instruction that lies in both is as good as any.
    map(&world, &guest, page(2), Pte::new(guest.pages[2], RW));
    world.poke(&guest, at, MOV);
    let end = world.on_vcpu(&guest, |handle, vcpu| {
        let registers = Registers { rip: at, rsp: STACK, rdi: entry_of(SLOT), ..Registers::default() };
        vcpu.context.registers = registers;
        let fault = Fault { vector: 14, error_code: STORE, cr2: entry_of(SLOT) };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        vcpu.context.registers.rip
    });
    assert_eq!((end, entry(&world, &guest, SLOT)), (at + 3, Pte(0)));
    finish(world, guest);
}

/// A table of 512 entries, all nothing, mapped read-only at page 8; nothing else maps by it.
fn whole_table(world: &World, guest: &Guest) -> Mfn {
    let (mmu, table) = (&world.services.mmu, guest.pages[8]);
    map(world, guest, page(8), Pte::new(table, RO));
    mmu.memory().zero(table).unwrap();
    let pinned = mmu.pin(guest.domain.id(), table, Level::L1, &mut Budget::unlimited());
    assert_eq!(pinned.unwrap(), Progress::Done);
    table
}

fn filled(world: &World, table: Mfn, with: Pte) -> usize {
    (0..512).filter(|&index| world.services.mmu.memory().entry(table, index).unwrap() == with).count()
}

#[test]
fn a_repeated_store_is_done_piece_by_piece() {
    let world = World::new();
    let guest = guest(&world);
    let table = whole_table(&world, &guest);
    let new = Pte::new(guest.pages[6], RW);
    let mut registers = Registers { rax: new.0, rcx: 100, rdi: page(8), ..Registers::default() };
    registers = raise(&world, &guest, REP_STOS, registers, (STORE, page(8)));
    assert_eq!((registers.rip, registers.rcx, registers.rdi), (BASE, 36, page(8) + 64 * 8));
    assert_eq!(filled(&world, table, new), 64);
    registers = raise(&world, &guest, REP_STOS, registers, (STORE, registers.rdi));
    assert_eq!((registers.rip, registers.rcx, registers.rdi), (BASE + 3, 0, page(8) + 100 * 8));
    assert_eq!((registers.rax, filled(&world, table, new)), (new.0, 100));

    // It ends with the page, whatever is left of it.
    let at = page(8) + 4096 - 16;
    let endless = Registers { rax: new.0, rcx: u64::MAX, rdi: at, ..Registers::default() };
    let end = raise(&world, &guest, REP_STOS, endless, (STORE, at));
    assert_eq!((end.rip, end.rcx, end.rdi), (BASE, u64::MAX - 2, page(9)));
    finish(world, guest);
}

#[test]
fn a_repeated_store_may_go_backwards() {
    let world = World::new();
    let guest = guest(&world);
    let table = whole_table(&world, &guest);
    let new = Pte::new(guest.pages[6], RW);
    world.poke(&guest, BASE, REP_STOS);
    let end = world.on_vcpu(&guest, |handle, vcpu| {
        let at = page(8) + 16;
        let flags = 0x202 | rflags::DF;
        vcpu.context.registers = Registers {
            rax: new.0,
            rcx: 3,
            rdi: at,
            rip: BASE,
            rsp: STACK,
            rflags: flags,
            ..Registers::default()
        };
        exception(&world.services, vcpu, handle.info(), Fault { vector: 14, error_code: STORE, cr2: at })
            .unwrap();
        vcpu.context.registers
    });
    assert_eq!((end.rip, end.rcx, end.rdi), (BASE + 3, 0, page(8) - 8));
    assert_eq!(filled(&world, table, new), 3);
    finish(world, guest);
}

#[test]
fn entries_are_moved_up_to_the_first_that_is_refused() {
    let world = World::new();
    let (guest, other) = (guest(&world), world.guest());
    let table = whole_table(&world, &guest);
    let (good, bad) = (Pte::new(guest.pages[6], RW), Pte::new(other.pages[0], RO));
    world.poke(&guest, page(10), &[good.0, good.0, bad.0, good.0]);
    let registers = Registers { rcx: 4, rsi: page(10), rdi: page(8), ..Registers::default() };
    let end = raise(&world, &guest, REP_MOVS, registers, (STORE, page(8)));
    assert_eq!((end.rip, end.rcx, end.rsi, end.rdi), (BASE, 2, page(10) + 16, page(8) + 16));
    assert_eq!(filled(&world, table, good), 2);
    let end = raise(&world, &guest, REP_MOVS, end, (STORE, page(8) + 16));
    assert_eq!((end.rip, end.rcx, end.rsi), (HANDLER, 2, page(10) + 16));
    // From where it cannot read, it moves nothing.
    let unreadable = Registers { rcx: 2, rsi: BASE - 4096, rdi: page(8), ..Registers::default() };
    assert_eq!(raise(&world, &guest, REP_MOVS, unreadable, (STORE, page(8))).rip, HANDLER);
    assert_eq!(filled(&world, table, good), 2);
    let mut world = world;
    world.end(vec![other]);
    finish(world, guest);
}

/// Everything comes back, and all counts are what the tables say.
fn finish(mut world: World, guest: Guest) {
    world.check_end(vec![guest]);
}

#[test]
fn a_single_step_over_a_store_traps_behind_it() {
    const DEBUG_HANDLER: u64 = HANDLER + 16;
    let world = World::new();
    let guest = guest(&world);
    world.on_vcpu(&guest, |_, vcpu| {
        vcpu.traps.set(TrapInfo { vector: 1, flags: 0, cs: 0xe033, padding: 0, address: DEBUG_HANDLER });
    });
    // Of a repeated instruction one entry, and one trap.
    for (code, rip, left) in [(MOV, BASE + 3, 2), (REP_STOS, BASE, 1)] {
        set(&world, &guest);
        world.poke(&guest, BASE, code);
        let at = entry_of(SLOT);
        let registers = world.on_vcpu(&guest, |handle, vcpu| {
            let rflags = 0x202 | rflags::TF;
            vcpu.context.registers =
                Registers { rip: BASE, rsp: STACK, rflags, rdi: at, rcx: 2, ..Registers::default() };
            let fault = Fault { vector: 14, error_code: STORE, cr2: at };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            vcpu.context.registers
        });
        assert_eq!((registers.rip, registers.rcx), (DEBUG_HANDLER, left), "{code:x?}");
        assert_eq!(world.peek::<[u64; 7]>(&guest, STACK - 56)[2], rip, "{code:x?}");
        assert_eq!(entry(&world, &guest, SLOT), Pte(0), "{code:x?}");
    }
}

/// A CPU marks an entry as accessed, and later as dirty: a store that meets both is carried out all the same.
#[test]
fn a_store_outlasts_both_marks() {
    let world = World::new();
    let guest = guest(&world);
    let code = [0xf0_u8, 0x80, 0x27, 0xfd]; // lock and byte [rdi], ~2
    for (first, second) in (0..12).flat_map(|second| (0..second).map(move |first| (first, second))) {
        set(&world, &guest);
        let (memory, table, looks) = (world.machine.memory.clone(), guest.l1, Cell::new(0));
        let offset = Level::L1.index(page(SLOT)) * 8;
        world.poke(&guest, BASE, &code);
        let end = world.on_vcpu(&guest, |handle, vcpu| {
            let at = entry_of(SLOT);
            vcpu.context.registers = Registers { rip: BASE, rsp: STACK, rdi: at, ..Registers::default() };
            at_each_look(Rc::new(move || {
                let look = looks.replace(looks.get() + 1);
                for (when, mark) in [(first, PteFlags::ACCESSED), (second, PteFlags::DIRTY)] {
                    if look == when {
                        memory.fetch_or_u64(table, offset, mark.bits()).unwrap();
                    }
                }
            }));
            let fault = Fault { vector: 14, error_code: STORE, cr2: at };
            exception(&world.services, vcpu, handle.info(), fault).unwrap();
            meanwhile(|| ());
            vcpu.context.registers
        });
        assert_eq!(end.rip, BASE + 4, "{first} {second}");
    }
    finish(world, guest);
}

#[test]
fn entries_may_be_moved_backwards() {
    let world = World::new();
    let guest = guest(&world);
    let table = whole_table(&world, &guest);
    let entries = [6, 7].map(|n| Pte::new(guest.pages[n], RW));
    world.poke(&guest, page(10), &entries.map(|entry| entry.0));
    world.poke(&guest, BASE, REP_MOVS);
    let end = world.on_vcpu(&guest, |handle, vcpu| {
        let (rsi, rdi, rflags) = (page(10) + 8, page(8) + 8, 0x202 | rflags::DF);
        let fault = Fault { vector: 14, error_code: STORE, cr2: rdi };
        vcpu.context.registers =
            Registers { rcx: 2, rsi, rdi, rip: BASE, rsp: STACK, rflags, ..Registers::default() };
        exception(&world.services, vcpu, handle.info(), fault).unwrap();
        vcpu.context.registers
    });
    assert_eq!((end.rip, end.rsi, end.rdi), (BASE + 3, page(10) - 8, page(8) - 8));
    assert_eq!([0, 1].map(|index| world.services.mmu.memory().entry(table, index).unwrap()), entries);
    finish(world, guest);
}
