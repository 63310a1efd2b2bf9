//! Files that the user names.

use super::status::Failure;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// No kernel or ramdisk is larger, and no host would like to read one that is.
const LARGEST: u64 = 2 << 30;

/// Reads a whole regular file.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::about(path.display(), reason(&error));
    // Looked at before it is opened: opening a pipe would wait for a writer.
    check(path, &std::fs::metadata(path).map_err(failed)?)?;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One more than the limit, so that a file which has grown meanwhile is noticed.
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(too_large(path)),
        false => Ok(bytes),
    }
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    if metadata.is_dir() {
        return Err(Failure::about(path.display(), "it is a directory"));
    }
    if !metadata.is_file() {
        return Err(Failure::about(path.display(), "it is not a regular file"));
    }
    if metadata.len() > LARGEST { Err(too_large(path)) } else { Ok(()) }
}

fn too_large(path: &Path) -> Failure {
    Failure::about(path.display(), format_args!("it is larger than {} GiB", LARGEST >> 30))
}

/// What went wrong, without the number of the error.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
