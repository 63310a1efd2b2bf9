//! Guests that map what nobody lends them, or go on using what was lent when the lender is gone.

use crate::support::{check, kvm_test};
use crate::tiny_guest::{Code, Condition, Host, Reg, SCRATCH, TABLE, check_power_off};
use libtest_mimic::{Failed, Trial};
use pv_abi::grant_table::{GrantHandle, GrantStatus, MapFlags, MapGrantRef};
use pv_abi::hypercall::HypercallNumber as N;
use pv_abi::page_table::Level;
use pv_abi::{DomId, GrantRef, Mfn};

pub fn tests() -> Vec<Trial> {
    vec![
        kvm_test("grants/what nobody lends", what_nobody_lends),
        kvm_test("grants/a lender that dies", a_lender_that_dies),
    ]
}

/// Where mappings are asked for: an ordinary page of the guest's.
const WINDOW: u64 = TABLE + 0x1000;
const BYTES: u64 = size_of::<MapGrantRef>() as u64;

fn request(dom: DomId, reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    let (status, handle) = (GrantStatus(0), GrantHandle(0));
    MapGrantRef { host_addr, flags, reference: GrantRef(reference), dom, status, handle, dev_bus_addr: 0 }
}

/// XSA class "grant tables": other domains' entries, own entries for frames that are not the guest's or that nobody may
/// write, places that are no entries of its tables. Each is refused, and nothing is mapped.
fn what_nobody_lends() -> Result<(), Failed> {
    let host = Host::new()?;
    let canary = host.canary();
    let mut code = Code::default();
    const ATTEMPTS: usize = 24;
    for attempt in 0..ATTEMPTS as u64 {
        let at = SCRATCH + attempt * BYTES;
        code.hypercall(N::GRANT_TABLE_OP, &[0, at, 1]).say().load(Reg::Rax, at + 16).say();
    }
    code.power_off();
    let guest = host.build(&code)?;
    let own = guest.domain.id();
    let unlendable = [
        ("the canary's page", canary.frames()[100]),
        ("the canary's root table", canary.built.root),
        ("the hypervisor's stub", Mfn(4)),
        ("the M2P", Mfn(host.hypervisor.services().mmu.layout().m2p.start)),
        ("its own root table, to write", guest.built.root),
        ("its own L1 table, to write", guest.table(Level::L1, WINDOW)),
        ("no frame", Mfn(0xffff_ffff)),
    ];
    let mut wanted = Vec::new();
    for (reference, (what, mfn)) in (8..).zip(unlendable) {
        guest.lend(reference, own, mfn)?;
        wanted.push((what.to_owned(), request(own, reference, MapFlags::HOST_MAP, WINDOW)));
    }
    for reference in [0, 1, 2, 511, 512, u32::MAX] {
        let what = format!("entry {reference} of the canary's");
        wanted.push((what, request(canary.domain.id(), reference, MapFlags::HOST_MAP, WINDOW)));
    }
    // A page of its own may be lent to itself, but not mapped just anywhere.
    guest.lend(3, own, guest.mfn(TABLE))?;
    let places = [
        ("the canary's L1 table", canary.table(Level::L1, WINDOW).address() + 8 * 400),
        ("the canary's page", canary.frames()[100].address()),
        ("its own root table", guest.built.root.address() + 8 * 300),
        ("its own page", guest.mfn(TABLE).address()),
        ("the hypervisor's tables", Mfn(3).address()),
        ("half an entry", guest.table(Level::L1, WINDOW).address() + 4),
        ("no memory", !7),
    ];
    let contains_pte = MapFlags::HOST_MAP | MapFlags::CONTAINS_PTE;
    for (what, at) in places {
        wanted.push((format!("an entry in {what}"), request(own, 3, contains_pte, at)));
    }
    for at in [0xffff_8000_0000_0000, 0xffff_8080_0000_0000, 0x8000_0000_0000, 0x1000] {
        wanted.push((format!("at {at:#x}"), request(own, 3, MapFlags::HOST_MAP, at)));
    }
    check(wanted.len() == ATTEMPTS, || format!("{} attempts", wanted.len()))?;
    for (place, (_, request)) in (0..).zip(&wanted) {
        guest.poke(SCRATCH + place * BYTES, request);
    }
    guest.start()?;
    check_power_off(&guest.wait()?)?;
    for ((what, _), said) in wanted.iter().zip(guest.said().chunks(2)) {
        let [returned, answer] = said else { return Err("it said too little".into()) };
        let status = (answer >> 16) as i16;
        check(*returned == 0 && status < 0, || format!("{what}: {returned:#x}, status {status}"))?;
    }
    check(guest.said().len() == 2 * ATTEMPTS, || "an answer is missing".into())?;
    host.finish()
}

/// XSA class "freed before the last mapping is gone": the lender dies while another writes its page without pause. The
/// page is nobody else's until the borrower has died, too.
fn a_lender_that_dies() -> Result<(), Failed> {
    let host = Host::new()?;
    let lender = host.build(Code::default().park())?;
    lender.start()?;
    lender.wait_until_parked()?;
    let mut code = Code::default();
    code.hypercall(N::GRANT_TABLE_OP, &[0, SCRATCH, 1]).load(Reg::Rax, SCRATCH + 16).say();
    let again = code.here();
    code.increment(WINDOW).jump(Condition::Always, again);
    let borrower = host.build(&code)?;
    let lent = lender.mfn(TABLE);
    lender.lend(3, borrower.domain.id(), lent)?;
    borrower.poke(SCRATCH, &request(lender.domain.id(), 3, MapFlags::HOST_MAP, WINDOW));
    borrower.start()?;
    borrower.wait_for(|| lender.peek(TABLE) > 1000)?;
    lender.destroy()?;
    let mmu = &host.hypervisor.services().mmu;
    check(mmu.owner(lent) == Some(lender.domain.id()), || format!("it is {:?}'s", mmu.owner(lent)))?;
    // Others come and go, on all frames that are free, and none of them gets it.
    for _ in 0..3 {
        let heir = host.build(Code::default().park())?;
        check(!heir.frames().contains(&lent), || "another domain has the page".into())?;
        heir.destroy()?;
    }
    let before = lender.peek(TABLE);
    borrower.wait_for(|| lender.peek(TABLE) > before)?;
    borrower.destroy()?;
    check(mmu.owner(lent).is_none(), || "it was not given back".into())?;
    host.finish()
}
