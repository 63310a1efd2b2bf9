//! A terminal, for sessions that somebody types to.

use super::paravane;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The two ends of a pseudo-terminal.
pub struct Terminal {
    /// Where keys are pressed.
    pub keyboard: File,
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Opens a pseudo-terminal. Panics where the host has none left.
    pub fn open() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("its other end");
        let name = ptsname(&keyboard, Vec::new()).expect("its name");
        let name = name.to_str().expect("a path");
        let line = File::options().read(true).write(true).open(name).expect("its other end");
        let line = OwnedFd::from(line);
        let before = tcgetattr(&line).expect("a terminal");
        Self { keyboard: keyboard.into(), line, before }
    }

    /// Whether keys arrive as they are pressed.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).expect("a terminal").local_modes.contains(LocalModes::ICANON)
    }

    /// Starts `paravane` on it.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let stdin = self.line.try_clone().expect("a descriptor");
        paravane(arguments).stdin(Stdio::from(stdin)).spawn().expect("paravane starts")
    }

    /// Starts a session that waits for keys, and waits until it does.
    pub fn session(&self, arguments: &[&str]) -> Child {
        let child = self.spawn(arguments);
        self.wait_until_raw();
        child
    }

    /// Waits until keys arrive as they are pressed.
    pub fn wait_until_raw(&self) {
        let start = Instant::now();
        while !self.is_raw() {
            assert!(start.elapsed() < Duration::from_secs(60), "the terminal never becomes raw");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes it what it was before, as a shell does that stops a process.
    pub fn cook(&self) {
        tcsetattr(&self.line, OptionalActions::Now, &self.before).expect("a terminal");
    }

    /// It is as it was before.
    #[track_caller]
    pub fn assert_restored(&self) {
        let after = tcgetattr(&self.line).expect("a terminal");
        let modes = |terminal: &Termios| {
            (terminal.local_modes, terminal.input_modes, terminal.output_modes, terminal.control_modes)
        };
        assert_eq!(modes(&after), modes(&self.before));
    }
}
