//! Instructions by which a CPU may get from CPL3 to CPL0, but for `syscall`, whose gates are tried by themselves. They
//! are bytes that mean the same in 64-bit and in 32-bit code, where both have them.
#![allow(dead_code)] // no test program uses all of it

/// One way, and what arrives where it is closed.
pub struct Way {
    /// What the way is called in messages.
    pub name: &'static str,
    /// The bytes of its instructions.
    pub code: &'static [u8],
    /// Exceptions that arrive, beyond #UD and #GP.
    pub arrives: &'static [u64],
    /// Only 32-bit code has it.
    pub only_32_bit: bool,
    /// KVM may answer it itself, and the code behind it goes on.
    pub is_answered: bool,
}

impl Way {
    /// Whether code of `bits` bits has it.
    pub fn exists_in(&self, bits: u32) -> bool {
        bits == 32 || !self.only_32_bit
    }

    /// Whether that is what a guest at CPL3 gets for it.
    pub fn arrives_as(&self, vector: u64) -> bool {
        matches!(vector, 6 | 13) || self.arrives.contains(&vector)
    }
}

const fn refused(name: &'static str, code: &'static [u8]) -> Way {
    Way { name, code, arrives: &[], only_32_bit: false, is_answered: false }
}

const fn trap(name: &'static str, code: &'static [u8], arrives: &'static [u64]) -> Way {
    Way { name, code, arrives, only_32_bit: false, is_answered: false }
}

const fn answered(name: &'static str, code: &'static [u8]) -> Way {
    Way { name, code, arrives: &[], only_32_bit: false, is_answered: true }
}

const fn of_32_bits(name: &'static str, code: &'static [u8], arrives: &'static [u64]) -> Way {
    Way { name, code, arrives, only_32_bit: true, is_answered: false }
}

/// The list. A far pointer's selector is the stub's code (0xe008), its data (0xe010) or the TSS (0xe040).
pub const WAYS: &[Way] = &[
    refused("sysenter", &[0x0f, 0x34]),
    refused("sysexit", &[0x0f, 0x35]),
    refused("sysret", &[0x0f, 0x07]),
    refused("sysretq", &[0x48, 0x0f, 0x07]),
    // Traps through gates that programs may use, or that need none.
    trap("int1", &[0xf1], &[1]),
    trap("int3", &[0xcc], &[3]),
    of_32_bits("into", &[0xb0, 0x7f, 0x04, 0x01, 0xce], &[4]), // mov al, 127; add al, 1; into
    of_32_bits("bound", &[0x31, 0xc0, 0x48, 0x62, 0x07], &[5]), // xor eax, eax; dec eax; bound eax, [edi]
    refused("int 0x80", &[0xcd, 0x80]),
    refused("int 2", &[0xcd, 2]),
    refused("int 8", &[0xcd, 8]),
    // Far transfers to inner rings, call gates and tasks; returns to inner rings.
    of_32_bits("jmp to the stub's code", &[0xea, 0, 0, 0x40, 0, 0x08, 0xe0], &[]),
    of_32_bits("call to the stub's code", &[0x9a, 0, 0, 0x40, 0, 0x08, 0xe0], &[]),
    of_32_bits("call to a task", &[0x9a, 0, 0, 0x40, 0, 0x40, 0xe0], &[]),
    of_32_bits("jmp to a task", &[0xea, 0, 0, 0x40, 0, 0x40, 0xe0], &[]),
    // push 0xe008; push 0x400000; jmp far [rsp], or dec eax; jmp far [esp]
    refused(
        "indirect jmp to the stub's code",
        &[0x68, 8, 0xe0, 0, 0, 0x68, 0, 0, 0x40, 0, 0x48, 0xff, 0x2c, 0x24],
    ),
    refused(
        "indirect call to the stub's code",
        &[0x68, 8, 0xe0, 0, 0, 0x68, 0, 0, 0x40, 0, 0x48, 0xff, 0x1c, 0x24],
    ),
    refused(
        "indirect call to a task",
        &[0x68, 0x40, 0xe0, 0, 0, 0x68, 0, 0, 0x40, 0, 0x48, 0xff, 0x1c, 0x24],
    ),
    // push 0xe008; push 0x400000; retf
    refused("far return to the stub's code", &[0x68, 0x08, 0xe0, 0, 0, 0x68, 0, 0, 0x40, 0, 0xcb]),
    // pushf; pop eax; or eax, NT; push eax; popf; iret
    refused("return from a nested task", &[0x9c, 0x58, 0x0d, 0, 0x40, 0, 0, 0x50, 0x9d, 0xcf]),
    // mov eax, 0xe010; mov ss, eax
    refused("the stub's stack segment", &[0xb8, 0x10, 0xe0, 0, 0, 0x8e, 0xd0]),
    refused("lldt", &[0x31, 0xc0, 0x0f, 0x00, 0xd0]),
    refused("ltr", &[0xb8, 0x40, 0xe0, 0, 0, 0x0f, 0x00, 0xd8]),
    refused("lgdt", &[0x0f, 0x01, 0x17]),
    refused("lidt", &[0x0f, 0x01, 0x1f]),
    refused("mov cr0", &[0x0f, 0x22, 0xc0]),
    refused("wrmsr", &[0x0f, 0x30]),
    // The stub's own ports.
    refused("out to a vector's port", &[0xe6, 0x40]),
    refused("out to the gate's port", &[0xe6, 0x60]),
    refused("out to the scribe's port", &[0xe6, 0x61]),
    refused("out to a port behind them", &[0xe6, 0x62]),
    // To the monitor of a virtual machine, to system management and to enclaves.
    answered("vmcall", &[0x0f, 0x01, 0xc1]),
    answered("vmmcall", &[0x0f, 0x01, 0xd9]),
    refused("vmrun", &[0x0f, 0x01, 0xd8]),
    refused("vmload", &[0x0f, 0x01, 0xda]),
    refused("vmlaunch", &[0x0f, 0x01, 0xc2]),
    refused("vmfunc", &[0x31, 0xc0, 0x0f, 0x01, 0xd4]),
    refused("skinit", &[0x0f, 0x01, 0xde]),
    refused("rsm", &[0x0f, 0xaa]),
    refused("getsec", &[0x0f, 0x37]),
    refused("encls", &[0x0f, 0x01, 0xcf]),
    refused("enclu", &[0x0f, 0x01, 0xd7]),
    // What newer CPUs have: user interrupts, FRED, page validation.
    refused("senduipi", &[0xf3, 0x0f, 0xc7, 0xf0]),
    refused("uiret", &[0xf3, 0x0f, 0x01, 0xec]),
    refused("eretu", &[0xf3, 0x0f, 0x01, 0xca]),
    refused("erets", &[0xf2, 0x0f, 0x01, 0xca]),
    refused("pvalidate", &[0xf2, 0x0f, 0x01, 0xff]),
    refused("rmpadjust", &[0xf3, 0x0f, 0x01, 0xfe]),
    refused("invlpgb", &[0x0f, 0x01, 0xfe]),
    refused("tdcall", &[0x66, 0x0f, 0x01, 0xcc]),
    refused("seamcall", &[0x66, 0x0f, 0x01, 0xcf]),
    refused("wrmsrns", &[0x0f, 0x01, 0xc6]),
    refused("swapgs", &[0x0f, 0x01, 0xf8]),
];
