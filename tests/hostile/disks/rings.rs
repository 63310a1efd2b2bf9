//! Rings whose indices lie, and rings that are not there: the back-end lets go, and says why.

use super::{ImageFile, honest, lend_what_is_nobodys};
use crate::served::{Served, ServedGuest};
use crate::support::check;
use crate::tiny_guest::Code;
use libtest_mimic::Failed;

/// What the disk's back-end says of itself in the store.
fn back_end(served: &Served, attacker: &ServedGuest, name: &str) -> String {
    let number = attacker.guest.domain.id().0;
    let value = served.store.read(&format!("/local/domain/0/backend/vbd/{number}/51712/{name}"));
    value.map_or_else(|error| error.to_string(), |value| String::from_utf8_lossy(&value).into())
}

/// Waits until the back-end has let go of the ring, and checks that it says why.
fn check_let_go(served: &Served, attacker: &ServedGuest, why: &str) -> Result<(), Failed> {
    const CLOSING: &str = "5";
    let let_go = attacker.guest.wait_for(|| back_end(served, attacker, "state") == CLOSING);
    let said = back_end(served, attacker, "error");
    let_go.map_err(|error| {
        format!("{why}: {error:?}; it is in state {}", back_end(served, attacker, "state"))
    })?;
    check(said.contains(why), || format!("{why}: {said}"))?;
    check(attacker.failures().len() == 1, || format!("{why}: {:?}", attacker.failures()))?;
    served.neighbour_goes_on()
}

/// After an honest request, the guest says that it has put more than the ring holds, or fewer than it had. The back-end
/// lets go of the ring.
pub fn lying() -> Result<(), Failed> {
    let (served, image) = (Served::new()?, ImageFile::new()?);
    for lie in [1 + 33, 1 << 31, 0, u32::MAX] {
        let mut code = Code::default();
        code.find_store().connect_disk().ask_disk(&honest()).await_disk();
        let attacker = served.build_with_disk(code.claim_requests(lie).park(), image.disk(true))?;
        attacker.guest.start()?;
        check_let_go(&served, &attacker, &format!("indices do not fit: produced {lie}, consumed 1"))?;
        let answered = attacker.guest.answers();
        check(answered.len() == 1, || format!("{answered:?}"))?;
        served.end(attacker)?;
    }
    image.is_unchanged()?;
    served.finish()
}

/// Words in the store that lead to no ring: pages and ports that are not the guest's to offer, and no numbers at all.
pub fn not_there() -> Result<(), Failed> {
    let (served, image) = (Served::new()?, ImageFile::new()?);
    for (ring_ref, port, why) in [
        ("11", "3", "grants no page by GrantRef(11)"),
        ("13", "3", "grants no page by GrantRef(13)"),
        ("14", "3", "grants no page by GrantRef(14)"),
        ("4294967295", "3", "grants no page by GrantRef(4294967295)"),
        ("4294967296", "3", "no number in range"),
        ("+8", "3", "no number in range"),
        ("8", "1", "EventPort(1)"),
        ("8", "4096", "EventPort(4096)"),
        ("8", "-1", "no number in range"),
    ] {
        let mut code = Code::default();
        let code = code.find_store().publish_disk(ring_ref, port).park();
        let attacker = served.build_with_disk(code, image.disk(true))?;
        lend_what_is_nobodys(&served, &attacker.guest)?;
        attacker.guest.start()?;
        check_let_go(&served, &attacker, why)?;
        served.end(attacker)?;
    }
    served.finish()
}
