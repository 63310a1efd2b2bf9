//! The back-end's end of a console page (`io/console.h`).
//!
//! The back-end's own indices live here and are only ever written to the page; the front-end's are read from it once
//! a round, and checked against ours.

use crate::Disconnect;
use crate::host::{HostError, Page};
use pv_abi::io::console::{BadIndices, ConsoleInterface, IN_SIZE, OUT_SIZE, free, run, used};
use std::mem::offset_of;

const INPUT: usize = offset_of!(ConsoleInterface, input);
const OUTPUT: usize = offset_of!(ConsoleInterface, output);
const IN_CONS: usize = offset_of!(ConsoleInterface, in_cons);
const IN_PROD: usize = offset_of!(ConsoleInterface, in_prod);
const OUT_CONS: usize = offset_of!(ConsoleInterface, out_cons);
const OUT_PROD: usize = offset_of!(ConsoleInterface, out_prod);

pub(super) struct RingEnd<P> {
    page: P,
    in_prod: u32,
    out_cons: u32,
}

impl<P: Page> RingEnd<P> {
    /// Takes up the page where its last back-end left it. Any index is a valid one to start from.
    pub fn new(page: P) -> Result<Self, HostError> {
        let (in_prod, out_cons) = (page.load_u32(IN_PROD)?, page.load_u32(OUT_CONS)?);
        Ok(Self { page, in_prod, out_cons })
    }

    /// Moves all output that there is behind the end of `into`; returns how many bytes.
    pub fn take_output(&mut self, into: &mut Vec<u8>) -> Result<usize, Disconnect> {
        let prod = self.page.load_u32(OUT_PROD)?;
        let length = used(OUT_SIZE, prod, self.out_cons).map_err(|bad| lying("output", bad))?;
        self.each_run(OUT_SIZE, self.out_cons, length, |page, offset, length| {
            let start = into.len();
            into.resize(start.saturating_add(length), 0);
            page.read(OUTPUT.saturating_add(offset), into.get_mut(start..).unwrap_or_default())
        })?;
        self.out_cons = self.out_cons.wrapping_add(length);
        if length != 0 {
            self.page.store_u32(OUT_CONS, self.out_cons)?;
        }
        Ok(length as usize)
    }

    /// Gives the front-end as much input as it has room for: `fetch` fills what it is given, as far as it can, and
    /// says how far. Returns how many bytes went over.
    pub fn put_input(&mut self, fetch: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Disconnect> {
        let cons = self.page.load_u32(IN_CONS)?;
        let room = free(IN_SIZE, self.in_prod, cons).map_err(|bad| lying("input", bad))?;
        let mut bytes = [0; IN_SIZE as usize];
        let room = bytes.get_mut(..room as usize).unwrap_or_default();
        let length = fetch(room).min(room.len());
        let mut rest = room.get(..length).unwrap_or_default();
        self.each_run(IN_SIZE, self.in_prod, length as u32, |page, offset, length| {
            // Both runs together are what is left.
            let (now, later) = rest.split_at_checked(length).unwrap_or_default();
            rest = later;
            page.write(INPUT.saturating_add(offset), now)
        })?;
        self.in_prod = self.in_prod.wrapping_add(length as u32);
        if length != 0 {
            self.page.store_u32(IN_PROD, self.in_prod)?;
        }
        Ok(length)
    }

    /// Calls `action` with offset and length of the one or two runs that `length` bytes from `index` on make.
    fn each_run(
        &self,
        size: u32,
        index: u32,
        length: u32,
        mut action: impl FnMut(&P, usize, usize) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let (mut index, mut left) = (index, length);
        while left != 0 {
            let (offset, length) = run(size, index, left);
            action(&self.page, offset as usize, length as usize)?;
            index = index.wrapping_add(length);
            left = left.saturating_sub(length);
        }
        Ok(())
    }
}

fn lying(ring: &str, bad: BadIndices) -> Disconnect {
    let BadIndices { prod, cons } = bad;
    Disconnect::Protocol(format!("the {ring} ring's indices do not fit: produced {prod}, consumed {cons}"))
}
