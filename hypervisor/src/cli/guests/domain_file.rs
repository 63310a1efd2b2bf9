//! Domains described by TOML files.

use super::disk::{self, DiskSpec};
use super::size;
use super::spec::{DEFAULT_MEMORY, Origin, Spec};
use super::toml_error;
use crate::cli::files;
use crate::cli::status::Failure;
use hypervisor::builder::Amount;
use hypervisor::control::MAX_VCPUS;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};

/// The longest name: it stands in front of each line.
const LONGEST_NAME: usize = 32;

/// The keys of such a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainFile {
    /// How its lines are marked; without it, the file's name.
    name: Option<String>,
    kernel: Option<PathBuf>,
    ramdisk: Option<PathBuf>,
    #[serde(default)]
    cmdline: String,
    #[serde(default = "default_memory")]
    memory: Memory,
    #[serde(default = "one", deserialize_with = "vcpus")]
    vcpus: u32,
    #[serde(default)]
    disks: Vec<DiskText>,
    exec: Option<String>,
}

const fn one() -> u32 {
    1
}

fn vcpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let fits = u32::try_from(number).ok().filter(|number| (1..=MAX_VCPUS).contains(number));
    fits.ok_or_else(|| D::Error::custom(format_args!("a domain has 1 to {MAX_VCPUS} vCPUs")))
}

struct DiskText(DiskSpec);

impl<'de> Deserialize<'de> for DiskText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        disk::parse(text.as_ref()).map(Self).map_err(D::Error::custom)
    }
}

struct Memory(Amount);

fn default_memory() -> Memory {
    Memory(size::parse(DEFAULT_MEMORY).unwrap_or(Amount(0)))
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        size::parse(&text).map(Self).map_err(D::Error::custom)
    }
}

/// Reads files that describe a domain each.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Spec>, Failure> {
    let mut specs: Vec<Spec> = Vec::new();
    for path in paths {
        let spec = read(path)?;
        if let Some(other) = specs.iter().find(|other| other.name == spec.name) {
            let Origin::File(other) = &other.origin else { continue };
            let message = format_args!("{} has the name {} already", other.display(), spec.name);
            return Err(Failure::about(spec.origin.setting("name"), message));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn read(path: &Path) -> Result<Spec, Failure> {
    let bytes = files::read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::about(path.display(), "it is not text"))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Spec, Failure> {
    let file: DomainFile = toml::from_str(text).map_err(|error| toml_error::describe(path, text, &error))?;
    let origin = Origin::File(path.to_owned());
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = file.name.unwrap_or_else(stem);
    check_name(&name).map_err(|message| Failure::about(origin.setting("name"), message))?;
    let beside = |given: Option<PathBuf>| given.map(|given| path.with_file_name("").join(given));
    Ok(Spec {
        origin,
        name,
        kernel: beside(file.kernel),
        ramdisk: beside(file.ramdisk),
        cmdline: file.cmdline,
        memory: file.memory.0,
        vcpus: file.vcpus,
        disks: file.disks.into_iter().map(|DiskText(disk)| disk.beside(&path.with_file_name(""))).collect(),
        exec: file.exec,
    })
}

/// A name marks lines, so it must not look like anything else in them.
fn check_name(name: &str) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match name {
        "" => Err("it must not be empty".into()),
        _ if name.len() > LONGEST_NAME => Err(format!("it must have at most {LONGEST_NAME} characters")),
        _ if !name.chars().all(is_fine) => {
            Err(format!("{name:?} must consist of letters, digits, '-', '_' and '.'"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Spec, String> {
        parse(Path::new("guests/web.toml"), text).map_err(|failure| failure.message)
    }

    #[test]
    fn everything_has_a_default() {
        let spec = parsed("").expect("an empty file is a domain");
        assert_eq!((spec.name.as_str(), spec.memory, spec.cmdline.as_str()), ("web", Amount(32768), ""));
        assert_eq!((spec.kernel, spec.ramdisk, spec.exec), (None, None, None));
        assert_eq!((spec.vcpus, parsed("vcpus = 3").map(|spec| spec.vcpus)), (1, Ok(3)));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let spec = parsed("kernel = 'images/k'\nramdisk = '/r'\n").expect("a domain");
        assert_eq!(spec.kernel, Some("guests/images/k".into()));
        assert_eq!(spec.ramdisk, Some("/r".into()));
        let spec = parsed("disks = ['d,,1.img,ro', '/e']").expect("a domain");
        let paths: Vec<_> = spec.disks.iter().filter_map(|disk| disk.path.to_str()).collect();
        assert_eq!((paths, spec.disks[0].read_only), (vec!["guests/d,1.img", "/e"], true));
        let here = parse(Path::new("web.toml"), "kernel = 'k'").expect("a domain");
        assert_eq!(here.kernel, Some("k".into()));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, words) in [
            (
                "name = 'a'\nmemory = '12'",
                &[
                    "guests/web.toml: line 2, column 10: memory: a unit is needed",
                    "\n 2 | memory = '12'\n   |          ^^^^",
                ][..],
            ),
            (
                "memory = 128",
                &["line 1, column 10: memory: text in quotes is needed here, and not the number 128"],
            ),
            ("kernel = true", &["kernel: text in quotes is needed here, and not the word true"]),
            ("vcpus = 0", &["line 1, column 9: vcpus: ", "1 to 32 vCPUs"]),
            ("vcpus = 'two'", &["vcpus: a whole number is needed here, and not the text \"two\""]),
            ("vcpus = 1.5", &["vcpus: a whole number is needed here, and not the number 1.5"]),
            ("disks = 'a.img'", &["disks: a list in [ ] is needed here, and not the text \"a.img\""]),
            (
                "disks = [\n\t7\n]",
                &["line 2, column 2: disks: text in quotes is needed", "\n 2 | \t7\n   | \t^"],
            ),
            (
                "\n\nmemry = '128M'",
                &["line 3, column 1: there is no key `memry`; there are ", "`memory`", "^^^^^"],
            ),
            ("disks = ['a.img,rw']", &["line 1, column 9: disks: ", "\"rw\" is no option"]),
            ("name = 'a'\nname = 'b'", &["line 2, column 1: ", "for the second time"]),
            ("name = ", &["guests/web.toml: line 1, column "]),
            ("kernel\n", &["guests/web.toml: line 1, column "]),
            ("name = ''", &["guests/web.toml: name: it must not be empty"]),
            ("name = 'a|b'", &["guests/web.toml: name: ", "letters, digits"]),
            ("name = 'abcdefghijklmnopqrstuvwxyzabcdefg'", &["at most 32"]),
        ] {
            let message = parsed(text).expect_err(text);
            for theirs in ["i64", "u32", "expected a string", "sequence", "invalid type"] {
                assert!(!message.contains(theirs), "{theirs:?} in {message}");
            }
            for word in words {
                assert!(message.contains(word), "{word:?} is missing for {text:?}: {message}");
            }
        }
    }
}
