//! `run --trace`: that the file tells what happened, all of it, and is whole however the run ends.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use support::{Outcome, finish, main_one_at_a_time, needs_kvm, paravane, run};
use tempfile::TempDir;

fn main() -> ExitCode {
    main_one_at_a_time(vec![
        needs_kvm("a_trace_tells_what_the_statistics_count", counts),
        needs_kvm("two_domains_are_on_tracks_of_their_own", two_domains),
        needs_kvm("a_trace_is_whole_after_a_crash", crash),
        needs_kvm("a_trace_is_whole_after_a_signal", signals),
        needs_kvm("a_file_that_cannot_be_written_is_one_line", no_file),
    ])
}

/// A span of a trace, in nanoseconds.
struct Span {
    track: u64,
    category: String,
    name: String,
    start: u64,
    end: u64,
    args: Value,
}

/// The spans of a file, and the names of processes and threads.
fn read(path: &Path) -> (Vec<Span>, BTreeSet<String>) {
    let text = std::fs::read_to_string(path).expect("a file");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let events = json["traceEvents"].as_array().expect("events");
    let nanoseconds = |value: &Value| {
        let time = value.as_f64().expect("a number") * 1e3;
        assert!(time >= 0.0, "{value} is negative");
        time.round() as u64
    };
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
    let string = |value: &Value| value.as_str().expect("a string").to_owned();
    let span = |event: &Value| {
        let start = nanoseconds(&event["ts"]);
        Span {
            track: event["tid"].as_u64().expect("a number"),
            category: string(&event["cat"]),
            name: string(&event["name"]),
            start,
            end: start + nanoseconds(&event["dur"]),
            args: event["args"].clone(),
        }
    };
    let spans = of_kind("X").map(span).collect();
    (spans, of_kind("M").map(|event| string(&event["args"]["name"])).collect())
}

/// Each span of a track lies within another, or beside it.
#[track_caller]
fn assert_nested(spans: &[Span]) {
    let mut tracks: BTreeMap<u64, Vec<&Span>> = BTreeMap::new();
    spans.iter().for_each(|span| tracks.entry(span.track).or_default().push(span));
    for mut track in tracks.into_values() {
        track.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        let mut open: Vec<&Span> = Vec::new();
        for span in track {
            open.retain(|outer| outer.end > span.start);
            if let Some(outer) = open.last() {
                let (inner, outer_name) = (&span.name, &outer.name);
                assert!(
                    span.end <= outer.end,
                    "{inner} at {} outlasts {outer_name} at {}",
                    span.start,
                    outer.start
                );
            }
            open.push(span);
        }
    }
}

/// The number in front of a word on the line that tells how the run ended.
fn counted(outcome: &Outcome, word: &str) -> usize {
    let line = outcome.stderr.lines().find(|line| line.starts_with("powered off")).expect("a last line");
    let words: Vec<_> = line.split(' ').collect();
    let place = words.iter().position(|found| found.trim_end_matches(',') == word).expect("the word");
    words[place - 1].replace(',', "").parse().expect("a number")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn counts() {
    let directory = directory();
    let path = directory.path().join("trace.json");
    let outcome = run(&["run", "--exec", "selftest", "--trace", path.to_str().expect("a path")]);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("trace.json: ") && !outcome.stderr.contains("dropped"), "{outcome:?}");
    let (spans, names) = read(&path);
    assert_nested(&spans);
    let count = |category: &str| spans.iter().filter(|span| span.category == category).count();
    let calls = spans.iter().filter(|span| span.category == "hypercall");
    assert_eq!(calls.filter(|span| span.args["continued"] == false).count(), counted(&outcome, "hypercalls"));
    // Once on the pcpu's track, once on the vCPU's.
    assert_eq!(count("exit"), 2 * counted(&outcome, "exits"));
    assert_eq!(count("guest"), counted(&outcome, "exits"));
    for name in ["MMU_UPDATE", "PAGE_FAULT", "upcall", "blocked", "on pcpu 0", "d1 vCPU 0", "guest user"] {
        assert!(spans.iter().any(|span| span.name == name), "{name} is missing");
    }
    let refused =
        spans.iter().find(|span| span.args["result"] == "-EINVAL").expect("selftest is refused much");
    assert_eq!(refused.args["arguments"].as_array().map(Vec::len), Some(6));
    for name in ["pcpus", "pcpu 0", "guest (d1)", "vCPU 0"] {
        assert!(names.contains(name), "{name} is missing: {names:?}");
    }
}

fn two_domains() {
    let directory = directory();
    let file = |name: &str, contents: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let exec = "memory = '32M'\nexec = 'spawn count 2; spawn spin 50'";
    let (a, b, trace) = (file("a.toml", exec), file("b.toml", exec), file("trace.json", "what was there"));
    let outcome = run(&["run", &a, &b, "--pcpus", "2", "--trace", &trace, "--force"]);
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    let (spans, names) = read(Path::new(&trace));
    assert_nested(&spans);
    assert!(names.iter().any(|name| name.starts_with("a (d")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("b (d")), "{names:?}");
    let tracks: BTreeSet<_> =
        spans.iter().filter(|span| span.name == "blocked").map(|span| span.track).collect();
    assert_eq!(tracks.len(), 2, "both have slept");
}

fn crash() {
    let directory = directory();
    let path = directory.path().join("trace.json");
    let outcome = run(&["run", "--exec", "crash", "--trace", path.to_str().expect("a path")]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    let (spans, _) = read(&path);
    assert_nested(&spans);
    assert!(spans.iter().any(|span| span.name == "SCHED_OP" && span.args["result"] == "the domain crashed"));
}

/// By KILL as well: the file is whole after each batch.
fn signals() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let directory = directory();
        let path = directory.path().join("trace.json");
        let mut child =
            paravane(&["run", "--exec", "spawn spin 60000", "--trace", path.to_str().expect("a path")])
                .spawn()
                .expect("paravane starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let booted = stderr.lines().map_while(Result::ok).any(|line| line.contains("booted"));
        assert!(booted);
        std::thread::sleep(Duration::from_millis(100));
        kill_process(Pid::from_raw(child.id() as i32).expect("a process"), signal).expect("it is there");
        finish(child);
        let (spans, _) = read(&path);
        assert_nested(&spans);
        assert!(spans.len() > 10, "{} spans after {signal:?}", spans.len());
    }
}

fn no_file() {
    for (path, reason) in
        [("/nowhere/trace", "no such file"), ("/dev/full", "No space left"), ("/", "directory")]
    {
        let outcome = run(&["run", "--exec", "poweroff", "--trace", path]);
        assert_eq!(outcome.status, Some(1), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        let start = format!("paravane: --trace: {path}: ");
        assert!(outcome.stderr.starts_with(&start) && outcome.stderr.contains(reason), "{outcome:?}");
    }
}
