//! What the guest's command `rounds` leaves on a disk: round `n` in place `n`, of which each sector tells the round and its
//! own number.

use std::collections::BTreeMap;

pub const SECTOR: usize = 512;
/// Sectors of a round, and of each of its writes.
pub const SECTORS: u64 = 512;
pub const WRITE: u64 = 32;

/// The last round that is durable, by its place.
pub type Durable = BTreeMap<u64, u32>;

/// How many places a disk has: an even number.
pub fn places(bytes: u64) -> u64 {
    (bytes / SECTOR as u64 / SECTORS) & !1
}

/// The word of that index in a sector.
fn word(base: u64, index: u64) -> u64 {
    base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The round and the sector that bytes are from, if they look like the start of one.
pub fn stamp(bytes: &[u8]) -> Option<(u32, u64)> {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let base = words.next()?;
    let whole = words.len() != 0 && words.zip(1..).all(|(found, index)| found == word(base, index));
    whole.then_some(((base >> 32) as u32, base & 0xffff_ffff))
}

/// What a disk lacks of what is durable, and what else is wrong with it; and the last round that has begun.
pub fn inspect(disk: &[u8], durable: &Durable) -> (Vec<String>, u32) {
    let (mut wrong, mut last) = (Vec::new(), 0);
    let places = places(disk.len() as u64);
    for (number, sector) in (0..places * SECTORS).zip(disk.chunks(SECTOR)) {
        let place = number / SECTORS;
        let least = durable.get(&place).copied();
        match stamp(sector) {
            Some((round, own)) if own == number && u64::from(round) % places == place => {
                last = last.max(round);
                if least.is_some_and(|least| round < least) {
                    wrong.push(format!("sector {number} is of round {round}, but {least:?} was durable"));
                }
            }
            None if least.is_none() && sector.iter().all(|byte| *byte == 0) => {}
            _ => wrong.push(format!("sector {number} is of no round; {least:?} was durable")),
        }
    }
    (wrong, last)
}

/// What a guest says, as it comes: in pieces.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The rounds that are said to be durable in the lines that this piece ends. A line that was cut off is none.
    pub fn rounds(&mut self, piece: &[u8]) -> Vec<u32> {
        self.0.extend_from_slice(piece);
        let ended = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.0.drain(..ended).collect();
        let lines = String::from_utf8_lossy(&lines);
        lines.lines().filter_map(|line| line.trim_end().strip_prefix("durable ")?.parse().ok()).collect()
    }
}
