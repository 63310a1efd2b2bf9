//! Grants in the reference model: what a domain lends, by entries that it writes itself, and what others have mapped.
//!
//! The mappings are the only truth. Who uses an entry, what frame that is and how often is counted from them; only the
//! marks stand in the entry itself, since the granter may write there whatever it likes.

use crate::state::{At, DOMAINS, Domain, ENTRIES, Entry, Op, Side, State, Stop, Use};

/// The marks of an entry that is in use.
pub const READING: u8 = 1;
pub const WRITING: u8 = 2;

/// An entry of a grant table that permits access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub to: u8,
    pub frame: u8,
    pub read_only: bool,
    pub marks: u8,
}

/// What a domain has mapped of another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    pub grantee: u8,
    pub handle: u8,
    /// None once it has died.
    pub granter: Option<u8>,
    pub reference: u8,
    pub writable: bool,
    pub frame: u8,
    /// The L1 table, and the index there, of the entry that maps the frame.
    pub place: (u8, u8),
    /// What the grantee called that.
    pub at: At,
}

/// The use that is made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    pub by: u8,
    pub frame: u8,
    pub readers: u32,
    pub writers: u32,
}

const fn marks(writable: bool) -> u8 {
    if writable { READING | WRITING } else { READING }
}

impl State {
    fn mappings_of(&self, granter: u8, reference: u8) -> impl Iterator<Item = &Mapping> {
        let of = (Some(granter), reference);
        self.mappings.iter().filter(move |mapping| (mapping.granter, mapping.reference) == of)
    }

    /// How an entry is in use, if it is.
    pub fn pins(&self, granter: u8, reference: u8) -> Option<Pins> {
        let Mapping { grantee: by, frame, .. } = *self.mappings_of(granter, reference).next()?;
        let count = |writable| {
            self.mappings_of(granter, reference).filter(|mapping| mapping.writable == writable).count() as u32
        };
        Some(Pins { by, frame, readers: count(false), writers: count(true) })
    }

    /// The marks that mappings stand for.
    pub fn counted_marks(&self, granter: u8, reference: u8) -> u8 {
        self.mappings_of(granter, reference).fold(0, |bits, mapping| bits | marks(mapping.writable))
    }

    /// The marks that stand in the entry.
    pub fn written_marks(&self, granter: u8, reference: u8) -> u8 {
        let table = self.domains[usize::from(granter)].table;
        match table.map(|table| self.frames[usize::from(table)].contents[usize::from(reference)]) {
            Some(Entry::Grant(grant)) => grant.marks,
            _ => 0,
        }
    }

    /// The entries of both grant tables.
    pub fn entries(&self) -> [[Entry; ENTRIES]; DOMAINS] {
        let of = |domain: &Domain| domain.table.map(|table| self.frames[usize::from(table)].contents);
        self.domains.each_ref().map(|domain| of(domain).unwrap_or_default())
    }

    /// Of entries that somebody wrote, `before` having been there: marks may differ from what is mapped from then on,
    /// until they do not.
    pub fn note_marks(&mut self, before: [[Entry; ENTRIES]; DOMAINS], op: Op) {
        let now = self.entries();
        for (domain, reference) in
            (0..DOMAINS).flat_map(|domain| (0..ENTRIES).map(move |entry| (domain, entry)))
        {
            let (granter, number) = (domain as u8, reference as u8);
            let differs = self.written_marks(granter, number) != self.counted_marks(granter, number);
            let is_written = matches!(op, Op::Write(..) | Op::Lend(..) | Op::Copy { .. })
                && now[domain][reference] != before[domain][reference];
            let forged = &mut self.domains[domain].forged[reference];
            *forged = differs && (*forged || is_written);
        }
    }

    fn granted(&mut self, granter: u8, reference: u8) -> Option<&mut Grant> {
        let table = self.domains[usize::from(granter)].table?;
        match self.frame(table).contents.get_mut(usize::from(reference)) {
            Some(Entry::Grant(grant)) => Some(grant),
            _ => None,
        }
    }

    /// `by` starts to use an entry: the frame.
    fn pin(&mut self, granter: u8, reference: u8, by: u8, writable: bool) -> Result<u8, Stop> {
        let pins = self.pins(granter, reference);
        let grant = self.granted(granter, reference).ok_or(Stop::Refused)?;
        if pins.is_some_and(|pins| pins.by != by) || grant.to != by || writable && grant.read_only {
            return Err(Stop::Refused);
        }
        grant.marks |= marks(writable);
        let frame = pins.map_or(grant.frame, |pins| pins.frame);
        let what = if writable { Use::Write } else { Use::Read };
        if let Err(stop) = self.take(granter, frame, what, &mut 0) {
            self.unmark(granter, reference);
            return Err(stop);
        }
        Ok(frame)
    }

    /// Takes back the marks that nothing stands for.
    fn unmark(&mut self, granter: u8, reference: u8) {
        let counted = self.counted_marks(granter, reference);
        if let Some(grant) = self.granted(granter, reference) {
            grant.marks &= counted;
        }
    }

    pub fn map(
        &mut self,
        grantee: u8,
        (granter, reference): (u8, u8),
        writable: bool,
        at: At,
        handle: Option<u8>,
    ) -> Result<(), Stop> {
        let frame = self.pin(granter, reference, grantee, writable)?;
        let Some(place) = self.l1_entry(grantee, at) else {
            self.unmark(granter, reference);
            return Err(Stop::Refused);
        };
        let is_free = |handle: &u8| self.mapping(grantee, *handle).is_none();
        let handle = handle.filter(is_free).ok_or(Stop::Refused)?;
        self.frame(place.0).contents[usize::from(place.1)] = Entry::Lent { frame, writable };
        let granter = Some(granter);
        self.mappings.push(Mapping { grantee, handle, granter, reference, writable, frame, place, at });
        self.mappings.sort_by_key(|mapping| (mapping.grantee, mapping.handle));
        Ok(())
    }

    /// Which of the mappings that is.
    pub fn mapping(&self, grantee: u8, handle: u8) -> Option<usize> {
        self.mappings.iter().position(|mapping| (mapping.grantee, mapping.handle) == (grantee, handle))
    }

    /// Ends a mapping that was made `at` (or wherever it was). With `new` the entry there moves to its place.
    pub fn unmap(
        &mut self,
        grantee: u8,
        handle: u8,
        at: Option<At>,
        new: Option<[u8; 4]>,
    ) -> Result<(), Stop> {
        let number = self.mapping(grantee, handle).ok_or(Stop::Refused)?;
        let Mapping { frame, place, at: called, granter, reference, .. } = self.mappings[number];
        if at.is_some_and(|at| at != called) {
            return Err(Stop::Refused);
        }
        let is_there = self.is_own_l1(grantee, place.0) && self.entry(place).names() == Some(frame);
        if let Some(new) = new {
            let from = self.l1_entry(grantee, At::Linear(new)).ok_or(Stop::Refused)?;
            let moved = self.entry(from);
            let is_own = moved.names().is_none_or(|frame| self.owned(grantee, frame).is_ok());
            if matches!(called, At::Entry(..)) || from == place || !is_there || !is_own {
                return Err(Stop::Refused);
            }
            self.frame(from.0).contents[usize::from(from.1)] = Entry::Absent;
            self.frame(place.0).contents[usize::from(place.1)] = moved;
        } else if is_there {
            self.frame(place.0).contents[usize::from(place.1)] = Entry::Absent;
        }
        self.mappings.remove(number);
        granter.into_iter().for_each(|granter| self.unmark(granter, reference));
        Ok(())
    }

    /// One word, from a page to a page.
    pub fn copy(&mut self, by: u8, word: u8, source: Side, dest: Side) -> Result<(), Stop> {
        let mut at = [0; 2];
        let mut read = Entry::Absent;
        for (number, side) in [source, dest].into_iter().enumerate() {
            let writes = number == 1;
            let what = if writes { Use::Write } else { Use::Read };
            at[number] = match side {
                Side::Own(frame) => self.take(by, frame, what, &mut 0).map(|()| frame)?,
                Side::Granted(granter, reference) => self.pin(granter, reference, by, writes)?,
            };
            let held = &mut self.frame(at[number]).contents[usize::from(word)];
            if writes {
                *held = read;
            } else {
                read = *held;
            }
            if let Side::Granted(granter, reference) = side {
                self.unmark(granter, reference);
            }
        }
        Ok(())
    }

    /// A domain is dead: what it had lent is nobody's to lend any more, and what it had mapped is given back.
    pub fn end_grants(&mut self, domain: u8) {
        let (gone, mut left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.mappings).into_iter().partition(|mapping| mapping.grantee == domain);
        for mapping in left.iter_mut().filter(|mapping| mapping.granter == Some(domain)) {
            mapping.granter = None;
        }
        self.mappings = left;
        for Mapping { granter, reference, .. } in gone {
            granter.into_iter().for_each(|granter| self.unmark(granter, reference));
        }
    }

    fn entry(&self, (table, index): (u8, u8)) -> Entry {
        self.frames[usize::from(table)].contents[usize::from(index)]
    }

    fn is_own_l1(&self, domain: u8, table: u8) -> bool {
        self.owned(domain, table).is_ok_and(|frame| frame.partial.is_none())
            && self.kind(table) == Some(Use::Table(pv_abi::page_table::Level::L1))
    }

    fn l1_entry(&self, domain: u8, at: At) -> Option<(u8, u8)> {
        match at {
            At::Entry(table, index) => self.is_own_l1(domain, table).then_some((table, index)),
            At::Linear(indices) => Some((self.descend(domain, indices)?, indices[3])),
        }
    }

    /// The L1 table that maps an address in the tree of kernel mode.
    pub fn descend(&self, domain: u8, indices: [u8; 4]) -> Option<u8> {
        let root = self.domains[usize::from(domain)].roots[0]?;
        indices[..3].iter().try_fold(root, |table, &index| self.entry((table, index)).names())
    }
}
