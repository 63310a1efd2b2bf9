//! ext2, ext3 and ext4, for reading, by the crate `ext4-view`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;

use ext4_view::{Ext4, Ext4Read};

use super::bytes::Bytes;
use super::{Entry, File, FileSystem};

impl Ext4Read for Bytes {
    fn read(&mut self, start_byte: u64, dst: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.read(start_byte, dst).map_err(|error| Box::new(error).into())
    }
}

pub fn mount(disk: Bytes) -> Result<impl FileSystem, String> {
    Ext4::load(Box::new(disk)).map_err(|error| error.to_string())
}

impl FileSystem for Ext4 {
    fn kind(&self) -> &'static str {
        "ext4, read-only"
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, String> {
        let names = self.read_dir(path).map_err(|error| error.to_string())?;
        let entry = |found: ext4_view::DirEntry| {
            let metadata = found.metadata()?;
            let name = found.file_name().display().to_string();
            Ok(Entry { name, bytes: metadata.len(), is_directory: metadata.is_dir() })
        };
        let entries: Result<_, ext4_view::Ext4Error> = names.map(|found| found.and_then(entry)).collect();
        entries.map_err(|error| error.to_string())
    }

    fn open<'a>(&'a self, path: &str) -> Result<Box<dyn File + 'a>, String> {
        let file = Ext4::open(self, path).map_err(|error| error.to_string())?;
        Ok(Box::new(file))
    }

    fn write(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Err("ext4 is read-only here".into())
    }

    fn sync(&self) -> Result<(), String> {
        Ok(())
    }
}

impl File for ext4_view::File {
    fn bytes(&self) -> u64 {
        self.metadata().len()
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        self.read_bytes(into).map_err(|error| error.to_string())
    }
}
