//! What a vCPU is told of its processor, with Xen's prefix and without.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Host, Reg, SCRATCH, VCPUS, check_power_off};
use hypervisor::assemble;
use hypervisor::machine::cpuid::Asker;
use hypervisor::machine::kvm::CpuidAnswer;
use libtest_mimic::{Failed, Trial};

pub fn tests() -> Vec<Trial> {
    vec![kvm_test("cpuid/with the prefix and without", with_and_without)]
}

/// EAX and ECX: features, topology, sizes, and the hypervisor's own.
const QUESTIONS: [(u32, u32); 18] = [
    (0, 0),
    (1, 0),
    (4, 0),
    (7, 0),
    (7, 1),
    (0xb, 0),
    (0xb, 1),
    (0xd, 0),
    (0xd, 1),
    (0xd, 2),
    (0xd, 9),
    (0x4000_0000, 0),
    (0x4000_0003, 0),
    (0x4000_0003, 1),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0008, 0),
    (0x8000_001e, 0),
];

const ANSWER: u64 = SCRATCH + 0x900;

/// Asks, and says EAX, EBX, ECX and EDX.
fn ask(code: &mut Code, (leaf, subleaf): (u32, u32), instruction: &[u8]) {
    code.mov(Reg::Rax, leaf.into()).mov(Reg::Rcx, subleaf.into()).raw(instruction);
    let registers = [Reg::Rax, Reg::Rbx, Reg::Rcx, Reg::Rdx];
    for (n, register) in (0..).zip(registers) {
        code.store(ANSWER + 8 * n, register);
    }
    for n in 0..4 {
        code.load(Reg::Rax, ANSWER + 8 * n).say();
    }
}

/// The prefix gets the hypervisor's answer everywhere. Without it, too, where `cpuid` faults; where KVM answers, what it
/// says to all vCPUs alike; and where the processor does, nobody can say what.
fn with_and_without() -> Result<(), Failed> {
    let answers = assemble::machine(8192, 1).map_err(|error| error.to_string())?.report.cpuid;
    let host = Host::new()?;
    let mut code = Code::default();
    for question in QUESTIONS {
        ask(&mut code, question, b"\x0f\x0bxen\x0f\xa2");
        ask(&mut code, question, b"\x0f\xa2");
    }
    code.power_off();
    let (end, guest) = host.run(&code)?;
    check_power_off(&end)?;
    let said = guest.said();
    check(said.len() == 8 * QUESTIONS.len(), || format!("not all answers: {said:x?}"))?;
    let machine = &host.hypervisor.services().cpuid;
    let own = Asker { vcpu: 0, of: VCPUS, xcr0: None };
    for (question, words) in QUESTIONS.into_iter().zip(said.chunks(8)) {
        let [prefixed, plain] = [0, 4].map(|at| [0, 1, 2, 3].map(|n| words[at + n] as u32));
        let expected = |asker| machine.seen_by(asker, question.0, question.1);
        let say =
            |how: &str| format!("{question:x?} {how}: {prefixed:x?} with the prefix, {plain:x?} without");
        check(prefixed == expected(own), || say("with the prefix"))?;
        let agrees = match answers {
            CpuidAnswer::Hypervisor => plain == prefixed,
            CpuidAnswer::Machine => plain == expected(Asker::ALONE),
            CpuidAnswer::Processor => true,
        };
        check(agrees, || say("without it"))?;
    }
    host.finish()
}
