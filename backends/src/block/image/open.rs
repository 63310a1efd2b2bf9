//! From a path to an image.

use super::file::ImageFile;
use super::{Image, ImageError, RawImage, qcow2};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// How an image holds a disk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// As QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// The format of that name: `raw` or `qcow2`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            _ => None,
        }
    }
}

/// Opens the image at `path` and locks it, for `user`: whoever finds it locked is told that name.
///
/// Without a format it is raw, unless it has the ending `.qcow2`. One that looks like qcow2 and is neither is refused: a
/// guest can write whatever it likes to the start of a raw disk, and what it wrote is not to decide which of the host's
/// files are read the next time.
///
/// # Errors
/// Why it cannot be used.
pub fn open(
    path: &Path,
    format: Option<Format>,
    writable: bool,
    user: &str,
) -> Result<Arc<dyn Image>, ImageError> {
    let (file, format) = open_file(path, format, writable, user)?;
    let image: Arc<dyn Image> = match format {
        Format::Raw => Arc::new(RawImage::locked(file)?),
        Format::Qcow2 => Arc::new(qcow2::Qcow2Image::open(file, writable, user)?),
    };
    check_size(path, &*image)?;
    Ok(image)
}

/// As [`open`], of a raw image whose bytes are to go past the host's page cache (`O_DIRECT`).
///
/// # Errors
/// As there, and where the file system cannot do that, or not for single sectors, which a guest may read and write.
pub fn open_direct(
    path: &Path,
    format: Option<Format>,
    writable: bool,
    user: &str,
) -> Result<Arc<dyn Image>, ImageError> {
    let (file, format) = open_file(path, format, writable, user)?;
    if format == Format::Qcow2 {
        return Err(file.error("direct is for raw images, and it is qcow2"));
    }
    let image = RawImage::locked(file)?;
    check_size(path, &image)?;
    let image = image.direct().map_err(|reason| ImageError::new(path, reason))?;
    Ok(Arc::new(image))
}

fn open_file(
    path: &Path,
    format: Option<Format>,
    writable: bool,
    user: &str,
) -> Result<(ImageFile, Format), ImageError> {
    let file = ImageFile::open(path, writable, user)?;
    let by_name = match path.extension().is_some_and(|ending| ending == "qcow2") {
        true => Format::Qcow2,
        false => Format::Raw,
    };
    if format.is_none() && by_name == Format::Raw && looks_like_qcow2(&file) {
        return Err(
            file.error("it looks like qcow2: say format=qcow2, or format=raw if it is to be used as it is")
        );
    }
    Ok((file, format.unwrap_or(by_name)))
}

fn check_size(path: &Path, image: &dyn Image) -> Result<(), ImageError> {
    match image.bytes() {
        0..512 => Err(ImageError::new(path, format!("a disk of {} bytes has no sector", image.bytes()))),
        _ => Ok(()),
    }
}

fn looks_like_qcow2(file: &ImageFile) -> bool {
    let mut magic = [0; 4];
    file.file.read_exact_at(&mut magic, 0).is_ok() && magic == qcow2::MAGIC
}
