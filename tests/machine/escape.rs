//! Code at CPL3 tries to get at what is not its own; each attempt must come back as an exit that tells of it, and
//! the machine must go on.

use crate::guest::{CODE, Guest, STACK_TOP, enter, machine};
use crate::support::{check, fail, kvm_test, skippable_kvm_test};
use hypervisor::machine::cpuid::MachineCpuid;
use hypervisor::machine::kvm::{KvmKind, KvmMachine, KvmPcpu, MachineConfig};
use hypervisor::machine::{DebugRegisters, Exit, Pcpu, Registers, Root};
use libtest_mimic::{Completion, Failed, Trial};
use pv_abi::page_table::Level;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("escape/privileged instructions", privileged_instructions),
        kvm_test("escape/int n", int_n),
        kvm_test("escape/the hypervisor's pages", the_hypervisors_pages),
        kvm_test("escape/jumping to the landing page", jumping_to_the_landing_page),
        kvm_test("escape/odd accesses to the doorbell", odd_accesses_to_the_doorbell),
        kvm_test("escape/the doorbell of a host with 39 address bits", doorbell_of_39_bits),
        kvm_test(
            "escape/a doorbell that is read into a vector register",
            doorbell_read_into_a_vector_register,
        ),
        kvm_test("escape/doorbell left pending, then another vCPU", doorbell_then_another_vcpu),
        kvm_test("escape/single steps over the gates", single_steps_over_the_gates),
        skippable_kvm_test("escape/breakpoints stay with their vCPU", breakpoints_stay_with_their_vcpu),
        kvm_test("escape/breakpoints at the hypervisor's addresses", breakpoints_at_the_hypervisors),
        kvm_test("escape/random contexts", random_contexts),
        kvm_test("escape/a root that is gone", a_root_that_is_gone),
        kvm_test("escape/descriptors of the guest's own", descriptors_of_the_guests_own),
        kvm_test("escape/the TSC is what it is said to be", the_tsc_is_what_it_is_said_to_be),
    ]
}

const AREA: u64 = 0xffff_8080_0000_0000;
const LSTAR: u64 = AREA + 0x1000;
const DOORBELL: u64 = AREA + 0x3000;

/// A machine with one pcpu and a guest on it.
pub struct Setup {
    pub machine: KvmMachine,
    pub guest: Guest,
    pub pcpu: KvmPcpu,
}

impl Setup {
    pub fn new(code: &[u8]) -> Result<Self, Failed> {
        let mut machine = machine(1)?;
        let guest = Guest::new(&machine, 0, code)?;
        let (pcpu, _) = machine.pcpus.remove(0);
        Ok(Self { machine, guest, pcpu })
    }

    /// Runs `code` once from the start, RDI as given.
    fn run(&mut self, code: &[u8], rdi: u64) -> Result<(Exit, Registers), Failed> {
        self.run_in(FLAT_RING3_CS64, code, rdi)
    }

    /// The same in the code segment `cs`.
    pub fn run_in(&mut self, cs: u16, code: &[u8], rdi: u64) -> Result<(Exit, Registers), Failed> {
        self.machine.memory.write(self.guest.code(), 0, &[0xcc; 64])?;
        self.machine.memory.write(self.guest.code(), 0, code)?;
        let mut context = self.guest.context(1);
        context.cs = cs;
        context.registers.rdi = rdi;
        let exit = enter(&self.machine.memory, &mut self.pcpu, &mut context)?;
        self.pcpu.save(&mut context)?;
        Ok((exit, context.registers))
    }

    /// The machine still works.
    pub fn still_works(&mut self) -> Result<(), Failed> {
        let (exit, registers) = self.run(&[0xb8, 7, 0, 0, 0, 0x0f, 0x05], 0)?; // mov eax, 7; syscall
        check((exit.clone(), registers.rax) == (Exit::Syscall, 7), || format!("{exit:?} {registers:x?}"))
    }
}

fn is_fault(exit: &Exit, vectors: &[u8]) -> bool {
    matches!(exit, Exit::Exception { vector, .. } if vectors.contains(vector))
}

fn privileged_instructions() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let cases: [(&str, &[u8]); 24] = [
        ("hlt", &[0xf4]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("clts", &[0x0f, 0x06]),
        ("invd", &[0x0f, 0x08]),
        ("wbinvd", &[0x0f, 0x09]),
        ("mov cr0, rax", &[0x0f, 0x22, 0xc0]),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov cr4, rax", &[0x0f, 0x22, 0xe0]),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
        ("mov rax, cr3", &[0x0f, 0x20, 0xd8]),
        ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
        ("mov rax, dr7", &[0x0f, 0x21, 0xf8]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("sysretq", &[0x48, 0x0f, 0x07]),
        ("invlpg [rdi]", &[0x0f, 0x01, 0x3f]),
        ("lgdt [rdi]", &[0x0f, 0x01, 0x17]),
        ("lidt [rdi]", &[0x0f, 0x01, 0x1f]),
        ("ltr ax", &[0x0f, 0x00, 0xd8]),
        ("lmsw ax", &[0x0f, 0x01, 0xf0]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("in al, dx", &[0xec]),
    ];
    for (name, code) in cases {
        let (exit, registers) = setup.run(code, CODE)?;
        check(is_fault(&exit, &[6, 13]) && registers.rip == CODE, || format!("{name}: {exit:?}"))?;
    }
    // Every port, the stub's own among them.
    for port in 0..=255u8 {
        let (exit, registers) = setup.run(&[0xe6, port], 0)?;
        check(is_fault(&exit, &[13]) && registers.rip == CODE, || format!("out {port:#x}: {exit:?}"))?;
    }
    setup.still_works()
}

fn int_n() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    for vector in 0..=255u8 {
        let (exit, registers) = setup.run(&[0xcd, vector], 0)?;
        let arrived = match vector {
            // A gate that programs may use; RIP is behind the instruction.
            3 | 4 => is_fault(&exit, &[3, 4, 6, 13]),
            // Software KVM's own: 0x1a is its `cpuid`, and two that it refuses behind the instruction.
            0x17 | 0x19 | 0x1a if setup.machine.report.kvm == KvmKind::Software => {
                is_fault(&exit, &[3, 6, 13]) && registers.rsp == STACK_TOP
            }
            // Hardware: #GP with the gate's number. Software KVM: #UD.
            _ => {
                // The IDT flag is set; the vector in the other bits is wrong in QEMU 7.2.
                let by_hardware =
                    matches!(exit, Exit::Exception { vector: 13, error_code, .. } if error_code & 2 != 0);
                (by_hardware || is_fault(&exit, &[6])) && registers.rip == CODE
            }
        };
        check(arrived, || format!("int {vector:#x}: {exit:?} {registers:x?}"))?;
    }
    let (exit, registers) = setup.run(&[0xcc], 0)?;
    check(is_fault(&exit, &[3]) && registers.rip == CODE + 1, || {
        format!("int3: {exit:?} at {:#x}", registers.rip)
    })?;
    setup.still_works()
}

fn the_hypervisors_pages() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let load: &[u8] = &[0x48, 0x8b, 0x07, 0x0f, 0x05]; // mov rax, [rdi]; syscall
    let store: &[u8] = &[0x48, 0x89, 0x07, 0x0f, 0x05]; // mov [rdi], rax; syscall
    let m2p = setup.machine.layout.m2p_address.clone();
    let private_pages = (0..40).filter(|&n| n != 1 && n != 3).map(|n| AREA + n * 4096);
    for address in private_pages.chain([0xffff_8180_0000_0000, 0xffff_8800_0000_0000, m2p.end + 0x20_0000]) {
        for (name, code) in [("load", load), ("store", store), ("jump", &[0xff, 0xe7])] {
            let (exit, _) = setup.run(code, address)?;
            check(is_fault(&exit, &[14]), || format!("{name} {address:#x}: {exit:?}"))?;
        }
    }
    // The machine-to-physical table can be read and nothing else; where it is, entry 0 is the hypervisor's.
    let mut readable = vec![m2p.start];
    if setup.machine.layout.m2p_at_fixed_address {
        readable.push(0xffff_8000_0000_0000);
    }
    for address in readable {
        let (exit, _) = setup.run(load, address)?;
        check(exit == Exit::Syscall, || format!("the M2P at {address:#x}: {exit:?}"))?;
        for (name, code) in [("store", store), ("jump", &[0xff, 0xe7])] {
            let (exit, _) = setup.run(code, address)?;
            check(is_fault(&exit, &[14]), || format!("{name} to the M2P at {address:#x}: {exit:?}"))?;
        }
    }
    setup.still_works()
}

/// Where `syscall` lands can be jumped to on software KVM, with any registers: it is a `syscall` then, no more.
fn jumping_to_the_landing_page() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    // mov rcx, -1 (not canonical when shifted); mov r11, -1; jmp rdi
    let code = [0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x49, 0xc7, 0xc3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe7];
    for offset in 0..8 {
        let (exit, registers) = setup.run(&code, LSTAR + offset)?;
        let gate = (offset, exit.clone()) == (0, Exit::Syscall);
        check(is_fault(&exit, &[6, 13, 14]) || gate, || format!("at {offset}: {exit:?}"))?;
        if gate {
            check(setup.machine.report.kvm == KvmKind::Software, || format!("at {offset}"))?;
            // Going on there is the guest's own problem: a fault, not a failed entry.
            let mut context = setup.guest.context(3);
            context.registers = registers;
            let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
            check(is_fault(&exit, &[13]), || format!("resumed at a non-canonical address: {exit:?}"))?;
            setup.pcpu.save(&mut context)?;
        }
    }
    setup.still_works()
}

fn odd_accesses_to_the_doorbell() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let cases: [(&str, u64, &[u8]); 12] = [
        ("1 byte", 0, &[0x88, 0x07]),
        ("2 bytes", 0, &[0x66, 0x89, 0x07]),
        ("8 bytes", 0, &[0x48, 0x89, 0x07]),
        ("4 bytes beside it", 4, &[0x89, 0x07]),
        ("4 bytes across its start", 0xffe, &[0x89, 0x07]),
        ("a load", 0, &[0x8b, 0x07]),
        ("an exchange", 0, &[0x87, 0x07]),
        ("a string of loads", 0, &[0x48, 0x89, 0xfe, 0xb9, 4, 0, 0, 0, 0xf3, 0x48, 0xad]),
        ("a string of stores", 8, &[0xb9, 4, 0, 0, 0, 0xf3, 0x48, 0xab]),
        ("a push", 8, &[0x48, 0x89, 0xfc, 0x50]),
        ("a vector store", 0, &[0x0f, 0x11, 0x07]),
        ("a jump", 0, &[0xff, 0xe7]),
    ];
    for (name, offset, code) in cases {
        let (exit, registers) = setup.run(code, DOORBELL + offset)?;
        let refused = matches!(exit, Exit::Unhandled { .. }) || is_fault(&exit, &[6, 13, 14]);
        check(refused, || format!("{name}: {exit:?} {registers:x?}"))?;
        setup.still_works()?;
    }
    let ring = [&[0xb8, 17, 0, 0, 0, 0xa3][..], &DOORBELL.to_le_bytes(), &[0x90]].concat();
    let (exit, registers) = setup.run(&ring, 0)?;
    check(exit == Exit::Doorbell && registers.rip == CODE + 14 && registers.rax == 17, || {
        format!("the doorbell itself: {exit:?} {registers:x?}")
    })
}

/// On such a host a doorbell above the limit is a fault, and the machine's gate would be gone.
fn doorbell_of_39_bits() -> Result<(), Failed> {
    let leaves = |_: &MachineCpuid, _| vec![((0x8000_0008, 0), [39 | 48 << 8, 0, 0, 0])];
    let config = |frames| MachineConfig { frames, pcpus: 1, leaves };
    let mut machine = KvmMachine::new(config(8192)).map_err(|error| error.to_string())?;
    let guest = Guest::new(&machine, 0, &[])?;
    let (pcpu, _) = machine.pcpus.remove(0);
    let mut setup = Setup { machine, guest, pcpu };
    let ring = [&[0xb8, 17, 0, 0, 0, 0xa3][..], &DOORBELL.to_le_bytes(), &[0x90]].concat();
    let (exit, registers) = setup.run(&ring, 0)?;
    check(exit == Exit::Doorbell && registers.rax == 17, || format!("{exit:?} {registers:x?}"))?;

    // And no memory is where doorbells are.
    let too_large =
        KvmMachine::new(config(1 << 27)).map(drop).expect_err("a machine of 2^39 bytes").to_string();
    check(too_large.contains("524288 MiB") && too_large.contains("at most 524287 MiB"), || too_large)
}

/// A read of a doorbell finds nothing of what was written there last.
fn doorbell_read_into_a_vector_register() -> Result<(), Failed> {
    const MARK: u32 = 0x1234_5678;
    let mut setup = Setup::new(&[])?;
    let ring = [&[0xb8][..], &MARK.to_le_bytes(), &[0xa3], &DOORBELL.to_le_bytes(), &[0x90]].concat();
    let (exit, _) = setup.run(&ring, 0)?;
    check(exit == Exit::Doorbell, || format!("{exit:?}"))?;
    // movdqu xmm0, [rdi]; movq rax, xmm0; syscall
    let read = [0xf3, 0x0f, 0x6f, 0x07, 0x66, 0x48, 0x0f, 0x7e, 0xc0, 0x0f, 0x05];
    setup.machine.memory.write(setup.guest.code(), 0, &read)?;
    let mut context = setup.guest.context(1);
    context.registers.rdi = DOORBELL;
    let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
    check(matches!(exit, Exit::Unhandled { .. }), || format!("{exit:?}"))?;
    context.registers.rip = CODE + 4;
    let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
    check(exit == Exit::Syscall, || format!("{exit:?}"))?;
    setup.pcpu.save(&mut context)?;
    check(context.registers.rax == 0, || format!("it read {:#x}", context.registers.rax))
}

/// A vCPU leaves an access half-done; the next one must not find itself in the middle of it.
fn doorbell_then_another_vcpu() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let code: &[u8] = &[0x48, 0x8b, 0x07, 0x90, 0x90]; // mov rax, [rdi]
    for _ in 0..50 {
        let (exit, registers) = setup.run(code, DOORBELL)?;
        check(matches!(exit, Exit::Unhandled { .. }), || format!("{exit:?}"))?;
        check(registers.rip == CODE, || format!("{registers:x?}"))?;
        let mut other = setup.guest.context(2);
        setup.machine.memory.write(setup.guest.code(), 0x80, &[0x0f, 0x05])?;
        other.registers.rip = CODE + 0x80;
        other.registers.rax = 0x1234;
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut other)?;
        check(exit == Exit::Syscall && other.registers.rax == 0x1234, || {
            format!("{exit:?} {:x?}", other.registers)
        })?;
        check(other.registers.rip == CODE + 0x82, || format!("{:x?}", other.registers))?;
        setup.pcpu.save(&mut other)?;
    }
    Ok(())
}

fn single_steps_over_the_gates() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let ring = [&[0xa3][..], &DOORBELL.to_le_bytes(), &[0x90, 0x90]].concat();
    for (gate, code) in [(Exit::Syscall, &[0x0f, 0x05, 0x90, 0x90][..]), (Exit::Doorbell, &ring)] {
        setup.machine.memory.write(setup.guest.code(), 0, code)?;
        let mut context = setup.guest.context(1);
        context.registers.rflags |= 1 << 8;
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
        check(exit == gate, || format!("{gate:?}: {exit:?}"))?;
        context.registers.rflags |= 1 << 8;
        let behind = context.registers.rip;
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
        check(is_fault(&exit, &[1]) && context.registers.rip == behind + 1, || {
            format!("behind {gate:?}: {exit:?} at {:#x}", context.registers.rip)
        })?;
        setup.pcpu.save(&mut context)?;
    }
    setup.still_works()
}

/// Whatever a guest gets into its registers, entering it never fails and never gives it more than CPL3.
fn random_contexts() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    // hlt at the start: whoever gets there at CPL0 would not fault.
    setup.machine.memory.write(setup.guest.code(), 0, &[0xf4; 64])?;
    for round in 0..2000u64 {
        let mut context = setup.guest.context(round);
        let wild = |value: u64, choice: u64| match choice % 5 {
            0 => value,
            1 => CODE,
            2 => AREA + value % 0x2_0000,
            3 => 0x8000_0000_0000 + value % 16 - 8,
            _ => STACK_TOP,
        };
        context.registers.rip = if random() % 2 == 0 { CODE } else { wild(random(), random()) };
        context.registers.rsp = wild(random(), random());
        context.registers.rflags = random();
        context.registers.rcx = wild(random(), random());
        context.fs_base = wild(random(), random());
        context.gs_base = wild(random(), random());
        context.xcr0 = [None, Some(random()), Some(random() & 7)][random() as usize % 3];
        for selector in [
            &mut context.cs,
            &mut context.ss,
            &mut context.ds,
            &mut context.es,
            &mut context.fs,
            &mut context.gs,
        ] {
            let known = [FLAT_RING3_CS64, FLAT_RING3_SS64, 0xe008, 0xe010, 0xe040, 0xe023, 0, 3];
            *selector =
                if random() % 2 == 0 { random() as u16 } else { known[random() as usize % known.len()] };
        }
        context.descriptors = (0..16).map(|_| random()).collect();
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
        let contained = matches!(exit, Exit::Exception { .. } | Exit::Syscall | Exit::Unhandled { .. });
        check(contained, || format!("round {round}: {exit:?} {context:x?}"))?;
        setup.pcpu.save(&mut context)?;
    }
    setup.still_works()
}

/// One vCPU's breakpoint on an instruction stops that vCPU there, and no other. Software KVM ignores breakpoints at
/// CPL3, and so does QEMU under its emulated SVM: there it counts as ignored.
fn breakpoints_stay_with_their_vcpu() -> Result<Completion, Failed> {
    let mut setup = Setup::new(&[])?;
    setup.machine.memory.write(setup.guest.code(), 0, &[0x90, 0x90, 0x0f, 0x05])?;
    let (mut watched, mut other) = (setup.guest.context(1), setup.guest.context(2));
    (watched.debug.addresses[1], watched.debug.control) = (CODE + 1, 0x404);
    for round in 0..10 {
        (watched.registers.rip, other.registers.rip) = (CODE, CODE);
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut watched)?;
        if round == 0 && exit == Exit::Syscall {
            return Ok(Completion::ignored_with("no breakpoint ever fires at CPL3 on this host"));
        }
        let stopped = is_fault(&exit, &[1]) && watched.registers.rip == CODE + 1;
        check(stopped && watched.debug.status & 0xf == 2, || format!("{exit:?} {watched:x?}"))?;
        watched.debug.status = DebugRegisters::STATUS_AT_REST;
        setup.pcpu.save(&mut watched)?;
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut other)?;
        check(exit == Exit::Syscall, || format!("the other vCPU: {exit:?}"))?;
        setup.pcpu.save(&mut other)?;
    }
    setup.still_works()?;
    Ok(Completion::Completed)
}

/// Whatever got into the debug registers: CPL0 meets no breakpoint, and the machine goes on.
fn breakpoints_at_the_hypervisors() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    setup.machine.memory.write(setup.guest.code(), 0, &[0x0f, 0x05])?;
    for address in [LSTAR, AREA, AREA + 0x82, AREA + 0x5fd8, 0x8000_0000_0000, u64::MAX] {
        // On execution, on writes, on I/O, on reads and writes; with general detect and all reserved bits.
        for control in [0x4ff, 0xd_ddd0_04ff, 0xaaaa_04ff, 0xffff_04ff, u64::MAX] {
            let mut context = setup.guest.context(address ^ control);
            (context.debug.addresses, context.debug.control) = ([address; 4], control);
            context.debug.status = u64::MAX;
            let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
            check(exit == Exit::Syscall, || format!("{address:#x} {control:#x}: {exit:?}"))?;
            setup.pcpu.save(&mut context)?;
        }
    }
    setup.still_works()
}

/// Between two entries the old root became a page of zeros; the stub must not need it.
fn a_root_that_is_gone() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let mut context = setup.guest.context(1);
    setup.machine.memory.write(setup.guest.code(), 0, &[0x0f, 0x05])?;
    for _ in 0..20 {
        let (old, new) = (context.root, Root::of_valid_l4(setup.guest.other_root()));
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
        check(exit == Exit::Syscall, || format!("{exit:?}"))?;
        setup.machine.memory.copy_frame(old.mfn(), new.mfn())?;
        setup.machine.translations.retire(old.mfn(), Level::L4)?;
        setup.machine.memory.zero(old.mfn())?;
        (context.root, context.root_replaced, context.registers.rip) = (new, true, CODE);
        let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
        check(exit == Exit::Syscall, || format!("on the new root: {exit:?}"))?;
        setup.machine.memory.copy_frame(new.mfn(), old.mfn())?;
        (context.root, context.root_replaced, context.registers.rip) = (old, true, CODE);
    }
    setup.pcpu.save(&mut context)?;
    setup.still_works()
}

fn descriptors_of_the_guests_own() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    // mov ax, 0x1b (entry 3, RPL 3); mov fs, ax; mov rax, fs:[8]; syscall
    let code = [0xb8, 0x1b, 0, 0, 0, 0x8e, 0xe0, 0x64, 0x48, 0x8b, 0x04, 0x25, 8, 0, 0, 0, 0x0f, 0x05];
    setup.machine.memory.write(setup.guest.code(), 0, &code)?;
    setup.machine.memory.write(setup.guest.code(), 0x108, &0x5555_u64.to_le_bytes())?;
    let base = CODE + 0x100;
    let descriptor = 0x00cf_f300_0000_ffff | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56;
    let mut context = setup.guest.context(1);
    context.descriptors = vec![0, 0, 0, descriptor];
    let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut context)?;
    check(exit == Exit::Syscall && context.registers.rax == 0x5555, || {
        format!("{exit:?} {:x?}", context.registers)
    })?;
    setup.pcpu.save(&mut context)?;
    // The next vCPU has none: the selector must not load.
    let mut other = setup.guest.context(2);
    let exit = enter(&setup.machine.memory, &mut setup.pcpu, &mut other)?;
    check(is_fault(&exit, &[13]), || format!("another vCPU's descriptor: {exit:?}"))
}

fn the_tsc_is_what_it_is_said_to_be() -> Result<(), Failed> {
    let mut setup = Setup::new(&[])?;
    let code = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x0f, 0x05];
    for _ in 0..20 {
        let before = setup.pcpu.guest_tsc();
        let (exit, registers) = setup.run(&code, 0)?;
        let after = setup.pcpu.guest_tsc();
        let slack = u64::from(setup.machine.report.tsc_khz); // 1 ms
        if exit != Exit::Syscall || registers.rax + slack < before || registers.rax > after + slack {
            return fail(format!("{exit:?}: {} not within {before}..{after}", registers.rax));
        }
    }
    Ok(())
}
