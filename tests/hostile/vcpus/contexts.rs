//! First contexts of vCPUs: what no vCPU can start with, and what it must not gain by one.

use super::{CONTEXTS, COUNTS, code_of, context, context_of, place, start};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{CODE, Code, Guest, Host, Random, TABLE, UNMAPPED, check_power_off};
use hypervisor::domain::End;
use hypervisor::machine::CR0_TS as TS;
use hypervisor::machine::kvm::KvmKind;
use iced_x86::code_asm::{cr8, rax};
use libtest_mimic::{Failed, Trial};
use pv_abi::Mfn;
use pv_abi::guest_context::GuestContext;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::vcpu::VcpuOp as Op;
use std::time::Duration;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("vcpus/first contexts that are refused", contexts_that_are_refused),
        kvm_test("vcpus/first contexts that are wild", contexts_that_are_wild),
    ]
}

/// Contexts that name what is not the guest's, or what no processor can start with: none starts a vCPU.
fn contexts_that_are_refused() -> Result<(), Failed> {
    const CALLS: u64 = 2;
    let host = Host::new()?;
    let canary = host.canary();
    let frames = host.hypervisor.services().mmu.layout().frames;
    let foreign = [
        canary.built.root,
        canary.mfn(CODE),
        canary.domain.shared().frame(),
        Mfn(0),
        Mfn(9),
        Mfn(frames),
        Mfn(u64::MAX >> 12),
    ];
    let spoilt = |guest: &Guest| {
        let own = [guest.mfn(TABLE), guest.table(Level::L1, CODE), guest.table(Level::L3, CODE)];
        let mut all: Vec<Box<GuestContext>> = Vec::new();
        let mut with = |spoil: &dyn Fn(&mut GuestContext)| {
            let mut first = context(guest, 1);
            spoil(&mut first);
            all.push(first);
        };
        for mfn in foreign.into_iter().chain(own) {
            with(&|first| first.ctrlreg[3] = mfn.0 << 12);
            if mfn.0 != 0 {
                with(&|first| first.ctrlreg[1] = mfn.0 << 12);
            }
            // A page of the guest's that is mapped writable cannot hold descriptors, nor can a table.
            with(&|first| (first.gdt_ents, first.gdt_frames[0]) = (512, mfn));
        }
        for wild in [1 << 47, 0x7000_0000_0000_0000] {
            with(&|first| first.user_regs.rip = wild);
            with(&|first| first.user_regs.rsp = wild);
            with(&|first| first.kernel_sp = wild);
            with(&|first| first.fs_base = wild);
            with(&|first| first.gs_base_kernel = wild);
            with(&|first| first.gs_base_user = wild);
            with(&|first| first.event_callback_eip = wild);
            with(&|first| first.failsafe_callback_eip = wild);
            with(&|first| first.syscall_callback_eip = wild);
            with(&|first| first.trap_ctxt[255].address = wild);
        }
        with(&|first| (first.ldt_base, first.ldt_ents) = (TABLE, 1));
        with(&|first| first.gdt_ents = u64::MAX);
        with(&|first| first.flags = 0);
        if host.kvm == KvmKind::Software {
            with(&|first| first.ctrlreg[0] = TS);
        }
        all
    };
    let probe = host.build(&Code::default())?;
    let count = spoilt(&probe).len() as u64;
    probe.destroy()?;

    let mut code = Code::default();
    for row in 0..count {
        code.hypercall(N::VCPU_OP, &[Op::INITIALISE.0, 1, CONTEXTS + row * 0x1800]).say();
        code.hypercall(N::VCPU_OP, &[Op::UP.0, 1]).say();
    }
    code.power_off();
    let guest = host.build(&code)?;
    for (row, first) in (0..).zip(spoilt(&guest)) {
        guest.poke(CONTEXTS + row * 0x1800, &*first);
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    let said = guest.said();
    let refused = said.iter().all(|&result| (-4095..0).contains(&(result as i64)));
    check(said.len() as u64 == CALLS * count && refused, || format!("{said:x?}"))?;
    host.finish()
}

/// Contexts that are accepted, as Xen does, and are wild all the same: selectors of the hypervisor, all flags, a
/// stack nowhere, RIP in the hypervisor's pages. Whatever starts there starts at CPL3: `mov rax, cr8`, which is not
/// emulated, is never carried out where it is reached.
fn contexts_that_are_wild() -> Result<(), Failed> {
    let host = Host::with_pcpus(2)?;
    let mut privileged = Code::default();
    privileged.asm(|a| a.mov(rax, cr8)).increment(COUNTS).stay();
    let mut code = Code::default();
    (1..4).for_each(|vcpu| start(&mut code, vcpu));
    code.park();
    let (mut started, sets_ts) = (0, host.kvm == KvmKind::Hardware);
    for seed in 0..24 {
        let guest = host.build(&code)?;
        let mut random = Random::new(seed);
        for vcpu in 1..4 {
            place(&guest, vcpu, &privileged);
            guest.poke(context_of(vcpu), &*wild(&guest, vcpu, &mut random, sets_ts));
        }
        guest.start()?;
        let end = guest.wait_or_destroy(Duration::from_millis(40))?;
        check(!matches!(end, End::Shutdown(_)), || format!("seed {seed}: {end}"))?;
        started += guest.said().iter().filter(|&&result| result == 0).count();
        check(guest.peek(COUNTS) == 0, || format!("seed {seed}: a vCPU ran at CPL0"))?;
        host.canary_goes_on().map_err(|error| format!("seed {seed}: {error:?}"))?;
    }
    check(started > 48, || format!("only {started} calls were accepted: the contexts are too wild"))?;
    host.finish()
}

fn wild(guest: &Guest, vcpu: u64, random: &mut Random, sets_ts: bool) -> Box<GuestContext> {
    let mut first = context(guest, vcpu);
    let selectors = [0, 3, 0x08, 0x10, 0xe008, 0xe010, 0xe030, 0xe033, 0xe02b, 0xe040, 0xfff8, 0xffff];
    let places = [code_of(vcpu), UNMAPPED, 0xffff_8080_0000_0000, 0xffff_8080_0000_3000, 0, TABLE];
    let mut selector = || random.choose(&selectors) as u16;
    let regs = &mut first.user_regs;
    (regs.cs, regs.ss, regs.ds) = (selector(), selector(), selector());
    (regs.es, regs.fs, regs.gs) = (selector(), selector(), selector());
    if random.below(2) == 0 {
        (first.user_regs.cs, first.user_regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    }
    if random.below(2) == 0 {
        first.user_regs.rip = random.choose(&places);
    }
    first.user_regs.rsp = random.choose(&places);
    // All of them, NT, IOPL, VM and AC included; and nothing, not even what is always set.
    first.user_regs.rflags = random.choose(&[u64::MAX, 0, 0x3_7fd7, 0x4000, 0x2_0000]);
    first.fs_base = random.choose(&places);
    first.gs_base_kernel = random.choose(&places);
    first.kernel_sp = random.choose(&places);
    first.failsafe_callback_eip = random.choose(&places);
    first.trap_ctxt.iter_mut().for_each(|entry| entry.cs = random.next() as u16);
    // Other control registers than the roots are not a guest's to choose, but for bits that it gets where they are offered.
    [0, 2, 4, 5, 6, 7].iter().for_each(|&number: &usize| first.ctrlreg[number] = u64::MAX);
    if !sets_ts {
        first.ctrlreg[0] &= !TS;
    }
    first.debugreg = [u64::MAX, 0, CODE, 0, 0, 0, u64::MAX, u64::MAX];
    first.floating_point = [0xff; 512];
    first
}
