//! `GNTTABOP_copy`.

use super::pair::Pair;
use crate::testing::page;
use pv_abi::DomId;
use pv_abi::grant_table::{CopyPointer, GrantCopy, GrantEntry, GrantStatus};

const FROM_GRANT: u16 = GrantCopy::SOURCE_GREF;
const TO_GRANT: u16 = GrantCopy::DEST_GREF;

fn side(domid: DomId, page: u64, offset: u16) -> CopyPointer {
    CopyPointer { page, domid, offset, padding: 0 }
}

fn copy(pair: &Pair, source: CopyPointer, dest: CopyPointer, len: u16, flags: u16) -> GrantStatus {
    pair.operate(5, GrantCopy { source, dest, len, flags, status: GrantStatus(77), padding: 0 }).status
}

#[test]
fn bytes_go_from_and_to_granted_pages() {
    let pair = Pair::new();
    let (id, memory) = (pair.lender.domain.id(), &pair.world.machine.memory);
    let own = |offset| side(DomId::SELF, pair.borrower.pages[5].0, offset);
    let reference = u64::from(pair.lend(0, 0));
    memory.write(pair.lent(0), 100, b"lent words").unwrap();
    assert_eq!(copy(&pair, side(id, reference, 100), own(4086), 10, FROM_GRANT), GrantStatus::OKAY);
    assert_eq!(pair.world.peek::<[u8; 10]>(&pair.borrower, page(5) + 4086), *b"lent words");
    assert_eq!(copy(&pair, own(4086), side(id, reference, 0), 4, TO_GRANT), GrantStatus::OKAY);
    let both = FROM_GRANT | TO_GRANT;
    assert_eq!(copy(&pair, side(id, reference, 0), side(id, reference, 50), 4, both), GrantStatus::OKAY);
    let mut read = [0; 4];
    memory.read(pair.lent(0), 50, &mut read).unwrap();
    assert_eq!(read, *b"lent");
    assert_eq!((pair.flags(0), pair.references(0)), (GrantEntry::PERMIT_ACCESS, 0), "nothing is in use");
    pair.end();
}

#[test]
fn what_is_not_the_borrowers_is_not_copied() {
    let pair = Pair::new();
    let id = pair.lender.domain.id();
    let own = side(DomId::SELF, pair.borrower.pages[5].0, 0);
    let reference = u64::from(pair.lend(0, GrantEntry::READ_ONLY));
    let lent = side(id, reference, 0);
    let cases = [
        (lent, own, 4097, FROM_GRANT, GrantStatus::BAD_COPY_ARG),
        (CopyPointer { offset: 4090, ..lent }, own, 7, FROM_GRANT, GrantStatus::BAD_COPY_ARG),
        (lent, CopyPointer { offset: u16::MAX, ..own }, 1, FROM_GRANT, GrantStatus::BAD_COPY_ARG),
        (own, lent, 4, TO_GRANT, GrantStatus::GENERAL_ERROR),
        (side(id, 3, 0), own, 4, FROM_GRANT, GrantStatus::GENERAL_ERROR),
        (side(id, 9999, 0), own, 4, FROM_GRANT, GrantStatus::BAD_GNTREF),
        (side(DomId(99), 0, 0), own, 4, FROM_GRANT, GrantStatus::BAD_DOMAIN),
        (side(id, pair.lender.pages[0].0, 0), own, 4, 0, GrantStatus::PERMISSION_DENIED),
        (own, side(DomId::HOST, 5, 0), 4, 0, GrantStatus::PERMISSION_DENIED),
        (side(DomId::SELF, pair.lender.pages[0].0, 0), own, 4, 0, GrantStatus::BAD_PAGE),
        (side(DomId::SELF, 3, 0), own, 4, 0, GrantStatus::BAD_PAGE),
        (own, side(pair.borrower.domain.id(), own.page, 9), 4, 0, GrantStatus::PERMISSION_DENIED),
        (own, side(DomId::SELF, pair.borrower.l1.0, 0), 4, 0, GrantStatus::GENERAL_ERROR),
        (own, side(DomId::SELF, u64::MAX, 0), 4, 0, GrantStatus::BAD_PAGE),
    ];
    for (n, (source, dest, len, flags, status)) in cases.into_iter().enumerate() {
        assert_eq!(copy(&pair, source, dest, len, flags), status, "case {n}");
        assert_eq!(pair.references(0), 0, "case {n}");
    }
    pair.audit();
    pair.end();
}
