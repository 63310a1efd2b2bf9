//! What the user sees of the hypervisor: a first screen, and a last line. Both on stderr.

use super::domain_output::DomainOutput;
use super::stderr;
use crate::cli::commands::check::kind;
use crate::cli::guests::demo_disk::MIB;
use crate::cli::say;
use crate::cli::status::Status;
use hypervisor::control::Hypervisor;
use hypervisor::domain::StatisticsSnapshot;
use hypervisor::hypercall::find;
use hypervisor::machine::kvm::ProbeReport;
use pv_abi::hypercall::HypercallNumber;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writes lines to stderr as they are. What cannot be written is nobody's loss.
pub fn show(text: &str) {
    stderr::write(text.as_bytes());
}

/// Whether only what was asked for, and what went wrong, is told.
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on, only what was asked for, and what went wrong, is told.
pub fn be_quiet() {
    QUIET.store(true, Ordering::SeqCst);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::SeqCst)
}

/// Shows what nobody has asked for.
fn mention(text: &str) {
    if !is_quiet() {
        show(text);
    }
}

/// What is told at the end of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// How often each hypercall was made, and what the exits were.
    pub statistics: bool,
    /// Whether the end is told as JSON, for programs.
    pub json: bool,
}

/// Before the guest starts: what this is, and on what.
pub fn title(report: &ProbeReport) {
    let cost = report.gates.iter().find(|cost| cost.gate == report.gate).map_or(0, |cost| cost.round_trip_ns);
    mention(&format!(
        "Paravane {}: a paravirtual hypervisor on /dev/kvm that speaks Xen's PV ABI\n{}; hypercalls by {}, {:.1} µs\n",
        env!("CARGO_PKG_VERSION"),
        kind(report),
        report.gate,
        cost as f64 / 1e3,
    ));
}

/// Before several guests start: which they are, and how to get from one to the other. `first` is typed to first.
pub fn several(names: &[String], first: Option<&str>) {
    let keys = first.map_or_else(String::new, |first| {
        format!(
            "Ctrl-A 1 to {}, Ctrl-A n: type to another than {first}; Ctrl-A a: Ctrl-A itself; Ctrl-] leaves all\n",
            names.len().min(9)
        )
    });
    mention(&format!("{} domains: {}\n{keys}", names.len(), names.join(", ")));
}

/// At the guest's first words: how long it took since its domain was begun to be built, and what can be typed.
pub fn booted(domain_output: &DomainOutput, kernel: &str, time: Duration, help: &str) {
    if is_quiet() {
        return;
    }
    let help = if domain_output.is_one_of_several() { "" } else { help };
    domain_output.tell(&format!("{kernel} booted in {}\n{help}", duration(time)));
}

/// Of the disk that nobody asked for.
pub fn demo_disk() {
    mention(&format!(
        "xvda is a disk of {MIB} MiB in memory, gone at the end; --disk PATH attaches an image instead\n"
    ));
}

/// The numbers that are told at the end of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// From the start of the guest to its end.
    pub time: Duration,
    /// How many exits from the guest there were, of all kinds.
    pub exits: u64,
    /// How many hypercalls the guest made, of all numbers.
    pub hypercalls: u64,
    /// What validation came to.
    pub validation: Validation,
}

/// What the validation of page tables came to, for all domains together.
#[derive(Clone, Copy, Debug)]
pub struct Validation {
    /// Page-table entries that passed validation.
    pub validated: u64,
    /// Page-table operations that were refused.
    pub refused: u64,
}

impl Validation {
    /// What validation came to since the hypervisor started.
    pub fn of(hypervisor: &Hypervisor) -> Self {
        let counters = hypervisor.services().mmu.counters();
        let validated = counters.entries_validated.saturating_add(counters.entries_updated);
        Self { validated, refused: counters.refusals }
    }

    /// What it came to since it stood at `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            validated: self.validated.saturating_sub(earlier.validated),
            refused: self.refused.saturating_sub(earlier.refused),
        }
    }
}

/// At the end of a domain.
pub fn ended(domain_output: &DomainOutput, how: &str, summary: Summary) {
    if is_quiet() {
        return;
    }
    let Summary { time, exits, hypercalls, validation } = summary;
    let what =
        format!("{how} after {}: {} exits, {} hypercalls", duration(time), count(exits), count(hypercalls));
    match domain_output.is_one_of_several() {
        true => domain_output.tell(&what),
        false => show(&format!("{what}, {}\n", validated(validation))),
    }
}

/// What a program gets to read at the end of a domain.
#[derive(Serialize)]
struct Ended<'a> {
    domain: &'a str,
    end: &'a str,
    status: u8,
    seconds: f64,
    exits: u64,
    hypercalls: u64,
    entries_validated: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<Detail>,
}

#[derive(Serialize)]
struct Detail {
    exits: BTreeMap<String, u64>,
    hypercalls: BTreeMap<String, u64>,
}

/// At the end of a domain, for programs: one line.
pub fn ended_as_json(
    name: &str,
    how: &str,
    status: Status,
    summary: Summary,
    statistics: Option<&StatisticsSnapshot>,
) {
    let Summary { time, exits, hypercalls, validation } = summary;
    let ended = Ended {
        domain: name,
        end: how,
        status: status.code(),
        seconds: time.as_secs_f64(),
        exits,
        hypercalls,
        entries_validated: validation.validated,
        refused: validation.refused,
        statistics: statistics.map(|statistics| Detail {
            exits: named_exits(statistics).collect(),
            hypercalls: named_hypercalls(statistics).collect(),
        }),
    };
    match serde_json::to_string(&ended) {
        Ok(line) => show(&format!("{line}\n")),
        Err(error) => say(&format!("the summary of {name}: {error}")),
    }
}

fn named_exits(statistics: &StatisticsSnapshot) -> impl Iterator<Item = (String, u64)> {
    statistics.exits.iter().map(|(name, times)| ((*name).to_owned(), *times))
}

fn named_hypercalls(statistics: &StatisticsSnapshot) -> impl Iterator<Item = (String, u64)> {
    let name = |number: u64| match find(number) {
        Some(row) => row.name.to_owned(),
        None => HypercallNumber(number).to_string(),
    };
    statistics.hypercalls.iter().map(move |(number, times)| (name(*number), *times))
}

/// What a domain did, by name, the most frequent first.
pub fn statistics(domain_output: &DomainOutput, statistics: &StatisticsSnapshot) {
    domain_output.tell(&format!(
        "exits: {}\nhypercalls: {}\n",
        ranking(named_exits(statistics)),
        ranking(named_hypercalls(statistics))
    ));
}

fn ranking(counts: impl Iterator<Item = (String, u64)>) -> String {
    let mut counts: Vec<_> = counts.filter(|(_, times)| *times != 0).collect();
    counts.sort_by_key(|(_, times)| Reverse(*times));
    let texts: Vec<_> = counts.into_iter().map(|(name, times)| format!("{name} {}", count(times))).collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// At the end of several domains.
pub fn all_ended(domains: usize, time: Duration, validation: Validation) {
    mention(&format!("{domains} domains ended after {}: {}\n", duration(time), validated(validation)));
}

/// At the end of a trace.
pub fn traced(file: &Path, events: u64, dropped: u64) {
    let lost = match dropped {
        0 => String::new(),
        _ => {
            format!("; {} more were dropped, since they came faster than they can be written", count(dropped))
        }
    };
    mention(&format!("{}: {} events, for https://ui.perfetto.dev{lost}\n", file.display(), count(events)));
}

fn validated(Validation { validated, refused }: Validation) -> String {
    format!("{} page-table entries validated, {} refused", count(validated), count(refused))
}

fn duration(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// A number with its thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position != 0 && digits.len().saturating_sub(position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shown: Vec<_> = [0, 12, 999, 1000, 1_234_567].into_iter().map(count).collect();
        assert_eq!(shown, ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(duration(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(duration(Duration::from_millis(2340)), "2.34 s");
    }
}
