//! An entry of a grant table that a borrower's vCPUs start and stop using, while the lender, a guest that runs, ends
//! the access, writes whatever it likes, or dies.

use backend_interface::host::Access;
use concurrency_tests::domain::grants::GrantTable;
use concurrency_tests::every_interleaving;
use concurrency_tests::lock::{Rank, Ranked};
use concurrency_tests::paging::Mmu;
use pv_abi::grant_table::GrantEntry;
use pv_abi::{DomId, GrantRef, Mfn};
use shuttle::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const LENDER: DomId = DomId(1);
const BORROWER: DomId = DomId(2);
const REFERENCE: GrantRef = GrantRef(0);
const TABLE: Mfn = Mfn(1);
const PAGE: Mfn = Mfn(7);
const MARKS: u32 = (GrantEntry::READING | GrantEntry::WRITING) as u32;

struct Scene {
    mmu: Mmu,
    table: Ranked<GrantTable>,
    /// The lender saw that its page is its own again.
    is_free: AtomicBool,
}

/// The lender lends its page.
fn scene() -> Arc<Scene> {
    let (mmu, mut table) = (Mmu::default(), GrantTable::default());
    table.grow(&mmu, LENDER, 1).unwrap();
    table.permit(&mmu, REFERENCE, BORROWER, PAGE).unwrap();
    Arc::new(Scene { mmu, table: Ranked::new(Rank::Grants, table), is_free: AtomicBool::new(false) })
}

impl Scene {
    fn word(&self) -> u64 {
        self.mmu.memory().load_u64(TABLE, 0).unwrap()
    }

    /// A vCPU of the borrower's starts to use the page, if it may.
    fn pin(&self, access: Access) -> Option<concurrency_tests::frame::Reference> {
        self.table.lock().pin(&self.mmu, LENDER, REFERENCE, BORROWER, access).ok()
    }

    fn unpin(&self, access: Access, held: concurrency_tests::frame::Reference) {
        self.mmu.release(held);
        self.table.lock().unpin(&self.mmu, REFERENCE, access);
    }

    /// It uses it for a moment, in which the lender must not think it free.
    fn use_once(&self, access: Access) -> bool {
        let Some(held) = self.pin(access) else { return false };
        assert!(!self.is_free.load(SeqCst), "the page is used, and its lender was told that it is free");
        self.unpin(access, held);
        true
    }

    /// The lender ends the access as Xen's guests do: its permission goes in one exchange unless it is in use.
    fn end_access(&self) -> bool {
        let seen = self.word() as u32;
        let ends = seen & MARKS == 0
            && self.mmu.memory().compare_exchange_u32(TABLE, 0, seen, u32::from(BORROWER.0) << 16).unwrap();
        if ends {
            self.is_free.store(true, SeqCst);
        }
        ends
    }

    /// Nobody uses anything any more.
    fn check_end(&self) {
        assert_eq!(self.word() as u32 & MARKS, 0, "the entry is marked for ever");
        assert_eq!(self.mmu.held.load(SeqCst), 0);
        assert!(self.table.lock().active().is_empty());
    }
}

/// XSA class "grant tables": an entry is marked in one exchange with what was checked.
#[test]
fn a_page_is_in_use_or_its_lenders_own() {
    every_interleaving("use and end of access", || {
        let scene = scene();
        let theirs = Arc::clone(&scene);
        let borrower = thread::spawn(move || theirs.use_once(Access::ReadWrite));
        let ended = scene.end_access();
        assert!(borrower.join().unwrap() || ended, "one of the two was first");
        scene.check_end();
    });
}

/// One vCPU stops using the entry while another starts: what the first takes back are not the marks of the second.
#[test]
fn the_end_of_one_use_leaves_the_marks_of_another() {
    every_interleaving("end of one use and start of another", || {
        let scene = scene();
        let first = scene.pin(Access::ReadWrite).unwrap();
        let (second, lender) = (Arc::clone(&scene), Arc::clone(&scene));
        let second = thread::spawn(move || {
            let Some(held) = second.pin(Access::ReadOnly) else { return };
            assert_eq!(
                second.word() as u16 & GrantEntry::READING,
                GrantEntry::READING,
                "used and not marked"
            );
            assert!(
                !second.is_free.load(SeqCst),
                "the page is used, and its lender was told that it is free"
            );
            second.unpin(Access::ReadOnly, held);
        });
        let lender = thread::spawn(move || lender.end_access());
        scene.unpin(Access::ReadWrite, first);
        second.join().unwrap();
        lender.join().unwrap();
        scene.check_end();
    });
}

/// A hostile lender writes over an entry in use, at any moment. What it wrote stays; of the old permission, nothing.
#[test]
fn what_a_lender_writes_meanwhile_stays_written() {
    every_interleaving("writing over an entry in use", || {
        let scene = scene();
        let theirs = Arc::clone(&scene);
        let borrower = thread::spawn(move || theirs.use_once(Access::ReadWrite));
        let written = u64::from(GrantEntry::READ_ONLY) | u64::from(LENDER.0) << 16 | 9 << 32;
        scene.mmu.memory().write(TABLE, 0, &written.to_le_bytes()).unwrap();
        borrower.join().unwrap();
        assert_eq!(scene.word(), written, "an old permission came back");
        scene.check_end();
    });
}

/// A borrower maps, the lender ends the access, and dies: from its end on nobody touches its table, which is somebody
/// else's by then, and what was in use then is given back all the same.
#[test]
fn nothing_is_written_for_a_lender_that_is_dead() {
    every_interleaving("use, end of access and death", || {
        let scene = scene();
        let (theirs, reaper) = (Arc::clone(&scene), Arc::clone(&scene));
        let borrower = thread::spawn(move || theirs.use_once(Access::ReadWrite));
        let death = thread::spawn(move || {
            reaper.end_access(); // its last act
            reaper.table.lock().close();
            reaper.mmu.memory().gone.store(true, SeqCst);
        });
        borrower.join().unwrap();
        death.join().unwrap();
        assert!(scene.pin(Access::ReadOnly).is_none(), "the dead lend nothing");
        assert_eq!(scene.mmu.held.load(SeqCst), 0);
        assert!(scene.table.lock().active().is_empty());
    });
}
