//! FAT, for reading and writing, by the crate `hadris-fat`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hadris_fat::io::{Error, ErrorKind, Read, Seek, SeekFrom, Write};
use hadris_fat::read::FileReader;
use hadris_fat::write::FileWriter;
use hadris_fat::{FatDir, FatVolume};

use super::bytes::Bytes;
use super::{Entry, File, FileSystem};

/// The disk, and where the next access is.
struct Stream {
    disk: Bytes,
    position: u64,
}

impl Stream {
    /// How much of `length` bytes is on the disk.
    fn limited(&self, length: usize) -> usize {
        self.disk.length().saturating_sub(self.position).min(length as u64) as usize
    }
}

fn failed(_: crate::block::Error) -> Error {
    Error::from_kind(ErrorKind::Other)
}

impl Read for Stream {
    type Error = ErrorKind;

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let count = self.limited(into.len());
        self.disk.read(self.position, &mut into[..count]).map_err(failed)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Stream {
    type Error = ErrorKind;

    fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        let count = self.limited(from.len());
        self.disk.write(self.position, &from[..count]).map_err(failed)?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.disk.flush().map_err(failed)
    }
}

impl Seek for Stream {
    type Error = ErrorKind;

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        let (from, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.disk.length(), by),
        };
        self.position = from.checked_add_signed(by).ok_or(Error::from_kind(ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

pub struct Fat(FatVolume<Stream>);

fn message(error: hadris_fat::Error) -> String {
    error.to_string()
}

pub fn mount(disk: Bytes) -> Result<Fat, String> {
    FatVolume::open(Stream { disk, position: 0 }).map(Fat).map_err(message)
}

impl Fat {
    fn directory(&self, path: &str) -> Result<FatDir<'_, Stream>, String> {
        match path.trim_matches('/') {
            "" => Ok(self.0.root_dir()),
            path => self.0.open_dir_path(path).map_err(message),
        }
    }
}

impl FileSystem for Fat {
    fn kind(&self) -> &'static str {
        "FAT"
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>, String> {
        let mut found = self.directory(path)?.entries();
        let mut entries = Vec::new();
        while let Some(next) = found.next_entry() {
            let next = next.map_err(message)?;
            if let Some(entry) = next.as_entry() {
                let (name, bytes) = (entry.name().into_owned(), entry.len());
                entries.push(Entry { name, bytes, is_directory: entry.is_directory() });
            }
        }
        Ok(entries)
    }

    fn open<'a>(&'a self, path: &str) -> Result<Box<dyn File + 'a>, String> {
        let file = self.0.open_file_path(path).map_err(message)?;
        Ok(Box::new(file))
    }

    fn write(&self, path: &str, contents: &[u8]) -> Result<(), String> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.directory(directory)?;
        if let Some(old) = directory.find(name).map_err(message)? {
            self.0.delete(&old).map_err(message)?;
        }
        let entry = self.0.create_file(&directory, name).map_err(message)?;
        let mut writer = FileWriter::new(&self.0, &entry).map_err(message)?;
        let mut rest = contents;
        while !rest.is_empty() {
            let count = writer.write(rest).map_err(message)?;
            rest = &rest[count..];
        }
        writer.finish().map_err(message)
    }

    fn sync(&self) -> Result<(), String> {
        self.0.sync().map_err(message)
    }
}

impl File for FileReader<'_, Stream> {
    fn bytes(&self) -> u64 {
        self.size() as u64
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        FileReader::read(self, into).map_err(message)
    }
}
