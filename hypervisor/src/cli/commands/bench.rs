//! `paravane bench`.

use super::args::BenchArgs;
use crate::cli::files;
use crate::cli::printing::stdout::print;
use crate::cli::status::{Failure, Status};
use hypervisor::bench::{Aim, EACH, PER_SECOND, Row, SUITES, Settings, Suite, suite};
use hypervisor::builder::{KernelImage, unpack};
use std::ops::ControlFlow;
use std::path::Path;

/// Measures what was asked for; without a word, the first suite.
pub fn bench(args: &BenchArgs) -> Result<Status, Failure> {
    let suites = chosen(&args.suites)?;
    let linux = args.linux.as_deref().map(linux).transpose()?;
    let settings = Settings { pairs: args.pairs as usize, linux: linux.as_deref() };
    let mut rows = Vec::new();
    let mut shown = match args.json {
        true => Ok(ControlFlow::Continue(())),
        false => print(heading()),
    };
    for suite in suites {
        // Nothing more is measured for nobody.
        if !matches!(shown, Ok(ControlFlow::Continue(()))) {
            break;
        }
        let mut take = |row: Row| {
            if !args.json && matches!(shown, Ok(ControlFlow::Continue(()))) {
                shown = print(line(&row));
            }
            rows.push(row);
        };
        (suite.run)(&settings, &mut take).map_err(|error| Failure::about(suite.name, error))?;
    }
    if shown?.is_continue() {
        let _ = match args.json {
            true => print(serde_json::to_string_pretty(&rows).map_err(Failure::new)? + "\n"),
            false => print(summary(&rows)),
        }?;
    }
    Ok(Status::Fine)
}

/// The kernel in that file, unpacked. That it is one is looked at before anything is measured.
fn linux(path: &Path) -> Result<Vec<u8>, Failure> {
    let about = |error| Failure::about(path.display(), error);
    let image = unpack(files::read(path)?).map_err(about)?;
    KernelImage::parse(&image).map_err(about)?;
    Ok(image)
}

fn chosen(names: &[String]) -> Result<Vec<Suite>, Failure> {
    if names.is_empty() {
        return Ok(SUITES.first().copied().into_iter().collect());
    }
    names.iter().map(|name| suite(name).ok_or_else(|| unknown(name))).collect()
}

fn unknown(name: &str) -> Failure {
    let names: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
    let message = format!("there is no suite {name}; there are: {}", names.join(", "));
    Failure { status: Status::Usage, message }
}

fn heading() -> String {
    format!("{:<32}{:>10}{:>10}{:>8}  {:<21}{}\n", "", "ours", "floor", "ratio", "95 %", "aim, or added")
}

fn line(row: &Row) -> String {
    if let Some(reason) = &row.skipped {
        return format!("{:<32}skipped: {reason}\n", row.name);
    }
    let floor = row.floor.map(|floor| amount(floor, row.unit)).unwrap_or_default();
    let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    let shown = |value: f64| match row.ratio {
        Some(_) => format!("{value:.2}"),
        None => amount(value, row.unit),
    };
    let interval = format!("{}–{}", shown(row.low), shown(row.high));
    let missed = if row.meets_its_aim() == Some(false) { " missed" } else { "" };
    let added = row.floor.map(|floor| added(row.value - floor, row.unit)).unwrap_or_default();
    let aim = match row.aim {
        Some(Aim::AtMost(most)) => format!("≤ {}{missed}", shown(most)),
        Some(Aim::AtLeast(least)) => format!("≥ {}{missed}", shown(least)),
        Some(Aim::Adds(most)) => format!("{added} ≤ {}{missed}", amount(most, row.unit)),
        None => added,
    };
    let value = amount(row.value, row.unit);
    let note = row.note.as_ref().map(|note| format!("  ({note})")).unwrap_or_default();
    let text = format!("{:<32}{value:>10}{floor:>10}{ratio:>8}  {interval:<21}{aim}{note}", row.name);
    text.trim_end().to_owned() + "\n"
}

/// A value in a unit that people read easily.
fn amount(value: f64, unit: &str) -> String {
    match (unit, value) {
        ("ns", 1e6..) => format!("{:.2} ms", value / 1e6),
        ("ns", 1e3..) => format!("{:.2} µs", value / 1e3),
        (PER_SECOND, 1e6..) => format!("{:.2} M/s", value / 1e6),
        (PER_SECOND, 1e3..) => format!("{:.1} k/s", value / 1e3),
        (PER_SECOND, _) => format!("{value:.1} /s"),
        (EACH, _) => format!("{value:.3}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// What is added to the floor, in a row that has no aim.
fn added(difference: f64, unit: &str) -> String {
    let sign = if difference < 0.0 { '−' } else { '+' };
    format!("{sign}{}", amount(difference.abs(), unit))
}

/// What it comes to, for somebody who sees it for the first time.
fn summary(rows: &[Row]) -> String {
    let nulls = rows.iter().filter(|row| row.name.starts_with("core/null/"));
    let Some(best) = nulls.min_by(|a, b| a.value.total_cmp(&b.value)) else { return String::new() };
    let (floor, ratio) = (best.floor.unwrap_or(best.value), best.ratio.unwrap_or(1.0));
    format!(
        "A hypercall takes {} here; {} of that is what any program on this host's KVM pays to leave a guest and come \
         back, so Paravane adds {:.0} %.\n",
        amount(best.value, best.unit),
        amount(floor.min(best.value), best.unit),
        (ratio - 1.0).max(0.0) * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_ours_floor_and_ratio() {
        let row = Row::paired("core/null/syscall", &[(30_000.0, 25_000.0); 30]).aiming_at(1.05);
        let words: Vec<_> = line(&row).split_whitespace().map(str::to_owned).collect();
        let wanted =
            ["core/null/syscall", "30.00", "µs", "25.00", "µs", "1.20", "1.20–1.20", "≤", "1.05", "missed"];
        assert_eq!(words, wanted);
        let row = Row::alone("core/boot/prompt", &[40e6; 30]).aiming_at(50e6);
        assert!(line(&row).contains("40.00 ms"), "{}", line(&row));
        assert!(line(&row).ends_with("≤ 50.00 ms\n"), "{}", line(&row));
        let row = Row::paired("core/event/self", &[(26_500.0, 25_000.0); 30]);
        assert!(line(&row).ends_with("+1.50 µs\n"), "{}", line(&row));
    }

    #[test]
    fn a_rate_has_a_least_and_a_latency_what_it_adds() {
        let rate = Row::paired("block/randread-4k-qd32", &[(800e3, 1e6); 30]).in_unit(PER_SECOND);
        let text = line(&rate.aiming(Aim::AtLeast(0.85)));
        assert!(text.contains(" 800.0 k/s  1.00 M/s ") && text.ends_with("≥ 0.85 missed\n"), "{text}");
        let latency = Row::paired("block/latency-qd1", &[(2000.0, 900.0); 30]).aiming(Aim::Adds(1500.0));
        assert!(line(&latency).ends_with("+1.10 µs ≤ 1.50 µs\n"), "{}", line(&latency));
        let each = Row::alone("block/doorbells-per-request", &[0.0625; 30]).in_unit(EACH).aiming_at(0.1);
        assert!(line(&each).ends_with("≤ 0.100\n"), "{}", line(&each));
        let skipped = line(&Row::skipped("block/direct-qd1", "no"));
        assert!(skipped.starts_with("block/direct-qd1") && skipped.ends_with("skipped: no\n"), "{skipped}");
    }

    #[test]
    fn the_summary_names_the_cheapest_gate() {
        let rows = [
            Row::paired("core/null/syscall", &[(30_000.0, 25_000.0); 30]),
            Row::paired("core/null/doorbell", &[(26_000.0, 25_000.0); 30]),
        ];
        let text = summary(&rows);
        assert!(text.contains("26.00 µs") && text.contains("25.00 µs") && text.contains("4 %"), "{text}");
        assert_eq!(summary(&[]), "");
    }

    #[test]
    fn an_unknown_suite_is_a_usage_error_that_lists_them() {
        let failure = chosen(&["core".into(), "cpu".into()]).unwrap_err();
        assert_eq!(failure.status, Status::Usage);
        assert!(failure.message.contains("cpu") && failure.message.contains("there are: core"));
        assert_eq!(chosen(&[]).unwrap().len(), 1);
    }
}
