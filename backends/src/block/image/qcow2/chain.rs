//! An image, the image that it is based on, the one that that is based on …
//!
//! The names in the files are followed here and not by `imago`: each file is opened read-only, locked, and looked at
//! whether it was met before; and none whose format is not told is guessed at.

use super::header::{self, Header};
use super::references;
use super::storage::StrictFile;
use crate::block::image::ImageError;
use crate::block::image::file::{Identity, ImageFile};
use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use std::path::Path;

/// Images below one another.
const MAX_DEPTH: usize = 32;

/// Opens the image in `file` and all below it. The header is its own.
pub(super) fn open(
    file: ImageFile,
    writable: bool,
    user: &str,
) -> Result<(FormatAccess<StrictFile>, Header), ImageError> {
    open_above(file, writable, user, &mut Vec::new())
}

fn open_above(
    file: ImageFile,
    writable: bool,
    user: &str,
    met: &mut Vec<Identity>,
) -> Result<(FormatAccess<StrictFile>, Header), ImageError> {
    let path = file.path.clone();
    let failed =
        |error: std::io::Error| ImageError::new(&path, format!("it cannot be used as qcow2: {error}"));
    met.push(file.lock.identity);
    let header = header::check(&file.file, writable).map_err(|reason| file.error(reason))?;
    if writable {
        references::check(&file.file, &header).map_err(|reason| file.error(reason))?;
    }
    let file = StrictFile::new(file, &header, writable);
    let mut image: Qcow2<StrictFile> = Qcow2::open_image(file, writable).map_err(failed)?;
    image.set_data_file(None);
    let backing = match image.implicit_backing_file() {
        Some(name) => Some(open_below(&path, name, image.implicit_backing_format(), user, met)?),
        None => None,
    };
    image.set_backing(backing);
    Ok((FormatAccess::new(image), header))
}

/// Opens what the image at `above` is based on.
fn open_below(
    above: &Path,
    name: &str,
    format: Option<&String>,
    user: &str,
    met: &mut Vec<Identity>,
) -> Result<FormatAccess<StrictFile>, ImageError> {
    let context = |error: ImageError| ImageError::new(above, format!("it is based on {error}"));
    let path = above.parent().unwrap_or(Path::new("")).join(name);
    if met.len() >= MAX_DEPTH {
        let reason = format!("it is based on {}, below more than {MAX_DEPTH} others", path.display());
        return Err(ImageError::new(above, reason));
    }
    if path.metadata().is_ok_and(|metadata| met.contains(&Identity::of(&metadata))) {
        let reason = format!("it is based on {}, which is based on it: a loop", path.display());
        return Err(ImageError::new(above, reason));
    }
    let file = ImageFile::open(&path, false, user).map_err(context)?;
    match format.map(String::as_str) {
        Some("qcow2") => open_above(file, false, user, met).map(|(below, _)| below).map_err(context),
        Some("raw" | "file") => {
            let raw = Raw::open_image(StrictFile::raw(file), false);
            let raw = raw.map_err(|error| ImageError::new(&path, error.to_string())).map_err(context)?;
            Ok(FormatAccess::new(raw))
        }
        Some(other) => Err(context(file.error(format!("its format is {other}; raw and qcow2 are known")))),
        None => Err(context(
            file.error("it does not say which format that has (qemu-img rebase -u -F … tells it)"),
        )),
    }
}
