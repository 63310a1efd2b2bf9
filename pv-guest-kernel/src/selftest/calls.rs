//! The small calls: versions, the emergency console, callbacks, and numbers that mean nothing.

use pv_abi::Errno;
use pv_abi::callback::{CallbackOp, CallbackRegister, CallbackType};
use pv_abi::console_io::ConsoleIoOp;
use pv_abi::features::Feature;
use pv_abi::hypercall::HypercallNumber;
use pv_abi::version::{CapabilitiesInfo, ChangesetInfo, CompileInfo, ExtraVersion, FeatureInfo};
use pv_abi::version::{PlatformParameters, VersionOp};
use zerocopy::FromZeros;

use super::report::Report;
use super::{WILD, hypercall};
use crate::arch::hypercall::{stack_switch, xen_version, xen_version_query};
use crate::arch::{trap, user_mode};

pub fn run(report: &mut Report) {
    versions(report);
    features(report);
    console(report);
    entries(report);
    report.refused("an unknown hypercall", hypercall(HypercallNumber(60), [0; 5]), Errno::ENOSYS);
}

fn version_call(op: VersionOp, address: u64) -> Result<u64, Errno> {
    hypercall(HypercallNumber::XEN_VERSION, [op.0, address, 0, 0, 0])
}

fn versions(report: &mut Report) {
    let version = xen_version().unwrap_or(0);
    report.check("interface version", version >= 4 << 16, format_args!("{version:#x}"));
    report.done("extra version", xen_version_query(VersionOp::EXTRAVERSION, &mut ExtraVersion::default()));
    let mut info = CompileInfo::new_zeroed();
    report.done("compile information", xen_version_query(VersionOp::COMPILE_INFO, &mut info));
    let mut capabilities: CapabilitiesInfo = [0; 1024];
    report.done("capabilities", xen_version_query(VersionOp::CAPABILITIES, &mut capabilities));
    let name = pv_abi::start_info::MAGIC.as_bytes();
    let found = capabilities.windows(name.len()).any(|window| window == name);
    report.check("capabilities name the guest's kind", found, pv_abi::start_info::MAGIC);
    let mut changeset: ChangesetInfo = [0; 64];
    report.done("changeset", xen_version_query(VersionOp::CHANGESET, &mut changeset));
    let mut parameters = PlatformParameters { virt_start: 0 };
    report.done("platform parameters", xen_version_query(VersionOp::PLATFORM_PARAMETERS, &mut parameters));
    report.equal(
        "start of the hypervisor's range",
        parameters.virt_start,
        pv_abi::address::HYPERVISOR_VIRT_START,
    );
    report.equal("page size", version_call(VersionOp::PAGESIZE, 0), Ok(4096));
    report.refused("an unknown version query", version_call(VersionOp(99), 0), Errno::ENOSYS);
    report.refused(
        "a version query to a wild address",
        version_call(VersionOp::EXTRAVERSION, WILD),
        Errno::EFAULT,
    );
}

fn features(report: &mut Report) {
    let mut info = FeatureInfo { submap_idx: 0, submap: 0 };
    report.done("features", xen_version_query(VersionOp::GET_FEATURES, &mut info));
    for (feature, expected) in [
        (Feature::MMU_PT_UPDATE_PRESERVE_AD, true),
        (Feature::WRITABLE_PAGE_TABLES, false),
        (Feature::AUTO_TRANSLATED_PHYSMAP, false),
        (Feature::SUPERVISOR_MODE_KERNEL, false),
    ] {
        let offered = info.submap & 1 << feature.0 != 0;
        report.check(
            feature.name().unwrap_or("feature"),
            offered == expected,
            if offered { "offered" } else { "not offered" },
        );
    }
}

fn console(report: &mut Report) {
    let write = |length, address| {
        hypercall(HypercallNumber::CONSOLE_IO, [ConsoleIoOp::WRITE.0, length, address, 0, 0])
    };
    report.done("writing nothing to the emergency console", write(0, 0));
    report.refused("writing to it from a wild address", write(8, WILD), Errno::EFAULT);
    let unknown = hypercall(HypercallNumber::CONSOLE_IO, [99, 0, 0, 0, 0]);
    report.refused("an unknown operation of it", unknown, Errno::ENOSYS);
}

fn entries(report: &mut Report) {
    report.equal("removing the trap table", hypercall(HypercallNumber::SET_TRAP_TABLE, [0; 5]), Ok(0));
    trap::init();
    let wild = hypercall(HypercallNumber::SET_TRAP_TABLE, [WILD, 0, 0, 0, 0]);
    report.refused("a trap table at a wild address", wild, Errno::EFAULT);
    report.done("stack_switch", stack_switch(user_mode::entry_stack_top()));
    let mut callback = CallbackRegister { kind: CallbackType(99), flags: 0, padding: 0, address: 0 };
    let address = &raw mut callback as u64;
    let unknown = hypercall(HypercallNumber::CALLBACK_OP, [CallbackOp::REGISTER.0, address, 0, 0, 0]);
    report.refused("a callback of an unknown kind", unknown, Errno::ENOSYS);
    callback = CallbackRegister { kind: CallbackType::EVENT, flags: 0, padding: 0, address: 1 << 63 };
    let address = &raw mut callback as u64;
    let bad = hypercall(HypercallNumber::CALLBACK_OP, [CallbackOp::REGISTER.0, address, 0, 0, 0]);
    report.refused("a callback at a non-canonical address", bad, Errno::EINVAL);
}
