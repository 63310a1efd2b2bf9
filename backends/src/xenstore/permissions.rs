//! Who may do what with a node.

use super::Caller;
use pv_abi::{DomId, Errno};

/// What somebody may do with a node.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Access {
    /// Read its value, its children's names and its permissions.
    pub read: bool,
    /// Set its value, make nodes below it, remove it.
    pub write: bool,
}

impl Access {
    /// Neither reading nor writing.
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading the node, and not writing it.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing the node, and not reading it.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Reading and writing the node.
    pub const BOTH: Self = Self { read: true, write: true };

    fn parse(letter: u8) -> Option<Self> {
        Some(match letter {
            b'n' => Self::NONE,
            b'r' => Self::READ,
            b'w' => Self::WRITE,
            b'b' => Self::BOTH,
            _ => return None,
        })
    }

    fn letter(self) -> char {
        match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        }
    }
}

/// What an operation needs of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    Read,
    Write,
    /// To be its owner, or privileged.
    Own,
}

/// A node's permissions. On the wire these are strings: the first names the owner and what all others may; each that
/// follows names a domain and what that may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// May do everything, and pays for the node.
    pub owner: DomId,
    /// What everybody may that has no entry.
    pub others: Access,
    /// Domains of which something else is true. Of two entries for one domain the first counts.
    pub entries: Vec<(DomId, Access)>,
}

impl Permissions {
    /// All for `owner`, nothing for others.
    pub const fn private(owner: DomId) -> Self {
        Self { owner, others: Access::NONE, entries: Vec::new() }
    }

    /// The same, and `access` for `domain`.
    pub fn and(mut self, domain: DomId, access: Access) -> Self {
        self.entries.push((domain, access));
        self
    }

    pub(super) fn allow(&self, caller: Caller, need: Need) -> bool {
        let Caller::Domain(domain) = caller else { return true };
        if domain == self.owner {
            return true;
        }
        let entry = self.entries.iter().find(|(of, _)| *of == domain);
        let access = entry.map_or(self.others, |(_, access)| *access);
        match need {
            Need::Read => access.read,
            Need::Write => access.write,
            Need::Own => false,
        }
    }

    /// True where a domain is mentioned.
    pub(super) fn name(&self, domain: DomId) -> bool {
        self.owner == domain || self.entries.iter().any(|(of, _)| *of == domain)
    }

    /// Reads what a request carries: one string or more, a NUL behind each.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Errno> {
        let text = text.strip_suffix(&[0]).ok_or(Errno::EINVAL)?;
        let mut entries = text.split(|byte| *byte == 0).map(|entry| parse_entry(entry).ok_or(Errno::EINVAL));
        let (owner, others) = entries.next().ok_or(Errno::EINVAL)??;
        Ok(Self { owner, others, entries: entries.collect::<Result<_, _>>()? })
    }

    /// The owner, then the others: a letter and a number each, ended by a zero byte.
    pub(super) fn to_wire(&self) -> Vec<u8> {
        let all = [(self.owner, self.others)].into_iter().chain(self.entries.iter().copied());
        all.flat_map(|(domain, access)| format!("{}{}\0", access.letter(), domain.0).into_bytes()).collect()
    }
}

fn parse_entry(text: &[u8]) -> Option<(DomId, Access)> {
    let (letter, number) = text.split_first()?;
    Some((parse_domain(number)?, Access::parse(*letter)?))
}

/// Reads a domain's number.
pub(super) fn parse_domain(text: &[u8]) -> Option<DomId> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(DomId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_travel_as_strings() {
        let text = b"n5\0r0\0b65535\0w7\0";
        let permissions = Permissions::parse(text).unwrap();
        assert_eq!((permissions.owner, permissions.others), (DomId(5), Access::NONE));
        assert_eq!(permissions.entries[1], (DomId(65535), Access::BOTH));
        assert_eq!(permissions.to_wire(), text);
        for bad in
            [&b""[..], b"\0", b"n5", b"x5\0", b"n\0", b"n-1\0", b"n65536\0", b"n5\0\0", b"n5\0r\0", b"n+5\0"]
        {
            assert_eq!(Permissions::parse(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn the_owner_may_all_and_others_what_is_written() {
        let permissions = Permissions::parse(b"r5\0n6\0w7\0b6\0").unwrap();
        let may = |domain| {
            [Need::Read, Need::Write, Need::Own]
                .map(|need| permissions.allow(Caller::Domain(DomId(domain)), need))
        };
        assert_eq!(may(5), [true, true, true]);
        assert_eq!(may(6), [false, false, false], "the first entry counts");
        assert_eq!(may(7), [false, true, false]);
        assert_eq!(may(8), [true, false, false]);
        assert!(permissions.allow(Caller::Privileged, Need::Own));
    }
}
