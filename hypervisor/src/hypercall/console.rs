//! `console_io`: the emergency console.

use super::{Arguments, Call, Outcome, Reply, done, no_such_operation, refuse};
use pv_abi::Errno;
use pv_abi::console_io::ConsoleIoOp;

/// Bytes copied at a time.
const CHUNK: usize = 256;
/// What it costs to write them.
const COST_OF_CHUNK: u32 = 16;

/// `console_io(op, count, buffer)`.
pub fn console_io(call: &mut Call<'_>, [op, count, buffer, ..]: Arguments) -> Reply {
    if i32::try_from(count).is_err() {
        return refuse(Errno::EINVAL, "that many bytes cannot be counted");
    }
    match ConsoleIoOp(op) {
        ConsoleIoOp::WRITE => write(call, count, buffer),
        ConsoleIoOp::READ => read(call, count, buffer),
        _ => no_such_operation(),
    }
}

fn write(call: &mut Call<'_>, count: u64, buffer: u64) -> Reply {
    let mut bytes = [0; CHUNK];
    call.handle.set_awaits_room(false);
    while call.progress.elements < count {
        if call.must_pause() {
            return Ok(Outcome::Preempted);
        }
        call.spend(COST_OF_CHUNK);
        let length = count.saturating_sub(call.progress.elements).min(CHUNK as u64);
        let Some(chunk) = bytes.get_mut(..length as usize) else { break };
        let address = buffer.wrapping_add(call.progress.elements);
        call.space().read_bytes(address, chunk)?;
        let taken = (call.domain.console().write(chunk) as u64).min(length);
        call.progress.elements = call.progress.elements.saturating_add(taken);
        if taken < length {
            call.handle.set_awaits_room(true);
            return Ok(Outcome::AwaitingRoom);
        }
    }
    done()
}

fn read(call: &mut Call<'_>, count: u64, buffer: u64) -> Reply {
    let mut bytes = [0; CHUNK];
    let wanted = count.min(CHUNK as u64) as usize;
    let room = bytes.get_mut(..wanted).unwrap_or_default();
    // A buffer that cannot be written loses nothing of the input.
    call.space().write_bytes(buffer, room)?;
    let got = call.domain.console().read(room).min(wanted);
    call.space().write_bytes(buffer, room.get(..got).unwrap_or_default())?;
    Ok(Outcome::Done(got as u64))
}
