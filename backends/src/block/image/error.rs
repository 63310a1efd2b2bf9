//! Why an image cannot be used.

use std::path::{Path, PathBuf};

/// An image that cannot be used: which file, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ImageError {
    /// The file that cannot be used.
    pub path: PathBuf,
    /// Why, as part of a sentence.
    pub reason: String,
}

impl ImageError {
    /// That the image at `path` cannot be used, and why.
    pub fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }
}
