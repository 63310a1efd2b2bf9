//! Scheduling: the kernel's tasks are futures, and user programs run inside one each.

pub mod executor;
pub mod future;
pub mod idle;
pub mod lock;
mod patience;
#[allow(unsafe_code, reason = "gives a stack to a vCPU")]
pub mod vcpus;
