//! Guests that store to their own page tables, for which they have asked (`VMASST_TYPE_writable_pagetables`): what a store
//! does, and what it must not do.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Condition, Guest, Host, Random, Reg, SCRATCH, TABLE, check_power_off};
use iced_x86::code_asm::{byte_ptr, qword_ptr, r12, r14, rax, rbx, rcx};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::page_table::{Level, Pte};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("page tables/stores do what they do to a page", as_to_a_page),
        kvm_test("page tables/stores take effect at once", at_once),
        kvm_test("page tables/stores of what is not the guest's", what_is_not_the_guests),
    ]
}

const ASSIST: u64 = 2;
/// Present, writable, for user mode.
const RW: u64 = 7;
const RO: u64 = 5;
/// An entry of the table that maps nothing that the kernel needs.
const FREE: u64 = 100;
/// Where the kernel stores what each instruction has left: 5 words for every store.
const RESULTS: u64 = TABLE;
/// A page that a test maps by such stores.
const PAGE: u64 = TABLE + 0x8_0000;

/// Addresses of a guest's tables, lowest level first, and of the L1 table that maps them: the same in every guest.
fn tables(host: &Host) -> Result<[u64; 5], Failed> {
    let probe = host.build(&Code::default())?;
    let table = |level, of| probe.plan.address(probe.pfn(probe.table(level, of)));
    let [l1, l2, l3, l4] = [Level::L1, Level::L2, Level::L3, Level::L4].map(|level| table(level, CODE));
    let tables = [l1, l2, l3, l4, table(Level::L1, l1)];
    probe.destroy()?;
    Ok(tables)
}

/// The address of the entry that maps `address`, in the L1 table at `table`.
fn entry_of(table: u64, address: u64) -> u64 {
    table + Level::L1.index(address) as u64 * 8
}

const CARRY: u64 = 1 << 0;
const ZERO: u64 = 1 << 6;
/// Carry, parity, auxiliary, zero, sign, overflow.
const ARITHMETIC: u64 = 0x8d5;
const AUXILIARY: u64 = 1 << 4;

/// An instruction that stores to `[rdi]`, and the flags that it defines.
const FORMS: [(&str, &[u8], u64); 24] = [
    ("mov [rdi], rax", &[0x48, 0x89, 0x07], ARITHMETIC),
    ("mov [rdi], eax", &[0x89, 0x07], ARITHMETIC),
    ("mov [rdi+4], eax", &[0x89, 0x47, 4], ARITHMETIC),
    ("mov [rdi+2], ax", &[0x66, 0x89, 0x47, 2], ARITHMETIC),
    ("mov [rdi+1], ch", &[0x88, 0x6f, 1], ARITHMETIC),
    ("mov qword [rdi], -2", &[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], ARITHMETIC),
    ("xchg [rdi], rax", &[0x48, 0x87, 0x07], ARITHMETIC),
    ("xchg [rdi+4], eax", &[0x87, 0x47, 4], ARITHMETIC),
    ("lock cmpxchg [rdi], rcx", &[0xf0, 0x48, 0x0f, 0xb1, 0x0f], ARITHMETIC),
    ("cmpxchg [rdi+4], ecx", &[0x0f, 0xb1, 0x4f, 4], ARITHMETIC),
    ("cmpxchg [rdi+3], cl", &[0x0f, 0xb0, 0x4f, 3], ARITHMETIC),
    ("lock and byte [rdi+1], 0x7d", &[0xf0, 0x80, 0x67, 1, 0x7d], ARITHMETIC & !AUXILIARY),
    ("lock and [rdi], rax", &[0xf0, 0x48, 0x21, 0x07], ARITHMETIC & !AUXILIARY),
    ("lock or byte [rdi+7], 0x80", &[0xf0, 0x80, 0x4f, 7, 0x80], ARITHMETIC & !AUXILIARY),
    ("lock or [rdi], rax", &[0xf0, 0x48, 0x09, 0x07], ARITHMETIC & !AUXILIARY),
    ("or word [rdi+4], cx", &[0x66, 0x09, 0x4f, 4], ARITHMETIC & !AUXILIARY),
    ("lock xor [rdi], rax", &[0xf0, 0x48, 0x31, 0x07], ARITHMETIC & !AUXILIARY),
    ("lock btr qword [rdi], 60", &[0xf0, 0x48, 0x0f, 0xba, 0x37, 60], CARRY | ZERO),
    ("lock bts qword [rdi], 62", &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 62], CARRY | ZERO),
    ("btc dword [rdi+4], 35", &[0x0f, 0xba, 0x7f, 4, 35], CARRY | ZERO),
    ("lock btr [rdi], r8", &[0xf0, 0x4c, 0x0f, 0xb3, 0x07], CARRY | ZERO),
    ("lock bts [rdi], r8", &[0xf0, 0x4c, 0x0f, 0xab, 0x07], CARRY | ZERO),
    ("bts [rdi+8], r9", &[0x4c, 0x0f, 0xab, 0x4f, 8], CARRY | ZERO),
    ("stosq", &[0x48, 0xab], ARITHMETIC),
];
const TRIES: usize = 3;

/// Each instruction stores to a page, where the processor carries it out, and to a table, where the hypervisor does. All
/// that either leaves is the same. No entry says that it is present, so it may hold anything.
fn as_to_a_page() -> Result<(), Failed> {
    let host = Host::new()?;
    let [table, ..] = tables(&host)?;
    let mut code = Code::default();
    code.catch_faults().hypercall(N::VM_ASSIST, &[0, ASSIST]);
    let mut random = Random::new(11);
    let mut results = RESULTS;
    for (name, instruction, _) in FORMS.iter().flat_map(|form| [form; TRIES]) {
        let mut word = || random.next() & !1;
        let (old, accumulator, count, flags) = (word(), word(), word(), word() >> 1 & (CARRY | ZERO) | 2);
        // Every other time there is what it expects.
        let accumulator = if name.contains("cmpxchg") && count & 2 == 0 { old } else { accumulator };
        for target in [SCRATCH + 0x800, table + FREE * 8] {
            code.set(target, old).mov(Reg::R8, 1 + count % 63).mov(Reg::R9, (count % 63).wrapping_sub(63));
            code.mov(Reg::Rcx, count).mov(Reg::Rdi, target).mov(Reg::Rbx, flags).mov(Reg::Rax, accumulator);
            code.asm(|a| {
                a.push(rbx)?;
                a.popfq()
            });
            code.raw(instruction).asm(|a| {
                a.pushfq()?;
                a.pop(rbx)
            });
            code.load(Reg::Rdx, target);
            for (index, register) in (0..).zip([Reg::Rdx, Reg::Rax, Reg::Rcx, Reg::Rbx, Reg::Rdi]) {
                code.store(results + index * 8, register);
            }
            results += 40;
        }
    }
    code.park();
    let guest = host.build(&code)?;
    guest.start()?;
    guest.wait_until_parked()?;
    for (index, (name, _, defined)) in FORMS.iter().enumerate() {
        for number in 0..TRIES {
            let at = |target: usize| RESULTS + ((index * TRIES + number) * 2 + target) as u64 * 40;
            let left = |target| -> Vec<u64> {
                let base = [SCRATCH + 0x800, table + FREE * 8][target];
                let word = |index: u64| guest.peek(at(target) + index * 8);
                vec![word(0), word(1), word(2), word(3) & defined, word(4) - base]
            };
            let (page, entry) = (left(0), left(1));
            check(page == entry, || format!("{name}: a page has {page:x?}, a table {entry:x?}"))?;
        }
    }
    check(guest.exits("exception") >= (FORMS.len() * TRIES) as u64, || "no store was carried out".into())?;
    guest.destroy()?;
    host.finish()
}

/// A kernel maps a page, takes the right to write it away, and unmaps it, with stores only. Each takes effect at once.
fn at_once() -> Result<(), Failed> {
    const ROUNDS: u64 = 200;
    const COUNT: u64 = SCRATCH + 0x100;
    const STALE: u64 = COUNT + 8;
    const ENTRY: u64 = COUNT + 16;
    let host = Host::new()?;
    let [table, ..] = tables(&host)?;
    let entry = entry_of(table, PAGE);
    let mut code = Code::default();
    code.catch_faults().hypercall(N::VM_ASSIST, &[0, ASSIST]);
    code.mov(Reg::R12, ROUNDS).mov(Reg::R14, entry).mov(Reg::Rax, 0).asm(|a| a.xchg(qword_ptr(r14), rax));
    let again = code.here();
    // From nothing to the page, and it can be written.
    code.mov(Reg::Rax, 0).load(Reg::Rcx, ENTRY).asm(|a| a.lock().cmpxchg(qword_ptr(r14), rcx));
    code.store(PAGE, Reg::R12).increment(COUNT);
    // It can be read only.
    code.asm(|a| a.lock().and(byte_ptr(r14), !2));
    let behind = code.here() + 18 + 8 + 8;
    code.resume_at(behind).store(PAGE, Reg::R12).increment(STALE);
    assert_eq!(code.here(), behind);
    code.load(Reg::Rax, PAGE).asm(|a| a.cmp(rax, r12));
    code.unless(Condition::Zero, |code| {
        code.increment(STALE);
    });
    // It cannot be read.
    code.mov(Reg::Rax, 0).asm(|a| a.mov(qword_ptr(r14), rax));
    let behind = code.here() + 18 + 8 + 8;
    code.resume_at(behind).load(Reg::Rax, PAGE).increment(STALE);
    assert_eq!(code.here(), behind);
    code.asm(|a| a.dec(r12)).jump(Condition::NotZero, again);
    code.power_off();
    let guest = host.build(&code)?;
    guest.poke(ENTRY, &(guest.mfn(PAGE).0 << 12 | RW));
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let (count, stale) = (guest.peek(COUNT), guest.peek(STALE));
    check(count == ROUNDS && stale == 0, || {
        format!("{count} rounds, {stale} accesses that were none any more")
    })?;
    host.finish()
}

/// What an entry must not say, whoever stores it.
fn evil(host: &Host, guest: &Guest) -> Vec<u64> {
    let canary = host.canary();
    let frames = host.hypervisor.services().mmu.layout().frames;
    let entry = |mfn: Mfn, flags| mfn.0 << 12 | flags;
    vec![
        entry(canary.mfn(CODE), RW),
        entry(canary.mfn(CODE), RO),
        entry(canary.table(Level::L1, CODE), RO),
        entry(guest.built.root, RW),
        entry(guest.table(Level::L1, CODE), RW),
        entry(Mfn(0), RO),
        entry(Mfn(frames), RW),
        entry(Mfn(Pte::FRAME_MASK >> 12), RW),
        entry(guest.mfn(PAGE), RW | 1 << 59),
    ]
}

/// Stores of entries that map what is not the guest's, by every instruction; and stores to tables of other levels, of
/// whatever. Each raises the fault that it would raise anyway.
fn what_is_not_the_guests() -> Result<(), Failed> {
    const EVIL: u64 = SCRATCH + 0x1000;
    const STORES: [&[u8]; 4] = [
        &[0x48, 0x89, 0x1f],             // mov [rdi], rbx
        &[0x48, 0x87, 0x1f],             // xchg [rdi], rbx
        &[0xf0, 0x48, 0x0f, 0xb1, 0x1f], // lock cmpxchg [rdi], rbx
        &[0x48, 0xa5],                   // movsq
    ];
    let host = Host::new()?;
    let [l1, l2, l3, l4, views] = tables(&host)?;
    let probe = host.build(&Code::default())?;
    let evils = evil(&host, &probe).len() as u64;
    probe.destroy()?;
    let mut code = Code::default();
    code.catch_faults().hypercall(N::VM_ASSIST, &[0, ASSIST]);
    code.set(l1 + FREE * 8, 0);
    let mut attempts = 0;
    for at in (0..evils).map(|index| EVIL + index * 8) {
        for store in STORES {
            code.load(Reg::Rbx, at).mov(Reg::Rsi, at).mov(Reg::Rdi, l1 + FREE * 8).attempt(0, store);
            attempts += 1;
        }
    }
    // The table's own mapping, and the root's, become writable.
    for table in [l1, l4] {
        for store in [&[0xf0, 0x48, 0x0f, 0xba, 0x2f, 1][..], &[0xf0, 0x80, 0x0f, 2], &[0x48, 0x83, 0x37, 2]]
        {
            code.mov(Reg::Rdi, entry_of(views, table)).attempt(0, store);
            attempts += 1;
        }
    }
    for table in [l2, l3, l4] {
        for store in STORES {
            code.mov(Reg::Rbx, 0).mov(Reg::Rsi, EVIL - 8).mov(Reg::Rdi, table + FREE * 8).attempt(0, store);
            attempts += 1;
        }
    }
    code.park();
    let guest = host.build(&code)?;
    (0..).zip(evil(&host, &guest)).for_each(|(index, entry)| guest.poke(EVIL + index * 8, &entry));
    let words = |table: u64| -> Vec<u64> {
        (0..512)
            .map(|index| guest.memory().entry(guest.mfn(table), index).expect("a table").0 & !0x60)
            .collect()
    };
    let mut before = [l1, l2, l3, l4, views].map(words);
    before[0][FREE as usize] = 0;
    guest.start()?;
    guest.wait_until_parked()?;
    let said = guest.said();
    check(said == vec![14; attempts], || format!("{attempts} attempts: {said:x?}"))?;
    let after = [l1, l2, l3, l4, views].map(words);
    check(after == before, || "an entry has changed".into())?;
    guest.destroy()?;
    host.finish()
}
