//! Disks, as they are said: `PATH[,ro][,direct][,format=raw|qcow2][,bps=RATE][,iops=N]`. A comma of the path is doubled.

use super::demo_disk::{NAME, demo_disk};
use super::size;
use super::spec::{Origin, Spec};
use crate::cli::status::Failure;
use backends::block::image::{Format, open, open_direct};
use backends::block::{Disk, Limit};
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Disks that a domain can have: `xvda` to `xvdz`, then `xvdaa` to `xvdbl`.
const MAX_DISKS: usize = 64;

/// A disk as its user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The path of the disk's image.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether its bytes go past the host's page cache.
    pub direct: bool,
    /// What the image is; without it, its name says so.
    pub format: Option<Format>,
    /// How fast the guest may use it.
    pub limit: Limit,
}

/// Reads what an option says of a disk.
pub fn parser() -> impl TypedValueParser<Value = DiskSpec> {
    OsStringValueParser::new().try_map(|text| parse(&text))
}

/// Splits off the path, in which two commas stand for one. What follows is none where the path is all.
fn split_path(text: &OsStr) -> (PathBuf, Option<&[u8]>) {
    let (mut path, mut rest) = (Vec::new(), text.as_bytes());
    loop {
        match rest {
            [b',', b',', after @ ..] => {
                path.push(b',');
                rest = after;
            }
            [b',', after @ ..] => return (OsString::from_vec(path).into(), Some(after)),
            [byte, after @ ..] => {
                path.push(*byte);
                rest = after;
            }
            [] => return (OsString::from_vec(path).into(), None),
        }
    }
}

/// Reads what is said of a disk.
pub fn parse(text: &OsStr) -> Result<DiskSpec, String> {
    let (path, words) = split_path(text);
    if path.as_os_str().is_empty() {
        return Err("it names no image".into());
    }
    let (read_only, direct, format, limit) = Default::default();
    let mut disk = DiskSpec { path, read_only, direct, format, limit };
    let words = words.map(String::from_utf8_lossy);
    for word in words.iter().flat_map(|words| words.split(',')) {
        match word.split_once('=') {
            None if word == "ro" => disk.read_only = true,
            None if word == "direct" => disk.direct = true,
            Some(("format", name)) => {
                let format = Format::from_name(name);
                disk.format = Some(format.ok_or_else(|| format!("format={name}: it is raw or qcow2"))?);
            }
            Some(("bps", rate)) => disk.limit.bytes_per_second = Some(parse_rate(word, rate)?),
            Some(("iops", rate)) => disk.limit.operations_per_second = Some(parse_rate(word, rate)?),
            _ => {
                let known = "ro, direct, format=raw|qcow2, bps=RATE, iops=RATE";
                let comma = "a comma of the image's name is written as two";
                return Err(format!("{word:?} is no option of a disk; there are {known} ({comma})"));
            }
        }
    }
    if disk.direct && disk.format == Some(Format::Qcow2) {
        return Err("direct is for raw images".into());
    }
    Ok(disk)
}

/// So much a second: a number, with a unit for powers of 1024.
fn parse_rate(word: &str, text: &str) -> Result<NonZeroU64, String> {
    let (number, factor) = size::split(text);
    let rate =
        number.parse().ok().zip(factor).and_then(|(number, factor): (u64, _)| number.checked_mul(factor));
    let rate = rate.and_then(NonZeroU64::new);
    rate.ok_or_else(|| format!("{word}: a number above 0 is needed, such as 500 or 10M"))
}

impl DiskSpec {
    /// The same with a path that is seen from `directory`.
    pub fn beside(self, directory: &Path) -> Self {
        Self { path: directory.join(self.path), ..self }
    }
}

/// Opens a domain's disks, and keeps others from them. The bundled kernel, run without anything else said, gets one to
/// play with.
pub fn open_all(spec: &Spec) -> Result<Vec<Arc<Disk>>, Failure> {
    if spec.disks.is_empty() && spec.is_bundled() && spec.origin == Origin::Options {
        let disk = demo_disk().map_err(|error| Failure::about(NAME, error))?;
        return Ok(vec![disk]);
    }
    if spec.disks.len() > MAX_DISKS {
        return Err(spec.origin.nonsense("disk", format_args!("a domain has at most {MAX_DISKS} disks")));
    }
    let open = |disk: &DiskSpec| {
        let writable = !disk.read_only;
        let user = format!("domain {}", spec.name);
        let image = match disk.direct {
            false => open(&disk.path, disk.format, writable, &user),
            true => open_direct(&disk.path, disk.format, writable, &user),
        };
        let image = image.map_err(|error| Failure::about(spec.origin.setting("disk"), error))?;
        let name = disk.path.display().to_string();
        Ok(Arc::new(Disk::new(name, image, writable).limited(disk.limit)))
    };
    spec.disks.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<DiskSpec, String> {
        parse(OsStr::new(text))
    }

    #[test]
    fn a_disk_is_a_path_and_what_is_said_of_it() {
        let plain = parsed("a.img").unwrap();
        assert_eq!((plain.path.to_str(), plain.read_only, plain.format), (Some("a.img"), false, None));
        assert_eq!(plain.limit, Limit::default());
        assert!(!plain.direct && parsed("a,direct").unwrap().direct);
        let full = parsed("b,ro,format=qcow2,bps=10M,iops=500").unwrap();
        assert_eq!((full.read_only, full.format), (true, Some(Format::Qcow2)));
        assert_eq!(full.limit.bytes_per_second.map(NonZeroU64::get), Some(10 << 20));
        assert_eq!(full.limit.operations_per_second.map(NonZeroU64::get), Some(500));
        assert_eq!(plain.beside(Path::new("/images")).path, Path::new("/images/a.img"));
    }

    #[test]
    fn every_path_can_be_said() {
        let path = |text: &[u8]| parse(OsStr::from_bytes(text)).unwrap().path.into_os_string().into_vec();
        for (text, expected) in [
            (&b"a,,b.img"[..], &b"a,b.img"[..]),
            (b",,", b","),
            (b",,,,a,,", b",,a,"),
            (b"a,,ro", b"a,ro"),
            (b"a,,,ro", b"a,"),
            (b"\xff\xfe.img,ro", b"\xff\xfe.img"),
        ] {
            assert_eq!(path(text), expected, "{}", text.escape_ascii());
        }
        assert!(parsed("a,,,ro").unwrap().read_only && !parsed("a,,ro").unwrap().read_only);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, words) in [
            ("", "names no image"),
            (",ro", "names no image"),
            ("a,rw", "\"rw\" is no option"),
            ("a,", "\"\" is no option"),
            ("a,format=vmdk", "raw or qcow2"),
            ("a,direct,format=qcow2", "raw images"),
            ("a,bps=0", "above 0"),
            ("a,bps=", "above 0"),
            ("a,iops=5P", "above 0"),
            ("a,iops=99999999999999999999", "above 0"),
            ("a,bps=18446744073709551615K", "above 0"),
        ] {
            let message = parsed(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
