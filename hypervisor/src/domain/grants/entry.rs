//! What an entry of a grant table allows. Pure functions on a copy of the entry.

use crate::error::Refusal;
use backend_interface::host::Access;
use pv_abi::grant_table::{GrantEntry, GrantStatus};
use pv_abi::{DomId, Errno};

/// The bits of an entry that is in use like this.
pub(super) const fn in_use(access: Access) -> u16 {
    match access {
        Access::ReadOnly => GrantEntry::READING,
        Access::ReadWrite => GrantEntry::READING | GrantEntry::WRITING,
    }
}

/// The flags of `entry` once `by` uses it so, if the entry allows that.
///
/// # Errors
/// Xen's status where it does not.
pub(super) fn permit(entry: GrantEntry, by: DomId, access: Access) -> Result<u16, GrantStatus> {
    let permits = entry.flags & GrantEntry::TYPE_MASK == GrantEntry::PERMIT_ACCESS && entry.domid == by.0;
    let is_read_only = entry.flags & GrantEntry::READ_ONLY != 0;
    if !permits || access.is_writable() && is_read_only {
        return Err(GrantStatus::GENERAL_ERROR);
    }
    Ok(entry.flags | in_use(access))
}

/// Xen's status for a frame that cannot be used: it is not what may be written, or not what may be used at all.
pub fn status_of(refusal: Refusal) -> GrantStatus {
    match refusal.errno {
        Errno::EBUSY => GrantStatus::GENERAL_ERROR,
        _ => GrantStatus::BAD_PAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: DomId = DomId(7);

    /// Of all flags: exactly a permission, for the right domain, and no writing where it is for reading only.
    #[test]
    fn only_a_permission_permits() {
        for flags in 0..=u16::MAX {
            let entry = GrantEntry { flags, domid: BY.0, frame: 1 };
            let permits = flags & 3 == 1;
            assert_eq!(permit(entry, BY, Access::ReadOnly).is_ok(), permits, "{flags:#x}");
            assert_eq!(permit(entry, BY, Access::ReadWrite).is_ok(), permits && flags & 4 == 0, "{flags:#x}");
            assert!(permit(entry, DomId(8), Access::ReadOnly).is_err(), "{flags:#x}");
        }
    }

    #[test]
    fn what_is_in_use_is_marked_and_the_rest_stays() {
        let entry = GrantEntry { flags: 0xff01, domid: BY.0, frame: 1 };
        assert_eq!(permit(entry, BY, Access::ReadOnly), Ok(0xff09));
        assert_eq!(permit(entry, BY, Access::ReadWrite), Ok(0xff19));
    }
}
