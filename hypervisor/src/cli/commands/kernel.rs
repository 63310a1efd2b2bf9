//! `paravane kernel`: the bundled guest kernel as a file.

use super::args::KernelArgs;
use crate::cli::new_file::{Kind, NewFile, is_stdout};
use crate::cli::printing::stdout::print;
use crate::cli::status::{Failure, Status};
use hypervisor::builder::KernelImage;
use hypervisor::kernel_image::KERNEL_IMAGE;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const KIND: Kind = Kind { name: "a kernel of Paravane", is_held_by: is_bundled_kernel };

/// No bundled kernel is larger.
const LARGEST: u64 = 64 << 20;

/// `paravane kernel`: writes the bundled guest kernel to a file, or to stdout.
pub fn kernel(args: &KernelArgs) -> Result<Status, Failure> {
    if is_stdout(&args.output) {
        let _ = print(KERNEL_IMAGE)?;
    } else {
        write(&args.output, args.force).map_err(|reason| Failure::about(args.output.display(), reason))?;
    }
    Ok(Status::Fine)
}

fn write(path: &Path, force: bool) -> Result<(), String> {
    let new = NewFile::create(path, &KIND, force)?;
    new.fill(KERNEL_IMAGE)?;
    new.publish().map(drop)
}

/// This version's, or another's.
fn is_bundled_kernel(file: &File) -> io::Result<bool> {
    let name = |bytes: &[u8]| KernelImage::parse(bytes).map(|image| image.notes.guest_os).ok();
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(name(&bytes).is_some() && name(&bytes) == name(KERNEL_IMAGE))
}
