//! A kernel as a file, for `paravane run --kernel`.

use super::Code;
use std::path::PathBuf;
use tempfile::TempDir;

/// An image, deleted when dropped.
pub struct TinyGuest {
    _directory: TempDir,
    /// The path of the image, in a directory of its own.
    pub path: PathBuf,
}

impl TinyGuest {
    /// A kernel that starts with these bytes.
    pub fn new(code: &[u8]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tiny");
        std::fs::write(&path, Code::from(code).image()).expect("a file");
        Self { _directory: directory, path }
    }

    /// The path, as `paravane run --kernel` takes it.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }
}
