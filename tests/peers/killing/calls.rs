//! What strace saw: of each round that was said to be durable, whether an `fdatasync` of the image that began after its
//! last write had succeeded before.

use crate::rounds::{Lines, SECTOR, SECTORS, WRITE, places, stamp};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The calls up to some line of the log; times are lines.
#[derive(Default)]
struct Calls<'a> {
    /// Calls that have begun and not ended, by thread: the line, and how it began.
    open: HashMap<&'a str, (usize, &'a str)>,
    /// Sectors at which a write of a round began and has ended, and when the last one has.
    written: HashMap<u32, (BTreeSet<u64>, usize)>,
    /// When the latest `fdatasync` that has succeeded began.
    synced: Option<usize>,
}

/// How many rounds were said to be durable in what was written to stdout, and those of them that were not. The log tells
/// how long each write was, and the text of all of them what was said: strace cuts long ones off.
pub fn judge(log: &str, mut stdout: &[u8], image: &Path, bytes: u64) -> (usize, Vec<u32>) {
    let image = format!("<{}>", hex(image.to_str().expect("a path in UTF-8")));
    let (mut calls, mut spoken, mut said, mut unsynced) = (Calls::default(), Lines::default(), 0, Vec::new());
    for (line, text) in log.lines().enumerate() {
        let Some((thread, call)) = text.split_once(' ') else { continue };
        let call = call.trim_start();
        if !call.starts_with("<... ") {
            calls.open.insert(thread, (line, call));
            let (written, rest) = stdout.split_at(length_to_stdout(call).min(stdout.len()));
            stdout = rest;
            for round in spoken.rounds(written) {
                said += 1;
                if !calls.is_durable(round, bytes) {
                    unsynced.push(round);
                }
            }
        }
        if !call.ends_with("<unfinished ...>")
            && let Some((began, call_began)) = calls.open.remove(thread)
            && call_began.contains(&image)
        {
            calls.ended(began, line, call_began, result(call));
        }
    }
    (said, unsynced)
}

impl Calls<'_> {
    fn ended(&mut self, began: usize, line: usize, call: &str, result: Option<usize>) {
        if call.starts_with("fdatasync(") && result == Some(0) {
            self.synced = self.synced.max(Some(began));
        }
        let bytes = call.split('"').nth(1).map(unhex).unwrap_or_default();
        if call.starts_with("pwrite")
            && result == Some(WRITE as usize * SECTOR)
            && let Some((round, sector)) = stamp(&bytes)
        {
            let (sectors, last) = self.written.entry(round).or_default();
            sectors.insert(sector);
            *last = line;
        }
    }

    /// Everything of the round was written, and synchronised after that.
    fn is_durable(&self, round: u32, bytes: u64) -> bool {
        let Some((sectors, last)) = self.written.get(&round) else { return false };
        let first = u64::from(round) % places(bytes) * SECTORS;
        let all = (first..first + SECTORS).step_by(WRITE as usize);
        all.eq(sectors.iter().copied()) && self.synced.is_some_and(|synced| synced > *last)
    }
}

/// What a call returned, if it is there and no error.
fn result(line: &str) -> Option<usize> {
    line.rsplit_once(" = ")?.1.split_whitespace().next()?.parse().ok()
}

/// How many bytes this call was to write to stdout.
fn length_to_stdout(call: &str) -> usize {
    let length = call.strip_prefix("write(1<").and_then(|rest| rest.rsplit_once(", "));
    let digits = length.and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}
