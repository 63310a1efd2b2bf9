//! What the texts quote is what the program prints: counts that depend on nothing but the sources are equal, and lines of
//! transcripts are printed, but for their numbers. Limits are those of the code.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use support::terminal::Terminal;
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, run, test};

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("a_session_is_as_the_readme_shows_it", session),
        needs_kvm("two_domains_are_as_the_readme_shows_them", two_domains),
        needs_kvm("a_spawn_costs_what_its_text_says", spawn),
        test("limits_are_those_of_the_text", limits),
        test("every_command_is_in_the_readme", commands),
    ])
}

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    fs::read_to_string(tree().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All texts for readers, with their names.
fn texts() -> Vec<(String, String)> {
    let mut names = vec!["README.md".into(), "ARCHITECTURE.md".into(), "pv-guest-kernel/README.md".into()];
    for entry in fs::read_dir(tree().join("docs")).expect("a directory") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.into_iter().map(|name| (name.clone(), text(&name))).collect()
}

fn number(digits: &str) -> u64 {
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("{digits:?} is no number"))
}

/// The numbers that stand in `text` between these words; lines' ends are spaces there.
fn quoted(text: &str, before: &str, after: &str) -> Vec<u64> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let candidates = text.split(before).skip(1);
    let digits = candidates.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(rest.len());
        let (digits, rest) = rest.split_at(end);
        (!digits.is_empty() && rest.starts_with(after)).then_some(digits)
    });
    digits.map(number).collect()
}

/// What all texts quote between these words is `printed`; at least one does.
#[track_caller]
fn assert_quoted(before: &str, after: &str, printed: u64) {
    let mut found = 0;
    for (name, text) in texts() {
        // On Xen there is less to test: tests/peers/xen compares that.
        let here =
            text.lines().filter(|line| !line.contains("tests/peers/xen")).collect::<Vec<_>>().join("\n");
        for quoted in quoted(&here, before, after) {
            assert_eq!(quoted, printed, "{name}: \"{before}{quoted}{after}\"");
            found += 1;
        }
    }
    assert!(found > 0, "no text has \"{before}…{after}\"");
}

/// The number that `outcome` printed between these words.
#[track_caller]
fn printed(outcome: &Outcome, before: &str, after: &str) -> u64 {
    let all = format!("{}\n{}", outcome.stdout, outcome.stderr);
    *quoted(&all, before, after).first().unwrap_or_else(|| panic!("{before}…{after} is missing: {outcome:?}"))
}

/// A line without its numbers, with one unit of time and one gate.
fn masked(line: &str) -> String {
    let mut masked = String::new();
    for c in line.trim_end().chars() {
        match c {
            '0'..='9' if masked.ends_with('#') => {}
            '0'..='9' => masked.push('#'),
            // Between digits.
            ',' | '.' if masked.ends_with('#') => {}
            _ => masked.push(c),
        }
    }
    // Which gate is the cheaper one is measured at each start, and they are close on some hosts.
    masked.replace("# ms", "# s").replace("hypercalls by syscall", "hypercalls by doorbell")
}

/// Each line of the transcript that has `first` in it is printed.
#[track_caller]
fn assert_transcript(first: &str, outcome: &Outcome) {
    let readme = text("README.md");
    let blocks = readme.split("```").skip(1).step_by(2);
    let block = blocks.into_iter().find(|block| block.contains(first)).expect("a transcript");
    let all = format!("{}\n{}", outcome.stdout, outcome.stderr);
    let lines: BTreeSet<_> = all.lines().map(masked).collect();
    for line in block.lines().skip(1) {
        let is_of_host = line.starts_with("software KVM") && !all.contains("software KVM");
        if line.is_empty() || line == "…" || line.starts_with("$ ") || is_of_host {
            continue;
        }
        assert!(lines.contains(&masked(line)), "README.md: {line:?} was not printed: {lines:#?}");
    }
    let refused = |text: &str| quoted(text, "page-table entries validated, ", " refused");
    assert_eq!(refused(block), refused(&all), "README.md: refused page-table operations");
}

fn session() {
    let terminal = Terminal::open();
    let child = terminal.session(&[]);
    (&terminal.keyboard).write_all(b"spawn fault-null\rselftest\rpoweroff\r").expect("keys are taken");
    let outcome = finish(child);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    assert_transcript("a paravirtual hypervisor on /dev/kvm", &outcome);
    assert_quoted("selftest: ", " passed", printed(&outcome, "selftest: ", " passed"));
}

fn two_domains() {
    let example = |name: &str| tree().join("docs/examples").join(name).to_str().expect("a path").to_owned();
    let outcome = run(&["run", &example("one.toml"), &example("two.toml")]);
    assert_transcript("2 domains: one, two", &outcome);
    let tried = printed(&outcome, "attack: ", " tried");
    assert_quoted("attack: ", " tried", tried);
    assert_quoted(" tried, ", " refused", tried);
    assert_quoted("tries to break out, ", " times", tried);
    let attacks = text("docs/examples/one.toml").lines().last().expect("a line").matches("attack").count();
    assert_quoted("tries to break out ", " times", tried * attacks as u64);
}

/// What one more spawn adds is no matter of chance.
fn spawn() {
    let validated = |commands: &str| {
        let outcome = run(&["run", "--exec", commands]);
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        printed(&outcome, "hypercalls, ", " page-table entries validated")
    };
    let (without, with) = (validated("poweroff"), validated("spawn hello; poweroff"));
    let text = text("docs/spawn.md");
    // How many there are of either depends on the size that the compiler gave the kernel.
    let told = quoted(&text, "hypercalls, ", " page-table entries validated");
    assert_eq!(told[1] - told[0], with - without, "{told:?}");
    assert_quoted("| entries validated | ", " |", with - without);
}

/// The second cell of a row of `docs/limits.md`.
fn limit(what: &str) -> u64 {
    let start = format!("| {what} | ");
    let text = text("docs/limits.md");
    let cell = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{what}"));
    number(cell.split([' ', '|']).next().expect("a cell"))
}

fn limits() {
    assert_eq!(limit("vCPUs of a domain"), u64::from(hypervisor::control::MAX_VCPUS));
    let row = "TiB of memory of a machine, which all domains and the hypervisor's own together stay below";
    assert_eq!(limit(row), (hypervisor::builder::MAX_PAGES << 12) >> 40);
    assert_eq!(limit("MiB that a compressed kernel unpacks to"), hypervisor::builder::MAX_UNPACKED >> 20);
    let bytes = hypervisor::builder::MAX_COMMAND_LINE as u64;
    assert_eq!(limit("bytes of a kernel's command line, with what `--exec` adds"), bytes);
    assert_eq!(limit("numbers of domains"), u64::from(pv_abi::DomId::FIRST_RESERVED.0) - 1);
    assert_eq!(limit("frames of a domain's grant table"), u64::from(hypervisor::domain::grants::MAX_FRAMES));
    assert_eq!(
        limit("mappings that a domain has of others' pages"),
        hypervisor::domain::grants::MAX_MAPPINGS as u64
    );
    assert_eq!(limit("doorbells of a domain"), hypervisor::machine::DOORBELLS_PER_PAGE as u64);
    for (what, option) in [("vCPUs of a domain", "--vcpus"), ("physical CPUs of a machine", "--pcpus")] {
        let outcome = run(&["run", option, &(limit(what) + 1).to_string()]);
        assert_eq!(outcome.status, Some(2), "{outcome:?}");
        let most = limit(what).to_string();
        assert!(outcome.stderr.contains(&most), "{what}: {outcome:?}");
    }
    let most = limit("disks of a domain");
    let disks = (0..=most).flat_map(|_| ["--disk", "/nowhere/disk"]);
    let outcome = run(&["run"].into_iter().chain(disks).collect::<Vec<_>>());
    assert_ne!(outcome.status, Some(0));
    assert!(outcome.stderr.contains(&format!("at most {most}")), "{outcome:?}");
}

/// Whatever the help lists, the README explains.
fn commands() {
    let help = run(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let readme = text("README.md");
    for line in commands.expect("commands").lines() {
        let Some(name) = line.strip_prefix("  ").and_then(|line| line.split(' ').next()) else { continue };
        if !name.is_empty() && name != "help" {
            assert!(readme.contains(&format!("`paravane {name}")), "README.md has no `paravane {name}`");
        }
    }
}
