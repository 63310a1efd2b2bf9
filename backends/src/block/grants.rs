//! Pages of a front-end, mapped for its requests.

use crate::host::{Access, Host, HostError};
use pv_abi::{DomId, GrantRef};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Maps what requests name. A front-end that always uses the same pages may say so (`feature-persistent`): then they
/// stay mapped, for reading and writing, and at most so many of them as were agreed on.
pub(super) struct Grants<H: Host> {
    host: Arc<H>,
    domain: DomId,
    kept: Option<Kept<H::Page>>,
}

impl<H: Host> Grants<H> {
    /// Keeps up to `keep` pages mapped; none where that is 0.
    pub fn new(host: Arc<H>, domain: DomId, keep: usize) -> Self {
        Self { host, domain, kept: (keep != 0).then(|| Kept::new(keep)) }
    }

    pub fn map(&mut self, reference: GrantRef, access: Access) -> Result<Arc<H::Page>, HostError> {
        let map = |access| self.host.map_grant(self.domain, reference, access).map(Arc::new);
        let Some(kept) = &mut self.kept else { return map(access) };
        if let Some(page) = kept.get(reference) {
            return Ok(page);
        }
        match map(Access::ReadWrite) {
            Ok(page) => {
                kept.insert(reference, Arc::clone(&page));
                Ok(page)
            }
            // It was to be for both, but what is asked for now may be possible.
            Err(_) if access == Access::ReadOnly => map(access),
            Err(error) => Err(error),
        }
    }
}

/// Pages that stay mapped: those used lately, in two generations. When the young one has grown to half of what may be
/// kept, the old one is let go and the young one grows old; a page that is used is young again.
struct Kept<P> {
    young: References<P>,
    old: References<P>,
    half: usize,
}

/// A front-end that chooses references to collide makes its own requests slow.
type References<P> = FxHashMap<GrantRef, Arc<P>>;

impl<P> Kept<P> {
    fn new(limit: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), half: (limit / 2).max(1) }
    }

    fn get(&mut self, reference: GrantRef) -> Option<Arc<P>> {
        if let Some(page) = self.young.get(&reference) {
            return Some(Arc::clone(page));
        }
        let page = self.old.remove(&reference)?;
        self.insert(reference, Arc::clone(&page));
        Some(page)
    }

    fn insert(&mut self, reference: GrantRef, page: Arc<P>) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(reference, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;

    const GUEST: DomId = DomId(3);

    fn host(pages: u32) -> Arc<FakeHost> {
        let host = FakeHost::default();
        (0..pages).for_each(|number| drop(host.grant(GUEST, GrantRef(number))));
        Arc::new(host)
    }

    #[test]
    fn without_the_feature_nothing_stays_mapped() {
        let host = host(1);
        let mut grants = Grants::new(Arc::clone(&host), GUEST, 0);
        drop(grants.map(GrantRef(0), Access::ReadOnly).unwrap());
        assert_eq!(host.grant(GUEST, GrantRef(0)).times_mapped(), 0);
        assert!(grants.map(GrantRef(7), Access::ReadOnly).is_err());
    }

    #[test]
    fn pages_that_are_used_stay_mapped_and_there_is_a_limit() {
        let host = host(100);
        let mut grants = Grants::new(Arc::clone(&host), GUEST, 8);
        let mapped = |number| host.grant(GUEST, GrantRef(number)).times_mapped();
        for number in 0..100 {
            drop(grants.map(GrantRef(number), Access::ReadOnly).unwrap());
            drop(grants.map(GrantRef(0), Access::ReadWrite).unwrap());
            assert_eq!(mapped(0), 1, "used all the time");
            assert!((0..100).map(mapped).sum::<usize>() <= 8);
        }
        drop(grants);
        assert_eq!((0..100).map(mapped).sum::<usize>(), 0);
    }

    /// What is granted for reading only cannot be kept for both; it is mapped for each request then.
    #[test]
    fn a_page_for_reading_only_is_not_kept() {
        let host = host(1);
        host.restrict(GUEST, GrantRef(0));
        let mut grants = Grants::new(Arc::clone(&host), GUEST, 8);
        let page = grants.map(GrantRef(0), Access::ReadOnly).unwrap();
        assert!(grants.map(GrantRef(0), Access::ReadWrite).is_err());
        drop(page);
        assert_eq!(host.grant(GUEST, GrantRef(0)).times_mapped(), 0);
    }
}
