//! `physdev_op`: an unprivileged guest has no devices, but may ask for I/O privilege that leads nowhere.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use pv_abi::Errno;
use pv_abi::physdev::{PhysdevOp, SetIoBitmap, SetIopl};

/// How many I/O ports there are.
const PORTS: u32 = 65_536;

/// `physdev_op(op, argument)`.
pub fn physdev_op(call: &mut Call<'_>, [op, at, ..]: Arguments) -> Reply {
    match PhysdevOp(op) {
        PhysdevOp::SET_IOPL => {
            let SetIopl { iopl } = call.read(at)?;
            match u8::try_from(iopl) {
                Ok(iopl @ 0..=3) => {
                    call.vcpu.iopl = iopl;
                    done()
                }
                _ => refuse(Errno::EINVAL, "an I/O privilege level is 0 to 3"),
            }
        }
        PhysdevOp::SET_IOBITMAP => {
            let SetIoBitmap { nr_ports, .. } = call.read(at)?;
            match nr_ports {
                0 => done(), // as it is
                1..=PORTS => refuse(Errno::EOPNOTSUPP, "no port is opened to programs"),
                _ => refuse(Errno::EINVAL, "there are not that many ports"),
            }
        }
        _ => no_such_operation(),
    }
}
