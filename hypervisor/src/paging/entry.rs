//! What an entry may say, before anybody looks at the frame that it names. Pure functions.

use crate::error::Refusal;
use pv_abi::Errno;
use pv_abi::page_table::{Level, Pte, PteFlags};

/// Bits that allow nothing: changing them needs no new references. An allow-list, on purpose (XSA-148, XSA-182).
const BOOKKEEPING: PteFlags = PteFlags::ACCESSED.union(PteFlags::DIRTY).union(AVAILABLE);

const AVAILABLE: PteFlags =
    PteFlags::AVAIL0.union(PteFlags::AVAIL1).union(PteFlags::AVAIL2).union(PteFlags::AVAIL_HIGH);

/// Cleared from every present entry: memory is cached write-back whatever a guest says (XSA-402), and no
/// translation outlives the load of another root.
const IGNORED: PteFlags = PteFlags::WRITE_THROUGH.union(PteFlags::CACHE_DISABLE).union(PteFlags::GLOBAL);

/// The entry as it will stand in the table, if entries of this level may look like that.
///
/// An entry that is not present may hold anything. A present one gets the user bit, as on Xen, since guest kernels
/// run at CPL3. A frame number that the machine does not have (so, any address bit above the machine's physical
/// addresses) is refused where the frame is looked up.
///
/// # Errors
/// EINVAL, with the reason.
pub(super) fn admit(level: Level, entry: Pte) -> Result<Pte, Refusal> {
    if !entry.is_present() {
        return Ok(entry);
    }
    let flags = entry.flags();
    if flags.intersects(PteFlags::PROTECTION_KEY) {
        return Err(Refusal::new(Errno::EINVAL, "protection keys are not offered"));
    }
    let ignored = match level {
        Level::L1 => IGNORED.union(PteFlags::PAGE_SIZE_OR_PAT),
        Level::L2 | Level::L3 if flags.contains(PteFlags::PAGE_SIZE_OR_PAT) => {
            return Err(Refusal::new(Errno::EINVAL, "large pages are not offered"));
        }
        Level::L4 if flags.contains(PteFlags::PAGE_SIZE_OR_PAT) => {
            return Err(Refusal::new(Errno::EINVAL, "a reserved bit is set"));
        }
        _ => IGNORED,
    };
    Ok(Pte(entry.0 & !ignored.bits() | PteFlags::USER.bits()))
}

/// Whether a present entry goes on allowing exactly what it allowed.
pub(super) const fn is_bookkeeping(old: Pte, new: Pte) -> bool {
    old.is_present() && new.is_present() && (old.0 ^ new.0) & !BOOKKEEPING.bits() == 0
}

/// Whether somebody may still use what `old` said and `new` does not. A cleared accessed or dirty bit counts: a
/// pcpu that has the translation would not set it again.
pub(super) const fn needs_settling(old: Pte, new: Pte) -> bool {
    old.is_present() && (old.0 ^ new.0) & !AVAILABLE.bits() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::Mfn;

    const PRESENT: u64 = 1;

    #[test]
    fn an_entry_that_is_not_present_may_hold_anything() {
        for level in Level::ALL {
            assert_eq!(admit(level, Pte(u64::MAX - 1)), Ok(Pte(u64::MAX - 1)));
        }
    }

    /// XSA class "recursive and large page tables", and reserved bits.
    #[test]
    fn large_pages_reserved_bits_and_protection_keys_are_refused() {
        for level in [Level::L2, Level::L3] {
            assert_eq!(admit(level, Pte(0x81)).unwrap_err().why, "large pages are not offered");
        }
        assert_eq!(admit(Level::L4, Pte(0x81)).unwrap_err().why, "a reserved bit is set");
        for bit in 59..63 {
            assert!(admit(Level::L1, Pte(PRESENT | 1 << bit)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn present_entries_are_user_cached_and_not_global() {
        for level in Level::ALL {
            assert_eq!(admit(level, Pte(0x11b | 1 << 63)), Ok(Pte(0x7 | 1 << 63)));
        }
        assert_eq!(admit(Level::L1, Pte(0x81)), Ok(Pte(0x5)), "the PAT bit selects no other type");
    }

    /// XSA-148 and XSA-182: of all 64 bits, exactly the bookkeeping ones may change on the fast path.
    #[test]
    fn the_fast_path_allows_bookkeeping_bits_only() {
        let entry = Pte::new(Mfn(5), PteFlags::PRESENT | PteFlags::USER);
        let allowed: Vec<u32> =
            (0..64).filter(|&bit| is_bookkeeping(entry, Pte(entry.0 ^ 1 << bit))).collect();
        assert_eq!(allowed, [5, 6, 9, 10, 11, 52, 53, 54, 55, 56, 57, 58]);
        let settled: Vec<u32> =
            (0..64).filter(|&bit| !needs_settling(entry, Pte(entry.0 ^ 1 << bit))).collect();
        assert_eq!(settled, [9, 10, 11, 52, 53, 54, 55, 56, 57, 58]);
        assert!(!needs_settling(Pte(0), entry), "what was not present was not cached");
    }
}
