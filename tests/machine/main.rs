//! The machine layer on real KVM: no page-table change is ever outlived by a translation, kicks and exceptions
//! stay with the vCPU they belong to, and nothing that code at CPL3 does reaches further than an exit.

mod cpuid;
mod entries;
mod escape;
mod guest;
mod kicks;
mod lists;
mod stage;
mod stale;
#[path = "../support/mod.rs"]
mod support;
mod toucher;
#[path = "../support/ways.rs"]
mod ways;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut tests = stale::tests();
    tests.extend(kicks::tests());
    tests.extend(cpuid::tests());
    tests.extend(entries::tests());
    tests.extend(escape::tests());
    tests.extend(lists::tests());
    let outcome = support::main_one_at_a_time(tests);
    stale::report();
    outcome
}
