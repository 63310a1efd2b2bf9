//! A kernel that plays scripts: each of its vCPUs writes what a record says to memory, makes the record's call through
//! the record's gate, and goes on with the next one, whatever happens. Faults and callbacks end in the next record too.
//!
//! Registers: RBX is the record, R12 the next one, R13 and RBP what is left to write, R14 where the vCPU tells how far
//! it is, R15 its stack. The hypervisor changes none of them, but for what a script makes it do.

use crate::calls::Case;
use crate::tiny_guest::{CODE, Code, Condition, Guest, Reg, SCRATCH, STACK, TABLE, Via, handler, trap};
use hypervisor::machine::DOORBELL_ADDRESS;
use iced_x86::code_asm::{
    qword_ptr, r8, r9, r10, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp,
};
use pv_abi::guest_context::{GuestContext, GuestContextFlags};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS64};
use pv_abi::trap::TrapInfo;
use pv_abi::vcpu::VcpuOp;
use zerocopy::FromZeros;

/// vCPUs that play; the domain has room for more, which they may start.
pub const VCPUS: u64 = 2;
/// Hypercalls that a guest makes before it plays.
pub const SET_UP_CALLS: u64 = 5;

/// Words of a record before what is to be written: number, arguments, gate, how much is to be written, bytes.
const HEAD: u64 = 10;
/// Bytes that each vCPU's script has at most.
const SCRIPT_BYTES: u64 = 0x6_0000;
/// How many vCPUs are done.
const DONE: u64 = SCRATCH;
/// Which record each is at.
const PROGRESS: u64 = SCRATCH + 8;

/// Where the frame for `iret` lies, above which there is room, and below which faults arrive.
pub const fn stack(vcpu: u64) -> u64 {
    STACK - 0x1000 - vcpu * 0x4000
}

const fn script(vcpu: u64) -> u64 {
    TABLE + vcpu * SCRIPT_BYTES
}

/// The kernel, and the places in it that scripts name.
pub struct Kernel {
    pub code: Code,
    /// Goes on with the next record.
    pub skip: u64,
    /// The instructions that leave the guest: by `syscall`, by the doorbell, and in other ways.
    pub gates: Vec<u64>,
    end: u64,
    /// The second vCPU's context, without its root.
    context: u64,
}

/// The first gates make hypercalls.
pub const HYPERCALL_GATES: usize = 2;

/// What a record's call is made by: hypercalls, then traps of all kinds.
fn gates() -> Vec<Vec<u8>> {
    vec![
        Via::Syscall.bytes(),
        Via::Doorbell.bytes(),
        vec![0xcd, 0x80],                                                    // int 0x80
        vec![0xcd, 0x03],                                                    // int 3
        vec![0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x31, 0xc0, 0x0f, 0xa2], // ud2; "xen"; eax becomes 0; cpuid
        vec![0x48, 0x8b, 0x07],                                     // mov rax, [rdi]
        vec![0x48, 0x89, 0x37],                                     // mov [rdi], rsi
        vec![0x4c, 0x89, 0xda, 0xee],                               // mov rdx, r11; out dx, al
        vec![0x40, 0x0f, 0xb6, 0xce, 0xf3, 0x6c],                   // movzx ecx, sil; rep insb
        vec![0x0f, 0x22, 0xdf],                                     // mov cr3, rdi
        vec![0x0f, 0x22, 0xe6, 0x31, 0xc9, 0x89, 0xf8, 0x0f, 0x01, 0xd1], // mov cr4, rsi; ecx becomes 0; mov eax, edi; xsetbv
        vec![0x0f, 0x23, 0xd7, 0x0f, 0x23, 0xfe],                         // mov dr2, rdi; mov dr7, rsi
        vec![0xb9, 0x01, 0x01, 0, 0xc0, 0x89, 0xf0, 0x0f, 0x30], // mov ecx, GS_BASE; mov eax, esi; wrmsr
        vec![0x89, 0xf9, 0x0f, 0x32],                            // mov ecx, edi; rdmsr
        vec![0xa2, 0x04, 0x30, 0, 0x80, 0x80, 0xff, 0xff, 0xff], // mov [beside the doorbell], al
        [&[0x89, 0xf0, 0xa3][..], &DOORBELL_ADDRESS.to_le_bytes()].concat(), // mov eax, esi; mov [doorbell], eax
    ]
}

/// Puts the kernel together.
pub fn kernel() -> Kernel {
    let player = Player::new();
    let mut code = Code::default();
    // It comes first, so that its places are known.
    code.jump(Condition::Always, ABOVE + player.text.len() as u64).raw(&player.text);
    code.catch_faults().resume_at(player.skip);
    let context = code.data(&second_context(player.next, player.skip));
    code.hypercall(N::VCPU_OP, &[VcpuOp::INITIALISE.0, 1, context]);
    code.hypercall(N::VCPU_OP, &[VcpuOp::UP.0, 1]);
    code.mov(Reg::Rbx, script(0)).mov(Reg::R14, PROGRESS).mov(Reg::R15, stack(0));
    code.jump(Condition::Always, player.next);
    Kernel { code, skip: player.skip, gates: player.gates, end: player.end, context }
}

/// Where the player starts: above a jump over it.
const ABOVE: u64 = CODE + 5;

/// The loop, and its places as they are in the kernel.
struct Player {
    text: Vec<u8>,
    next: u64,
    skip: u64,
    end: u64,
    gates: Vec<u64>,
}

impl Player {
    fn new() -> Self {
        let mut code = Code::default();
        let next = code.here();
        code.asm(|a| {
            let (mut write, mut call) = (a.create_label(), a.create_label());
            a.cld()?;
            a.mov(rsp, r15)?;
            a.mov(qword_ptr(r14), rbx)?;
            a.mov(r12, rbx)?;
            a.add(r12, qword_ptr(rbx + 72))?;
            a.mov(r13, qword_ptr(rbx + 64))?;
            a.lea(rbp, qword_ptr(rbx + 80))?;
            a.set_label(&mut write)?;
            a.test(r13, r13)?;
            a.jz(call)?;
            a.mov(rdi, qword_ptr(rbp))?;
            a.mov(rcx, qword_ptr(rbp + 8))?;
            a.lea(rsi, qword_ptr(rbp + 16))?;
            a.lea(rbp, qword_ptr(rsi + rcx * 8))?;
            a.rep().movsq()?;
            a.dec(r13)?;
            a.jmp(write)?;
            a.set_label(&mut call)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.mov(rdi, qword_ptr(rbx + 8))?;
            a.mov(rsi, qword_ptr(rbx + 16))?;
            a.mov(rdx, qword_ptr(rbx + 24))?;
            a.mov(r10, qword_ptr(rbx + 32))?;
            a.mov(r8, qword_ptr(rbx + 40))?;
            a.mov(r9, qword_ptr(rbx + 48))?;
            a.jmp(qword_ptr(rbx + 56))
        });
        let done = code.here();
        code.asm(|a| a.mov(qword_ptr(rbx + 56), rax));
        let skip = code.here();
        code.asm(|a| a.mov(rbx, r12)).jump(Condition::Always, next);
        let gate = |gate: Vec<u8>| {
            let place = code.here();
            code.raw(&gate).jump(Condition::Always, done);
            place + (ABOVE - CODE)
        };
        let gates = gates().into_iter().map(gate).collect();
        let end = code.here();
        code.asm(|a| a.lock().inc(qword_ptr(DONE))).stay();
        let [next, skip, end] = [next, skip, end].map(|place| place + (ABOVE - CODE));
        Self { text: code.text().to_vec(), next, skip, end, gates }
    }
}

/// The second vCPU starts to play at once; its root is not known yet.
fn second_context(next: u64, skip: u64) -> GuestContext {
    let mut context = GuestContext::new_zeroed();
    context.flags = GuestContextFlags::IN_KERNEL.bits();
    let registers = &mut context.user_regs;
    (registers.rip, registers.rsp, registers.rflags) = (next, stack(1), 0x202);
    (registers.cs, registers.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS64);
    (registers.rbx, registers.r14, registers.r15) = (script(1), PROGRESS + 8, stack(1));
    for vector in 0..=u8::MAX {
        let address = if vector < 32 { handler(vector.into()) } else { skip };
        context.trap_ctxt[usize::from(vector)] =
            TrapInfo { vector, flags: 0, cs: FLAT_RING3_CS64, padding: 0, address };
    }
    (context.kernel_ss, context.kernel_sp) = (FLAT_RING3_SS64.into(), stack(1));
    context.event_callback_eip = handler(trap::EVENT);
    context.failsafe_callback_eip = handler(trap::FAILSAFE);
    context.syscall_callback_eip = handler(trap::SYSCALL);
    context
}

/// A case and the place of its gate in [`Kernel::gates`].
pub type Move = (Case, usize);

impl Kernel {
    /// What a guest's vCPU plays. How many of the moves there was room for.
    pub fn load(&self, guest: &Guest, vcpu: u64, moves: &[Move]) -> usize {
        let mut words = Vec::new();
        let mut taken = 0;
        for (case, gate) in moves {
            let record = record(case, self.gates[*gate]);
            if (words.len() + record.len()) as u64 * 8 + HEAD * 8 > SCRIPT_BYTES {
                break;
            }
            words.extend(record);
            taken += 1;
        }
        words.extend(record(&Case::default(), self.end));
        guest.poke(script(vcpu), words.as_slice());
        taken
    }

    /// What cannot be known before the guest is built.
    pub fn complete(&self, guest: &Guest) {
        let control = core::mem::offset_of!(GuestContext, ctrlreg) as u64;
        guest.poke(self.context + control + 3 * 8, &guest.built.root.address());
    }
}

fn record(case: &Case, gate: u64) -> Vec<u64> {
    let mut words = vec![case.number];
    words.extend(case.arguments);
    words.extend([gate, case.memory.len() as u64, 0]);
    for (at, what) in &case.memory {
        words.extend([*at, what.len() as u64]);
        words.extend(what);
    }
    words[9] = words.len() as u64 * 8;
    words
}

/// How many vCPUs have played all, and where each is.
pub fn progress(guest: &Guest) -> [u64; 3] {
    [DONE, PROGRESS, PROGRESS + 8].map(|address| guest.peek(address))
}

/// What each call of a script returned; none where it was not made, or never returned.
pub fn results(kernel: &Kernel, guest: &Guest, vcpu: u64, moves: &[Move]) -> Vec<Option<u64>> {
    let mut at = script(vcpu);
    let mut result = |(case, gate): &Move| {
        // It takes the gate's place.
        let result = guest.peek(at + 7 * 8);
        at += record(case, 0).len() as u64 * 8;
        (result != kernel.gates[*gate]).then_some(result)
    };
    moves.iter().map(&mut result).collect()
}
