//! What depends on the processor and on how the hypervisor enters the kernel. All assembly is here.

#[allow(unsafe_code, reason = "entry point")]
mod boot;
#[allow(unsafe_code, reason = "calls that may trap")]
pub mod guard;
#[allow(unsafe_code, reason = "the calling convention is assembly")]
pub mod hypercall;
#[allow(unsafe_code, reason = "the symbols that compiled code expects")]
mod memory_functions;
#[allow(unsafe_code, reason = "instructions without a safe wrapper")]
pub mod processor;
#[allow(unsafe_code, reason = "a vCPU without the kernel's traps")]
pub mod second;
#[allow(unsafe_code, reason = "trap entry stubs")]
pub mod trap;
#[allow(unsafe_code, reason = "switches stacks")]
pub mod user_mode;
#[allow(unsafe_code, reason = "finds its data by the stack pointer")]
pub mod vcpu;
