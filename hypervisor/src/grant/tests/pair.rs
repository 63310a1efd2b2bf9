//! Two guests: one lends, one borrows.

use crate::grant::lent_entries;
use crate::testing::{Guest, World, page};
use pv_abi::grant_table::{
    GrantEntry, GrantHandle, GrantStatus, MapFlags, MapGrantRef, UnmapAndReplace, UnmapGrantRef,
};
use pv_abi::page_table::Pte;
use pv_abi::{DomId, Errno, GrantRef, Mfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where the borrower keeps the arguments of its calls.
pub const ARGUMENTS: u64 = page(1);
/// An address of the borrower's where it may map what it borrows.
pub const WINDOW: u64 = page(8);
/// The pages of the lender's that the tests lend.
pub const LENT: usize = 10;

pub struct Pair {
    pub world: World,
    pub lender: Guest,
    pub borrower: Guest,
    table: Mfn,
}

impl Pair {
    pub fn new() -> Self {
        let world = World::new();
        let (lender, borrower) = (world.guest(), world.guest());
        let table = {
            let mut grants = lender.domain.grants().lock();
            grants.grow(&world.services.mmu, lender.domain.id(), 1).unwrap();
            grants.frames()[0]
        };
        Self { world, lender, borrower, table }
    }

    /// The lender's page of that number.
    pub fn lent(&self, n: usize) -> Mfn {
        self.lender.pages[LENT + n]
    }

    /// The lender writes an entry of its table.
    pub fn write(&self, reference: u32, entry: GrantEntry) {
        self.world.machine.memory.write(self.table, reference as usize * 8, entry.as_bytes()).unwrap();
    }

    /// The lender lends its page `n` to the borrower by the entry of that number, with `flags` besides.
    pub fn lend(&self, n: usize, flags: u16) -> u32 {
        let flags = GrantEntry::PERMIT_ACCESS | flags;
        let frame = self.lent(n).0 as u32;
        self.write(n as u32, GrantEntry { flags, domid: self.borrower.domain.id().0, frame });
        n as u32
    }

    /// The flags of an entry.
    pub fn flags(&self, reference: u32) -> u16 {
        self.world.machine.memory.load_u64(self.table, reference as usize * 8).unwrap() as u16
    }

    /// How often the lender's page `n` is referred to, beside its own mapping of it and its being allocated.
    pub fn references(&self, n: usize) -> u32 {
        self.world.services.mmu.frames().word(self.lent(n)).general - 2
    }

    /// The borrower makes `grant_table_op` of one element.
    pub fn operate<T: FromBytes + IntoBytes + Immutable>(&self, op: u64, request: T) -> T {
        self.world.poke(&self.borrower, ARGUMENTS, &request);
        assert_eq!(self.world.call(&self.borrower, 20, &[op, ARGUMENTS, 1]), Ok(0));
        self.world.peek(&self.borrower, ARGUMENTS)
    }

    /// The borrower maps; the handle, or why not.
    pub fn map_with(
        &self,
        dom: DomId,
        reference: u32,
        flags: u32,
        host_addr: u64,
    ) -> Result<GrantHandle, GrantStatus> {
        let request = MapGrantRef {
            host_addr,
            flags,
            reference: GrantRef(reference),
            dom,
            status: GrantStatus(77),
            handle: GrantHandle(u32::MAX),
            dev_bus_addr: 0,
        };
        let answer = self.operate(0, request);
        match answer.status {
            GrantStatus::OKAY => Ok(answer.handle),
            status => Err(status),
        }
    }

    /// The borrower maps, for itself, what the lender lends.
    pub fn map(&self, reference: u32, flags: u32, address: u64) -> Result<GrantHandle, GrantStatus> {
        self.map_with(self.lender.domain.id(), reference, flags | MapFlags::HOST_MAP, address)
    }

    pub fn unmap(&self, handle: GrantHandle, host_addr: u64) -> GrantStatus {
        self.unmap_part(handle, host_addr, 0)
    }

    /// The borrower ends a mapping, or the part of it that it names.
    pub fn unmap_part(&self, handle: GrantHandle, host_addr: u64, dev_bus_addr: u64) -> GrantStatus {
        self.operate(1, self.part(handle, (host_addr, dev_bus_addr))).status
    }

    /// What ends a mapping, or the part of it that is named by the kernel's and the device's address.
    pub fn part(&self, handle: GrantHandle, (host_addr, dev_bus_addr): (u64, u64)) -> UnmapGrantRef {
        UnmapGrantRef { host_addr, dev_bus_addr, handle, status: GrantStatus(77), padding: 0 }
    }

    /// The borrower ends two parts of a mapping by one call.
    pub fn unmap_parts(&self, handle: GrantHandle, parts: [(u64, u64); 2]) -> [GrantStatus; 2] {
        self.world.poke(&self.borrower, ARGUMENTS, &parts.map(|part| self.part(handle, part)));
        assert_eq!(self.world.call(&self.borrower, 20, &[1, ARGUMENTS, 2]), Ok(0));
        self.world.peek::<[UnmapGrantRef; 2]>(&self.borrower, ARGUMENTS).map(|request| request.status)
    }

    pub fn replace(&self, handle: GrantHandle, host_addr: u64, new_addr: u64) -> GrantStatus {
        let status = GrantStatus(77);
        self.operate(7, UnmapAndReplace { host_addr, new_addr, handle, status, padding: 0 }).status
    }

    /// The frame that the borrower reaches at `address`, by what the pcpu has cached where it has.
    pub fn reach(&self, address: u64, write: bool) -> Option<Mfn> {
        self.world.machine.translations.access(0, self.borrower.root, address, write).ok()
    }

    /// The borrower sets the entry that maps `address`.
    pub fn set_entry(&self, address: u64, entry: Pte) -> Result<u64, Errno> {
        self.world.call(&self.borrower, 14, &[address, entry.0, 0])
    }

    /// The entry that maps `address` in the borrower's kernel.
    pub fn entry(&self, address: u64) -> Pte {
        let (mmu, id) = (&self.world.services.mmu, self.borrower.domain.id());
        mmu.translate(id, self.borrower.root, address).map_or(Pte(0), |mapping| mapping.entry)
    }

    /// Both are alive, and everything must be counted right.
    pub fn audit(&self) {
        let lent = lent_entries(&self.world.services.domains);
        assert_eq!(self.world.services.mmu.audit_lending(&self.held(), &lent), Vec::<String>::new());
    }

    fn held(&self) -> Vec<(Mfn, crate::frame::ReferenceKind)> {
        let of = |guest: &Guest| self.world.on_vcpu(guest, |_, vcpu| vcpu.roots.held().collect::<Vec<_>>());
        [&self.lender, &self.borrower].into_iter().flat_map(of).collect()
    }

    /// Both die, and everything must come back.
    pub fn end(mut self) {
        self.world.check_end(vec![self.lender, self.borrower]);
    }
}
