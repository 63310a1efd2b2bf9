//! Opening an image's file.

use super::ImageError;
use super::lock::Lock;
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An image's file, open and locked: for writing by one, or for reading by many.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub path: PathBuf,
    pub file: File,
    pub lock: Lock,
}

/// Which file it is, whatever its name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl ImageFile {
    /// Opens and locks the file at `path` for `user`, whom others are told of.
    pub fn open(path: &Path, writable: bool, user: &str) -> Result<Self, ImageError> {
        let failed = |error: &io::Error| ImageError::new(path, reason(error, writable));
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let is_device = check_kind(path, &path.metadata().map_err(|error| failed(&error))?)?;
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        if is_device && writable {
            // Of a device this means: nobody else on this host, no file system either.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let file = options.open(path).map_err(|error| failed(&error))?;
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        check_kind(path, &metadata)?;
        let lock = Lock::take(&file, Identity::of(&metadata), writable, user);
        let lock = lock.map_err(|reason| ImageError::new(path, reason))?;
        Ok(Self { path: path.to_owned(), file, lock })
    }

    pub fn error(&self, reason: impl Into<String>) -> ImageError {
        ImageError::new(&self.path, reason)
    }
}

/// True for a block device, false for a file.
fn check_kind(path: &Path, metadata: &Metadata) -> Result<bool, ImageError> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(ImageError::new(path, "it is a directory"));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::new(path, "it is neither a file nor a block device"));
    }
    Ok(kind.is_block_device())
}

fn reason(error: &io::Error, writable: bool) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".into(),
        ErrorKind::ResourceBusy => "the device is in use on this host, perhaps mounted".into(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy
            if writable =>
        {
            format!("it cannot be opened for writing ({error}); it may be usable as a read-only disk")
        }
        _ => format!("it cannot be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_cannot_be_opened_is_told_in_words() {
        let told = |kind: ErrorKind, writable| reason(&kind.into(), writable);
        assert_eq!(told(ErrorKind::NotFound, true), "there is no such file");
        assert_eq!(told(ErrorKind::ResourceBusy, true), "the device is in use on this host, perhaps mounted");
        let denied =
            [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::ExecutableFileBusy];
        for kind in denied {
            assert!(told(kind, true).ends_with("; it may be usable as a read-only disk"), "{kind:?}");
            assert!(told(kind, false).starts_with("it cannot be opened: "), "{kind:?}");
        }
        assert!(told(ErrorKind::TooManyLinks, true).starts_with("it cannot be opened: "));
    }
}
