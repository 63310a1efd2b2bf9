//! Guests that do harm, each a few instructions long, on real KVM. Each attack is refused, or ends its own domain;
//! beside it, on the same pcpu, a canary goes on counting and keeps its registers and its memory, and when both are
//! gone every frame is free and every count right.

mod addresses;
mod disks;
mod doorbells;
mod emulated;
mod entries;
mod events;
mod garbage;
mod grants;
mod hypercalls;
mod images;
mod loops;
mod page_tables;
mod process;
mod reuse;
mod roots;
mod selectors;
mod served;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod tables;
#[path = "../support/tiny_guest/mod.rs"]
mod tiny_guest;
mod vcpus;
#[path = "../support/ways.rs"]
mod ways;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    let tests = [
        loops::tests(),
        garbage::tests(),
        addresses::tests(),
        selectors::tests(),
        entries::tests(),
        emulated::tests(),
        hypercalls::tests(),
        tables::tests(),
        page_tables::tests(),
        roots::tests(),
        events::tests(),
        doorbells::tests(),
        store::tests(),
        disks::tests(),
        grants::tests(),
        vcpus::tests(),
        reuse::tests(),
        images::tests(),
        process::tests(),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests.into_iter().flatten().collect()).exit_code()
}
