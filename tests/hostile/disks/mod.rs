//! Guests that lie to the back-end of their disk. What can't be done is answered with an error, and the disk goes on; who
//! breaks the protocol of the ring loses it, and is told.

mod requests;
mod revoked;
mod rings;

use crate::served::{Served, disk};
use crate::support::{check, kvm_test};
use crate::tiny_guest::{DATA_REF, Guest, TABLE, request, segment};
use backends::block::Disk;
use backends::block::image::{Format, Image, open};
use libtest_mimic::{Failed, Trial};
use pv_abi::grant_table::GrantEntry;
use pv_abi::io::block::{Operation, Request, SECTOR_BYTES};
use pv_abi::{DomId, GrantRef};
use std::sync::Arc;

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("disks/requests that cannot be done", requests::wild),
        kvm_test("disks/writing to a read-only disk", requests::of_a_read_only_disk),
        kvm_test("disks/a ring that lies", rings::lying),
        kvm_test("disks/a ring that is not there", rings::not_there),
        kvm_test("disks/a page that is taken back meanwhile", revoked::meanwhile),
    ]
}

/// Sectors of the disks here.
const SECTORS: u64 = 16;
/// Entries of the grant table that do not lend the back-end a page of the guest's.
const NOBODYS: GrantRef = GrantRef(11);
const FOR_THE_NEIGHBOUR: GrantRef = GrantRef(12);
const OF_THE_CANARY: GrantRef = GrantRef(13);
const OF_A_TABLE: GrantRef = GrantRef(14);
const TO_READ: GrantRef = GrantRef(15);

/// Fills those entries, but for the first.
fn lend_what_is_nobodys(served: &Served, guest: &Guest) -> Result<(), Failed> {
    guest.lend(FOR_THE_NEIGHBOUR.0, served.neighbour.domain.id(), guest.mfn(TABLE))?;
    guest.lend(OF_THE_CANARY.0, DomId::HOST, served.host.canary().frames()[100])?;
    guest.lend(OF_A_TABLE.0, DomId::HOST, guest.built.root)?;
    let flags = GrantEntry::PERMIT_ACCESS | GrantEntry::READ_ONLY;
    guest.set_grant(TO_READ.0, &GrantEntry { flags, domid: DomId::HOST.0, frame: guest.mfn(TABLE).0 as u32 })
}

/// An image on the host, open for as long as there are guests that use it.
struct ImageFile {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    contents: Vec<u8>,
    image: Arc<dyn Image>,
}

impl ImageFile {
    fn new() -> Result<Self, Failed> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("disk.img");
        let contents: Vec<u8> = (0..SECTORS * SECTOR_BYTES).map(|byte| (byte / 7) as u8).collect();
        std::fs::write(&path, &contents)?;
        let image = open(&path, Some(Format::Raw), true, "a test")?;
        Ok(Self { _directory: directory, path, contents, image })
    }

    /// The disk in it. The host would let it be written in any case.
    fn disk(&self, writable: bool) -> Arc<Disk> {
        disk(Arc::clone(&self.image), writable)
    }

    fn is_unchanged(&self) -> Result<(), Failed> {
        check(std::fs::read(&self.path)? == self.contents, || "the image was written".into())
    }
}

/// An honest request: the disk's second sector.
fn honest() -> Request {
    request(Operation::READ, 1, &[segment(DATA_REF, 0, 0)])
}
