//! The disk of a guest for whom no disk was named: something to look at, and to write to, until the end.

use backends::block::Disk;
use backends::block::image::MemoryImage;
use hadris_fat::format::{FatFormatOptions, FatVolumeFormatter};
use hadris_fat::write::FileWriter;
use std::io::{self, Cursor};
use std::sync::Arc;

/// What messages call the disk.
pub const NAME: &str = "demo disk";
/// The size of the disk in MiB.
pub const MIB: usize = 4;
const README: &[u8] = b"This disk is in memory: what is written to it is gone when paravane ends.\n\
write /xvda/note.txt anything, then ls /xvda; --disk PATH attaches an image instead.\n";

/// A FAT file system with one file.
pub fn demo_disk() -> io::Result<Arc<Disk>> {
    let bytes = contents()?;
    let image = MemoryImage::new(bytes.len() as u64, &bytes)?;
    Ok(Arc::new(Disk::new(NAME, Arc::new(image), true)))
}

fn contents() -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MIB << 20];
    let options = FatFormatOptions::new(bytes.len() as u64).volume_label("DEMO");
    let volume =
        FatVolumeFormatter::format(Cursor::new(bytes.as_mut_slice()), options).map_err(io::Error::other)?;
    let file = volume.create_file(&volume.root_dir(), "readme.txt").map_err(io::Error::other)?;
    let mut writer = FileWriter::new(&volume, &file).map_err(io::Error::other)?;
    let mut rest = README;
    while !rest.is_empty() {
        let count = writer.write(rest).map_err(io::Error::other)?;
        rest = rest.get(count..).filter(|_| count != 0).ok_or(io::ErrorKind::WriteZero)?;
    }
    writer.finish().map_err(io::Error::other)?;
    volume.sync().map_err(io::Error::other)?;
    drop(volume);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_its_own_description() {
        let bytes = contents().unwrap();
        assert_eq!(bytes.len(), MIB << 20);
        assert!(bytes.windows(README.len()).any(|window| window == README));
        assert_eq!(demo_disk().unwrap().sectors(), (MIB << 11) as u64);
    }
}
