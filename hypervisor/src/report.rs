//! What a crash report tells, read off the vCPU that it happened on: the code there, and the calls that led there.

use crate::domain::{CrashReport, Location, SymbolTable};
use crate::emulate::privileged;
use crate::error::Failure;
use crate::guest_memory::GuestSpace;
use crate::paging::Mmu;
use crate::vcpu::{Mode, Vcpu};
use pv_abi::address::is_canonical;

/// Return addresses that a back trace shows at most.
const MAX_CALLS: usize = 32;

/// Looks at the vCPU as it stands.
pub fn crash_report(reason: &Failure, vcpu: &Vcpu, mmu: &Mmu, symbols: Option<&SymbolTable>) -> CrashReport {
    let registers = vcpu.context.registers;
    let code = vcpu.space(mmu).fetch(vcpu.context.instruction_address());
    let code = code.map_or_else(|_| Vec::new(), |instruction| instruction.bytes().to_vec());
    let mut calls = vec![registers.rip];
    calls.extend(return_addresses(&vcpu.space(mmu), registers.rbp));
    let in_kernel = vcpu.mode == Mode::Kernel;
    let symbols = symbols.filter(|_| in_kernel);
    let name = |depth: usize, address| symbols.and_then(|table| table.describe(address, depth != 0));
    CrashReport {
        reason: match reason {
            Failure::Crash(why) => why.clone(),
            other => other.to_string(),
        },
        is_hosts: reason.is_hosts(),
        domain: vcpu.domain,
        vcpu: vcpu.id,
        mode: vcpu.mode,
        registers,
        selectors: (vcpu.context.cs, vcpu.context.ss),
        privileged: privileged(&code),
        code,
        calls: calls
            .into_iter()
            .enumerate()
            .map(|(depth, address)| Location { address, symbol: name(depth, address) })
            .collect(),
    }
}

/// Follows frame pointers: each frame lies above the one before, so this ends.
fn return_addresses(space: &GuestSpace<'_>, frame: u64) -> Vec<u64> {
    let (mut calls, mut frame) = (Vec::new(), frame);
    while calls.len() < MAX_CALLS && frame % 8 == 0 && frame != 0 && is_canonical(frame) {
        let Ok([next, back]) = space.read::<[u64; 2]>(frame) else { break };
        if back == 0 {
            break;
        }
        calls.push(back);
        if next <= frame {
            break;
        }
        frame = next;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, page};

    /// A stack that goes on and on costs no more than one that ends.
    #[test]
    fn a_back_trace_has_so_many_calls_and_no_more() {
        let mut world = World::new();
        let guest = world.guest();
        let frames: [[u64; 2]; 256] = std::array::from_fn(|depth| {
            let depth = depth as u64;
            [page(3) + 16 * (depth + 1), 0x1000 + depth]
        });
        world.poke(&guest, page(3), &frames);
        let report = world.on_vcpu(&guest, |_, vcpu| {
            vcpu.context.registers.rbp = page(3);
            crash_report(&Failure::Crash("test".into()), vcpu, &world.services.mmu, None)
        });
        assert_eq!(report.calls.len(), 1 + MAX_CALLS);
        assert_eq!(report.calls.last().map(|call| call.address), Some(0x1000 + MAX_CALLS as u64 - 1));
        world.check_end(vec![guest]);
    }

    #[test]
    fn a_crash_shows_the_bytes_at_rip_and_names_a_privileged_instruction() {
        let mut world = World::new();
        let guest = world.guest();
        world.poke(&guest, page(3), &[0x0f_u8, 0x22, 0xe0, 0xf4, 0x90]);
        let told = |rip| {
            let report = world.on_vcpu(&guest, |_, vcpu| {
                vcpu.context.registers.rip = rip;
                crash_report(&Failure::Crash("test".into()), vcpu, &world.services.mmu, None)
            });
            let text = report.to_string();
            text.lines().find(|line| line.contains("code at rip")).expect("a line of code").trim().to_owned()
        };
        let whole = told(page(3));
        assert!(whole.starts_with("code at rip: 0f 22 e0 f4 90 00 "), "{whole}");
        assert!(whole.ends_with("(mov cr4, rax: privileged, and not emulated)"), "{whole}");
        assert!(told(page(3) + 3).ends_with("(hlt: privileged, and not emulated)"));
        assert!(told(page(3) + 4).ends_with("00 00 00"), "nop is for everybody");
        assert_eq!(told(0x10), "code at rip: cannot be read");
        world.check_end(vec![guest]);
    }
}
