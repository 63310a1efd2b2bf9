//! What a domain is to be, whether options say it or a file.

use super::disk::DiskSpec;
use crate::cli::status::{Failure, Status};
use hypervisor::builder::Amount;
use std::fmt::Display;
use std::path::PathBuf;

/// The memory of a domain of which nothing else is said.
pub const DEFAULT_MEMORY: &str = "128M";

/// A domain as its user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Where the description comes from; messages name it.
    pub origin: Origin,
    /// What messages call the domain.
    pub name: String,
    /// An image, in place of the bundled kernel.
    pub kernel: Option<PathBuf>,
    /// A file that the kernel finds as its ramdisk.
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// How much memory the domain has.
    pub memory: Amount,
    /// How many vCPUs the domain has.
    pub vcpus: u32,
    /// Its disks, the first being `xvda`.
    pub disks: Vec<DiskSpec>,
    /// Commands for the shell.
    pub exec: Option<String>,
}

impl Spec {
    /// Its kernel is the bundled one, with a shell that takes commands and words of its own on its command line.
    pub fn is_bundled(&self) -> bool {
        self.kernel.is_none()
    }

    /// Settings that make no sense together.
    pub fn check(&self) -> Result<(), Failure> {
        if self.exec.is_some() && !self.is_bundled() {
            let message =
                "it is for the bundled kernel's shell; another kernel has its command line and its console";
            return Err(self.origin.nonsense("exec", message));
        }
        Ok(())
    }
}

/// Where a [`Spec`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Options of the command line.
    Options,
    /// The file at this path, in TOML.
    File(PathBuf),
}

impl Origin {
    /// What to call a setting in messages.
    pub fn setting(&self, key: &str) -> String {
        match self {
            Self::Options => format!("--{key}"),
            Self::File(path) => format!("{}: {key}", path.display()),
        }
    }

    /// What to call two settings that are wrong together.
    pub fn settings(&self, one: &str, other: &str) -> String {
        match self {
            Self::Options => format!("--{one} and --{other}"),
            Self::File(path) => format!("{}: {one} and {other}", path.display()),
        }
    }

    /// A setting that makes no sense: on the command line that is a matter of usage.
    pub fn nonsense(&self, key: &str, message: impl Display) -> Failure {
        let failure = Failure::about(self.setting(key), message);
        match self {
            Self::Options => Failure { status: Status::Usage, ..failure },
            Self::File(_) => failure,
        }
    }
}
