//! Files that the user asks for. Whatever writes one does it here, so that nothing is lost unasked:
//!
//! - A file that is there and is of another kind stays, unless the user insists (`--force`).
//! - A file that somebody uses as a disk's image stays in any case, and nobody uses it as one while it is replaced.
//! - What is new is written aside, in a file that has a name of its own, and takes its place when it is [published]: until
//!   then the old one stands, and where that never happens, nothing is left of the new one.
//!
//! `-` is stdout, and never a file.
//!
//! [published]: NewFile::publish

use super::files::reason;
use backends::block::image::Lock;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A kind of file. One of the same kind, or an empty one, is replaced without `force`.
pub struct Kind {
    /// What to call it, with its article.
    pub name: &'static str,
    /// Whether a file holds that, read from its start on.
    pub is_held_by: fn(&File) -> io::Result<bool>,
}

/// Whether `-` was said: stdout.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// A file that is being written.
pub enum NewFile {
    /// One that is there and holds nothing that could be lost: a character device.
    Device(File),
    /// One that takes its place later.
    Aside {
        /// The new file, under a name of its own in the directory of `target`.
        file: NamedTempFile,
        /// The path that the new file gets when it is published.
        target: PathBuf,
        /// What is there, open and locked.
        old: Option<(File, Lock)>,
        /// Nobody has the new one as an image.
        lock: Lock,
    },
}

impl NewFile {
    /// Begins a file of that kind that is to be at `path`; `force` says that it may replace one of another kind.
    ///
    /// # Errors
    /// Why that cannot be, as part of a sentence about `path`.
    pub fn create(path: &Path, kind: &Kind, force: bool) -> Result<Self, String> {
        let failed = |error: io::Error| reason(&error);
        let (target, old) = match path.metadata() {
            Ok(found) if found.is_dir() => return Err("it is a directory".into()),
            Ok(found) if found.file_type().is_char_device() => {
                return File::options().write(true).open(path).map(Self::Device).map_err(failed);
            }
            Ok(found) if !found.is_file() => {
                return Err("it is neither a file nor a character device".into());
            }
            // Behind links, which stay.
            Ok(_) => (path.canonicalize().map_err(failed)?, Some(old(path, kind, force)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err("it is a link to nothing".into());
                }
                (path.to_owned(), None)
            }
            Err(error) => return Err(failed(error)),
        };
        let mode = match &old {
            Some((file, _)) => file.metadata().map_err(failed)?.permissions().mode() & 0o7777,
            None => 0o666, // less the umask
        };
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".paravane-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory.unwrap_or(Path::new(".")))
            .map_err(failed)?;
        let lock = Lock::of_output(file.as_file(), kind.name)?;
        Ok(Self::Aside { file, target, old, lock })
    }

    /// The file, to be written from its start on.
    pub fn file(&self) -> &File {
        match self {
            Self::Device(file) => file,
            Self::Aside { file, .. } => file.as_file(),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn fill(&self, bytes: &[u8]) -> Result<(), String> {
        let written = self.file().write_all(bytes);
        // Some file systems find out late that they are full. What is no file may have nothing to make durable.
        let stored = written.and_then(|()| match self {
            Self::Device(_) => Ok(()),
            Self::Aside { file, .. } => file.as_file().sync_all(),
        });
        stored.map_err(|error| reason(&error))
    }

    /// Puts the file in its place. It is locked until what comes back is gone.
    ///
    /// # Errors
    /// As [`Self::create`]. The file is gone then, and what was there still stands.
    pub fn publish(self) -> Result<Published, String> {
        match self {
            Self::Device(file) => Ok(Published { _file: file, _lock: None }),
            Self::Aside { file, target, old, lock } => {
                let put = match old {
                    Some(_) => file.persist(target),
                    None => file.persist_noclobber(target),
                };
                let file = put.map_err(|error| reason(&error.error))?;
                Ok(Published { _file: file, _lock: Some(lock) })
            }
        }
    }
}

/// A file in its place. It is locked until this is dropped; a device is not locked.
pub struct Published {
    _file: File,
    _lock: Option<Lock>,
}

/// What is at `path`, if it may be replaced.
fn old(path: &Path, kind: &Kind, force: bool) -> Result<(File, Lock), String> {
    let failed = |error: io::Error| reason(&error);
    // Opened for writing: a file that may not be written is not to be replaced either.
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    let lock = Lock::of_output(&file, kind.name)?;
    let is_empty = file.metadata().map_err(failed)?.len() == 0;
    match force || is_empty || (kind.is_held_by)(&file).map_err(failed)? {
        true => Ok((file, lock)),
        false => Err(format!("it is there, and is not {}: --force replaces it", kind.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, symlink};

    const KIND: Kind = Kind { name: "a greeting", is_held_by: is_greeting };

    fn is_greeting(mut file: &File) -> io::Result<bool> {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text.starts_with("hello"))
    }

    fn write(path: &Path, force: bool) -> Result<(), String> {
        let new = NewFile::create(path, &KIND, force)?;
        new.fill(b"hello, new")?;
        new.publish().map(drop)
    }

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        std::fs::read_dir(directory).unwrap().map(name).collect()
    }

    #[test]
    fn what_is_of_another_kind_stays_unless_forced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (contents, force, replaced) in [
            (None, false, true),
            (Some(""), false, true),
            (Some("hello, old"), false, true),
            (Some("precious"), false, false),
            (Some("precious"), true, true),
        ] {
            let _ = std::fs::remove_file(&path);
            contents.into_iter().for_each(|contents| std::fs::write(&path, contents).unwrap());
            let done = write(&path, force);
            assert_eq!(done.is_ok(), replaced, "{contents:?}: {done:?}");
            let expected = if replaced { "hello, new" } else { contents.unwrap_or_default() };
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
            assert_eq!(names(directory.path()), ["file"]);
        }
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            write(&path, false).unwrap_err(),
            "it is there, and is not a greeting: --force replaces it"
        );
    }

    #[test]
    fn what_is_used_as_an_image_stays_in_any_case() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, "hello, disk").unwrap();
        let image = File::open(&path).unwrap();
        let lock = Lock::of_output(&image, "domain a").unwrap();
        for force in [false, true] {
            let refused = write(&path, force).unwrap_err();
            assert!(refused.contains("in use by domain a"), "{refused}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello, disk");
        drop((lock, image));
        write(&path, false).unwrap();
    }

    #[test]
    fn what_is_not_published_leaves_nothing_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let new = NewFile::create(&path, &KIND, false).unwrap();
        new.file().write_all(b"hello").unwrap();
        std::fs::write(&path, "quicker").unwrap();
        assert!(new.publish().is_err());
        drop(NewFile::create(&path, &KIND, true).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "quicker");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn mode_and_links_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&path, "hello").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        write(&link, false).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello, new");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        symlink("nothing", directory.path().join("dangling")).unwrap();
        assert!(write(&directory.path().join("dangling"), true).unwrap_err().contains("link to nothing"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write(directory.path(), true).unwrap_err().contains("directory"));
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(write(&pipe, true).unwrap_err().contains("neither a file"), "and nobody waits for a reader");
        write(Path::new("/dev/null"), false).unwrap();
        assert!(write(Path::new("/dev/full"), false).unwrap_err().contains("No space"));
    }
}
