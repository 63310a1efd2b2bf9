//! `xen_version`: who we say that we are.

use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use crate::cpuid::XEN_VERSION;
use pv_abi::address::HYPERVISOR_VIRT_START;
use pv_abi::features::Feature;
use pv_abi::version::{
    CapabilitiesInfo, ChangesetInfo, CompileInfo, ExtraVersion, FeatureInfo, PlatformParameters, VersionOp,
};
use pv_abi::{Errno, PAGE_SIZE};

/// `xen_version(command, argument)`.
pub fn xen_version(call: &mut Call<'_>, [command, at, ..]: Arguments) -> Reply {
    match VersionOp(command) {
        VersionOp::VERSION => return Ok(Outcome::Done(u64::from(XEN_VERSION))),
        VersionOp::PAGESIZE => return Ok(Outcome::Done(PAGE_SIZE as u64)),
        VersionOp::EXTRAVERSION => call.write::<ExtraVersion>(at, &text(".0-paravane"))?,
        VersionOp::COMPILE_INFO => call.write(at, &compile_info())?,
        VersionOp::CAPABILITIES => call.write::<CapabilitiesInfo>(at, &text("xen-3.0-x86_64"))?,
        VersionOp::CHANGESET => call.write::<ChangesetInfo>(at, &text("unavailable"))?,
        VersionOp::PLATFORM_PARAMETERS => {
            call.write(at, &PlatformParameters { virt_start: HYPERVISOR_VIRT_START })?;
        }
        VersionOp::GET_FEATURES => return features(call, at),
        VersionOp::GUEST_HANDLE => call.write(at, &[0_u8; 16])?,
        VersionOp::COMMANDLINE => return refuse(Errno::EPERM, "the command line is the host's"),
        VersionOp::BUILD_ID => return refuse(Errno::ENODATA, "there is no build id"),
        _ => return no_such_operation(),
    }
    done()
}

/// `text`, cut to fit with its terminating zero.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let room = N.saturating_sub(1);
    bytes.iter_mut().take(room).zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
    bytes
}

fn compile_info() -> CompileInfo {
    CompileInfo {
        compiler: text("rustc"),
        compile_by: text("paravane"),
        compile_domain: text(""),
        compile_date: text(""),
    }
}

fn features(call: &Call<'_>, at: u64) -> Reply {
    let mut info: FeatureInfo = call.read(at)?;
    if info.submap_idx != 0 {
        return refuse(Errno::EINVAL, "no such group of features");
    }
    info.submap = 1 << Feature::MMU_PT_UPDATE_PRESERVE_AD.0 | 1 << Feature::GNTTAB_MAP_AVAIL_BITS.0;
    call.write(at, &info)?;
    done()
}
