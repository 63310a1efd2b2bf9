//! One run of QEMU: started for one sample, and ended with it.
#![allow(unsafe_code)] // what a child does before it becomes QEMU

use super::code::{CONSOLE_PORT, EXIT_PORT, RESULT_SIZE};
use super::image::Outcome;
use super::way::Way;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::retry_on_intr;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The name of QEMU's program, looked for in `PATH`.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Longer than any sample takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// No devices but those that are named, and no clocks.
const MACHINE: &str = "microvm,pit=off,pic=off,rtc=off,isa-serial=off,acpi=off,auto-kernel-cmdline=off";
/// Software KVM does not take the register behind that feature.
const CPU: &str = "max,arch-capabilities=off";
/// The console's output is ours to read.
const CONSOLE: &str = "stdio,id=console,signal=off";

/// QEMU's version, as it says itself.
pub fn version() -> Result<String, String> {
    let output = Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| describe(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
    version.map(str::to_owned).ok_or_else(|| format!("{PROGRAM} --version says no version"))
}

/// Runs a guest on a disk; how it ended, or why nobody knows.
pub fn run(way: Way, guest: &[u8], disk: &File) -> Result<Outcome, String> {
    let mut kernel = memory_file().map_err(|error| describe(&error))?;
    kernel.write_all(guest).map_err(|error| describe(&error))?;
    watch(command(way, &kernel, disk), PATIENCE)
}

/// Starts it, waits for a result, and ends it. What it complained about is in the reason.
fn watch(mut command: Command, patience: Duration) -> Result<Outcome, String> {
    let mut messages = memory_file().map_err(|error| describe(&error))?;
    let said = messages.try_clone().and_then(|file| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut qemu = Running(command.spawn()?);
        qemu.0.stdout.as_mut().map_or(Ok(Said::Nothing), |output| listen(output, patience))
    });
    let what = match said.map_err(|error| describe(&error))? {
        Said::Result(result) => return Ok(Outcome::parse(&result)),
        Said::Nothing => format!("{PROGRAM} ended without a result"),
        Said::NotYet => format!("{PROGRAM} came to no result in {patience:?}"),
    };
    let mut text = String::new();
    // Whatever can be read of it.
    let _ = messages.rewind().and_then(|()| messages.read_to_string(&mut text));
    Err([what.as_str()].into_iter().chain(text.lines()).collect::<Vec<_>>().join(": "))
}

fn command(way: Way, kernel: &File, disk: &File) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-m",
        "64M",
        "-cpu",
        CPU,
    ]);
    command.args(["-accel", way.accelerator(), "-machine", MACHINE, "-kernel", &path(kernel)]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-object", "iothread,id=thread"]);
    command.args(["-drive", &way.drive(&path(disk)), "-device", way.device()]);
    command.args([
        "-chardev",
        CONSOLE,
        "-device",
        &format!("isa-debugcon,iobase={CONSOLE_PORT:#x},chardev=console"),
    ]);
    command.args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")]);
    // SAFETY: the closure makes one system call, and touches nothing of this process's.
    unsafe {
        // However the bench ends, QEMU ends with it.
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    command
}

/// A name by which another process of this user can open the file.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn memory_file() -> io::Result<File> {
    Ok(memfd_create("bench", MemfdFlags::CLOEXEC)?.into())
}

/// A process that does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest said on its console in the time that it had.
enum Said {
    Result([u8; RESULT_SIZE]),
    /// Less than a result, and no more is to come.
    Nothing,
    /// Less than a result, in all the time that it was given.
    NotYet,
}

fn listen(output: &mut ChildStdout, patience: Duration) -> io::Result<Said> {
    let deadline = Instant::now() + patience;
    let (mut said, mut bytes) = (Vec::new(), [0; RESULT_SIZE]);
    loop {
        if let Some(result) = said.first_chunk() {
            return Ok(Said::Result(*result));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        if retry_on_intr(|| poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&left)))? == 0 {
            return Ok(Said::NotYet);
        }
        match output.read(&mut bytes)? {
            0 => return Ok(Said::Nothing),
            count => said.extend(bytes.iter().take(count)),
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{PROGRAM} is not installed"),
        _ => format!("{PROGRAM}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> Result<Outcome, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        watch(command, patience)
    }

    #[test]
    fn one_that_hangs_is_ended_and_one_that_dies_is_quoted() {
        let reason = shell("echo $$ >&2; exec sleep 1000", Duration::from_millis(500)).unwrap_err();
        assert!(reason.contains("no result in 500ms"), "{reason}");
        let process = reason.rsplit(' ').next().unwrap();
        assert!(process.parse::<u32>().is_ok(), "{reason}");
        assert!(!std::path::Path::new("/proc").join(process).exists(), "{process} still runs");
        let reason = shell("printf 1234; echo 'no such machine' >&2; exit 1", PATIENCE).unwrap_err();
        assert!(reason.ends_with("without a result: no such machine"), "{reason}");
    }

    #[test]
    fn a_result_is_taken_in_pieces_and_nobody_waits_for_more() {
        let script = r"printf '\1\0\0\0\0\0\0\0'; sleep 0.1; printf '\5\0\0\0\0\0\0\0'; exec sleep 1000";
        assert_eq!(shell(script, PATIENCE), Ok(Outcome::Done(5)));
    }

    #[test]
    fn what_is_not_installed_is_said_to_be_so() {
        let reason = watch(Command::new("/nonexistent/qemu"), PATIENCE).unwrap_err();
        assert_eq!(reason, "qemu-system-x86_64 is not installed");
    }
}
