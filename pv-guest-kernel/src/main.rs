//! Paravane's bundled guest kernel: a small 64-bit Xen PV kernel, and a model of how to write one.
//!
//! It runs at CPL 3 under Xen's public PV ABI, on Paravane and on Xen itself, and contains no sensitive
//! instruction: what such an instruction would do is asked for by hypercall.
//!
//! The image is this binary built with `--cfg guest_image` and a linker script of its own;
//! `hypervisor/build.rs` does that. An ordinary build of the workspace gives a program that says so.
#![cfg_attr(guest_image, no_std, no_main)]

#[cfg(any(guest_image, test))]
extern crate alloc;

#[cfg(any(guest_image, test))]
#[cfg_attr(not(guest_image), allow(dead_code))]
#[macro_use]
mod driver;
#[cfg(guest_image)]
mod arch;
#[cfg(guest_image)]
#[allow(unsafe_code, reason = "tries what must not work")]
mod attack;
#[cfg(any(guest_image, test))]
#[cfg_attr(not(guest_image), allow(dead_code))]
mod block;
#[cfg(guest_image)]
mod event;
#[cfg(any(guest_image, test))]
#[cfg_attr(not(guest_image), allow(dead_code))]
mod file_system;
#[cfg(guest_image)]
mod grant;
#[cfg(guest_image)]
mod kernel;
#[cfg(guest_image)]
mod memory;
#[cfg(guest_image)]
mod panic;
#[cfg(guest_image)]
mod sched;
#[cfg(guest_image)]
#[allow(unsafe_code, reason = "tries what must not work")]
mod selftest;
#[cfg(guest_image)]
#[allow(unsafe_code, reason = "a page that the hypervisor writes too")]
mod shared_info;
#[cfg(guest_image)]
mod shell;
#[cfg(guest_image)]
mod start_info;
#[cfg(any(guest_image, test))]
#[cfg_attr(not(guest_image), allow(dead_code))]
#[allow(unsafe_code, reason = "promises that one vCPU at a time has the kernel")]
mod sync;
#[cfg(guest_image)]
mod time;
#[cfg(guest_image)]
#[allow(unsafe_code, reason = "user memory, and programs as labels")]
mod user;
#[cfg(guest_image)]
mod xenbus;
#[cfg(guest_image)]
mod xenstore;

// What needs no hypervisor, or only what `fakes` stands in for, is tested as an ordinary program: front-ends against
// peers that lie.
#[cfg(all(test, not(guest_image)))]
mod fakes;
#[cfg(all(test, not(guest_image)))]
use fakes::{event, grant, memory};
#[cfg(all(test, not(guest_image)))]
#[allow(dead_code, reason = "its users are in the image")]
mod sched {
    pub use crate::fakes::{executor, idle};
    pub mod future;
}
#[cfg(all(test, not(guest_image)))]
#[allow(dead_code, reason = "its user is in the image")]
mod xenstore {
    mod client;
    mod message;
    #[allow(unsafe_code, reason = "memory shared with the server")]
    mod ring;
    mod tests;
}
#[cfg(all(test, not(guest_image)))]
#[path = "shell/complete.rs"]
#[allow(dead_code, reason = "its user is in the image")]
mod complete;
#[cfg(all(test, not(guest_image)))]
#[path = "shell/editor.rs"]
#[allow(dead_code, reason = "its user is in the image")]
mod editor;
#[cfg(all(test, not(guest_image)))]
#[path = "sched/patience.rs"]
mod patience;
#[cfg(all(test, not(guest_image)))]
#[path = "xenbus/states.rs"]
mod states;
#[cfg(all(test, not(guest_image)))]
#[path = "shell/text.rs"]
#[allow(dead_code, reason = "its user is in the image")]
mod text;

#[cfg(not(guest_image))]
fn main() {
    println!("This is a guest kernel: its image is built by the package `paravane` and runs under it.");
}
