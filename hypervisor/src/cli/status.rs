//! Exit statuses, and errors that carry one.

use std::fmt::Display;
use std::process::ExitCode;

/// What the process reports to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The guest ended well, or what was asked for was done.
    Fine,
    /// The configuration or the host does not allow it, or Paravane has a defect.
    Configuration,
    /// The command line makes no sense.
    Usage,
    /// The guest crashed: exit status 3.
    Crashed,
    /// The guest ended with a failure.
    Failed,
    /// This signal has ended the run.
    Signal(i32),
}

impl Status {
    /// Its number: that of a signal is 128 and the signal's.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Configuration => 1,
            Self::Usage => 2,
            Self::Crashed => 3,
            Self::Failed => 4,
            Self::Signal(signal) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        }
    }

    /// Of several, the worst is reported: a host's failure before a guest's crash, that before a guest's failure.
    pub fn severity(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Crashed => 2,
            Self::Configuration => 3,
            Self::Usage => 4,
            Self::Signal(_) => 5,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// Why nothing was done: one line for the user, and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// What the process reports to whoever started it.
    pub status: Status,
    /// The line that tells the user why.
    pub message: String,
}

impl Failure {
    /// Something is wrong with the host or with what was configured.
    pub fn new(message: impl Display) -> Self {
        Self { status: Status::Configuration, message: message.to_string() }
    }

    /// The same, about a thing that has a name: a file, an option.
    pub fn about(what: impl Display, message: impl Display) -> Self {
        Self::new(format_args!("{what}: {message}"))
    }
}
