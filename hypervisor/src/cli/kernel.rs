//! `paravane kernel`: the bundled guest kernel as a file.

use super::args::KernelArgs;
use super::files::reason;
use super::status::{Failure, Status};
use hypervisor::kernel_image::KERNEL_IMAGE;
use std::io::{self, Write};
use std::path::Path;

/// Writes it.
pub fn kernel(args: &KernelArgs) -> Result<Status, Failure> {
    let written = match args.output.as_path() {
        path if path == Path::new("-") => io::stdout().write_all(KERNEL_IMAGE),
        path => std::fs::write(path, KERNEL_IMAGE),
    };
    match written {
        Ok(()) => Ok(Status::Fine),
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Status::Fine),
        Err(error) => Err(Failure::about(args.output.display(), reason(&error))),
    }
}
