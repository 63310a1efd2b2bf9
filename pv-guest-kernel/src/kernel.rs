//! The boot order, one line a step.

use crate::{
    arch, driver, event, grant, memory, sched, shared_info, shell, start_info, time, xenbus, xenstore,
};

/// Entered once, from `arch::boot`, with the address of `start_info`.
pub extern "C" fn main(start_info: u64) -> ! {
    start_info::init(start_info);
    memory::init_translation();
    driver::console::init();
    println!("Paravane guest kernel {}", env!("CARGO_PKG_VERSION"));
    arch::trap::init();
    shared_info::init();
    memory::init();
    event::init();
    time::init();
    grant::init();
    driver::console::listen();
    xenstore::init();
    xenbus::init();
    shell::power::obey_toolstack();
    sched::vcpus::start();
    println!("{}", memory::summary());
    shell::start();
    sched::executor::run()
}
