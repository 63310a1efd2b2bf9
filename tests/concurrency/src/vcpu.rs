//! A vCPU as others see it. Nobody looks at its private state here.

#[path = "../../../hypervisor/src/vcpu/handle.rs"]
mod handle;
#[path = "../../../hypervisor/src/vcpu/info.rs"]
mod info;

pub use handle::{Claim, VcpuHandle, VcpuKey};
pub use hypervisor::vcpu::Mode;
pub use info::InfoPage;

use crate::sync::atomic::AtomicU64;
use pv_abi::{DomId, VcpuId};
use std::sync::Arc;

#[derive(Debug)]
pub struct Vcpu;

impl Vcpu {
    pub fn new(_: DomId, _: VcpuId, _domain_vcpus: u32, _: Arc<AtomicU64>) -> Self {
        Self
    }
}
