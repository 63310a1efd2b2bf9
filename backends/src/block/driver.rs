//! A disk as a device of class `vbd`: its nodes in xenstore (`io/blkif.h` names them).

use super::backend::Backend;
use super::disk::Disk;
use super::parameters::{MAX_INDIRECT_SEGMENTS, MAX_RING_PAGES, RingParameters};
use crate::Disconnect;
use crate::driver::{Address, Device, Driver, FrontEnd, Nodes};
use crate::host::Host;
use pv_abi::io::block::{PROTOCOL, SECTOR_BYTES, info};
use pv_abi::{DomId, EventPort, GrantRef};
use std::sync::Arc;

/// The class of block devices.
pub const CLASS: &str = "vbd";

/// The `index`th disk of a domain: `xvda` is 0.
pub fn address(domain: DomId, index: u8) -> Address {
    // Sixteen numbers each, for partitions, from major 202 on; those of more than sixteen disks are in another form.
    let index = u32::from(index);
    let number = if index < 16 { 202 << 8 | index << 4 } else { 1 << 28 | index << 8 };
    Address { class: CLASS, domain, number }
}

/// One disk, to whatever front-end comes.
pub struct BlockDriver {
    disk: Arc<Disk>,
}

impl BlockDriver {
    /// The driver of one disk, whatever becomes of its front-ends.
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// What the toolstack says of the device: to its front-end, and to its back-end.
    pub fn nodes(&self, address: &Address) -> (Nodes, Nodes) {
        let mode = if self.disk.is_writable() { "w" } else { "r" };
        let front = [("virtual-device", address.number.to_string()), ("device-type", "disk".into())];
        // Where the image is on the host is none of the guest's business, and it may read all of this.
        let back = [("mode", mode.into()), ("removable", "0".into())];
        (front.into(), back.into())
    }
}

impl<H: Host> Driver<H> for BlockDriver {
    fn features(&self) -> Nodes {
        let writable = u32::from(self.disk.is_writable());
        let nodes = [
            ("feature-barrier", writable),
            ("feature-flush-cache", 1),
            ("feature-discard", writable),
            ("feature-persistent", 1),
            ("feature-max-indirect-segments", MAX_INDIRECT_SEGMENTS.into()),
            ("max-ring-page-order", MAX_RING_PAGES.ilog2()),
            ("max-ring-pages", MAX_RING_PAGES as u32),
        ];
        nodes.map(|(name, value)| (name, value.to_string())).into()
    }

    fn properties(&self) -> Nodes {
        let info = if self.disk.is_writable() { 0 } else { info::READ_ONLY };
        let nodes = [
            ("sectors", self.disk.sectors()),
            ("sector-size", SECTOR_BYTES),
            ("physical-sector-size", SECTOR_BYTES),
            ("info", info.into()),
        ];
        nodes.map(|(name, value)| (name, value.to_string())).into()
    }

    fn connect(&mut self, front_end: &FrontEnd<'_, H>) -> Result<Box<dyn Device>, Disconnect> {
        let parameters = read_parameters(front_end)?;
        let (host, bell) = (Arc::clone(&front_end.host), Arc::clone(&front_end.bell));
        let (disk, domain) = (Arc::clone(&self.disk), front_end.domain);
        Ok(Box::new(Backend::connect(host, domain, &parameters, disk, bell)?))
    }
}

fn read_parameters<H>(front_end: &FrontEnd<'_, H>) -> Result<RingParameters, Disconnect> {
    match front_end.text("protocol").as_deref() {
        None | Some(PROTOCOL) => {}
        Some(other) => {
            let other: String = other.chars().take(32).collect();
            let what = format!("its requests are laid out as {other:?}; {PROTOCOL:?} is served");
            return Err(Disconnect::Protocol(what));
        }
    }
    Ok(RingParameters {
        ring_refs: read_ring_refs(front_end)?,
        port: EventPort(front_end.required_number("event-channel")?),
        persistent_grants: front_end.flag("feature-persistent"),
    })
}

/// A ring of one page is `ring-ref`; of several, `ring-ref0` and so on, whose number is told in one of two ways.
fn read_ring_refs<H>(front_end: &FrontEnd<'_, H>) -> Result<Vec<GrantRef>, Disconnect> {
    let pages = match (front_end.number::<u32>("ring-page-order")?, front_end.number("num-ring-pages")?) {
        (Some(order), _) => 1u32.checked_shl(order).unwrap_or(u32::MAX),
        (None, Some(pages)) => pages,
        (None, None) => 1,
    };
    if !pages.is_power_of_two() || pages > MAX_RING_PAGES as u32 {
        return Err(Disconnect::Protocol(format!("its ring is said to have {pages} pages")));
    }
    if pages == 1 && front_end.text("ring-ref").is_some() {
        return Ok(vec![GrantRef(front_end.required_number("ring-ref")?)]);
    }
    if pages == 1 && front_end.text("ring-ref0").is_none() {
        return Err(Disconnect::Protocol("it has no node ring-ref".into()));
    }
    (0..pages).map(|page| front_end.required_number(&format!("ring-ref{page}")).map(GrantRef)).collect()
}
