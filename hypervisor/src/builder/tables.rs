//! Which page tables the initial address space takes, and what goes into each entry: arithmetic only.

use pv_abi::page_table::{ENTRIES, Level};
use pv_abi::{PAGE_SHIFT, PAGE_SIZE};
use std::collections::{BTreeMap, BTreeSet};

/// A linear piece of the initial address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first virtual address; page-aligned.
    pub address: u64,
    /// The pfn mapped there; the next ones follow.
    pub first_pfn: u64,
    /// How many pages are mapped.
    pub pages: u64,
}

impl Mapping {
    /// The last virtual address in it. The plan has checked that it exists.
    pub fn last(&self) -> u64 {
        self.address + (self.pages * PAGE_SIZE as u64 - 1)
    }

    /// The pfn mapped at `address`, where that lies in here.
    fn pfn(&self, address: u64) -> Option<u64> {
        let inside = (self.address..=self.last()).contains(&address);
        inside.then(|| self.first_pfn + ((address - self.address) >> PAGE_SHIFT))
    }
}

/// A page table of the initial address space: its level, and where the addresses that it translates start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// The level of the table; L4 is the root's.
    pub level: Level,
    /// The first virtual address that it translates; 0 for the root.
    pub base: u64,
}

/// What an entry of a table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The table at this position in the list of tables.
    Table(usize),
    /// The page of the domain that has this pfn.
    Page(u64),
}

/// The tables that some mappings need, in the order in which they lie in memory: the root first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    list: Vec<Table>,
    position: BTreeMap<Table, usize>,
    mappings: Vec<Mapping>,
}

impl Tables {
    /// The tables for `mappings`, which do not overlap.
    pub fn new(mappings: Vec<Mapping>) -> Self {
        let mut needed = BTreeSet::from([Table { level: Level::L4, base: 0 }]);
        for level in [Level::L3, Level::L2, Level::L1] {
            needed.extend(mappings.iter().flat_map(|mapping| tables_of(mapping, level)));
        }
        let list: Vec<_> = needed.into_iter().rev().collect();
        let position = list.iter().enumerate().map(|(position, &table)| (table, position)).collect();
        Self { list, position, mappings }
    }

    /// How many tables there are, the root included.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// What the tables map: the initial mapping first.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The tables in the order in which they lie in memory, the root first.
    pub fn list(&self) -> &[Table] {
        &self.list
    }

    /// The present entries of a table, by index.
    pub fn entries(&self, table: Table) -> impl Iterator<Item = (usize, Target)> {
        (0..ENTRIES).filter_map(move |index| self.target(table, index).map(|target| (index, target)))
    }

    fn target(&self, table: Table, index: usize) -> Option<Target> {
        let address = canonical(table.base + ((index as u64) << table.level.shift()));
        match table.level.below() {
            Some(level) => self.position.get(&Table { level, base: address }).copied().map(Target::Table),
            None => self.mappings.iter().find_map(|mapping| mapping.pfn(address)).map(Target::Page),
        }
    }
}

/// The tables of one level below the root that a mapping needs.
fn tables_of(mapping: &Mapping, level: Level) -> impl Iterator<Item = Table> {
    let span = level.shift() + 9;
    let numbers = mapping.address >> span..=mapping.last() >> span;
    numbers.map(move |number| Table { level, base: number << span })
}

/// Bits 63–48 as bit 47 has them.
fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: u64, first_pfn: u64, pages: u64) -> Mapping {
        Mapping { address, first_pfn, pages }
    }

    #[test]
    fn a_small_mapping_takes_one_table_a_level_and_the_root_is_first() {
        let tables = Tables::new(vec![at(0xffff_ffff_8000_0000, 0, 512)]);
        let levels: Vec<_> = tables.list().iter().map(|table| table.level).collect();
        assert_eq!(levels, [Level::L4, Level::L3, Level::L2, Level::L1]);
        let root: Vec<_> = tables.entries(tables.list()[0]).collect();
        assert_eq!(root, [(511, Target::Table(1))]);
        assert_eq!(tables.entries(tables.list()[3]).nth(7), Some((7, Target::Page(7))));
        assert_eq!(tables.entries(tables.list()[3]).count(), 512);
    }

    #[test]
    fn tables_are_shared_where_mappings_meet() {
        let tables = Tables::new(vec![at(0, 0, 3), at(0x10_0000, 40, 2), at(0x80_0000_0000, 50, 600)]);
        assert_eq!(tables.count(), 1 + 2 + 2 + 1 + 2);
        let translate = |address: u64| {
            let mut table = tables.list()[0];
            loop {
                let index = table.level.index(address);
                match tables.entries(table).find(|&(at, _)| at == index)?.1 {
                    Target::Table(next) => table = tables.list()[next],
                    Target::Page(pfn) => return Some(pfn),
                }
            }
        };
        assert_eq!(translate(0x2000), Some(2));
        assert_eq!(translate(0x3000), None);
        assert_eq!(translate(0x10_1000), Some(41));
        assert_eq!(translate(0x80_0000_0000 + 599 * 4096), Some(649));
    }

    #[test]
    fn the_last_page_of_the_address_space_can_be_mapped() {
        let tables = Tables::new(vec![at(0xffff_ffff_ffff_f000, 9, 1)]);
        let last = *tables.list().last().unwrap();
        assert_eq!(tables.entries(last).collect::<Vec<_>>(), [(511, Target::Page(9))]);
    }
}
