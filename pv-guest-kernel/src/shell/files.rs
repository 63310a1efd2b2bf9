//! Commands about files.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::storage::disk;
use super::text::{MOST_CHARACTER_BYTES, whole_characters};
use crate::file_system::{self, Entry};
use crate::sched::future::yield_now;
use crate::time;

/// Bytes of a file that are read at a time.
const PART: usize = 64 << 10;

/// Mounts a disk, or tells what is mounted.
pub async fn mount(name: Option<&str>) -> Result<(), String> {
    match name {
        Some(name) => {
            disk(name).await?;
            println!("/{name}: {}", file_system::mount(name)?);
        }
        None => file_system::mounted().iter().for_each(|(name, kind)| println!("/{name}: {kind}")),
    }
    Ok(())
}

/// Makes an empty file system.
pub async fn format(name: &str) -> Result<(), String> {
    disk(name).await?;
    file_system::format(name, time::wall_clock() as u32).await
}

/// Prints names and lengths.
pub fn list(path: &str) -> Result<(), String> {
    let (mounted, within) = file_system::find(path)?;
    for entry in mounted.list(&within).map_err(|error| format!("{path}: {error}"))? {
        println!("{:>12} {}{}", entry.bytes, entry.name, if entry.is_directory { "/" } else { "" });
    }
    Ok(())
}

/// Prints a file as text. Bytes that are not UTF-8 are replaced.
pub async fn print(path: &str) -> Result<(), String> {
    let (mounted, within) = file_system::find(path)?;
    let mut file = mounted.open(&within).map_err(|error| format!("{path}: {error}"))?;
    let mut buffer = alloc::vec![0; PART.min(file.bytes() as usize + MOST_CHARACTER_BYTES)];
    let mut filled = 0;
    loop {
        let count = file.read(&mut buffer[filled..]).map_err(|error| format!("{path}: {error}"))?;
        filled += count;
        let whole = if count == 0 { filled } else { whole_characters(&buffer[..filled]) };
        print!("{}", String::from_utf8_lossy(&buffer[..whole]));
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if count == 0 {
            return Ok(());
        }
        yield_now().await;
    }
}

/// Names in the directory of a path that is being typed, each as a path of its own.
pub fn paths(typed: &str) -> Vec<String> {
    let Some((directory, _)) = typed.rsplit_once('/').filter(|(directory, _)| !directory.is_empty()) else {
        return file_system::mounted().iter().map(|(name, _)| format!("/{name}/")).collect();
    };
    let entries = file_system::find(directory).and_then(|(mounted, within)| mounted.list(&within));
    let path =
        |entry: Entry| format!("{directory}/{}{}", entry.name, if entry.is_directory { "/" } else { "" });
    // Where there is no such directory, nothing can be completed.
    entries.unwrap_or_default().into_iter().map(path).collect()
}

/// Makes a file of one line.
pub fn write(path: &str, words: &[&str]) -> Result<(), String> {
    let (mounted, within) = file_system::find(path)?;
    let line = words.join(" ") + "\n";
    mounted.write(&within, line.as_bytes()).map_err(|error| format!("{path}: {error}"))
}
