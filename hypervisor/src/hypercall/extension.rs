//! What is Paravane's own: the extension's hypercall.

use super::{Arguments, Call, Reply, done, no_such_operation, refuse};
use crate::error::Refusal;
use crate::event_channel::hang_doorbell;
use crate::machine::DOORBELL_ADDRESS;
use pv_abi::Errno;
use pv_abi::extension::{Doorbell, ExtensionOp};

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
        ExtensionOp::DOORBELL => doorbell(call, argument),
        _ => no_such_operation(),
    }
}

fn doorbell(call: &mut Call<'_>, at: u64) -> Reply {
    let mut request: Doorbell = call.read(at)?;
    let page = call.services.mmu.doorbell_page(call.domain.id());
    let page = page.ok_or(Refusal::new(Errno::ENODEV, "all doorbell pages are in use"))?;
    (request.value, request.address) = (request.port.0, DOORBELL_ADDRESS);
    // Said before it is true, so that there is no doorbell of which the guest could not be told.
    call.write(at, &request)?;
    hang_doorbell(&call.services.doorbells, page, call.domain, request.port)?;
    done()
}
