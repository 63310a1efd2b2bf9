//! File systems, each at the path of its disk: the file `a` of the disk `xvda` is `/xvda/a`.
//!
//! They come from crates that do not wait, so while one works, no other task of the kernel runs.

mod bytes;
mod ext4;
mod fat;
mod format;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use crate::block;
use crate::sync::Local;
use bytes::Bytes;

/// A name in a directory.
pub struct Entry {
    pub name: String,
    pub bytes: u64,
    pub is_directory: bool,
}

/// A file that is being read, from its start to its end.
pub trait File {
    fn bytes(&self) -> u64;

    /// Reads the next bytes, and says how many; 0 at the end.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, String>;
}

/// A mounted file system. Paths are absolute within it; errors are messages.
pub trait FileSystem {
    fn kind(&self) -> &'static str;

    fn list(&self, path: &str) -> Result<Vec<Entry>, String>;

    fn open<'a>(&'a self, path: &str) -> Result<Box<dyn File + 'a>, String>;

    /// Makes a file of these bytes, or gives them to one that is there.
    fn write(&self, path: &str, contents: &[u8]) -> Result<(), String>;

    /// Makes durable what was written.
    fn sync(&self) -> Result<(), String>;
}

static MOUNTED: Local<BTreeMap<String, Rc<dyn FileSystem>>> = Local::new(BTreeMap::new());

fn disk(name: &str) -> Result<Bytes, String> {
    block::find(name).map(Bytes::new).ok_or_else(|| no_disk(name))
}

fn no_disk(name: &str) -> String {
    format!("no disk {name}; see disks")
}

/// Refuses a disk that is mounted: whoever writes to it destroys its files.
pub fn refuse_mounted(name: &str) -> Result<(), String> {
    match MOUNTED.with(|all| all.contains_key(name)) {
        true => Err(format!("{name} is mounted; unmount it first")),
        false => Ok(()),
    }
}

/// Mounts the file system of a disk, whatever it is.
pub fn mount(name: &str) -> Result<&'static str, String> {
    refuse_mounted(name)?;
    let as_ext4 = match ext4::mount(disk(name)?) {
        Ok(mounted) => return Ok(keep(name, Rc::new(mounted))),
        Err(error) => error,
    };
    match fat::mount(disk(name)?) {
        Ok(mounted) => Ok(keep(name, Rc::new(mounted))),
        Err(as_fat) => Err(format!("{name} holds no file system: as ext4, {as_ext4}; as FAT, {as_fat}")),
    }
}

fn keep(name: &str, mounted: Rc<dyn FileSystem>) -> &'static str {
    let kind = mounted.kind();
    MOUNTED.with(|all| all.insert(name.into(), mounted));
    kind
}

/// Makes durable what was written to the file system of a disk, and forgets it.
pub fn unmount(name: &str) -> Result<(), String> {
    let mounted = MOUNTED.with(|all| all.remove(name));
    mounted.ok_or_else(|| format!("{name} is not mounted"))?.sync()
}

/// Makes an empty FAT file system on a disk. What was there is lost. `volume_id` tells it from others.
pub async fn format(name: &str, volume_id: u32) -> Result<(), String> {
    refuse_mounted(name)?;
    let disk = block::find(name).ok_or_else(|| no_disk(name))?;
    format::format(&*disk, volume_id).await
}

/// Names of disks that are mounted, and what as.
pub fn mounted() -> Vec<(String, &'static str)> {
    MOUNTED.with(|all| all.iter().map(|(name, mounted)| (name.clone(), mounted.kind())).collect())
}

/// The file system of a path, and the path within it.
pub fn find(path: &str) -> Result<(Rc<dyn FileSystem>, String), String> {
    let (name, within) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    let mounted = MOUNTED.with(|all| all.get(name).cloned());
    let mounted = mounted.ok_or_else(|| format!("{path}: nothing is mounted as /{name}; see mount"))?;
    Ok((mounted, format!("/{within}")))
}

/// Makes durable what was written to any of them.
pub fn sync() -> Result<(), String> {
    let all: Vec<_> = MOUNTED.with(|all| all.iter().map(|(name, it)| (name.clone(), it.clone())).collect());
    all.iter().try_for_each(|(name, mounted)| mounted.sync().map_err(|error| format!("{name}: {error}")))
}
