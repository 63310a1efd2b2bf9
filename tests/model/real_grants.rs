//! Grants of the implementation: `grant_table_op`, below the hypercall.

use crate::real::{Outcome, Real, id};
use crate::state::{At, DOMAINS, ENTRIES, Op, Side, State, Stop};
use hypervisor::domain::Domain;
use hypervisor::domain::grants::{Active, Parts, Record};
use hypervisor::grant::{self, Access, Unmapping, Wanted, copy, map};
use hypervisor::machine::Root;
use hypervisor::paging::{Batch, Budget, EntryPlace, EntryTarget};
use pv_abi::grant_table::GrantHandle;
use pv_abi::page_table::PteFlags;
use pv_abi::{GrantRef, Mfn};
use std::sync::Arc;

const fn access(writable: bool) -> Access {
    if writable { Access::ReadWrite } else { Access::ReadOnly }
}

fn stopped(stop: grant::Stop) -> Result<Outcome, String> {
    match stop {
        grant::Stop::Refused(_) => Ok((Err(Stop::Refused), None)),
        grant::Stop::Preempted => Ok((Err(Stop::Preempted), None)),
        grant::Stop::Lost(failure) => Err(failure.to_string()),
    }
}

impl Real {
    pub fn grant_table_op(&mut self, by: u8, op: Op, budget: Budget) -> Result<Outcome, String> {
        match op {
            Op::SetUp => {
                let mut table = self.domains[usize::from(by)].grants().lock();
                let before = table.frames().len();
                let grown = table.grow(&self.mmu, id(by), 1).map_err(|_| Stop::Refused);
                Ok((grown, table.frames().get(before).map(|&mfn| self.frame_number(mfn))))
            }
            Op::Map { granter, reference, writable, at } => {
                let granter = self.domains[usize::from(granter)].clone();
                let (reference, target) = (GrantRef(reference.into()), self.target(by, at));
                let (access, available) = (access(writable), PteFlags::empty());
                self.map(
                    by,
                    Wanted { granter, reference, access, target: Some(target), device: false, available },
                    budget,
                )
            }
            Op::Unmap(handle, at) => self.unmap(by, handle, at, None, budget),
            Op::Replace(handle, at, new) => self.unmap(by, handle, at, Some(At::Linear(new)), budget),
            Op::Copy { word, source, dest } => {
                let side = |side| match side {
                    Side::Own(frame) => grant::Side::Own(self.mfn(frame)),
                    Side::Granted(granter, reference) => {
                        let granter = self.domains[usize::from(granter)].clone();
                        grant::Side::Granted(granter, GrantRef(reference.into()))
                    }
                };
                let at = u16::from(word) * 8;
                let copied = copy(&self.mmu, id(by), (side(source), at), (side(dest), at), 8);
                Ok((copied.map_err(|_| Stop::Refused), None))
            }
            _ => Err(format!("{op:?} is no operation on grants")),
        }
    }

    fn map(&self, by: u8, wanted: Wanted, budget: Budget) -> Result<Outcome, String> {
        let mut batch = Batch::new(id(by), budget);
        let mapped = map(&self.mmu, &self.domains[usize::from(by)], wanted, &mut batch);
        self.mmu.finish(batch).map_err(|failure| failure.to_string())?;
        match mapped {
            Ok((handle, _)) => Ok((Ok(()), Some(handle.0 as u8))),
            Err(stop) => stopped(stop),
        }
    }

    /// While it goes on, the witness looks whether the entry stays marked until nothing is mapped any more.
    fn unmap(
        &self,
        by: u8,
        handle: u8,
        at: Option<At>,
        new: Option<At>,
        budget: Budget,
    ) -> Result<Outcome, String> {
        let (grantee, handle) = (&self.domains[usize::from(by)], GrantHandle(handle.into()));
        let record =
            grantee.maptrack().lock().iter().find(|(of, _)| *of == handle).map(|(_, found)| found.clone());
        let called = record.as_ref().and_then(|record| record.host).map_or(0, |host| host.target.address());
        let address = at.map_or(called, |at| self.target(by, at).address());
        self.witness.watch(record.and_then(|Record { granter, reference, .. }| {
            let table = *granter.grants().lock().frames().first()?;
            Some((table, reference.0 as usize))
        }));
        let mut unmapping = Unmapping::new(id(by), budget);
        let new = new.map(|at| self.target(by, at));
        let parts = Parts::Named { host_addr: address, dev_bus_addr: 0 };
        let unmapped = unmapping.unmap(&self.mmu, grantee, (handle, parts), new);
        unmapping.finish(&self.mmu, grantee).map_err(|failure| failure.to_string())?;
        self.witness.testify()?;
        unmapped.map_or_else(stopped, |()| Ok((Ok(()), None)))
    }

    fn target(&self, by: u8, at: At) -> EntryTarget {
        match at {
            At::Entry(table, index) => EntryTarget::Machine(self.mfn(table).address() + u64::from(index) * 8),
            At::Linear(indices) => {
                let address = indices.iter().fold(0, |bits, &index| bits << 9 | u64::from(index)) << 12;
                let root = self.roots[usize::from(by)].kernel().unwrap_or(Root::NONE).mfn();
                EntryTarget::Linear { root, address }
            }
        }
    }

    /// Where the two disagree about who uses which entry, and about each mapping.
    pub fn differs_in_grants(&self, model: &State) -> Option<String> {
        (0..DOMAINS as u8).find_map(|domain| {
            self.differs_in_pins(domain, model).or_else(|| self.differs_in_mappings(domain, model))
        })
    }

    /// Of the entries of one domain's table.
    pub fn differs_in_pins(&self, domain: u8, model: &State) -> Option<String> {
        let table = self.domains[usize::from(domain)].grants().lock();
        let frame = model.domains[usize::from(domain)].table.map(|frame| self.mfn(frame));
        if table.frames() != frame.as_slice() {
            return Some(format!(
                "{domain}'s grant table is {:?}, and by the model {frame:?}",
                table.frames()
            ));
        }
        let contents = model.entries()[usize::from(domain)];
        let holds = |&frame: &Mfn| (0..ENTRIES).all(|index| self.holds(frame, index, contents[index]));
        if !table.frames().iter().all(holds) {
            return Some(format!("{domain}'s grant table does not hold {contents:?}"));
        }
        let expected: Vec<_> = (0..ENTRIES as u8)
            .filter_map(|reference| {
                let pins = model.pins(domain, reference)?;
                let (by, frame) = (id(pins.by), self.mfn(pins.frame));
                let active = Active { by, frame, readers: pins.readers, writers: pins.writers };
                Some((GrantRef(reference.into()), active))
            })
            .collect();
        let found: Vec<_> = table.active().iter().map(|(&reference, &active)| (reference, active)).collect();
        (found != expected).then(|| format!("{domain} lends {found:?}, and by the model {expected:?}"))
    }

    fn differs_in_mappings(&self, domain: u8, model: &State) -> Option<String> {
        let maptrack = self.domains[usize::from(domain)].maptrack().lock();
        let expected: Vec<_> = model.mappings.iter().filter(|mapping| mapping.grantee == domain).collect();
        let is = |record: &Record, mapping: &crate::grants::Mapping| {
            let of = |granter: &Arc<Domain>| Arc::ptr_eq(granter, &record.granter);
            let place = EntryPlace { table: self.mfn(mapping.place.0), index: mapping.place.1.into() };
            let is_granter = match mapping.granter {
                Some(granter) => of(&self.domains[usize::from(granter)]),
                None => self.dead.iter().any(of),
            };
            let use_of = (GrantRef(mapping.reference.into()), access(mapping.writable));
            let of_what = (self.mfn(mapping.frame), Some(place));
            is_granter
                && (record.reference, record.access) == use_of
                && (record.frame, record.host.map(|host| host.place)) == of_what
        };
        let mut found = maptrack.iter();
        let agree = expected.iter().all(|mapping| {
            found.next().is_some_and(|(handle, record)| {
                handle == GrantHandle(mapping.handle.into()) && is(record, mapping)
            })
        });
        if !agree || found.next().is_some() {
            let found: Vec<_> = maptrack.iter().collect();
            return Some(format!("{domain} has mapped {found:#?}, and by the model {expected:#?}"));
        }
        (maptrack.reserved() != expected.len()).then(|| format!("{domain} lost a handle"))
    }
}
