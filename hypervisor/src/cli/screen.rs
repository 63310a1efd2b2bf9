//! What the user sees of the hypervisor: a first screen, and a last line. Both on stderr.

use super::check::kind;
use hypervisor::machine::kvm::ProbeReport;
use std::io::{self, Write};
use std::time::Duration;

/// Writes lines to stderr as they are. What cannot be written is nobody's loss.
pub fn show(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Before the guest starts: what this is, and on what.
pub fn title(report: &ProbeReport) {
    let cost = report.gates.iter().find(|cost| cost.gate == report.gate).map_or(0, |cost| cost.round_trip_ns);
    show(&format!(
        "Paravane {}: a paravirtual hypervisor on /dev/kvm that speaks Xen's PV ABI\n{}; hypercalls by {}, {:.1} µs\n",
        env!("CARGO_PKG_VERSION"),
        kind(report),
        report.gate,
        cost as f64 / 1e3,
    ));
}

/// At the guest's first words: how long it took, and what it took.
pub fn booted(kernel: &str, time: Duration, validated: u64, help: bool) {
    let help = if help { "help, selftest; Ctrl-] leaves\n" } else { "" };
    show(&format!(
        "{kernel} booted in {}; {} page-table entries validated\n{help}",
        duration(time),
        count(validated)
    ));
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// From the start of the guest to its end.
    pub time: Duration,
    /// Exits from the guest.
    pub exits: u64,
    /// Hypercalls it made.
    pub hypercalls: u64,
    /// Page-table entries that passed validation.
    pub validated: u64,
    /// Page-table operations that were refused.
    pub refused: u64,
}

/// At the end.
pub fn ended(how: &str, summary: Summary) {
    let Summary { time, exits, hypercalls, validated, refused } = summary;
    show(&format!(
        "{how} after {}: {} exits, {} hypercalls, {} page-table entries validated, {} refused\n",
        duration(time),
        count(exits),
        count(hypercalls),
        count(validated),
        count(refused),
    ));
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
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position != 0 && (digits.len() - position).is_multiple_of(3) {
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
