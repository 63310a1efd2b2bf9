//! Machine code, one instruction after the other. What a test needs once it writes with an assembler ([`Code::asm`]); what
//! is tried for what the machine does with it, as bytes.
//!
//! All addresses of the kernel fit into 32 bits with sign, so memory is named by absolute displacement.

use super::image_maker::{Load, Maker, VIRT_BASE};
use iced_x86::IcedError;
use iced_x86::code_asm::{
    AsmRegister64, CodeAssembler, qword_ptr, r8, r9, r10, r11, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi,
    rdx, rsi, rsp,
};
use pv_abi::elf_note::NoteType;
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::segment::FLAT_RING3_CS64;
use pv_abi::trap::TrapInfo;
use zerocopy::IntoBytes;

/// Bytes of a page, of a frame as well.
pub const PAGE: u64 = 4096;
const PHYSICAL: u64 = 0x10_0000;
/// The first instruction. All of the image can be written and executed.
pub const CODE: u64 = VIRT_BASE + PHYSICAL;
/// Handlers of exceptions: see [`Code::catch_faults`].
pub const HANDLERS: u64 = CODE + 0x8000;
/// What [`Code::data`] places.
pub const DATA: u64 = CODE + 0x1_0000;
/// Zeros that the kernel may write; this part is used by [`Code`] itself.
const OWN: u64 = CODE + 0x2_0000;
/// Zeros that the kernel may write.
pub const SCRATCH: u64 = CODE + 0x2_1000;
/// Top of the stack, which grows down towards [`SCRATCH`].
pub const STACK: u64 = CODE + 0x3_0000;
/// Zeros that the kernel may write: 832 KiB.
pub const TABLE: u64 = CODE + 0x3_0000;
const END: u64 = CODE + 0x10_0000;
/// Nothing is mapped from here up: the initial mapping is 4 MiB long.
pub const UNMAPPED: u64 = VIRT_BASE + 0x40_0000;

/// Where a fault goes on: see [`Code::attempt`].
const RESUME: u64 = OWN;
/// What arrived last at a handler: a vector or one of [`trap`]. [`Code::attempt`] first stores [`NONE`] here.
const VECTOR: u64 = OWN + 8;
/// The word that [`Code::say`] hands to the emergency console.
const WORD: u64 = OWN + 16;
/// 1 where the kernel has parked.
pub(super) const PARKED: u64 = OWN + 24;
/// A shutdown reason of 0: power-off.
const REASON: u64 = OWN + 32;

/// Bytes of the entry of each handler.
const HANDLER_BYTES: u64 = 16;

/// Where what arrives comes in, by vector or as in [`trap`].
pub const fn handler(what: u64) -> u64 {
    HANDLERS + what * HANDLER_BYTES
}

/// What an attempt says that no fault has stopped.
pub const NONE: u64 = u64::MAX;

/// What arrives at handlers, beyond the 32 vectors.
pub mod trap {
    /// The event callback (`CALLBACKTYPE_event`).
    pub const EVENT: u64 = 32;
    /// The failsafe callback.
    pub const FAILSAFE: u64 = 33;
    /// The callback for `syscall` in user mode.
    pub const SYSCALL: u64 = 34;
    /// The callback for `syscall` of 32-bit code, where the test registers it.
    pub const SYSCALL32: u64 = 35;
    /// The callback for `sysenter`, where the test registers it.
    pub const SYSENTER: u64 = 36;
}

/// A general register, by its number in instructions.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Reg {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl From<Reg> for AsmRegister64 {
    fn from(register: Reg) -> Self {
        const ALL: [AsmRegister64; 16] =
            [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        ALL[register as usize]
    }
}

/// The registers that carry a hypercall's arguments.
const ARGUMENTS: [Reg; 6] = [Reg::Rdi, Reg::Rsi, Reg::Rdx, Reg::R10, Reg::R8, Reg::R9];

/// A way of making a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The instruction `syscall`, which all PV kernels use.
    Syscall,
    /// A store of EAX, 4 bytes, to the hypercall doorbell.
    Doorbell,
}

impl Via {
    /// The instruction that makes the call.
    pub fn bytes(self) -> Vec<u8> {
        const DOORBELL: u64 = 0xffff_8080_0000_3000;
        match self {
            Self::Syscall => vec![0x0f, 0x05],
            // mov [DOORBELL], eax
            Self::Doorbell => [&[0xa3][..], &DOORBELL.to_le_bytes()].concat(),
        }
    }
}

/// When a jump is taken, by the flags of the instruction before it.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// The last result was 0, or both were equal.
    Zero,
    /// The last result was not 0, or both were different.
    NotZero,
    /// The first was below the second, without sign.
    Below,
    /// The first was not below the second, without sign.
    NotBelow,
    /// The last result was negative.
    Negative,
    /// The jump does not look at any flags.
    Always,
}

/// A kernel being put together.
#[derive(Clone, Default)]
pub struct Code {
    text: Vec<u8>,
    handlers: Vec<u8>,
    data: Vec<u8>,
}

impl From<&[u8]> for Code {
    fn from(text: &[u8]) -> Self {
        Self { text: text.to_vec(), ..Self::default() }
    }
}

impl Code {
    /// Address of the next instruction.
    pub fn here(&self) -> u64 {
        CODE + self.text.len() as u64
    }

    /// Instructions as bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.text.extend_from_slice(bytes);
        self
    }

    /// Instructions, as the assembler writes them where they stand. It chooses their lengths.
    ///
    /// # Panics
    /// Where there is no such instruction.
    pub fn asm(&mut self, write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> &mut Self {
        let mut assembler = CodeAssembler::new(64).expect("there are 64 bits");
        write(&mut assembler).expect("there is such an instruction");
        let bytes = assembler.assemble(self.here()).expect("its operands can be encoded");
        self.raw(&bytes)
    }

    /// Constants; their address.
    pub fn data<T: IntoBytes + zerocopy::Immutable + ?Sized>(&mut self, value: &T) -> u64 {
        let address = DATA + self.data.len() as u64;
        self.data.extend_from_slice(value.as_bytes());
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        address
    }

    // These have one length whatever their operands are, so that what lies behind them is known before it is written.

    /// `mov register, value`: all 64 bits of the value.
    pub fn mov(&mut self, register: Reg, value: u64) -> &mut Self {
        let number = register as u8;
        self.raw(&[0x48 | number >> 3, 0xb8 | number & 7]).raw(&value.to_le_bytes())
    }

    fn absolute(&mut self, opcode: u8, register: Reg, address: u64) -> &mut Self {
        let number = register as u8;
        self.raw(&[0x48 | number >> 3 << 2, opcode, 0x04 | (number & 7) << 3, 0x25]);
        self.raw(&(address as u32).to_le_bytes())
    }

    /// `mov register, [address]`
    pub fn load(&mut self, register: Reg, address: u64) -> &mut Self {
        self.absolute(0x8b, register, address)
    }

    /// `mov [address], register`
    pub fn store(&mut self, address: u64, register: Reg) -> &mut Self {
        self.absolute(0x89, register, address)
    }

    /// Stores a constant. RAX is lost.
    pub fn set(&mut self, address: u64, value: u64) -> &mut Self {
        self.mov(Reg::Rax, value).store(address, Reg::Rax)
    }

    /// `inc qword [address]`: no lock is taken, so another vCPU's may be lost.
    pub fn increment(&mut self, address: u64) -> &mut Self {
        self.asm(|a| a.inc(qword_ptr(address)))
    }

    /// `cmp rax, [address]`, for a jump behind it.
    pub fn compare(&mut self, address: u64) -> &mut Self {
        self.asm(|a| a.cmp(rax, qword_ptr(address)))
    }

    /// A jump to a place that is known already.
    pub fn jump(&mut self, condition: Condition, to: u64) -> &mut Self {
        let opcode: &[u8] = match condition {
            Condition::Always => &[0xe9],
            Condition::Zero => &[0x0f, 0x84],
            Condition::NotZero => &[0x0f, 0x85],
            Condition::Below => &[0x0f, 0x82],
            Condition::NotBelow => &[0x0f, 0x83],
            Condition::Negative => &[0x0f, 0x88],
        };
        self.raw(opcode);
        let distance = to.wrapping_sub(self.here() + 4);
        self.raw(&(distance as u32).to_le_bytes())
    }

    /// What `body` adds, jumped over where `condition` holds.
    pub fn unless(&mut self, condition: Condition, body: impl FnOnce(&mut Self)) -> &mut Self {
        let behind = self.here();
        self.jump(condition, behind);
        let start = self.text.len();
        body(self);
        let distance = (self.text.len() - start) as u32;
        self.text[start - 4..start].copy_from_slice(&distance.to_le_bytes());
        self
    }

    /// Lets others run until the test has poked something into the word at `address`.
    pub fn await_poke(&mut self, address: u64) -> &mut Self {
        let again = self.here();
        self.hypercall(N::SCHED_OP, &[0]).load(Reg::Rax, address);
        self.asm(|a| a.test(rax, rax)).jump(Condition::Zero, again)
    }

    /// `jmp` to where it stands: an endless loop.
    pub fn stay(&mut self) -> &mut Self {
        self.raw(&[0xeb, 0xfe])
    }

    /// A hypercall; its result is in RAX.
    pub fn hypercall(&mut self, number: N, arguments: &[u64]) -> &mut Self {
        self.hypercall_via(Via::Syscall, number.0, arguments)
    }

    /// A hypercall by a certain gate.
    pub fn hypercall_via(&mut self, gate: Via, number: u64, arguments: &[u64]) -> &mut Self {
        for (register, value) in ARGUMENTS.into_iter().zip(arguments) {
            self.mov(register, *value);
        }
        self.mov(Reg::Rax, number).raw(&gate.bytes())
    }

    /// Tells the test what is in RAX, through the emergency console: see [`super::Guest::said`].
    pub fn say(&mut self) -> &mut Self {
        self.store(WORD, Reg::Rax).hypercall(N::CONSOLE_IO, &[0, 8, WORD])
    }

    /// Powers off: `SCHEDOP_shutdown` with the reason `SHUTDOWN_poweroff`.
    pub fn power_off(&mut self) -> &mut Self {
        self.hypercall(N::SCHED_OP, &[2, REASON])
    }

    /// Tells the test that it is done and stays, so that its memory can be looked at: see
    /// [`super::Guest::wait_until_parked`].
    pub fn park(&mut self) -> &mut Self {
        self.set(PARKED, 1).stay()
    }

    /// From here on, whatever arrives at the kernel, exceptions and callbacks, notes what it was and goes on where
    /// the last [`Code::resume_at`] or [`Code::attempt`] said, on a fresh stack.
    pub fn catch_faults(&mut self) -> &mut Self {
        let common = handler(64);
        let mut handlers = Self::default();
        for what in 0..64 {
            handlers.text.resize((what * HANDLER_BYTES) as usize, 0xcc);
            handlers.mov(Reg::Rax, what);
            // The jump is relative, and this code runs elsewhere.
            let distance = common - (handler(what) + 15);
            handlers.raw(&[0xe9]).raw(&(distance as u32).to_le_bytes());
        }
        handlers.text.resize((common - HANDLERS) as usize, 0xcc);
        handlers.store(VECTOR, Reg::Rax).mov(Reg::Rsp, STACK).load(Reg::Rax, RESUME);
        handlers.asm(|a| a.jmp(rax));
        self.handlers = handlers.text;

        let entry = |vector: u8| TrapInfo {
            vector,
            flags: 0,
            cs: FLAT_RING3_CS64,
            padding: 0,
            address: handler(vector.into()),
        };
        let mut table: Vec<TrapInfo> = (0..32).map(entry).collect();
        table.push(TrapInfo::default());
        let table = self.data(table.as_slice());
        self.hypercall(N::SET_TRAP_TABLE, &[table]);
        let [event, failsafe, syscall] = [trap::EVENT, trap::FAILSAFE, trap::SYSCALL].map(handler);
        self.hypercall(N::SET_CALLBACKS, &[event, failsafe, syscall]);
        self.hypercall(N::STACK_SWITCH, &[0xe02b, STACK])
    }

    /// What arrives from here on goes on at `address`. RAX is lost.
    pub fn resume_at(&mut self, address: u64) -> &mut Self {
        self.set(RESUME, address)
    }

    /// Loads into RAX what arrived last.
    pub fn load_arrived(&mut self) -> &mut Self {
        self.load(Reg::Rax, VECTOR)
    }

    /// Tries an instruction, and says what it led to: what arrived, or [`NONE`]. `value` is in RAX.
    pub fn attempt(&mut self, value: u64, instruction: &[u8]) -> &mut Self {
        self.set(VECTOR, NONE);
        let mut after = self.clone();
        let behind = after.resume_at(0).mov(Reg::Rax, 0).raw(instruction).here();
        self.resume_at(behind).mov(Reg::Rax, value).raw(instruction);
        assert_eq!(self.here(), behind);
        self.mov(Reg::Rsp, STACK).load_arrived().say()
    }

    /// The instructions alone: they can run anywhere, but for what [`Code::here`] said.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The kernel as an ELF file.
    pub fn image(&self) -> Vec<u8> {
        let mut bytes = self.text.clone();
        for (address, part) in [(HANDLERS, &self.handlers), (DATA, &self.data)] {
            let offset = (address - CODE) as usize;
            assert!(bytes.len() <= offset, "the code or its handlers are too long");
            bytes.resize(offset, 0xcc);
            bytes.extend_from_slice(part);
        }
        assert!(bytes.len() <= (OWN - CODE) as usize, "too many constants");
        let segments = vec![Load { physical: PHYSICAL, bytes, memory: END - CODE }];
        let maker = Maker { segments, ..Maker::default() };
        maker.note(NoteType::ENTRY, CODE).without(NoteType::HYPERCALL_PAGE).make()
    }
}
