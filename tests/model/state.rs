//! The reference model: what the rules of direct paging say, with nothing stored that can be counted.
//!
//! A frame's type is what the references to it say, and those are found by walking: from pins, roots, marks and
//! back-ends' holds down through the tables. There is no count, no cache, no work left over: what nobody refers to
//! any more is gone at once. Only how far an interrupted validation came is kept, since a guest may leave it there.

use crate::grants::{Grant, Mapping};
use pv_abi::page_table::Level;

/// Entries of a table: only 2, so that there are few enough states to try all sequences.
pub const ENTRIES: usize = 2;
pub const DOMAINS: usize = 2;

/// What a frame holds in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Entry {
    #[default]
    Absent,
    Maps {
        frame: u8,
        writable: bool,
    },
    /// Present, with a flag that no table may have.
    Bad(u8),
    /// As it maps a page of another domain's that is lent: with the flags that such an entry has.
    Lent {
        frame: u8,
        writable: bool,
    },
    /// An entry of a grant table; in a page table it names a frame that is not there.
    Grant(Grant),
}

/// What a reference is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    Read,
    Write,
    Descriptors,
    Table(Level),
}

/// What there is to know of one machine frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    pub owner: Option<u8>,
    /// The owner has not given it back.
    pub allocated: bool,
    /// The hypervisor writes it for its owner's life.
    pub permanent: bool,
    pub pinned: Option<Level>,
    /// Validated up to this entry, by a call that was interrupted.
    pub partial: Option<(Level, u8)>,
    pub contents: [Entry; ENTRIES],
}

/// What is known of a domain, but for its frames and mappings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Taken apart, and still named by frames that others hold.
    pub dead: bool,
    /// Of kernel and user mode.
    pub roots: [Option<u8>; 2],
    /// The frame of its grant table.
    pub table: Option<u8>,
    /// Marks in its grant table that are what somebody wrote over the hypervisor's.
    pub forged: [bool; ENTRIES],
}

/// The state of the whole model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub frames: Vec<Frame>,
    pub domains: [Domain; DOMAINS],
    /// References of back-ends and of descriptor tables in use.
    pub held: Vec<(u8, Use)>,
    pub mappings: Vec<Mapping>,
}

/// Which entry of an L1 table a domain means: by table and index, or by the index at each level, from L4 down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    Entry(u8, u8),
    Linear([u8; 4]),
}

/// Where a copy comes from, or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Own(u8),
    /// Granter and reference.
    Granted(u8, u8),
}

/// What somebody does. Frames are numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Whatever frame the machine gives.
    Allocate,
    AllocateShared,
    Deallocate(u8),
    /// `mmu_update` of one entry, or of a word of a page.
    Write(u8, u8, Entry),
    /// `update_va_mapping`: the index at each level, from L4 down.
    WriteAt([u8; 4], Entry),
    Pin(u8, Level),
    Unpin(u8),
    /// The root of kernel mode (0) or user mode (1).
    Base(usize, Option<u8>),
    Hold(u8, Use),
    Release(u8),
    /// Its grant table, of one frame.
    SetUp,
    /// It writes an entry of its grant table.
    Lend(u8, Entry),
    Map {
        granter: u8,
        reference: u8,
        writable: bool,
        at: At,
    },
    /// Of a handle, at an address or wherever it was mapped.
    Unmap(u8, Option<At>),
    /// And what is mapped at another address moves there.
    Replace(u8, Option<At>, [u8; 4]),
    /// `GNTTABOP_copy` of one word.
    Copy {
        word: u8,
        source: Side,
        dest: Side,
    },
    Die,
}

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Refused,
    Preempted,
}

/// References to one frame, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub read: u32,
    pub write: u32,
    pub descriptors: u32,
    pub tables: [u32; 4],
}

impl References {
    fn add(&mut self, what: Use) {
        *match what {
            Use::Read => &mut self.read,
            Use::Write => &mut self.write,
            Use::Descriptors => &mut self.descriptors,
            Use::Table(level) => &mut self.tables[level as usize - 1],
        } += 1;
    }

    /// The uses that need a type, and how many references each has.
    pub fn typed(&self) -> impl Iterator<Item = (Use, u32)> + use<> {
        let tables = Level::ALL.into_iter().map(Use::Table).zip(self.tables);
        let others = [(Use::Write, self.write), (Use::Descriptors, self.descriptors)];
        others.into_iter().chain(tables).filter(|&(_, count)| count > 0)
    }

    pub fn total(&self) -> u32 {
        self.read + self.write + self.descriptors + self.tables.iter().sum::<u32>()
    }
}

impl Entry {
    pub const fn use_in(self, level: Level) -> Option<(u8, Use)> {
        let (Self::Maps { frame, writable } | Self::Lent { frame, writable }) = self else { return None };
        Some(match (level.below(), writable) {
            (Some(below), _) => (frame, Use::Table(below)),
            (None, true) => (frame, Use::Write),
            (None, false) => (frame, Use::Read),
        })
    }

    /// The frame that it names as an entry of a page table.
    pub const fn names(self) -> Option<u8> {
        match self {
            Self::Maps { frame, .. } | Self::Lent { frame, .. } => Some(frame),
            _ => None,
        }
    }

    /// Whether no table may have it.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Bad(_) | Self::Grant(_))
    }
}

impl State {
    pub fn new(frames: usize) -> Self {
        Self {
            frames: vec![Frame::default(); frames],
            domains: Default::default(),
            held: Vec::new(),
            mappings: Vec::new(),
        }
    }

    /// All references there are, found by walking.
    pub fn references(&self) -> Vec<References> {
        let mut found = vec![References::default(); self.frames.len()];
        for (frame, references) in self.frames.iter().zip(&mut found) {
            let own = [frame.pinned, frame.partial.map(|(level, _)| level)];
            own.into_iter().flatten().for_each(|level| references.add(Use::Table(level)));
            if frame.permanent {
                references.add(Use::Write);
            }
        }
        self.held.iter().for_each(|&(frame, what)| found[usize::from(frame)].add(what));
        for root in self.domains.iter().flat_map(|domain| domain.roots).flatten() {
            found[usize::from(root)].add(Use::Table(Level::L4));
        }
        for level in Level::ALL.into_iter().rev() {
            for (number, frame) in self.frames.iter().enumerate() {
                if found[number].tables[level as usize - 1] > 0 {
                    let live = frame.partial.map_or(ENTRIES, |(_, checked)| usize::from(checked));
                    let held = frame.contents[..live].iter().filter_map(|entry| entry.use_in(level));
                    held.for_each(|(frame, what)| found[usize::from(frame)].add(what));
                }
            }
        }
        found
    }

    /// What a frame is used as; reading needs no type.
    pub fn kind(&self, frame: u8) -> Option<Use> {
        self.references()[usize::from(frame)].typed().next().map(|(what, _)| what)
    }

    pub fn owned(&self, domain: u8, frame: u8) -> Result<&Frame, Stop> {
        self.frames.get(usize::from(frame)).filter(|frame| frame.owner == Some(domain)).ok_or(Stop::Refused)
    }

    pub fn frame(&mut self, frame: u8) -> &mut Frame {
        &mut self.frames[usize::from(frame)]
    }

    fn alive(&self, domain: u8) -> Result<(), Stop> {
        if self.domains[usize::from(domain)].dead { Err(Stop::Refused) } else { Ok(()) }
    }

    /// May there be one more such reference? A frame that is to be a table is validated for it. Whoever asks
    /// puts the reference somewhere at once.
    pub fn take(&mut self, domain: u8, frame: u8, what: Use, budget: &mut u32) -> Result<(), Stop> {
        self.owned(domain, frame)?;
        match (what, self.kind(frame)) {
            (Use::Read, _) | (Use::Write | Use::Descriptors, None) => Ok(()),
            (Use::Table(level), None) => self.validate(domain, frame, level, budget),
            (_, kind) if kind != Some(what) => Err(Stop::Refused),
            (Use::Table(level), _) if self.frame(frame).partial.is_some() => {
                self.validate(domain, frame, level, budget)
            }
            _ => Ok(()),
        }
    }

    fn validate(&mut self, domain: u8, frame: u8, level: Level, budget: &mut u32) -> Result<(), Stop> {
        let (_, from) = *self.frame(frame).partial.get_or_insert((level, 0));
        for index in from..ENTRIES as u8 {
            if *budget == 0 {
                return Err(Stop::Preempted);
            }
            let entry = self.frame(frame).contents[usize::from(index)];
            let checked = match (entry, entry.use_in(level)) {
                (bad, _) if bad.is_bad() => Err(Stop::Refused),
                (_, Some((below, what))) => self.take(domain, below, what, budget),
                (_, None) => Ok(()),
            };
            if checked == Err(Stop::Refused) {
                self.frame(frame).partial = None;
            }
            checked?;
            self.frame(frame).partial = Some((level, index + 1));
            *budget = budget.saturating_sub(u32::from(*budget != u32::MAX));
        }
        self.frame(frame).partial = None;
        Ok(())
    }

    /// What nobody refers to is nobody's; a dead domain without frames is forgotten.
    fn sweep(&mut self) {
        let references = self.references();
        for (frame, references) in self.frames.iter_mut().zip(references) {
            if !frame.allocated && references.total() == 0 {
                *frame = Frame::default();
            }
        }
        for domain in 0..DOMAINS {
            let has = self.frames.iter().any(|frame| frame.owner == Some(domain as u8));
            self.domains[domain].dead &= has;
        }
    }

    /// Carries an operation of `domain`'s out. `given` is what the machine gave, where it is asked for a frame.
    pub fn apply(&mut self, domain: u8, op: Op, budget: u32, given: Option<u8>) -> Result<(), Stop> {
        let before = self.entries();
        let outcome = self.act(domain, op, budget, given);
        self.sweep();
        self.note_marks(before, op);
        outcome
    }

    fn act(&mut self, domain: u8, op: Op, mut budget: u32, given: Option<u8>) -> Result<(), Stop> {
        if !matches!(op, Op::Release(_) | Op::Die) {
            self.alive(domain)?;
        }
        match op {
            Op::Allocate | Op::AllocateShared => {
                let free = |frame: &u8| self.frames[usize::from(*frame)] == Frame::default();
                let frame = given.filter(free).ok_or(Stop::Refused)?;
                let permanent = op == Op::AllocateShared;
                *self.frame(frame) =
                    Frame { owner: Some(domain), allocated: true, permanent, ..Frame::default() };
            }
            Op::Deallocate(frame) => {
                if !self.owned(domain, frame)?.allocated {
                    return Err(Stop::Refused);
                }
                self.frame(frame).allocated = false;
            }
            Op::Write(frame, index, entry) => self.write(domain, frame, index, entry, &mut budget)?,
            Op::WriteAt(indices, entry) => {
                let table = self.descend(domain, indices).ok_or(Stop::Refused)?;
                self.write(domain, table, indices[3], entry, &mut budget)?;
            }
            Op::Pin(frame, level) => {
                if self.owned(domain, frame)?.pinned.is_some() {
                    return Err(Stop::Refused);
                }
                self.take(domain, frame, Use::Table(level), &mut budget)?;
                self.frame(frame).pinned = Some(level);
            }
            Op::Unpin(frame) => {
                self.owned(domain, frame)?.pinned.ok_or(Stop::Refused)?;
                self.frame(frame).pinned = None;
            }
            Op::Base(mode, root) => {
                if self.domains[usize::from(domain)].roots[mode] == root {
                    return Ok(());
                }
                if let Some(root) = root {
                    self.take(domain, root, Use::Table(Level::L4), &mut budget)?;
                }
                self.domains[usize::from(domain)].roots[mode] = root;
            }
            Op::Hold(frame, what) => {
                self.take(domain, frame, what, &mut budget)?;
                self.held.push((frame, what));
            }
            Op::Release(number) => {
                if usize::from(number) < self.held.len() {
                    self.held.remove(number.into());
                }
            }
            Op::SetUp if self.domains[usize::from(domain)].table.is_some() => {}
            Op::SetUp => {
                self.act(domain, Op::AllocateShared, budget, given)?;
                self.domains[usize::from(domain)].table = given;
            }
            Op::Lend(reference, entry) => {
                let table = self.domains[usize::from(domain)].table.ok_or(Stop::Refused)?;
                self.write(domain, table, reference, entry, &mut budget)?;
            }
            Op::Map { granter, reference, writable, at } => {
                self.map(domain, (granter, reference), writable, at, given)?;
            }
            Op::Unmap(handle, at) => self.unmap(domain, handle, at, None)?,
            Op::Replace(handle, at, new) => self.unmap(domain, handle, at, Some(new))?,
            Op::Copy { word, source, dest } => self.copy(domain, word, source, dest)?,
            Op::Die => {
                self.die(domain);
                self.end_grants(domain);
            }
        }
        Ok(())
    }

    /// A table's entry, or a word of a page that is none.
    fn write(&mut self, domain: u8, frame: u8, at: u8, new: Entry, budget: &mut u32) -> Result<(), Stop> {
        let (partial, old) =
            (self.owned(domain, frame)?.partial, self.frame(frame).contents[usize::from(at)]);
        match self.kind(frame) {
            Some(Use::Descriptors) => return Err(Stop::Refused),
            Some(Use::Table(_)) if partial.is_some() => return Err(Stop::Refused),
            Some(Use::Table(level)) => match (new, new.use_in(level)) {
                (bad, _) if bad.is_bad() => return Err(Stop::Refused),
                // What the new entry needs is taken while the old one still has what it has.
                (_, Some((below, what))) if old != new => self.take(domain, below, what, budget)?,
                _ => {}
            },
            _ => {}
        }
        self.frame(frame).contents[usize::from(at)] = new;
        Ok(())
    }

    fn die(&mut self, domain: u8) {
        self.domains[usize::from(domain)] = Domain { dead: true, ..Domain::default() };
        for frame in self.frames.iter_mut().filter(|frame| frame.owner == Some(domain)) {
            *frame = Frame { owner: frame.owner, contents: frame.contents, ..Frame::default() };
        }
    }
}
