//! Why an image cannot be used.

use std::path::{Path, PathBuf};

/// An image that cannot be used: which file, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// Why, as part of a sentence.
    pub reason: String,
}

impl ImageError {
    /// An error of `path`.
    pub fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }
}
