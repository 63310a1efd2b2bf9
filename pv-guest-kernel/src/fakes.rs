//! What stands in for the hypervisor in tests of the front-ends, and the back-end's view of what they share. A test runs on
//! a thread of its own, and so does its world.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use pv_abi::PAGE_SIZE;

thread_local! {
    /// Pages by the number under which the other end knows them: a grant reference, or a frame.
    static PAGES: RefCell<BTreeMap<u32, memory::SharedPage>> = const { RefCell::new(BTreeMap::new()) };
    /// Pages that are still lent, and all that ever were.
    static LENT: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
    static NOTIFIED: Cell<u32> = const { Cell::new(0) };
}

/// A page as the other end has it mapped.
pub fn page(number: u32) -> memory::SharedPage {
    PAGES.with_borrow_mut(|pages| pages.entry(number).or_default().clone())
}

/// How many pages are lent.
pub fn lent() -> usize {
    LENT.get().0
}

/// How often the other end was notified.
pub fn notified() -> u32 {
    NOTIFIED.get()
}

pub mod memory {
    use super::*;

    /// A page that both ends reach, byte by byte.
    #[derive(Clone)]
    pub struct SharedPage(Rc<[AtomicU32; PAGE_SIZE / 4]>);

    impl Default for SharedPage {
        fn default() -> Self {
            Self(Rc::new([const { AtomicU32::new(0) }; PAGE_SIZE / 4]))
        }
    }

    impl SharedPage {
        /// The page of that number.
        #[allow(unsafe_code, reason = "as in the kernel")]
        pub unsafe fn at(address: u64) -> Self {
            page(address as u32)
        }

        pub fn word(&self, offset: usize) -> &AtomicU32 {
            assert!(offset.is_multiple_of(4));
            &self.0[offset / 4]
        }

        pub fn read(&self, offset: usize, into: &mut [u8]) {
            for (at, byte) in (offset..).zip(into) {
                *byte = self.0[at / 4].load(Ordering::SeqCst).to_le_bytes()[at % 4];
            }
        }

        pub fn write(&self, offset: usize, from: &[u8]) {
            for (at, byte) in (offset..).zip(from) {
                let mut bytes = self.0[at / 4].load(Ordering::SeqCst).to_le_bytes();
                bytes[at % 4] = *byte;
                self.0[at / 4].store(u32::from_le_bytes(bytes), Ordering::SeqCst);
            }
        }
    }

    pub mod linear {
        pub fn address(pfn: u64) -> u64 {
            pfn
        }
    }

    pub mod translation {
        pub fn pfn(frame: pv_abi::Mfn) -> Option<u64> {
            Some(frame.0)
        }
    }
}

pub mod grant {
    use super::*;
    use pv_abi::ring::RingMemory;
    use pv_abi::{DomId, Errno, GrantRef};

    #[derive(Debug)]
    pub enum Error {
        Refused(#[allow(dead_code, reason = "only shown")] Errno),
    }

    impl std::fmt::Display for Error {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    /// A page that the other end reaches under the number that it was told, also when it should not any more.
    pub struct Grant(GrantRef, memory::SharedPage);

    impl Grant {
        pub fn new(_: DomId) -> Result<Self, Error> {
            let (lent, ever) = LENT.get();
            LENT.set((lent + 1, ever + 1));
            Ok(Self(GrantRef(ever + 8), page(ever + 8)))
        }

        pub fn reference(&self) -> GrantRef {
            self.0
        }

        pub fn page(&self) -> &memory::SharedPage {
            &self.1
        }
    }

    impl Drop for Grant {
        fn drop(&mut self) {
            let (lent, ever) = LENT.get();
            LENT.set((lent - 1, ever));
        }
    }

    impl RingMemory for Grant {
        type Error = std::convert::Infallible;

        fn load_u32(&self, offset: usize) -> Result<u32, Self::Error> {
            Ok(self.1.word(offset).load(Ordering::SeqCst))
        }

        fn store_u32(&self, offset: usize, value: u32) -> Result<(), Self::Error> {
            self.1.word(offset).store(value, Ordering::SeqCst);
            Ok(())
        }

        fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), Self::Error> {
            self.1.read(offset, into);
            Ok(())
        }

        fn write(&self, offset: usize, from: &[u8]) -> Result<(), Self::Error> {
            self.1.write(offset, from);
            Ok(())
        }
    }
}

pub mod event {
    use super::*;
    use pv_abi::{DomId, Errno, EventPort};

    pub struct Port;

    pub fn alloc_unbound(_: DomId) -> Result<Port, Errno> {
        Ok(Port)
    }

    impl Port {
        pub fn number(&self) -> EventPort {
            EventPort(5)
        }

        pub fn use_doorbell(&self) {}

        pub fn notify(&self) {
            NOTIFIED.set(NOTIFIED.get() + 1);
        }

        /// The tests call what an event would wake.
        pub async fn wait(&self) {
            std::future::pending().await
        }
    }
}

pub mod executor {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Runs what is ready at its first poll. Panics where it waits: a test has nobody who would wake it.
    pub fn block_on<T>(work: impl Future<Output = T>) -> T {
        match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    /// Whoever waits is polled by the test.
    pub fn spawn(_: &str, work: impl Future<Output = ()> + 'static) {
        drop(work);
    }
}

pub mod idle {
    /// Has the functions of the kernel's own trait `sched::idle::Source`.
    pub trait Source {
        fn look(&self) -> bool;
        fn expects(&self) -> bool;
        fn ask(&self) -> bool;
    }

    thread_local! {
        static SOURCES: super::RefCell<Vec<std::rc::Weak<dyn Source>>> = const { super::RefCell::new(Vec::new()) };
    }

    pub fn add(source: std::rc::Weak<dyn Source>) {
        SOURCES.with_borrow_mut(|sources| sources.push(source));
    }

    /// What the kernel does when no task is ready: looks, then asks for events. True where that was anything.
    pub fn rest() -> bool {
        let sources =
            SOURCES.with_borrow(|sources| sources.iter().filter_map(|it| it.upgrade()).collect::<Vec<_>>());
        sources.iter().fold(false, |any, source| (source.expects() && source.look()) | source.ask() | any)
    }
}
