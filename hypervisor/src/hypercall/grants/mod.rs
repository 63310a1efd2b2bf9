//! `grant_table_op`: the caller's own table here; below, what others lend it. See [`crate::grant`].

mod copy;
mod map;
mod unmap;

use super::mmu::Ran;
use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use crate::domain::Domain;
use crate::domain::grants::MAX_FRAMES;
use crate::error::Failure;
use crate::grant::Stop;
use crate::guest_memory::GuestArray;
use crate::paging::Progress;
use pv_abi::grant_table::{GetVersion, GrantStatus, GrantTableOp, QuerySize, SetVersion, SetupTable};
use pv_abi::{DomId, Errno, Mfn};
use std::sync::Arc;

/// The only format that is offered.
const VERSION: u32 = 1;

/// `grant_table_op(op, argument, count)`.
pub fn grant_table_op(call: &mut Call<'_>, [op, at, count, ..]: Arguments) -> Reply {
    let op = GrantTableOp(op);
    let count = u64::from(count as u32);
    if count > i32::MAX as u64 {
        return refuse(Errno::EINVAL, "a negative number of elements");
    }
    if matches!(op, GrantTableOp::SETUP_TABLE | GrantTableOp::QUERY_SIZE) && count != 1 {
        return refuse(Errno::EINVAL, "this operation takes one element");
    }
    match op {
        GrantTableOp::MAP_GRANT_REF => map::map_grant_ref(call, at, count),
        GrantTableOp::UNMAP_GRANT_REF => unmap::unmap_grant_ref(call, at, count),
        GrantTableOp::UNMAP_AND_REPLACE => unmap::unmap_and_replace(call, at, count),
        GrantTableOp::COPY => copy::copy_grants(call, at, count),
        GrantTableOp::SETUP_TABLE => setup_table(call, at),
        GrantTableOp::QUERY_SIZE => query_size(call, at),
        GrantTableOp::SET_VERSION => set_version(call, at),
        GrantTableOp::GET_VERSION => {
            let mut request: GetVersion = call.read(at)?;
            call.check_self(request.dom)?;
            request.version = VERSION;
            call.write(at, &request)?;
            done()
        }
        _ => no_such_operation(),
    }
}

/// The domain of that number, which may be the caller. Nobody maps from "oneself", on Xen neither. The host domain lends
/// nothing, but there is one.
fn granter(call: &Call<'_>, id: DomId) -> Result<Arc<Domain>, GrantStatus> {
    let missing = if id == DomId::HOST { GrantStatus::GENERAL_ERROR } else { GrantStatus::BAD_DOMAIN };
    call.services.domains.get(id).ok_or(missing)
}

/// An element's status, or how the call ends with it.
fn status(outcome: Result<(), Stop>) -> Result<GrantStatus, Ran> {
    match outcome {
        Ok(()) => Ok(GrantStatus::OKAY),
        Err(Stop::Refused(status)) => Ok(status),
        Err(Stop::Preempted) => Err(Ok(Progress::Preempted)),
        Err(Stop::Lost(failure)) => Err(Err(failure)),
    }
}

/// How an array was gone through.
fn end(ran: Ran) -> Reply {
    match ran? {
        Progress::Done => done(),
        Progress::Preempted => Ok(Outcome::Preempted),
    }
}

fn setup_table(call: &Call<'_>, at: u64) -> Reply {
    let mut request: SetupTable = call.read(at)?;
    request.status = match set_up(call, &request) {
        Ok(status) => status,
        Err(Failure::Refused(_)) => GrantStatus::BAD_VIRT_ADDR,
        Err(other) => return Err(other),
    };
    call.write(at, &request)?;
    done()
}

/// Lets the table grow, and tells its frames.
fn set_up(call: &Call<'_>, request: &SetupTable) -> Result<GrantStatus, Failure> {
    if call.check_self(request.dom).is_err() {
        return Ok(GrantStatus::PERMISSION_DENIED);
    }
    let wanted = request.nr_frames;
    let frames: Vec<Mfn> = {
        let mut table = call.domain.grants().lock();
        if table.grow(&call.services.mmu, call.domain.id(), wanted).is_err() {
            return Ok(GrantStatus::GENERAL_ERROR);
        }
        table.frames().iter().take(wanted as usize).copied().collect()
    };
    let list = GuestArray::<Mfn>::new(request.frame_list, u64::from(wanted))?;
    for (index, frame) in (0..).zip(frames) {
        list.set(&call.space(), index, &frame)?;
    }
    Ok(GrantStatus::OKAY)
}

fn query_size(call: &Call<'_>, at: u64) -> Reply {
    let mut request: QuerySize = call.read(at)?;
    request.status = GrantStatus::PERMISSION_DENIED;
    if call.check_self(request.dom).is_ok() {
        let frames = call.domain.grants().lock().frames().len();
        (request.nr_frames, request.max_nr_frames) = (frames as u32, MAX_FRAMES);
        request.status = GrantStatus::OKAY;
    }
    call.write(at, &request)?;
    done()
}

fn set_version(call: &Call<'_>, at: u64) -> Reply {
    let SetVersion { version } = call.read(at)?;
    match version {
        VERSION => done(),
        2 => refuse(Errno::ENOSYS, "version 2 of grant tables is not offered"),
        _ => refuse(Errno::EINVAL, "no such version of grant tables"),
    }
}
