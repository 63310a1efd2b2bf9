//! Block devices (`io/blkif.h`), the front-end.
//!
//! [`Disk`] is what the rest of the kernel uses; [`connection`] is the ring, the pages that are lent for data, and what
//! is on its way. A disk outlives its connections: without one, every operation ends with "gone".

mod connection;
mod disk;
mod request;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};

use pv_abi::DomId;
use pv_abi::io::block::{Operation, PROTOCOL, info};

use super::{Driver, FrontEnd, Nodes};
use crate::block::{self, Properties, SECTOR};
use crate::sched::idle;
use connection::Connection;
use disk::Disk;

/// Sectors of the largest disk whose bytes, and what lies between two of them, can be counted.
const MAX_SECTORS: u64 = i64::MAX as u64 / SECTOR as u64;

/// The driver of the devices below `device/vbd`: each of them becomes a [`Disk`].
pub struct BlockDriver;

impl Driver for BlockDriver {
    fn class(&self) -> &'static str {
        "vbd"
    }

    fn front_end(&self, number: u32, _: &Nodes) -> Box<dyn FrontEnd> {
        let disk = Rc::new(Disk::default());
        // What it waits for is looked for while nothing else is to do.
        let source = Rc::downgrade(&disk);
        idle::add(source);
        Box::new(BlockFrontEnd { name: name_of(number), disk })
    }
}

/// A disk's customary name: numbers of virtual disks stand for them (`docs/man/xen-vbd-interface`), in an older form for
/// sixteen disks, and in an extended one.
fn name_of(number: u32) -> String {
    const MAJOR: u32 = 202;
    const EXTENDED: u32 = 1 << 28;
    let (disk, partition) = match number {
        _ if number >> 8 == MAJOR => (number >> 4 & 15, number & 15),
        EXTENDED..0x2000_0000 => (number >> 8 & 0xf_ffff, number & 0xff),
        _ => return format!("vbd{number}"),
    };
    match partition {
        0 => format!("xvd{}", letters(disk)),
        _ => format!("xvd{}{partition}", letters(disk)),
    }
}

/// a to z, then aa to zz, and so on.
fn letters(index: u32) -> String {
    let last = char::from(b'a' + (index % 26) as u8);
    match index / 26 {
        0 => last.into(),
        more => letters(more - 1) + last.encode_utf8(&mut [0; 4]),
    }
}

struct BlockFrontEnd {
    name: String,
    disk: Rc<Disk>,
}

impl FrontEnd for BlockFrontEnd {
    fn publish(&mut self, back_end: DomId, offers: &Nodes) -> Result<Nodes, String> {
        let connection = Connection::new(back_end).map_err(|error| format!("no ring: {error}"))?;
        let mut nodes = Nodes::new();
        nodes.insert("ring-ref".into(), connection.ring_reference().0.to_string());
        nodes.insert("event-channel".into(), connection.port().number().0.to_string());
        nodes.insert("protocol".into(), PROTOCOL.into());
        if flag(offers, "feature-persistent") {
            // The pages for data are lent once and used again and again.
            nodes.insert("feature-persistent".into(), "1".into());
        }
        self.disk.attach(connection);
        Ok(nodes)
    }

    fn connect(&mut self, properties: &Nodes) -> Result<(), String> {
        let number = |name: &str| properties.get(name).and_then(|value| value.parse::<u64>().ok());
        let sectors = number("sectors").ok_or("the back-end does not say how large the disk is")?;
        if sectors > MAX_SECTORS {
            return Err(format!("{sectors} sectors, which are more than can be counted in bytes"));
        }
        let bytes = number("sector-size").unwrap_or(SECTOR as u64);
        if !bytes.is_power_of_two() || bytes < SECTOR as u64 || bytes > 4096 {
            return Err(format!("sectors of {bytes} bytes"));
        }
        let bits = number("info").unwrap_or(0);
        // An empty barrier comes after everything before it, and so makes that durable too.
        let flush_by = [
            ("feature-flush-cache", Operation::FLUSH_DISKCACHE),
            ("feature-barrier", Operation::WRITE_BARRIER),
        ];
        let flush_by = flush_by.into_iter().find(|(name, _)| flag(properties, name)).map(|(_, by)| by);
        let properties = Properties {
            sectors,
            granularity: bytes / SECTOR as u64,
            read_only: bits & u64::from(info::READ_ONLY) != 0,
            flush: flush_by.is_some(),
            discard: flag(properties, "feature-discard"),
        };
        self.disk.open(properties, flush_by);
        block::add(&self.name, self.disk.clone());
        Ok(())
    }

    fn disconnect(&mut self) {
        block::remove(&self.name);
        self.disk.close();
    }
}

impl Drop for BlockFrontEnd {
    fn drop(&mut self) {
        self.disconnect();
    }
}

fn flag(nodes: &Nodes, name: &str) -> bool {
    nodes.get(name).is_some_and(|value| value == "1")
}
