//! Scheduling: the kernel's tasks are futures, and user programs run inside one each.

pub mod executor;
pub mod future;
pub mod idle;
mod patience;
