//! Making an empty FAT file system on a disk of any size.
//!
//! What kind of FAT it is follows from the number of its clusters alone, so the layout is chosen by that number, and stays
//! away from the limits, which not every reader counts alike.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::block::{BlockDevice, SECTOR};

/// What a file system can have, in bytes.
pub const LEAST_BYTES: u64 = 64 << 10;
pub const MOST_BYTES: u64 = 2 << 40;

/// Disks of so many sectors, or so many bytes, have no larger kind.
const FAT12_SECTORS: u64 = 8192;
const FAT16_BYTES: u64 = 512 << 20;

/// Bytes that are written at a time.
const PART: usize = 1 << 20;

const DIRECTORY_ENTRY_BYTES: usize = 32;
const ROOT_ENTRIES: u16 = 512;
const FATS: u8 = 2;
const MEDIA: u8 = 0xf8;
const LABEL: &[u8; 11] = b"PARAVANE   ";
/// The attribute of an entry that is the volume's label.
const VOLUME_ID: u8 = 0x08;

/// Sectors of FAT32's reserved area.
const INFORMATION_SECTOR: u16 = 1;
const BACKUP_SECTOR: u16 = 6;
const ROOT_CLUSTER: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    fn entry_bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }

    /// Clusters that one of this kind has at most, some fewer than it may have.
    fn most_clusters(self) -> u64 {
        match self {
            Self::Fat12 => 4084 - 16,
            Self::Fat16 => 65524 - 16,
            Self::Fat32 => 0x0fff_fff4,
        }
    }

    fn name(self) -> &'static [u8; 8] {
        match self {
            Self::Fat12 => b"FAT12   ",
            Self::Fat16 => b"FAT16   ",
            Self::Fat32 => b"FAT32   ",
        }
    }

    /// The entries of clusters 0 and 1, and of the root directory where that is a cluster.
    fn first_entries(self) -> &'static [u8] {
        match self {
            Self::Fat12 => &[MEDIA, 0xff, 0xff],
            Self::Fat16 => &[MEDIA, 0xff, 0xff, 0xff],
            Self::Fat32 => &[MEDIA, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f],
        }
    }
}

/// Where the parts of a file system are. A sector is the disk's.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub kind: Kind,
    sector_bytes: usize,
    sectors: u32,
    sectors_per_cluster: u8,
    reserved_sectors: u16,
    sectors_per_fat: u32,
    root_entries: u16,
    pub clusters: u32,
}

impl Layout {
    /// That for a disk of so many sectors, of so many bytes each.
    pub fn new(sectors: u64, sector_bytes: usize) -> Result<Self, String> {
        let bytes = sectors.saturating_mul(sector_bytes as u64);
        if bytes < LEAST_BYTES {
            return Err(format!("the disk has {bytes} bytes, and a FAT file system at least {LEAST_BYTES}"));
        }
        if bytes > MOST_BYTES {
            return Err(format!("the disk has {} GiB, and a FAT file system at most 2048", bytes >> 30));
        }
        // As many as can be counted: of 2 TiB, all but one.
        let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
        let kind = match () {
            () if u64::from(sectors) <= FAT12_SECTORS => Kind::Fat12,
            () if bytes <= FAT16_BYTES => Kind::Fat16,
            () => Kind::Fat32,
        };
        // FAT32: 4 KiB up to 8 GiB, then more, up to 32 KiB.
        let least_cluster = match kind {
            Kind::Fat32 => (bytes.div_ceil(8 << 30).next_power_of_two().min(8) as usize) << 12,
            _ => sector_bytes,
        };
        let mut sectors_per_cluster = (least_cluster / sector_bytes).max(1) as u8;
        loop {
            let layout = Self::with_clusters_of(sectors_per_cluster, kind, sectors, sector_bytes);
            if u64::from(layout.clusters) <= kind.most_clusters() {
                return Ok(layout);
            }
            sectors_per_cluster *= 2;
        }
    }

    fn with_clusters_of(sectors_per_cluster: u8, kind: Kind, sectors: u32, sector_bytes: usize) -> Self {
        let (reserved_sectors, root_entries) = match kind {
            Kind::Fat32 => (32, 0),
            _ => (1, ROOT_ENTRIES),
        };
        let root_sectors = (usize::from(root_entries) * DIRECTORY_ENTRY_BYTES / sector_bytes) as u32;
        let rest = sectors - u32::from(reserved_sectors) - root_sectors;
        // Room for a little more than there are: the tables themselves are no clusters.
        let entries = u64::from(rest / u32::from(sectors_per_cluster)) + 2;
        let sectors_per_fat = (entries * kind.entry_bits()).div_ceil(8 * sector_bytes as u64) as u32;
        let clusters = (rest - u32::from(FATS) * sectors_per_fat) / u32::from(sectors_per_cluster);
        Self {
            kind,
            sector_bytes,
            sectors,
            sectors_per_cluster,
            reserved_sectors,
            sectors_per_fat,
            root_entries,
            clusters,
        }
    }

    /// The first sector of a table.
    fn fat(&self, index: u8) -> u64 {
        u64::from(self.reserved_sectors) + u64::from(index) * u64::from(self.sectors_per_fat)
    }

    /// The first sector of the root directory, which lies behind the tables, whatever the kind.
    fn root(&self) -> u64 {
        self.fat(FATS)
    }

    fn root_sectors(&self) -> u64 {
        match self.kind {
            Kind::Fat32 => self.sectors_per_cluster.into(),
            _ => (usize::from(self.root_entries) * DIRECTORY_ENTRY_BYTES / self.sector_bytes) as u64,
        }
    }

    /// A sector that begins with `bytes`.
    fn sector(&self, bytes: &[u8]) -> Vec<u8> {
        let mut sector = bytes.to_vec();
        sector.resize(self.sector_bytes, 0);
        sector
    }

    fn boot_sector(&self, volume_id: u32) -> Vec<u8> {
        let is_fat32 = self.kind == Kind::Fat32;
        let short = |number: u32| u16::try_from(number).unwrap_or(0);
        let sectors_short = if is_fat32 { 0 } else { short(self.sectors) };
        let sectors_long = if sectors_short == 0 { self.sectors } else { 0 };
        let fat_short = if is_fat32 { 0 } else { short(self.sectors_per_fat) };
        let mut sector = Vec::with_capacity(self.sector_bytes);
        // A jump behind the parameters, where there is no code.
        sector.extend([0xeb, if is_fat32 { 0x58 } else { 0x3c }, 0x90]);
        sector.extend(b"PARAVANE");
        sector.extend((self.sector_bytes as u16).to_le_bytes());
        sector.push(self.sectors_per_cluster);
        sector.extend(self.reserved_sectors.to_le_bytes());
        sector.push(FATS);
        sector.extend(self.root_entries.to_le_bytes());
        sector.extend(sectors_short.to_le_bytes());
        sector.push(MEDIA);
        sector.extend(fat_short.to_le_bytes());
        // A geometry that nobody uses: sectors of a track, heads, sectors before the disk.
        sector.extend(63u16.to_le_bytes());
        sector.extend(255u16.to_le_bytes());
        sector.extend(0u32.to_le_bytes());
        sector.extend(sectors_long.to_le_bytes());
        if is_fat32 {
            sector.extend(self.sectors_per_fat.to_le_bytes());
            // Flags: the tables are copies of each other. Then the version.
            sector.extend([0; 4]);
            sector.extend(ROOT_CLUSTER.to_le_bytes());
            sector.extend(INFORMATION_SECTOR.to_le_bytes());
            sector.extend(BACKUP_SECTOR.to_le_bytes());
            sector.extend([0; 12]);
        }
        // Drive number, reserved, and that the three fields behind are there.
        sector.extend([0x80, 0, 0x29]);
        sector.extend(volume_id.to_le_bytes());
        sector.extend(LABEL);
        sector.extend(self.kind.name());
        sector.resize(self.sector_bytes, 0);
        sector[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    /// How many clusters are free, and where the first is.
    fn information_sector(&self) -> Vec<u8> {
        let mut sector = self.sector(b"RRaA");
        sector[484..488].copy_from_slice(b"rrAa");
        sector[488..492].copy_from_slice(&(self.clusters - 1).to_le_bytes());
        sector[492..496].copy_from_slice(&(ROOT_CLUSTER + 1).to_le_bytes());
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn label_entry(&self) -> Vec<u8> {
        let mut entry = LABEL.to_vec();
        entry.push(VOLUME_ID);
        self.sector(&entry)
    }
}

/// Makes an empty file system on a disk. What was there is lost. The boot sector is written last: one that was not made
/// to its end is none.
pub async fn format(disk: &dyn BlockDevice, volume_id: u32) -> Result<(), String> {
    let properties = disk.properties();
    let sector_bytes = SECTOR * properties.granularity as usize;
    let layout = Layout::new(properties.sectors / properties.granularity, sector_bytes)?;
    let write = async |sector: u64, bytes: &[u8]| {
        disk.write(sector * properties.granularity, bytes).await.map_err(|error| error.to_string())
    };
    let flush = async || if properties.flush { disk.flush().await } else { Ok(()) };
    let flush = async || flush().await.map_err(|error| error.to_string());

    let end = layout.root() + layout.root_sectors();
    let zeros = alloc::vec![0; PART.min(end as usize * sector_bytes)];
    let step = (zeros.len() / sector_bytes) as u64;
    for sector in (0..end).step_by(step as usize) {
        write(sector, &zeros[..step.min(end - sector) as usize * sector_bytes]).await?;
    }
    for fat in 0..FATS {
        write(layout.fat(fat), &layout.sector(layout.kind.first_entries())).await?;
    }
    write(layout.root(), &layout.label_entry()).await?;
    let boot_sector = layout.boot_sector(volume_id);
    if layout.kind == Kind::Fat32 {
        let information = layout.information_sector();
        write(INFORMATION_SECTOR.into(), &information).await?;
        write(BACKUP_SECTOR.into(), &boot_sector).await?;
        write(u64::from(BACKUP_SECTOR + INFORMATION_SECTOR), &information).await?;
    }
    flush().await?;
    write(0, &boot_sector).await?;
    flush().await
}
