//! Records in Chrome's trace event format: JSON objects with times in microseconds.
//!
//! A *process* of that format is a domain, or the machine with its pcpus; a *thread* is a vCPU or a pcpu.

use super::record::{Called, Record, Span};
use crate::machine::Exit;
use crate::vcpu::{Mode, Rest, VcpuKey};
use pv_abi::trap::Vector;
use pv_abi::{DomId, Errno};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The process of the pcpus. 0 has a meaning of its own to some readers.
const MACHINE: u64 = 1;
/// The process of domain 0; those of others follow.
const DOMAINS: u64 = 1000;
/// Threads of a process: their numbers are unique beyond it.
const THREADS: u64 = 1000;

/// A line in the viewer: one pcpu, or one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Track {
    Pcpu(usize),
    Vcpu(VcpuKey),
}

impl Track {
    fn process(self) -> u64 {
        match self {
            Self::Pcpu(_) => MACHINE,
            Self::Vcpu(key) => process_of(key.domain),
        }
    }

    fn thread(self) -> u64 {
        let index = match self {
            Self::Pcpu(index) => index as u64,
            Self::Vcpu(key) => u64::from(key.vcpu.0),
        };
        self.process() * THREADS + index
    }

    fn name(self) -> String {
        match self {
            Self::Pcpu(index) => format!("pcpu {index}"),
            Self::Vcpu(key) => format!("vCPU {}", key.vcpu.0),
        }
    }
}

fn process_of(domain: DomId) -> u64 {
    DOMAINS + u64::from(domain.0)
}

/// Turns records into events, each an object of JSON on a line of its own, separated by commas.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// Tracks that have their names.
    named: BTreeSet<Track>,
    any: bool,
    /// How many events there were, names apart.
    pub events: u64,
}

impl Encoder {
    /// Appends the events of a record.
    pub fn encode(&mut self, record: &Record, into: &mut Vec<u8>) {
        match record {
            Record::Domain { id, name } => {
                self.process_name(process_of(*id), &format!("{name} ({id})"), into);
            }
            Record::Turn { pcpu, vcpu, span, rest } => {
                let name = format!("{} vCPU {}", vcpu.domain, vcpu.vcpu.0);
                self.span(Track::Pcpu(*pcpu), "turn", &name, *span, &json!({}), into);
                self.span(Track::Vcpu(*vcpu), "turn", &format!("on pcpu {pcpu}"), *span, &json!({}), into);
                if let Some((since, rest)) = rest {
                    let span = Span { start: *since, end: span.start };
                    self.span(Track::Vcpu(*vcpu), "rest", rest_name(*rest), span, &json!({}), into);
                }
            }
            Record::Guest { pcpu, mode, span } => {
                self.span(Track::Pcpu(*pcpu), "guest", mode_name(*mode), *span, &json!({}), into);
            }
            Record::Exit { pcpu, vcpu, exit, mode, rip, span } => {
                let (name, args) = (exit_name(exit, *mode), exit_arguments(exit, *mode, *rip));
                self.span(Track::Pcpu(*pcpu), "exit", &name, *span, &args, into);
                self.span(Track::Vcpu(*vcpu), "exit", &name, *span, &args, into);
            }
            Record::Hypercall { vcpu, name, number, arguments, called, continued, span } => {
                let name = name.map_or_else(|| format!("hypercall {number}"), str::to_owned);
                let args = json!({
                    "arguments": arguments.map(hexadecimal),
                    "result": result(*called),
                    "continued": continued,
                });
                self.span(Track::Vcpu(*vcpu), "hypercall", &name, *span, &args, into);
            }
            Record::Upcall { vcpu, span } => {
                self.span(Track::Vcpu(*vcpu), "event", "upcall", *span, &json!({}), into);
            }
        }
    }

    fn span(
        &mut self,
        track: Track,
        category: &str,
        name: &str,
        span: Span,
        args: &Value,
        into: &mut Vec<u8>,
    ) {
        self.name_track(track, into);
        self.events += 1;
        let event = json!({
            "ph": "X", "pid": track.process(), "tid": track.thread(), "cat": category, "name": name,
            "ts": microseconds(span.start), "dur": microseconds(span.end.saturating_sub(span.start)), "args": args,
        });
        self.append(&event, into);
    }

    fn name_track(&mut self, track: Track, into: &mut Vec<u8>) {
        if !self.named.insert(track) {
            return;
        }
        if track == Track::Pcpu(0) {
            self.process_name(MACHINE, "pcpus", into);
        }
        self.name("thread_name", track.process(), track.thread(), &track.name(), into);
    }

    fn process_name(&mut self, process: u64, name: &str, into: &mut Vec<u8>) {
        self.name("process_name", process, process * THREADS, name, into);
    }

    fn name(&mut self, what: &str, process: u64, thread: u64, name: &str, into: &mut Vec<u8>) {
        let event =
            json!({ "ph": "M", "pid": process, "tid": thread, "name": what, "args": { "name": name } });
        self.append(&event, into);
    }

    fn append(&mut self, event: &Value, into: &mut Vec<u8>) {
        into.extend_from_slice(if std::mem::replace(&mut self.any, true) { b",\n" } else { b"" });
        into.extend_from_slice(event.to_string().as_bytes());
    }
}

/// Exact to the nanosecond for a month and more.
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// As text: a number of JSON is exact up to 2⁵³ only.
fn hexadecimal(value: u64) -> String {
    format!("{value:#x}")
}

fn rest_name(rest: Rest) -> &'static str {
    match rest {
        Rest::Ready => "ready",
        Rest::Blocked => "blocked",
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Kernel => "guest kernel",
        Mode::User => "guest user",
    }
}

fn exit_name(exit: &Exit, mode: Mode) -> String {
    match (exit, mode) {
        (Exit::Syscall, Mode::Kernel) => "syscall".into(),
        (Exit::Syscall, Mode::User) => "system call".into(),
        (Exit::Doorbell, _) => "doorbell".into(),
        (Exit::Unanswered, _) => "unanswered".into(),
        (Exit::Exception { vector, .. }, _) => {
            Vector(*vector).name().map_or_else(|| format!("exception {vector}"), str::to_owned)
        }
        (Exit::Kicked, _) => "kick".into(),
        (Exit::Unhandled { .. }, _) => "unhandled".into(),
    }
}

fn exit_arguments(exit: &Exit, mode: Mode, rip: u64) -> Value {
    let mut args = Map::new();
    args.insert("mode".into(), mode_name(mode).into());
    args.insert("rip".into(), hexadecimal(rip).into());
    match exit {
        Exit::Exception { vector, error_code, cr2 } => {
            args.insert("error_code".into(), hexadecimal(*error_code).into());
            if Vector(*vector) == Vector::PAGE_FAULT {
                args.insert("address".into(), hexadecimal(*cr2).into());
            }
        }
        Exit::Unhandled { what } => {
            args.insert("what".into(), what.to_string().into());
        }
        Exit::Syscall | Exit::Doorbell | Exit::Unanswered | Exit::Kicked => {}
    }
    args.into()
}

fn result(called: Called) -> String {
    match called {
        Called::Became(what) => what.into(),
        Called::Returned(value) => match Errno::from_return(value) {
            Ok(value) => hexadecimal(value),
            Err(errno) => format!("-{}", errno.name().unwrap_or("an error without a name")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Unhandled;
    use pv_abi::VcpuId;

    fn encoded(records: &[Record]) -> Vec<Value> {
        let (mut encoder, mut bytes) = (Encoder::default(), b"[".to_vec());
        records.iter().for_each(|record| encoder.encode(record, &mut bytes));
        bytes.push(b']');
        serde_json::from_slice(&bytes).expect("JSON")
    }

    const VCPU: VcpuKey = VcpuKey { domain: DomId(1), vcpu: VcpuId(0) };

    #[test]
    fn a_turn_is_on_two_tracks_and_ends_a_rest() {
        let span = Span { start: 2_500, end: 4_000 };
        let turn = Record::Turn { pcpu: 0, vcpu: VCPU, span, rest: Some((1_000, Rest::Blocked)) };
        let events = encoded(&[Record::Domain { id: DomId(1), name: "\"odd\"".into() }, turn]);
        let [domain, machine, pcpu, on_pcpu, vcpu, on_vcpu, rest] = &events[..] else { panic!("{events:?}") };
        assert_eq!(domain["args"]["name"], "\"odd\" (d1)");
        assert_eq!([&machine["args"]["name"], &pcpu["args"]["name"]], ["pcpus", "pcpu 0"]);
        assert_eq!([&on_pcpu["ts"], &on_pcpu["dur"]], [2.5, 1.5]);
        assert_eq!(vcpu["args"]["name"], "vCPU 0");
        assert_eq!(on_vcpu["name"], "on pcpu 0");
        assert_eq!([&rest["name"], &rest["ts"], &rest["dur"]], [&json!("blocked"), &json!(1.0), &json!(1.5)]);
        assert_ne!(on_pcpu["tid"], on_vcpu["tid"]);
    }

    #[test]
    fn a_hypercall_tells_its_arguments_and_its_result() {
        for (called, shown) in [
            (Called::Returned(7), "0x7"),
            (Called::Returned(Errno::EINVAL.to_return()), "-EINVAL"),
            (Called::Became("blocked"), "blocked"),
        ] {
            let events = encoded(&[Record::Hypercall {
                vcpu: VCPU,
                name: None,
                number: 77,
                arguments: [u64::MAX, 0, 0, 0, 0, 0],
                called,
                continued: false,
                span: Span { start: 1, end: 2 },
            }]);
            let event = events.last().expect("an event");
            assert_eq!(event["name"], "hypercall 77");
            assert_eq!(event["args"]["arguments"][0], "0xffffffffffffffff");
            assert_eq!(event["args"]["result"], shown);
        }
    }

    #[test]
    fn exits_have_names() {
        let fault = Exit::Exception { vector: 14, error_code: 6, cr2: 0x1000 };
        let exit = |exit| Record::Exit {
            pcpu: 0,
            vcpu: VCPU,
            exit,
            mode: Mode::User,
            rip: 0x40_0000,
            span: Span { start: 5, end: 4 },
        };
        let events = encoded(&[
            exit(fault),
            exit(Exit::Syscall),
            exit(Exit::Unhandled { what: Unhandled::DoorbellAccess }),
        ]);
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 6);
        assert_eq!(
            [&spans[0]["name"], &spans[2]["name"], &spans[4]["name"]],
            ["PAGE_FAULT", "system call", "unhandled"]
        );
        assert_eq!([&spans[0]["args"]["address"], &spans[0]["args"]["rip"]], ["0x1000", "0x400000"]);
        assert_eq!(spans[0]["dur"], 0.0, "never negative");
    }
}
