//! What is Paravane's own: the extension's hypercall.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use pv_abi::Errno;
use pv_abi::extension::ExtensionOp;

/// `extension(op, argument)`.
pub fn extension(call: &mut Call<'_>, [op, argument, ..]: Arguments) -> Reply {
    match ExtensionOp(op) {
        ExtensionOp::EXIT_STATUS => match u8::try_from(argument) {
            Ok(status) => {
                call.domain.set_exit_status(status);
                done()
            }
            Err(_) => refuse(Errno::EINVAL, "an exit status is below 256"),
        },
        _ => no_such_operation(),
    }
}
