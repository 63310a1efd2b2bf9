//! Privileged instructions, run in kernel mode. They are bytes here, and code only on an experiment's page.

use alloc::format;

use super::report::Report;
use crate::selftest::laboratory;

/// Each ends in `ret`, should it be executed.
const INSTRUCTIONS: &[(&str, &[u8])] = &[
    ("hlt", &[0xf4, 0xc3]),
    ("lgdt [rdi]", &[0x0f, 0x01, 0x17, 0xc3]),
    ("lidt [rdi]", &[0x0f, 0x01, 0x1f, 0xc3]),
    ("lldt di", &[0x0f, 0x00, 0xd7, 0xc3]),
    ("ltr di", &[0x0f, 0x00, 0xdf, 0xc3]),
    ("lmsw di", &[0x0f, 0x01, 0xf7, 0xc3]),
    ("invlpg [rdi]", &[0x0f, 0x01, 0x3f, 0xc3]),
    ("mov cr3, rdi", &[0x0f, 0x22, 0xdf, 0xc3]),
    ("mov cr8, rdi", &[0x44, 0x0f, 0x22, 0xc7, 0xc3]),
    ("swapgs", &[0x0f, 0x01, 0xf8, 0xc3]),
    ("xsetbv of nothing", &[0x31, 0xc9, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x01, 0xd1, 0xc3]),
    ("sysret", &[0x48, 0x0f, 0x07]),
    ("monitor", &[0x0f, 0x01, 0xc8, 0xc3]),
    ("in al, 0x64", &[0xe4, 0x64, 0xc3]),
    ("out 0x64, al", &[0xb0, 0xff, 0xe6, 0x64, 0xc3]),
    ("out dx, eax", &[0x66, 0xba, 0xf8, 0x0c, 0xef, 0xc3]),
    ("rep outsb", &[0xb9, 1, 0, 0, 0, 0x66, 0xba, 0xf8, 0x0c, 0x48, 0x89, 0xfe, 0xf3, 0x6e, 0xc3]),
    // ECX = register, EDX:EAX = 0x80000000_00000000
    ("wrmsr EFER", &wrmsr(0xc000_0080)),
    ("wrmsr LSTAR", &wrmsr(0xc000_0082)),
    ("wrmsr STAR", &wrmsr(0xc000_0081)),
    ("wrmsr SYSENTER_EIP", &wrmsr(0x176)),
    ("wrmsr FS_BASE, not canonical", &wrmsr(0xc000_0100)),
    ("wrmsr an unknown register", &wrmsr(0xdead_beef)),
    // mov dx, 8; push rdx ...: an interrupt return to the hypervisor's own selectors.
    ("iretq to ring 0", IRET_TO_RING_0),
    // push 0xe008; push 0; retfq
    ("a far return to ring 0", &[0x68, 0x08, 0xe0, 0, 0, 0x6a, 0, 0x48, 0xcb]),
    // mov ax, 0xe010; mov ss, ax
    ("loading a stack of ring 0", &[0x66, 0xb8, 0x10, 0xe0, 0x8e, 0xd0, 0xc3]),
];

/// `push 0xe010; push rsp; push 2; push 0xe008; push 0; iretq`
const IRET_TO_RING_0: &[u8] =
    &[0x68, 0x10, 0xe0, 0, 0, 0x54, 0x6a, 2, 0x68, 0x08, 0xe0, 0, 0, 0x6a, 0, 0x48, 0xcf];

/// `mov ecx, REGISTER; mov edx, 0x80000000; xor eax, eax; wrmsr; ret`
const fn wrmsr(register: u32) -> [u8; 15] {
    let [a, b, c, d] = register.to_le_bytes();
    [0xb9, a, b, c, d, 0xba, 0, 0, 0, 0x80, 0x31, 0xc0, 0x0f, 0x30, 0xc3]
}

/// Calls to a hypervisor below, where there is one: it may answer itself.
const CALLS_BELOW: [(&str, &[u8]); 2] =
    [("vmcall", &[0x0f, 0x01, 0xc1, 0xc3]), ("vmmcall", &[0x0f, 0x01, 0xd9, 0xc3])];

/// KVM's answer to whoever is not at CPL 0: -EPERM.
const NOT_PERMITTED: u64 = u64::MAX;

pub fn run(report: &mut Report) {
    let target = laboratory::Page::new();
    for (name, code) in CALLS_BELOW {
        let what = format!("{name} in kernel mode");
        match laboratory::run(code, target.address(), 0) {
            Ok(NOT_PERMITTED) => report.attempt(what, true, "refused by the host's hypervisor"),
            result => report.refusal(what, result),
        }
    }
    for (name, code) in INSTRUCTIONS {
        report.refusal(format!("{name} in kernel mode"), laboratory::run(code, target.address(), 0));
    }
}
