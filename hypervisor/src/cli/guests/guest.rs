//! A guest to be booted: what its user wants, and the files it is made of.

use super::command_line::{Commands, compose};
use super::disk::open_all;
use super::image::Images;
use super::spec::{Origin, Spec};
use crate::cli::input::terminal;
use crate::cli::status::Failure;
use backends::block::Disk;
use hypervisor::builder::{KernelImage, Plan};
use std::sync::Arc;

/// A guest whose files are read and fit together.
pub struct Guest<'a> {
    /// What the user wants of the guest.
    pub spec: &'a Spec,
    /// The bytes of its kernel and of its ramdisk.
    pub images: &'a Images,
    /// The kernel among them.
    pub kernel: KernelImage<'a>,
    /// Its disks, open; the first is `xvda`.
    pub disks: Vec<Arc<Disk>>,
    /// Where the shell's commands come from.
    pub commands: Commands<'a>,
}

impl<'a> Guest<'a> {
    /// Reads the headers and notes of the kernel, and opens the disks.
    pub fn new(spec: &'a Spec, images: &'a Images) -> Result<Self, Failure> {
        let commands = match &spec.exec {
            Some(exec) => Commands::Given(exec),
            None if terminal::is_terminal() => Commands::Typed,
            // A service's: nobody is there, and nobody was meant to be.
            None if matches!(spec.origin, Origin::File(_)) && terminal::is_nowhere() => Commands::Nobody,
            None => Commands::Piped,
        };
        Ok(Self { spec, images, kernel: images.kernel()?, disks: open_all(spec)?, commands })
    }

    /// Lays its domain out; `commands` are those of this life.
    pub fn plan(&self, commands: Commands<'_>) -> Result<Plan, Failure> {
        self.images.plan(&self.kernel, self.spec, compose(self.spec, commands)?)
    }
}
