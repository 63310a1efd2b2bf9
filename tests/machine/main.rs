//! The machine layer on real KVM: no page-table change is ever outlived by a translation, kicks and exceptions
//! stay with the vCPU they belong to, and nothing that code at CPL3 does reaches further than an exit.

mod escape;
mod guest;
mod kicks;
mod stale;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use support::kvm_test;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for operation in stale::OPERATIONS {
        for toucher in stale::TOUCHERS {
            let name = format!("{operation:?}/{toucher:?}");
            tests.push(kvm_test(&format!("stale/{name}"), move || stale::never_stale(operation, toucher)));
            let sabotaged = move || stale::sabotage_is_noticed(operation, toucher);
            tests.push(kvm_test(&format!("sabotage/{name}"), sabotaged));
        }
    }
    tests.push(kvm_test("sabotage/the start-up probe", stale::the_probe_refuses_sabotage));
    tests.extend(kicks::tests());
    tests.extend(escape::tests());
    support::main_one_at_a_time(tests)
}
