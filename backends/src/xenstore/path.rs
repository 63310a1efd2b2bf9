//! Names of nodes.

use super::Caller;
use pv_abi::io::xenstore::{ABS_PATH_MAX, REL_PATH_MAX};
use pv_abi::{DomId, Errno};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a node: an absolute path, or a special name, which starts with `@`.
///
/// Segments consist of letters, digits and `-_@`; none is empty, and but for `/` itself no path ends in a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Path(Arc<str>);

impl Path {
    /// Reads a path as a client writes it. A relative one starts at the home of the domain that wrote it; who is no
    /// domain has none.
    ///
    /// # Errors
    /// EINVAL where that is no path, or too long a one.
    pub fn parse(caller: Caller, text: &[u8]) -> Result<Self, Errno> {
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        match (text.as_bytes().first(), caller) {
            (None, _) => Err(Errno::EINVAL),
            (Some(b'/'), _) => Self::absolute(text),
            (Some(b'@'), _) => Self::special(text),
            (Some(_), Caller::Domain(domain)) if text.len() <= REL_PATH_MAX as usize => {
                Self::absolute(&format!("{}/{text}", Self::home(domain)))
            }
            (Some(_), _) => Err(Errno::EINVAL),
        }
    }

    /// Where relative paths of a domain start.
    pub fn home(domain: DomId) -> Self {
        Self(format!("/local/domain/{}", domain.0).into())
    }

    pub(super) fn root() -> Self {
        Self("/".into())
    }

    /// One of a path's [`Self::lineage`].
    pub(super) fn from_part(part: &str) -> Self {
        Self(part.into())
    }

    /// A special name that is a node.
    pub(super) fn special_node(name: &str) -> Self {
        Self(name.into())
    }

    fn absolute(text: &str) -> Result<Self, Errno> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_@".contains(&c);
        let segment = |segment: &str| !segment.is_empty() && segment.bytes().all(allowed);
        let fine = text == "/" || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
        if fine && text.len() <= ABS_PATH_MAX as usize { Ok(Self(text.into())) } else { Err(Errno::EINVAL) }
    }

    /// A special name may have any syntax; it is watched, and names no node but for the two that there are.
    fn special(text: &str) -> Result<Self, Errno> {
        if text.len() <= REL_PATH_MAX as usize { Ok(Self(text.into())) } else { Err(Errno::EINVAL) }
    }

    /// True of a special name.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The absolute path, or the special name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path above, and the last segment; none of `/` and of special names.
    pub(super) fn split(&self) -> Option<(Self, Arc<str>)> {
        let split = self.0.rsplit_once('/').filter(|(_, leaf)| !leaf.is_empty() && !self.is_special());
        let (parent, leaf) = split?;
        Some((Self(if parent.is_empty() { "/" } else { parent }.into()), leaf.into()))
    }

    /// This path with another segment.
    pub(super) fn child(&self, leaf: &str) -> Self {
        let parent = if &*self.0 == "/" { "" } else { &self.0 };
        Self(format!("{parent}/{leaf}").into())
    }

    /// `/`, the paths below it, and this one last; of a special name just that.
    pub(super) fn lineage(&self) -> impl DoubleEndedIterator<Item = &str> {
        let root = (!self.is_special() && &*self.0 != "/").then_some("/");
        let ends = self.0.match_indices('/').map(|(at, _)| at).filter(|at| *at != 0);
        let ends = ends.filter(|_| !self.is_special());
        root.into_iter().chain(ends.filter_map(|end| self.0.get(..end))).chain([&*self.0])
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Caller = Caller::Domain(DomId(7));

    fn parse(caller: Caller, text: &str) -> Option<String> {
        Path::parse(caller, text.as_bytes()).ok().map(|path| path.to_string())
    }

    #[test]
    fn relative_paths_start_at_the_callers_home() {
        assert_eq!(parse(GUEST, "device/vbd").as_deref(), Some("/local/domain/7/device/vbd"));
        assert_eq!(parse(GUEST, "/device").as_deref(), Some("/device"));
        assert_eq!(parse(Caller::Privileged, "device"), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in
            ["", "//", "/a/", "/a//b", "a/", "/local/domain/", "/a b", "/a.b", "/a\0", "/\u{e4}", "a\n"]
        {
            assert_eq!(parse(GUEST, text), None, "{text:?}");
        }
        assert!(Path::parse(GUEST, b"/\xff").is_err());
        for text in ["/", "/a", "/A-_@9/0", "@releaseDomain", "@any thing/", "@"] {
            assert_eq!(parse(GUEST, text).as_deref(), Some(text));
        }
    }

    #[test]
    fn paths_have_a_longest_length() {
        let text = |length: usize| "a".repeat(length);
        for (longest, prefix) in [(3072, "/"), (2048, ""), (2048, "@")] {
            let fits = format!("{prefix}{}", text(longest - prefix.len()));
            assert!(parse(GUEST, &fits).is_some());
            assert_eq!(parse(GUEST, &format!("{fits}a")), None);
        }
    }

    #[test]
    fn a_path_knows_those_above_it() {
        let lineage =
            |text| Path::parse(GUEST, text).unwrap().lineage().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lineage(b"/a/b/c"), ["/", "/a", "/a/b", "/a/b/c"]);
        assert_eq!(lineage(b"/"), ["/"]);
        assert_eq!(lineage(b"@a/b"), ["@a/b"]);
        let split =
            |text| Path::parse(GUEST, text).unwrap().split().map(|(path, leaf)| (path.to_string(), leaf));
        assert_eq!(split(b"/a/b"), Some(("/a".into(), "b".into())));
        assert_eq!(split(b"/a"), Some(("/".into(), "a".into())));
        assert_eq!((split(b"/"), split(b"@a/b")), (None, None));
    }
}
