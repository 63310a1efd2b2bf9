//! Commands about files.

use alloc::format;
use alloc::string::String;

use super::storage::disk;
use crate::sched::future::yield_now;
use crate::{file_system, time};

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

/// Prints a file.
pub async fn print(path: &str) -> Result<(), String> {
    let (mounted, within) = file_system::find(path)?;
    let mut file = mounted.open(&within).map_err(|error| format!("{path}: {error}"))?;
    let mut buffer = alloc::vec![0; PART.min(file.bytes() as usize)];
    loop {
        match file.read(&mut buffer).map_err(|error| format!("{path}: {error}"))? {
            0 => return Ok(()),
            count => print!("{}", String::from_utf8_lossy(&buffer[..count])),
        }
        yield_now().await;
    }
}

/// Makes a file of one line.
pub fn write(path: &str, words: &[&str]) -> Result<(), String> {
    let (mounted, within) = file_system::find(path)?;
    let line = words.join(" ") + "\n";
    mounted.write(&within, line.as_bytes()).map_err(|error| format!("{path}: {error}"))
}
