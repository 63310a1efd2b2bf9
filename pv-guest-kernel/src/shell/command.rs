//! The commands.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::version::{ExtraVersion, VersionOp};
use pv_abi::{DomId, Errno, EventPort, GrantRef};

use super::measure::{self, Load};
use super::storage::{self, Stride};
use super::{complete, files, lending, power};
use crate::arch::{hypercall, processor};
use crate::sched::idle::{self, Counts};
use crate::sched::{executor, vcpus};
use crate::user::process::{self, Outcome, Process};
use crate::user::program::{self, PROGRAMS};
use crate::{attack, block, event, file_system, memory, selftest, time, xenstore};

/// Usage and meaning, in the order of `help`.
const COMMANDS: [(&str, &str); 33] = [
    ("help", "this list"),
    ("version", "this kernel and its hypervisor"),
    ("memory [check]", "memory and its use; or writes to all that is free, and reads it back"),
    ("uptime", "time since the machine started, and the date"),
    ("sleep SECONDS", "waits"),
    ("ps", "tasks"),
    ("vcpus", "vCPUs: turns of tasks, time in programs, sleeps"),
    ("idle", "how often there was nothing to do: looks for a disk's answer, sleeps"),
    ("ports", "event channels: events that came, notifications by doorbell and by hypercall"),
    ("programs", "user programs"),
    ("spawn PROGRAM [NUMBER] [&]", "runs a user program, with & in the background"),
    ("share DOMAIN", "lends a page to another domain, and waits for its answer"),
    ("unshare ENTRY", "takes it back, once nobody has it mapped"),
    ("attach DOMAIN ENTRY PORT [SECONDS]", "maps another domain's page, answers, keeps it for so long"),
    ("disks", "disks"),
    ("dd read|write DISK [MIB [KIB DEPTH]]", "reads a disk, or writes a pattern to it, and tells how fast"),
    ("rounds DISK [FIRST]", "writes numbered rounds over a disk, and tells which are durable, without end"),
    (
        "measure read|write|flush DISK KIB DEPTH COUNT SEED",
        "moves chunks at random places, checked, and tells how long",
    ),
    ("sha256 FILE|DISK [MIB]", "a hash"),
    ("format DISK", "makes an empty FAT file system"),
    ("mount [DISK]", "makes the files of a disk known as /DISK/..., or tells what is mounted"),
    ("unmount DISK", "makes durable what was written to its files, and forgets them"),
    ("ls DIRECTORY", "names in a directory"),
    ("cat FILE", "prints a file"),
    ("write FILE WORD...", "makes a file of one line"),
    ("sync", "makes durable what was written to files"),
    ("xs ls|read|write PATH [VALUE]", "xenstore, as this domain sees it"),
    ("selftest", "tests each mechanism from inside"),
    ("attack", "tries to break out of the domain"),
    ("crash", "panics"),
    ("reboot", "asks to be started again"),
    ("poweroff [STATUS]", "ends the domain"),
    ("exit [STATUS]", "the same, by default with the status of the last line, as Ctrl-D does"),
];

/// What can stand at the end of a line.
pub fn completions(line: &str) -> Vec<String> {
    complete::candidates(line, &COMMANDS.map(|(usage, _)| usage), &|kind, typed| match kind {
        "PROGRAM" => PROGRAMS.iter().map(|program| program.name.into()).collect(),
        "DISK" => block::all().into_iter().map(|(name, _)| name).collect(),
        "FILE" | "DIRECTORY" => files::paths(typed),
        _ => Vec::new(),
    })
}

/// Runs one command. The error is a message.
pub async fn run(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["help"] => help(),
        ["version"] => version(),
        ["memory"] => println!("{}", memory::summary()),
        ["memory", "check"] => check_memory().await?,
        ["uptime"] => uptime(),
        ["sleep", seconds] => {
            let seconds: u32 = parse(seconds)?;
            time::sleep(u64::from(seconds) * time::SECOND).await;
        }
        ["ps"] => ps(),
        ["vcpus"] => vcpus(),
        ["idle"] => idle(),
        ["ports"] => ports(),
        ["programs"] => PROGRAMS.iter().for_each(|program| println!("{:24} {}", program.name, program.about)),
        ["spawn", name] => spawn(name, 0).await?,
        ["spawn", name, "&"] => background(name, 0)?,
        ["spawn", name, number] => spawn(name, parse(number)?).await?,
        ["spawn", name, number, "&"] => background(name, parse(number)?)?,
        ["share", domain] => lending::share(DomId(parse(domain)?)).await?,
        ["unshare", entry] => lending::unshare(GrantRef(parse(entry)?)).await?,
        ["attach", domain, entry, port] => attach(domain, entry, port, 0).await?,
        ["attach", domain, entry, port, seconds] => attach(domain, entry, port, parse(seconds)?).await?,
        ["disks"] => storage::disks().await,
        ["dd", action, disk] => storage::dd(action, disk, None, Stride::default()).await?,
        ["dd", action, disk, size] => {
            storage::dd(action, disk, Some(parse(size)?), Stride::default()).await?
        }
        ["dd", action, disk, size, chunk, depth] => {
            let stride = Stride::new(parse(chunk)?, parse(depth)?)?;
            storage::dd(action, disk, Some(parse(size)?), stride).await?
        }
        ["rounds", disk] => storage::rounds(disk, 1).await?,
        ["rounds", disk, first] => storage::rounds(disk, parse(first)?).await?,
        ["measure", action, disk, size, depth, count, seed] => {
            let load = Load::new(action, parse(size)?, parse(depth)?, parse(count)?, parse(seed)?)?;
            measure::run(disk, load).await?
        }
        ["sha256", what] => storage::sha256(what, None).await?,
        ["sha256", disk, size] => storage::sha256(disk, Some(parse(size)?)).await?,
        ["format", disk] => files::format(disk).await?,
        ["mount"] => files::mount(None).await?,
        ["mount", disk] => files::mount(Some(disk)).await?,
        ["unmount", disk] => file_system::unmount(disk)?,
        ["ls", path] => files::list(path)?,
        ["cat", path] => files::print(path).await?,
        ["write", path, words @ ..] => files::write(path, words)?,
        ["sync"] => file_system::sync()?,
        ["xs", "ls", path] => store(xenstore::directory(path).await.map(|names| names.join("\n")))?,
        ["xs", "read", path] => store(xenstore::read(path).await)?,
        ["xs", "write", path, value] => xenstore::write(path, value).await.map_err(refused)?,
        ["selftest"] => selftest::run().await?,
        ["attack"] => attack::run().await?,
        ["crash"] => panic!("crash was asked for"),
        ["reboot"] => power::reboot(),
        ["poweroff"] => power::off(0),
        ["poweroff" | "exit", status] => power::off(parse(status)?),
        [name, ..] if COMMANDS.iter().any(|(usage, _)| usage.split(' ').next() == Some(name)) => {
            return Err("wrong arguments; see help".into());
        }
        _ => return Err("unknown command; see help".into()),
    }
    Ok(())
}

fn parse<T: core::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word} is not a number in range"))
}

fn help() {
    COMMANDS.iter().for_each(|(usage, about)| println!("{usage:40} {about}"));
}

fn version() {
    let version = hypercall::xen_version().unwrap_or(0);
    let mut extra: ExtraVersion = [0; 16];
    // Not every hypervisor has one.
    let _ = hypercall::xen_version_query(VersionOp::EXTRAVERSION, &mut extra);
    let extra = extra.split(|byte| *byte == 0).next().unwrap_or_default();
    println!("guest kernel: Paravane {}", env!("CARGO_PKG_VERSION"));
    println!("interface:    Xen {}.{}{}", version >> 16, version & 0xffff, String::from_utf8_lossy(extra));
    let [_, signature @ ..] = processor::cpuid(pv_abi::cpuid::FIRST_LEAF);
    let signature: Vec<u8> = signature.into_iter().flat_map(u32::to_le_bytes).collect();
    println!("hypervisor:   {}, extensions: {}", String::from_utf8_lossy(&signature), extensions());
}

/// The names of what the hypervisor offers beyond Xen's ABI.
fn extensions() -> String {
    let names: Vec<&str> = processor::extensions().iter_names().map(|(name, _)| name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

async fn check_memory() -> Result<(), String> {
    let frames = memory::check().await.map_err(|pfn| format!("{pfn:?} does not hold what was written"))?;
    println!("{} MiB written and read back", frames / 256);
    Ok(())
}

fn uptime() {
    let milliseconds = time::now() / time::MILLISECOND;
    println!("up {}.{:03} s, Unix time {}", milliseconds / 1000, milliseconds % 1000, time::wall_clock());
}

fn ps() {
    println!("task  state    vCPU  cpu ms  name");
    for task in executor::tasks() {
        println!(
            "{:4}  {:7}  {:4}  {:6}  {}",
            task.number,
            task.state,
            task.vcpu,
            task.nanoseconds / time::MILLISECOND,
            task.name
        );
    }
}

fn vcpus() {
    println!("vCPU       turns  user ms      sleeps");
    for (number, counts) in vcpus::counts().iter().enumerate() {
        let user_ms = counts.user_ns / time::MILLISECOND;
        println!("{number:4}  {:10}  {user_ms:7}  {:10}", counts.turns, counts.sleeps);
    }
}

fn idle() {
    let Counts { looks, finds, sleeps } = idle::counts();
    println!("looked {looks} times, and {finds} times seen an answer; slept {sleeps} times");
}

fn ports() {
    println!("port      events       rings       sends");
    for (port, counts) in event::counts() {
        println!("{:4}  {:10}  {:10}  {:10}", port.0, counts.events, counts.rings, counts.sends);
    }
}

fn store(answer: Result<String, Errno>) -> Result<(), String> {
    answer.map(|text| println!("{text}")).map_err(refused)
}

fn refused(error: Errno) -> String {
    format!("refused, {error}")
}

async fn attach(domain: &str, entry: &str, port: &str, seconds: u32) -> Result<(), String> {
    let (domain, entry, port) = (DomId(parse(domain)?), GrantRef(parse(entry)?), EventPort(parse(port)?));
    lending::attach(domain, entry, port, seconds).await
}

fn start(name: &str, argument: u64) -> Result<Arc<Process>, String> {
    let program = program::find(name).ok_or_else(|| format!("no program {name}; see programs"))?;
    let (least, most) = (program.numbers.start(), program.numbers.end());
    if !program.numbers.contains(&argument) {
        return Err(match most {
            0 => format!("{name} takes no number"),
            _ => format!("{name} takes a number from {least} to {most}"),
        });
    }
    process::start(program, argument, false).map_err(|error| format!("{name} cannot start: {error}"))
}

/// Kills the program when the command is interrupted.
struct KillOnDrop(Arc<Process>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

async fn spawn(name: &str, argument: u64) -> Result<(), String> {
    let process = KillOnDrop(start(name, argument)?);
    match process.0.outcome().await {
        Outcome::Exited(0) => Ok(()),
        outcome => Err(format!("{name} {outcome}")),
    }
}

fn background(name: &str, argument: u64) -> Result<(), String> {
    let process = start(name, argument)?;
    executor::spawn("waiter", async move {
        println!("[{}] {}", process.program.name, process.outcome().await);
    });
    Ok(())
}
