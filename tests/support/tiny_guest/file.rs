//! A kernel as a file, for `paravane run --kernel`.

use super::Code;
use std::path::PathBuf;
use tempfile::TempDir;

/// An image, deleted when dropped.
pub struct TinyGuest {
    _directory: TempDir,
    /// Its file.
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

    /// The file's name.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }
}
