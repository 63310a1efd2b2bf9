//! Segment descriptors: frames of them (`set_gdt`, `SET_LDT`) and single ones (`update_descriptor`).
//!
//! Guest code runs at CPL3 with flat 64-bit segments, so descriptors protect nothing but the hypervisor itself from
//! gates, task states and code that would run at another privilege.

use super::Mmu;
use crate::error::{Failure, Refusal};
use crate::frame::{Effect, FrameType, Operation, Reference, ReferenceKind};
use pv_abi::{DomId, Errno, Mfn, PAGE_SIZE};

const ACCESSED: u64 = 1 << 40;
const CONFORMING: u64 = 1 << 42;
const CODE: u64 = 1 << 43;
const NOT_SYSTEM: u64 = 1 << 44;
const DPL3: u64 = 3 << 45;
const PRESENT: u64 = 1 << 47;
const LONG: u64 = 1 << 53;
const DEFAULT_32: u64 = 1 << 54;

/// The descriptor as a pcpu may load it, if it may.
///
/// One that is not present may hold anything: loading it faults. A present one is code or data; its privilege level
/// becomes 3, where guest kernels run, too, and its accessed bit is set, so that the CPU has no reason to write it.
///
/// # Errors
/// EINVAL, with the reason.
pub const fn validate_descriptor(descriptor: u64) -> Result<u64, Refusal> {
    if descriptor & PRESENT == 0 {
        return Ok(descriptor);
    }
    if descriptor & NOT_SYSTEM == 0 {
        return Err(Refusal::new(Errno::EINVAL, "gates and system segments are the hypervisor's"));
    }
    if descriptor & CODE != 0 {
        if descriptor & CONFORMING != 0 {
            return Err(Refusal::new(Errno::EINVAL, "conforming code segments are not offered"));
        }
        if descriptor & (LONG | DEFAULT_32) == LONG | DEFAULT_32 {
            return Err(Refusal::new(Errno::EINVAL, "a code segment cannot be 64-bit and 32-bit"));
        }
    }
    Ok(descriptor | DPL3 | ACCESSED)
}

const MISSING: Refusal = Refusal::new(Errno::EINVAL, "the machine has no such frame");
const DESCRIPTORS: ReferenceKind = ReferenceKind::Typed(FrameType::Descriptors);

impl Mmu {
    /// Takes a reference to a frame of descriptors, all of which are checked first unless they are already. It
    /// goes back by [`Mmu::release`]. Whoever wants one that earlier calls may have left in use drains first.
    ///
    /// # Errors
    /// The guest's fault: the frame is not its own, is in use as something else, or a descriptor is bad.
    pub fn hold_descriptors(&self, domain: DomId, mfn: Mfn) -> Result<Reference, Failure> {
        self.with_space(domain, |space| {
            space.check_alive()?;
            let general = self.frames.get(domain, mfn)?;
            let taken = self.frames.apply(mfn, Operation::AcquireType(FrameType::Descriptors));
            let checked = match taken {
                Ok(Effect::Validate) => self.validate_descriptors(mfn),
                other => other.map(|_| ()),
            };
            match checked {
                Ok(()) => {
                    general.into_entry();
                    Ok(Reference::recall(mfn, DESCRIPTORS))
                }
                Err(refusal) => {
                    self.frames.put(general);
                    Err(refusal.into())
                }
            }
        })
    }

    /// Checks a frame that just took the type. On refusal it loses the type again.
    fn validate_descriptors(&self, mfn: Mfn) -> Result<(), Refusal> {
        for offset in (0..PAGE_SIZE).step_by(8) {
            if let Err(refusal) = self.validate_stored(mfn, offset) {
                self.frames.apply(mfn, Operation::Abandon)?;
                self.frames.apply(mfn, Operation::Devalidated)?;
                return Err(refusal);
            }
        }
        self.frames.apply(mfn, Operation::Validated).map(|_| ())
    }

    fn validate_stored(&self, mfn: Mfn, offset: usize) -> Result<(), Refusal> {
        let found = self.memory.load_u64(mfn, offset).map_err(|_| MISSING)?;
        let fixed = validate_descriptor(found)?;
        if fixed != found {
            self.memory.store_u64(mfn, offset, fixed).map_err(|_| MISSING)?;
        }
        Ok(())
    }

    /// Sets one descriptor, by its machine address. Says whether the frame is in use as descriptors: then the
    /// domain's vCPUs have to load them anew.
    ///
    /// # Errors
    /// The guest's fault: the frame is not its own, or a table, or the descriptor is bad.
    pub fn update_descriptor(
        &self,
        domain: DomId,
        machine_address: u64,
        descriptor: u64,
    ) -> Result<bool, Failure> {
        self.with_space(domain, |space| {
            space.check_alive()?;
            if !machine_address.is_multiple_of(8) {
                return Err(Refusal::new(Errno::EINVAL, "a descriptor's address is a multiple of 8").into());
            }
            let fixed = validate_descriptor(descriptor)?;
            let mfn = Mfn::containing(machine_address);
            let general = self.frames.get(domain, mfn)?;
            let in_use = self.frames.word(mfn).kind == FrameType::Descriptors;
            let held = if in_use { general } else { self.frames.into_writable(general)? };
            let stored = self.memory.store_u64(mfn, machine_address as usize & (PAGE_SIZE - 1), fixed);
            self.release(held);
            stored.map_err(|_| MISSING)?;
            Ok(in_use)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE64: u64 = 0x00af_fb00_0000_ffff;
    const DATA: u64 = 0x00cf_f300_0000_ffff;

    #[test]
    fn flat_segments_pass_and_get_privilege_3() {
        assert_eq!(validate_descriptor(CODE64), Ok(CODE64));
        assert_eq!(validate_descriptor(DATA), Ok(DATA));
        let kernel_code = 0x00af_9a00_0000_ffff;
        assert_eq!(validate_descriptor(kernel_code), Ok(CODE64), "DPL 0 as guest kernels write it");
        assert_eq!(validate_descriptor(0), Ok(0));
    }

    #[test]
    fn every_system_type_is_refused_while_present() {
        for kind in 0..16_u64 {
            let system = CODE64 & !(0x1f << 40) | kind << 40;
            assert!(validate_descriptor(system).is_err(), "type {kind}");
            assert_eq!(validate_descriptor(system & !PRESENT), Ok(system & !PRESENT));
        }
    }

    #[test]
    fn conforming_and_contradictory_code_is_refused() {
        assert!(validate_descriptor(CODE64 | CONFORMING).is_err());
        assert!(validate_descriptor(CODE64 | DEFAULT_32).is_err());
        assert_eq!(validate_descriptor(DATA | CONFORMING), Ok(DATA | CONFORMING), "data that expands down");
    }
}
