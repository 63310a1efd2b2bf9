//! From a checked request to one that can begin: its pages are mapped, and its indirect segments read.

use super::buffer::{Buffer, Piece};
use super::flight::Flight;
use super::grants::Grants;
use super::request::{Direction, Limits, Refused, Task, check_segments, range};
use crate::host::{Access, Host, HostError, Page};
use pv_abi::GrantRef;
use pv_abi::io::block::{SEGMENTS_PER_PAGE, Segment, Status};
use zerocopy::{FromZeros, IntoBytes};

fn not_granted(_: HostError) -> Refused {
    Refused { status: Status::ERROR, reason: "a page that is not granted" }
}

/// Maps what the task needs.
pub(super) fn prepare<H: Host>(
    id: u64,
    task: Task<'_>,
    grants: &mut Grants<H>,
    limits: Limits,
) -> Result<Flight<H::Page>, Refused> {
    let nothing = || Buffer::new(Vec::new(), Access::ReadOnly);
    Ok(match task {
        Task::Transfer { direction, offset, segments } => transfer(id, direction, offset, segments, grants)?,
        Task::Indirect { direction, sector, count, pages } => {
            let segments = indirect_segments(count, pages, grants)?;
            let offset = check_segments(&segments, direction, sector, limits)?;
            transfer(id, direction, offset, &segments, grants)?
        }
        Task::Barrier { offset, segments } => {
            Flight::barrier(id, offset, map(segments, Access::ReadOnly, grants)?)
        }
        Task::Flush => Flight::flush(id, nothing()),
        Task::Discard { offset, length } => Flight::discard(id, offset, length, nothing()),
    })
}

fn transfer<H: Host>(
    id: u64,
    direction: Direction,
    offset: u64,
    segments: &[Segment],
    grants: &mut Grants<H>,
) -> Result<Flight<H::Page>, Refused> {
    Ok(match direction {
        Direction::Read => Flight::read(id, offset, map(segments, Access::ReadWrite, grants)?),
        Direction::Write => Flight::write(id, offset, map(segments, Access::ReadOnly, grants)?),
    })
}

fn map<H: Host>(
    segments: &[Segment],
    access: Access,
    grants: &mut Grants<H>,
) -> Result<Buffer<H::Page>, Refused> {
    let piece = |segment: &Segment| {
        let (start, length) = range(segment);
        let page = grants.map(segment.gref, access).map_err(not_granted)?;
        Ok(Piece { page, start, length })
    };
    Ok(Buffer::new(segments.iter().map(piece).collect::<Result<_, _>>()?, access))
}

/// Reads segments from the pages that hold them: once, before any of them is looked at.
fn indirect_segments<H: Host>(
    count: u16,
    pages: &[GrantRef],
    grants: &mut Grants<H>,
) -> Result<Vec<Segment>, Refused> {
    let mut segments = vec![Segment::new_zeroed(); usize::from(count)];
    for (part, &reference) in segments.chunks_mut(SEGMENTS_PER_PAGE).zip(pages) {
        let page = grants.map(reference, Access::ReadOnly).map_err(not_granted)?;
        page.read(0, part.as_mut_bytes()).map_err(not_granted)?;
    }
    Ok(segments)
}
